"""Which gain stage each pixel of a frame was in, and whether its value counts. Selects instead of branching.

The answer is one byte per pixel: the stage, plus INVALID (128) where the value itself is not data; NOWHERE (255) where the
indicator fits no stage. So `byte == stage` picks values, and `byte & 127 == stage` picks indicators.
"""

import numpy as np

from .compiled import exact, fast, inlined

INVALID = np.uint8(128)
NOWHERE = np.uint8(255)


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


@inlined
def count_in_band(values, gain, low, high, least, most, step):
    """How many values within least..most have an indicator within low..high, in every step-th row.

    values, gain, low, high: (ss, fs) unsigned. least, most: uint16."""
    n = np.int32(0)
    for row in range(0, values.shape[0], step):
        v, g, lo, hi = values[row], gain[row], low[row], high[row]
        for i in range(v.size):
            ok = (v[i] >= least) & (v[i] <= most) & (g[i] >= lo[i]) & (g[i] <= hi[i])
            n = np.int32(n + np.int32(ok))
    return n


@exact
def most_in_bands(values, gain, bands, least, most, step):
    """(band, n): the band in which most of the values within least..most have their indicators, in every step-th row.

    The first one with more than half of them will do. (-1, 0) where no value counts. values, gain: (ss, fs) unsigned. bands:
    (stages, 2, ss, fs) uint16, low and high ends. least, most: uint16."""
    looked_at, where, found = -(-values.shape[0] // step) * values.shape[1], -1, np.int32(0)
    for band in range(bands.shape[0]):
        n = count_in_band(values, gain, bands[band, 0], bands[band, 1], least, most, step)
        if n > found:
            where, found = band, n
        if 2 * n > looked_at:
            break
    return where, found
