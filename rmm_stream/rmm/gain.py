"""Gain indicator -> gain stage, per pixel and frame (docs/method.md 7, "stage routing"). Knows nothing of statistics' meaning.

A code (JUNGFRAU) is a table. An analogue indicator (AGIPD) is cut per pixel and cell at the sd-weighted midpoint between the
dark means of adjacent stages; while the dark of a stage lacks, at the configured thresholds.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..detectors.spec import DIGITISER_FLOOR, NARROW_BITS
from .kernels import routing
from .kernels.routing import INVALID, NOWHERE
from .stats import INDICATOR, VALUE, Moments

__all__ = ["INVALID", "NOWHERE", "Route", "data_range", "majority", "present", "rises", "route", "thresholds"]

#: A narrow detector's indicator beyond this is no ADC value.
GAIN_MOST = (1 << NARROW_BITS) - 1
SAMPLED = 16  # of a large frame one line in so many tells in which stage most of its pixels are
WHOLE_BELOW = 4096  # pixels


class Route(NamedTuple):
    """How the stage of a pixel of one cell is told.

    held: the stage that the exposure is held in, 0 where there is but one; None: each pixel switches by itself.
    bands: (stages, 2, ss, fs) uint16, first and last indicator of each stage; low > high: none. None: nothing tells."""

    held: int | None
    bands: NDArray | None


@lru_cache
def data_range(spec: DetectorSpec) -> tuple[int, int, NDArray]:
    """(least, most, inner): an integer value is data if it is within least..most, and none of the inner sentinels.

    Beyond its significant bits a value is no data. inner: (k,) int64, sentinels that do not lie at an end of the range."""
    least, most = 0, (1 << spec.bits) - 1
    if spec.saturation is not None:
        most = min(most, spec.saturation - 1)
    inner = {s for s in spec.sentinels if least <= s <= most}
    while most in inner:
        inner.remove(most)
        most -= 1
    while least in inner:
        inner.remove(least)
        least += 1
    return least, most, np.array(sorted(inner), np.int64)


def bands_of(cuts: NDArray, ascending: bool) -> NDArray:
    """(stages, 2, ss, fs) uint16 bands of an analogue indicator that is cut at thresholds, as Route has them.

    cuts: (stages - 1, ss, fs) float32; a pixel with a nan threshold is in no stage. A pixel has passed a threshold where
    the indicator is above it; where the indicator falls from stage to stage, where it is not above it. Its stage is the
    number of thresholds that it has passed."""
    bands = np.empty((len(cuts) + 1, 2, *cuts.shape[1:]), np.uint16)
    routing.bands_between(cuts.reshape(len(cuts), -1), ascending, bands.reshape(len(bands), 2, -1))
    return bands


@lru_cache
def code_bands(spec: DetectorSpec) -> NDArray:
    """(stages, 2, ss, fs) uint16 bands of a gain code: one code each. Read-only."""
    bands = np.empty((len(spec.stages), 2, *spec.module_shape), np.uint16)
    bands[...] = np.array(spec.gain_codes, np.uint16)[:, None, None, None]
    bands.flags.writeable = False
    return bands


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
    if spec.narrow and spec.gain == "analogue" and gain is not None:
        where[gain > GAIN_MOST] = NOWHERE
    saturation = float(1 << spec.bits) if spec.bits else np.inf
    saturation = saturation if spec.saturation is None else min(saturation, float(spec.saturation))
    routing.mark_invalid(pixels.reshape(-1), saturation, np.array(spec.sentinels, np.int64), flat)
    return where


def thresholds(spec: DetectorSpec, dark: list[Moments | None]) -> NDArray | None:
    """Cuts between adjacent stages, (stages - 1, ss, fs) float32; None where neither darks nor the configuration give one.

    dark: moments of the indicator for each stage of one cell, None where its dark lacks.
    """
    cuts = np.empty((len(spec.stages) - 1, *spec.module_shape), np.float32)
    for s, (lower, upper) in enumerate(zip(dark, dark[1:])):
        if lower is not None and upper is not None:
            routing.cut_between(
                *(a.reshape(-1) for m in (lower, upper) for a in m), DIGITISER_FLOOR, cuts[s].reshape(-1)
            )
        elif spec.gain_thresholds:
            cuts[s] = spec.gain_thresholds[s]
        else:
            return None
    return cuts


def rises(spec: DetectorSpec, dark: list[Moments | None]) -> bool:
    """Whether the indicator grows from stage to stage: what is known of stages and thresholds, in order, tells."""
    levels = []
    for stage, known in enumerate(dark):
        levels += [] if known is None else [float(np.nanmedian(known.mean[::SAMPLED]))]
        levels += spec.gain_thresholds[stage : stage + 1]
    return not levels or levels[0] <= levels[-1]


def majority(where: NDArray, stages: int) -> int:
    """The stage in which most valid pixels of one frame are; -1 where no pixel is valid. where: (ss, fs) uint8."""
    flat = where.reshape(-1)
    n = [routing.count_stage(flat, VALUE, np.uint8(stage)) for stage in range(stages)]
    return n.index(max(n)) if max(n) else -1


def majority_of(spec: DetectorSpec, frame: NDArray, gain: NDArray, bands: NDArray) -> int:
    """The same from bands, of a narrow detector; of a large frame one line in SAMPLED is looked at. frame, gain: (ss, fs)."""
    least, most = map(np.uint16, data_range(spec)[:2])
    line = spec.module_shape[1] if frame.size > WHOLE_BELOW else frame.size
    n = np.empty(len(spec.stages), np.int64)
    for step in (SAMPLED * line, line):  # all of it, where the lines looked at are not data
        routing.count_in_bands(
            frame.reshape(-1), gain.reshape(-1), bands.reshape(len(bands), 2, -1), least, most, line, step, n
        )
        if n.any():
            return int(n.argmax())
    return -1


def present(where: NDArray, frames: NDArray, stages: int) -> list[int]:
    """The stages in which any pixel of some frames is, valid or not. where: (n, ss, fs) uint8. frames: indices into it."""
    flat = where.reshape(len(where), -1)
    return [s for s in range(stages) if any(routing.count_stage(flat[t], INDICATOR, np.uint8(s)) for t in frames)]
