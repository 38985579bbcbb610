"""F6, frame by frame (section 3.3.1): SNR of each pixel of a lit frame in its window, into the sums of SnrStats."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..frames import Illumination
from .kernels import windows
from .outliers import consistency, tiles

_NEVER, _WHEN_NEEDED, _ALWAYS = 0, 1, 2


@lru_cache
def dither(shape: tuple[int, int]) -> NDArray:
    """(ss, fs) float32 in (-0.5, 0.5): reproducible, a hash of the pixel index. Breaks ties of integers in the fit only.

    Read-only; kept, since a hash of a whole module costs more than the judgement of a frame."""
    x = np.arange(shape[0] * shape[1], dtype=np.uint64) + np.uint64(1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64 (Steele et al. 2014)
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    found = ((x >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)).reshape(shape)
    found.flags.writeable = False
    return found


def is_sampled(train_id: NDArray, every: int) -> NDArray:
    """(n,) bool: trains on which F6 runs, one in `every`, evenly, whatever the step between train ids. train_id: (n,)."""
    if every == 1:
        return np.ones(len(train_id), bool)
    return (train_id.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) % np.uint64(every) == 0


class FrameJudge:
    """Judges frames of one exposure; holds what is the same for all of them."""

    def __init__(self, spec: DetectorSpec, settings: Settings, illumination: Illumination):
        fit, lit = settings.fit, settings.features.lit
        self.stages = len(spec.stages)
        self.tiles = tiles(spec, lit.window or fit.tile)
        self.settings = (fit.structure, fit.lambda_fit, consistency(fit.lambda_fit), float(spec.sigma_floor))
        self.adu_per_photon = 0.0 if spec.counting or spec.adu_per_photon is None else float(spec.adu_per_photon)
        when = {"off": _NEVER, "on": _ALWAYS, "auto": _ALWAYS if spec.counting else _WHEN_NEEDED}[fit.dither]
        self.use_dither = _NEVER if spec.calibrated else when
        self.dither = dither(spec.module_shape)
        # With crystals in the beam one Bragg peak would shift the plain mean of its pixels by several sigma
        self.clip = lit.clip if illumination is Illumination.SAMPLE else np.inf
        self.snr_cut = settings.features.lit_rate.snr

    def stages_of_tiles(self, where: NDArray) -> NDArray:
        """(tiles,) int64: the stage in which most valid pixels of each tile are, -1 where none is valid."""
        of_stage = np.empty(len(self.tiles), np.int64)
        windows.majority_stages(where, self.tiles, self.stages, of_stage)
        return of_stage

    def __call__(self, frame, where, offset, of_stage, stage: int, rows) -> int:
        """Add the SNR of one frame to rows, the arrays of SnrStats.open(), in the tiles of one stage. Returns how many."""
        return windows.judge_frame(
            frame, where, offset, self.tiles, self.dither, self.settings, self.adu_per_photon, self.use_dither,
            self.clip, self.snr_cut, of_stage, stage, *rows,
        )  # fmt: skip
