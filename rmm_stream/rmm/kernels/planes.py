"""FLkOS and MSSE for a plane (Appendix A): the robust backgrounds of tiles, without sorting.

A plane is (c0, cy, cx): its value at the tile's centre and its slopes along ss and fs. Ranks are found by counting residuals
within a bound. A pixel that takes no part is nan. Tiles lie one after another in a *stack*, so that a fit runs in the nearest
cache. Knows nothing of features, cuts or flags.

Its steps are passes over points (points.py), which LLVM makes part of the one kernel that is called, `fit_tiles`, in 3 s.
Linked into every caller they would take 20 s to compile; inlined by numba, whose types take longer the longer a kernel is, 5.6.
"""

import math

import numpy as np

from .compiled import exact, fast, inlined
from .points import count_within, gradient_within, kth_smallest, moments_within, refit, residuals, squares_within
from .robust import final_sigma

STEPS = 12  # concentration steps at most, Bab-Hadiashar & Hoseinnezhad (2008), quoted in Appendix A
MIN_PIXELS = 100  # so that a 15 x 15 tile in an ASIC corner, 14 x 14 without its edge pixels, is still fitted
MIN_SHARE = 0.5  # of a tile's pixels
PARAMETERS = 3
NEAREST = 0.6  # share of the block medians that the first plane goes through
SAMPLE = 1024  # pixels that are enough to concentrate on; of a larger tile, every second to fourth row
COARSE, FINE = 0.05, 1e-4  # relative precision of a rank's bound: on a sample, on all pixels
SETTLED = 0.25  # of that bound: the final least squares mend what a large tile's plane still moves
SAMPLED = 25  # values whose median tells about where to begin
FINAL = 4  # least squares over all inliers at most
AT_REST, ALIKE = 0.05, 0.03  # they end when the corners move by less, in sigma, and their bound, relatively
ALIKE_PLACES = 0.1  # relative change of that bound within which the inliers' places have the same moments
NEARLY_AT_REST = 0.2  # of single frames, whose sums are of hundreds: leaves 0.01 sigma
MOVED = 0.2  # relative change of k-th residual : sigma at which a warm fit is not believed
BELOW = 0.7  # of the last bound of inliers, in k-th residuals, where a warm scale begins


# ---- where to start ---------------------------------------------------------------------------------------------------


@fast
def medians_of_nine(z, medians):
    """Median of nine rows at each column, by the network of 19 exchanges (Paeth 1990); nan where fewer than half are usable.

    A missing value counts as very low or very high in turn, so that it moves the median by half a rank, either way.
    z: (9 W,) float32, row by row. medians: (W,), written. Returns how many there are."""
    w, one, zero, inf = np.uintp(medians.size), np.int32(1), np.int32(0), np.float32(np.inf)
    m = zero
    for j in range(w):
        a, b, c = z[j], z[j + w], z[j + np.uintp(2) * w]
        d, e, f = z[j + np.uintp(3) * w], z[j + np.uintp(4) * w], z[j + np.uintp(5) * w]
        g, h, i = z[j + np.uintp(6) * w], z[j + np.uintp(7) * w], z[j + np.uintp(8) * w]
        missing = np.int32(a != a) + np.int32(b != b) + np.int32(c != c) + np.int32(d != d) + np.int32(e != e)
        missing += np.int32(f != f) + np.int32(g != g) + np.int32(h != h) + np.int32(i != i)
        even = inf if np.int32(j) & one else -inf
        a, b, c = even if a != a else a, -even if b != b else b, even if c != c else c
        d, e, f = -even if d != d else d, even if e != e else e, -even if f != f else f
        g, h, i = even if g != g else g, -even if h != h else h, even if i != i else i
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
        e = min(e, c)
        there = missing < 5 and abs(e) < inf
        medians[j] = e if there else np.float32(np.nan)
        m = np.int32(m + (one if there else zero))
    return m


BLOCK_ROWS, BLOCK_STEP = 9, 18  # of so many rows, so many are looked at
TALL = 36  # rows from which a tile starts from medians of 9 rows x 1 column


@exact
def median_of(values, n):
    """Median of the first n values, which are sorted in place: by insertion without a branch, three times as fast."""
    for i in range(1, n):
        v = values[i]
        for j in range(i):
            w = values[j]
            values[j] = w if w < v else v
            v = v if w < v else w
        values[i] = v
    return np.float32(0.5) * (values[(n - 1) // 2] + values[n // 2])


@inlined
def block_medians(z, rows, columns, values, medians):
    """Medians of blocks, nan where fewer than half of a block is usable. Returns how many there are.

    Of a tall tile 9 rows x 1 column; of a low one a 4 x 4 grid from edge to edge, alike from either side: a mirrored tile
    starts from the mirrored plane. z: (rows * columns,) float32. values: as many, scratch. medians: written."""
    m = np.int64(0)
    if rows >= TALL:
        for first in range(0, medians.size, columns):
            at = BLOCK_STEP * first
            m += medians_of_nine(z[at : at + BLOCK_ROWS * columns], medians[first : first + columns])
        return m
    tall, wide = (rows + 3) // 4, (columns + 3) // 4
    for b in range(16):
        top, left = ((b >> 2) * (rows - tall) + 1) // 3, ((b & 3) * (columns - wide) + 1) // 3
        n = np.int64(0)
        for i in range(top, top + tall):
            for j in range(left, left + wide):
                v = z[i * columns + j]
                if v == v:
                    values[n] = v
                    n += 1
        medians[b] = np.float32(np.nan)
        if 2 * n >= tall * wide:
            medians[b] = median_of(values, n)
            m += 1
    return m


@fast
def level(values, m, sample):
    """(median, half of the interquartile range) of SAMPLED of m usable values, evenly taken. sample: (SAMPLED,), scratch."""
    step = m // SAMPLED + 1
    n = wait = np.int64(0)
    for v in values:
        if v == v:
            if wait == 0:
                sample[n] = v
                n += 1
                wait = step
            wait -= 1
    middle = median_of(sample, n)
    return middle, np.float32(0.5) * (sample[3 * n // 4] - sample[n // 4])


# ---- the fit ----------------------------------------------------------------------------------------------------------


@fast
def fit_tiles(
    z, shape, usable, least, wanted, warm_start, sample, places, structure, lambda_fit, at_rest,
    planes, sigmas, nearest, scratch, sums,
):  # fmt: skip
    """Robust planes and sigma_raw of the tiles of a stack (Appendix A; the final least squares is over the inliers).

    z: (n, H * W) float32, nan where a pixel takes no part. shape: (2,) int64, H and W. usable: (n,) int64, pixels that do;
    least: (n,) int64, so many are needed. wanted: (n,) int64, 0: leave it out. warm_start: from `planes`, where there is one.
    sample: rows to concentrate on. places: (6, H * W) float32, y and x of the pixels, of the sample, of the blocks, as
    layout() in outliers.py has them. at_rest: AT_REST, or more. planes: (n, 3) float64. sigmas: (n,) float64, nan where a
    tile cannot be fitted. nearest: (n,) float64, k-th residual about the plane where its concentration ended. All three are
    written.
    scratch: (4, H * W) float32, sums: (15,) float64. Returns the least sigma_raw, inf where no tile was fitted.
    """
    rows, columns = shape[0], shape[1]
    size, part = rows * columns, sample.size * columns
    blocks = ((rows - BLOCK_ROWS) // BLOCK_STEP + 1) * columns if rows >= TALL else np.int64(16)
    y, x, r, medians, few = places[0, :size], places[1, :size], scratch[0, :size], scratch[1, :blocks], scratch[3]
    y_some, x_some, y_block, x_block = places[2, :part], places[3, :part], places[4, :blocks], places[5, :blocks]
    some, rest, r_block = scratch[2, :part], scratch[0, :part], scratch[0, :blocks]
    sums, kept, inside = sums[:10], sums[10:13], sums[13:]
    # the block medians nearest the middle
    of_middle = blocks // columns // 2 * columns
    lowest = np.inf
    for t in range(z.shape[0]):
        tile, plane, before = z[t], planes[t], sigmas[t]
        if wanted[t] == 0:
            continue
        sigmas[t] = np.nan
        if usable[t] < least[t]:
            continue
        n, sampled = usable[t], False
        if part < size:
            for g in range(sample.size):
                a, b = np.uintp(sample[g] * columns), np.uintp(g * columns)
                for j in range(np.uintp(columns)):
                    some[b + j] = tile[a + j]
            there = np.int64(count_within(some, np.float32(np.inf)))
            sampled = 2 * size * there >= part * n  # else what is missing follows the pattern of the sample
            n = there if sampled else n
        warm, kept_sigma, kept_nearest = warm_start and rows >= TALL and before > 0, 0.0, np.inf
        reach, limit, m = np.float32(before / nearest[t]), np.float32(nearest[t]), np.int64(0)
        while True:
            # where the light has changed since the last plane, a ninth of the pixels tell by how much
            first, last = (of_middle, of_middle + columns) if warm else (np.int64(0), blocks)
            if not warm:
                plane[0] = plane[1] = plane[2] = 0.0
            near = medians[first:last]
            m = block_medians(tile[BLOCK_STEP * first :], rows, columns, r, near)
            if warm and m < 8:
                warm = False
                continue
            residuals(near, y_block[first:last], x_block[first:last], plane, r[: last - first])
            on_blocks = not warm and m >= 8
            shift, spread = level(r[: last - first] if m >= 8 else tile, m if m >= 8 else usable[t], few)
            plane[0] += shift
            limit = limit if warm else spread
            while True:  # concentrate: least squares on the k points nearest the plane, until it hardly moves
                if on_blocks:
                    v, vy, vx, vr, k = medians, y_block, x_block, r_block, int(NEAREST * m)
                else:
                    v, vy, vx, vr, k = tile, y, x, r, int(structure * n)
                    if sampled:
                        v, vy, vx, vr = some, y_some, x_some, rest
                rough = m > 64 if on_blocks else size >= SAMPLE
                precision, settled, moved = COARSE if rough else FINE, SETTLED if rough or on_blocks else FINE, np.inf
                if rough and on_blocks:  # only where pixels begin
                    precision, settled = 3 * COARSE, 2 * SETTLED
                for _ in range(1 if warm else STEPS):
                    residuals(v, vy, vx, plane, vr)
                    limit = kth_smallest(vr, k, limit, precision)
                    moments_within(v, vy, vx, plane, limit, sums)
                    moved = refit(y, x, sums, plane)
                    if moved <= settled * limit:
                        break
                if not on_blocks:
                    break
                on_blocks, limit = False, np.float32(2) * limit  # pixels spread more than medians do
            if warm and not moved <= SETTLED * limit:  # more than its level has changed: from the start
                warm = False
                continue
            nearest[t] = limit
            # scale: MSSE as a fixed point from below; sigma does not decrease as inliers join, so it cannot overshoot
            residuals(v, vy, vx, plane, vr)
            if warm:
                limit = max(limit, np.float32(BELOW * lambda_fit) * reach * limit)
            inliers = 0.0
            while True:
                squares_within(vr, limit, inside)
                if inside[0] <= max(inliers, PARAMETERS):
                    break
                inliers, bound = inside[0], np.float32(lambda_fit * math.sqrt(inside[1] / (inside[0] - PARAMETERS)))
                ends, limit = rough and bound <= np.float32(1 + ALIKE) * limit, max(limit, bound)
                if ends:  # the least squares that follow do the rest
                    break
            sigmas[t] = 0.0
            if limit > 0:  # the model is the least squares of all inliers, first of the sample, then of all pixels
                placed = np.float32(0)
                for turn in range(FINAL + 1):
                    if turn > 0 or not sampled:
                        v, vy, vx = tile, y, x
                    # on a curved background the nearest lie in a band: with another bound, inliers lie elsewhere
                    if sampled and abs(limit - placed) <= ALIKE_PLACES * placed:
                        gradient_within(v, vy, vx, plane, limit, sums)
                    else:
                        moments_within(v, vy, vx, plane, limit, sums)
                        placed = limit
                    if sums[0] <= PARAMETERS:  # of equal values, whose scale is 0, rounding leaves none within it
                        sigmas[t] = sigmas[t] if turn > 0 else np.nan
                        break
                    moved = refit(y, x, sums, plane)
                    sigmas[t] = math.sqrt(max(sums[9], 0.0) / (sums[0] - PARAMETERS))
                    bound = np.float32(lambda_fit * sigmas[t])
                    rests = moved <= at_rest * sigmas[t] and abs(bound - limit) <= ALIKE * limit
                    limit = bound
                    if size < SAMPLE or (rests and (turn > 0 or not sampled)):
                        break
            if not warm or abs(nearest[t] * reach - sigmas[t]) <= MOVED * sigmas[t]:
                break
            warm, kept_sigma, kept_nearest = False, sigmas[t], nearest[t]
            for i in range(PARAMETERS):
                kept[i] = plane[i]
        if kept_nearest < (1 - COARSE) * nearest[t]:
            sigmas[t], nearest[t] = kept_sigma, kept_nearest
            for i in range(PARAMETERS):
                plane[i] = kept[i]
        lowest = min(lowest, sigmas[t]) if sigmas[t] >= 0 else lowest
    return lowest


# ---- maps ---------------------------------------------------------------------------------------------------------------


@fast
def load_map(values, width, tiles, columns, few, base, z, usable, wanted):
    """A map into a stack, less a value near those of each tile, so that float32 differences are enough.

    values: (px,) float64, nan where a pixel takes no part. width: of its rows. columns: of the stack. few: (H * W,) float32,
    scratch. base: (n,) float64, median of some values. z: (n, H * W) float32. usable: (n,) int64, how many. wanted: (n,)
    int64, 1. All four are written.
    """
    for t in range(tiles.shape[0]):
        top, left, m = np.uintp(tiles[t, 0]), np.uintp(tiles[t, 2]), np.uintp(tiles[t, 3] - tiles[t, 2])
        rows, tile = np.uintp(tiles[t, 1] - tiles[t, 0]), z[t]
        step = max((tiles[t, 1] - tiles[t, 0]) * (tiles[t, 3] - tiles[t, 2]) // SAMPLED, 1)
        k = np.int64(0)
        for s in range(SAMPLED):
            at = np.uintp(s * step + (s * 7) % step)
            if at < rows * m:
                v = values[(top + at // m) * np.uintp(width) + left + at % m]
                if v == v:
                    few[k] = np.float32(v)
                    k += 1
        base[t] = median_of(few, k) if k > 0 else np.float32(0)
        middle, n = base[t], np.int32(0)
        for i in range(rows):
            a = np.uintp(np.uintp(top + i) * np.uintp(width) + left)
            b = np.uintp(i * np.uintp(columns))
            for j in range(m):
                v = np.float32(values[a + j] - middle)
                tile[b + j] = v
                n = np.int32(n + (np.int32(1) if v == v else np.int32(0)))
        usable[t], wanted[t] = n, 1


@fast
def write_map(values, width, tiles, planes, base, sigmas, consistency, floor, columns, y, x, model, scale, snr):
    """Model, scale and SNR (eq. 1) of every pixel of a map from the planes of its tiles; nan in a tile that is not fitted.

    y, x: (H * W,) float32, places of the pixels of the stack. model, scale, snr: (px,) float64, written."""
    for t in range(tiles.shape[0]):
        m = np.uintp(tiles[t, 3] - tiles[t, 2])
        sigma = final_sigma(sigmas[t], consistency, floor, base[t] + planes[t, 0])
        c0, cx, inverse = base[t] + planes[t, 0] if sigma > 0 else np.nan, planes[t, 2], 1 / sigma
        for i in range(np.uintp(tiles[t, 1] - tiles[t, 0])):
            a = np.uintp(np.uintp(np.uintp(tiles[t, 0]) + i) * np.uintp(width) + np.uintp(tiles[t, 2]))
            first = c0 + planes[t, 1] * y[i * np.uintp(columns)]
            for j in range(m):
                model[a + j] = first + cx * x[j]
                scale[a + j] = sigma
                snr[a + j] = (values[a + j] - model[a + j]) * inverse
