"""Axis orders: any order in, (cell, ss, fs) out; a contradiction is refused and never guessed away."""

from itertools import permutations

import numpy as np
import pytest
from builders import TINY

from rmm_stream.errors import ProtocolError
from rmm_stream.wire.axes import ORDER, Axes

ORDERS = [words for n in range(2, 6) for words in permutations(ORDER, n) if {"ss", "fs"} <= set(words)]
SIDES = {"module": 2, "kind": 2, "cell": 3, "ss": 64, "fs": 32}


def test_every_order_of_every_set_of_axes_is_undone(rng):
    for words in ORDERS:
        axes = Axes(words)
        frames = rng.integers(0, 1 << 14, [SIDES[word] if word in axes else 1 for word in ORDER], np.uint16)
        array = axes.join(frames)
        axes.check(array.shape, TINY)
        for module in range(frames.shape[0]):
            for kind in range(frames.shape[1]):
                found = axes.frames(array, module, kind)
                np.testing.assert_array_equal(found, frames[module, kind], err_msg=str(axes))
                assert found.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "u4", "f4"])
@pytest.mark.parametrize("words", ["fs ss cell", "ss fs cell", "module fs ss cell", "fs kind ss cell"])
def test_cells_that_change_fastest_are_turned_whatever_their_number_and_type(rng, words, dtype):
    axes = Axes.parse(words)
    for cells in (1, 2, 7, 8):
        sides = {"module": 2, "kind": 2, "cell": cells, "ss": 13, "fs": 9}  # more rows than are turned at a time
        frames = rng.integers(0, 256, [sides[word] if word in axes else 1 for word in ORDER]).astype(dtype)
        array = axes.join(frames)
        array.flags.writeable = False  # as it comes from a socket
        found = axes.frames(array, frames.shape[0] - 1)
        np.testing.assert_array_equal(found, frames[-1, 0])
        assert found.flags.c_contiguous
        assert found.dtype == dtype


@pytest.mark.parametrize("words", ["cell ss fs", "module cell ss fs", "ss fs"])
def test_frames_that_lie_right_are_a_view(words):
    axes = Axes.parse(words)
    array = np.zeros([SIDES[word] for word in axes.words], np.uint16)
    assert np.shares_memory(axes.frames(array, 1), array)


@pytest.mark.parametrize("words", ORDERS[::7], ids=" ".join)
def test_each_wrong_side_is_refused(words):
    axes = Axes(words)
    shape = [SIDES[word] for word in words]
    axes.check(tuple(shape), TINY)
    for place, word in enumerate(words):
        wrong = tuple(side + (i == place) for i, side in enumerate(shape))
        if word == "cell":
            axes.check(wrong, TINY)
        else:
            with pytest.raises(ProtocolError, match=word) as refused:
                axes.check(wrong, TINY)
            assert refused.value.reason == "shape"
    for wrong in (tuple(shape[1:]), (*shape, 1)):
        with pytest.raises(ProtocolError):
            axes.check(wrong, TINY)
