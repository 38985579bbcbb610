"""F6 on frames (section 3.3.1): a frame into a stack of tiles, and how far each pixel of it is from the planes of the tiles.

Adds to the sums of one memory cell: half-window sums of SNR, and counts of SNR beyond the counting cut in a time bucket.
Between the two stands planes.fit_tiles(). Pictures come flat, (ss * fs,); places in them are unsigned, so that no index can
be counted from the end, which would keep loops from being vectorised.
"""

import math

import numpy as np

from .compiled import fast
from .robust import final_sigma

PHOTON_CLIP = 10.0  # photons; a Bragg peak must not raise the floor of its tile


#: What there is in a row. Not 1: LLVM would make that bit of each comparison in three instructions instead of one.
NONE, HIGH, LOW, ODD = np.int32(0), np.int32(2), np.int32(4), np.int32(8)
UNTOLD = -2  # a tile whose stage is not known yet


@fast
def majority_stages(frame, gain, bands, least, most, width, tiles, stages, of_stage):
    """The stage in which most valid pixels of each tile are; of as many the lower; -1 where no pixel is valid.

    frame: (px,), valid within [least, most], of its type. gain: (px,), bands: (stages, 2, px) uint16, as gain.Route has them;
    without pixels where the frame is held in one stage. width: of a row. tiles: (n, 4) int64. stages: (2,) int64, first and
    last + 1 that can be. of_stage: (n,) int64, written.
    """
    for t in range(tiles.shape[0]):
        m, found = np.uintp(tiles[t, 3] - tiles[t, 2]), np.int64(0)
        of_stage[t] = -1
        for stage in range(stages[0], stages[1]):
            n = np.int32(0)
            for i in range(tiles[t, 0], tiles[t, 1]):
                a = np.uintp(i * width + tiles[t, 2])
                for j in range(m):
                    here = (frame[a + j] >= least) & (frame[a + j] <= most)
                    if gain.size > 0:
                        here = here & (gain[a + j] >= bands[stage, 0, a + j]) & (gain[a + j] <= bands[stage, 1, a + j])
                    n = np.int32(n + (np.int32(1) if here else np.int32(0)))
            if n > found:
                of_stage[t], found = stage, n


@fast
def load_tiles(
    frame, gain, bands, rows, least, most, offset, width, tiles, of_stage, stage, columns, z, usable, wanted
):
    """Values less their offsets, into a stack, of the tiles whose stage it is; nan where a pixel is not valid in it.

    A tile whose stage is UNTOLD is loaded too: where more than half of its pixels are usable in this stage, it is that one,
    and of_stage is written. Returns whether the stage of a tile is still untold.

    frame ... tiles: as majority_stages(). rows: (stages, 2, ss) uint16, as gain.Route has them. offset: (px,) float32, nan
    where unknown, and where a pixel is excluded. columns: of the stack. z: (n, H * W) float32; usable, wanted: (n,) int64,
    1 for these tiles, else 0; written.
    """
    routed, untold = gain.size > 0, False
    low, high = bands[stage if routed else 0, 0], bands[stage if routed else 0, 1]
    for t in range(tiles.shape[0]):
        usable[t] = wanted[t] = 0
        if of_stage[t] != stage and of_stage[t] != UNTOLD:
            continue
        tile, n, top, m = z[t], np.int32(0), np.uintp(tiles[t, 0]), np.uintp(tiles[t, 3] - tiles[t, 2])
        for i in range(np.uintp(tiles[t, 1] - tiles[t, 0])):
            a = np.uintp(np.uintp(top + i) * np.uintp(width) + np.uintp(tiles[t, 2]))
            b, elsewhere = np.uintp(i * np.uintp(columns)), np.int16(0)
            for j in range(m):
                here = (frame[a + j] >= least) & (frame[a + j] <= most)
                tile[b + j] = np.float32(frame[a + j]) - offset[a + j] if here else np.float32(np.nan)
            if routed:  # nearly always all of a row is in the band that its pixels share
                lowest, highest = rows[stage, 0, top + i], rows[stage, 1, top + i]
                span = np.uint16(highest - lowest)
                for j in range(m):
                    there = np.uint16(gain[a + j] - lowest) <= span
                    elsewhere = np.int16(elsewhere + (np.int16(0) if there else np.int16(1)))
                if elsewhere != 0 or highest < lowest:
                    for j in range(m):
                        there = (gain[a + j] >= low[a + j]) & (gain[a + j] <= high[a + j])
                        tile[b + j] = tile[b + j] if there else np.float32(np.nan)
        for i in range(tile.size):
            n = np.int32(n + (np.int32(1) if tile[i] == tile[i] else np.int32(0)))
        if of_stage[t] == UNTOLD and 2 * np.int64(n) > (tiles[t, 1] - tiles[t, 0]) * np.int64(m):
            of_stage[t] = stage
        if of_stage[t] == stage:
            usable[t], wanted[t] = n, 1
        else:
            untold = True
    return untold


@fast
def photon_floors(z, wanted, adu_per_photon, least, floors):
    """Least sigma of each tile: photon noise in ADU, sqrt(a * mean), values clipped at 10 photons; at least `least`.

    z: (n, H * W) float32, nan left out. floors: (n,) float64, written, of the tiles wanted."""
    most = np.float32(PHOTON_CLIP * adu_per_photon)
    for t in range(z.shape[0]):
        if wanted[t] == 0:
            continue
        tile, total, n = z[t], np.float32(0), np.int32(0)
        for i in range(tile.size):
            v = tile[i] if tile[i] < most else most
            total += v if tile[i] == tile[i] else np.float32(0)
            n = np.int32(n + (np.int32(1) if tile[i] == tile[i] else np.int32(0)))
        floors[t] = max(least, math.sqrt(adu_per_photon * max(total / max(n, 1), 0.0)))


@fast
def add_snr(
    z, wanted, planes, sigmas, consistency, floors, columns, y, x, clip, snr_cut, width, tiles,
    half, bucket, cell, is_usual, tried, totals, counts, judged_of, above_of, below_of,
):  # fmt: skip
    """Add the SNR of the pixels of a stack to the sums of one cell and stage. Selects instead of branching; nan adds 0.

    z, planes, sigmas: as fit_tiles() leaves them; floors: (n,) float64, least sigmas. y, x: (H * W,) float32, places of its
    pixels, `columns` in a row. clip: float32, inf for none. half, bucket, cell: where this frame goes in what SnrStats keeps,
    whose pixels come flat: is_usual, tried, totals (float32), counts, judged_of, above_of, below_of; changed but for
    is_usual: tried of the tiles wanted; counts and judged_of where a pixel that is usual was not judged, or another one was.
    Returns how many tiles were judged.
    """
    one, zero, done = np.uint16(1), np.uint16(0), 0
    usual, total, count = is_usual[cell], totals[half, cell], counts[half, cell]
    judged, above, below = judged_of[bucket, cell], above_of[bucket, cell], below_of[bucket, cell]
    for t in range(tiles.shape[0]):
        sigma = np.nan
        if wanted[t] != 0:
            tried[half, cell, t] += 1
            sigma = final_sigma(sigmas[t], consistency, floors[t], planes[t, 0])
        fitted = sigma > 0
        done += 1 if fitted else 0
        tile, inverse, m = z[t], np.float32(1 / sigma), np.uintp(tiles[t, 3] - tiles[t, 2])
        c0, cy, slope = planes[t, 0] / sigma, planes[t, 1] / sigma, np.float32(planes[t, 2] / sigma)
        for i in range(np.uintp(tiles[t, 1] - tiles[t, 0])):
            a = np.uintp(np.uintp(np.uintp(tiles[t, 0]) + i) * np.uintp(width) + np.uintp(tiles[t, 2]))
            b = np.uintp(i * np.uintp(columns))
            base, seen = np.float32(c0 + cy * y[b]), np.int32(0 if fitted else ODD)
            if fitted:
                for j in range(m):
                    snr = tile[b + j] * inverse - (base + slope * x[j])
                    there = snr == snr
                    v = snr if there else np.float32(0)
                    v = v if v > -clip else -clip
                    total[a + j] += v if v < clip else clip
                    seen = np.int32(seen | (HIGH if snr > snr_cut else NONE) | (LOW if snr < -snr_cut else NONE))
                    seen = np.int32(seen | (ODD if there != usual[a + j] else NONE))
            # most rows have none of these: their counts stay where they are
            if seen & ODD:
                for j in range(m):
                    there = (tile[b + j] == tile[b + j]) & fitted
                    more = one if there != usual[a + j] else zero
                    count[a + j] = np.uint16(count[a + j] + more)
                    judged[a + j] = np.uint16(judged[a + j] + more)
            if seen & HIGH:
                for j in range(m):
                    snr = tile[b + j] * inverse - (base + slope * x[j])
                    above[a + j] = np.uint16(above[a + j] + (one if snr > snr_cut else zero))
            if seen & LOW:
                for j in range(m):
                    snr = tile[b + j] * inverse - (base + slope * x[j])
                    below[a + j] = np.uint16(below[a + j] + (one if snr < -snr_cut else zero))
    return done
