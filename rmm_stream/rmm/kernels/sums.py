"""Exact integer sums about a per-pixel reference (docs/method.md 6). A value left out adds exactly 0 to all of them.

The sums of one memory cell are four flat rows: reference, count, s1 = sum(v - reference), s2 = sum((v - reference)^2). The
moments do not depend on the reference, bit for bit; a value of the first frame keeps the sums small. blocks.py adds eight
frames at a time where values are narrow.
"""

import numpy as np

from .compiled import exact

#: Frames between two folds into the wide sums. 32,768 differences of 16 bits still fit in the int32 of s1:
#: 32768 * 65535 < 2**31; count is far from its 65,535 and an uint64 s2 from its 2**64.
FOLD_AT = 32768

#: An uint32 s2 that has reached this is taken away before the next block, which adds less: 8 * (2**14 - 1)**2 < 2**31.
SPILL_AT = 1 << 31


@exact
def add_frames(frames, take, where, care, stage, reference, count, s1, s2):
    """Add the frames `take` of a stack to the sums of one cell, one by one: for values of up to 16 bits.

    frames: (n, px) unsigned. take: (k,) int64. where: (n, px) uint8 of routing.py; a pixel counts if where & care == stage.
    reference, count, s1, s2: changed; s2 is uint64, or uint32 where all values and references have at most 14 bits.
    Returns the largest s2; of an uint32 one, at most eight frames may be added before it is looked at (SPILL_AT)."""
    for t in take:
        x = frames[t]
        w = where[t]
        for i in range(x.size):
            ok = w[i] & care == stage
            d = np.int64(x[i]) - np.int64(reference[i]) if ok else np.int64(0)
            s1[i] += np.int32(d)
            s2[i] += np.uint64(d * d)
            count[i] += np.uint16(ok)
    largest = np.uint64(0)
    for i in range(s2.size):
        largest = max(largest, np.uint64(s2[i]))
    return largest


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
