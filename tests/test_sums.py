"""kernels/sums.py against its twin: exact integers, whatever the reference and the order."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.rmm.kernels import sums
from rmm_stream.rmm.kernels.moments import narrow_moments
from rmm_stream.rmm.stats import INDICATOR, VALUE

few = settings(max_examples=40, deadline=None)
WHERE = st.sampled_from([0, 1, 128, 129, 255])


def empty(reference, wide=True):
    pixels = len(reference)
    rows = (np.zeros(pixels, t) for t in (np.uint16, np.int32, np.uint64 if wide else np.uint32))
    return [np.array(reference), *rows]


def add(frames, take, where, care, stage, rows):
    return sums.add_frames(frames, np.asarray(take, np.int64), where, np.uint8(care), np.uint8(stage), *rows)


@few
@given(
    st.sampled_from([np.uint8, np.uint16]),
    st.integers(1, 12),
    st.integers(1, 8),
    st.sampled_from([VALUE, INDICATOR]),
    st.sampled_from([0, 1]),
    st.data(),
)
def test_add_frames_like_its_twin(dtype, n, pixels, care, stage, data):
    top = int(np.iinfo(dtype).max)
    values = st.one_of(st.sampled_from([0, 1, top - 1, top]), st.integers(0, top))
    frames = data.draw(arrays(dtype, (n, pixels), elements=values))
    where = data.draw(arrays(np.uint8, (n, pixels), elements=WHERE))
    take = data.draw(st.lists(st.integers(0, n - 1), unique=True))
    frames.flags.writeable = where.flags.writeable = False
    rows = empty(frames[0])
    largest = add(frames, take, where, care, stage, rows)
    for found, expected in zip(rows[1:], naive.add_frames(frames, take, where, care, stage, rows[0])):
        assert found.tolist() == expected.tolist()
    assert largest == max(rows[3].tolist())


@few
@given(st.integers(0, 65535), st.lists(st.integers(0, 65535), max_size=30))
def test_moments_like_its_twin(reference, values):
    n, s1 = len(values), sum(v - reference for v in values)
    s2 = sum((v - reference) ** 2 for v in values)
    mean, m2 = np.empty(1), np.empty(1)
    sums.moments(np.array([reference], np.uint16), np.array([n]), np.array([s1]), np.array([s2], np.uint64), mean, m2)
    expected = naive.triple(values)[1:]
    np.testing.assert_equal((mean[0], m2[0]), naive.moments(reference, n, s1, s2))
    np.testing.assert_allclose((mean[0], m2[0]), expected, rtol=1e-15, atol=1e-12)


@few
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=30), st.integers(0, 65535), st.integers(0, 65535))
def test_moments_are_the_same_bits_about_any_reference(values, one, two):
    found = []
    for reference in (one, two):
        d = [v - reference for v in values]
        mean, m2 = np.empty(1), np.empty(1)
        sums.moments(
            np.array([reference], np.uint16), np.array([len(d)]), np.array([sum(d)]),
            np.array([sum(x * x for x in d)], np.uint64), mean, m2,
        )  # fmt: skip
        found.append((mean[0], m2[0]))
    assert found[0] == found[1]


@pytest.mark.parametrize(("first", "then"), [(0, 65535), (65535, 0)])
def test_sums_hold_as_many_frames_as_are_added_between_folds(first, then):
    """The worst case of 16 bits: every difference is +-65535."""
    frames = np.array([[first, first], [then, then]], np.uint16)
    where = np.array([[0, 0], [0, 255]], np.uint8)
    take = np.ones(sums.FOLD_AT, np.int64)
    take[0] = 0
    rows = empty(frames[0])
    add(frames, take, where, VALUE, 0, rows)
    _, count, s1, s2 = rows
    n = sums.FOLD_AT
    assert count.tolist() == [n, 1]
    assert s1.tolist() == [(n - 1) * (then - first), 0]
    assert s2.tolist() == [(n - 1) * 65535**2, 0]
    assert np.iinfo(np.int32).max >= 65535 * sums.FOLD_AT


@few
@given(st.data())
def test_moments_of_narrow_sums_are_the_same_bits(data):
    top = (1 << 14) - 1
    level, n = data.draw(st.integers(0, top)), data.draw(st.integers(0, 400))
    few_values = st.lists(st.integers(max(0, level - 900), min(top, level + 900)), min_size=n, max_size=n)
    values, reference, whole = data.draw(few_values), data.draw(st.integers(0, top)), data.draw(st.integers(0, n))
    if sum((v - reference) ** 2 for v in values) >= sums.SPILL_AT:
        reference = level
    d = [v - reference for v in values]
    sums_of = np.array([sum(d)], np.int32), np.array([sum(x * x for x in d)], np.uint32)
    count, mean, m2, a, b = np.empty(1, np.int64), *np.empty((4, 1))
    about = np.array([reference], np.uint16)
    narrow_moments(about, np.array([n - whole], np.uint16), whole, *sums_of, count, mean, m2)
    sums.moments(about, np.array([n]), sums_of[0].astype(np.int64), sums_of[1].astype(np.uint64), a, b)
    assert count[0] == n
    np.testing.assert_array_equal([mean[0], m2[0]], [a[0], b[0]])


def test_moments_of_as_many_narrow_values_as_there_can_be_are_the_same_bits():
    rng = np.random.default_rng(0)
    n = np.full(999, sums.FOLD_AT - 1)
    mean = rng.integers(-255, 256, len(n))
    s1 = (n * mean + rng.integers(0, n)).astype(np.int32)
    s2 = (s1.astype(float) ** 2 / n + rng.integers(1, sums.SPILL_AT - n * 256.0**2)).astype(np.uint32)
    found, exact, count = np.empty((2, len(n))), np.empty((2, len(n))), np.empty(len(n), np.int64)
    about = rng.integers(300, 16000, len(n)).astype(np.uint16)
    narrow_moments(about, n.astype(np.uint16), 0, s1, s2, count, *found)
    sums.moments(about, n, s1.astype(np.int64), s2.astype(np.uint64), *exact)
    np.testing.assert_array_equal(found, exact)
