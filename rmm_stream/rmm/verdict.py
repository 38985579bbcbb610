"""One map, judged: every feature that has enough frames, from what is known of one (module, gain stage, cell).

Eq. (2) is decided here, twice: at `cut` for the flags, at `clear_cut` for the doubtful flags that hysteresis needs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..mask import BadPixel
from .features import FEATURES, FeatureMap, FittedFeature, LitCell, Needs, RuleFeature
from .kernels import marks
from .outliers import judge, tiles
from .signal import ANOTHER, NEAR, along_lines, local_scale, spot_shaped, swings
from .stats import Moments

#: Features of F6, which has windows of its own.
LIT = (Needs.LIT_MEAN, Needs.LIT_SHARE, Needs.LIT_RECENT)


class Evidence(NamedTuple):
    """What is known of one map; None or a number of frames below `fit.min_frames` where it is not enough to speak.

    dark: of its values. gain: of the indicator, every stage. Each with its frames. lit: per lit illumination.
    excluded: (ss, fs) bool, EDGE and USER pixels: they take no part in any fit and get no feature bits.
    """

    stage: int
    dark: tuple[Moments, int] | None
    gain: list[tuple[Moments, int] | None]
    lit: list[LitCell]
    excluded: NDArray


class Verdict(NamedTuple):
    """flags, doubtful: (ss, fs) uint8. suspected: (ss, fs) bool, held back as signal of the sample.

    judged: features that spoke. maps: what each saw, for explaining."""

    flags: NDArray
    doubtful: NDArray
    suspected: NDArray
    judged: BadPixel
    maps: list[FeatureMap]


def judge_map(spec: DetectorSpec, settings: Settings, seen: Evidence, whole: bool = False) -> Verdict:
    """Let every feature that has enough frames speak about one map.

    whole: the scale of every pixel is wanted, not only of those that a feature may flag."""
    fit, least = settings.fit, settings.fit.min_frames
    flags, doubtful = (np.zeros(spec.module_shape, np.uint8) for _ in range(2))
    suspected, spots, no_data = (np.zeros(spec.module_shape, bool) for _ in range(3))
    included = ~seen.excluded
    judged, maps = BadPixel(0), []
    noisy = {
        id(lit): swings(lit.judged, lit.above, lit.below, settings.features.lit_rate.min_share)
        for lit in seen.lit
        if lit.sample
    }
    for feature in FEATURES:
        if not feature.applies(spec):
            continue
        for source in _sources(feature.needs, seen, least):
            judged |= feature.flag
            usable = (feature.count(source) >= least / 2) & included
            if isinstance(feature, RuleFeature):
                for cut, out in ((fit.cut, flags), (fit.clear_cut, doubtful)):
                    _mark(out, feature.flag, feature.bad(source, seen.stage, cut) & usable)
                continue
            restless = noisy.get(id(source))  # None: not of a sample
            asked, staying, beside_tile, found = _fitted(feature, spec, settings, source, usable, whole, restless)
            maps.append(found)
            if feature.only is None:
                no_data |= usable & np.isnan(found.model)
            if feature.needs is Needs.LIT_MEAN:
                no_data |= source.blind
            if restless is not None:
                if feature.spots:  # the shape in one feature holds for those that follow it
                    spots |= _spots(beside_tile, found.values, seen, least) & ~restless
                spared = spots if feature.spots else np.zeros_like(spots)
                far = beside_tile if feature.above_only else np.abs(beside_tile)
                suspected |= asked & (far > fit.cut) & (spared | ~(np.abs(found.snr) > fit.cut))  # false for nan
                asked, staying = asked & ~spared, staying & ~spared
            marks.mark(
                found.snr.reshape(-1), asked.reshape(-1), staying.reshape(-1), fit.cut, fit.clear_cut,
                not feature.above_only, np.uint8(feature.flag), flags.reshape(-1), doubtful.reshape(-1),
            )  # fmt: skip
    if seen.dark is not None and seen.dark[1] >= least:
        no_data |= seen.dark[0].count < least / 2
    no_data &= included
    for out in (flags, doubtful):
        _mark(out, BadPixel.NO_DATA, no_data)
    return Verdict(flags, doubtful, suspected & (flags == 0), judged, maps)


def _mark(out: NDArray, flag: BadPixel, where: NDArray) -> None:
    """Set the bit of a flag where it holds."""
    out |= where.view(np.uint8) * np.uint8(flag)


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
        case Needs.LIT_MEAN:
            return [lit for lit in seen.lit if lit.mean_frames >= least]
        case Needs.LIT_SHARE:
            return [lit for lit in seen.lit if lit.share_frames >= least]
        case Needs.LIT_RECENT:
            return [lit for lit in seen.lit if lit.recent is not None and lit.recent_frames >= least]


def _spots(snr: NDArray, values: NDArray, seen: Evidence, least: int) -> NDArray:
    """(ss, fs) bool: pixels that are high in the shape of a spot. snr: (ss, fs), of the values beside their tile.

    A pixel whose dark is known, but which has no value here, was in another gain stage, or saturated: brighter still."""
    known = np.zeros(snr.shape, bool) if seen.dark is None else seen.dark[0].count >= least / 2
    return (snr > 0) & spot_shaped(snr, np.isnan(values) & known & ~seen.excluded, seen.excluded)


class Fitted(NamedTuple):
    """What a fit says of a map. asked, staying: (ss, fs) bool, pixels that may be flagged, and that may stay so. beside_tile:
    (ss, fs) SNR against their tile alone. found: the map over the usable pixels, as it is judged."""

    asked: NDArray
    staying: NDArray
    beside_tile: NDArray
    found: FeatureMap


def _fitted(
    feature: FittedFeature,
    spec: DetectorSpec,
    settings: Settings,
    source,
    usable: NDArray,
    whole: bool,
    restless: NDArray | None,
) -> Fitted:
    """Fit one feature to the usable pixels. Where only few pixels may be flagged, tiles without one are not fitted.

    restless: (ss, fs) bool, noisy pixels, of a sample, where those far from their tile are compared with the lines through them
    too, and the scale of neighbours is wanted; None: it is none."""
    sample = restless is not None
    lit = settings.features.lit
    tile = lit.window if feature.needs in LIT and lit.window else settings.fit.tile
    if sample and feature.only is None:
        tile = tuple(min(side, NEAR) for side in tile)
    where = tiles(spec, tile)
    values = np.where(usable, feature.values(source), np.nan)
    asked = staying = usable
    if feature.only is not None:
        asked, staying = (usable & feature.only(values, settings, to_stay) for to_stay in (False, True))
    if not whole and not staying.any():
        model, scale, snr = np.full((3, *values.shape), np.nan)
        return Fitted(asked, staying, snr, FeatureMap(feature.name, feature.flag, values, model, scale, snr))
    fitted = values if feature.only is None or whole else _near(values, staying, where)
    _, model, scale, snr = judge(fitted, where, settings.fit, feature.floor(spec))
    if feature.least_scale is not None:
        at = np.s_[:] if whole or sample else staying  # mostly hardly a pixel
        scale[at] = np.maximum(scale[at], feature.least_scale(feature.count(source)[at], model[at]))
        snr[at] = (values[at] - model[at]) / scale[at]
    beside_tile = snr
    if sample:
        snr = snr.copy()
        far = np.argwhere(staying & (np.abs(snr) > settings.fit.clear_cut) & ~restless)
        at, (lowest, highest) = tuple(far.T), along_lines(values, far)
        here, above = values[at], snr[at] > 0  # what is among the lines is as it should be
        nearest = np.where(above, np.maximum(model[at], highest), np.minimum(model[at], lowest))
        model[at] = np.where(above, np.minimum(nearest, here), np.maximum(nearest, here))
        if feature.least_scale is not None:
            scale[at] = np.maximum(scale[at], feature.least_scale(feature.count(source)[at], model[at]))
        else:
            scale[at] = np.maximum(scale[at], local_scale(values - model, far) / ANOTHER)
        snr[at] = (here - model[at]) / scale[at]
    return Fitted(asked, staying, beside_tile, FeatureMap(feature.name, feature.flag, values, model, scale, snr))


def _near(values: NDArray, asked: NDArray, where: NDArray) -> NDArray:
    """The values, (ss, fs), of the tiles that hold, or touch, a pixel that may be flagged; nan in the others."""
    near = np.full_like(values, np.nan)
    for top, bottom, left, right in where.tolist():
        if asked[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1].any():
            near[top:bottom, left:right] = values[top:bottom, left:right]
    return near
