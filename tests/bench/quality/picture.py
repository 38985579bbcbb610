"""One picture of a run: a frame, the masks of all contenders at the end beside the truth, and defects found over time.

One picture pixel per pixel; defects are drawn larger than they are, so that none gets lost."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .beam import SPEC
from .race import Outcome
from .score import Score
from .serial import Run

PAPER, INK, FAINT = (255, 255, 255), (32, 32, 32), (190, 190, 190)
#: After Okabe and Ito (2008): told apart with any kind of colour vision.
FOUND, MISSED, FALSE, WEAK = (0, 158, 115), (213, 94, 0), (204, 40, 140), (150, 200, 235)
LINES = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 114, 178), (213, 94, 0), (204, 121, 167), (0, 158, 115), (120, 90, 20), FAINT,
)  # fmt: skip
GAP, TEXT, COLUMNS = 14, 15, 5
PLOT = 300  # picture pixels, height of the curves
BRIGHT = 600.0  # ADU, white


def draw(run: Run, outcome: Outcome) -> Image.Image:
    """The picture, with a legend of its colours."""
    font, small = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT - 2)
    panels = [("a frame with a crystal", _grey(outcome.shown))]
    for name, mask in outcome.masks.items():
        panels.append((name, _judged(run, mask)))
    height, width = run.shape
    rows = -(-len(panels) // COLUMNS)
    head, each = 2 * TEXT + GAP, height + TEXT + 2 * GAP
    picture = Image.new("RGB", (COLUMNS * (width + GAP) + GAP, head + rows * each + PLOT + 5 * GAP), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((GAP, GAP // 2), f"{run.frames} frames, {len(run.defects.table)} defects; masks at the end", INK, font)
    x = GAP
    for text, colour in (
        ("found", FOUND), ("strong, missed", MISSED), ("weak, not found", WEAK), ("good pixel flagged", FALSE),
    ):  # fmt: skip
        pen.rectangle((x, GAP // 2 + TEXT + 8, x + 11, GAP // 2 + TEXT + 19), fill=colour)
        pen.text((x + 16, GAP // 2 + TEXT + 5), text, INK, small)
        x += 40 + int(pen.textlength(text, small))
    for i, (name, image) in enumerate(panels):
        x, y = GAP + i % COLUMNS * (width + GAP), head + i // COLUMNS * each + GAP
        pen.text((x, y - 4), name, INK, font)
        picture.paste(Image.fromarray(image), (x, y + TEXT + 2))
        pen.rectangle((x - 1, y + TEXT + 1, x + width, y + TEXT + 2 + height), outline=FAINT)
    _curves(pen, list(outcome.scores.values()), (60, head + rows * each + 2 * GAP), (picture.width - 260, PLOT), small)
    return picture


def _grey(frame: NDArray) -> NDArray:
    """(ss, fs, 3) uint8 of ADU."""
    grey = (np.clip(frame / BRIGHT + 0.1, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def _judged(run: Run, mask: NDArray) -> NDArray:
    """(ss, fs, 3) uint8: a mask beside the truth of the last frame."""
    out = np.full((*run.shape, 3), 255, np.uint8)
    out[SPEC.edge()] = 235
    active = run.defects.active(run.frames - 1)
    out[mask & ~run.defects.ever() & ~SPEC.edge()] = FALSE
    table = run.defects.table
    for strong, colour in ((False, WEAK), (True, MISSED)):
        _dots(out, table[active & (table["strong"] == strong) & ~mask.reshape(-1)[run.defects.at]], colour)
    _dots(out, table[active & mask.reshape(-1)[run.defects.at]], FOUND)
    return out


def _dots(out: NDArray, rows: NDArray, colour: tuple[int, int, int]) -> None:
    """A dot of 2 x 2 pixels for each defect: one would be lost to the eye."""
    for row in rows:
        out[row["ss"] : row["ss"] + 2, row["fs"] : row["fs"] + 2] = colour


def _curves(pen: ImageDraw.ImageDraw, scores: list[Score], at: tuple[int, int], size: tuple[int, int], font) -> None:
    """Defects masked among those that are there, over frames."""
    (x0, y0), (width, height) = at, size
    n = len(scores[0].found_over_time)
    top = max(max(score.found_over_time) for score in scores) * 1.05
    pen.rectangle((x0, y0, x0 + width, y0 + height), outline=FAINT)
    for count in range(0, int(top) + 1, 100 if top > 150 else 10):
        y = y0 + height - count / top * height
        pen.line((x0, y, x0 + width, y), FAINT)
        pen.text((x0 - 6, y), str(count), INK, font, anchor="rm")
    for frame in range(0, n + 1, 500 if n >= 1000 else max(1, n // 5)):
        x = x0 + frame / n * width
        pen.line((x, y0 + height, x, y0 + height + 4), INK)
        pen.text((x, y0 + height + 6), str(frame), INK, font, anchor="ma")
    pen.text((x0 + 8, y0 + 4), "defects that are there and masked, over sample frames", INK, font)
    step = max(1, n // 800)
    for i, score in enumerate(scores):
        line = [(x0 + t / n * width, y0 + height - score.found_over_time[t] / top * height) for t in range(0, n, step)]
        colour = LINES[i % len(LINES)]
        pen.line(line, colour, 2)
        y = y0 + 8 + i * (TEXT + 8)
        pen.line((x0 + width + 10, y + 7, x0 + width + 32, y + 7), colour, 3)
        pen.text((x0 + width + 38, y), score.name, INK, font)
