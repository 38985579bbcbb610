"""SnrStats: what F6 remembers, and how it forgets: by time, by frames, by replacement."""

import copy

import numpy as np
import pytest

from rmm_stream.errors import ConfigError
from rmm_stream.rmm.snr import FLAT_HALF, SnrStats

SHAPE = (2, 3)


def stats(forgets=True, buckets=4, span_s=100.0, span_frames=40, cells=2):
    return SnrStats(cells, SHAPE, buckets, span_s, span_frames, forgets)


def add(s, cell, timestamp, snr=1.0, cut=5.0):
    """One frame whose pixels all have the same SNR."""
    half, bucket = s.open(cell, timestamp)
    s.total[half, cell] += np.float32(snr)
    s.count[half, cell] += np.uint16(1)
    s.judged[bucket, cell] += np.uint16(1)
    s.above[bucket, cell] += np.uint16(snr > cut)
    s.below[bucket, cell] += np.uint16(snr < -cut)


def test_counts_and_mean_of_what_was_added():
    s = stats()
    for t, snr in enumerate([1, 2, 9, -7]):
        add(s, 1, float(t), snr)
    mean, n = s.mean(1, 3.0)
    assert (n == 4).all()
    np.testing.assert_allclose(mean, 1.25)
    window = s.window(1, 3.0)
    assert [int(a[0, 0]) for a in window] == [4, 1, 1]
    assert s.frames.tolist() == [0, 4]
    assert s.frames_in_window(1, 3.0) == 4


def test_a_cell_without_frames_is_nan():
    mean, n = stats().mean(0, 5.0)
    assert np.isnan(mean).all()
    assert not n.any()
    assert not stats().window(0, 5.0).judged.any()


def test_sample_window_forgets_by_frames():
    s = stats(span_s=1e9)
    for t in range(400):
        add(s, 0, float(t), 9.0 if t < 200 else 0.0)
        _, n = s.mean(0, float(t))
        judged = s.window(0, float(t)).judged[0, 0]
        assert n[0, 0] <= 40
        assert judged <= 40
        assert t < 40 or min(judged, n[0, 0]) > 20
    assert s.window(0, 399.0).above.max() == 0
    assert s.mean(0, 399.0)[0].max() == 0


def test_sample_window_forgets_by_time():
    s = stats(span_frames=30000)
    for t in range(300):
        add(s, 0, float(t), 9.0 if t < 100 else 0.0)
        judged = s.window(0, float(t)).judged[0, 0]
        assert judged <= 101
        assert t < 100 or judged >= 75
    assert s.window(0, 299.0).above.max() == 0
    assert s.mean(0, 299.0)[0].max() == 0


def test_what_is_older_than_the_span_is_not_counted_after_a_pause():
    s = stats(span_frames=30000)
    for t in range(20):
        add(s, 0, float(t), 9.0)
    add(s, 0, 10_000.0, 0.0)
    window = s.window(0, 10_000.0)
    assert (window.judged == 1).all()
    assert not window.above.any()
    assert s.mean(0, 10_000.0)[1].max() == 1


def test_flat_mean_never_forgets_before_counts_could_overflow():
    s = stats(forgets=False, span_s=1.0, span_frames=32)
    n = FLAT_HALF + 100
    for t in range(n):
        add(s, 0, float(t), 2.0)
    mean, count = s.mean(0, float(n))
    assert (count == n).all()
    np.testing.assert_allclose(mean, 2.0)
    assert s.window(0, n - 1.0).judged.max() <= 32, "but the rate looks at a window always"


def test_no_count_overflows_however_long_it_runs():
    s = stats(forgets=False, span_s=1e9, span_frames=32768, buckets=2)
    for _ in range(3 * FLAT_HALF + 10):
        add(s, 0, 0.0, 1.0)
    assert s.state()["count"].max() <= FLAT_HALF
    assert s.judged.max() <= 32768 // 2
    assert s.frames[0] == 3 * FLAT_HALF + 10


def test_cells_have_clocks_of_their_own():
    s = stats(span_frames=8)
    for t in range(100):
        add(s, 0, float(t))
    add(s, 1, 0.5)
    assert s.window(1, 1.0).judged.max() == 1
    assert s.bucket[1] == 0


def halves(s_args, deal):
    one, two, whole = (stats(**s_args) for _ in range(3))
    for t in range(30):
        add(whole, 0, float(t), t % 11)
        add((one, two)[deal(t)], 0, float(t), t % 11)
    return one, two, whole


@pytest.mark.parametrize("deal", [lambda t: t % 2, lambda t: t < 15, lambda t: 0])
def test_merged_windows_count_what_the_whole_counts(deal):
    one, two, whole = halves({"span_frames": 4000, "span_s": 200.0}, deal)
    merged, other_way = copy.deepcopy(one), copy.deepcopy(two)
    merged.merge(two)
    other_way.merge(one)
    for m in (merged, other_way):
        for a, b in zip(m.window(0, 29.0), whole.window(0, 29.0)):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(m.mean(0, 29.0)[0], whole.mean(0, 29.0)[0], rtol=1e-6)
        np.testing.assert_array_equal(m.mean(0, 29.0)[1], whole.mean(0, 29.0)[1])
        np.testing.assert_array_equal(m.frames, whole.frames)
        np.testing.assert_array_equal(m.latest, whole.latest)


def test_a_merge_that_would_overflow_is_refused_and_changes_nothing():
    one = stats(forgets=False, span_frames=32768, buckets=2)
    one.half_frames[0, 0], one.half_start[0, 0] = 40000, 0.0
    two = copy.deepcopy(one)
    before = {k: v.copy() for k, v in one.state().items()}
    with pytest.raises(ConfigError, match="too many frames"):
        one.merge(two)
    for name, array in one.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_state_restores_to_something_that_continues_identically():
    s = stats()
    for t in range(23):
        add(s, t % 2, t * 3.0, t % 13 - 6)
    kept = SnrStats.restore(s.state())
    for t in range(23, 80):
        add(s, t % 2, t * 3.0, t % 13 - 6)
    assert kept.frames.sum() == 23
    for t in range(23, 80):
        add(kept, t % 2, t * 3.0, t % 13 - 6)
    for name, array in s.state().items():
        np.testing.assert_array_equal(array, kept.state()[name], err_msg=name)


@pytest.mark.parametrize("pattern", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_counts_do_not_depend_on_which_pixels_are_expected(pattern):
    """Of the usual pixels those that were not judged are counted, of others those that were; shards may differ in it."""
    rng, parts = np.random.default_rng(4), []
    seen = rng.random((2, 12, *SHAPE)) < 0.8
    for frames, usual in zip(seen, pattern):
        s = stats(span_frames=400)
        s.expect(0, np.arange(6).reshape(SHAPE) % 2 == usual)
        for t, there in enumerate(frames):
            half, bucket = s.open(0, float(t))
            for kept in (s.count[half, 0], s.judged[bucket, 0]):
                kept += there != s.usual[0]
        parts.append(s)
    for s, frames in zip(parts, seen):
        np.testing.assert_array_equal(s.mean(0, 11.0)[1], frames.sum(0))
        np.testing.assert_array_equal(s.window(0, 11.0).judged, frames.sum(0))
    empty = stats(span_frames=400)
    for s in (empty, parts[1]):
        s.merge(parts[0])
    for s, frames in ((empty, seen[0]), (parts[1], seen.sum(0))):
        expected = frames.sum(0)
        np.testing.assert_array_equal(s.mean(0, 11.0)[1], expected)
        np.testing.assert_array_equal(s.window(0, 11.0).judged, expected)


def test_what_lay_in_memory_before_a_window_began_is_of_no_account():
    clean, dirty, more = stats(), stats(), stats()
    for s in (dirty, more):
        for name in ("total", "count", "judged", "above", "below"):
            getattr(s, name)[...] = 77
    for n in range(30):
        for s in (clean, dirty):
            add(s, n % 2, float(n), n % 9)
    add(more, 1, 30.0, 3.0)
    for of, into in ((more, clean), (more, dirty)):
        into.merge(of)
    for cell in range(2):
        for a, b in zip(
            (*clean.mean(cell, 31.0), *clean.window(cell, 31.0)), (*dirty.mean(cell, 31.0), *dirty.window(cell, 31.0))
        ):
            np.testing.assert_array_equal(a, b)
    for name, array in clean.state().items():
        np.testing.assert_array_equal(array, dirty.state()[name], err_msg=name)
