"""kernels/blocks.py against its twins: exact integers of eight frames, masked, in bands, up to the bounds of the lanes."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.rmm.kernels import blocks, sums

few = settings(max_examples=40, deadline=None)
TOP = (1 << 14) - 1
CELLS = 3
WILD = st.one_of(st.sampled_from([0, 1, TOP - 1, TOP]), st.integers(0, TOP))


def drawn(data, dtype, pixels, values=WILD, wide=0):
    """(stacks, rows): eight stacks of a few frames, and the frames of each cell. wide: share of values beyond 14 bits."""
    most = int(np.iinfo(dtype).max)
    if dtype == np.uint8:
        values = st.integers(0, most)
    elif wide:
        values = st.one_of(values, st.integers(TOP + 1, most))
    stacks = [data.draw(arrays(dtype, (2, pixels), elements=values)) for _ in range(blocks.BLOCK)]
    for stack in stacks:
        stack.flags.writeable = False
    return tuple(stacks), data.draw(arrays(np.int64, (CELLS, blocks.BLOCK), elements=st.integers(0, 1)))


def empty(dtype, pixels, reference):
    shape = CELLS, pixels
    return [np.full(shape, reference, dtype), *(np.zeros(shape, t) for t in (np.uint16, np.int32, np.uint32))]


def same(rows, expected, cell):
    _, count, s1, s2 = rows
    assert count[cell].tolist() == expected[:, 0].tolist()
    assert s1[cell].tolist() == expected[:, 1].tolist()
    assert s2[cell].tolist() == expected[:, 2].tolist()


@few
@given(st.sampled_from([np.uint8, np.uint16]), st.integers(1, 40), st.integers(0, 255), st.data())
def test_add_blocks_like_its_twin(dtype, pixels, reference, data):
    stacks, frames = drawn(data, dtype, pixels)
    rows, seen = empty(dtype, pixels, reference), np.empty(CELLS, np.uint32)
    blocks.add_blocks(stacks, frames, np.arange(CELLS), rows[0], rows[2], rows[3], seen)
    rows[1][:] = blocks.BLOCK  # counted by whoever calls
    for cell, expected in enumerate(naive.add_blocks(stacks, frames, rows[0])):
        same(rows, expected, cell)
        assert seen[cell] == np.bitwise_or.reduce(rows[3][cell])


@few
@given(st.sampled_from([np.uint8, np.uint16]), st.integers(1, 40), st.data())
def test_add_blocks_masked_like_its_twin(dtype, pixels, data):
    """Also where what is masked has more than 14 bits: it may not disturb the lanes."""
    stacks, frames = drawn(data, dtype, pixels, wide=1)
    top = min(TOP, int(np.iinfo(dtype).max))
    least = data.draw(st.integers(0, top))
    most = data.draw(st.integers(least, top))
    rows, seen = empty(dtype, pixels, data.draw(st.integers(least, most))), np.empty(CELLS, np.uint32)
    order = np.array(data.draw(st.permutations(range(CELLS))))
    blocks.add_blocks_masked(stacks, frames, order, dtype(least), dtype(most), *rows, seen)
    for k, expected in enumerate(naive.add_blocks_masked(stacks, frames, least, most, rows[0][order])):
        same(rows, expected, order[k])
        assert seen[k] == np.bitwise_or.reduce(rows[3][order[k]])


def chosen_bands(data, dtype, stages, pixels):
    """(stages, 2, px) uint16, some of them empty, some of every indicator."""
    top = int(np.iinfo(dtype).max)
    ends = st.one_of(st.sampled_from([0, 1, top, 65535]), st.integers(0, top))
    bands = data.draw(arrays(np.uint16, (stages, 2, pixels), elements=ends))
    bands.flags.writeable = False
    return bands


@few
@given(st.sampled_from([np.uint8, np.uint16]), st.integers(1, 40), st.integers(1, 3), st.integers(0, 8), st.data())
def test_mark_bands_like_its_twin(dtype, pixels, stages, n, data):
    gains, frames = drawn(data, dtype, pixels, wide=1)
    bands = chosen_bands(data, dtype, stages, pixels)
    marks, some = np.empty((stages, pixels), np.uint8), np.empty(stages, bool)
    blocks.mark_bands(gains, frames[1], n, bands, marks, some)
    assert (marks.tolist(), some.tolist()) == naive.mark_bands(gains, frames[1], n, bands)


def test_mark_bands_across_its_chunks_like_its_twin():
    rng, pixels = np.random.default_rng(0), blocks.CHUNK + 700
    gains = tuple(rng.integers(0, 1 << 16, (1, pixels), dtype=np.uint16) for _ in range(blocks.BLOCK))
    bands = rng.integers(0, 1 << 16, (3, 2, pixels), dtype=np.uint16)
    bands[2] = [[1], [0]]  # empty
    bands[1, :, : blocks.CHUNK] = bands[2, :, : blocks.CHUNK]  # so that only the last chunk has one
    for array in (*gains, bands):
        array.flags.writeable = False
    marks, some = np.empty((3, pixels), np.uint8), np.empty(3, bool)
    blocks.mark_bands(gains, np.zeros(blocks.BLOCK, np.int64), 7, bands, marks, some)
    assert (marks.tolist(), some.tolist()) == naive.mark_bands(gains, [0] * blocks.BLOCK, 7, bands)
    assert some.tolist() == [True, True, False]


@few
@given(st.sampled_from([np.uint8, np.uint16]), st.integers(1, 40), st.data())
def test_add_block_marked_like_its_twin(dtype, pixels, data):
    """Also where what is not to be added has more than 14 bits: it may not disturb the lanes."""
    stacks, frames = drawn(data, dtype, pixels, wide=1)
    top = min(TOP, int(np.iinfo(dtype).max))
    least = data.draw(st.integers(0, top))
    most = data.draw(st.integers(least, top))
    rows = [a[1] for a in empty(dtype, pixels, data.draw(st.integers(least, most)))]
    marks = data.draw(arrays(np.uint8, pixels))
    seen = blocks.add_block_marked(stacks, frames[1], marks, dtype(least), dtype(most), *rows)
    expected = naive.add_block_marked(stacks, frames[1], marks, least, most, rows[0])
    same([a[None] for a in rows], expected, 0)
    assert seen == np.bitwise_or.reduce(rows[3])


@few
@given(st.integers(1, 5 * blocks.PIECE), st.lists(st.integers(0, 5 * blocks.PIECE - 1), max_size=4), st.data())
def test_pixels_that_are_passed_over_keep_their_sums(pixels, marked, data):
    """Marks here and there: runs of pieces with one, whole and cut off by the end, and pieces without."""
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    stacks = tuple(rng.integers(0, TOP + 9, (1, pixels), dtype=np.uint16) for _ in range(blocks.BLOCK))
    for stack in stacks:
        stack.flags.writeable = False
    marks = np.zeros(pixels, np.uint8)
    marks[[i for i in marked if i < pixels]] = rng.integers(1, 256)
    rows = [a[0] for a in empty(np.uint16, pixels, 77)]
    rows[1][:], rows[2][:], rows[3][:] = 3, -5, 1 << 30
    frames = np.zeros(blocks.BLOCK, np.int64)
    seen = blocks.add_block_marked(stacks, frames, marks, np.uint16(0), np.uint16(TOP), *rows)
    expected = naive.add_block_marked(stacks, frames, marks, 0, TOP, rows[0]) + [3, -5, 1 << 30]
    same([a[None] for a in rows], expected, 0)
    assert seen >= np.bitwise_or.reduce(rows[3][marks > 0], initial=0)


@few
@given(st.sampled_from([np.uint8, np.uint16]), st.integers(1, 4), st.integers(1, 6), st.booleans(), st.data())
def test_indicators_are_added_where_all_are_in_place_and_else_taken_out_to_the_bit(gain_type, rows, width, calm, data):
    wide, pixels = 0 if calm else 1, rows * width
    gains, frames = drawn(data, gain_type, pixels, wide=wide)
    top = int(np.iinfo(gain_type).max)
    low = np.zeros(pixels, np.uint16) if calm else data.draw(arrays(np.uint16, pixels, elements=st.integers(0, top)))
    high = np.full(pixels, top, np.uint16)
    reference, _, s1, s2 = (a[1] for a in empty(gain_type, pixels, 7))
    s1[:], s2[:] = 5, 6
    most = gain_type(min(TOP, top))
    common = np.stack([low.reshape(rows, -1).max(1), high.reshape(rows, -1).min(1)])
    outside, _ = blocks.add_block_placed(gains, frames[1], low, high, common, most, np.int32(1), reference, s1, s2)
    assert outside == naive.add_block_placed(gains, frames[1], low, high, most)
    if not outside:
        expected = naive.add_blocks(gains, frames[1:2], reference[None])[0]
        assert s1.tolist() == (expected[:, 1] + 5).tolist()
        assert s2.tolist() == (expected[:, 2] + 6).tolist()
    blocks.add_block_placed(gains, frames[1], low, high, common, most, np.int32(-1), reference, s1, s2)
    assert (s1.tolist(), s2.tolist()) == ([5] * pixels, [6] * pixels)


@pytest.mark.parametrize(("reference", "value"), [(0, TOP), (TOP, 0)])
def test_lanes_hold_the_largest_block_on_top_of_sums_that_were_not_yet_taken_away(reference, value):
    """The worst case: every difference is +-(2**14 - 1), and s2 is just below the value at which it is taken away."""
    stacks = (np.full((1, 50), value, np.uint16),) * blocks.BLOCK
    frames = np.zeros((1, blocks.BLOCK), np.int64)
    for how in ("all", "masked", "marked"):
        rows, seen = empty(np.uint16, 50, reference), np.empty(1, np.uint32)
        rows[3][0] = sums.SPILL_AT - 1
        if how == "marked":
            marks = np.full(50, 255, np.uint8)
            limits = np.uint16(0), np.uint16(TOP)
            seen[0] = blocks.add_block_marked(stacks, frames[0], marks, *limits, *(a[0] for a in rows))
        elif how == "masked":
            blocks.add_blocks_masked(stacks, frames, np.zeros(1, np.int64), np.uint16(0), np.uint16(TOP), *rows, seen)
        else:
            blocks.add_blocks(stacks, frames, np.zeros(1, np.int64), rows[0], rows[2], rows[3], seen)
        assert rows[2][0].tolist() == [8 * (value - reference)] * 50
        assert rows[3][0].tolist() == [sums.SPILL_AT - 1 + 8 * TOP**2] * 50
        assert seen[0] >= sums.SPILL_AT
