"""FLkOS and MSSE (Appendix A): the robust mean and scale of values, and the robust plane of a tile.

FLkOS looks for the model whose k-th smallest residual is least; MSSE then grows the inliers from the smallest residuals
while the next one lies within lambda_fit sigma of those before it. Knows nothing of features, cuts or flags.
A value that is not to be used is nan.
"""

import math

import numpy as np

from .compiled import exact, fast

STEPS = 12  # optimisation steps, Bab-Hadiashar & Hoseinnezhad (2008), quoted in Appendix A
MIN_VALUES = 20  # below it k is so small that nothing is robust
MIN_PIXELS = 100  # of a tile: 15 x 15 in an ASIC corner, 14 x 14 without its edge pixels, is still fitted
MIN_SHARE = 0.5  # of a tile's pixels
PLANE = 3  # parameters of a plane
BLOCK_ROWS = 9
LARGE = 1024  # pixels from which a tile's concentration may be COARSE; in a smaller one each pixel moves the plane
COARSE, FINE = 0.01, 1e-4  # of the k-th residual
TALL = 36  # rows from which a tile starts from medians of 9 rows x 1 column


# ---- one dimension ----------------------------------------------------------------------------------------------------


@exact
def nearest_run(x, theta, k):
    """Start of the run of the k values nearest theta in sorted x; of two equally far the smaller value goes in."""
    low, high = 0, x.size - k
    while low < high:
        middle = (low + high) >> 1
        if theta - x[middle] > x[middle + k] - theta:
            low = middle + 1
        else:
            high = middle
    return low


@exact
def msse_sorted(x, theta, k, lambda_fit, parameters):
    """MSSE of sorted x about theta: sigma of the k nearest values and of all that join them. Returns sigma_raw."""
    a = nearest_run(x, theta, k)
    b = a + k
    total = 0.0
    for i in range(a, b):
        total += (x[i] - theta) ** 2
    while b - a < x.size:
        left = theta - x[a - 1] if a > 0 else np.inf
        right = x[b] - theta if b < x.size else np.inf
        r = min(left, right)
        if (b - a - parameters) * r * r > lambda_fit * lambda_fit * total:
            break
        total += r * r
        if left <= right:
            a -= 1
        else:
            b += 1
    return math.sqrt(total / (b - a - parameters))


@exact
def fit_sorted(x, structure, certain, lambda_fit):
    """Robust mean and sigma_raw of sorted, finite float64 values, at least MIN_VALUES of them (Appendix A).

    structure: k/N. certain: inner end of the rank window, which narrows to 0, so that the last step concentrates on the
    k nearest values. Returns (theta, sigma_raw), sigma_raw without the consistency factor.
    """
    n = x.size
    k = int(structure * n)
    middle = x[n // 2]
    y = x - middle
    upto = np.zeros(n + 1)
    for i in range(n):
        upto[i + 1] = upto[i] + y[i]
    theta = 0.0
    for step in range(1, STEPS + 1):
        j = min(int(certain * (1.0 - step / STEPS) * n), k - 1)
        a = nearest_run(y, theta, k)
        total, m = upto[a + k] - upto[a], k
        if j > 0:
            inner = min(max(nearest_run(y, theta, j), a), a + k - j)
            total -= upto[inner + j] - upto[inner]
            m -= j
        theta = total / m
    sigma = 0.0
    for _ in range(2):
        sigma = msse_sorted(y, theta, k, lambda_fit, 1)
        total, m = 0.0, 0
        for i in range(n):
            if abs(y[i] - theta) <= lambda_fit * sigma:
                total += y[i]
                m += 1
        if m == 0:
            break
        theta = total / m
    return theta + middle, sigma


# ---- a plane on a tile ------------------------------------------------------------------------------------------------


@fast
def count_within(r, limit):
    """How many of the residuals r (float32, any shape flattened, nan where unused) are within +-limit."""
    n = np.int32(0)
    for i in range(r.size):
        n += np.int32(abs(r[i]) <= limit)
    return n


@fast
def squares_within(r, limit):
    """(count, sum of squares) of the residuals within +-limit."""
    n = np.int32(0)
    total = np.float32(0)
    for i in range(r.size):
        v = r[i] if abs(r[i]) <= limit else np.float32(0)
        n += np.int32(abs(r[i]) <= limit)
        total += v * v
    return n, np.float64(total)


@exact
def kth_smallest(r, k, precision):
    """The k-th smallest abs(r), from above, to a relative precision; by counting, so nothing is sorted.

    Returns 0 where k values are 0. The bracket doubles from the mean of abs(r) of a few values."""
    step = max(r.size // 64, 1)
    total, n = 0.0, 0
    for i in range(0, r.size, step):
        if abs(r[i]) < np.inf:
            total += abs(r[i])
            n += 1
    high = np.float32(total / n) if n else np.float32(1)
    if not high > 0:
        high = np.float32(1e-6)
    low = np.float32(0)
    if count_within(r, low) >= k:
        return low
    while count_within(r, high) < k:
        low = high
        high = np.float32(2) * high
        if not high < np.inf:
            return high
    while low == 0:
        middle = np.float32(0.25) * high
        if count_within(r, middle) >= k:
            high = middle
        else:
            low = middle
        if high < np.float32(1e-30):
            return high
    while high - low > np.float32(precision) * high:
        middle = np.float32(0.5) * (low + high)
        if count_within(r, middle) >= k:
            high = middle
        else:
            low = middle
    return high


@fast
def residuals(z, plane, r):
    """r = z - plane. z: (H, W) float32. plane: (c0, cy, cx) about the tile's centre. r: (H*W,) float32, written."""
    rows, columns = z.shape
    slope = np.float32(plane[2])
    centre = np.float32(0.5 * (columns - 1))
    for i in range(rows):
        base = np.float32(plane[0] + plane[1] * (i - 0.5 * (rows - 1)))
        zi = z[i]
        ri = r[i * columns : (i + 1) * columns]
        for j in range(columns):
            ri[j] = zi[j] - (base + slope * (np.float32(j) - centre))


@fast
def row_moments(r, limit, x):
    """Of the residuals of one row within +-limit: count, sum x, sum x^2, sum r, sum r*x. All float32."""
    n = np.float32(0)
    sx = np.float32(0)
    sxx = np.float32(0)
    sr = np.float32(0)
    srx = np.float32(0)
    for j in range(r.size):
        g = np.float32(1) if abs(r[j]) <= limit else np.float32(0)
        v = r[j] if abs(r[j]) <= limit else np.float32(0)
        n += g
        sx += g * x[j]
        sxx += g * x[j] * x[j]
        sr += v
        srx += v * x[j]
    return n, sx, sxx, sr, srx


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
def refit(r, shape, limit, plane):
    """One least squares on the residuals within +-limit; adds the change to plane. Returns how many took part."""
    rows, columns = shape
    x = np.empty(columns, np.float32)
    for j in range(columns):
        x[j] = np.float32(j) - np.float32(0.5 * (columns - 1))
    n = sy = sx = syy = syx = sxx = sr = sry = srx = 0.0
    for i in range(rows):
        y = i - 0.5 * (rows - 1)
        a, ax, axx, b, bx = row_moments(r[i * columns : (i + 1) * columns], limit, x)
        n += a
        sy += a * y
        sx += ax
        syy += a * y * y
        syx += ax * y
        sxx += axx
        sr += b
        sry += b * y
        srx += bx
    if n < PLANE:
        return 0
    c0, cy, cx = solve_plane(n, sy, sx, syy, syx, sxx, sr, sry, srx)
    plane[0] += c0
    plane[1] += cy
    plane[2] += cx
    return int(n)


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
def block_medians(z, medians, y, x):
    """Medians of small blocks of a tile: 9 rows x 1 column on a tall tile, else a 4 x 4 grid of blocks.

    A block with fewer than half of its pixels usable is dropped. medians, y, x: written, float32. Returns how many."""
    rows, columns = z.shape
    if rows >= TALL:
        tall, wide, down, across = BLOCK_ROWS, 1, rows // BLOCK_ROWS, columns
    else:
        tall, wide, down, across = (rows + 3) // 4, (columns + 3) // 4, 4, 4
    values = np.empty(tall * wide, np.float32)
    m = 0
    for p in range(down):
        for q in range(across):
            n = 0
            # 4 blocks reach from edge to edge, alike from either side: a mirrored tile starts from the mirrored plane
            top = p * tall if rows >= TALL else (p * (rows - tall) + 1) // 3
            left = q * wide if rows >= TALL else (q * (columns - wide) + 1) // 3
            for i in range(top, top + tall):
                for j in range(left, left + wide):
                    if not np.isnan(z[i, j]):
                        values[n] = z[i, j]
                        n += 1
            if 2 * n >= tall * wide and n > 0:
                medians[m] = median_of(values, n)
                y[m] = np.float32(top + 0.5 * tall - 0.5 * rows)
                x[m] = np.float32(left + 0.5 * wide - 0.5 * columns)
                m += 1
    return m


@exact
def start_plane(z, plane):
    """First plane from block medians: least squares on the 0.6 of them that lie nearest, up to 8 times.

    Where the usable pixels are so scattered that hardly a block is half full, it is level, at their median."""
    most = max((z.shape[0] // BLOCK_ROWS + 1) * z.shape[1], 16)
    medians = np.empty(most, np.float32)
    y = np.empty(most, np.float32)
    x = np.empty(most, np.float32)
    m = block_medians(z, medians, y, x)
    if m < 8:
        plane[0], plane[1], plane[2] = np.nanmedian(z), 0.0, 0.0
        return
    r = np.sort(medians[:m])
    plane[0], plane[1], plane[2] = r[m // 2], 0.0, 0.0
    for _ in range(8):
        for i in range(m):
            r[i] = medians[i] - np.float32(plane[0] + plane[1] * y[i] + plane[2] * x[i])
        limit = kth_smallest(r, int(0.6 * m), 1e-3)
        n = sy = sx = syy = syx = sxx = sr = sry = srx = 0.0
        for i in range(m):
            if abs(r[i]) <= limit:
                n += 1
                sy += y[i]
                sx += x[i]
                syy += y[i] * y[i]
                syx += y[i] * x[i]
                sxx += x[i] * x[i]
                sr += r[i]
                sry += r[i] * y[i]
                srx += r[i] * x[i]
        c0, cy, cx = solve_plane(n, sy, sx, syy, syx, sxx, sr, sry, srx)
        plane[0] += c0
        plane[1] += cy
        plane[2] += cx
        if abs(c0) + abs(cy) + abs(cx) <= 1e-4 * limit:
            break


@exact
def fit_plane(z, structure, lambda_fit, plane, r):
    """Robust plane and sigma_raw of one tile (Appendix A; the final least squares is over the inliers, as the paper says).

    z: (H, W) float32, nan where a pixel takes no part. plane: (3,) float64, written: c0, cy, cx about the tile's centre.
    r: (H*W,) float32, scratch. Returns sigma_raw, or nan where the tile cannot be fitted.
    """
    usable = 0
    for v in z.flat:
        usable += not np.isnan(v)
    if usable < max(MIN_PIXELS, MIN_SHARE * z.size):
        return np.nan
    start_plane(z, plane)
    rows, columns = z.shape
    k = int(structure * usable)
    # concentrate: least squares on the k pixels with the smallest residuals, until it no longer moves
    limit = np.float32(0)
    precision = COARSE if z.size >= LARGE else FINE
    for step in range(STEPS):
        residuals(z, plane, r)
        limit = kth_smallest(r, k, precision)
        before = plane.copy()
        refit(r, z.shape, limit, plane)
        moved = np.abs(plane - before)
        if step > 0 and moved[0] + 0.5 * rows * moved[1] + 0.5 * columns * moved[2] <= precision * limit:
            break
    # scale: MSSE as a fixed point from below; sigma does not decrease as inliers join, so it cannot overshoot
    residuals(z, plane, r)
    limit = kth_smallest(r, k, FINE)
    inliers = -1
    while True:
        n, total = squares_within(r, limit)
        if n == inliers or n <= PLANE:
            break
        inliers = n
        limit = max(limit, np.float32(lambda_fit * math.sqrt(total / (n - PLANE))))
    if not limit > 0:
        return 0.0
    # the model is the least squares of all inliers
    before = plane.copy()
    n = refit(r, z.shape, limit, plane)
    change = plane - before
    total = 0.0
    for i in range(rows):
        base = change[0] + change[1] * (i - 0.5 * (rows - 1))
        for j in range(columns):
            v = r[i * columns + j]
            if abs(v) <= limit:
                total += (v - base - change[2] * (j - 0.5 * (columns - 1))) ** 2
    return math.sqrt(total / (n - PLANE)) if n > PLANE else np.nan


EPS32 = float(np.finfo(np.float32).eps)


@exact
def final_sigma(sigma_raw, consistency, floor, mu):
    """Consistency factor and floor of docs/method.md 2.1 to 2.3. nan where there is no scale to judge by."""
    sigma = consistency * sigma_raw
    if sigma <= 4 * EPS32 * abs(mu):  # what rounding leaves of a constant
        sigma = 0.0
    if np.isnan(sigma_raw):
        return np.nan
    sigma = max(sigma, floor)
    return sigma if sigma > 0 else np.nan


@exact
def fit_tiles(values, tiles, structure, lambda_fit, consistency, floor, model, scale):
    """Robust plane and scale of each tile of a map.

    values: (ss, fs) float64, nan where a pixel takes no part. tiles: (n, 4) int64, first and last + 1 of ss, then of fs.
    model, scale: (ss, fs) float64, written; nan in a tile that could not be fitted.
    """
    plane = np.empty(3)
    for t in range(tiles.shape[0]):
        top, bottom, left, right = tiles[t]
        rows, columns = bottom - top, right - left
        z = np.empty((rows, columns), np.float32)
        r = np.empty(rows * columns, np.float32)
        sample = np.empty(rows * columns)
        n = 0
        for i in range(top, bottom):
            for j in range(left + (i * 7) % 8, right, 8):
                if not np.isnan(values[i, j]):
                    sample[n] = values[i, j]
                    n += 1
        base = np.sort(sample[:n])[n // 2] if n else 0.0  # near the values: float32 differences from it are enough
        for i in range(rows):
            for j in range(columns):
                z[i, j] = np.float32(values[top + i, left + j] - base)
        sigma_raw = fit_plane(z, structure, lambda_fit, plane, r)
        sigma = final_sigma(sigma_raw, consistency, floor, base + plane[0])
        for i in range(rows):
            for j in range(columns):
                if np.isnan(sigma):
                    model[top + i, left + j] = np.nan
                else:
                    y, x = i - 0.5 * (rows - 1), j - 0.5 * (columns - 1)
                    model[top + i, left + j] = base + plane[0] + plane[1] * y + plane[2] * x
                scale[top + i, left + j] = sigma
