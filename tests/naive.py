"""The oracle: every kernel and every rule again, under the same name, slow and obvious. Nobody could doubt it.

Pure Python and numpy in float64 or exact fractions; sorts where the kernels count, loops where they select.
Knows nothing of numba. Arrays that a kernel writes are returned here instead.
"""

import math
from fractions import Fraction

import numpy as np

INVALID, NOWHERE = 128, 255

# ---- robust.py: one dimension -------------------------------------------------------------------------------------------


def by_distance(x, theta):
    """x in the order of its distance from theta; of two equally far the smaller value comes first."""
    return sorted(x, key=lambda v: (abs(v - theta), v))


def nearest_run(x, theta, k):
    """The k values nearest theta are one run of sorted x: where it starts."""
    return list(x).index(min(by_distance(x, theta)[:k])) if k else 0


def msse_sorted(x, theta, k, lambda_fit, parameters):
    """Algorithm 2, `msse`, word for word."""
    r = sorted(abs(v - theta) for v in x)
    i = k
    total = sum(v * v for v in r[:i])
    while i < len(r) and (i - parameters) * r[i] ** 2 <= lambda_fit**2 * total:
        total += r[i] ** 2
        i += 1
    return math.sqrt(total / (i - parameters))


def fit_sorted(x, structure, certain, lambda_fit, steps=12):
    """Algorithm 2, `fit_1d`, word for word: (theta, sigma_raw)."""
    n = len(x)
    k = int(structure * n)
    x = sorted(x)
    middle = x[n // 2]
    x = [v - middle for v in x]
    theta = 0.0
    for t in range(1, steps + 1):
        j = min(int(certain * (1 - t / steps) * n), k - 1)
        a = nearest_run(x, theta, k)
        inner = min(max(nearest_run(x, theta, j), a), a + k - j)  # clipped into the run of k
        kept = x[a:inner] + x[inner + j : a + k]
        theta = sum(kept) / len(kept)
    for _ in range(2):
        sigma = msse_sorted(x, theta, k, lambda_fit, 1)
        inliers = [v for v in x if abs(v - theta) <= lambda_fit * sigma]
        if not inliers:
            break
        theta = sum(inliers) / len(inliers)
    return theta + middle, sigma


def consistency(lambda_fit):
    """1 / s where s^2 = 1 - 2 t phi(t) / (2 Phi(t) - 1), t = lambda_fit * s; by bisection."""

    def excess(s):
        t = lambda_fit * s
        return s * s - 1 + 2 * t * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) / math.erf(t / math.sqrt(2))

    low, high = 0.5, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return 1 / low


def final_sigma(sigma_raw, consistency, floor, mu):
    if math.isnan(sigma_raw):
        return math.nan
    sigma = consistency * sigma_raw
    if sigma <= 4 * 2.0**-23 * abs(mu):
        sigma = 0.0
    return max(sigma, floor) or math.nan


# ---- robust.py: a plane on a tile -----------------------------------------------------------------------------------------


def centred(length):
    return np.arange(length) - (length - 1) / 2


def within(r, limit):
    with np.errstate(invalid="ignore"):
        return np.abs(r) <= limit


def count_within(r, limit):
    return int(within(r, limit).sum())


def squares_within(r, limit):
    kept = np.asarray(r, float)[within(r, limit)]
    return len(kept), float((kept**2).sum())


def kth_smallest(r, k):
    return float(np.sort(np.abs(r[~np.isnan(r)]).astype(float))[k - 1])


def residuals(z, plane):
    y, x = np.meshgrid(centred(z.shape[0]), centred(z.shape[1]), indexing="ij")
    return (np.asarray(z, float) - (plane[0] + plane[1] * y + plane[2] * x)).ravel()


def row_moments(r, limit, x):
    g = within(r, limit)
    r, x = np.asarray(r, float)[g], np.asarray(x, float)[g]
    return len(r), x.sum(), (x * x).sum(), r.sum(), (r * x).sum()


def least_squares(y, x, r):
    """(c0, cy, cx) of the plane through points; only c0 where they do not span a plane."""
    columns = np.stack([np.ones(len(r)), y, x], axis=1)
    if np.linalg.matrix_rank(columns) < 3:
        return np.array([np.mean(r), 0, 0])
    return np.linalg.lstsq(columns, r, rcond=None)[0]


def refit(r, shape, limit, plane):
    """(new plane, how many took part)."""
    y, x = (a.ravel() for a in np.meshgrid(centred(shape[0]), centred(shape[1]), indexing="ij"))
    g = within(r, limit)
    if g.sum() < 3:
        return np.array(plane, float), 0
    return plane + least_squares(y[g], x[g], np.asarray(r, float)[g]), int(g.sum())


def median_of(values, n):
    return float(np.median(np.asarray(values[:n], float)))


def block_medians(z):
    """[(median, y, x)] of the blocks of which at least half is usable."""
    rows, columns = z.shape
    tall, wide = (9, 1) if rows >= 36 else (-(-rows // 4), -(-columns // 4))
    found = []
    for p in range(rows // 9 if rows >= 36 else 4):
        for q in range(columns if rows >= 36 else 4):
            top = p * tall if rows >= 36 else round(p * (rows - tall) / 3)
            left = q * wide if rows >= 36 else round(q * (columns - wide) / 3)
            block = z[top : top + tall, left : left + wide]
            usable = block[~np.isnan(block)]
            if len(usable) and 2 * len(usable) >= tall * wide:
                y, x = centred(rows)[top : top + tall], centred(columns)[left : left + wide]
                found.append((float(np.median(usable)), y.mean(), x.mean()))
    return found


def start_plane(z):
    """The first plane; level, at the median, where there are too few blocks."""
    blocks = np.array(block_medians(z))
    if len(blocks) < 8:
        return np.array([np.nanmedian(z), 0.0, 0.0])
    m, y, x = blocks.T
    plane = np.array([np.sort(m)[len(m) // 2], 0.0, 0.0])
    for _ in range(8):
        r = m - (plane[0] + plane[1] * y + plane[2] * x)
        g = np.abs(r) <= kth_smallest(r, int(0.6 * len(m)))
        plane = plane + least_squares(y[g], x[g], r[g])
    return plane


def fit_plane(z, structure, lambda_fit):
    """Algorithm 3, `fit_plane`: (plane, sigma_raw); (None, nan) where the tile cannot be fitted."""
    z = np.asarray(z, float)
    usable = int((~np.isnan(z)).sum())
    if usable < max(100, z.size / 2):
        return None, math.nan
    plane = start_plane(z)
    k = int(structure * usable)
    for _ in range(12):
        r = residuals(z, plane)
        plane, _ = refit(r, z.shape, kth_smallest(r, k), plane)
    r = residuals(z, plane)
    sigma = msse_sorted(r[~np.isnan(r)], 0.0, k, lambda_fit, 3)
    if sigma == 0:
        return plane, 0.0
    inliers = within(r, lambda_fit * sigma)
    plane, n = refit(r, z.shape, lambda_fit * sigma, plane)
    return plane, math.sqrt((residuals(z, plane)[inliers] ** 2).sum() / (n - 3))


def fit_tiles(values, tiles, structure, lambda_fit, consistency, floor):
    """(model, scale), (ss, fs)."""
    model, scale = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    for top, bottom, left, right in tiles:
        z = values[top:bottom, left:right]
        plane, sigma_raw = fit_plane(z, structure, lambda_fit)
        sigma = final_sigma(sigma_raw, consistency, floor, 0.0 if plane is None else plane[0])
        if not math.isnan(sigma):
            model[top:bottom, left:right] = z - residuals(z, plane).reshape(z.shape)
            y, x = np.meshgrid(centred(z.shape[0]), centred(z.shape[1]), indexing="ij")
            model[top:bottom, left:right] = plane[0] + plane[1] * y + plane[2] * x
            scale[top:bottom, left:right] = sigma
    return model, scale


# ---- routing.py ------------------------------------------------------------------------------------------------------------


def mark_invalid(values, saturation, sentinels, where):
    return np.array(
        [
            w | INVALID if not math.isfinite(v) or v >= saturation or v in list(sentinels) else w
            for v, w in zip(values.tolist(), where.tolist())
        ],
        np.uint8,
    )


def route_codes(gain, codes, held):
    """codes: code of each stage, in order. held: stage, or -1."""
    said = [codes.index(g) if g in codes else NOWHERE for g in gain.tolist()]
    return np.array([s if held < 0 else held if s == held else held | INVALID for s in said], np.uint8)


def route_analogue(gain, thresholds, ascending):
    out = []
    for g, cuts in zip(gain.tolist(), thresholds.T.tolist()):
        passed = sum(g > c if ascending else g <= c for c in cuts)
        out.append(NOWHERE if any(math.isnan(c) for c in cuts) else passed)
    return np.array(out, np.uint8)


# ---- sums.py and welford.py ------------------------------------------------------------------------------------------------


def counted(frames, take, where, care, stage, pixel):
    """The values of one pixel that count, in the order of arrival."""
    return [frames[t, pixel].item() for t in take if int(where[t, pixel]) & int(care) == int(stage)]


def triple(values):
    """(count, mean, M2) of some values, from exact fractions, rounded once each; nan without values."""
    if not values:
        return 0, math.nan, math.nan
    exact = [Fraction(v) for v in values]
    mean = sum(exact) / len(exact)
    return len(exact), float(mean), float(sum((v - mean) ** 2 for v in exact))


def add_frames(frames, take, where, care, stage):
    """Per pixel (reference, count, s1, s2) of empty sums that take in some frames."""
    rows = []
    for i in range(frames.shape[1]):
        v = counted(frames, take, where, care, stage, i)
        reference = v[0] if v else 0
        rows.append((reference, len(v), sum(x - reference for x in v), sum((x - reference) ** 2 for x in v)))
    return np.array(rows, object).T


def moments(reference, n, s1, s2):
    """(mean, M2) of one pixel, from its sums, as fractions."""
    if n == 0:
        return math.nan, math.nan
    return float(reference + Fraction(s1, n)), float(s2 - Fraction(s1) ** 2 / n)


def update_frames(frames, take, where, care, stage):
    """Per pixel (count, mean, m2); mean and m2 nan where nothing counted."""
    return [triple(counted(frames, take, where, care, stage, i)) for i in range(frames.shape[1])]


def merge_moments(sign, other, mine):
    """(count, mean, m2) of one pixel after joining (1) or taking out (-1) another such triple, as fractions."""
    (k, b, q), (n, a, p) = ((c, Fraction(m), Fraction(s)) for c, m, s in (other, mine))
    total = n + sign * k
    if total <= 0:
        return 0, 0.0, 0.0
    mean = (n * a + sign * k * b) / total
    second = p + n * a * a + sign * (q + k * b * b) - total * mean * mean
    return total, float(mean), float(max(second, 0))


# ---- windows.py ------------------------------------------------------------------------------------------------------------


def majority_stage(where, top, bottom, left, right, stages):
    n = [int((where[top:bottom, left:right] == s).sum()) for s in range(stages)]
    return n.index(max(n)) if max(n) else -1


def photon_floor(v, adu_per_photon):
    usable = v[~np.isnan(v)].astype(float)
    mean = np.minimum(usable, 10 * adu_per_photon).mean() if len(usable) else 0.0
    return math.sqrt(adu_per_photon * max(mean, 0.0))


def window_background(v, dither, use_dither, dither_at, settings):
    """(plane, sigma); sigma nan where the window cannot be fitted."""
    structure, lambda_fit, factor, floor = settings
    plane, sigma_raw = fit_plane(v, structure, lambda_fit)
    if use_dither == 2 or (use_dither == 1 and sigma_raw < dither_at):
        plane, sigma_raw = fit_plane(v + dither, structure, lambda_fit)
    return plane, final_sigma(sigma_raw, factor, floor, 0.0 if plane is None else plane[0])


def judge_frame(frame, where, offset, tiles, dither, settings, adu_per_photon, use_dither, of_stage, stage):
    """(ss, fs) SNR of one frame, nan where a pixel is not judged."""
    snr = np.full(frame.shape, np.nan)
    for (top, bottom, left, right), of in zip(tiles, of_stage):
        here = np.s_[top:bottom, left:right]
        if of != stage:
            continue
        v = np.where(where[here] == stage, frame[here].astype(float) - offset[here], np.nan)
        floor = settings[3]
        if adu_per_photon > 0 and stage == 0:
            floor = max(floor, photon_floor(v, adu_per_photon))
        plane, sigma = window_background(v, dither[here], use_dither, 1.5, (*settings[:3], floor))
        if not math.isnan(sigma):
            snr[here] = residuals(v, plane).reshape(v.shape) / sigma
    return snr


# ---- rules -----------------------------------------------------------------------------------------------------------------


def edge(spec):
    """Pixel by pixel: is it within edge_width of a side of its ASIC, or in a gap between two?"""
    out = np.zeros(spec.module_shape, bool)
    for place in np.ndindex(spec.module_shape):
        for at, whole, asic in zip(place, spec.module_shape, spec.asic_shape):
            n = whole // asic
            gap = 0 if n == 1 else (whole - n * asic) // (n - 1)
            within = at % (asic + gap)
            out[place] |= within < spec.edge_width or within >= asic - spec.edge_width
    return out


def outlying(means, cut, floor, structure=0.5, certain=0.35, lambda_fit=3.0):
    """F1: which frame means are further than cut sigma from the robust mean of all."""
    known = [m for m in means if math.isfinite(m)]
    if len(known) < 20:
        return [False] * len(means)
    mu, sigma_raw = fit_sorted(known, structure, certain, lambda_fit)
    sigma = final_sigma(sigma_raw, consistency(lambda_fit), floor, mu)
    return [abs(m - mu) > cut * sigma for m in means]


def threshold(lower, upper):
    """Between two stages, each (mean, sd) of one pixel: equally many sd from either; sd at least that of rounding."""
    (a, s), (b, t) = ((mean, max(sd, 12**-0.5)) for mean, sd in (lower, upper))
    return a + (b - a) * s / (s + t)


def is_inseparable(stages, stage, cut):
    """F4 for one pixel that has (mean, sd) in each stage, ascending: a stage overlaps with one of its neighbours."""
    pairs = [(a, a + 1) for a in range(len(stages) - 1) if stage in (a, a + 1)]
    return any(stages[a][0] + cut * stages[a][1] > stages[b][0] - cut * stages[b][1] for a, b in pairs)


def is_often(share, expected, n, scale, cut, min_share):
    """lit_rate for one pixel: its share of n frames against that of its tile, with the binomial error as least scale."""
    p = min(max(expected, 0), 1)
    return (share - expected) > cut * max(scale, math.sqrt((p + 1 / n) * (1 - p) / n)) and share >= min_share


def spot_shaped(snr, elsewhere, least=3.0, alike=0.4):
    """Which pixels have a neighbour that is as high, within a factor, or that was driven into another stage."""
    out = np.zeros(snr.shape, bool)
    for y, x in np.ndindex(snr.shape):
        for j, i in np.ndindex(3, 3):
            b, a = y + j - 1, x + i - 1
            if (b, a) == (y, x) or not (0 <= b < snr.shape[0] and 0 <= a < snr.shape[1]) or math.isnan(snr[y, x]):
                continue
            high = elsewhere[b, a] or (not math.isnan(snr[b, a]) and snr[b, a] >= max(least, alike * snr[y, x]))
            out[y, x] |= bool(high)
    return out
