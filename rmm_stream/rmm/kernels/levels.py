"""The level of each ASIC of a frame, and frames moved to one level (docs/method.md 7). Knows no detector and no segment.

A level is the mean of the middle half of an ASIC's values, rounded: a function of the frame alone. Each pixel between its
quarters moves it by as much as its own noise, a pixel beyond them not at all, so how offsets spread takes no part in it.
"""

import numpy as np

from .compiled import exact, inlined
from .robust import MIN_VALUES

UNKNOWN = -(1 << 30)  # level of an ASIC of which too little is data
EMPTY, MOVED = 65535, 65534  # in `still`: no value yet; it has had two


@inlined
def not_above(values, t):
    """How many of some uint16 values, fewer than 65536, are at most t, uint16."""
    n = np.uint16(0)
    for p in range(values.size):
        n = np.uint16(n + np.uint16(values[p] <= t))
    return np.int64(n)


@exact
def at_rank(values, rank, bits):
    """The value at a rank, from 0, of uint16 values below 2**bits: counted bit by bit, nothing is sorted."""
    found = np.int64(0)
    for bit in range(bits - 1, -1, -1):
        if not_above(values, np.uint16(found + (1 << bit) - 1)) <= rank:
            found += 1 << bit
    return found


@exact
def frame_levels(frames, take, rows, first, across, least, most, bits, room, levels):
    """Rounded mean of the middle half of the values of each ASIC of some frames.

    frames: (n, ss, fs) unsigned, at most 16 bits. take: (k,) int64. rows: (r,) int64, those that are looked at, in order;
    first: (a + 1,) int64, where in them each row of ASICs begins and ends. across: (b, 2) int64, first and last + 1 column of
    each ASIC. least, most: values that are data, below 2**bits. room: uint16, as many as are looked at in one ASIC, fewer
    than 65536, written. levels: (k, a * b) int32, written; UNKNOWN where fewer than MIN_VALUES are data."""
    low, high = np.uint16(least), np.uint16(most)
    for i in range(take.size):
        for a in range(first.size - 1):
            for b in range(across.shape[0]):
                left, width, n = across[b, 0], across[b, 1] - across[b, 0], np.int64(0)
                values = room[: (first[a + 1] - first[a]) * width]
                for r in range(first[a], first[a + 1]):
                    line = frames[take[i], rows[r], left : left + width]
                    to = values[(r - first[a]) * width :][:width]
                    for p in range(width):
                        v = np.uint16(line[p])
                        is_data = (v >= low) & (v <= high)
                        to[p] = v if is_data else np.uint16(65535)
                        n += is_data
                at = a * across.shape[0] + b
                if n < MIN_VALUES:
                    levels[i, at] = UNKNOWN
                    continue
                cut = n // 4
                lower, upper = at_rank(values, cut, bits), at_rank(values, n - cut - 1, bits)
                middle, over, under = np.int64(0), np.int64(0), np.int64(0)
                for p in range(values.size):
                    v = np.int32(values[p])
                    between = (v > lower) & (v < upper)
                    middle += v if between else np.int32(0)
                    over += between
                    under += v <= lower
                kept = n - 2 * cut
                of_lower = min(under - cut, kept)
                middle += lower * of_lower + upper * (kept - of_lower - over)
                levels[i, at] = (2 * middle + kept) // (2 * kept)


@exact
def level_frame(frame, down, across, lift, least, most, blank, still, out):
    """A frame less the lift of each of its ASICs.

    frame: (ss, fs) unsigned. down: (a, 2), across: (b, 2) int64, first and last + 1 pixel of each ASIC. lift: (a * b,)
    int32, ADU; UNKNOWN: of this ASIC nothing counts. least, most: values that count, before and after. blank: what stands
    for a value that does not, also between ASICs. still: (ss, fs) uint16, changed: the one value that a pixel has had,
    before; MOVED where it has had two, EMPTY where none. out: (ss, fs), of the frame's type, written."""
    low, high, none = np.int32(least), np.int32(most), np.int32(blank)
    empty, moved = np.int32(EMPTY), np.int32(MOVED)
    out[:] = blank
    for a in range(down.shape[0]):
        for b in range(across.shape[0]):
            d = lift[a * across.shape[0] + b]
            if d == UNKNOWN:
                continue
            for r in range(down[a, 0], down[a, 1]):
                line = frame[r, across[b, 0] : across[b, 1]]
                had, to = still[r, across[b, 0] : across[b, 1]], out[r, across[b, 0] : across[b, 1]]
                for p in range(line.size):
                    v, s = np.int32(line[p]), np.int32(had[p])
                    w = np.int32(v - d)
                    is_data = (v >= low) & (v <= high)
                    now = v if s == empty else moved
                    now = s if s == v else now
                    had[p] = now if is_data else s
                    to[p] = w if is_data & (w >= low) & (w <= high) else none
