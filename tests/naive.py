"""The oracle: every kernel and every rule again, under the same name, slow and obvious. Nobody could doubt it.

Pure Python and numpy in float64 or exact fractions; sorts where the kernels count, loops where they select.
Knows nothing of numba. Arrays that a kernel writes are returned here instead.
"""

import math
import statistics
from fractions import Fraction

import numpy as np

INVALID, NOWHERE = 128, 255

# ---- robust.py --------------------------------------------------------------------------------------------------------------


def by_distance(x, theta):
    """x in the order of its distance from theta; of two equally far the smaller value comes first."""
    return sorted(x, key=lambda v: (abs(v - theta), v))


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
        kept = by_distance(x, theta)[j:k]
        theta = sum(kept) / len(kept)
    for _ in range(2):
        sigma = msse_sorted(x, theta, k, lambda_fit, 1)
        inliers = [v for v in x if abs(v - theta) <= lambda_fit * sigma]
        if not inliers:
            break
        theta = sum(inliers) / len(inliers)
    return theta + middle, sigma


def fit_counts(counts, n, structure, certain, lambda_fit):
    """counts[b] values are b; those in the first and last entry lie somewhere beyond. None where these would be needed."""
    far = 10.0**9
    values = [b for b, c in enumerate(counts) for _ in range(c)]
    ends = {0: -far, len(counts) - 1: far}
    theta, sigma = fit_sorted([ends.get(b, b) for b in values], structure, certain, lambda_fit)
    return (theta, sigma) if abs(theta) < len(counts) and sigma < len(counts) else None


def fit_binned(x, structure, certain, lambda_fit):
    return fit_sorted(sorted(x), structure, certain, lambda_fit)


def fit_values(x, structure, certain, lambda_fit, factor, floor):
    known = [v for v in x if math.isfinite(v)]
    if len(known) < 20:
        return math.nan, math.nan, math.nan
    mean, raw = fit_sorted(known, structure, certain, lambda_fit)
    return mean, final_sigma(raw, factor, floor, mean), raw


def extent(x):
    """(least, largest); None where not all are finite."""
    return (min(x), max(x)) if all(math.isfinite(v) for v in x) else None


def on_grid(x, low, width):
    return all((Fraction(v) - Fraction(low)) % Fraction(width) == 0 for v in x)


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


# ---- frame_gate.py -----------------------------------------------------------------------------------------------------------


def frame_means(frames, take, cell, rows, saturation, sentinels, base):
    """The robust mean of each frame's differences from the base of its cell, of the pixels that are data in both."""
    out = []
    for t, c in zip(take, cell):
        pairs = zip(frames[t][rows].ravel().tolist(), base[c].ravel().tolist())
        kept = [v - b for v, b in pairs if max(v, b) < saturation and v not in sentinels and b not in sentinels]
        out.append(fit_sorted(kept, 0.5, 0.35, 3.0)[0] if len(kept) >= 20 else math.nan)
    return out


def verdicts(means, cell, history, learn, cut, floor):
    """1, 0 or -1 for each frame, in order: judged against the last `history` of its cell."""
    before, out = {}, []
    for mean, c in zip(means, cell):
        known = before.setdefault(c, [])
        judged = outlying([*known[-history:], mean], cut, floor)
        known.append(mean)
        if len(known) > learn:
            out.append(0 if judged[-1] else 1)
        else:
            out.append(-1 if len(known) == learn and any(judged) else 1)
    return out


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


def count_in_band(values, gain, low, high, least, most, step):
    """Pixels whose value is valid and whose indicator is in its band, in every step-th row."""
    rows = zip(*(a.tolist()[::step] for a in (values, gain, low, high)))
    return sum(least <= v <= most and lo <= g <= hi for row in rows for v, g, lo, hi in zip(*row))


def most_in_bands(values, gain, bands, least, most, step):
    """The band with most of these pixels, or the first with more than half of all; and how many it has."""
    counts = [count_in_band(values, gain, low, high, least, most, step) for low, high in bands]
    half = values[::step].size / 2
    best = next((n for n in counts if n > half), max(counts))
    return (counts.index(best), best) if best else (-1, 0)


def count_stage(where, care, stage):
    return sum(w & int(care) == int(stage) for w in where.tolist())


# ---- gain.py --------------------------------------------------------------------------------------------------------------


def any_valid(frames, take, least, most):
    return [any(least <= v <= most for v in frames[t].ravel().tolist()) for t in take]


def in_bands(cuts, ascending, indicators):
    """Per stage and pixel those of the indicators that route_analogue() puts there. cuts: (stages - 1, px)."""
    g = np.array(indicators)
    where = [route_analogue(g, np.repeat(cuts[:, i : i + 1], len(g), 1), ascending) for i in range(cuts.shape[1])]
    return [[g[of == stage].tolist() for of in where] for stage in range(len(cuts) + 1)]


def level(values, least, most):
    """Mean of the middle half, rounded, halves up; None of fewer than 20."""
    x = sorted(int(v) for v in np.ravel(values) if least <= v <= most)
    if len(x) < 20:
        return None
    middle = x[len(x) // 4 : len(x) - len(x) // 4]
    return math.floor(Fraction(sum(middle), len(middle)) + Fraction(1, 2))


def frame_levels(frame, rows, down, across, least, most):
    """Of each ASIC, row by row."""
    return [
        level(frame[[r for r in rows if top <= r < bottom], left:right], least, most)
        for top, bottom in down
        for left, right in across
    ]


def level_frame(frame, down, across, lift, least, most, blank, still, empty, moved):
    """(frame less the lift of each ASIC, still)."""
    out, kept = np.full_like(frame, blank), still.copy()
    asics = [(a, b) for a in down for b in across]
    for (a, b), d in zip(asics, lift):
        for r in range(*a) if d is not None else ():
            for p in range(*b):
                v = int(frame[r, p])
                if least <= v <= most:
                    kept[r, p] = v if still[r, p] in (empty, v) else moved
                    if least <= v - d <= most:
                        out[r, p] = v - d
    return out, kept


def levelled_moments(values, levels):
    """Of one pixel: (count, mean, M2) of its values less the levels of its ASIC; the mean level is added again."""
    if len(set(values)) == 1:
        return len(values), float(values[0]), 0.0
    n, mean, m2 = triple([v - level for v, level in zip(values, levels)])
    return n, mean + sum(levels) / len(levels), m2


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


def sums_about(reference, values):
    """(count, s1, s2) of some values."""
    return len(values), sum(v - reference for v in values), sum((v - reference) ** 2 for v in values)


def add_frames(frames, take, where, care, stage, reference):
    """Per pixel (count, s1, s2) of empty sums that take in some frames."""
    values = [counted(frames, take, where, care, stage, i) for i in range(frames.shape[1])]
    return np.array([sums_about(r, v) for r, v in zip(reference.tolist(), values)], object).T


def block_of(stacks, rows, pixel):
    """The values of one pixel in the frames of a block."""
    return [stack[row, pixel].item() for stack, row in zip(stacks, rows)]


def add_blocks(stacks, rows, reference):
    """Per cell and pixel (count, s1, s2) of empty sums that take in a block, every value of it."""
    return add_blocks_masked(stacks, rows, 0, 65535, reference)


def add_blocks_masked(stacks, rows, least, most, reference):
    """The same of the values within least..most. reference: (cells, px)."""
    return [
        np.array(
            [sums_about(r, [v for v in block_of(stacks, of, i) if least <= v <= most]) for i, r in enumerate(about)]
        )
        for of, about in zip(rows.tolist(), reference.tolist())
    ]


def add_block_placed(gains, rows, low, high, most):
    """Whether an indicator lies outside of low..high, or beyond most."""
    return any(
        not lo <= g <= hi or g > most
        for i, (lo, hi) in enumerate(zip(low.tolist(), high.tolist()))
        for g in block_of(gains, rows, i)
    )


def mark_bands(gains, rows, frames, bands):
    """((stages, px) marks, bit f where the indicator of frame f, of the first ones, is in the band; which have any)."""
    marks = [
        [
            sum(1 << f for f, g in enumerate(block_of(gains, rows, i)[:frames]) if lo <= g <= hi)
            for i, (lo, hi) in enumerate(zip(*band))
        ]
        for band in bands.tolist()
    ]
    return marks, [any(of) for of in marks]


def add_block_marked(stacks, rows, marks, least, most, reference):
    """Per pixel (count, s1, s2) of empty sums that take in the marked values of a block that lie within least..most."""
    return np.array(
        [
            sums_about(r, [v for f, v in enumerate(block_of(stacks, rows, i)) if m >> f & 1 and least <= v <= most])
            for i, (m, r) in enumerate(zip(marks.tolist(), reference.tolist()))
        ]
    )


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


def neighbours(values, y, x):
    """The values of the up to eight neighbours of a pixel."""
    around = [(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1) if (j, i) != (0, 0)]
    return [values[b, a] for b, a in around if 0 <= b < values.shape[0] and 0 <= a < values.shape[1]]


def spot_shaped(snr, elsewhere, hidden):
    """Which pixels are high in the shape of a spot: two high neighbours, all high together, or half of it behind an edge."""
    out = np.zeros(snr.shape, bool)
    for y, x in np.ndindex(snr.shape):
        here = snr[y, x]
        pairs = zip(neighbours(snr, y, x), neighbours(elsewhere, y, x))
        around = [math.inf if away else v for v, away in pairs if away or not math.isnan(v)]
        near = [v for v in around if v >= max(4.0, 0.4 * here)]
        flanks = [v for v in around if v >= max(2.0, 0.1 * here)]
        rest = sum(sorted(around + [0.0] * (8 - len(around)))[:-1])
        seen = neighbours(hidden, y, x)
        beside = sum(seen) + 8 - len(seen) >= 3
        sharp = len(near) >= 1 and len(flanks) >= 2
        faint = 4.0 <= here < 12.0 and rest >= max(6.0, 0.6 * here)
        cut_off = here >= 4.0 and beside and any(v >= max(3.0, 0.15 * here) for v in around)
        out[y, x] = not math.isnan(here) and (sharp or faint or cut_off)
    return out


def mark(snr, asked, staying, cut, clear_cut, both_sides, flag, flags, doubtful):
    """(flags, doubtful) after a flag was set where a pixel is beyond the cut, and beyond the clear cut."""
    out = []
    for bound, before, may in ((cut, flags, asked), (clear_cut, doubtful, staying)):
        far = [ok and (abs(v) if both_sides else v) > bound for v, ok in zip(snr.tolist(), may.tolist())]
        out.append([b | flag if f else b for b, f in zip(before.tolist(), far)])
    return out


# ---- light -----------------------------------------------------------------------------------------------------------------


def bright_shares(frames, take, cell, rows, columns, base, around, most):
    """Of each frame, the share of the pixels looked at that stand out of their piece of a row; nan: too little is data."""
    shares = []
    for t, c, (middle, reach, limit) in zip(take, cell, around.tolist()):
        known = bright = pixels = 0
        for r, row in enumerate(rows):
            for first, last in columns:
                pairs = list(zip(frames[t][row].tolist()[first:last], base[c][r].tolist()[first:last]))
                pixels += len(pairs)
                differences = [v - w for v, w in pairs if v <= most and w <= most]  # false for nan
                near = [d - middle for d in differences if abs(d - middle) <= reach]
                by = middle + (sum(near) / len(near) if near else 0)
                known += len(differences)
                bright += sum(abs(d - by) > limit for d in differences)
        shares.append(bright / known if 2 * known >= pixels else float("nan"))
    return shares


def transition(cell, codes, frames, stretch):
    """Whether each frame is among the first `frames` of its cell after a look (0 dark, 2 lit) that had lasted a stretch."""
    looks, out = {}, []
    for c, code in zip(cell, codes):
        seen = looks.setdefault(c, {"look": None, "run": 0, "left": 0})
        if code not in (0, 2):
            out.append(False)
            continue
        if seen["look"] not in (None, code) and seen["run"] >= stretch:
            seen["left"] = frames
        seen["run"] = seen["run"] + 1 if seen["look"] == code else 1
        seen["look"] = code
        out.append(seen["left"] > 0)
        seen["left"] = max(0, seen["left"] - 1)
    return out


def along_lines(values, places):
    """Of four lines through each place: the least of the second lowest of the others, and the most of the second highest."""
    out = []
    for y, x in places.tolist():
        lows, highs = [math.inf], [-math.inf]
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            line = [(y + k * dy, x + k * dx) for k in (-2, -1, 1, 2)]
            there = [values[b, a] for b, a in line if 0 <= b < values.shape[0] and 0 <= a < values.shape[1]]
            there = sorted(v for v in there if not math.isnan(v))
            if len(there) > 1:
                lows.append(there[1])
                highs.append(there[-2])
        out.append((min(lows), max(highs)))
    return tuple(np.array(out).T)


def local_scale(values, places):
    """1.4826 MAD of the values there are within three pixels of each place."""
    out = []
    for y, x in places.tolist():
        rows, columns = range(max(0, y - 3), min(len(values), y + 4)), range(max(0, x - 3), min(values.shape[1], x + 4))
        there = [values[b, a] for b in rows for a in columns if not math.isnan(values[b, a])]
        middle = statistics.median(there)
        out.append(1.4826 * statistics.median(abs(v - middle) for v in there))
    return np.array(out)
