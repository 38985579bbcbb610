"""Hysteresis: when a bit turns. The naive twin keeps one counter per pixel and bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_stream.mask import FITTED, BadPixel
from rmm_stream.policy.hysteresis import NONE, settle

SHAPE = (3, 4)
OFFSET, NOISE, LIT, NO_DATA = (
    np.uint8(b) for b in (BadPixel.OFFSET, BadPixel.NOISE, BadPixel.LIT_SNR, BadPixel.NO_DATA)
)
ALL = FITTED


def flags(*places, bit=OFFSET):
    out = np.zeros(SHAPE, np.uint8)
    for place in places:
        out[place] |= bit
    return out


def naive(fits, set_after, clear_after):
    """The flags after each of (flags, doubtful, judged), pixel by pixel and bit by bit."""
    now, counts, out = np.zeros(SHAPE, np.uint8), {}, []
    for beyond, doubtful, judged in fits:
        now = now.copy()
        for place in np.ndindex(SHAPE):
            blind = beyond[place] & NO_DATA
            for bit in (1 << k for k in range(8)):
                speaks = bit & (judged | NO_DATA)
                is_set, wants = now[place] & bit, beyond[place] & bit
                against = wants if not is_set else not (wants or doubtful[place] & bit)
                if is_set and blind and bit & FITTED:
                    against = False
                n = counts.get((place, bit), 0) + 1 if against and speaks else 0
                counts[place, bit] = n
                if n >= (clear_after if is_set else set_after) and n:
                    now[place] ^= np.uint8(bit)
                    counts[place, bit] = 0
        out.append(now)
    return out


def run(fits, set_after=1, clear_after=3):
    now, streaks, out = np.zeros(SHAPE, np.uint8), NONE, []
    for beyond, doubtful, judged in fits:
        now, streaks = settle(now, beyond, doubtful, judged, streaks, set_after, clear_after)
        out.append(now)
    return out


maps = st.lists(st.sampled_from([0, 1, 2, 3, 16, 64, 65]), min_size=12, max_size=12).map(
    lambda values: np.array(values, np.uint8).reshape(SHAPE)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(maps, maps, st.sampled_from([ALL, BadPixel.OFFSET, BadPixel.LIT_SNR])), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_each_bit_of_each_pixel_turns_when_the_naive_twin_says(fits, set_after, clear_after):
    for ours, expected in zip(run(fits, set_after, clear_after), naive(fits, set_after, clear_after), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_bit_is_set_at_once_and_cleared_after_three_fits_in_a_row():
    bad, good = flags((1, 1)), flags()
    states = run([(bad, bad, ALL), (good, good, ALL), (good, good, ALL), (bad, bad, ALL), *[(good, good, ALL)] * 3])
    assert [int(now[1, 1]) for now in states] == [1, 1, 1, 1, 1, 1, 0]


def test_between_the_two_cuts_a_bit_stays_as_it_is():
    bad, doubtful = flags((1, 1)), flags((1, 1), (2, 2))
    states = run([(bad, doubtful, ALL)] + [(flags(), doubtful, ALL)] * 9)
    assert [(int(now[1, 1]), int(now[2, 2])) for now in states] == [(1, 0)] * 10


def test_with_more_evidence_asked_for_a_single_fit_sets_nothing():
    bad, good = flags((1, 1)), flags()
    states = run([(bad, bad, ALL), (good, good, ALL), (bad, bad, ALL), (bad, bad, ALL)], set_after=2)
    assert [int(now[1, 1]) for now in states] == [0, 0, 0, 1]


def test_a_feature_that_is_silent_takes_nothing_back():
    bad, good = flags((1, 1), bit=LIT), flags()
    assert run([(bad, bad, ALL)] + [(good, good, BadPixel.OFFSET)] * 9)[-1][1, 1] == LIT


def test_no_data_is_never_taken_for_good():
    bad, blind, good = flags((1, 1)), flags((1, 1), bit=NO_DATA), flags()
    states = run([(bad, bad, ALL)] + [(blind, blind, ALL)] * 5 + [(good, good, ALL)] * 3)
    assert [int(now[1, 1]) for now in states] == [1, 65, 65, 65, 65, 65, 65, 65, 0]


def test_what_does_not_change_costs_no_copy():
    before = flags((1, 1))
    after, streaks = settle(before, before, before, ALL, NONE, 1, 3)
    assert after is before
    assert streaks is NONE
