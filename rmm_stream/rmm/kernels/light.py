"""How many pixels of a frame stand out from its base frame: a photon here and there moves no robust mean.

Knows no detector: rows, columns, limits and the range of data are given.
"""

import numpy as np

from .compiled import fast


@fast
def bright_shares(frames, take, cell, rows, columns, base, around, most, shares):
    """Share of the pixels looked at that stand out of their piece of a row, within one ASIC: whole ASICs may shift.

    frames: (n, ss, fs). take: (k,) int64, which of them. cell: (k,) int64. rows: (r,) int64, those that are looked at.
    columns: (a, 2) int64, first and last + 1 of each ASIC. base: (cells, r, fs) as frames. around: (k, 3) float32, ADU: the
    robust mean of the frame above its base; how far from it differences take part in the mean of their piece; how far from
    that they stand out. most: float32, values beyond it, and nan, are not data. shares: (k,) float64, written; nan where less
    than half is data.
    """
    nothing = np.float32(0)
    for i in range(take.size):
        middle, reach, limit = around[i, 0], around[i, 1], around[i, 2]
        pixels, valid, bright = 0, np.int32(0), np.int32(0)
        for r in range(rows.size):
            for a in range(len(columns)):
                first, last = columns[a]
                new, old = frames[take[i], rows[r], first:last], base[cell[i], r, first:last]
                total, n = nothing, np.int32(0)
                for p in range(new.size):
                    v, w = np.float32(new[p]), np.float32(old[p])
                    d = np.float32(v - w) - middle
                    near = (v <= most) & (w <= most) & (abs(d) <= reach)
                    total += d if near else nothing
                    n += np.int32(near)
                by = middle + (total / np.float32(n) if n else nothing)
                for p in range(new.size):
                    v, w = np.float32(new[p]), np.float32(old[p])
                    known = (v <= most) & (w <= most)
                    valid += np.int32(known)
                    bright += np.int32(known & (abs(np.float32(v - w) - by) > limit))
                pixels += new.size
        shares[i] = bright / valid if 2 * valid >= pixels else np.nan
