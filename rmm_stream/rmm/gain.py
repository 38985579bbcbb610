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

__all__ = [
    "INVALID", "NOWHERE", "DataRange", "Route", "any_valid", "bands_of", "by_bands", "clean", "code_route", "configured_route",
    "data_range", "majority", "majority_of", "present", "rises", "route", "thresholds",
]  # fmt: skip

#: A narrow detector's indicator beyond this is no ADC value.
GAIN_MOST = (1 << NARROW_BITS) - 1
SAMPLED = 16  # of a large frame one line in so many tells in which stage most of its pixels are
WHOLE_BELOW = 4096  # pixels


class Route(NamedTuple):
    """In which stage the pixels of lit frames of one cell are, without a byte for each.

    held: stage of a held exposure, 0 of a detector without gain; None: each pixel switches by itself.
    bands: (stages, 2, ss, fs) uint16: a pixel is in stage s where bands[s, 0] <= gain <= bands[s, 1], and in none where it is
    in no band; an empty band has its low end above its high one. None: all pixels are in the held stage. With both, pixels
    in other bands than that of the held stage have no valid value. rows: of by_bands().
    """

    held: int | None
    bands: NDArray | None = None
    rows: NDArray | None = None


class DataRange(NamedTuple):
    """A value is data where least <= value <= most, and it is none of inner, (k,) int64, the sentinels in between."""

    least: float
    most: float
    inner: NDArray


def by_bands(held: int | None, bands: NDArray) -> Route:
    """The route of bands, with its rows: (stages, 2, ss) uint16, the band that the bands of all pixels of a row include.

    A row whose indicators all lie in it needs no look at each pixel's band."""
    return Route(held, bands, np.stack([bands[:, 0].max(axis=-1), bands[:, 1].min(axis=-1)], axis=1))


def bands_of(cuts: NDArray, ascending: bool) -> NDArray:
    """(stages, 2, ss, fs) uint16 bands of an analogue indicator that is cut at thresholds, as Route has them.

    cuts: (stages - 1, ss, fs) float32; a pixel with a nan threshold is in no stage. A pixel has passed a threshold where
    the indicator is above it; where the indicator falls from stage to stage, where it is not above it. Its stage is the
    number of thresholds that it has passed."""
    known = ~np.isnan(cuts).any(axis=0)
    levels = np.empty((len(cuts) + 2, *cuts.shape[1:]), np.int32)
    levels[0], levels[-1] = -1, 65535
    levels[1:-1] = np.floor(np.clip(np.where(known, cuts, 0), -1, 65535))  # g > cut is g > floor(cut)
    for n in range(len(cuts) - 1, 0, -1):  # in order, pixel by pixel: a sort, of a few images
        for k in range(1, n + 1):
            levels[k : k + 2] = np.minimum(levels[k], levels[k + 1]), np.maximum(levels[k], levels[k + 1])
    some = known & (levels[:-1] < levels[1:])
    bands = np.stack([np.where(some, levels[:-1] + 1, 1), np.where(some, levels[1:], 0)], axis=1).astype(np.uint16)
    return bands if ascending else np.ascontiguousarray(bands[::-1])


@lru_cache
def configured_route(spec: DetectorSpec, ascending: bool) -> Route:
    """The route of configured thresholds, the same for all cells."""
    cuts = np.empty((len(spec.gain_thresholds), *spec.module_shape), np.float32)
    cuts[...] = np.array(spec.gain_thresholds)[:, None, None]
    return by_bands(None, bands_of(cuts, ascending))


@lru_cache
def code_route(spec: DetectorSpec, held: int | None) -> Route:
    """The route of a gain code: bands of one code each."""
    codes = np.array(spec.gain_codes, np.uint16)
    bands = np.ascontiguousarray(np.broadcast_to(codes[:, None, None, None], (len(codes), 2, *spec.module_shape)))
    bands.flags.writeable = False
    return by_bands(held, bands)


@lru_cache
def data_range(spec: DetectorSpec) -> DataRange:
    """What of a detector's values is data: within its bits, below saturation, no sentinel, finite.

    Sentinels at either end are cut off."""
    saturation = np.inf if spec.saturation is None else spec.saturation
    if spec.calibrated:
        most = np.finfo(np.float32).max
        if most >= saturation:
            most = np.float32(saturation)
            most = np.nextafter(most, np.float32(-np.inf)) if float(most) >= saturation else most
        least = -np.finfo(np.float32).max
        return DataRange(float(least), float(most), np.array(sorted(set(spec.sentinels)), np.int64))
    least, most = 0, min((1 << spec.bits) - 1, saturation - 1)
    while most in spec.sentinels:
        most -= 1
    while least in spec.sentinels:
        least += 1
    inner = sorted({s for s in spec.sentinels if least < s < most})
    return DataRange(int(least), int(most), np.array(inner, np.int64))


def clean(of: DataRange, values: NDArray) -> NDArray:
    """Values as float32, nan where they are no data: for frames that no range alone tells from data."""
    ok = (values >= of.least) & (values <= of.most) & ~np.isin(values, of.inner)
    return np.where(ok, values, np.nan).astype(np.float32)


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

    Between two darks the midpoint, weighted by their deviations; nan where a pixel has fewer than two values in one of them.
    dark: moments of the indicator for each stage of one cell, None where its dark lacks.
    """
    cuts = np.empty((len(spec.stages) - 1, *spec.module_shape), np.float32)
    for s, (lower, upper) in enumerate(zip(dark, dark[1:])):
        if lower is not None and upper is not None:
            # a floor, so that an indicator that never moved does not lie on its own threshold
            a, b = (np.maximum(moments.std(), DIGITISER_FLOOR) for moments in (lower, upper))
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
        levels += [] if known is None else [float(np.nanmedian(known.mean[::SAMPLED]))]
        levels += spec.gain_thresholds[stage : stage + 1]
    return not levels or levels[0] <= levels[-1]


def majority(where: NDArray, stages: int) -> int:
    """The stage in which most valid pixels of one frame are; -1 where no pixel is valid. where: (ss, fs) uint8."""
    flat = where.reshape(-1)
    n = [routing.count_stage(flat, VALUE, np.uint8(stage)) for stage in range(stages)]
    return n.index(max(n)) if max(n) else -1


def majority_of(limits: tuple[np.uint16, np.uint16], frame: NDArray, gain: NDArray, bands: NDArray) -> int:
    """The same from bands, (stages, 2, ss, fs), of a narrow detector; of a large frame one line in SAMPLED is looked at.

    limits: least and most value that is data. frame, gain: (ss, fs). All read-only."""
    for step in (SAMPLED, 1) if frame.size > WHOLE_BELOW else (1,):  # all of it, where the lines looked at are not data
        stage, _ = routing.most_in_bands(frame, gain, bands, *limits, step)
        if stage >= 0:
            return stage
    return -1


def any_valid(spec: DetectorSpec, frames: NDArray, take: NDArray) -> NDArray:
    """(k,) bool: whether frames hold any valid value; mostly the first row says so. frames: (n, ss, fs). take: (k,) int64."""
    least, most, _ = data_range(spec)
    first = frames[take, 0]
    found = ((first >= least) & (first <= most)).any(axis=1)
    for k in np.flatnonzero(~found):
        frame = frames[take[k]]
        found[k] = ((frame >= least) & (frame <= most)).any()
    return found


def present(where: NDArray, frames: NDArray, stages: int) -> list[int]:
    """The stages in which any pixel of some frames is, valid or not. where: (n, ss, fs) uint8. frames: indices into it."""
    flat = where.reshape(len(where), -1)
    return [s for s in range(stages) if any(routing.count_stage(flat[t], INDICATOR, np.uint8(s)) for t in frames)]
