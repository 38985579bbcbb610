"""PixelStats: the laws of docs/method.md 6, exact for integers, to rounding for floats; folding, restarting, keeping."""

import laws
import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.rmm.kernels import sums
from rmm_stream.rmm.kernels.blocks import BLOCK
from rmm_stream.rmm.kernels.sums import SPILL_AT
from rmm_stream.rmm.stats import INDICATOR, VALUE, Block, FloatStats, IntegerStats, flat

few = settings(max_examples=40, deadline=None)
SHAPE = (2, 3)
TOP = (1 << 14) - 1


def narrow(cells, shape, dtype=np.uint16):
    return IntegerStats(cells, shape, dtype, narrow=True)


narrow.restore = IntegerStats.restore
KINDS = [
    pytest.param(IntegerStats, np.uint16, True, id="integer"),
    pytest.param(narrow, np.uint16, True, id="blocks"),
    pytest.param(FloatStats, np.float32, False, id="float"),
]


class Feeder:
    """Frames of one cell with the stage of every pixel; adds those of the indices asked for."""

    def __init__(self, kind, dtype, frames, where, stage=0, care=VALUE):
        self.kind, self.dtype, self.frames, self.where, self.stage, self.care = kind, dtype, frames, where, stage, care

    def new(self):
        return self.kind(2, SHAPE, self.dtype)

    def feed(self, stats, indices, cell=1):
        if self.kind is narrow:
            add_blocks(stats, self.frames, self.where, np.asarray(indices, np.int64), cell)
        else:
            self.update(stats, indices, cell)

    def update(self, stats, indices, cell=1):
        stats.update(self.frames, np.asarray(indices, np.int64), self.where, self.stage, cell, self.care)
        stats.frames[cell] += len(indices)

    def stats(self, indices):
        out = self.new()
        self.feed(out, indices)
        return out


def add_blocks(stats, frames, where, indices, cell):
    """Add frames as blocks of eight; what does not count is beyond the limits, as a place without a frame is."""
    values = np.where(where == 0, frames, 65535).astype(np.uint16)
    blank = np.full((1, *SHAPE), 65535, np.uint16)
    for part in np.split(indices, range(BLOCK, len(indices), BLOCK)):
        if len(part):
            stacks = (flat(values),) * len(part) + (flat(blank),) * (BLOCK - len(part))
            rows = np.zeros((1, BLOCK), np.int64)
            rows[0, : len(part)] = part
            stats.add(Block(stacks, rows, np.array([cell])), (0, TOP))
    stats.frames[cell] += len(indices)


def draw_feeder(data, kind, dtype, n=None, stages=(0, 1, 128, 255)):
    n = data.draw(st.integers(1, 14)) if n is None else n
    if dtype == np.uint16:
        top = TOP if kind is narrow else 65535
        values = st.one_of(st.sampled_from([0, 1, top - 1, top]), st.integers(0, top))
    else:
        values = st.floats(-1000, 1000, width=32)
    frames = data.draw(arrays(dtype, (n, *SHAPE), elements=values))
    where = data.draw(arrays(np.uint8, (n, *SHAPE), elements=st.sampled_from(stages)))
    frames.flags.writeable = where.flags.writeable = False
    return n, Feeder(kind, dtype, frames, where)


#: Hypothesis finds float inputs whose spread is far below their size; rounding is then relative to the values, not to sigma.
LOOSE = {"mean_to": 1e-6, "sd_to": 1e-7}


@pytest.mark.parametrize(("kind", "dtype", "exact"), KINDS)
@few
@given(st.data())
def test_any_split_and_any_order_give_the_same_moments(kind, dtype, exact, data):
    n, feeder = draw_feeder(data, kind, dtype)
    cuts = data.draw(st.lists(st.integers(0, n), max_size=4))
    laws.stream_is_batch(feeder.new, feeder.feed, n, cuts, 1)  # the same order: the same bits, for floats too
    order = data.draw(st.permutations(range(n)))
    laws.order_is_free(feeder.new, feeder.feed, order, 1, exact, **tolerance(exact))


def tolerance(exact):
    return {} if exact else LOOSE


@pytest.mark.parametrize(("kind", "dtype", "exact"), KINDS)
@few
@given(st.data())
def test_shards_merge_to_the_whole_in_any_order(kind, dtype, exact, data):
    n, feeder = draw_feeder(data, kind, dtype)
    owner = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    shards = [[t for t in range(n) if owner[t] == s] for s in range(3)]
    laws.shards_are_whole(feeder.new, feeder.feed, shards, 1, exact, **tolerance(exact))
    a, b, c = (feeder.stats(s) for s in shards)
    laws.merge_commutes(a, b, 1, exact, **tolerance(exact))
    laws.merge_associates(a, b, c, 1, exact, **tolerance(exact))
    laws.empty_is_neutral(a, feeder.new(), 1)


@few
@given(st.data())
def test_subtract_undoes_merge_across_references(data):
    n, feeder = draw_feeder(data, IntegerStats, np.uint16)
    parted = data.draw(st.integers(0, n))
    a, b = feeder.stats(range(parted)), feeder.stats(range(parted, n))
    laws.subtract_undoes_merge(a, b, 1)
    whole = feeder.stats(range(n))
    whole.subtract(a)  # the reference came from a
    laws.same_moments(whole, b, 1)


def test_subtract_undoes_merge_of_floats_to_rounding(rng):
    frames = rng.normal(8000, 10, (500, *SHAPE)).astype(np.float32)
    feeder = Feeder(FloatStats, np.float32, frames, np.zeros(frames.shape, np.uint8))
    laws.subtract_undoes_merge(feeder.stats(range(300)), feeder.stats(range(300, 500)), 1, exact=False, sd_to=1e-9)
    one = feeder.stats(range(7))
    one.subtract(feeder.stats(range(7)))
    assert not one.count.any()
    assert np.isnan(one.moments(1).mean).all()


@few
@given(st.data())
def test_masking_is_accumulating_and_subtracting(data):
    n, feeder = draw_feeder(data, IntegerStats, np.uint16, stages=(0,))
    drop = data.draw(arrays(np.bool_, (n, *SHAPE)))
    masked = Feeder(IntegerStats, np.uint16, feeder.frames, np.where(drop, 128, 0).astype(np.uint8))
    only = Feeder(IntegerStats, np.uint16, feeder.frames, np.where(drop, 0, 128).astype(np.uint8))
    whole = feeder.stats(range(n))
    whole.subtract(only.stats(range(n)))
    laws.same_moments(whole, masked.stats(range(n)), 1)


@few
@given(st.data())
def test_counts_over_stages_add_up_to_the_valid_values(data):
    n, feeder = draw_feeder(data, IntegerStats, np.uint16, stages=(0, 1, 2, 128, 129, 130, 255))
    per_stage = []
    for stage in range(3):
        feeder.stage = stage
        per_stage.append(feeder.stats(range(n)).moments(1).count)
    np.testing.assert_array_equal(sum(per_stage), (feeder.where < 3).sum(0))
    feeder.care, per_stage = INDICATOR, []
    for stage in range(3):
        feeder.stage = stage
        per_stage.append(feeder.stats(range(n)).moments(1).count)
    np.testing.assert_array_equal(sum(per_stage), (feeder.where != 255).sum(0))


@few
@given(st.data())
def test_moments_are_those_of_exact_fractions(data):
    n, feeder = draw_feeder(data, IntegerStats, np.uint16)
    found = feeder.stats(range(n)).moments(1)
    for i, j in np.ndindex(SHAPE):
        v = [feeder.frames[t, i, j].item() for t in range(n) if feeder.where[t, i, j] == 0]
        count, mean, m2 = naive.triple(v)
        assert found.count[i, j] == count
        np.testing.assert_allclose([found.mean[i, j], found.m2[i, j]], [mean, m2], rtol=3e-16, atol=0)
    sd = found.std()
    assert np.isnan(sd[found.count < 2]).all()
    assert np.isfinite(sd[found.count > 1]).all()


def test_other_cells_are_untouched():
    frames = np.full((3, *SHAPE), 9, np.uint16)
    stats = Feeder(IntegerStats, np.uint16, frames, np.zeros(frames.shape, np.uint8)).stats(range(3))
    assert not stats.moments(0).count.any()
    assert (stats.moments(1).count == 3).all()


@few
@given(st.data(), st.integers(2, 9))
def test_folding_changes_nothing(data, fold_at):
    n, feeder = draw_feeder(data, IntegerStats, np.uint16)
    whole = feeder.stats(range(n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "FOLD_AT", fold_at)
        folding = feeder.new()
        for block in np.split(np.arange(n), sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))):
            feeder.feed(folding, block)
        assert (folding.wide is not None) or n <= fold_at
        laws.same_moments(folding, whole, 1)
        half = n // 2
        laws.subtract_undoes_merge(folding, feeder.stats(range(half)), 1)
        laws.merge_commutes(folding, feeder.stats(range(half)), 1)
        laws.shards_are_whole(feeder.new, feeder.feed, [range(half), range(half, n)], 1)
        kept = IntegerStats.restore(folding.state())
        laws.same_moments(kept, whole, 1)
        folding.restart(1)
        assert not folding.moments(1).count.any()
        feeder.feed(folding, range(n))
        laws.same_moments(folding, whole, 1)


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (65535, 0)])
def test_fold_comes_before_any_sum_can_overflow(low, high):
    """Twice as many frames as fit, each as far from the reference as 16 bits allow."""
    frames = np.array([np.full(SHAPE, low), np.full(SHAPE, high)], np.uint16)
    stats = Feeder(IntegerStats, np.uint16, frames, np.zeros(frames.shape, np.uint8)).new()
    many = np.ones(2 * sums.FOLD_AT + 5, np.int64)
    many[0] = 0
    stats.update(frames, many[:7], np.zeros(frames.shape, np.uint8), 0, 0)
    stats.update(frames, many[7:], np.zeros(frames.shape, np.uint8), 0, 0)
    n, found = len(many), stats.moments(0)
    assert (found.count == n).all()
    exact = (low + high * (n - 1)) / n
    np.testing.assert_allclose(found.mean, exact, rtol=1e-15)
    np.testing.assert_allclose(found.m2, 65535**2 * (n - 1) / n, rtol=1e-14)
    doubled = laws.joined(stats, stats)
    assert (doubled.moments(0).count == 2 * n).all()
    np.testing.assert_array_equal(doubled.moments(0).mean, found.mean)
    laws.subtract_undoes_merge(doubled, stats, 0)


@pytest.mark.parametrize(("kind", "dtype", "exact"), KINDS)
def test_state_restores_to_something_that_continues_identically(kind, dtype, exact, rng):
    frames = rng.integers(0, 16383, (30, *SHAPE)).astype(dtype)
    feeder = Feeder(kind, dtype, frames, np.zeros(frames.shape, np.uint8))
    stats = feeder.stats(range(20))
    kept = kind.restore(stats.state())
    feeder.feed(stats, range(20, 30))
    assert (kept.moments(1).count == 20).all(), "the arrays of the state must be copied"
    feeder.feed(kept, range(20, 30))
    laws.same_moments(kept, stats, 1)
    np.testing.assert_array_equal(kept.frames, stats.frames)


@few
@given(st.data())
def test_blocks_and_single_frames_give_the_same_moments(data):
    n, feeder = draw_feeder(data, narrow, np.uint16)
    blocks, singles = feeder.new(), feeder.new()
    feeder.feed(blocks, range(n))
    feeder.update(singles, range(n))
    wide = IntegerStats(2, SHAPE)
    feeder.update(wide, range(n))
    laws.same_moments(blocks, singles, 1)
    laws.same_moments(blocks, wide, 1)
    laws.merge_commutes(blocks, wide, 1)


@few
@given(st.data())
def test_blocks_in_which_every_value_counts_are_counted_as_a_whole(data):
    n, feeder = draw_feeder(data, narrow, np.uint16, n=2 * BLOCK, stages=(0,))
    masked, whole = feeder.stats(range(n)), feeder.new()
    for first in (0, BLOCK):
        rows = np.arange(first, first + BLOCK)[None]
        whole.add(Block((flat(feeder.frames),) * BLOCK, rows, np.array([1])), None)
    whole.frames[1] = n
    laws.same_moments(whole, masked, 1)
    laws.subtract_undoes_merge(whole, masked, 1)
    laws.same_moments(IntegerStats.restore(whole.state()), masked, 1)
    whole.restart(1)
    assert not whole.moments(1).count.any()


@pytest.mark.parametrize(("low", "high"), [(0, TOP), (TOP, 0)])
def test_wild_pixels_leave_the_narrow_sums_before_they_overflow(low, high):
    """Some pixels as far from their reference as 14 bits allow, for more blocks than an uint32 holds."""
    first, wild = np.full(SHAPE, low, np.uint16), np.full(SHAPE, low, np.uint16)
    wild[0, :2] = high
    stats, n = narrow(1, SHAPE), 1
    frames = np.stack([first, wild])
    where = np.zeros(frames.shape, np.uint8)
    add_blocks(stats, frames, where, np.array([0]), 0)
    for _ in range(40):
        add_blocks(stats, frames, where, np.ones(BLOCK, np.int64), 0)
        n += BLOCK
        assert (stats.s2 < SPILL_AT).all()
    pixels, _ = stats.spilled[0]
    assert pixels.tolist() == [0, 1], "only those are kept apart"
    found = stats.moments(0)
    assert (found.count == n).all()
    mean, m2 = naive.moments(0, n, low + high * (n - 1), low**2 + high**2 * (n - 1))
    assert found.mean[0, 0] == pytest.approx(mean, rel=1e-15)
    assert found.m2[0, 0] == pytest.approx(m2, rel=1e-15)
    assert found.m2[1, 2] == 0
    laws.same_moments(IntegerStats.restore(stats.state()), stats, 0)
    laws.subtract_undoes_merge(laws.joined(stats, stats), stats, 0)
    stats.restart(0)
    assert not stats.spilled


def test_reference_is_the_first_value_that_counts_or_near_it():
    """The sums of narrow values must stay narrow, also of a pixel whose first values are no data."""
    frames = np.array([np.full(SHAPE, 60000), np.full(SHAPE, 5), np.full(SHAPE, 7)], np.uint16)
    frames[1:, 0, 0] = 65535
    stats = narrow(2, SHAPE)
    stats.add(Block((flat(frames),) * BLOCK, np.array([[0, 1, *[2] * 6]]), np.array([1])), (0, 16000))
    assert stats.reference[1].tolist() == [[16000, 5, 5], [5, 5, 5]]
    found = stats.moments(1)
    assert found.count.tolist() == [[0, 7, 7], [7, 7, 7]]
    assert found.mean[1, 1] == pytest.approx(47 / 7)


def test_no_frames_are_nan_and_never_zero():
    for kind in (IntegerStats, FloatStats):
        found = kind(1, SHAPE).moments(0)
        assert np.isnan(found.mean).all()
        assert np.isnan(found.m2).all()
        assert np.isnan(found.std()).all()


def test_a_million_frames_lose_nothing(rng):
    """Mean and sd after 1e6 frames at offset 16000, sd 1.5, against exact integers."""
    stats, n = IntegerStats(1, (1, 4)), 1_000_000
    s1 = s2 = np.zeros(4, np.int64)
    where = np.zeros((n // 20, 1, 4), np.uint8)
    for _ in range(20):
        frames = np.rint(rng.normal(16000, 1.5, where.shape)).astype(np.uint16)
        stats.update(frames, np.arange(len(frames)), where, 0, 0)
        s1, s2 = (s + p for s, p in zip((s1, s2), _powers(frames)))
    found = stats.moments(0)
    assert (found.count == n).all()
    for i in range(4):
        mean, m2 = naive.moments(0, n, int(s1[i]), int(s2[i]))
        assert found.mean[0, i] == pytest.approx(mean, rel=1e-15)
        assert found.m2[0, i] == pytest.approx(m2, rel=1e-15)


def _powers(frames):
    v = frames[:, 0].astype(np.int64)
    return v.sum(0), (v * v).sum(0)
