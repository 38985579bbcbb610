"""F1 (section 3.2.1) over the frames of a train: how far each lies above its base frame, and whether it is like the others.

Many frames of many memory cells in one call, in the order of their arrival. Knows no detector: rows and values that are not
data are given.
"""

import math

import numpy as np

from .compiled import exact
from .robust import MIN_VALUES, final_sigma, fit_counts, fit_sorted

#: ADU: differences are counted within so much of the expected ones, and if that does not do within all of 17 bits.
NARROW, WIDE = 1 << 11, 1 << 17


@exact
def frame_means(frames, take, cell, rows, saturation, base, around, reach, fit, room, means):
    """Robust mean of some frames above the base frame of their cell.

    frames: (n, ss, fs), unsigned integers of at most 16 bits. take: (k,) int64, which of them. cell: (k,) int64. rows: (r,)
    int64, those that are looked at. saturation: values from it on are not data. base: (cells, r, fs) as frames. around: (k,)
    int64, ADU, about how far the frame lies above its base. reach: ADU, how far from there differences are looked for. fit:
    (structure, certain, lambda_fit). room: int32, at least 2 * reach + 2 and r * fs, written. means: (k,) float64, written;
    nan where too little is data, inf where a fit would have to look further.

    Differences of integers are counted, not sorted: the fit over their counts is the same.
    """
    width = frames.shape[2]
    beyond, none, limit = np.int32(2 * reach), np.int32(2 * reach + 1), np.int32(saturation)
    counts, slots = room[: 2 * reach + 2], room[2 * reach + 2 :][: rows.size * width]
    for i in range(take.size):
        shift = np.int32(around[i] - reach)
        for b in range(counts.size):
            counts[b] = 0
        for r in range(rows.size):
            new, old = frames[take[i], rows[r]], base[cell[i], r]
            out = slots[r * width : (r + 1) * width]
            for p in range(width):
                v, w = np.int32(new[p]), np.int32(old[p])
                d = np.int32(np.int32(v - w) - shift)
                d = d if d > np.int32(0) else np.int32(0)
                d = d if d < beyond else beyond
                out[p] = d if (v < limit) & (w < limit) else none
        for p in range(slots.size):
            counts[np.uint32(slots[p])] += 1
        n = slots.size - counts[beyond + 1]
        means[i] = np.nan
        if n >= MIN_VALUES:
            middle, theta, _, radius = fit_counts(counts[: beyond + 1], n, fit[0], fit[1], fit[2])
            means[i] = shift + middle + theta if radius >= 0 else np.inf


@exact
def verdicts(means, cell, rule, learn, count, ring, ordered, room, verdict):
    """Judge frames by their robust means, each against the last ones of its cell; remember them.

    means: (k,) float64, nan where unknown. cell: (k,) int64. rule: (structure, certain, lambda_fit, consistency, floor, cut).
    learn: frames let through on trial. Of each cell, written: count (cells, 2) int64, frames seen and means known; ring
    (cells, history) float64, the last means; ordered (cells, history + 1) float64, the known ones among them, sorted.
    room: float64, at least 3 * history + 5, written. verdict: (k,) int8, written: 1 good; 0 foreign; -1 good, but it ended
    the trial, and one on trial is foreign.
    """
    history = ring.shape[1]
    for i in range(means.size):
        mean, c = means[i], cell[i]
        seen, known, line = count[c, 0], count[c, 1], ordered[c]
        if not math.isnan(mean):
            at = known
            while at > 0 and line[at - 1] > mean:
                line[at] = line[at - 1]
                at -= 1
            line[at] = mean
            known += 1
        verdict[i] = 1
        if known >= MIN_VALUES and seen + 1 >= learn:
            middle, sigma = fit_sorted(line[:known], room, rule[0], rule[1], rule[2])
            limit = rule[5] * final_sigma(sigma, rule[3], rule[4], middle)
            if seen + 1 > learn:
                verdict[i] = 0 if abs(mean - middle) > limit else 1
            elif line[known - 1] - middle > limit or middle - line[0] > limit:
                verdict[i] = -1
        gone = ring[c, seen % history]
        if seen >= history and not math.isnan(gone):
            at = 0
            while line[at] < gone:
                at += 1
            known -= 1
            while at < known:
                line[at] = line[at + 1]
                at += 1
        ring[c, seen % history] = mean
        count[c, 0], count[c, 1] = seen + 1, known
