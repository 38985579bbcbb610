"""kernels/welford.py against exact fractions: frame by frame, joined, taken out, and after a million frames."""

import math
from fractions import Fraction

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.rmm.kernels import welford
from rmm_stream.rmm.stats import VALUE

few = settings(max_examples=40, deadline=None)
VALUES = st.floats(-65536, 65536, width=32)


def empty(pixels):
    return np.zeros(pixels, np.uint32), np.zeros(pixels), np.zeros(pixels)


def update(frames, take=None, where=None, stage=0, rows=None):
    rows = empty(frames.shape[1]) if rows is None else rows
    take = np.arange(len(frames)) if take is None else np.asarray(take, np.int64)
    where = np.zeros(frames.shape, np.uint8) if where is None else where
    welford.update_frames(frames, take, where, VALUE, np.uint8(stage), *rows)
    return rows


@few
@given(st.integers(1, 15), st.integers(1, 5), st.data())
def test_update_frames_like_its_twin(n, pixels, data):
    frames = data.draw(arrays(np.float32, (n, pixels), elements=VALUES))
    where = data.draw(arrays(np.uint8, (n, pixels), elements=st.sampled_from([0, 1, 128, 255])))
    frames[where == 128] = np.nan
    take = data.draw(st.lists(st.integers(0, n - 1), unique=True))
    frames.flags.writeable = False
    found = update(frames, take, where)
    for i, (count, mean, m2) in enumerate(naive.update_frames(frames, take, where, VALUE, 0)):
        assert found[0][i] == count
        if count:
            assert found[1][i] == pytest.approx(mean, rel=1e-12, abs=1e-9)
            assert found[2][i] == pytest.approx(m2, rel=1e-10, abs=1e-9)


@few
@given(st.lists(VALUES, max_size=12), st.lists(VALUES, max_size=12), st.sampled_from([1, -1]))
def test_merge_moments_like_its_twin(mine, theirs, sign):
    if sign < 0:
        mine = mine + theirs  # only what was added can be taken out
    a, b = (naive.triple(v) if v else (0, 0.0, 0.0) for v in (mine, theirs))
    rows = [np.array([x], t) for x, t in zip(a, (np.uint32, float, float))]
    other = [np.array([x], t) for x, t in zip(b, (np.uint32, float, float))]
    welford.merge_moments(float(sign), *other, *rows)
    expected = naive.merge_moments(sign, b, a)
    assert rows[0][0] == expected[0]
    assert rows[1][0] == pytest.approx(expected[1], rel=1e-10, abs=1e-7)
    assert rows[2][0] == pytest.approx(expected[2], rel=1e-9, abs=1e-3 + 1e-10 * a[2])


@few
@given(arrays(np.float64, 3, elements=st.floats(-1e5, 1e5)), arrays(np.float64, 3, elements=st.floats(0, 1e9)))
def test_joining_nothing_changes_no_bit(mean, m2):
    full, none = (np.array([1, 7, 49], np.uint32), mean, m2), empty(3)
    for one, two in ((full, none), (none, full)):
        rows = [a.copy() for a in two]
        welford.merge_moments(1.0, *one, *rows)
        for a, b in zip(rows, full):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.uint32, np.int32])
def test_a_constant_has_no_spread(dtype):
    count, mean, m2 = update(np.full((1000, 3), 12345678, dtype))
    assert (count == 1000).all()
    assert (mean == 12345678).all()
    assert (m2 == 0).all()


def test_values_of_32_bits_keep_their_ends():
    top = np.iinfo(np.uint32).max
    count, mean, m2 = update(np.array([[0], [top]], np.uint32))
    assert (count[0], mean[0]) == (2, top / 2)
    assert m2[0] == pytest.approx(top**2 / 2, rel=1e-15)


@pytest.mark.parametrize(("offset", "sd"), [(8000.0, 10.0), (16000.0, 1.5)])
def test_a_million_frames_do_not_drift(offset, sd):
    """1e6 frames of 3 pixels, in blocks; the oracle is exact: integers scaled by 2^10, summed as integers."""
    rng = np.random.default_rng(1)
    count, mean, m2 = rows = empty(3)
    s1, s2, n, middle = [0] * 3, [0] * 3, 1_000_000, int(offset * 1024)
    for _ in range(10):
        ticks = np.rint(rng.normal(offset, sd, (n // 10, 3)) * 1024).astype(np.int64)
        update((ticks / 1024).astype(np.float32), rows=rows)
        for i in range(3):
            s1[i] += int((ticks[:, i] - middle).sum())
            s2[i] += int(((ticks[:, i] - middle) ** 2).sum())
    for i in range(3):
        exact = Fraction(s1[i], n)
        variance = float((Fraction(s2[i]) - exact * s1[i]) / 1024**2 / (n - 1))
        assert count[i] == n
        assert abs(mean[i] - float((exact + middle) / 1024)) < 1e-8 * sd
        assert math.isclose(math.sqrt(m2[i] / (n - 1)), math.sqrt(variance), rel_tol=1e-10)
