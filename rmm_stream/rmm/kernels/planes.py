"""FLkOS and MSSE for a plane (Appendix A): the robust background of a tile, without sorting.

A plane is (c0, cy, cx): its value at the tile's centre and its slopes along ss and fs. Ranks are found by counting residuals
within a bound. A pixel that takes no part is nan. Knows nothing of features, cuts or flags.
"""

import math

import numpy as np

from .compiled import exact, fast, no_nan
from .robust import final_sigma

STEPS = 12  # concentration steps at most, Bab-Hadiashar & Hoseinnezhad (2008), quoted in Appendix A
MIN_PIXELS = 100  # so that a 15 x 15 tile in an ASIC corner, 14 x 14 without its edge pixels, is still fitted
MIN_SHARE = 0.5  # of a tile's pixels
PARAMETERS = 3
NEAREST = 0.6  # share of the block medians that the first plane goes through
LARGE = 1024  # pixels from which a tile has so many that ranks may be rough
COARSE, FINE = 0.02, 1e-4  # relative precision of a rank's bound
SETTLED = 0.1  # of that bound: the final least squares mend what a large tile's plane still moves
SAMPLED = 49  # values whose median tells about where to begin


# ---- points about a plane ---------------------------------------------------------------------------------------------


@fast
def residuals(z, y, x, plane, r):
    """r = z - plane at the points (y, x). All (n,) float32; r is written."""
    c0, cy, cx = np.float32(plane[0]), np.float32(plane[1]), np.float32(plane[2])
    for i in range(z.size):
        r[i] = z[i] - (c0 + cy * y[i] + cx * x[i])


@fast
def count_within(r, limit):
    """How many residuals are within +-limit."""
    n = np.int32(0)
    for i in range(r.size):
        n = np.int32(n + (np.int32(1) if abs(r[i]) <= limit else np.int32(0)))  # stays in 32-bit lanes
    return n


@fast
def squares_within(r, limit):
    """(count, sum of squares) of the residuals within +-limit."""
    n = np.int32(0)
    total = np.float32(0)
    for i in range(r.size):
        inside = abs(r[i]) <= limit
        v = r[i] if inside else np.float32(0)
        n = np.int32(n + (np.int32(1) if inside else np.int32(0)))
        total += v * v
    return n, np.float64(total)


@exact
def kth_smallest(r, k, guess, precision):
    """The k-th smallest abs(r), from above, to a relative precision; 0 where k residuals are 0. guess: where to begin."""
    low, n_low, zero_known = np.float32(0), 0, False
    high = np.float32(guess) if guess > 0 else np.float32(1e-3)
    n_high = count_within(r, high)
    while n_high < k:
        low, n_low = high, n_high
        high = np.float32(2) * high
        if not high < np.inf:
            return high
        n_high = count_within(r, high)
    first = high
    while high - low > np.float32(precision) * high:
        share = (k - n_low) / (n_high - n_low)  # the counts grow almost evenly near the middle of a distribution
        middle = low + np.float32(min(max(share, 0.1), 0.9)) * (high - low)
        n = count_within(r, middle)
        if n >= k:
            high, n_high = middle, n
        else:
            low, n_low = middle, n
        if low == 0 and not zero_known and high < np.float32(0.1) * first:
            n_low, zero_known = count_within(r, low), True
            if n_low >= k:
                return low
        if high < np.float32(1e-30):
            break
    return high


@fast
def moments_within(r, y, x, limit):
    """Of the points within +-limit: n, sums of y, x, y^2, yx, x^2, and of r, r*y, r*x."""
    n = sy = sx = syy = syx = sxx = sr = sry = srx = np.float32(0)
    for i in range(r.size):
        inside = abs(r[i]) <= limit
        g = np.float32(1) if inside else np.float32(0)
        v = r[i] if inside else np.float32(0)
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
    total = np.float64  # products of sums need more digits than sums
    return total(n), total(sy), total(sx), total(syy), total(syx), total(sxx), total(sr), total(sry), total(srx)


@exact
def solve_plane(n, sy, sx, syy, syx, sxx, sr, sry, srx):
    """Least squares of residuals on (1, y, x) from their moments: the change of (c0, cy, cx).

    Where the points do not span a plane the slopes are kept and only c0 is fitted again."""
    vyy, vyx, vxx = syy - sy * sy / n, syx - sy * sx / n, sxx - sx * sx / n
    vry, vrx = sry - sr * sy / n, srx - sr * sx / n
    determinant = vyy * vxx - vyx * vyx
    if not determinant > 1e-9 * vyy * vxx:
        return sr / n, 0.0, 0.0
    cy = (vry * vxx - vrx * vyx) / determinant
    cx = (vrx * vyy - vry * vyx) / determinant
    return (sr - cy * sy - cx * sx) / n, cy, cx


@exact
def refit(r, y, x, limit, plane):
    """One least squares on the residuals within +-limit; its change is added to plane.

    Returns (points, how much the sum of their squares fell, the change at a tile's corner of abs(y), abs(x))."""
    n, sy, sx, syy, syx, sxx, sr, sry, srx = moments_within(r, y, x, limit)
    if n < PARAMETERS:
        return 0, 0.0, 0.0
    c0, cy, cx = solve_plane(n, sy, sx, syy, syx, sxx, sr, sry, srx)
    plane[0] += c0
    plane[1] += cy
    plane[2] += cx
    return int(n), c0 * sr + cy * sry + cx * srx, abs(c0) + abs(cy * y[0]) + abs(cx * x[0])


# ---- where to start ---------------------------------------------------------------------------------------------------


@no_nan
def medians_of_nine(v, medians):
    """Median of nine rows at each column, by the network of 19 exchanges (Paeth 1990). v: (9, W). medians: (W,), written."""
    for j in range(medians.size):
        a, b, c, d, e, f, g, h, i = v[0, j], v[1, j], v[2, j], v[3, j], v[4, j], v[5, j], v[6, j], v[7, j], v[8, j]
        b, c = min(b, c), max(b, c)
        e, f = min(e, f), max(e, f)
        h, i = min(h, i), max(h, i)
        a, b = min(a, b), max(a, b)
        d, e = min(d, e), max(d, e)
        g, h = min(g, h), max(g, h)
        b, c = min(b, c), max(b, c)
        e, f = min(e, f), max(e, f)
        h, i = min(h, i), max(h, i)
        d = max(a, d)
        f = min(f, i)
        e, h = min(e, h), max(e, h)
        g = max(d, g)
        e = max(b, e)
        c = min(c, f)
        e = min(e, h)
        e, c = min(e, c), max(e, c)
        e = max(g, e)
        medians[j] = min(e, c)


BLOCK_ROWS = 9
TALL = 36  # rows from which a tile starts from medians of 9 rows x 1 column


@exact
def coordinates(rows, columns, y, x):
    """Centred coordinates of the pixels of a tile, row by row: y, x (rows * columns,) float32, written."""
    bottom, right = np.float32(0.5 * (rows - 1)), np.float32(0.5 * (columns - 1))
    for i in range(rows):
        for j in range(columns):
            y[i * columns + j] = np.float32(i) - bottom
            x[i * columns + j] = np.float32(j) - right


@exact
def median_of(values, n):
    """Median of the first n values, which are sorted in place."""
    for i in range(1, n):
        v = values[i]
        j = i - 1
        while j >= 0 and values[j] > v:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = v
    return np.float32(0.5) * (values[(n - 1) // 2] + values[n // 2])


@exact
def column_medians(z, medians, y, x):
    """Medians of 9 rows x 1 column of a tall tile, nan where fewer than half of the nine are usable. Returns how many.

    A missing value counts as very low or very high in turn, so that it moves the median by half a rank, either way."""
    rows, columns = z.shape
    v = np.empty((BLOCK_ROWS, columns), np.float32)
    m = 0
    for p in range(rows // BLOCK_ROWS):
        usable = np.zeros(columns, np.int32)
        for i in range(BLOCK_ROWS):
            row, out = z[p * BLOCK_ROWS + i], v[i]
            for j in range(columns):
                here = row[j] == row[j]
                usable[j] += np.int32(here)
                out[j] = row[j] if here else np.float32(np.inf if (i + j) & 1 else -np.inf)
        some = medians[p * columns : (p + 1) * columns]
        medians_of_nine(v, some)
        for j in range(columns):
            enough = 2 * usable[j] >= BLOCK_ROWS and abs(some[j]) < np.inf
            some[j] = some[j] if enough else np.float32(np.nan)
            m += enough
            y[p * columns + j] = np.float32((p + 0.5) * BLOCK_ROWS - 0.5 * rows)
            x[p * columns + j] = np.float32(j - 0.5 * (columns - 1))
    return m


@exact
def block_medians(z, medians, y, x):
    """Medians of a 4 x 4 grid of blocks of a low tile, nan where fewer than half are usable. Returns how many are there.

    The blocks reach from edge to edge, alike from either side: a mirrored tile starts from the mirrored plane."""
    rows, columns = z.shape
    tall, wide = (rows + 3) // 4, (columns + 3) // 4
    values = np.empty(tall * wide, np.float32)
    m = 0
    for b in range(16):
        top, left = ((b >> 2) * (rows - tall) + 1) // 3, ((b & 3) * (columns - wide) + 1) // 3
        n = 0
        for i in range(top, top + tall):
            for j in range(left, left + wide):
                if not np.isnan(z[i, j]):
                    values[n] = z[i, j]
                    n += 1
        enough = 2 * n >= tall * wide
        medians[b] = median_of(values, n) if enough else np.float32(np.nan)
        m += enough
        y[b] = np.float32(top + 0.5 * tall - 0.5 * rows)
        x[b] = np.float32(left + 0.5 * wide - 0.5 * columns)
    return m


@exact
def level(medians, m):
    """(median, half of the interquartile range) of SAMPLED of m medians, evenly taken; those that are nan left out."""
    sample = np.empty(SAMPLED, np.float32)
    step = m // SAMPLED + 1
    n = seen = 0
    for v in medians:
        if v == v:
            if seen % step == 0:
                sample[n] = v
                n += 1
            seen += 1
    middle = median_of(sample, n)
    return middle, np.float32(0.5) * (sample[3 * n // 4] - sample[n // 4])


@exact
def start_plane(z, plane):
    """First plane: least squares on the 0.6 of the block medians that lie nearest, up to 8 times. Returns their bound.

    Where the usable pixels are so scattered that hardly a block is half full, it is level, at their median."""
    rows, columns = z.shape
    blocks = rows // BLOCK_ROWS * columns if rows >= TALL else 16
    medians, r = np.empty(blocks, np.float32), np.empty(blocks, np.float32)
    y, x = np.empty(blocks, np.float32), np.empty(blocks, np.float32)
    m = column_medians(z, medians, y, x) if rows >= TALL else block_medians(z, medians, y, x)
    plane[0], plane[1], plane[2] = 0.0, 0.0, 0.0
    if m < 8:
        plane[0] = np.nanmedian(z)
        return np.float32(0)
    plane[0], limit = level(medians, m)
    for _ in range(8):
        residuals(medians, y, x, plane, r)
        limit = kth_smallest(r, int(NEAREST * m), limit, COARSE if m > 64 else FINE)
        _, _, moved = refit(r, y, x, limit, plane)
        if moved <= SETTLED * limit:
            break
    return limit


# ---- the fit ----------------------------------------------------------------------------------------------------------


@exact
def fit_plane(z, y, x, structure, lambda_fit, plane, r):
    """Robust plane and sigma_raw of one tile (Appendix A; the final least squares is over the inliers, as the paper says).

    z: (H, W) float32, nan where a pixel takes no part. y, x: its coordinates. plane: (3,) float64, written. r: (H*W,)
    float32, scratch. Returns sigma_raw, or nan where the tile cannot be fitted.
    """
    flat = z.reshape(-1)
    usable = count_within(flat, np.float32(np.inf))
    if usable < max(MIN_PIXELS, MIN_SHARE * z.size):
        return np.nan
    limit = np.float32(2) * start_plane(z, plane)  # pixels spread more than medians do
    k = int(structure * usable)
    # concentrate: least squares on the k pixels with the smallest residuals, until it no longer moves
    precision, settled = (COARSE, SETTLED) if z.size >= LARGE else (FINE, FINE)
    for _ in range(STEPS):
        residuals(flat, y, x, plane, r)
        limit = kth_smallest(r, k, limit, precision)
        _, _, moved = refit(r, y, x, limit, plane)
        if moved <= settled * limit:
            break
    # scale: MSSE as a fixed point from below; sigma does not decrease as inliers join, so it cannot overshoot
    residuals(flat, y, x, plane, r)
    limit = kth_smallest(r, k, limit, precision)
    inliers, total = -1, 0.0
    while True:
        n, total = squares_within(r, limit)
        if n == inliers or n <= PARAMETERS:
            break
        inliers = n
        limit = max(limit, np.float32(lambda_fit * math.sqrt(total / (n - PARAMETERS))))
    if not limit > 0:
        return 0.0
    # the model is the least squares of all inliers
    n, fallen, _ = refit(r, y, x, limit, plane)
    if z.size >= LARGE:  # once more: it then depends no longer on where the rough concentration stopped
        residuals(flat, y, x, plane, r)
        _, total = squares_within(r, limit)
        n, fallen, _ = refit(r, y, x, limit, plane)
    return math.sqrt(max(total - fallen, 0.0) / (n - PARAMETERS)) if n > PARAMETERS else np.nan


@exact
def typical(values, top, bottom, left, right):
    """A value near those of a tile, so that float32 differences from it are enough: the median of some; 0 where none."""
    sample = np.empty(SAMPLED, np.float32)
    step = max((bottom - top) * (right - left) // SAMPLED, 1)
    n = 0
    for s in range(SAMPLED):
        at = s * step + (s * 7) % max(step, 1)
        i, j = top + at // (right - left), left + at % (right - left)
        if i < bottom and not np.isnan(values[i, j]):
            sample[n] = values[i, j]
            n += 1
    return np.float64(median_of(sample, n)) if n else 0.0


@fast
def load_row(values, base, z):
    """One row of a tile, less its base, in float32. values: (W,) float64. z: (W,) float32, written."""
    for j in range(z.size):
        z[j] = np.float32(values[j] - base)


@fast
def write_row(first, slope, model):
    """The plane along one row, from its value at the first pixel. model: (W,) float64, written."""
    for j in range(model.size):
        model[j] = first + slope * j


@exact
def fit_tiles(values, tiles, structure, lambda_fit, consistency, floor, model, scale):
    """Robust plane and scale of each tile of a map.

    values: (ss, fs) float64, nan where a pixel takes no part. tiles: (n, 4) int64, first and last + 1 of ss, then of fs.
    model, scale: (ss, fs) float64, written; nan in a tile that could not be fitted.
    """
    plane = np.empty(3)
    z = np.empty((0, 0), np.float32)
    y = x = r = np.empty(0, np.float32)
    for t in range(tiles.shape[0]):
        top, bottom, left, right = tiles[t]
        rows, columns = bottom - top, right - left
        if z.shape != (rows, columns):
            z = np.empty((rows, columns), np.float32)
            y, x, r = np.empty(z.size, np.float32), np.empty(z.size, np.float32), np.empty(z.size, np.float32)
            coordinates(rows, columns, y, x)
        base = typical(values, top, bottom, left, right)
        for i in range(rows):
            load_row(values[top + i, left:right], base, z[i])
        sigma_raw = fit_plane(z, y, x, structure, lambda_fit, plane, r)
        sigma = final_sigma(sigma_raw, consistency, floor, base + plane[0])
        c0 = np.nan if np.isnan(sigma) else base + plane[0]
        for i in range(rows):
            at = c0 + plane[1] * (i - 0.5 * (rows - 1)) - plane[2] * 0.5 * (columns - 1)
            write_row(at, plane[2], model[top + i, left:right])
            scale[top + i, left:right] = sigma
