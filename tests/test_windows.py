"""kernels/windows.py and background.py against their twin: single lit frames, floors, dither, stages, sums, warm starts."""

import math
from dataclasses import replace

import naive_planes as naive
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmm_stream.config import Features, Fit, Lit, Settings
from rmm_stream.detectors import DetectorSpec
from rmm_stream.frames import Illumination
from rmm_stream.rmm import background, gain
from rmm_stream.rmm.kernels import windows
from rmm_stream.rmm.kernels.compiled import aligned
from rmm_stream.rmm.outliers import consistency
from rmm_stream.rmm.snr import SnrStats

few = settings(max_examples=30, deadline=None)
SHAPE = (20, 48)
TILES = np.array([[0, 20, 0, 24], [0, 20, 24, 48]])
#: Two tiles side by side, three stages; integers, and the same calibrated.
SPEC = DetectorSpec(
    name="pair",
    modules=1,
    module_shape=SHAPE,
    asic_shape=(20, 24),
    stages=("a", "b", "c"),
    gain="analogue",
    edge_width=0,
)
FLOAT = replace(SPEC, bits=0)
FIT = (0.5, 3.0, consistency(3.0))
NO_OFFSET = np.zeros(SHAPE, np.float32)
COLD = Settings(fit=Fit(dither="off"), features=Features(lit=Lit(warm=False)))


def lit_frame(seed=0, dtype=np.uint16, sd=8.0):
    rng = np.random.default_rng(seed)
    frame = rng.normal(500, sd, SHAPE) + 0.3 * np.arange(48)
    frame[3, 5] += 400
    frame[4, 30] -= 300
    return np.rint(frame).astype(dtype) if np.issubdtype(dtype, np.integer) else frame.astype(dtype)


def sums_of(spec=SPEC, cells=1) -> SnrStats:
    return SnrStats(cells, spec.module_shape, 8, 600.0, 1024, True, 2)


def judge(
    frame, *, spec=SPEC, settings=COLD, where=None, offset=NO_OFFSET, of_stage=(0, 0), stage=0, stats=None, sample=False
):
    """(tiles judged, total, count, judged, above, below) of a frame. where: (ss, fs) stage of each pixel, 9 for none."""
    light = Illumination.SAMPLE if sample else Illumination.FLAT
    route, gains = gain.Route(stage), None
    if where is not None:
        bands = np.broadcast_to(np.array([[s, s] for s in range(3)], np.uint16)[:, :, None, None], (3, 2, *SHAPE))
        route, gains = gain.by_bands(None, np.ascontiguousarray(bands)), where.astype(np.uint16)
    stats = sums_of(spec) if stats is None else stats
    done = background.FrameJudge(spec, settings, light)(
        frame, gains, route, offset, np.array(of_stage), stage, stats, 0, 0.0
    )
    return done, stats.total[0, 0], *counts_of(stats), stats.above[0, 0], stats.below[0, 0]


def counts_of(stats, cell=0) -> tuple[np.ndarray, np.ndarray]:
    """Frames in which each pixel was judged, by half-windows and by buckets."""
    return stats.mean(cell, 0.0)[1], stats.window(cell, 0.0).judged


def bands_like(rng) -> np.ndarray:
    """Bands of three stages, some empty, some that touch; beyond 11 there is none."""
    edges = np.sort(rng.integers(0, 12, (2, *SHAPE)), axis=0)
    ends = np.concatenate([np.zeros((1, *SHAPE), int), edges, np.full((1, *SHAPE), 12)])
    low, high = ends[:-1], ends[1:] - 1
    return np.stack([np.where(low > high, 1, low), np.where(low > high, 0, high)], axis=1).astype(np.uint16)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 20, 48)])
def test_no_vector_of_an_aligned_array_lies_in_two_lines_of_the_cache(shape):
    made = aligned(shape, np.float32)
    assert made.ctypes.data % 64 == 0
    assert (made.shape, made.dtype, made.flags.c_contiguous, made.flags.writeable) == (shape, np.float32, True, True)


@pytest.mark.parametrize("seed", range(8))
def test_stages_of_tiles_and_loads_like_their_twins(seed):
    """Free-running: stages by bands, and values less offsets of the pixels in each."""
    rng = np.random.default_rng(seed)
    frame, bands, offset = lit_frame(seed), bands_like(rng), rng.normal(100, 3, SHAPE).astype(np.float32)
    indicator = rng.integers(0, 13, SHAPE).astype(np.uint16)
    indicator[:, :24] = rng.integers(0, 2 + seed, (20, 24))  # a tile nearly of one stage
    frame[rng.random(SHAPE) < 0.1], offset[5, ::9] = 65535, np.nan
    judge_ = background.FrameJudge(replace(SPEC, sentinels=(65535,)), COLD, Illumination.FLAT)
    for array in (frame, indicator, bands):
        array.flags.writeable = False
    route = gain.by_bands(None, bands)
    expected = naive.stage_of(frame, indicator, bands, 0, 65534)
    of_stage = judge_.stages_of_tiles(frame, indicator, route)
    assert of_stage.tolist() == naive.majority_stages(expected, TILES, 3)
    stack = judge_.stack
    for stage in range(3):
        windows.load_tiles(
            *judge_._flat(frame, indicator, route), offset.ravel(), 48, TILES, np.full(2, stage), stage, 24,
            stack.z, stack.usable, stack.wanted,
        )  # fmt: skip
        twin = naive.load_tiles(frame, expected, offset, stage)
        for z, n, (top, bottom, left, right) in zip(stack.z, stack.usable, TILES):
            np.testing.assert_allclose(z.reshape(20, 24), twin[top:bottom, left:right], rtol=1e-6)
            assert n == np.isfinite(twin[top:bottom, left:right]).sum()
        assert stack.wanted.tolist() == [1, 1]


@pytest.mark.parametrize("seed", range(4))
def test_of_two_stages_with_as_many_pixels_the_lower_is_the_majority(seed):
    where = np.random.default_rng(seed).permuted(np.repeat([2, 1], 480)).reshape(SHAPE)
    where[:, 24:] = 9
    where[0, 24:26] = 2, 0
    bands = np.array([[s, s] for s in range(3)], np.uint16)[:, :, None, None]
    route = gain.by_bands(None, np.ascontiguousarray(np.broadcast_to(bands, (3, 2, *SHAPE))))
    frame, pixels = lit_frame(), where.astype(np.uint16)
    found = background.FrameJudge(SPEC, COLD, Illumination.FLAT).stages_of_tiles(frame, pixels, route)
    assert found.tolist() == naive.majority_stages(where, TILES, 3)


def test_of_a_held_exposure_every_tile_with_a_valid_pixel_is_in_its_stage():
    spec = replace(SPEC, sentinels=(0,))
    frame = np.zeros(SHAPE, np.uint16)
    frame[7, 30] = 5
    assert background.FrameJudge(spec, COLD, Illumination.FLAT).stages_of_tiles(
        frame, None, gain.Route(1)
    ).tolist() == [-1, 1]


def test_of_held_codes_only_those_of_the_stage_are_valid():
    spec = replace(SPEC, gain="code", gain_codes=(0, 1, 3), bits=14, packed=2)
    codes = np.full(SHAPE, 1, np.uint8)
    codes[:, 24:], codes[2, 2] = 0, 3
    route, frame = gain.code_route(spec, 1), lit_frame()
    judge_ = background.FrameJudge(spec, COLD, Illumination.FLAT)
    of_stage = judge_.stages_of_tiles(frame, codes, route)
    assert of_stage.tolist() == [1, -1]
    stats = sums_of()
    assert judge_(frame, codes, route, NO_OFFSET, of_stage, 1, stats, 0, 0.0) == 1
    assert np.argwhere(counts_of(stats)[0][:, :24] == 0).tolist() == [[2, 2]]


@pytest.mark.parametrize("clip", [np.inf, 5.0])
def test_add_snr_like_its_twin(clip, rng):
    """Ragged tiles, one of them not wanted, sums that are not empty."""
    tiles, columns, (y, x) = np.array([[0, 5, 0, 7], [0, 5, 7, 13], [0, 4, 13, 20]]), 7, np.mgrid[:5, :7] - 2.0
    z, width = rng.normal(20, 30, (3, 35)).astype(np.float32), 20
    z[rng.random(z.shape) < 0.1] = np.nan
    planes, sigmas = rng.normal(10, 1, (3, 3)) * [1, 0.1, 0.1], np.array([4.0, 3.0, 5.0])
    sums = [rng.integers(0, 50, (2, 3, 100)).astype(t) for t in (np.float32, *(np.uint16,) * 4)]
    before, usual, tried = [a.copy() for a in sums], rng.random((3, 100)) < 0.7, np.ones((2, 3, 3), np.int64)
    done = windows.add_snr(
        z, np.array([1, 0, 1]), planes, sigmas, 1.0, np.full(3, 0.1), columns, y.ravel().astype(np.float32),
        x.ravel().astype(np.float32), np.float32(clip), np.float32(6), width, tiles, 1, 0, 2, usual,
        tried, *sums,
    )  # fmt: skip
    snr = np.full((5, 20), np.nan)
    for t in (0, 2):
        top, bottom, left, right = tiles[t]
        here = z[t].reshape(5, 7) - (planes[t, 0] + planes[t, 1] * y + planes[t, 2] * x[0])
        snr[top:bottom, left:right] = (here / sigmas[t])[: bottom - top, : right - left]
    assert done == 2
    in_tiles = np.zeros((5, 20), bool)
    for top, bottom, left, right in tiles:
        in_tiles[top:bottom, left:right] = True
    twin = naive.add_snr(snr.ravel(), clip, 6, usual[2], in_tiles.ravel())
    assert (tried[1, 2] == [2, 1, 2]).all()
    assert tried.sum() == 2 * 3 * 3 + 2
    for window, after, start, added in zip((1, 1, 0, 0, 0), sums, before, twin):
        start[window, 2] += added.astype(start.dtype)
        np.testing.assert_allclose(after, start, rtol=1e-5, atol=1e-5)


@few
@given(arrays(np.float32, (5, 6), elements=st.one_of(st.floats(-100, 9000, width=32), st.just(np.nan))))
def test_photon_floors_like_its_twin(v):
    floors = np.zeros(1)
    windows.photon_floors(v.reshape(1, -1), np.ones(1, np.int64), 50.0, 0.5, floors)
    assert floors[0] == pytest.approx(naive.photon_floors(v, 50.0, 0.5), rel=1e-5)


@pytest.mark.parametrize(("value", "floor"), [(np.nan, 0.0), (-7, 0.0), (1e9, math.sqrt(50 * 500))])
def test_photon_floor_without_pixels_or_photons_is_the_least(value, floor):
    floors = np.zeros(1)
    windows.photon_floors(np.full((1, 9), value, np.float32), np.ones(1, np.int64), 50.0, 0.0, floors)
    assert floors[0] == pytest.approx(floor, rel=1e-5)


@pytest.mark.parametrize(
    "spec", [SPEC, replace(SPEC, sentinels=(9,)), FLOAT, replace(SPEC, bits=32), replace(SPEC, bits=8)]
)
def test_judged_frames_like_their_twin(spec):
    """Plain frames, and those whose data no range tells: inner sentinels, 32 bits."""
    frame, where = lit_frame(1, np.float32), np.zeros(SHAPE, np.uint8)
    frame = (np.rint(frame / 4) if spec.bits == 8 else np.rint(frame)).astype(spec.dtype)
    where[0, :4], where[7, 30:33] = 9, 1
    offset = np.linspace(0, 50, frame.size).reshape(SHAPE).astype(np.float32)
    offset[10, 10:13] = np.nan
    seen = where.astype(int)
    if spec.sentinels:
        frame[11, 5] = 9
        seen[11, 5] = -1
    if spec.calibrated:
        frame[11, 5:8] = np.nan, np.inf, -np.inf
        seen[11, 5:8] = -1
    frame.flags.writeable = False
    done, total, count, judged, above, below = judge(frame, spec=spec, where=where, offset=offset)
    settings_ = (*FIT, spec.sigma_floor)
    snr = naive.judge_frame(naive.load_tiles(frame, seen, offset, 0), TILES, NO_OFFSET, settings_, 0.0, 0, [0, 0], 0)
    known = ~np.isnan(snr)
    assert done == 2
    np.testing.assert_array_equal(count, known)
    np.testing.assert_array_equal(judged, known)
    np.testing.assert_allclose(total[known], snr[known], atol=0.03, rtol=0.01)
    assert np.argwhere(above).tolist() == [[3, 5]]
    assert np.argwhere(below).tolist() == [[4, 30]]


def test_clip_bounds_the_sum_and_not_the_count():
    _, total, _, _, above, below = judge(lit_frame(), sample=True)
    assert total[3, 5] == 5
    assert total[4, 30] == -5
    assert above[3, 5] == below[4, 30] == 1
    assert np.abs(total).max() == 5


def test_only_tiles_of_the_stage_are_judged():
    done, _, count, *_ = judge(lit_frame(), of_stage=[0, 1], stage=1)
    assert done == 1
    assert not count[:, :24].any()
    assert count[:, 24:].all()
    assert judge(lit_frame(), of_stage=[-1, -1], stage=1)[0] == 0


def test_pixels_of_no_tile_are_not_judged():
    apart = replace(SPEC, module_shape=(20, 49), asic_shape=(20, 24))
    frame = np.pad(lit_frame(), ((0, 0), (0, 1)), mode="edge")
    stats, offset = sums_of(apart), np.zeros((20, 49), np.float32)
    judge_ = background.FrameJudge(apart, COLD, Illumination.FLAT)
    assert judge_(frame, None, gain.Route(0), offset, np.array([0, 0]), 0, stats, 0, 0.0) == 2
    count, judged = counts_of(stats)
    assert count[:, :24].all()
    assert count[:, 25:].all()
    kept = stats.state()  # with the windows that have not begun cleared
    assert not any(a[..., 24].any() for a in (count, judged, *(kept[n] for n in ("total", "above", "below"))))


def test_a_frame_of_nothing_adds_nothing():
    for frame in (np.zeros(SHAPE, np.float32), np.full(SHAPE, np.nan, np.float32)):
        done, *sums = judge(frame, spec=FLOAT)
        assert done == 0
        assert not any(a.any() for a in sums)


@pytest.mark.parametrize("warm", [True, False])
def test_sums_of_frames_are_sums_of_single_frames(warm):
    both = sums_of()
    settings_ = Settings(fit=Fit(dither="off"), features=Features(lit=Lit(warm=warm)))
    _, *whole = [judge(lit_frame(seed), settings=settings_, stats=both) for seed in (1, 2)][-1]
    one, two = (judge(lit_frame(seed)) for seed in (1, 2))
    for name, a, b, c in zip(("total", "count", "judged", "above", "below"), whole, one[1:], two[1:]):
        np.testing.assert_allclose(a, b.astype(a.dtype) + c, atol=0.04 if name == "total" and warm else 0)


def test_photon_noise_is_the_least_sigma_of_the_first_stage_only():
    frame, spec = lit_frame(sd=1.0), replace(SPEC, adu_per_photon=50.0)
    snr = {stage: judge(frame, spec=spec, of_stage=[stage] * 2, stage=stage)[1][3, 5] for stage in (0, 1)}
    mean = float(np.minimum(frame[:, :24].astype(float), 500).mean())
    assert snr[0] == pytest.approx(400 / math.sqrt(50 * mean), rel=0.02)
    assert snr[1] > 10 * snr[0]


@pytest.mark.parametrize("when", ["off", "auto", "on"])
def test_dithered_fits_like_their_twin(when):
    """Counts of which most are 0, of an integrating detector: without dither sigma is the floor."""
    frame = np.random.default_rng(3).poisson(0.3, SHAPE).astype(np.uint16)
    stats = sums_of()
    for _ in range(2):  # a second frame is fitted as the first one
        stats.total[:] = 0
        judge(frame, settings=Settings(fit=Fit(dither=when)), stats=stats)
        use = {"off": 0, "auto": 1, "on": 2}[when]
        snr = naive.judge_frame(
            frame.astype(float), TILES, background.dither(SHAPE), (*FIT, SPEC.sigma_floor), 0.0, use, [0, 0], 0
        )
        np.testing.assert_allclose(stats.total[0, 0], snr, rtol=0.05, atol=0.1)


def test_warm_sums_are_cold_ones_to_two_hundredths_of_a_sigma():
    """Frames of gamma-distributed intensity, jumps, and now and then 40 % of contamination."""
    spec = replace(SPEC, module_shape=(128, 64), asic_shape=(64, 64))
    y, x = np.mgrid[:128, :64]
    rng, n, means = np.random.default_rng(5), 300, []
    frames = []
    for t in range(n):
        light = rng.gamma(4, 0.25) * (400 + 2 * y + x) + (300 if t % 7 == 3 else 0)
        frame = 1000 + light + rng.normal(0, 1, y.shape) * np.sqrt(20 * light + 64)
        bad = rng.random(y.shape) < (0.4 if t % 5 == 0 else 0.01)
        frame[bad] += rng.uniform(8, 100, bad.sum()) * 60
        frames.append(np.rint(frame).clip(0, 60000).astype(np.uint16))
    offset, route = np.full(y.shape, 1000, np.float32), gain.Route(0)
    for warm in (True, False):
        settings_ = Settings(features=Features(lit=Lit(warm=warm)))
        judge_, stats = background.FrameJudge(spec, settings_, Illumination.SAMPLE), sums_of(spec)
        for t, frame in enumerate(frames):
            judge_(frame, None, route, offset, np.array([0, 0]), 0, stats, 0, float(t))
        means.append(stats.mean(0, float(n))[0])
    assert np.abs(means[0] - means[1]).max() < 0.02


def test_a_plane_that_went_wrong_is_forgotten():
    stats = sums_of()
    judge_ = background.FrameJudge(SPEC, Settings(), Illumination.FLAT)

    def feed(seed):
        judge_(lit_frame(seed), None, gain.Route(0), NO_OFFSET, np.array([0, 0]), 0, stats, 0, 0.0)

    feed(1)
    good = stats.planes[0].copy()
    stats.planes[0, :, 0] += 1000
    feed(2)
    np.testing.assert_allclose(stats.planes[0], good, atol=3)
    stats.sigmas[0] = np.nan  # as after a tile that could not be fitted
    feed(3)
    np.testing.assert_allclose(stats.planes[0], good, atol=3)


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
    """Of each train one in `every` of its cells; of each cell one train in `every`; and the same however they are asked."""
    trains, cells = 4000, 8 * every
    ids = np.repeat(np.uint64(2**40 + 17) + np.arange(trains, dtype=np.uint64) * np.uint64(step), cells)
    cell = np.tile(np.arange(cells, dtype=np.uint16), trains)
    found = background.is_sampled(ids, cell, every)
    by_train = found.reshape(trains, cells)
    assert (by_train.sum(axis=1) == 8).all()
    assert by_train.mean(axis=0) == pytest.approx(1 / every, rel=0.15)
    np.testing.assert_array_equal(background.is_sampled(ids[::3], cell[::3], every), found[::3])


def test_judge_of_an_exposure_knows_floor_clip_and_dither():
    sample = background.FrameJudge(TINY, Settings(), Illumination.SAMPLE)
    flat = background.FrameJudge(TINY_CALIBRATED, Settings(), Illumination.FLAT)
    assert (sample.clip, flat.clip) == (5.0, np.inf)
    assert sample.sigma_floor == pytest.approx(12**-0.5)
    assert flat.sigma_floor == 0
    assert sample.use_dither == 1
    assert flat.use_dither == 0
