"""F6 on frames: one AGIPD module, 64 x 64 tiles, intensity that varies from frame to frame, hot and bad pixels.

Ours is all that a judged frame costs: stages of tiles, values less offsets, plane and scale, SNR sums and window counts. The
baselines do less: numpy's median and MAD of each tile without a plane, and the planes alone of the authors' library.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rmm_stream.config import Features, Lit, Settings
from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.frames import Illumination
from rmm_stream.rmm import gain
from rmm_stream.rmm.background import FrameJudge
from rmm_stream.rmm.kernels.compiled import read_only
from rmm_stream.rmm.snr import SnrStats

from .row import Row

ROUNDS, LIBRARY_ROUNDS = 15, 3
PASSES = 8  # over the frames in one measurement of ours, which is short: what a stream costs, not its first frames
FRAMES = 8  # of one memory cell, one after another, as its intensity goes up and down
SHAPE = AGIPD1M.module_shape
LEVELS = 4000, 6000, 8000  # of the gain indicator


def lit_frames(rng) -> tuple[NDArray, NDArray]:
    """(frames, offset): (FRAMES, ss, fs) uint16 and (ss, fs), ADU. As those of the prototypes: 1 % bad, 60 hot per frame."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    offset = rng.normal(5000, 60, SHAPE)
    frames = []
    for _ in range(FRAMES):
        light = rng.gamma(4, 0.25) * (120 + 60 * np.sin(y / 200) + 40 * x / 128)
        frame = offset + light + rng.normal(0, 1, SHAPE) * np.sqrt(light * 30) + rng.normal(0, 8, SHAPE)
        frame.flat[rng.integers(0, frame.size, 60)] += rng.exponential(3000, 60)
        frames.append(np.rint(frame).clip(0, 16382).astype(np.uint16))
    frames = np.array(frames)
    frames[:, rng.random(SHAPE) < 0.01] = 16000
    return frames, offset


def tiles_of(picture: NDArray) -> NDArray:
    """(16, 4096), tile by tile."""
    return picture.reshape(8, 64, 2, 64).transpose(0, 2, 1, 3).reshape(16, 4096)


def median_and_mad(frame: NDArray, offset: NDArray) -> NDArray:
    """The baseline: bad pixels by median and MAD of each tile, no plane."""
    v = tiles_of(frame.astype(np.float32) - offset)
    middle = np.median(v, 1)
    scale = 1.4826 * np.median(np.abs(v - middle[:, None]), 1)
    return np.abs((v - middle[:, None]) / scale[:, None]) > 8


def interleaved(calls: dict[str, tuple[Callable[[], object], int]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median thread CPU seconds of each call, per item, after a warm-up of all. calls: name -> (call, items)."""
    for call, _ in calls.values():
        call()
    spent = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, items) in calls.items():
            start = time.thread_time()
            call()
            spent[name].append((time.thread_time() - start) / items)
    return {name: statistics.median(times) for name, times in spent.items()}


def judged(frames: NDArray, offset: NDArray, rng, warm: bool) -> tuple[Callable[[], None], SnrStats]:
    """A call that judges the frames in turn, free-running with a few pixels in other stages; and the sums."""
    judge = FrameJudge(AGIPD1M, Settings(features=Features(lit=Lit(warm=warm))), Illumination.FLAT)
    stats = SnrStats(1, SHAPE, 8, 600.0, 1024, False, 16)
    gains = rng.normal(LEVELS[0], 30, frames.shape).astype(np.uint16)
    gains[rng.random(frames.shape) < 1e-4] = LEVELS[1]
    cuts = np.stack([np.full(SHAPE, (a + b) / 2, np.float32) for a, b in zip(LEVELS, LEVELS[1:])])
    route = gain.by_bands(None, gain.bands_of(cuts, True))
    less = np.where(AGIPD1M.edge(), np.nan, offset).astype(np.float32)
    frames, gains = read_only(frames), read_only(gains)  # as they come from a socket

    def call():
        for _ in range(PASSES):
            for frame, indicator in zip(frames, gains):
                of_stage = judge.stages_of_tiles(frame, indicator, route, less)
                judge(frame, indicator, route, less, of_stage, 0, stats, 0, 0.0)

    return call, stats


def plane_error(rng, share: float = 0.35, frames: int = 24) -> float:
    """Median over tiles of the rms error of the plane, in sigma, with a share of one-sided outliers."""
    judge = FrameJudge(AGIPD1M, Settings(features=Features(lit=Lit(warm=False))), Illumination.FLAT)
    stats = SnrStats(1, SHAPE, 8, 600.0, 1024, False, 16)
    where, errors = judge.stack.layout.tiles, []
    y, x = (a.reshape(64, 64) for a in judge.stack.layout.places[:2])
    for _ in range(frames):
        cy, cx = rng.uniform(-1, 1, 2)
        truth = 300 + cy * (np.arange(SHAPE[0]) % 64 - 31.5)[:, None] + cx * (np.arange(SHAPE[1]) % 64 - 31.5)
        frame = truth + rng.normal(0, 30, SHAPE)
        hot = rng.random(SHAPE) < share
        frame[hot] += rng.uniform(5, 100, hot.sum()) * 30
        frame = np.rint(frame).clip(0, 16382).astype(np.uint16)
        route, offset = gain.Route(0), np.zeros(SHAPE, np.float32)
        judge(frame, None, route, offset, judge.stages_of_tiles(frame, None, route), 0, stats, 0, 0.0)
        for (top, bottom, left, right), (c0, ty, tx) in zip(where, stats.planes[0]):
            errors.append(np.sqrt(np.mean((c0 + ty * y + tx * x - truth[top:bottom, left:right]) ** 2)) / 30)
    return float(np.median(errors))


def measure() -> list[Row]:
    import RobustGaussianFittingLibrary as library

    rng = np.random.default_rng(0)
    frames, offset = lit_frames(rng)
    offset32 = offset.astype(np.float32)
    less = frames[:1].astype(np.float32) - offset32
    cold, _ = judged(frames, offset, rng, warm=False)
    warm, _ = judged(frames, offset, rng, warm=True)
    times = interleaved(
        {
            "numpy": (lambda: [median_and_mad(frame, offset32) for frame in frames], FRAMES),
            "cold": (cold, PASSES * FRAMES),
            "warm": (warm, PASSES * FRAMES),
        }
    )
    planes_alone = {
        "library": (lambda: library.fitBackgroundTensor(less, winX=64, winY=64, numStrides=0), 1),
        "warm": (warm, PASSES * FRAMES),
    }
    slow = interleaved(planes_alone, LIBRARY_ROUNDS)
    return [
        Row("F6 cold, frames/s : numpy", 1 / times["cold"], 1 / times["numpy"], 15, at_most=False),
        Row("F6 warm, frames/s : numpy", 1 / times["warm"], 1 / times["numpy"], 20, at_most=False),
        Row("F6 warm, frames/s : library", 1 / slow["warm"], 1 / slow["library"], 500, at_most=False),
        Row("F6 plane error, sigma", plane_error(rng), 1.0, 0.06, at_most=True),
    ]
