"""The laws of docs/method.md 6, as functions over statistics; a test says of which. Knows neither frames nor detectors.

`exact` says whether bits are compared (integers) or values to rounding (law 6: 1e-8 sigma in the mean, 1e-10 in sd).
"""

import copy

import numpy as np


def same_moments(a, b, cell: int, exact: bool = True, mean_to: float = 1e-8, sd_to: float = 1e-10) -> None:
    """Two statistics agree about one cell: count, mean, M2."""
    one, two = a.moments(cell), b.moments(cell)
    np.testing.assert_array_equal(one.count, two.count)
    if exact:
        np.testing.assert_array_equal(one.mean, two.mean)
        np.testing.assert_array_equal(one.m2, two.m2)
        return
    known = one.count > 0
    sigma = np.sqrt(one.m2[known] / np.maximum(one.count[known] - 1, 1))
    least = np.maximum(sigma, 1e-12 * np.abs(one.mean[known]) + 1e-300)  # a constant has no sigma to measure by
    assert np.all(np.abs(one.mean[known] - two.mean[known]) <= mean_to * least + 1e-15 * np.abs(one.mean[known]))
    close = 2 * sd_to * one.m2[known] + one.count[known] * (1e-14 * np.abs(one.mean[known])) ** 2
    assert np.all(np.abs(one.m2[known] - two.m2[known]) <= close)


def joined(a, b):
    """A copy of a, with b merged."""
    out = copy.deepcopy(a)
    out.merge(b)
    return out


def merge_commutes(a, b, cell: int, exact: bool = True, **tolerance) -> None:
    same_moments(joined(a, b), joined(b, a), cell, exact, **tolerance)


def merge_associates(a, b, c, cell: int, exact: bool = True, **tolerance) -> None:
    same_moments(joined(joined(a, b), c), joined(a, joined(b, c)), cell, exact, **tolerance)


def subtract_undoes_merge(a, b, cell: int, exact: bool = True, **tolerance) -> None:
    whole = joined(a, b)
    whole.subtract(b)
    same_moments(whole, a, cell, exact, **tolerance)
    np.testing.assert_array_equal(whole.frames, a.frames)


def empty_is_neutral(a, empty, cell: int) -> None:
    """To the bit, for floats too: nothing is added."""
    same_moments(joined(a, empty), a, cell)
    same_moments(joined(empty, a), a, cell)


def stream_is_batch(new, feed, frames: int, cuts: list[int], cell: int, exact: bool = True, **tolerance) -> None:
    """Any split of the frames into blocks gives what one block gives. feed(stats, indices) adds frames."""
    whole, parts = new(), new()
    feed(whole, np.arange(frames))
    for block in np.split(np.arange(frames), sorted(cuts)):
        feed(parts, block)
    same_moments(parts, whole, cell, exact, **tolerance)


def order_is_free(new, feed, order, cell: int, exact: bool = True, **tolerance) -> None:
    """Any order of frames gives what the order of arrival gives."""
    one, two = new(), new()
    feed(one, np.sort(order))
    feed(two, np.asarray(order))
    same_moments(one, two, cell, exact, **tolerance)


def shards_are_whole(new, feed, shards: list, cell: int, exact: bool = True, **tolerance) -> None:
    """Frames dealt out to shards, which are merged, give what one gives. shards: lists of frame indices."""
    whole, merged = new(), new()
    feed(whole, np.sort(np.concatenate([np.asarray(s, np.int64) for s in shards])))
    for shard in shards:
        part = new()
        feed(part, np.asarray(shard, np.int64))
        merged.merge(part)
    same_moments(merged, whole, cell, exact, **tolerance)
