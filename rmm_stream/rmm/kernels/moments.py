"""Welford's triple from narrow sums (docs/method.md 6). The same bits as sums.moments, several times as fast.

Where s2 has not been taken away (sums.SPILL_AT), it is below 2**32, and so is all that comes of it on the way; times fewer
than sums.FOLD_AT values, that is an integer which float64 holds.
"""

import math

import numpy as np

from .compiled import exact


@exact
def narrow_moments(reference, count, whole, s1, s2, n, mean, m2):
    """Of one cell, recentred on the integer part of the mean. reference, count, s1, s2: (px,), of IntegerStats.

    whole: int64, values of every pixel that are not in count. n: (px,) int64; mean, m2: (px,) float64, nan where n is 0;
    written."""
    for i in range(n.size):
        n[i] = np.int64(count[i]) + whole
    for i in range(n.size):
        k, s = np.float64(n[i]), np.float64(s1[i])
        q = math.floor(s / k)  # nan where k is 0
        rest = s - k * q  # the division may have been rounded up, to a whole number too much
        off = 1.0 if rest < 0.0 else 0.0
        q, rest = q - off, rest + off * k
        squares = np.float64(s2[i]) - 2.0 * q * s + k * q * q
        mean[i] = (np.float64(reference[i]) + q) + rest / k
        m2[i] = (k * squares - rest * rest) / k
