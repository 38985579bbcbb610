"""The oracle of points.py, planes.py and windows.py, as naive.py is of other kernels: slow and obvious, numpy in float64."""

import math

import numpy as np
from naive import final_sigma, msse_sorted

# ---- points.py, planes.py ----------------------------------------------------------------------------------------------------


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


def moments_within(z, y, x, plane, limit):
    """n, sums of y, x, y^2, yx, x^2, and of r, ry, rx, r^2, of the points within +-limit of a plane."""
    z, y, x = (np.asarray(a, float) for a in (z, y, x))
    r = z - (plane[0] + plane[1] * y + plane[2] * x)
    g = within(r, limit)
    r, y, x = r[g], y[g], x[g]
    sums = (y, x, y * y, y * x, x * x, r, r * y, r * x, r * r)
    return len(r), *(a.sum() for a in sums)


def gradient_within(z, y, x, plane, limit, before):
    """The same, with the moments of places that were before, scaled to the new count."""
    now = moments_within(z, y, x, plane, limit)
    return *(now[0] / before[0] * np.asarray(before[:6], float)), *now[6:]


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


def medians_of_nine(z, width):
    """Of nine rows of `width`, column by column; nan where fewer than half of the nine are usable.

    A missing value counts as very low or very high in turn."""
    found = []
    for j, nine in enumerate(np.reshape(z, (9, width)).T.tolist()):
        usable = sum(v == v for v in nine)
        ranked = sorted(v if v == v else math.inf if (i + j) % 2 else -math.inf for i, v in enumerate(nine))
        found.append(ranked[4] if usable >= 4.5 and math.isfinite(ranked[4]) else math.nan)
    return found


def block_medians(z):
    """[(median, y, x)]: of a tall tile, of 9 x 1 blocks in every second nine rows; of a low one, of 4 x 4 blocks.

    The median is nan where fewer than half of a block is usable."""
    found = []
    if len(z) >= 36:
        for top in range(0, len(z) - 8, 18):
            medians = medians_of_nine(z[top : top + 9], z.shape[1])
            found += [(m, centred(len(z))[top + 4], x) for m, x in zip(medians, centred(z.shape[1]))]
        return found
    tall, wide = (-(-side // 4) for side in z.shape)
    for p, q in np.ndindex(4, 4):
        top, left = round(p * (z.shape[0] - tall) / 3), round(q * (z.shape[1] - wide) / 3)
        block = z[top : top + tall, left : left + wide]
        usable = block[~np.isnan(block)]
        median = float(np.median(usable)) if len(usable) >= block.size / 2 else math.nan
        y, x = centred(z.shape[0])[top : top + tall], centred(z.shape[1])[left : left + wide]
        found.append((median, y.mean(), x.mean()))
    return found


def level(medians, m):
    """(median, half of the interquartile range) of at most 25 of the m usable medians, evenly taken."""
    usable = [float(v) for v in medians if v == v]
    sample = sorted(usable[:: m // 25 + 1])
    n = len(sample)
    return float(np.median(sample)), (sample[3 * n // 4] - sample[n // 4]) / 2


def start_plane(z):
    """The first plane; level, at the median, where there are too few blocks."""
    blocks = np.array(block_medians(z))
    m, y, x = blocks[~np.isnan(blocks[:, 0])].T
    if len(m) < 8:
        return np.array([np.nanmedian(z), 0.0, 0.0])
    plane = np.array([np.median(m), 0.0, 0.0])
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


def fit_tiles(stack, structure, lambda_fit):
    """[(plane, sigma_raw)] of tiles, each (H, W); (None, nan) where one cannot be fitted."""
    return [fit_plane(z, structure, lambda_fit) for z in stack]


def load_map(values, tiles):
    """The tiles of a map."""
    return [values[top:bottom, left:right] for top, bottom, left, right in tiles]


def write_map(values, tiles, structure, lambda_fit, consistency, floor):
    """(model, scale), (ss, fs), of the planes of the tiles of a map."""
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


# ---- windows.py ------------------------------------------------------------------------------------------------------------


def stage_of(frame, gain, bands, least, most):
    """(ss, fs) stage of each pixel, -1 where its value is no data or its indicator in no band."""
    stages = np.full(frame.shape, -1)
    for place in np.ndindex(frame.shape):
        if least <= frame[place] <= most:
            for s, (low, high) in enumerate(bands[(..., *place)]):
                if low <= gain[place] <= high:
                    stages[place] = s
    return stages


def majority_stages(stages_of_pixels, tiles, stages):
    of_stage = []
    for top, bottom, left, right in tiles:
        n = [int((stages_of_pixels[top:bottom, left:right] == s).sum()) for s in range(stages)]
        of_stage.append(n.index(max(n)) if max(n) else -1)
    return of_stage


def load_tiles(frame, stages_of_pixels, offset, stage):
    """(ss, fs): values less offsets, nan where a pixel is not in the stage."""
    return np.where(stages_of_pixels == stage, frame.astype(float) - offset, np.nan)


def photon_floors(v, adu_per_photon, least):
    """Of one tile."""
    usable = v[~np.isnan(v)].astype(float)
    mean = np.minimum(usable, 10 * adu_per_photon).mean() if len(usable) else 0.0
    return max(least, math.sqrt(adu_per_photon * max(mean, 0.0)))


def window_background(v, dither, use_dither, dither_at, settings):
    """(plane, sigma); sigma nan where the window cannot be fitted."""
    structure, lambda_fit, factor, floor = settings
    plane, sigma_raw = fit_plane(v, structure, lambda_fit)
    if use_dither == 2 or (use_dither == 1 and sigma_raw < dither_at):
        plane, sigma_raw = fit_plane(v + dither, structure, lambda_fit)
    return plane, final_sigma(sigma_raw, factor, floor, 0.0 if plane is None else plane[0])


def add_snr(snr, clip, snr_cut, usual, in_tiles):
    """What one frame adds to total, count, judged, above and below: to counts where a pixel is not as usual."""
    there = ~np.isnan(snr)
    unlike = (there != usual) & in_tiles
    with np.errstate(invalid="ignore"):
        return np.where(there, np.clip(snr, -clip, clip), 0), unlike, unlike, snr > snr_cut, snr < -snr_cut


def judge_frame(v, tiles, dither, settings, adu_per_photon, use_dither, of_stage, stage):
    """(ss, fs) SNR of one frame, nan where a pixel is not judged. v: of load_tiles()."""
    snr = np.full(v.shape, np.nan)
    for (top, bottom, left, right), of in zip(tiles, of_stage):
        here = np.s_[top:bottom, left:right]
        if of != stage:
            continue
        floor = settings[3]
        if adu_per_photon > 0 and stage == 0:
            floor = photon_floors(v[here], adu_per_photon, floor)
        plane, sigma = window_background(v[here], dither[here], use_dither, 1.5, (*settings[:3], floor))
        if not math.isnan(sigma):
            snr[here] = residuals(v[here], plane).reshape(v[here].shape) / sigma
    return snr
