"""F6 on frames (section 3.3.1): the robust plane of each window of a frame, and how far each pixel is from it.

Adds to the sums of one memory cell: half-window sums of SNR, and counts of SNR beyond the counting cut in a time bucket.
"""

import math

import numpy as np

from .compiled import exact, fast
from .planes import coordinates, fit_plane
from .robust import final_sigma
from .routing import EVERY_BIT, count_stage

DITHER_BELOW = 1.5  # counts; below it the ties of an integer frame pull sigma down (docs/method.md 2.3)
PHOTON_CLIP = 10.0  # photons; a Bragg peak must not raise the floor of its tile


@exact
def majority_stages(where, tiles, stages, of_stage):
    """The stage in which most valid pixels of each tile are; -1 where none is valid.

    where: (ss, fs) uint8. tiles: (n, 4) int64. of_stage: (n,) int64, written."""
    for t in range(tiles.shape[0]):
        top, bottom, left, right = tiles[t]
        most = 0
        of_stage[t] = -1
        for stage in range(stages):
            n = 0
            for i in range(top, bottom):
                n += count_stage(where[i, left:right], EVERY_BIT, np.uint8(stage))
            if n > most:
                of_stage[t], most = stage, n


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
    y, x = np.empty(v.size, np.float32), np.empty(v.size, np.float32)
    coordinates(v.shape[0], v.shape[1], y, x)
    sigma_raw = np.nan
    if use_dither < 2:
        sigma_raw = fit_plane(v, y, x, structure, lambda_fit, plane, r)
    if use_dither == 2 or (use_dither == 1 and sigma_raw < dither_at):
        sigma_raw = fit_plane(v + dither, y, x, structure, lambda_fit, plane, r)
    return final_sigma(sigma_raw, consistency, floor, plane[0])


@fast
def load(frame, where, offset, stage, v):
    """Value minus offset where a pixel is in the stage, else nan. v: float32, written. All of one dimension."""
    for j in range(v.size):
        v[j] = np.float32(frame[j]) - offset[j] if where[j] == stage else np.float32(np.nan)


@fast
def snr_of_row(v, base, slope, inverse, snr):
    """SNR of one row of a window; base: the model at its first pixel. v, snr: (W,) float32; snr is written."""
    for j in range(v.size):
        snr[j] = (v[j] - (base + slope * np.float32(j))) * inverse


@fast
def add(snr, clip, snr_cut, total, count, judged, above, below):
    """Add SNR to the sums of its pixels. Selects instead of branching; nan adds 0. All of one dimension."""
    one, zero = np.uint16(1), np.uint16(0)  # 16-bit lanes stay 16-bit lanes
    for j in range(snr.size):
        s = snr[j]
        low = s if s > -clip else -clip
        there = s == s
        total[j] += (low if low < clip else clip) if there else np.float32(0)
        count[j] = np.uint16(count[j] + (one if there else zero))
        judged[j] = np.uint16(judged[j] + (one if there else zero))
        above[j] = np.uint16(above[j] + (one if s > snr_cut else zero))
        below[j] = np.uint16(below[j] + (one if s < -snr_cut else zero))


@exact
def flat(a):
    """The same memory in one dimension."""
    return a.reshape(-1)


@exact
def judge_frame(
    frame, where, offset, tiles, dither, settings, adu_per_photon, use_dither, clip, snr_cut,
    of_stage, stage, total, count, judged, above, below,
):  # fmt: skip
    """SNR of every pixel of one frame, added to the sums of one cell and stage, in the tiles whose majority stage it is.

    frame: (ss, fs), as received. where: (ss, fs) uint8. offset: (ss, fs) float32, nan where unknown; excluded pixels too.
    tiles: (n, 4) int64, row by row, as outliers.tiles() has them. of_stage: (n,) int64, majority stage of each tile.
    adu_per_photon: 0 for no photon floor. clip: inf for none.
    total: float32, count: uint16 (half-window); judged, above, below: uint16 (bucket); all (ss, fs), changed.
    Returns how many tiles were judged.
    """
    plane = np.empty(3)
    v = np.empty((0, 0), np.float32)
    r = np.empty(0, np.float32)
    done = first = 0
    while first < tiles.shape[0]:
        # Tiles side by side are read and added together: memory likes long runs
        top, bottom = tiles[first, 0], tiles[first, 1]
        last = first + 1
        while last < tiles.shape[0] and tiles[last, 0] == top:
            last += 1
        here = slice(top, bottom)
        band = np.empty((bottom - top, frame.shape[1]), np.float32)
        snr = np.full(band.shape, np.float32(np.nan))
        fitted = 0
        if np.any(of_stage[first:last] == stage):
            load(flat(frame[here]), flat(where[here]), flat(offset[here]), stage, flat(band))
        for t in range(first, last):
            if of_stage[t] != stage:
                continue
            left, right = tiles[t, 2], tiles[t, 3]
            rows, columns = bottom - top, right - left
            if v.shape != (rows, columns):
                v = np.empty((rows, columns), np.float32)
                r = np.empty(v.size, np.float32)
            v[:] = band[:, left:right]
            floor = settings[3]
            if adu_per_photon > 0 and stage == 0:
                floor = max(floor, photon_floor(v, adu_per_photon))
            sigma = window_background(
                v, dither[top:bottom, left:right], use_dither, DITHER_BELOW,
                (settings[0], settings[1], settings[2], floor), plane, r,
            )  # fmt: skip
            if np.isnan(sigma):
                continue
            fitted += 1
            slope, inverse = np.float32(plane[2]), np.float32(1 / sigma)
            for i in range(rows):
                base = plane[0] + plane[1] * (i - 0.5 * (rows - 1)) - plane[2] * 0.5 * (columns - 1)
                snr_of_row(v[i], np.float32(base), slope, inverse, snr[i, left:right])
        if fitted:
            add(
                flat(snr), np.float32(clip), np.float32(snr_cut),
                flat(total[here]), flat(count[here]), flat(judged[here]), flat(above[here]), flat(below[here]),
            )  # fmt: skip
        done += fitted
        first = last
    return done
