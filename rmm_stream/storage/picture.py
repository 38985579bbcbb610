"""Masks as a picture: one colour per reason, each module in its place of a grid, a legend with counts.

Pixels are enlarged by whole factors and never shrunk, so a single bad pixel stays visible. Knows nothing of fits.
"""

import io
import math
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..mask import BadPixel, Mask
from .atomic import replace_file

#: Colour and words of each flag, after Okabe and Ito (2008): told apart with any kind of colour vision.
#: A pixel with several flags gets the first colour of this list that applies.
REASONS = (
    (BadPixel.OFFSET, "offset", (213, 94, 0)),
    (BadPixel.NOISE, "noise", (0, 114, 178)),
    (BadPixel.LIT_SNR, "lit SNR", (0, 158, 115)),
    (BadPixel.GAIN_SEPARATION, "gain separation", (204, 121, 167)),
    (BadPixel.GAIN_LEVEL, "gain level", (230, 159, 0)),
    (BadPixel.USER, "user, static", (86, 180, 233)),
    (BadPixel.NO_DATA, "no data", (90, 90, 90)),
    (BadPixel.EDGE, "edge", (208, 208, 208)),
)
GOOD = (255, 255, 255)
PAPER = (244, 244, 242)
INK = (32, 32, 32)
FAINT = (150, 150, 150)

MARGIN = 16  # picture pixels
ENLARGED = 1100  # picture pixels: small modules are enlarged until one more step would pass this
LEGEND = 240
TEXT = 14


def colours(flags: NDArray) -> NDArray:
    """(ss, fs) uint8 flags -> (ss, fs, 3) uint8 RGB."""
    table = np.empty((256, 3), np.uint8)
    table[:] = GOOD
    for flag, _, colour in reversed(REASONS):
        table[np.arange(256) & int(flag) != 0] = colour
    return table[flags]


def draw(masks: Sequence[Mask], title: str) -> Image.Image:
    """The collapsed masks of some modules, slow scan downwards, fast scan to the right, with title and legend."""
    flags = [mask.collapse() for mask in masks]
    ss, fs = flags[0].shape
    columns = _columns(len(masks), ss, fs)
    rows = math.ceil(len(masks) / columns)
    scale = max(1, ENLARGED // max(rows * ss, columns * fs))
    label = TEXT + 6 if len(masks) > 1 else 0
    cell_h, cell_w = ss * scale + label + MARGIN, fs * scale + MARGIN
    top = MARGIN + 2 * TEXT
    lines = 4 + len(REASONS)
    left = MARGIN + columns * cell_w
    height = max(top + rows * cell_h, top + lines * (TEXT + 8) + MARGIN)
    picture = Image.new("RGB", (left + LEGEND, height), PAPER)
    pen = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(TEXT + 4), ImageFont.load_default(TEXT)
    pen.text((MARGIN, MARGIN // 2), title, INK, large)
    for i, (mask, module) in enumerate(zip(masks, flags)):
        y, x = top + i // columns * cell_h, MARGIN + i % columns * cell_w
        if label:
            pen.text((x, y), f"module {mask.module}", INK, small)
        image = Image.fromarray(colours(module)).resize((fs * scale, ss * scale), Image.Resampling.NEAREST)
        pen.rectangle((x - 1, y + label - 1, x + fs * scale, y + label + ss * scale), outline=FAINT)
        picture.paste(image, (x, y + label))
    _legend(pen, left, top, masks, flags, small)
    return picture


def png(masks: Sequence[Mask], title: str) -> bytes:
    """`draw` as the bytes of a PNG file."""
    buffer = io.BytesIO()
    draw(masks, title).save(buffer, "PNG")
    return buffer.getvalue()


def write_picture(path: str | os.PathLike, masks: Sequence[Mask], title: str) -> None:
    """Replace the PNG file at `path`. Raises OSError where it cannot be written."""
    data = png(masks, title)
    with replace_file(path) as aside:
        aside.write_bytes(data)


def _columns(modules: int, ss: int, fs: int) -> int:
    """How many modules side by side make the picture nearest to 4:3; only the last row may be short, by a little."""

    def distance(rows: int) -> float:
        columns = math.ceil(modules / rows)
        empty = rows * columns - modules
        return abs(math.log(columns * fs / (rows * ss) * 3 / 4)) + empty / modules

    return math.ceil(modules / min(range(1, modules + 1), key=distance))


def _legend(
    pen: ImageDraw.ImageDraw, left: int, top: int, masks: Sequence[Mask], flags: Sequence[NDArray], font
) -> None:
    """Reasons with the number of pixels that carry each; a pixel may count for several."""
    pixels = np.concatenate([f.ravel() for f in flags])
    right, step = left + LEGEND - MARGIN, TEXT + 8
    y = top

    def line(text: str, count: str, colour=None) -> None:
        nonlocal y
        if colour:
            pen.rectangle((left, y + 1, left + TEXT, y + 1 + TEXT), fill=colour, outline=FAINT)
        pen.text((left + TEXT + 8 if colour else left, y), text, INK, font)
        pen.text((right, y), count, INK, font, anchor="ra")
        y += step

    line("good", f"{np.count_nonzero(pixels == 0):,}", GOOD)
    for flag, text, colour in REASONS:
        line(text, f"{np.count_nonzero(pixels & np.uint8(flag)):,}", colour)
    y += TEXT // 2
    line("pixels", f"{pixels.size:,}")
    judged, maps = sum(int(np.count_nonzero(m.judged)) for m in masks), sum(m.judged.size for m in masks)
    line("maps judged", f"{judged:,} of {maps:,}")
