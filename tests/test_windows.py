"""kernels/windows.py and background.py against their twin: SNR of single lit frames, floors, dither, stages, sums."""

import math

import naive_planes as naive
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.config import Settings
from rmm_stream.frames import Illumination
from rmm_stream.rmm import background
from rmm_stream.rmm.kernels import windows

few = settings(max_examples=30, deadline=None)
SHAPE = (20, 48)
TILES = np.array([[0, 20, 0, 24], [0, 20, 24, 48]])
FIT = (0.5, 3.0, 1.0154, 0.289)


def lit_frame(seed=0, dtype=np.uint16, sd=8.0):
    rng = np.random.default_rng(seed)
    frame = rng.normal(500, sd, SHAPE) + 0.3 * np.arange(48)
    frame[3, 5] += 400
    frame[4, 30] -= 300
    return np.rint(frame).astype(dtype) if np.issubdtype(dtype, np.integer) else frame.astype(dtype)


def rows():
    return [np.zeros(SHAPE, t) for t in (np.float32, np.uint16, np.uint16, np.uint16, np.uint16)]


def judge(frame, where, offset, of_stage, stage, sums, *, adu=0.0, use_dither=0, clip=np.inf, cut=5.0, fit=FIT):
    dither = background.dither(SHAPE)
    return windows.judge_frame(
        frame, where, offset, TILES, dither, fit, adu, use_dither, clip, cut, np.asarray(of_stage), stage, *sums
    )


@few
@given(arrays(np.uint8, (6, 8), elements=st.sampled_from([0, 1, 2, 128, 130, 255])))
def test_majority_stages_like_its_twin(where):
    small, of_stage = np.array([[0, 6, 0, 8], [1, 3, 2, 5], [0, 1, 0, 1]]), np.empty(3, np.int64)
    windows.majority_stages(where, small, 3, of_stage)
    assert of_stage.tolist() == naive.majority_stages(where, small, 3)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_load_like_its_twin(dtype, rng):
    frame = rng.normal(500, 300, 100).clip(0, 60000).astype(dtype)
    where = rng.choice(np.array([0, 1, 128], np.uint8), 100)
    offset = rng.normal(100, 3, 100).astype(np.float32)
    offset[::9] = np.nan
    v = np.empty(100, np.float32)
    windows.load(frame, where, offset, 1, v)
    np.testing.assert_allclose(v, naive.load(frame, where, offset, 1), rtol=1e-6)


@pytest.mark.parametrize("clip", [np.inf, 5.0])
def test_each_pass_over_a_row_like_its_twin(clip, rng):
    v = rng.normal(20, 30, 77).astype(np.float32)
    v[::10] = np.nan
    snr = np.empty(77, np.float32)
    windows.snr_of_row(v, np.float32(18), np.float32(0.1), np.float32(0.25), snr)
    np.testing.assert_allclose(snr, naive.snr_of_row(v, 18, 0.1, 0.25), rtol=1e-5, atol=1e-5)
    sums = [rng.integers(0, 50, 77).astype(t) for t in (np.float32, np.uint16, np.uint16, np.uint16, np.uint16)]
    before = [a.copy() for a in sums]
    windows.add(snr, np.float32(clip), np.float32(6), *sums)
    for after, start, added in zip(sums, before, naive.add(snr, clip, 6)):
        np.testing.assert_allclose(after, start + added, rtol=1e-6)


@few
@given(arrays(np.float32, (5, 6), elements=st.one_of(st.floats(-100, 9000, width=32), st.just(np.nan))))
def test_photon_floor_like_its_twin(v):
    assert windows.photon_floor(v, 50.0) == pytest.approx(naive.photon_floor(v, 50.0), rel=1e-6, abs=1e-6)


def test_photon_floor_without_pixels_or_photons_is_zero():
    assert windows.photon_floor(np.full((3, 3), np.nan, np.float32), 50.0) == 0
    assert windows.photon_floor(np.full((3, 3), -7, np.float32), 50.0) == 0
    assert windows.photon_floor(np.full((3, 3), 1e9, np.float32), 50.0) == pytest.approx(math.sqrt(50 * 500))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_judge_frame_like_its_twin(dtype):
    frame, where, sums = lit_frame(1, dtype), np.zeros(SHAPE, np.uint8), rows()
    where[0, :4], where[7, 30:33] = 128, 1
    offset = np.linspace(0, 50, frame.size).reshape(SHAPE).astype(np.float32)
    offset[10, 10:13] = np.nan
    frame.flags.writeable = False
    assert judge(frame, where, offset, [0, 0], 0, sums) == 2
    total, count, judged, above, below = sums
    snr = naive.judge_frame(frame, where, offset, TILES, no_dither(), FIT, 0.0, 0, [0, 0], 0)
    seen = ~np.isnan(snr)
    np.testing.assert_array_equal(count, seen)
    np.testing.assert_array_equal(judged, seen)
    np.testing.assert_allclose(total[seen], snr[seen], atol=0.03, rtol=0.01)
    assert np.argwhere(above).tolist() == [[3, 5]]
    assert np.argwhere(below).tolist() == [[4, 30]]


def no_dither():
    return np.zeros(SHAPE, np.float32)


def test_clip_bounds_the_sum_and_not_the_count():
    sums = rows()
    judge(lit_frame(), np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.float32), [0, 0], 0, sums, clip=5.0)
    total, _, _, above, below = sums
    assert total[3, 5] == 5
    assert total[4, 30] == -5
    assert above[3, 5] == below[4, 30] == 1
    assert np.abs(total).max() == 5


def test_only_tiles_of_the_stage_are_judged():
    sums = rows()
    where = np.zeros(SHAPE, np.uint8)
    where[:, 24:] = 1
    assert judge(lit_frame(), where, np.zeros(SHAPE, np.float32), [0, 1], 1, sums) == 1
    assert not sums[1][:, :24].any()
    assert sums[1][:, 24:].all()
    assert judge(lit_frame(), where, np.zeros(SHAPE, np.float32), [-1, -1], 1, rows()) == 0


def test_pixels_of_no_tile_are_not_judged():
    sums, where, offset = rows(), np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.float32)
    apart = np.array([[0, 20, 0, 20], [0, 20, 25, 48]])
    done = windows.judge_frame(
        lit_frame(),
        where,
        offset,
        apart,
        background.dither(SHAPE),
        FIT,
        0.0,
        0,
        np.inf,
        5.0,
        np.array([0, 0]),
        0,
        *sums,
    )
    assert done == 2
    assert sums[1][:, :20].all()
    assert sums[1][:, 25:].all()
    assert not any(a[:, 20:25].any() for a in sums)


def test_a_frame_of_nothing_adds_nothing():
    for frame in (np.zeros(SHAPE, np.float32), np.full(SHAPE, np.nan, np.float32)):
        sums = rows()
        where = np.where(np.isnan(frame), 128, 0).astype(np.uint8)
        assert judge(frame, where, np.zeros(SHAPE, np.float32), [0, 0], 0, sums, fit=(*FIT[:3], 0.0)) == 0
        assert not any(a.any() for a in sums)


def test_sums_of_frames_are_sums_of_single_frames():
    both, one, two = rows(), rows(), rows()
    for seed, single in ((1, one), (2, two)):
        for sums in (both, single):
            judge(lit_frame(seed), np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.float32), [0, 0], 0, sums)
    for a, b, c in zip(both, one, two):
        np.testing.assert_array_equal(a, b + c)


def test_photon_noise_is_the_least_sigma_of_the_first_stage_only():
    frame = lit_frame(sd=1.0)
    snr = {}
    for stage in (0, 1):
        sums = rows()
        where = np.full(SHAPE, stage, np.uint8)
        judge(frame, where, np.zeros(SHAPE, np.float32), [stage] * 2, stage, sums, adu=50.0)
        snr[stage] = sums[0][3, 5]
    mean = float(np.minimum(frame[:, :24].astype(float), 500).mean())
    assert snr[0] == pytest.approx(400 / math.sqrt(50 * mean), rel=0.02)
    assert snr[1] > 10 * snr[0]


@pytest.mark.parametrize("use_dither", [0, 1, 2])
def test_window_background_like_its_twin(use_dither):
    v = np.random.default_rng(3).poisson(0.3, (24, 24)).astype(np.float32)
    dither = background.dither((24, 24))
    plane, r = np.empty(3), np.empty(v.size, np.float32)
    sigma = windows.window_background(v, dither, use_dither, 1.5, FIT, plane, r)
    expected = naive.window_background(v, dither, use_dither, 1.5, FIT)[1]
    assert sigma == pytest.approx(expected, rel=0.03)


def test_dither_is_reproducible_and_even():
    d = background.dither((64, 64))
    assert d.dtype == np.float32
    assert not d.flags.writeable
    assert -0.5 <= d.min() < -0.49
    assert 0.49 < d.max() <= 0.5
    assert abs(d.mean()) < 0.02
    assert d.var() == pytest.approx(1 / 12, rel=0.05)
    np.testing.assert_array_equal(d, background.dither.__wrapped__((64, 64)))
    assert len(np.unique(d)) > 4090


@pytest.mark.parametrize("every", [1, 2, 4, 7])
@pytest.mark.parametrize("step", [1, 2, 4, 10, 4096])
def test_f6_runs_evenly_whatever_the_step_of_train_ids(every, step):
    ids = np.uint64(2**40 + 17) + np.arange(4000, dtype=np.uint64) * np.uint64(step)
    share = background.is_sampled(ids, every).mean()
    assert share == pytest.approx(1 / every, rel=0.15)
    np.testing.assert_array_equal(background.is_sampled(ids[::3], every), background.is_sampled(ids, every)[::3])


def test_judge_of_an_exposure_knows_floor_clip_and_dither():
    sample = background.FrameJudge(TINY, Settings(), Illumination.SAMPLE)
    flat = background.FrameJudge(TINY_CALIBRATED, Settings(), Illumination.FLAT)
    assert (sample.clip, flat.clip) == (5.0, np.inf)
    assert sample.settings[3] == pytest.approx(12**-0.5)
    assert flat.settings[3] == 0
    assert sample.use_dither == 1
    assert flat.use_dither == 0
    where = np.zeros(TINY.module_shape, np.uint8)
    where[32:] = 255
    assert sample.stages_of_tiles(where).tolist() == [0, -1]
