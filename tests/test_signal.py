"""What is light of the sample: lines through a pixel, and how much pixels about it scatter; naive twins and examples."""

import naive
import numpy as np
import pytest

from rmm_stream.rmm.signal import along_lines, local_scale, swings

Y, X = np.mgrid[:40, :50].astype(float)


def test_lines_like_their_twin(rng):
    values = rng.normal(0, 1, (17, 23))
    values[rng.random(values.shape) < 0.3] = np.nan
    places = np.argwhere(~np.isnan(values))
    for ours, expected in zip(along_lines(values, places), naive.along_lines(values, places), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_local_scale_like_its_twin(rng):
    values = rng.normal(0, 1, (17, 23))
    values[rng.random(values.shape) < 0.3] = np.nan
    places = np.argwhere(~np.isnan(values))
    np.testing.assert_allclose(local_scale(values, places), naive.local_scale(values, places), rtol=1e-12)


def test_of_no_place_nothing_is_said():
    none = np.zeros((0, 2), np.int64)
    assert [len(a) for a in (*along_lines(np.ones((9, 9)), none), local_scale(np.ones((9, 9)), none))] == [0, 0, 0]


@pytest.mark.parametrize(
    "scene",
    [
        np.exp(-0.5 * ((np.hypot(Y - 60, X - 20) - 40) / 6) ** 2),  # a ring of solvent
        np.exp(-0.5 * ((X - 25) / 1.2) ** 2),  # the streak of a jet
        np.exp(-0.5 * ((X - Y) / 1.2) ** 2),  # ... that leans
        1 / (1 + np.exp(-(np.hypot(Y - 20, X - 25) - 9) / 0.5)),  # the edge of a beamstop
    ],
)
def test_light_that_is_wider_than_five_pixels_one_way_is_no_pixel_alone(scene):
    values = 100 * scene
    places = np.argwhere(np.ones_like(values, bool))
    lowest, highest = along_lines(values, places)
    here = values.reshape(-1)
    alone = np.maximum(here - highest, lowest - here)
    assert alone.max() < 12, "of 100"
    values[10, 40] += 50
    _, highest = along_lines(values, np.array([[10, 40]]))
    assert values[10, 40] - highest[0] > 38


def test_only_what_is_far_on_both_sides_as_often_swings():
    judged = np.full((1, 5), 1000)
    above, below = np.array([[100, 100, 100, 15, 0]]), np.array([[100, 30, 20, 15, 0]])
    assert swings(judged, above, below, 0.02).tolist() == [[True, True, False, False, False]]
