"""Which gain stage each pixel of a frame was in, and whether its value counts. Selects instead of branching.

The answer is one byte per pixel: the stage, plus INVALID (128) where the value itself is not data; NOWHERE (255) where the
indicator fits no stage. So `byte == stage` picks values, and `byte & 127 == stage` picks indicators.
"""

import math

import numpy as np

from .compiled import exact, fast

INVALID = np.uint8(128)
NOWHERE = np.uint8(255)
EVERY_BIT = np.uint8(255)


@exact
def mark_invalid(values, saturation, sentinels, where):
    """Add INVALID where a value is nan, infinite, a sentinel, or at or above saturation.

    values: (px,) any dtype. saturation: float64, inf for none. sentinels: (k,) int64. where: (px,) uint8, changed.
    """
    for i in range(values.size):
        v = np.float64(values[i])
        ok = v < saturation and v > -np.inf  # false for nan
        for s in sentinels:
            ok = ok and v != s
        where[i] = where[i] if ok else where[i] | INVALID


@exact
def route_codes(gain, stage_of_code, held, where):
    """Stages from gain codes. stage_of_code: (256,) uint8, NOWHERE for an invalid code. held: stage, or -1 for free.

    In a held exposure every pixel belongs to the held stage, and one whose code says otherwise has no valid value there.
    """
    for i in range(gain.size):
        said = stage_of_code[gain[i] & 255] if gain[i] < 256 else NOWHERE
        if held < 0:
            where[i] = said
        else:
            where[i] = np.uint8(held) if said == held else np.uint8(held) | INVALID


@exact
def route_analogue(gain, thresholds, ascending, where):
    """Stages from an analogue indicator cut at thresholds, (stages - 1, px) float32, between adjacent stages.

    ascending: the indicator grows from stage 0 to the last (AGIPD); else it falls. nan thresholds give NOWHERE."""
    for i in range(gain.size):
        stage = 0
        known = True
        for s in range(thresholds.shape[0]):
            limit = thresholds[s, i]
            known = known and not np.isnan(limit)
            stage += (gain[i] > limit) == ascending
        where[i] = np.uint8(stage) if known else NOWHERE


@fast
def count_stage(where, care, stage):
    """How many pixels are in a stage: `byte & care == stage`. where: (px,) uint8. care, stage: uint8."""
    n = np.int32(0)
    for i in range(where.size):
        n = np.int32(n + (np.int32(1) if np.uint8(where[i] & care) == stage else np.int32(0)))  # stays in 32-bit lanes
    return n


@exact
def cut_between(n, mean, m2, next_n, next_mean, next_m2, floor, cut):
    """Threshold between the dark levels of two adjacent stages: the midpoint, weighted by their deviations.

    n: (px,) int64; mean, m2: (px,) float64; next_*: of the other stage. floor: least deviation, so that an indicator that
    never moved does not lie on its own threshold. cut: (px,) float32, written; nan where a stage has fewer than two."""
    for i in range(cut.size):
        a, b = np.nan, np.nan
        if n[i] > 1 and next_n[i] > 1:
            a = max(math.sqrt(m2[i] / (n[i] - 1)), floor)
            b = max(math.sqrt(next_m2[i] / (next_n[i] - 1)), floor)
        cut[i] = np.float32((mean[i] * b + next_mean[i] * a) / (a + b))


@exact
def order(a, b):
    """Put the lesser of two values into a, the greater into b, pixel by pixel. a, b: (px,), changed."""
    for i in range(a.size):
        x, y = a[i], b[i]
        a[i] = x if x < y else y
        b[i] = y if x < y else x


@exact
def band(below, upto, known, low, high):
    """The indicators above `below` and not above `upto`; low > high where there are none. below, upto: (px,) int32."""
    for i in range(low.size):
        some = known[i] and below[i] < upto[i]
        low[i] = np.uint16(below[i] + 1) if some else np.uint16(1)
        high[i] = np.uint16(upto[i]) if some else np.uint16(0)


@exact
def bands_between(cuts, ascending, bands):
    """The first and last indicator of each stage. cuts: (stages - 1, px) float32. bands: (stages, 2, px) uint16, written.

    Stage s has those that are above s thresholds, or not above s of them where not ascending; low > high where there is
    none, and everywhere where a threshold is nan."""
    last, px = cuts.shape
    levels = np.empty((last + 2, px), np.int32)
    known = np.ones(px, np.bool_)
    for i in range(px):
        levels[0, i], levels[last + 1, i] = -1, 65535
    for k in range(last):
        cut, level = cuts[k], levels[k + 1]
        for i in range(px):
            v = min(max(cut[i], np.float32(-1)), np.float32(65535))  # g > cut is g > floor(cut)
            known[i] &= cut[i] == cut[i]
            level[i] = np.int32(math.floor(v)) if cut[i] == cut[i] else np.int32(0)
    for n in range(last - 1, 0, -1):
        for k in range(n):
            order(levels[k + 1], levels[k + 2])
    for k in range(last + 1):
        stage = k if ascending else last - k
        band(levels[k], levels[k + 1], known, bands[stage, 0], bands[stage, 1])


@fast
def count_in_band(values, gain, low, high, least, most):
    """How many values within least..most have an indicator within low..high. All (px,) but least and most: uint16."""
    n = np.int32(0)
    for i in range(values.size):
        ok = (values[i] >= least) & (values[i] <= most) & (gain[i] >= low[i]) & (gain[i] <= high[i])
        n = np.int32(n + (np.int32(1) if ok else np.int32(0)))
    return n


@exact
def count_in_bands(values, gain, bands, least, most, line, step, n):
    """How many valid values are in each stage, of the first `line` pixels of every `step`, till one has most of them.

    values, gain: (px,) unsigned. bands: (stages, 2, px) uint16. least, most: uint16. n: (stages,) int64, written."""
    for stage in range(n.size):
        n[stage] = 0
    for stage in range(n.size):
        seen = 0
        for first in range(0, values.size, step):
            last = min(first + line, values.size)
            low, high = bands[stage, 0, first:last], bands[stage, 1, first:last]
            n[stage] += count_in_band(values[first:last], gain[first:last], low, high, least, most)
            seen += last - first
        if 2 * n[stage] > seen:
            break


@exact
def find_valid(frames, take, least, most, found):
    """Whether frames hold any valid value. frames: (n, px). take: (k,) int64. found: (k,) bool, written."""
    for k in range(take.size):
        x = frames[take[k]]
        found[k] = False
        for i in range(x.size):
            v = np.int64(x[i])
            if v >= least and v <= most:
                found[k] = True
                break
