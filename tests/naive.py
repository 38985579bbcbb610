"""The oracle: every kernel and every rule again, under the same name, slow and obvious. Nobody could doubt it.

Pure Python and numpy in float64 or exact fractions; sorts where the kernels count, loops where they select.
Knows nothing of numba. Arrays that a kernel writes are returned here instead.
"""

import math
from fractions import Fraction

import numpy as np

INVALID, NOWHERE = 128, 255

# ---- robust.py --------------------------------------------------------------------------------------------------------------


def by_distance(x, theta):
    """x in the order of its distance from theta; of two equally far the smaller value comes first."""
    return sorted(x, key=lambda v: (abs(v - theta), v))


def nearest_run(x, theta, k):
    """The k values nearest theta are one run of sorted x: where it starts."""
    return list(x).index(min(by_distance(x, theta)[:k])) if k else 0


def run_within(x, theta, limit):
    """Where the values within +-limit begin and end; x is sorted."""
    return sum(theta - v > limit for v in x), len(x) - sum(v - theta > limit for v in x)


def squares_about(x, theta):
    return sum((v - theta) ** 2 for v in x)


def mean_of(x):
    return math.fsum(x) / len(x)


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


def count_stage(where, care, stage):
    return sum(w & int(care) == int(stage) for w in where.tolist())


# ---- gain.py --------------------------------------------------------------------------------------------------------------


def bands_of(cuts, ascending):
    """Per stage and pixel, every indicator of 16 bits that route_analogue() puts there: (lowest, highest), or (1, 0)."""
    every, bands = np.arange(65536, dtype=np.uint16), []
    for pixel in cuts.T:
        stages = route_analogue(every, np.repeat(pixel[:, None], 65536, axis=1), ascending)
        inside = [np.flatnonzero(stages == s) for s in range(len(pixel) + 1)]
        assert all(len(found) == 0 or np.ptp(found) == len(found) - 1 for found in inside), "a band has no holes"
        bands.append([(found[0], found[-1]) if len(found) else (1, 0) for found in inside])
    return np.array(bands).transpose(1, 2, 0)


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
