"""Flags of one byte, and their collapse over cells and stages: an unjudged map takes no part."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.mask import FITTED, BadPixel, Mask, collapse

EDGE, NO_DATA, USER = (int(b) for b in (BadPixel.EDGE, BadPixel.NO_DATA, BadPixel.USER))


def test_the_byte_is_a_contract():
    expected = {
        "OFFSET": 1, "NOISE": 2, "GAIN_SEPARATION": 4, "GAIN_LEVEL": 8, "LIT_SNR": 16, "EDGE": 32, "NO_DATA": 64, "USER": 128,
    }  # fmt: skip
    assert {b.name: b.value for b in BadPixel} == expected
    assert FITTED == 31


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, (2, 3, 2, 2)), arrays(np.uint8, (2, 3), elements=st.sampled_from([0, 0, 3, 16])))
def test_collapse_is_the_or_of_what_was_judged(flags, judged):
    found = collapse(flags, judged)
    assert found.dtype == np.uint8
    for y, x in np.ndindex(2, 2):
        expected, everything = 0, 0
        for s, c in np.ndindex(2, 3):
            everything |= int(flags[s, c, y, x])
            if judged[s, c]:
                expected |= int(flags[s, c, y, x])
        if not judged.any():
            expected = everything & (EDGE | USER) | NO_DATA
        assert found[y, x] == expected


def test_bad_ignores_the_bits_asked_for():
    flags = np.array([[[[0, 1, 64, 65]]]], np.uint8)
    mask = Mask(0, flags, np.ones((1, 1), np.uint8), np.ones((1, 1), np.int64))
    assert mask.bad().tolist() == [[False, True, True, True]]
    assert mask.bad(ignore=BadPixel.NO_DATA).tolist() == [[False, True, False, True]]
    assert mask.bad(ignore=BadPixel(255)).tolist() == [[False] * 4]


def test_a_mask_of_nothing_judged_is_all_bad():
    mask = Mask(0, np.zeros((1, 1, 1, 2), np.uint8), np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.int64))
    assert mask.bad().all()
    assert not mask.bad(ignore=BadPixel.NO_DATA).any()
