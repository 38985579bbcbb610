"""kernels/routing.py against its twin: the stage of every pixel of a frame, and whether its value counts."""

import math
from dataclasses import replace

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.rmm import gain
from rmm_stream.rmm.kernels import routing

few = settings(max_examples=40, deadline=None)


def invalid(values, saturation=np.inf, sentinels=(), where=None):
    where = np.zeros(values.size, np.uint8) if where is None else where.copy()
    routing.mark_invalid(values, float(saturation), np.array(sentinels, np.int64), where)
    return where


@few
@given(arrays(np.uint16, 30, elements=st.sampled_from([0, 1, 100, 16382, 16383, 65534, 65535])), st.data())
def test_mark_invalid_of_integers_like_its_twin(values, data):
    saturation = data.draw(st.sampled_from([16383.0, 65535.0, float("inf")]))
    sentinels = data.draw(st.sampled_from([[], [0], [65535, 100]]))
    where = data.draw(arrays(np.uint8, 30, elements=st.sampled_from([0, 1, 2, 255])))
    expected = naive.mark_invalid(values, saturation, sentinels, where)
    np.testing.assert_array_equal(invalid(values, saturation, sentinels, where), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16, np.int32, np.float32])
def test_mark_invalid_at_the_ends_of_a_dtype_like_its_twin(dtype):
    limits = np.finfo(dtype) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
    values = np.array([limits.min, 0, 1, limits.max], dtype)
    values.flags.writeable = False
    for saturation, sentinels in (
        (np.inf, []),
        (float(limits.max), [0]),
        (1.0, [int(limits.min)] if limits.min else []),
    ):
        sentinels = [s for s in sentinels if abs(s) < 2**62]
        expected = naive.mark_invalid(values, saturation, sentinels, np.zeros(4, np.uint8))
        np.testing.assert_array_equal(invalid(values, saturation, sentinels), expected)


def test_nan_and_infinite_values_are_invalid():
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -3e38], np.float32)
    np.testing.assert_array_equal(invalid(values), [128, 128, 128, 0, 0])


@few
@given(arrays(np.uint8, 40, elements=st.integers(0, 255)), st.sampled_from([-1, 0, 1, 2]))
def test_route_codes_like_its_twin(codes, held):
    table = np.full(256, routing.NOWHERE, np.uint8)
    table[[0, 1, 3]] = [0, 1, 2]
    where = np.empty(40, np.uint8)
    routing.route_codes(codes, table, held, where)
    np.testing.assert_array_equal(where, naive.route_codes(codes, [0, 1, 3], held))


def test_a_16_bit_code_is_not_taken_for_its_low_byte():
    where = np.empty(4, np.uint8)
    table = np.full(256, routing.NOWHERE, np.uint8)
    table[[0, 1, 3]] = [0, 1, 2]
    routing.route_codes(np.array([3, 256, 257, 65535], np.uint16), table, -1, where)
    np.testing.assert_array_equal(where, [2, 255, 255, 255])


@few
@given(
    arrays(np.uint16, 25),
    arrays(np.float32, (2, 25), elements=st.one_of(st.floats(0, 65535, width=32), st.just(np.nan))),
    st.booleans(),
)
def test_route_analogue_like_its_twin(indicator, cuts, ascending):
    where = np.empty(25, np.uint8)
    routing.route_analogue(indicator, cuts, ascending, where)
    np.testing.assert_array_equal(where, naive.route_analogue(indicator, cuts, ascending))


@few
@given(arrays(np.uint8, 70, elements=st.sampled_from([0, 1, 2, 128, 129, 255])), st.integers(0, 2))
def test_count_stage_like_its_twin(where, stage):
    for care in (np.uint8(255), np.uint8(127)):
        assert routing.count_stage(where, care, np.uint8(stage)) == naive.count_stage(where, care, stage)


@few
@given(st.integers(1, 3), st.booleans(), st.data())
def test_bands_hold_what_the_thresholds_send_there(last, ascending, data):
    levels = st.one_of(st.floats(-5, 70000, width=32), st.sampled_from([0.0, 5.5, 6.0, 65534.5, 65535.0, math.nan]))
    cuts = data.draw(arrays(np.float32, (last, 3), elements=levels))
    bands = gain.bands_of(cuts, ascending)
    near = [math.floor(c) + d for c in cuts.ravel().tolist() if not math.isnan(c) for d in (-1, 0, 1, 2)]
    indicators = sorted({0, 1, 65534, 65535, *(g for g in near if 0 <= g <= 65535)})
    for found, expected in zip(bands, naive.in_bands(cuts, ascending, indicators)):
        for i in range(3):
            assert [g for g in indicators if found[0, i] <= g <= found[1, i]] == expected[i]


@few
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.data())
def test_count_in_band_like_its_twin(rows, width, step, data):
    images = [data.draw(arrays(np.uint16, (rows, width), elements=st.integers(0, 9))) for _ in range(4)]
    for image in images:
        image.flags.writeable = False
    least, most = sorted(data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
    found = routing.count_in_band(*images, np.uint16(least), np.uint16(most), step)
    assert found == naive.count_in_band(*images, least, most, step)


@few
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.data())
def test_most_in_bands_like_its_twin(rows, width, step, stages, data):
    shapes = [(rows, width), (rows, width), (stages, 2, rows, width)]
    images = [data.draw(arrays(np.uint16, shape, elements=st.integers(0, 5))) for shape in shapes]
    for image in images:
        image.flags.writeable = False
    least, most = sorted(data.draw(st.tuples(st.integers(0, 5), st.integers(0, 5))))
    found = routing.most_in_bands(*images, np.uint16(least), np.uint16(most), step)
    assert found == naive.most_in_bands(*images, least, most, step)


@few
@given(st.sampled_from([(8, 5), (160, 32)]), st.integers(0, 9999), st.floats(0.0, 1.0))
def test_the_stage_with_most_valid_values_is_found_in_the_rows_looked_at(shape, seed, share):
    """A large frame is looked at in every 16th row, unless none of these is data."""
    rng = np.random.default_rng(seed)
    spec = replace(AGIPD1M, module_shape=shape, asic_shape=shape)
    values = np.where(rng.random(shape) < share, 65535, rng.integers(0, 9, shape)).astype(np.uint16)
    bands, indicator = np.sort(rng.integers(0, 9, (3, 2, *shape)), axis=1).astype(np.uint16), values[::-1] % 9
    least, most = gain.data_range(spec)[:2]
    for step in (16, 1) if values.size > 4096 else (1,):
        n = [naive.count_in_band(values, indicator, *band, least, most, step) for band in bands]
        if any(n):
            break
    found = gain.majority_of((np.uint16(least), np.uint16(most)), values, indicator, bands)
    looked_at = values[::step].size
    most_of_all = [s for s in range(3) if 2 * n[s] > looked_at]  # the first of these will do
    assert found == (most_of_all[0] if most_of_all else n.index(max(n)) if any(n) else -1)


@few
@given(st.integers(1, 6), st.integers(1, 9), st.data())
def test_frames_without_a_valid_value_are_found(n, pixels, data):
    spec = replace(
        AGIPD1M, saturation=7, sentinels=(0,), module_shape=(3, pixels), asic_shape=(3, pixels), edge_width=0
    )
    frames = data.draw(arrays(np.uint16, (n, 3, pixels), elements=st.sampled_from([0, 0, 1, 6, 7, 8])))
    take = np.arange(n)[::-1]
    assert gain.any_valid(spec, frames, take).tolist() == naive.any_valid(frames, take, 1, 6)
