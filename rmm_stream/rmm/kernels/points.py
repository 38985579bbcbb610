"""Points about a plane: residuals, how many and which moments lie within a bound, and the least squares on those.

One pass each, without a branch, so that 16 pixels go at once. Points are (n,) float32, values z at places y and x about the
centre of a tile; a value that takes no part is nan, which is within no bound. What a plane is for, planes.py knows.
"""

import numpy as np

from .compiled import fast


@fast
def residuals(z, y, x, plane, r):
    """r = z - plane at the points (y, x). All (n,) float32; r is written. plane: (3,) float64."""
    c0, cy, cx = np.float32(plane[0]), np.float32(plane[1]), np.float32(plane[2])
    for i in range(r.size):
        r[i] = z[i] - (c0 + cy * y[i] + cx * x[i])


@fast
def count_within(r, limit):
    """How many residuals are within +-limit."""
    n = np.int32(0)
    for i in range(r.size):
        n = np.int32(n + (np.int32(1) if abs(r[i]) <= limit else np.int32(0)))  # stays in 32-bit lanes
    return n


@fast
def squares_within(r, limit, sums):
    """sums: (2,) float64, written: count, and sum of squares, of the residuals within +-limit."""
    n = np.int32(0)
    total = np.float32(0)
    for i in range(r.size):
        inside = abs(r[i]) <= limit
        v = r[i] if inside else np.float32(0)
        n = np.int32(n + (np.int32(1) if inside else np.int32(0)))
        total += v * v
    sums[0], sums[1] = n, total


@fast
def moments_within(z, y, x, plane, limit, sums):
    """Of the points within +-limit of a plane. sums: (10,) float64, written: n, y, x, y^2, yx, x^2, and r, r*y, r*x, r^2."""
    c0, cy, cx = np.float32(plane[0]), np.float32(plane[1]), np.float32(plane[2])
    n = sy = sx = syy = syx = sxx = sr = sry = srx = srr = np.float32(0)
    for i in range(z.size):
        r = z[i] - (c0 + cy * y[i] + cx * x[i])
        inside = abs(r) <= limit
        g = np.float32(1) if inside else np.float32(0)
        v = r if inside else np.float32(0)
        gy, gx = g * y[i], g * x[i]
        n += g
        sy += gy
        sx += gx
        syy += gy * y[i]
        syx += gy * x[i]
        sxx += gx * x[i]
        sr += v
        sry += v * y[i]
        srx += v * x[i]
        srr += v * v
    sums[0], sums[1], sums[2], sums[3], sums[4], sums[5] = n, sy, sx, syy, syx, sxx
    sums[6], sums[7], sums[8], sums[9] = sr, sry, srx, srr


@fast
def gradient_within(z, y, x, plane, limit, sums):
    """As moments_within(), half the work: moments of places are those that sums holds, scaled to the new count.

    Good enough where sums come from a sample of the same points: least squares that are repeated go to the same plane."""
    c0, cy, cx = np.float32(plane[0]), np.float32(plane[1]), np.float32(plane[2])
    n = sr = sry = srx = srr = np.float32(0)
    for i in range(z.size):
        r = z[i] - (c0 + cy * y[i] + cx * x[i])
        inside = abs(r) <= limit
        v = r if inside else np.float32(0)
        n += np.float32(1) if inside else np.float32(0)
        sr += v
        sry += v * y[i]
        srx += v * x[i]
        srr += v * v
    share = n / sums[0]
    for i in range(6):
        sums[i] *= share
    sums[6], sums[7], sums[8], sums[9] = sr, sry, srx, srr


@fast
def kth_smallest(r, k, guess, precision):
    """The k-th smallest abs(r), from above, to a relative precision; 0 where k residuals are 0. guess: where to begin."""
    low, high, first = np.float32(0), np.float32(0), np.float32(0)
    n_low, n_high, zero_known = 0, 0, False
    at = np.float32(guess) if guess > 0 else np.float32(1e-3)
    while True:
        n = count_within(r, at)
        if n >= k:
            high, n_high = at, n
        else:
            low, n_low = at, n
        if n_high == 0:  # not yet enough of them
            at = np.float32(2) * at
            if not at < np.inf:
                return at
            continue
        if first == 0:
            first = high
        if high - low <= np.float32(precision) * high or high < np.float32(1e-30):
            return high
        if low == 0 and not zero_known and high < np.float32(0.1) * first:
            at, zero_known = np.float32(0), True
        else:  # the counts grow almost evenly near the middle of a distribution
            share = (k - n_low) / (n_high - n_low)
            at = low + np.float32(min(max(share, 0.1), 0.9)) * (high - low)


@fast
def refit(y, x, sums, plane):
    """Least squares on the points of moments_within(); its change is added to plane, (3,) float64.

    Where they do not span a plane the slopes are kept and only c0 is fitted. sums[9] becomes that of the squares about the
    new plane. Returns the change at the first of all points, (y[0], x[0]), which is a corner of the tile."""
    n, my, mx = sums[0], sums[1] / sums[0], sums[2] / sums[0]
    vyy, vyx, vxx = sums[3] - n * my * my, sums[4] - n * my * mx, sums[5] - n * mx * mx
    vry, vrx = sums[7] - sums[6] * my, sums[8] - sums[6] * mx
    determinant = vyy * vxx - vyx * vyx
    cy = cx = 0.0
    if determinant > 1e-9 * vyy * vxx:
        cy = (vry * vxx - vrx * vyx) / determinant
        cx = (vrx * vyy - vry * vyx) / determinant
    c0 = sums[6] / n - cy * my - cx * mx
    plane[0] += c0
    plane[1] += cy
    plane[2] += cx
    sums[9] -= c0 * sums[6] + cy * sums[7] + cx * sums[8]
    return abs(c0) + abs(cy * y[0]) + abs(cx * x[0])
