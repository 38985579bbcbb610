"""F1: foreign dark frames, judged live against the last ones, and in batch against each other."""

from dataclasses import replace

import naive
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_stream.config import Gate
from rmm_stream.rmm.gate import FrameGate, frame_mean, outlying, serves_as_base, subset

GATE = Gate(history=60, learn=30)


def darks(n, seed=0, level=1000.0, sd=10.0, spec=TINY):
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99).normal(0, 200, spec.module_shape)  # offsets of pixels: no part of the spread
    return np.rint(level + fixed + rng.normal(0, sd, (n, *spec.module_shape))).clip(0).astype(spec.dtype)


def verdicts(gate, frames):
    return [gate.accepts(f) for f in frames]


def test_subset_takes_all_of_a_small_frame_and_a_17th_of_a_large_one():
    assert subset(np.zeros((64, 64)), TINY).size == 4096
    large, spec = np.arange(512 * 128).reshape(512, 128), replace(TINY, saturation=None)
    assert subset(large, spec).size == pytest.approx(large.size / 17, abs=1)
    assert len(set(subset(large, spec) % 128)) == 128, "not the same columns in every row"


def test_a_first_frame_without_enough_data_is_not_the_base():
    gate, frames = FrameGate(TINY_CALIBRATED, GATE), darks(40, spec=TINY_CALIBRATED)
    broken = np.full_like(frames[0], np.nan)
    broken[0, :20] = 5.0
    assert not serves_as_base(subset(broken, TINY_CALIBRATED))
    assert gate.accepts(broken)
    assert all(verdicts(gate, frames))
    assert not gate.accepts(frames[0] + np.float32(500))


def test_frame_mean_is_what_a_frame_is_above_its_base():
    frames = darks(2)
    base = subset(frames[0], TINY)
    assert frame_mean(frames[0] + np.uint16(7), base, TINY) == pytest.approx(7)
    frames[1, :20] = 16383  # saturated
    assert abs(frame_mean(frames[1], base, TINY)) < 2
    assert frame_mean(frames[1], base, replace(TINY, sentinels=(1,))) == frame_mean(frames[1], base, TINY)


def test_frame_mean_of_a_frame_without_data_is_nan():
    assert np.isnan(frame_mean(np.full(TINY.module_shape, 16383, np.uint16), subset(darks(1)[0], TINY), TINY))
    assert np.isnan(frame_mean(np.full((64, 32), np.nan, np.float32), np.zeros(2048), TINY_CALIBRATED))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 80), st.floats(3, 12))
def test_outlying_like_its_twin(seed, n, cut):
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 2, n)
    means[rng.random(n) < 0.2] += 60
    means[rng.random(n) < 0.05] = np.nan
    expected = naive.outlying(means, cut, TINY.sigma_floor)
    assert outlying(means, Gate(cut=cut), TINY).tolist() == expected


def test_batch_finds_the_foreign_among_all():
    frames = darks(100)
    foreign = [0, 3, 50, 51, 99]
    frames[foreign] += np.uint16(90)
    for base in (subset(frames[0], TINY), subset(frames[7], TINY)):
        means = np.array([frame_mean(frame, base, TINY) for frame in frames])
        assert np.flatnonzero(outlying(means, GATE, TINY)).tolist() == foreign


def test_identical_frames_are_all_kept():
    frames = np.repeat(darks(1), 50, axis=0)
    means = np.array([frame_mean(frame, subset(frames[0], TINY), TINY) for frame in frames])
    assert not outlying(means, GATE, TINY).any()


def test_frames_on_trial_are_let_through_and_prove_foreign_at_its_end():
    gate, frames = FrameGate(TINY, GATE), darks(30)
    frames[11] += np.uint16(200)
    failed = []
    for f in frames:
        assert gate.accepts(f)
        failed.append(gate.trial_failed())
    assert failed == [False] * 29 + [True]
    assert gate.accepts(darks(1, seed=5)[0])
    assert not gate.trial_failed(), "once"


def test_a_clean_trial_does_not_fail():
    gate = FrameGate(TINY, GATE)
    assert all(verdicts(gate, darks(30)))
    assert not gate.trial_failed()


def test_a_foreign_frame_after_the_trial_is_refused():
    gate = FrameGate(TINY, GATE)
    verdicts(gate, darks(40))
    assert not gate.accepts(darks(1, 7)[0] + np.uint16(100))
    assert not gate.accepts(darks(1, 8)[0] - np.uint16(100))
    assert gate.accepts(darks(1, 9)[0])


def test_a_real_step_does_not_lock_the_gate_for_good():
    gate = FrameGate(TINY, GATE)
    verdicts(gate, darks(60))
    after = verdicts(gate, darks(80, 1, level=1100))
    assert not any(after[:20])
    assert all(after[-30:])


def test_a_base_that_is_itself_foreign_does_no_harm():
    frames = darks(60)
    frames[0] = np.random.default_rng(4).integers(0, 16000, TINY.module_shape)
    gate = FrameGate(TINY, GATE)
    verdicts(gate, frames)
    assert gate.trial_failed() is False  # the trial is over
    assert not gate.accepts(darks(1, 7)[0] + np.uint16(3000))
    assert gate.accepts(darks(1, 9)[0])


def test_unfit_frames_are_kept_and_do_not_disturb():
    gate = FrameGate(TINY, GATE)
    nothing = np.full(TINY.module_shape, 16383, np.uint16)
    verdicts(gate, darks(40))
    assert gate.accepts(nothing)
    assert gate.accepts(darks(1, 9)[0])
    assert not gate.accepts(darks(1, 9)[0] + np.uint16(300))


def test_state_restores_to_something_that_continues_identically():
    gate = FrameGate(TINY, GATE)
    verdicts(gate, darks(45))
    kept = FrameGate.restore(gate.state(), TINY, GATE)
    frames = darks(60, 3)
    frames[::9] += np.uint16(60)
    assert verdicts(gate, frames) == verdicts(kept, frames)
    fresh = FrameGate.restore(FrameGate(TINY, GATE).state(), TINY, GATE)
    assert fresh.values.base is None
    assert fresh.values.seen == 0
