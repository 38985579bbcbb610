"""MaskPolicy: which fits become changes, what lies over them, and the complete mask."""

import numpy as np
import pytest
from builders import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.config import Policy
from rmm_stream.mask import BadPixel, MapFit, MapKey
from rmm_stream.policy import MaskPolicy
from rmm_stream.policy.overlay import lay_over, overlay

OFFSET, EDGE, NO_DATA, USER = (np.uint8(b) for b in (BadPixel.OFFSET, BadPixel.EDGE, BadPixel.NO_DATA, BadPixel.USER))
SHAPE, KEY = TINY.module_shape, MapKey(0, 0, 1)
JUDGED = BadPixel.OFFSET | BadPixel.NOISE
AT_ONCE = Policy(clear_after=1)


def fit(*bad, key=KEY, judged=JUDGED, frames=200, train_id=7):
    flags = np.zeros(SHAPE, np.uint8)
    for place in bad:
        flags[place] = OFFSET
    return MapFit(key, flags, flags.copy(), judged, frames, train_id, 5.0)


def test_overlay_is_edge_by_geometry_and_user_where_the_static_mask_is_not_zero():
    static = np.zeros(SHAPE, np.int8)
    static[0, 0], static[5, 5] = 1, -3
    flags = overlay(TINY, static)
    assert flags.dtype == np.uint8
    assert (flags[0, 0], flags[5, 5], flags[0, 1], flags[6, 6]) == (EDGE | USER, USER, EDGE, 0)
    np.testing.assert_array_equal(overlay(TINY) == EDGE, TINY.edge())


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, (3, 4)), arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 32, 128, 160])))
def test_no_fit_shows_through_an_overlay(fitted, above):
    laid = lay_over(fitted, above)
    for f, a, out in zip(fitted.flat, above.flat, laid.flat):
        assert out == (a or f)


def test_the_first_fit_of_a_map_is_a_change():
    change = MaskPolicy(TINY).judge(fit((5, 5), (0, 0)))
    assert (change.key, change.judged, change.frames, change.train_id, change.timestamp) == (KEY, JUDGED, 200, 7, 5.0)
    assert (change.newly_bad, change.newly_good) == (1, 0)
    assert change.flags[5, 5] == OFFSET
    assert change.flags[0, 0] == EDGE, "an edge pixel carries no fitted bit"
    with pytest.raises(ValueError, match="read-only"):
        change.flags[1, 1] = 1


def test_a_first_fit_without_bad_pixels_is_a_change_too():
    change = MaskPolicy(TINY).judge(fit())
    assert (change.newly_bad, change.newly_good) == (0, 0)


def test_the_same_flags_again_are_no_change():
    policy = MaskPolicy(TINY)
    policy.judge(fit((5, 5)))
    assert policy.judge(fit((5, 5), frames=999, train_id=99)) is None
    assert policy.judge(fit((5, 5), judged=JUDGED | BadPixel.LIT_SNR)) is not None, "another feature has spoken"


def test_an_unjudged_fit_says_nothing():
    policy = MaskPolicy(TINY)
    assert policy.judge(fit((5, 5), judged=BadPixel(0))) is None
    assert (policy.mask(0).judged == 0).all()


def test_changes_count_pixels_that_turned():
    policy = MaskPolicy(TINY, settings=AT_ONCE)
    policy.judge(fit((5, 5), (6, 6)))
    change = policy.judge(fit((6, 6), (7, 7), (8, 8)))
    assert (change.newly_bad, change.newly_good) == (2, 1)


def test_maps_are_apart():
    policy = MaskPolicy(TINY)
    policy.judge(fit((5, 5)))
    assert policy.judge(fit((5, 5), key=MapKey(0, 1, 1))).newly_bad == 1
    assert policy.judge(fit((5, 5), key=MapKey(1, 0, 1))).newly_bad == 1
    assert policy.judge(fit((5, 5))) is None


def test_an_overlay_belongs_to_its_module():
    static = np.zeros(SHAPE, bool)
    static[5, 5] = True
    policy = MaskPolicy(TINY, {0: overlay(TINY, static)})
    assert policy.judge(fit((5, 5))).flags[5, 5] == USER
    assert policy.judge(fit((5, 5))) is None
    assert policy.judge(fit((5, 5), key=MapKey(1, 0, 1))).flags[5, 5] == OFFSET


def test_mask_holds_what_was_published_and_no_data_elsewhere():
    static = np.zeros(SHAPE, bool)
    static[9, 9] = True
    policy = MaskPolicy(TINY, {0: overlay(TINY, static)}, range(1, 3))
    policy.judge(fit((5, 5), train_id=70))
    policy.judge(fit((6, 6), key=MapKey(0, 1, 2), frames=300, train_id=60))
    policy.judge(fit((7, 7), key=MapKey(1, 0, 1), train_id=999))
    mask = policy.mask(0)
    assert mask.flags.shape == (2, 2, *SHAPE)
    assert mask.judged.tolist() == [[JUDGED, 0], [0, JUDGED]]
    assert mask.frames.tolist() == [[200, 0], [0, 300]]
    assert mask.train_id == 70
    assert (mask.flags[0, 0, 5, 5], mask.flags[0, 0, 6, 6], mask.flags[0, 1, 5, 5]) == (OFFSET, 0, NO_DATA)
    assert (mask.flags[:, :, 9, 9] == USER).all()
    assert (mask.flags[:, :, 0, 0] == EDGE).all()
    assert mask.bad().sum() == TINY.edge().sum() + 3


# Stored versions ------------------------------------------------------------------------------------------------------


def test_a_restored_mask_speaks_until_fits_do():
    before = MaskPolicy(TINY)
    before.judge(fit((5, 5)))
    policy = MaskPolicy(TINY, settings=AT_ONCE)
    (change,) = policy.restore({0: before.mask(0)})
    assert (change.key, change.judged, change.frames, change.train_id) == (KEY, JUDGED, 200, 7)
    assert change.flags[5, 5] == OFFSET
    assert not policy.pinned
    after = policy.judge(fit((6, 6)))
    assert (after.newly_bad, after.newly_good) == (1, 1)


def test_a_restored_mask_lies_under_the_overlay_of_today():
    static = np.zeros(SHAPE, bool)
    static[5, 5] = True
    before = MaskPolicy(TINY, {0: overlay(TINY, static)})
    before.judge(fit((6, 6)))
    (change,) = MaskPolicy(TINY).restore({0: before.mask(0)})
    assert (change.flags[5, 5], change.flags[6, 6], change.flags[0, 0]) == (0, OFFSET, EDGE)


def test_while_pinned_fits_change_nothing_and_release_brings_back_what_they_say():
    old = MaskPolicy(TINY)
    old.judge(fit((5, 5)))
    policy = MaskPolicy(TINY)
    policy.judge(fit((6, 6)))
    (change,) = policy.pin({0: old.mask(0)})
    assert (change.flags[5, 5], change.flags[6, 6], change.newly_bad, change.newly_good) == (OFFSET, 0, 1, 1)
    assert policy.pinned
    assert policy.judge(fit((6, 6), (7, 7))) is None
    assert policy.mask(0).flags[0, 1, 5, 5] == OFFSET
    (change,) = policy.release()
    assert (change.flags[5, 5], change.flags[6, 6], change.flags[7, 7]) == (0, OFFSET, OFFSET)
    assert not policy.pinned
    assert policy.judge(fit((6, 6), (7, 7))) is None
    assert policy.release() == []


def test_a_pin_takes_back_maps_that_were_not_judged_then():
    policy = MaskPolicy(TINY)
    empty = policy.mask(0)
    policy.judge(fit())
    (change,) = policy.pin({0: empty})
    assert change.judged == 0
    assert change.flags[5, 5] == NO_DATA


def test_no_data_stays_while_a_feature_that_has_spoken_is_silent():
    """After a restart only darks speak: a pixel without a value under light has not become good for that."""
    both = BadPixel.OFFSET | BadPixel.LIT_SNR
    policy, blind = MaskPolicy(TINY), np.zeros(TINY.module_shape, np.uint8)
    blind[5, 5] = BadPixel.NO_DATA
    policy.judge(MapFit(KEY, blind, blind, both, 300, 1, 0.0))
    for train in range(2, 7):
        policy.judge(MapFit(KEY, blind * 0, blind * 0, BadPixel.OFFSET, 300, train, 0.0))
    assert policy.published[KEY].flags[5, 5] == BadPixel.NO_DATA
    for train in range(7, 10):
        policy.judge(MapFit(KEY, blind * 0, blind * 0, both, 300, train, 0.0))
    assert policy.published[KEY].flags[5, 5] == 0
