"""F1: foreign dark frames, judged live against the last ones, and in batch against each other."""

from dataclasses import replace

import naive
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_stream.config import Gate
from rmm_stream.detectors import DETECTORS, detector
from rmm_stream.rmm.gate import FrameGate, FrameMeans, frame_mean, outlying, rows, serves_as_base, subset
from rmm_stream.rmm.kernels import frame_gate
from rmm_stream.rmm.outliers import consistency, fit_1d

GATE = Gate(history=60, learn=30)
BARE = replace(TINY, gain="none")
seeds = st.integers(0, 2**32 - 1)


def darks(n, seed=0, level=1000.0, sd=10.0, spec=TINY):
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99).normal(0, 200, spec.module_shape)  # offsets of pixels: no part of the spread
    return np.rint(level + fixed + rng.normal(0, sd, (n, *spec.module_shape))).clip(0).astype(spec.dtype)


def judge(gate, frames, cell=None, indicator=None):
    cell = np.zeros(len(frames), np.int64) if cell is None else np.asarray(cell)
    return gate.judge(frames, indicator, np.arange(len(frames)), cell)


def verdicts(gate, frames):
    return judge(gate, frames).accepted.tolist()


def tiny(gate=GATE, cells=1, spec=TINY):
    return FrameGate(spec, gate, cells)


# ---- where it looks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETECTORS)
def test_one_pixel_in_16_is_looked_at_in_every_asic(name):
    spec = detector(name)
    taken = rows(spec)
    assert len(taken) == pytest.approx(spec.module_shape[0] / 16, rel=0.2)
    assert len(set(taken.tolist())) == len(taken)
    for first, last in spec.asics(0):
        inside = taken[(taken >= first) & (taken < last)]
        assert len(inside)
        assert first + (last - first) / 4 <= inside.mean() <= last - (last - first) / 4


def test_all_of_a_small_frame_is_looked_at():
    assert subset(np.zeros((64, 64)), replace(TINY, module_shape=(64, 64))).size == 4096
    assert len(rows(replace(TINY, module_shape=(66, 64), asic_shape=(32, 32)))) == 4  # between the ASICs nothing is


def test_a_first_frame_without_enough_data_is_not_the_base():
    gate, frames = tiny(spec=TINY_CALIBRATED), darks(40, spec=TINY_CALIBRATED)
    broken = np.full_like(frames[:1], np.nan)
    broken[:, :20] = 5.0
    assert not serves_as_base(subset(broken[0], TINY_CALIBRATED))
    assert verdicts(gate, broken) == [True]
    assert all(verdicts(gate, frames))
    assert verdicts(gate, frames[:1] + np.float32(500)) == [False]


# ---- mean of a frame -------------------------------------------------------------------------------------------------------


def test_frame_mean_is_what_a_frame_is_above_its_base():
    frames = darks(2)
    base = subset(frames[0], TINY)
    assert frame_mean(frames[0] + np.uint16(7), base, TINY) == pytest.approx(7)
    frames[1, :20] = 16383  # saturated
    assert abs(frame_mean(frames[1], base, TINY)) < 2
    assert frame_mean(frames[1], base, replace(TINY, sentinels=(1,))) == frame_mean(frames[1], base, TINY)


def test_frame_mean_of_a_frame_without_data_is_nan():
    assert np.isnan(frame_mean(np.full(TINY.module_shape, 16383, np.uint16), subset(darks(1)[0], TINY), TINY))
    assert np.isnan(frame_mean(np.full((64, 32), np.nan, np.float32), np.zeros((64, 32)), TINY_CALIBRATED))


@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(0, 60), st.floats(0, 0.45), st.sampled_from([(), (1000,), (990, 1001)]), st.floats(0, 3000))
def test_counted_mean_of_a_frame_is_the_sorted_one(seed, sd, share, sentinels, shift):
    """Also where a share of the pixels is far off, and where all are: then more is counted."""
    rng = np.random.default_rng(seed)
    spec = replace(BARE, sentinels=sentinels)
    frames = darks(3, seed, sd=sd).astype(np.float64)
    frames[1] += shift
    frames[2] += np.where(rng.random(frames[2].shape) < share, rng.integers(-16383, 16383), 0)
    frames[:, :3] = 16383
    frames = np.rint(frames).clip(0, 16383).astype(np.uint16)
    means = FrameMeans(spec, 1).of(frames, np.arange(3), np.zeros(3, np.int64))
    base = subset(frames[0], spec)
    for found, frame in zip(means, frames):
        x = np.sort((subset(frame, spec) - base).ravel())
        assert found == pytest.approx(fit_1d(x[np.isfinite(x)]).mean, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(0, 60))
def test_frame_means_like_its_twin(seed, sd):
    rng = np.random.default_rng(seed)
    spec = replace(BARE, module_shape=(6, 8), asic_shape=(3, 4), saturation=1700, sentinels=(1000, 7))
    frames = darks(7, seed, sd=sd, spec=spec)
    frames[rng.random(frames.shape) < 0.1] = 60000
    frames[5] += np.uint16(30000)
    means, take, cell = FrameMeans(spec, 2), np.array([4, 0, 6, 1, 3, 5]), np.array([0, 1, 1, 0, 1, 0])
    found = means.of(frames, take, cell)
    expected = naive.frame_means(frames, take, cell, means.rows, spec.saturation, spec.sentinels, means.base)
    np.testing.assert_allclose(found, expected, atol=1e-9)


# ---- verdict ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 80), st.floats(3, 12))
def test_outlying_like_its_twin(seed, n, cut):
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 2, n)
    means[rng.random(n) < 0.2] += 60
    means[rng.random(n) < 0.05] = np.nan
    expected = naive.outlying(means, cut, TINY.sigma_floor)
    assert outlying(means, Gate(cut=cut), TINY).tolist() == expected


@settings(max_examples=12, deadline=None)
@given(seeds, st.integers(20, 40), st.integers(20, 50), st.floats(3, 12))
def test_verdicts_like_its_twin(seed, history, learn, cut):
    rng = np.random.default_rng(seed)
    n = 160
    means, cell = rng.normal(0, 2, n).round(1), rng.integers(0, 2, n)
    means[rng.random(n) < 0.1] += 60
    means[rng.random(n) < 0.05] = np.nan
    means[100:] += rng.choice([0, 40])
    count, ring, ordered = np.zeros((2, 2), np.int64), np.full((2, history), np.nan), np.full((2, history + 1), np.nan)
    verdict, room = np.empty(n, np.int8), np.empty(3 * history + 5)
    rule = (0.5, 0.35, 3.0, consistency(3.0), 0.3, cut)
    frame_gate.verdicts(means, cell, rule, learn, count, ring, ordered, room, verdict)
    assert verdict.tolist() == naive.verdicts(means.tolist(), cell.tolist(), history, learn, cut, 0.3)
    for c in range(2):
        last = means[cell == c][-history:]
        known = np.sort(last[~np.isnan(last)])
        assert count[c].tolist() == [np.sum(cell == c), len(known)]
        np.testing.assert_array_equal(ordered[c, : len(known)], known)


def test_a_verdict_is_that_of_outlying():
    rng, history = np.random.default_rng(3), 50
    means = rng.normal(0, 3, 200)
    means[rng.random(200) < 0.1] += 24
    count, ring, ordered = np.zeros((1, 2), np.int64), np.full((1, history), np.nan), np.full((1, history + 1), np.nan)
    verdict, room = np.empty(200, np.int8), np.empty(3 * history + 5)
    rule = (0.5, 0.35, 3.0, consistency(3.0), TINY.sigma_floor, 8.0)
    frame_gate.verdicts(means, np.zeros(200, np.int64), rule, 30, count, ring, ordered, room, verdict)
    expected = [outlying(means[max(0, i - history) : i + 1], Gate(), TINY)[-1] for i in range(30, 200)]
    assert (verdict[30:] == 0).tolist() == expected
    assert any(expected)


def test_batch_finds_the_foreign_among_all():
    frames = darks(100)
    foreign = [0, 3, 50, 51, 99]
    frames[foreign] += np.uint16(90)
    for base in (subset(frames[0], TINY), subset(frames[7], TINY)):
        means = np.array([frame_mean(frame, base, TINY) for frame in frames])
        assert np.flatnonzero(outlying(means, GATE, TINY)).tolist() == foreign


def test_identical_frames_are_all_kept():
    frames = np.repeat(darks(1), 50, axis=0)
    assert not outlying(FrameMeans(TINY, 1).of(frames, np.arange(50), np.zeros(50, np.int64)), GATE, TINY).any()
    assert all(verdicts(tiny(), frames))


# ---- live ------------------------------------------------------------------------------------------------------------------


def traffic(seed, n, cells, spec):
    """Frames of some cells in any order, values and indicator, some of them foreign or without data."""
    rng = np.random.default_rng(seed)
    frames, cell = darks(n, seed, spec=spec), rng.integers(0, cells, n)
    indicator = np.rint(rng.normal(4000, 20, frames.shape)).astype(np.uint16)
    for image in (frames, indicator):
        image[rng.random(n) < 0.03] += image.dtype.type(200)
    frames[rng.random(n) < 0.05] = np.nan if spec.calibrated else 16383
    return frames, indicator, cell


@settings(max_examples=15, deadline=None)
@given(
    seeds, st.lists(st.integers(0, 150), max_size=5), st.sampled_from([TINY, replace(TINY_CALIBRATED, gain="analogue")])
)
def test_any_split_of_frames_into_calls_gives_the_same_verdicts(seed, cuts, spec):
    frames, indicator, cell = traffic(seed, 150, 3, spec)
    few = Gate(history=25, learn=20)
    whole, parts = tiny(few, 3, spec), tiny(few, 3, spec)
    at_once = judge(whole, frames, cell, indicator)
    accepted, failed = np.zeros(150, bool), []
    borders = [0, *sorted(cuts), 150]
    for first, last in zip(borders, borders[1:]):
        take = np.arange(first, last)
        judged = parts.judge(frames, indicator, take, cell[take])
        accepted[take] = judged.accepted
        for c in judged.failed:  # what was let through before is forgotten then
            accepted[:first][cell[:first] == c] = False
        failed += judged.failed.tolist()
    assert accepted.tolist() == at_once.accepted.tolist()
    assert sorted(set(failed)) == at_once.failed.tolist()
    for (name, one), two in zip(whole.state().items(), parts.state().values()):
        np.testing.assert_array_equal(one, two, err_msg=name)


def test_cells_are_judged_apart():
    frames, cell = darks(80), np.arange(80) % 2
    frames[cell == 1] += np.uint16(500)
    gate = tiny(cells=2)
    assert judge(gate, frames, cell).accepted.all()
    assert judge(gate, frames[:2], [1, 0]).accepted.tolist() == [False, False]


def test_frames_on_trial_are_let_through_and_prove_foreign_at_its_end():
    gate, frames = tiny(), darks(30)
    frames[11] += np.uint16(200)
    judged = [judge(gate, f[None]) for f in frames]
    assert [j.accepted.tolist() for j in judged] == [[True]] * 29 + [[False]]
    assert [j.failed.tolist() for j in judged] == [[]] * 29 + [[0]]
    after = judge(gate, darks(1, seed=5))
    assert after.accepted.all()
    assert not len(after.failed), "once"


def test_frames_of_a_trial_that_fails_within_a_call_are_foreign_up_to_its_end():
    frames, cell = darks(70), np.arange(70) % 2
    frames[20] += np.uint16(200)
    judged = judge(tiny(cells=2), frames, cell)
    assert judged.failed.tolist() == [0]
    assert np.flatnonzero(~judged.accepted).tolist() == list(range(0, 60, 2))


def test_a_clean_trial_does_not_fail():
    gate = tiny()
    assert not gate.on_trial
    judged = judge(gate, darks(29))
    assert gate.on_trial
    assert judged.accepted.all()
    assert not len(judge(gate, darks(1, 3)).failed)
    assert not gate.on_trial


def test_a_foreign_frame_after_the_trial_is_refused():
    gate = tiny()
    verdicts(gate, darks(40))
    assert verdicts(gate, darks(1, 7) + np.uint16(100)) == [False]
    assert verdicts(gate, darks(1, 8) - np.uint16(100)) == [False]
    assert verdicts(gate, darks(1, 9)) == [True]


def test_a_real_step_does_not_lock_the_gate_for_good():
    for step in (100, 6000):  # the second is further than what is counted at first
        gate = tiny()
        verdicts(gate, darks(60))
        after = verdicts(gate, darks(80, 1, level=1000 + step))
        assert not any(after[:20])
        assert all(after[-30:])


def test_a_base_that_is_itself_foreign_does_no_harm():
    frames = darks(60)
    frames[0] = np.random.default_rng(4).integers(0, 16000, TINY.module_shape)
    gate = tiny()
    verdicts(gate, frames)
    assert verdicts(gate, darks(1, 7) + np.uint16(3000)) == [False]
    assert verdicts(gate, darks(1, 9)) == [True]


def test_unfit_frames_are_kept_and_do_not_disturb():
    gate = tiny()
    nothing = np.full((1, *TINY.module_shape), 16383, np.uint16)
    verdicts(gate, darks(40))
    assert verdicts(gate, nothing) == [True]
    assert verdicts(gate, darks(1, 9)) == [True]
    assert verdicts(gate, darks(1, 9) + np.uint16(300)) == [False]


def test_a_foreign_indicator_is_refused_of_either_width():
    for dtype in (np.uint8, np.uint16):
        gate = tiny()
        indicator = np.random.default_rng(0).normal(100, 2, (50, *TINY.module_shape)).astype(dtype)
        indicator[45] = 180
        accepted = judge(gate, darks(50), indicator=indicator).accepted
        assert np.flatnonzero(~accepted).tolist() == [45]


def test_state_restores_to_something_that_continues_identically():
    gate = tiny(cells=2)
    judge(gate, darks(90), np.arange(90) % 2)
    kept = FrameGate.restore(gate.state(), TINY, GATE, 2)
    frames = darks(60, 3)
    frames[::9] += np.uint16(60)
    assert verdicts(gate, frames) == verdicts(kept, frames)
    for name, array in gate.state().items():
        assert not np.shares_memory(array, kept.state()[name])
    fresh = FrameGate.restore(tiny().state(), TINY, GATE, 1)
    assert not fresh.series["values"].means.based.any()
    assert fresh.series["values"].count.tolist() == [[0, 0]]
