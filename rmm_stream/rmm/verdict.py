"""One map, judged: every feature that has enough frames, from what is known of one (module, gain stage, cell).

Eq. (2) is decided here, twice: at `cut` for the flags, at `clear_cut` for the doubtful flags that hysteresis needs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..mask import BadPixel
from .features import FEATURES, FeatureMap, LitCell, Needs, RuleFeature
from .outliers import judge, tiles
from .signal import spot_shaped
from .stats import Moments

NO_DATA = np.uint8(BadPixel.NO_DATA)


class Evidence(NamedTuple):
    """What is known of one map; None or a number of frames below `fit.min_frames` where it is not enough to speak.

    dark: of its values. gain: of the indicator, every stage. lit: per lit illumination. Each with its frames.
    excluded: (ss, fs) bool, EDGE and USER pixels: they take no part in any fit and get no feature bits.
    """

    stage: int
    dark: tuple[Moments, int] | None
    gain: list[tuple[Moments, int] | None]
    lit: list[tuple[LitCell, int]]
    excluded: NDArray


class Verdict(NamedTuple):
    """flags, doubtful: (ss, fs) uint8. suspected: (ss, fs) bool, held back as signal of the sample.

    judged: features that spoke. maps: what each saw, for explaining."""

    flags: NDArray
    doubtful: NDArray
    suspected: NDArray
    judged: BadPixel
    maps: list[FeatureMap]


def judge_map(spec: DetectorSpec, settings: Settings, seen: Evidence) -> Verdict:
    """Let every feature that has enough frames speak about one map."""
    flags, doubtful = (np.zeros(spec.module_shape, np.uint8) for _ in range(2))
    suspected = np.zeros(spec.module_shape, bool)
    spots: dict[int, NDArray] = {}  # per lit source
    judged, maps = BadPixel(0), []
    for feature in FEATURES:
        if not feature.applies(spec):
            continue
        for n, source in enumerate(_sources(feature.needs, seen, settings.fit.min_frames)):
            judged |= feature.flag
            if isinstance(feature, RuleFeature):
                for cut, out in ((settings.fit.cut, flags), (settings.fit.clear_cut, doubtful)):
                    out[feature.bad(source, seen.stage, cut) & ~seen.excluded] |= np.uint8(feature.flag)
                continue
            found, unfit = _fitted(feature, spec, settings, source, seen.excluded)
            maps.append(found)
            far = found.snr if feature.above_only else np.abs(found.snr)
            if feature.spots and source.sample:  # the shape in one feature holds for those that follow it
                spots[n] = spots.get(n, False) | _spots(found, seen.excluded)
            signal = spots.get(n, False) if feature.spots else False
            for cut, out in ((settings.fit.cut, flags), (settings.fit.clear_cut, doubtful)):
                bad = far > cut  # false for nan
                if feature.only is not None:
                    bad &= feature.only(found.values, settings)
                if out is flags:
                    suspected |= bad & signal
                bad &= ~np.asarray(signal, bool)
                out[bad] |= np.uint8(feature.flag)
                out[unfit] |= NO_DATA
    if seen.dark is not None and seen.dark[1] >= settings.fit.min_frames:
        silent = (seen.dark[0].count < settings.fit.min_frames / 2) & ~seen.excluded
        flags[silent] |= NO_DATA
        doubtful[silent] |= NO_DATA
    return Verdict(flags, doubtful, suspected & (flags == 0), judged, maps)


def _sources(needs: Needs, seen: Evidence, least: int) -> list:
    """What of the evidence a feature may look at: nothing while there are too few frames."""
    enough = [None if g is None or g[1] < least else g[0] for g in seen.gain]
    match needs:
        case Needs.DARK_VALUE:
            return [seen.dark[0]] if seen.dark is not None and seen.dark[1] >= least else []
        case Needs.DARK_GAIN:
            return [enough[seen.stage]] if enough[seen.stage] is not None else []
        case Needs.ALL_DARK_GAIN:
            return [enough] if all(g is not None for g in enough) else []
        case Needs.LIT:
            return [lit for lit, frames in seen.lit if frames >= least]


def _spots(found: FeatureMap, excluded: NDArray) -> NDArray:
    """(ss, fs) bool: pixels that are high in the shape of a spot. One without a value was in another gain stage."""
    return (found.snr > 0) & spot_shaped(found.snr, np.isnan(found.values) & ~excluded)


def _fitted(feature, spec, settings, source, excluded) -> tuple[FeatureMap, NDArray]:
    """The feature's map, and the pixels that have a value but no model. (ss, fs) each."""
    lit = settings.features.lit
    tile = lit.window if feature.needs is Needs.LIT and lit.window else settings.fit.tile
    usable = (feature.count(source) >= settings.fit.min_frames / 2) & ~excluded
    values = np.where(usable, feature.values(source), np.nan)
    _, model, scale, snr = judge(values, tiles(spec, tile), settings.fit, feature.floor(spec))
    if feature.least_scale is not None:
        scale = np.maximum(scale, feature.least_scale(source, model))
        snr = (values - model) / scale
    return FeatureMap(feature.name, feature.flag, values, model, scale, snr), usable & np.isnan(model)
