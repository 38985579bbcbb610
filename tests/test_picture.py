import io
import os

import numpy as np
import pytest
from PIL import Image

from rmm_stream.mask import BadPixel, Mask
from rmm_stream.storage.picture import GOOD, REASONS, colours, draw, png, write_picture

COLOUR = {flag: colour for flag, _, colour in REASONS}


def make_mask(module, shape, flag=BadPixel.OFFSET):
    flags = np.zeros((1, 1, *shape), np.uint8)
    flags[0, 0, 2, 3] = flag
    return Mask(module, flags, np.ones((1, 1), np.uint8), np.zeros((1, 1), int))


def count(picture, colour):
    return int((np.asarray(picture) == np.array(colour, np.uint8)).all(axis=2).sum())


def test_every_flag_has_a_colour_of_its_own():
    assert set(COLOUR) == set(BadPixel)
    assert len({*COLOUR.values(), GOOD}) == len(BadPixel) + 1
    for flag, colour in COLOUR.items():
        assert tuple(colours(np.array([[int(flag)]], np.uint8))[0, 0]) == colour


def test_a_reason_shows_before_the_edge():
    both = np.array([[int(BadPixel.EDGE | BadPixel.NOISE), 0]], np.uint8)
    assert [tuple(c) for c in colours(both)[0]] == [COLOUR[BadPixel.NOISE], GOOD]


def test_a_small_module_is_enlarged_by_whole_pixels():
    one = draw([make_mask(0, (22, 26), flag=0)], "title")
    bad = draw([make_mask(0, (22, 26))], "title")
    scale = np.sqrt(count(bad, COLOUR[BadPixel.OFFSET]) - count(one, COLOUR[BadPixel.OFFSET]))
    assert scale == int(scale) > 10


def test_one_bad_pixel_stays_visible_on_a_large_detector():
    picture = draw([make_mask(m, (512, 1024), BadPixel.LIT_SNR if m == 5 else BadPixel(0)) for m in range(8)], "title")
    patch = count(draw([make_mask(0, (512, 1024), BadPixel(0))], "title"), COLOUR[BadPixel.LIT_SNR])  # of the legend
    assert count(picture, COLOUR[BadPixel.LIT_SNR]) == patch + 1
    assert picture.width < 3 * picture.height


@pytest.mark.parametrize("modules", [1, 2, 3, 5, 16])
def test_modules_do_not_overlap(modules):
    masks = [make_mask(m, (64, 32), BadPixel(0)) for m in range(modules)]
    edge = [Mask(m.module, m.flags | np.uint8(BadPixel.USER), m.judged, m.frames) for m in masks]
    painted = count(draw(edge, ""), COLOUR[BadPixel.USER]) - count(draw(masks, ""), COLOUR[BadPixel.USER])
    assert painted % (modules * 64 * 32) == 0
    assert painted > 0


def test_the_file_is_a_png_replaced_whole(tmp_path):
    masks = [make_mask(0, (64, 32))]
    (tmp_path / "mask.png").write_text("old")
    write_picture(tmp_path / "mask.png", masks, "tiny, version 1")
    assert os.listdir(tmp_path) == ["mask.png"]
    with Image.open(tmp_path / "mask.png") as written, Image.open(io.BytesIO(png(masks, "tiny, version 1"))) as drawn:
        assert written.format == "PNG"
        assert written.tobytes() == drawn.tobytes()
