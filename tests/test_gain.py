"""gain.py: stages from held exposures, codes and thresholds; thresholds from darks; majority of a frame."""

from dataclasses import replace

import naive
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED, TINY_PACKED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.rmm import gain
from rmm_stream.rmm.stats import Moments

few = settings(max_examples=40, deadline=None)


def frames(spec, gains, pixels=100, n=2):
    shape = (n, *spec.module_shape)
    return np.full(shape, pixels, spec.dtype), np.broadcast_to(np.asarray(gains), shape).astype(np.uint16)


def test_held_code_detector_gives_wrong_codes_no_value():
    codes = np.zeros(TINY_PACKED.module_shape, np.uint8)
    codes[3, 4], codes[5, 6] = 1, 2
    pixels, g = frames(TINY_PACKED, codes)
    where = gain.route(TINY_PACKED, pixels, g.astype(np.uint8), 0, None, True)
    assert where[0, 3, 4] == where[0, 5, 6] == 128
    assert (where == 0).sum() == where.size - 4
    free = gain.route(TINY_PACKED, pixels, g.astype(np.uint8), None, None, True)
    assert (free[0, 3, 4], free[0, 5, 6], free[0, 0, 0]) == (1, gain.NOWHERE, 0)


def test_held_analogue_detector_needs_no_thresholds():
    pixels, g = frames(TINY, 4000)
    assert (gain.route(TINY, pixels, g, 1, None, True) == 1).all()
    assert (gain.route(TINY, pixels, None, 1, None, True) == 1).all()


def test_analogue_detector_is_cut_at_its_thresholds_either_way():
    pixels, g = frames(TINY, 5000)
    cuts = np.full((1, *TINY.module_shape), 4500, np.float32)
    cuts[0, 0, 0] = np.nan
    rising, falling = (gain.route(TINY, pixels, g, None, cuts, up) for up in (True, False))
    assert (rising[:, 0, 0] == gain.NOWHERE).all()
    assert (rising[:, 1:] == 1).all()
    assert (falling[:, 1:] == 0).all()


def test_detector_of_one_stage_needs_no_thresholds():
    single = replace(TINY, stages=("only",))
    pixels, g = frames(single, 5000)
    assert (gain.route(single, pixels, g, None, None, True) == 0).all()


def test_saturated_and_sentinel_values_are_invalid_in_every_stage():
    spec = replace(TINY, sentinels=(7,))
    pixels, g = frames(spec, 4000)
    pixels[0, 0, :3] = 16383, 16382, 7
    where = gain.route(spec, pixels, g, 1, None, True)
    np.testing.assert_array_equal(where[0, 0, :4], [129, 1, 129, 1])


def test_nan_of_a_calibrated_frame_is_invalid():
    pixels = np.zeros((1, *TINY_CALIBRATED.module_shape), np.float32)
    pixels[0, 2, 3] = np.nan
    where = gain.route(TINY_CALIBRATED, pixels, None, None, None, True)
    assert where[0, 2, 3] == 128
    assert (where != 0).sum() == 1


def level(mean, sd, n=200):
    shape = TINY.module_shape
    return Moments(np.full(shape, n), np.full(shape, float(mean)), np.full(shape, float(sd) ** 2 * (n - 1)))


@few
@given(st.floats(1000, 5000), st.floats(0, 50), st.floats(5000, 9000), st.floats(0, 50))
def test_threshold_is_equally_many_sigmas_from_either_stage(low, s, high, t):
    cuts = gain.thresholds(TINY, [level(low, s), level(high, t)])
    assert cuts.dtype == np.float32
    assert cuts[0, 0, 0] == pytest.approx(naive.threshold((low, s), (high, t)), rel=1e-6)


@pytest.mark.parametrize("sds", [(0, 20), (20, 0), (0, 0)])
def test_an_indicator_that_never_moves_is_still_in_its_stage(sds):
    cuts = gain.thresholds(TINY, [level(4000, sds[0]), level(6000, sds[1])])
    for stage, value in ((0, 4000), (1, 6000)):
        pixels, g = frames(TINY, value)
        assert (gain.route(TINY, pixels, g, None, cuts, True) == stage).all()


def test_threshold_comes_from_the_configuration_while_a_dark_lacks():
    assert gain.thresholds(TINY, [level(4000, 5), None]) is None
    configured = replace(TINY, gain_thresholds=(4321.0,))
    assert (gain.thresholds(configured, [level(4000, 5), None]) == 4321).all()
    assert (gain.thresholds(configured, [level(4000, 5), level(5000, 5)]) == 4500).all()


def test_majority_counts_valid_pixels_only():
    where = np.full((4, 4), 129, np.uint8)
    assert gain.majority(where, 2) == -1
    where[0, :3], where[1, :2] = 0, 1
    assert gain.majority(where, 2) == 0
    where[2, :2] = 1
    assert gain.majority(where, 2) == 1
    assert gain.majority(np.full((4, 4), 255, np.uint8), 2) == -1


def test_stages_are_present_in_invalid_pixels_too():
    where = np.full((3, 4, 4), 255, np.uint8)
    where[0, 0, 0], where[1, 2, 1], where[2, 3, 3] = 0, 129, 2
    assert gain.present(where, np.array([0, 1, 2]), 3) == [0, 1, 2]
    assert gain.present(where, np.array([1]), 3) == [1]
    assert gain.present(where, np.array([2]), 2) == []
    assert gain.present(where, np.array([], np.int64), 3) == []


@pytest.mark.parametrize(
    ("levels", "cuts", "expected"),
    [
        ((4000, 6000), (), True),
        ((6000, 4000), (), False),
        ((None, None), (5000.0,), True),  # one number tells nothing: as AGIPD
        ((6000, None), (5000.0,), False),
        ((None, 6000), (5000.0,), True),
        ((None, 4000), (5000.0,), False),
    ],
)
def test_direction_of_the_indicator_comes_from_all_that_is_known(levels, cuts, expected):
    spec = replace(TINY, gain_thresholds=cuts)
    assert gain.rises(spec, [None if v is None else level(v, 5) for v in levels]) == expected


def test_thresholds_alone_tell_the_direction_where_there_are_two():
    spec = replace(TINY, stages=("a", "b", "c"), gain_thresholds=(6000.0, 5000.0))
    assert not gain.rises(spec, [None] * 3)
    assert gain.rises(replace(spec, gain_thresholds=(5000.0, 6000.0)), [None] * 3)


# ---- bands and ranges -------------------------------------------------------------------------------------------------


@few
@given(
    arrays(
        np.float32, (2, 6), elements=st.one_of(st.floats(-5, 70000, width=32), st.sampled_from([np.nan, np.inf, 0]))
    ),
    st.booleans(),
    st.lists(st.integers(0, 65535), min_size=6, max_size=6),
)
def test_bands_say_what_routing_by_thresholds_says(cuts, ascending, indicator):
    """Whatever the thresholds: not in order, between integers, nan, beyond what an indicator can be."""
    near = [
        int(np.clip(np.nan_to_num(c, posinf=0) + d, 0, 65535)) for c, d in zip(cuts.ravel(), (0, 1, -1, 0, 1, -1) * 2)
    ]
    bands = gain.bands_of(cuts, ascending)
    for values in (indicator, near[:6], near[6:], [0] * 6, [65535] * 6):
        g = np.array(values, np.uint16)
        inside = (bands[:, 0] <= g) & (g <= bands[:, 1])
        assert (inside.sum(axis=0) <= 1).all()
        found = np.where(inside.any(axis=0), inside.argmax(axis=0), gain.NOWHERE)
        np.testing.assert_array_equal(found, naive.route_analogue(g, cuts, ascending))


@pytest.mark.parametrize("ascending", [True, False])
def test_bands_of_like_its_twin(ascending):
    cuts = np.array([[4000, 7000.5, -3, np.nan, 80000, 9], [6000, 5000.5, 0, 7, 80001, 9]], np.float32)
    np.testing.assert_array_equal(gain.bands_of(cuts, ascending), naive.bands_of(cuts, ascending))


def test_codes_are_bands_of_one_value():
    bands = gain.code_route(TINY_PACKED, None).bands
    assert bands.shape == (3, 2, *TINY_PACKED.module_shape)
    assert bands[:, :, 3, 4].tolist() == [[code, code] for code in TINY_PACKED.gain_codes]


def test_a_row_knows_the_band_that_all_of_its_pixels_share(rng):
    bands = gain.bands_of(np.sort(rng.normal(5000, 900, (2, 8, 30)), axis=0).astype(np.float32), True)
    route = gain.by_bands(None, bands)
    for s in range(3):
        for i in range(8):
            low, high = route.rows[s, :, i]
            assert low == bands[s, 0, i].max()
            assert high == bands[s, 1, i].min()


@few
@given(
    st.sampled_from([8, 14, 16, 0, 32]),
    st.one_of(st.none(), st.integers(1, 255)),
    st.sets(st.sampled_from([0, 1, 5, 254, 255, 65534, 65535, 2**31, 70000, -1]), max_size=5),
    st.lists(st.integers(-3, 70000), min_size=8, max_size=8),
)
def test_a_value_is_data_where_routing_says_so(bits, saturation, sentinels, values):
    spec = replace(TINY, bits=bits, saturation=saturation, sentinels=tuple(sentinels))
    found = gain.data_range(spec)
    values = [
        *values,
        *sentinels,
        0,
        1,
        2,
        253,
        254,
        255,
        *(() if saturation is None else (saturation, saturation - 1)),
    ]
    if bits == 0:
        x = np.array([*values, np.nan, np.inf, -np.inf, 0.5, -3e38, 254.9], np.float32)
    else:
        x = np.array(values, np.int64).clip(0, np.iinfo(spec.dtype).max).astype(spec.dtype)
    limit = min(np.inf if saturation is None else saturation, 2.0**bits if bits else np.inf)  # beyond its bits: no data
    expected = naive.mark_invalid(x, limit, sentinels, np.zeros(len(x), np.uint8)) == 0
    inside = (x >= found.least) & (x <= found.most) & ~np.isin(x, found.inner)
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(~np.isnan(gain.clean(found, x)), expected)


def test_sentinels_at_the_ends_of_the_range_are_no_inner_ones():
    least, most, inner = gain.data_range(replace(TINY, bits=16, saturation=65534, sentinels=(0, 1, 65533, 65535, 700)))
    assert (least, most, inner.tolist()) == (2, 65532, [700])
