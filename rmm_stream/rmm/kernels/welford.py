"""Welford's update and Chan's merge in float64, for float frames and for integers of more than 16 bits."""

import numpy as np

from .compiled import exact


@exact
def update_frames(frames, take, where, care, stage, count, mean, m2):
    """Add the frames `take` of a block to the moments of one cell, value by value (Welford 1962).

    frames: (n, px). take: (k,) int64. where: (n, px) uint8; a pixel counts if where & care == stage.
    count: (px,) uint32; mean, m2: (px,) float64; changed.
    """
    for t in take:
        x = frames[t]
        w = where[t]
        for i in range(x.size):
            if w[i] & care == stage:
                count[i] += np.uint32(1)
                d = np.float64(x[i]) - mean[i]
                mean[i] += d / count[i]
                m2[i] += d * (np.float64(x[i]) - mean[i])


@exact
def merge_moments(sign, other_count, other_mean, other_m2, count, mean, m2):
    """Join (sign = 1) or take out (-1) the moments of another set of frames (Chan et al. 1979). Changes the last three."""
    for i in range(count.size):
        k = np.float64(other_count[i])
        n = np.float64(count[i])
        total = n + sign * k
        if k == 0:
            continue
        if total <= 0:
            count[i], mean[i], m2[i] = 0, 0.0, 0.0
            continue
        if sign > 0:
            d = other_mean[i] - mean[i]
            mean[i] += d * (k / total)  # k / total first: exactly 1 where there was nothing before
            m2[i] += other_m2[i] + d * d * n * (k / total)
        else:
            rest = (n * mean[i] - k * other_mean[i]) / total
            d = other_mean[i] - rest
            m2[i] = max(m2[i] - other_m2[i] - d * d * total * k / n, 0.0)
            mean[i] = rest
        count[i] = np.uint32(total)
