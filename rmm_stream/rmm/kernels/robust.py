"""FLkOS and MSSE (Appendix A): the robust mean and scale of values. planes.py is the same for the plane of a tile.

FLkOS looks for the model whose k-th smallest residual is least; MSSE then grows the inliers from the smallest residuals
while the next one lies within lambda_fit sigma of those before it. Twice: over sorted values, and over counts of integers,
which need no sort. Knows nothing of features, cuts or flags.
"""

import math

import numpy as np

from .compiled import exact, no_nan, shared

STEPS = 12  # optimisation steps, Bab-Hadiashar & Hoseinnezhad (2008), quoted in Appendix A
MIN_VALUES = 20  # below it k is so small that nothing is robust


@exact
def fit_sorted(x, room, structure, certain, lambda_fit):
    """Robust mean and sigma_raw of sorted, finite float64 values, at least MIN_VALUES of them (Appendix A).

    structure: k/N. certain: inner end of the rank window, which narrows to 0, so that the last step concentrates on the
    k nearest values. room: float64, at least 3 N + 2, written. Returns (theta, sigma_raw), sigma_raw without the
    consistency factor.

    The k values nearest theta are one run of x, which follows theta from step to step; of two equally far values the
    smaller goes in. Sums are kept from the middle on, or values far outside would spoil those of the runs.
    """
    n = x.size
    half = n >> 1
    k = np.int64(structure * n)
    y, upto, squares = room[:n], room[n : 2 * n + 1], room[2 * n + 1 :]  # x less its median; its sums, and of squares
    up = down = up2 = down2 = upto[half] = squares[half] = 0.0
    for i in range(n - half):  # chains of additions side by side
        d = x[half + i] - x[half]
        y[half + i] = d
        up += d
        up2 += d * d
        upto[half + i + 1] = up
        squares[half + i + 1] = up2
        if i < half:
            d = x[half - 1 - i] - x[half]
            y[half - 1 - i] = d
            down -= d
            down2 -= d * d
            upto[half - 1 - i] = down
            squares[half - 1 - i] = down2

    theta, sigma = 0.0, 0.0
    a = inner = (n - k) >> 1
    for step in range(1, STEPS + 3):  # 12 steps of FLkOS, then MSSE twice
        size, total = k, 0.0
        while True:  # in FLkOS twice: the run of the k nearest values, then that of the j nearest
            while a + size < n and theta - y[a] > y[a + size] - theta:
                a += 1
            while a > 0 and theta - y[a - 1] <= y[a - 1 + size] - theta:
                a -= 1
            total = upto[a + size] - upto[a] - total
            if size < k or step > STEPS:
                break
            a, inner = inner, a
            size = np.int64(certain * (1.0 - step / STEPS) * n)
            size = size if size < k else k - 1
        if step <= STEPS:
            theta = total / (size - k)
            a, inner = inner, a
            continue
        # all that lie within lambda_fit sigma join at once; sigma does not decrease, so that none joins too early
        first, last, before = a, a + k, 0
        while last - first > before:
            before = last - first
            about = squares[last] - squares[first]  # the median
            rest = about + theta * (before * theta - 2 * (upto[last] - upto[first]))  # about theta
            sigma = math.sqrt(rest / (before - 1)) if rest > 1e-13 * about else 0.0
            while first > 0 and theta - y[first - 1] <= lambda_fit * sigma:
                first -= 1
            while last < n and y[last] - theta <= lambda_fit * sigma:
                last += 1
        while first < last and theta - y[first] > lambda_fit * sigma:
            first += 1
        while first < last and y[last - 1] - theta > lambda_fit * sigma:
            last -= 1
        if first < last:
            theta = (upto[last] - upto[first]) / (last - first)
    return x[half] + theta, sigma


@exact
def fit_counts(counts, n, structure, certain, lambda_fit):
    """fit_sorted of n integers that have been counted: counts[b] of them are b. counts: (bins + 2) int32.

    The first and the last entry count what lies beyond the bins: where the fit would have to look at these it gives up.
    Returns (middle, theta, sigma_raw, radius): the median, theta less the median and sigma_raw as fit_sorted has them, to
    rounding; the k nearest values lie within radius of theta. radius -1: it gave up.

    Around theta the bins are visited in the order of their distance: the nearest one, then one on either side in turn.
    """
    end = counts.size - 1
    beyond = counts[0] + counts[end]
    k = np.int64(structure * n)
    middle, before, here = 0, 0, 0  # so many lie before the middle
    while middle + 32 <= end:  # 32 at once, in vectors
        here = 0
        for b in range(middle, middle + 32):
            here += counts[b]
        if before + here > n >> 1:
            break
        before += here
        middle += 32
    while middle < end and before + counts[middle] <= n >> 1:
        before += counts[middle]
        middle += 1
    theta, sigma, radius = 0.0, 0.0, 0  # theta: from the middle
    for step in range(1, STEPS + 3):  # 12 steps of FLkOS, then MSSE twice
        near = np.int64(math.ceil(theta - 0.5))
        side = 1 if theta > near else -1
        j = np.int64(certain * (1.0 - step / STEPS) * n) if step <= STEPS else n
        j = j if j < k else k - 1
        taken, total, visit, squares = 0, 0, 0, 0.0
        while taken < n:
            visit += 1
            away = near + (visit >> 1) * (side if visit & 1 == 0 else -side)
            d2 = (away - theta) * (away - theta)
            if taken >= k and (step <= STEPS or (taken - 1) * d2 > lambda_fit * lambda_fit * squares):
                break
            b = middle + away
            if b <= 0 or b >= end:
                if beyond > 0:
                    radius = -1
                    break
                continue
            here = np.int64(counts[b])
            after = taken + here
            if after > k > taken and (
                step <= STEPS or (k - 1) * d2 > lambda_fit * lambda_fit * (squares + (k - taken) * d2)
            ):
                after = k  # of equals, too, no more than k
            squares += (after - taken) * d2
            if after > j:  # the j nearest do not count
                total += (after - (taken if taken > j else j)) * away
            taken = after
        if radius < 0:
            break
        if step <= STEPS:
            theta = total / (k - j)
            radius = visit >> 1
            continue
        sigma = math.sqrt(squares / (taken - 1))
        first, last = middle + math.ceil(theta - lambda_fit * sigma), middle + math.floor(theta + lambda_fit * sigma)
        if beyond > 0 and (first <= 0 or last >= end):
            radius = -1
            break
        total, m = 0, 0
        for b in range(first if first > 0 else 1, last + 1 if last < end else end):
            m += counts[b]
            total += (b - middle) * counts[b]
        if m > 0:
            theta = total / m
    return middle, theta, sigma, radius


ALL_BUT_SIGN = np.int64(2**63 - 1)


@exact
def extent(bits):
    """Those of the least and of the largest value; of one of them that is not finite where there is any such value.

    bits: (n,) int64, of float64 values. As integers they are compared in vectors. The order of floats is that of their bits,
    once those of negative ones are turned but for the sign; nan lies beyond the infinite.
    """
    least, most = ALL_BUT_SIGN, ~ALL_BUT_SIGN
    for i in range(bits.size):
        v = bits[i] ^ ((bits[i] >> 63) & ALL_BUT_SIGN)
        least, most = min(v, least), max(v, most)
    return least ^ ((least >> 63) & ALL_BUT_SIGN), most ^ ((most >> 63) & ALL_BUT_SIGN)


@shared
def on_grid(x, low, width):
    """Whether all values are whole widths, a power of 2, from low."""
    off = 0
    for i in range(x.size):
        s = (x[i] - low) * (1.0 / width)
        off += np.trunc(s) != s or low + s * width != x[i]
    return off == 0


BINS = 4096
NARROW = 32  # bins: where the k nearest values lie in fewer the bins are too wide
BLOCK = 512  # values that are placed, then counted; squares of their places add up to less than 2**53
ROOM = 2 * (BINS + 2) + BLOCK
LEVELS = 4  # times that bins are divided
HEAP = 0.04  # share of the values: with more in one bin their order within it would matter
SMALL = 16384  # values: with fewer, or where the rim is not sparse, it matters where in its bin FLkOS ends
PLACES = 1 << 10  # in a bin: as precisely as a value is known
ROUNDS = 16  # of MSSE at most
#: d(limit of the inliers) / d(limit): one more inlier widens the limit for the next. From CROWDED on a sort decides.
SPARSE, CROWDED = 0.15, 0.3


@no_nan
def fit_binned(x, low, high, structure, certain, lambda_fit, room):
    """fit_sorted of many finite float64 values in any order, to 0.002 sigma; low, high: the least and the largest of them.

    They are counted in bins of a power of 2 from low on, so that integers lie on the bins' edges and are fitted exactly.
    Where these prove too wide those about theta are divided. From the bins FLkOS takes the runs of its values, as if those
    of a bin lay evenly in it; MSSE looks at each value. Whatever is summed over values is an integer, so that their order
    does not matter. room: (ROOM,) int32, written. Returns (theta, sigma_raw, done); done False where only a sort helps.
    """
    n = x.size
    k = np.int64(structure * n)
    # the halves of a block are counted apart, so that no value waits for the one before it
    counts, others, places = room[: BINS + 2], room[BINS + 2 : 2 * (BINS + 2)], room[2 * (BINS + 2) :]
    width = math.ldexp(1.0, math.frexp((high - low) / (BINS - 1))[1])
    shift = -1.0  # the first bin of all that is in counts
    theta, sigma, radius = 0.0, 0.0, 0
    for _ in range(LEVELS):
        for b in range(counts.size):
            counts[b] = others[b] = 0
        within = 0  # a bin: the bits that are set in any place
        for start in range(0, n, BLOCK):
            block = x[start : start + BLOCK]
            for i in range(block.size):
                s = (block[i] - low) * (1.0 / width)
                places[i] = np.int32(min(max(s - shift, 0.0), BINS + 1.0) * PLACES)
            half = block.size >> 1
            for i in range(half):
                one, other = places[i], places[half + i]
                within |= one | other
                counts[np.uint32(one) >> 10] += 1
                others[np.uint32(other) >> 10] += 1
            if block.size & 1:
                within |= places[2 * half]
                counts[np.uint32(places[2 * half]) >> 10] += 1
        for b in range(counts.size):
            counts[b] += others[b]
        middle, theta, sigma, radius = fit_counts(counts, n, structure, certain, lambda_fit)
        theta += middle
        if radius >= 0 and within & (PLACES - 1) == 0 and on_grid(x, low, width):
            return low + (shift + theta) * width, sigma * width, True
        if radius < 0 or radius >= NARROW:
            break
        finer = 1 << (7 - math.frexp(float(2 * radius + 1))[1])  # then 64 to 128 bins hold the k nearest
        shift = math.floor((shift + theta) * finer - BINS / 2)
        width /= finer
    reach = lambda_fit * sigma
    beyond = counts[0] + counts[BINS + 1]
    heap, rim, inside = 0, 0, 0
    for b in range(max(np.int64(theta - 1.05 * reach), 0), min(np.int64(theta + 1.05 * reach) + 1, BINS) + 1):
        heap = max(heap, counts[b])
        rim += counts[b] if abs(b - theta) > 0.95 * reach else 0
        inside += counts[b]
    gain = (lambda_fit * lambda_fit - 1) / 2 * rim / (0.1 * max(inside, 1))  # (lambda^2 - 1) / 2 dm/m over dr/r
    if radius < NARROW or reach < radius + 4 or heap > HEAP * n or gain > CROWDED:
        return 0.0, 0.0, False
    thorough = n < SMALL or gain > SPARSE

    theta += 0.5  # a value lies, on the average, half a bin above the edge
    if thorough:
        b, before = 0, np.int64(counts[0])
        while before <= n // 2:
            b += 1
            before += counts[b]
        theta = b + 1 - (before - n // 2 - 0.5) / counts[b]
        for step in range(1, STEPS + 1):
            j = np.int64(certain * (1.0 - step / STEPS) * n)
            j = j if j < k else k - 1
            lower = upper = np.int64(theta)
            to_lower = theta - lower
            to_upper = 1.0 - to_lower
            r, taken, total = 0.0, 0.0, 0.0
            while taken < k:  # from edge to edge of a bin, on whichever side it is nearer
                edge = to_lower if to_lower < to_upper else to_upper
                here = float(counts[lower] + counts[upper])
                after = taken + here * (edge - r)
                if after > j:
                    start = r if taken >= j else r + (j - taken) / here
                    stop = edge if after <= k else r + (k - taken) / here
                    total += (counts[upper] - counts[lower]) * 0.5 * (stop * stop - start * start)
                taken, r = after, edge
                if to_lower < to_upper:
                    lower, to_lower = lower - 1, to_lower + 1.0
                else:
                    upper, to_upper = upper + 1, to_upper + 1.0
                if (lower < 1 or upper > BINS) and beyond > 0:
                    return 0.0, 0.0, False
                lower, upper = max(lower, 0), min(upper, BINS + 1)
            theta += total / (k - j)
    centre, limit = 0.0, math.floor(reach * PLACES)
    for _ in range(2 if thorough else 1):
        centre = math.floor(theta * PLACES + 0.5)
        limit = math.floor(0.98 * limit) if thorough else limit  # from a little below what the bins say
        m, before = 0, -1
        for _ in range(ROUNDS if thorough else 1):
            m, total, squares = 0, 0, 0
            for start in range(0, n, BLOCK):
                block = x[start : start + BLOCK]
                taken, of_block, of_squares = 0.0, 0.0, 0.0  # whole numbers, all of them
                for i in range(block.size):
                    s = (block[i] - low) * (1.0 / width)
                    d = np.floor((s - shift) * PLACES) - centre
                    near = abs(d) <= limit
                    d = d if near else 0.0
                    taken += 1.0 if near else 0.0
                    of_block += d
                    of_squares += d * d
                m += np.int64(taken)
                total += np.int64(of_block)
                squares += np.int64(of_squares)
            sigma = math.sqrt(squares / (m - 1)) / PLACES
            if m == before:
                break
            before = m
            limit = max(limit, math.floor(lambda_fit * sigma * PLACES))
        inside = centre - limit >= PLACES and centre + limit < (BINS + 1) * PLACES
        if (thorough and m != before) or (beyond > 0 and not inside):
            return 0.0, 0.0, False
        theta = (centre + total / m) / PLACES
    return low + (shift + theta) * width, sigma * width, True


EPS32 = float(np.finfo(np.float32).eps)


@exact
def final_sigma(sigma_raw, consistency, floor, mu):
    """Consistency factor and floor of docs/method.md 2.1 to 2.3. nan where there is no scale to judge by."""
    sigma = consistency * sigma_raw
    if sigma <= 4 * EPS32 * abs(mu):  # what rounding leaves of a constant
        sigma = 0.0
    if np.isnan(sigma_raw):
        return np.nan
    if sigma < floor:
        sigma = floor
    return sigma if sigma > 0 else np.nan


@exact
def fit_values(x, room, structure, certain, lambda_fit, consistency, floor):
    """(mean, sigma, sigma_raw) of sorted float64 values; infinite ones and nan, which sort last, take no part.

    room: float64, as fit_sorted has it."""
    first, last = 0, x.size
    while last > 0 and not x[last - 1] < np.inf:
        last -= 1
    while first < last and x[first] == -np.inf:
        first += 1
    if last - first < MIN_VALUES:
        return np.nan, np.nan, np.nan
    mean, sigma_raw = fit_sorted(x[first:last], room, structure, certain, lambda_fit)
    return mean, final_sigma(sigma_raw, consistency, floor, mean), sigma_raw
