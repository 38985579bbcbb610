"""The demo's scores, on a truth small enough to count by hand."""

import numpy as np
import pytest

from rmm_stream.cli.score import (
    GoodScore,
    KindScore,
    by_kind,
    false_peaks,
    found,
    good_pixels,
    missed_bars,
    onset_delays,
)
from rmm_stream.mask import Mask
from rmm_stream.sources.scene import TABLE
from rmm_stream.sources.truth import Truth

#: kind, module, gain_stage, cell, ss, fs, magnitude, extra, snr, onset_train, expected
ROWS = [
    ("offset", 0, 0, 4, 1, 1, 50.0, 0.0, 20.0, 0, 1),
    ("offset", 0, 0, 4, 1, 2, 50.0, 0.0, 20.0, 0, 1),  # flagged for another reason: not found
    ("offset", 0, 0, 5, 1, 3, 10.0, 0.0, 9.0, 0, 1),  # weak, found all the same
    ("dead", 0, 1, 4, 2, 2, 0.0, 0.0, np.inf, 0, 2),  # in a map that is not judged
    ("hot", 0, 0, 4, 3, 1, 30.0, 0.0, 30.0, 12, 16),
    ("hot", 0, 0, 4, 3, 2, 30.0, 0.0, 30.0, 13, 16),
]


@pytest.fixture
def truth():
    planted = np.zeros((1, 2, 2, 6, 6), np.uint8)
    table = np.array(ROWS, TABLE)
    planted[0, table["gain_stage"], table["cell"] - 4, table["ss"], table["fs"]] = 1
    planted[0, 0, 0, 5, 5] = 2
    return Truth("small", table, planted, (0,), (4, 5))


@pytest.fixture
def mask():
    flags = np.zeros((2, 2, 6, 6), np.uint8)
    flags[:, :, 0] = 32
    flags[0, 0, 1, 1] = 1 | 2
    flags[0, 0, 1, 2] = 2
    flags[0, 1, 1, 3] = 1
    flags[0, 0, 3, 1] = 16
    flags[0, 0, 3, 2] = 16
    flags[0, 0, 4, 4] = 16  # a good pixel
    flags[0, 0, 5, 5] = 1  # odd in the measured maps
    flags[1] = 64
    return Mask(0, flags, np.array([[31, 31], [0, 0]], np.uint8), np.zeros((2, 2), np.int64))


def test_a_defect_is_found_by_an_expected_flag_in_a_judged_map(truth, mask):
    hits = found(truth, {0: mask}, (4, 5))
    assert hits.tolist() == [True, False, True, False, True, True]
    assert by_kind(truth, hits) == [
        KindScore("offset", planted=2, found=1, weak=1, weak_found=1),
        KindScore("dead", planted=1, found=0, weak=0, weak_found=0),
        KindScore("hot", planted=2, found=2, weak=0, weak_found=0),
    ]
    assert by_kind(truth, hits)[0].share == 0.5


def test_good_pixels_are_those_of_judged_maps_that_are_neither_planted_odd_nor_edge(truth, mask):
    assert good_pixels(truth, {0: mask}, (4, 5)) == GoodScore(good=2 * 30 - 5 - 1, flagged=1)


def test_a_bar_is_met_up_to_its_last_pixel_and_missed_by_the_next():
    def kinds(found):
        return [KindScore("offset", 1000, 1000, 5, 0), KindScore("gain_level", 200, found, 0, 0)]

    assert missed_bars(kinds(199), GoodScore(300_000, 3)) == []
    (kind,) = missed_bars(kinds(198), GoodScore(300_000, 3))
    assert kind == "gain level: 198 of 200 found, 99.00 %; the bar is 99.5 %"
    (pixels,) = missed_bars(kinds(199), GoodScore(300_000, 4))
    assert pixels == "good pixels: 4 of 300,000 flagged; the bar is one in 100,000"


def test_nothing_to_count_meets_no_bar():
    assert len(missed_bars([KindScore("weak", 0, 0, 9, 9)], GoodScore(0, 0))) == 2


def test_delays_run_from_the_train_with_the_defect_to_the_flag(truth):
    flagged_at = np.full((2, 6, 6, 6), np.nan)
    flagged_at[0, 4, 3, 1] = 103.5
    trains = np.array([[14, 102.0], [10, 100.0]])  # 12 and 13 were not seen: 101.0 and 101.5
    assert onset_delays(truth, 0, flagged_at, trains) == {"hot": pytest.approx([2.5, np.inf])}
    assert onset_delays(truth, 0, flagged_at, trains[:0]) == {}


def test_false_peaks_are_compared_where_the_mask_has_settled():
    counts = np.array([(train, 0, 10, 10 if train < 80 else 1) for train in range(100)])
    assert false_peaks(counts) == (21, 10.0, pytest.approx(1 + 9 / 21))
    frames, before, after = false_peaks(counts[:0])
    assert frames == 0
    assert np.isnan([before, after]).all()
