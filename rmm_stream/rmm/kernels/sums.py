"""Exact integer sums about a per-pixel reference (docs/method.md 6). A value left out adds exactly 0 to all of them.

The sums of one memory cell are four flat rows: reference, count, s1 = sum(v - reference), s2 = sum((v - reference)^2).
"""

import numpy as np

from .compiled import exact

#: Frames between two folds into the wide sums. 32,768 differences of 16 bits still fit in the int32 of s1:
#: 32768 * 65535 < 2**31; count is far from its 65,535 and s2 from its 2**64.
FOLD_AT = 32768


@exact
def add_frames(frames, take, where, care, stage, earlier, reference, count, s1, s2):
    """Add the frames `take` of a block to the sums of one cell.

    frames: (n, px) unsigned. take: (k,) int64. where: (n, px) uint8 of routing.py; a pixel counts if where & care == stage.
    earlier: (px,) uint32, values already folded away, so that the reference stays. reference, count, s1, s2: changed.
    """
    for t in take:
        x = frames[t]
        w = where[t]
        for i in range(x.size):
            ok = w[i] & care == stage
            first = ok and count[i] == 0 and earlier[i] == 0
            reference[i] = x[i] if first else reference[i]
            d = np.int64(x[i]) - np.int64(reference[i]) if ok else np.int64(0)
            s1[i] += np.int32(d)
            s2[i] += np.uint64(d * d)
            count[i] += np.uint16(ok)


@exact
def moments(reference, n, s1, s2, mean, m2):
    """Welford's triple from exact sums, recentred on the integer part of the mean: no cancellation is left.

    reference: (px,). n, s1: (px,) int64. s2: (px,) uint64. mean, m2: (px,) float64, written; nan where n is 0.
    """
    for i in range(n.size):
        if n[i] == 0:
            mean[i] = np.nan
            m2[i] = np.nan
        else:
            q = s1[i] // n[i]
            rest = s1[i] - n[i] * q
            squares = np.int64(s2[i]) - 2 * q * s1[i] + n[i] * q * q
            mean[i] = np.float64(np.int64(reference[i]) + q) + np.float64(rest) / np.float64(n[i])
            if n[i] < FOLD_AT:  # then n * squares is exact, and M2 is rounded once
                m2[i] = np.float64(n[i] * squares - rest * rest) / np.float64(n[i])
            else:
                m2[i] = np.float64(squares) - np.float64(rest * rest) / np.float64(n[i])
