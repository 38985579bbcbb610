"""F6 on frames (section 3.3.1): the robust plane of each window of a frame, and how far each pixel is from it.

Adds to the sums of one memory cell: half-window sums of SNR, and counts of SNR beyond the counting cut in a time bucket.
"""

import math

import numpy as np

from .compiled import exact
from .robust import final_sigma, fit_plane

DITHER_BELOW = 1.5  # counts; below it the ties of an integer frame pull sigma down (docs/method.md 2.3)
PHOTON_CLIP = 10.0  # photons; a Bragg peak must not raise the floor of its tile


@exact
def majority_stage(where, top, bottom, left, right, stages):
    """The stage in which most valid pixels of a tile are; -1 where none is valid. where: (ss, fs) uint8."""
    n = np.zeros(stages, np.int64)
    for i in range(top, bottom):
        for j in range(left, right):
            if where[i, j] < stages:
                n[where[i, j]] += 1
    best = np.argmax(n)
    return best if n[best] > 0 else -1


@exact
def photon_floor(v, adu_per_photon):
    """Photon noise of a tile in ADU, sqrt(a * mean), values clipped at 10 photons. v: (H, W) float32, nan left out."""
    total, n = 0.0, 0
    for x in v.flat:
        if not np.isnan(x):
            total += min(x, PHOTON_CLIP * adu_per_photon)
            n += 1
    return math.sqrt(adu_per_photon * max(total / n, 0.0)) if n else 0.0


@exact
def window_background(v, dither, use_dither, dither_at, settings, plane, r):
    """Robust plane and sigma of one window of one frame; dithered where the mode of integers would have sigma 0.

    v: (H, W) float32, nan left out. dither: (H, W) float32 in (-0.5, 0.5). use_dither: 0 never, 1 when needed, 2 always.
    dither_at: sigma below which it is needed. settings: (structure, lambda_fit, consistency, floor).
    Returns sigma, nan where the window cannot be fitted; plane is written.
    """
    structure, lambda_fit, consistency, floor = settings
    sigma_raw = np.nan
    if use_dither < 2:
        sigma_raw = fit_plane(v, structure, lambda_fit, plane, r)
    if use_dither == 2 or (use_dither == 1 and sigma_raw < dither_at):
        sigma_raw = fit_plane(v + dither, structure, lambda_fit, plane, r)
    return final_sigma(sigma_raw, consistency, floor, plane[0])


@exact
def judge_frame(
    frame, where, offset, tiles, dither, settings, adu_per_photon, use_dither, clip, snr_cut,
    of_stage, stage, total, count, judged, above, below,
):  # fmt: skip
    """SNR of every pixel of one frame, added to the sums of one cell and stage, in the tiles whose majority stage it is.

    frame: (ss, fs), as received. where: (ss, fs) uint8. offset: (ss, fs) float32, nan where unknown; excluded pixels too.
    of_stage: (tiles,) int64, majority stage of each tile. adu_per_photon: 0 for no photon floor. clip: inf for none.
    total: float32, count: uint16 (half-window); judged, above, below: uint16 (bucket); all (ss, fs), changed.
    Returns how many tiles were judged.
    """
    plane = np.empty(3)
    done = 0
    for t in range(tiles.shape[0]):
        if of_stage[t] != stage:
            continue
        top, bottom, left, right = tiles[t]
        rows, columns = bottom - top, right - left
        v = np.empty((rows, columns), np.float32)
        for i in range(rows):
            for j in range(columns):
                ok = where[top + i, left + j] == stage
                v[i, j] = np.float32(frame[top + i, left + j]) - offset[top + i, left + j] if ok else np.float32(np.nan)
        floor = settings[3]
        if adu_per_photon > 0 and stage == 0:
            floor = max(floor, photon_floor(v, adu_per_photon))
        r = np.empty(rows * columns, np.float32)
        sigma = window_background(
            v,
            dither[top:bottom, left:right],
            use_dither,
            DITHER_BELOW,
            (settings[0], settings[1], settings[2], floor),
            plane,
            r,
        )
        if np.isnan(sigma):
            continue
        done += 1
        inverse = 1.0 / sigma
        for i in range(rows):
            base = plane[0] + plane[1] * (i - 0.5 * (rows - 1))
            for j in range(columns):
                if not np.isnan(v[i, j]):
                    snr = (v[i, j] - (base + plane[2] * (j - 0.5 * (columns - 1)))) * inverse
                    y, x = top + i, left + j
                    total[y, x] += np.float32(min(max(snr, -clip), clip))
                    count[y, x] += np.uint16(1)
                    judged[y, x] += np.uint16(1)
                    above[y, x] += np.uint16(snr > snr_cut)
                    below[y, x] += np.uint16(snr < -snr_cut)
    return done
