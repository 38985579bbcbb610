"""Gain indicator -> gain stage, per pixel and frame (docs/method.md 7, "stage routing"). Knows nothing of statistics' meaning.

A code (JUNGFRAU) is a table. An analogue indicator (AGIPD) is cut per pixel and cell at the sd-weighted midpoint between the
dark means of adjacent stages; while the dark of a stage lacks, at the configured thresholds.
"""

import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..detectors.spec import DIGITISER_FLOOR
from .kernels import routing
from .kernels.routing import INVALID, NOWHERE
from .stats import INDICATOR, VALUE, Moments

__all__ = ["INVALID", "NOWHERE", "majority", "present", "rises", "route", "thresholds"]


def route(
    spec: DetectorSpec, pixels: NDArray, gain: NDArray | None, held: int | None, cuts: NDArray | None, ascending: bool
) -> NDArray:
    """The stage of every pixel: (n, ss, fs) uint8, plus INVALID where the value does not count, NOWHERE if no stage fits.

    pixels, gain: (n, ss, fs). held: the stage that the exposure is held in, or None.
    cuts: (stages - 1, ss, fs) float32 thresholds of an analogue indicator; used only where held is None.
    """
    where = np.empty(pixels.shape, np.uint8)
    flat = where.reshape(-1)
    if gain is None or spec.gain == "none":
        where[...] = 0 if held is None else held
    elif spec.gain == "code":
        table = np.full(256, NOWHERE, np.uint8)
        table[list(spec.gain_codes)] = np.arange(len(spec.stages))
        routing.route_codes(gain.reshape(-1), table, -1 if held is None else held, flat)
    elif held is not None or len(spec.stages) == 1:
        where[...] = held or 0
    else:
        for frame, g in zip(where, gain):
            routing.route_analogue(g.reshape(-1), cuts.reshape(len(cuts), -1), ascending, frame.reshape(-1))
    saturation = np.inf if spec.saturation is None else float(spec.saturation)
    routing.mark_invalid(pixels.reshape(-1), saturation, np.array(spec.sentinels, np.int64), flat)
    return where


def thresholds(spec: DetectorSpec, dark: list[Moments | None]) -> NDArray | None:
    """Cuts between adjacent stages, (stages - 1, ss, fs) float32; None where neither darks nor the configuration give one.

    dark: moments of the indicator for each stage of one cell, None where its dark lacks.
    """
    cuts = np.empty((len(spec.stages) - 1, *spec.module_shape), np.float32)
    for s, (lower, upper) in enumerate(zip(dark, dark[1:])):
        if lower is not None and upper is not None:
            # an indicator that never moved must not lie on its own threshold
            a, b = (np.maximum(m.std(), DIGITISER_FLOOR) for m in (lower, upper))
            cuts[s] = (lower.mean * b + upper.mean * a) / (a + b)
        elif spec.gain_thresholds:
            cuts[s] = spec.gain_thresholds[s]
        else:
            return None
    return cuts


def rises(spec: DetectorSpec, dark: list[Moments | None]) -> bool:
    """Whether the indicator grows from stage to stage: what is known of stages and thresholds, in order, tells."""
    levels = []
    for stage, known in enumerate(dark):
        levels += [] if known is None else [float(np.nanmedian(known.mean))]
        levels += spec.gain_thresholds[stage : stage + 1]
    return not levels or levels[0] <= levels[-1]


def majority(where: NDArray, stages: int) -> int:
    """The stage in which most valid pixels of one frame are; -1 where no pixel is valid. where: (ss, fs) uint8."""
    flat = where.reshape(-1)
    n = [routing.count_stage(flat, VALUE, np.uint8(stage)) for stage in range(stages)]
    return n.index(max(n)) if max(n) else -1


def present(where: NDArray, frames: NDArray, stages: int) -> list[int]:
    """The stages in which any pixel of some frames is, valid or not. where: (n, ss, fs) uint8. frames: indices into it."""
    flat = where.reshape(len(where), -1)
    return [s for s in range(stages) if any(routing.count_stage(flat[t], INDICATOR, np.uint8(s)) for t in frames)]
