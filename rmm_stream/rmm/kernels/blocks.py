"""Exact integer sums of eight frames at a time (sums.py says of what), for values of at most 14 bits.

Memory is the limit. Eight rows, as they were received, are added with one read and one write of the sums: per pixel and
frame that moves 2 bytes and an eighth of the sums, where a single frame moves all of them. s2 is uint32 here; whoever calls
takes large sums away before the next block (sums.SPILL_AT).

The frames of a block are eight stacks, (n, px) unsigned, not always different ones, and for each memory cell the eight rows
that are its own. The sums are (cells, px).

Lanes: 16-bit lanes hold twice as many values as 32-bit ones, so sums of four and differences stay in 16 bits as long as they
can; numba would widen each operation to 64 bits, hence the casts. All loads stand before the first store: otherwise memory
waits, which costs a tenth. One line per frame: a loop over a tuple would not vectorise. A loop over part of a row counts in
uint64: numba looks whether another index is negative, and slices of a dozen arrays cost a quarter of compiling.

Pixels in several gain stages: their indicators are compared with the bands once, which leaves a byte of marks per pixel
and stage. Values and indicators are added by it, stage by stage: else one loop would be over 22 arrays.
"""

import numpy as np

from .compiled import exact, shared

BLOCK = 8  # frames
CHUNK = 1024  # pixels whose indicators stay in the first cache from one stage to the next
PIECE = 256  # pixels that are passed over together where no mark is among them


@shared
def within(v, low, high):
    return (v >= low) & (v <= high)


@shared
def kept(v, low, high, r):
    """v where it lies within low..high, else r."""
    return v if (v >= low) & (v <= high) else r


@shared
def four(a, b, c, d):
    """Sum of four values of at most 14 bits; int32."""
    return np.int32(np.uint16(np.uint16(a + b) + np.uint16(c + d)))


@shared
def square(v, r):
    """(v - r)^2 of values of at most 15 bits; uint32."""
    d = np.int32(np.int16(v - r))
    return np.uint32(d * d)


@shared
def squares(a, b, c, d, r):
    """Sum of the squared differences of four values from r; uint32."""
    return np.uint32(np.uint32(square(a, r) + square(b, r)) + np.uint32(square(c, r) + square(d, r)))


@shared
def four_within(a, b, c, d, low, high, r):
    """Of those of four values that lie within low..high, the others being r: sum, squared differences from r, number."""
    n = np.uint16(within(a, low, high)) + np.uint16(within(b, low, high))
    n += np.uint16(within(c, low, high)) + np.uint16(within(d, low, high))
    a, b, c, d = kept(a, low, high, r), kept(b, low, high, r), kept(c, low, high, r), kept(d, low, high, r)
    return four(a, b, c, d), squares(a, b, c, d, r), np.uint16(n)


@shared
def lesser(a, b):
    return a if a < b else b


@shared
def all_within(a, b, c, d, low, high):
    return within(a, low, high) & within(b, low, high) & within(c, low, high) & within(d, low, high)


@shared
def bit(g, low, width, value):
    """value where g lies within low..low + width: one comparison instead of two; else 0. uint16."""
    return value if np.uint16(g - low) <= width else np.uint16(0)


@shared
def four_bits(a, b, c, d, low, high):
    """Which of four indicators lie within low..high, which is not empty: a bit each, from the lowest; uint16."""
    width = np.uint16(high - low)
    m = np.uint16(bit(a, low, width, np.uint16(1)) + bit(b, low, width, np.uint16(2)))
    return np.uint16(m + np.uint16(bit(c, low, width, np.uint16(4)) + bit(d, low, width, np.uint16(8))))


@shared
def is_marked(marks, first, last):
    """Whether one of some pixels has a mark."""
    some = np.uint8(0)
    for i in range(np.uint64(first), np.uint64(min(last, marks.size))):
        some = np.uint8(some | marks[i])
    return some != 0


@shared
def away(v, r, counts):
    """v - r where the value counts, else 0; int32. Values of at most 15 bits."""
    return np.int32(np.int16(v - r)) if counts else np.int32(0)


@shared
def four_marked(a, b, c, d, marks, least, span, r):
    """Of those of four values that are marked, and within least..least + span: sum of v - r, of its square, number."""
    ka = ((marks & np.uint16(1)) != 0) & (np.uint16(a - least) <= span)
    kb = ((marks & np.uint16(2)) != 0) & (np.uint16(b - least) <= span)
    kc = ((marks & np.uint16(4)) != 0) & (np.uint16(c - least) <= span)
    kd = ((marks & np.uint16(8)) != 0) & (np.uint16(d - least) <= span)
    n = np.uint16(np.uint16(np.uint16(ka) + np.uint16(kb)) + np.uint16(np.uint16(kc) + np.uint16(kd)))
    a, b, c, d = away(a, r, ka), away(b, r, kb), away(c, r, kc), away(d, r, kd)
    q = np.uint32(np.uint32(np.uint32(a * a) + np.uint32(b * b)) + np.uint32(np.uint32(c * c) + np.uint32(d * d)))
    return np.int32(np.int32(a + b) + np.int32(c + d)), q, n


@exact
def add_blocks(stacks, rows, cells, reference, s1, s2, seen):
    """Add eight frames to each of some memory cells; every value counts. The frames are counted by whoever calls.

    stacks: tuple of eight. rows: (k, 8) int64. cells: (k,) int64. reference: of the frames' type. s1: int32, s2: uint32,
    changed. seen: (k,) uint32, written: the OR of all s2 of each cell."""
    f0, f1, f2, f3, f4, f5, f6, f7 = stacks
    for k in range(cells.size):
        x0, x1, x2, x3 = f0[rows[k, 0]], f1[rows[k, 1]], f2[rows[k, 2]], f3[rows[k, 3]]
        x4, x5, x6, x7 = f4[rows[k, 4]], f5[rows[k, 5]], f6[rows[k, 6]], f7[rows[k, 7]]
        ref, sum1, sum2 = reference[cells[k]], s1[cells[k]], s2[cells[k]]
        top = np.uint32(0)
        for i in range(ref.size):
            r = ref[i]
            a, b, c, d, e, f, g, h = x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], x7[i]
            s = np.int32(four(a, b, c, d) + four(e, f, g, h))
            q = np.uint32(sum2[i] + np.uint32(squares(a, b, c, d, r) + squares(e, f, g, h, r)))
            sum1[i] = np.int32(sum1[i] + np.int32(s - np.int32(8) * np.int32(r)))
            sum2[i] = q
            top = np.uint32(top | q)
        seen[k] = top


@exact
def add_blocks_masked(stacks, rows, cells, least, most, reference, count, s1, s2, seen):
    """Add those values of eight frames that lie within least..most; others add 0 to the sums and to count.

    least, most: of the frames' type, at most 14 bits; the reference lies within. count: uint16, changed. Else as add_blocks."""
    f0, f1, f2, f3, f4, f5, f6, f7 = stacks
    for k in range(cells.size):
        x0, x1, x2, x3 = f0[rows[k, 0]], f1[rows[k, 1]], f2[rows[k, 2]], f3[rows[k, 3]]
        x4, x5, x6, x7 = f4[rows[k, 4]], f5[rows[k, 5]], f6[rows[k, 6]], f7[rows[k, 7]]
        ref, number, sum1, sum2 = reference[cells[k]], count[cells[k]], s1[cells[k]], s2[cells[k]]
        top = np.uint32(0)
        for i in range(ref.size):
            r = ref[i]
            s, q, n = four_within(x0[i], x1[i], x2[i], x3[i], least, most, r)
            t, p, m = four_within(x4[i], x5[i], x6[i], x7[i], least, most, r)
            q = np.uint32(sum2[i] + np.uint32(q + p))
            number[i] = np.uint16(number[i] + np.uint16(n + m))
            sum1[i] = np.int32(sum1[i] + np.int32(np.int32(s + t) - np.int32(8) * np.int32(r)))
            sum2[i] = q
            top = np.uint32(top | q)
        seen[k] = top


@exact
def add_block_placed(gains, rows, low, high, within_all, most, sign, reference, s1, s2):
    """Add eight frames of gain indicators of one cell, times sign, and see whether one lies outside low..high or beyond most.

    sign: int32, 1 or -1: what was added with 1 is taken out with -1, to the bit, whatever it was. low, high: (px,) uint16.
    within_all: (2, ss) uint16, of each row a band that those of all its pixels include: nearly always that tells, and 4
    bytes a pixel less are read. Returns (one is outside, OR of all s2)."""
    w0, w1, w2, w3, w4, w5, w6, w7 = gains
    x0, x1, x2, x3 = w0[rows[0]], w1[rows[1]], w2[rows[2]], w3[rows[3]]
    x4, x5, x6, x7 = w4[rows[4]], w5[rows[5]], w6[rows[6]], w7[rows[7]]
    outside, top, last = np.uint16(0), np.uint32(0), np.uint64(0)
    for row in range(within_all.shape[1]):
        first, last = last, np.uint64(last + np.uint64(reference.size // within_all.shape[1]))
        lo, hi, astray = within_all[0, row], lesser(within_all[1, row], most), np.uint16(0)
        for i in range(first, last):
            r = reference[i]
            a, b, c, d, e, f, g, h = x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], x7[i]
            there = all_within(a, b, c, d, lo, hi) & all_within(e, f, g, h, lo, hi)
            astray = np.uint16(astray | np.uint16(not there))
            s = np.int32(np.int32(four(a, b, c, d) + four(e, f, g, h)) - np.int32(8) * np.int32(r))
            q = np.uint32(squares(a, b, c, d, r) + squares(e, f, g, h, r))
            q = np.uint32(s2[i] + np.uint32(q * np.uint32(sign)))
            s1[i] = np.int32(s1[i] + np.int32(s * sign))
            s2[i] = q
            top = np.uint32(top | q)
        if astray != 0:
            for i in range(first, last):
                lo, hi = low[i], lesser(high[i], most)
                there = all_within(x0[i], x1[i], x2[i], x3[i], lo, hi) & all_within(x4[i], x5[i], x6[i], x7[i], lo, hi)
                outside = np.uint16(outside | np.uint16(not there))
    return outside != 0, top


@exact
def mark_bands(gains, rows, frames, bands, marks, some):
    """Mark where the gain indicators of eight frames of one cell lie within each of some bands: one bit a frame.

    gains: tuple of eight. rows: (8,) int64. frames: how many are marked, from the first. bands: (stages, 2, px) uint16,
    low and high ends; one with low > high is empty.
    marks: (stages, px) uint8, written; bit f is that of frame f. some: (stages,) bool, written: is any pixel marked?"""
    w0, w1, w2, w3, w4, w5, w6, w7 = gains
    x0, x1, x2, x3 = w0[rows[0]], w1[rows[1]], w2[rows[2]], w3[rows[3]]
    x4, x5, x6, x7 = w4[rows[4]], w5[rows[5]], w6[rows[6]], w7[rows[7]]
    asked = np.uint16((1 << frames) - 1)
    some[:] = False
    for first in range(0, marks.shape[1], CHUNK):
        last = min(first + CHUNK, marks.shape[1])
        for stage in range(marks.shape[0]):
            low, high, out, seen = bands[stage, 0], bands[stage, 1], marks[stage], np.uint16(0)
            for i in range(np.uint64(first), np.uint64(last)):
                lo, hi = low[i], high[i]
                m = np.uint16(
                    four_bits(x0[i], x1[i], x2[i], x3[i], lo, hi)
                    + np.uint16(four_bits(x4[i], x5[i], x6[i], x7[i], lo, hi) << np.uint16(4))
                )
                m = np.uint16(m & (asked if lo <= hi else np.uint16(0)))
                out[i] = np.uint8(m)
                seen = np.uint16(seen | m)
            some[stage] |= seen != 0


@exact
def add_block_marked(stacks, rows, marks, least, most, reference, count, s1, s2):
    """Add those values of eight frames of one cell that are marked (mark_bands) and lie within least..most.

    stacks: tuple of eight. rows: (8,) int64. marks: (px,) uint8. least, most, reference: of the frames' type, at most
    14 bits; the reference, (px,), lies within. count: (px,) uint16, s1: int32, s2: uint32, changed, but not looked at
    in a piece without a mark. Returns the OR of those s2 that were looked at."""
    f0, f1, f2, f3, f4, f5, f6, f7 = stacks
    x0, x1, x2, x3 = f0[rows[0]], f1[rows[1]], f2[rows[2]], f3[rows[3]]
    x4, x5, x6, x7 = f4[rows[4]], f5[rows[5]], f6[rows[6]], f7[rows[7]]
    span, top, last = np.uint16(most - least), np.uint32(0), 0
    while last < marks.size:
        first = last
        while last < marks.size and is_marked(marks, last, last + PIECE):
            last += PIECE
        for i in range(np.uint64(first), np.uint64(min(last, marks.size))):
            r, m = reference[i], np.uint16(marks[i])
            s, q, n = four_marked(x0[i], x1[i], x2[i], x3[i], m, least, span, r)
            t, p, o = four_marked(x4[i], x5[i], x6[i], x7[i], np.uint16(m >> np.uint16(4)), least, span, r)
            q = np.uint32(s2[i] + np.uint32(q + p))
            count[i] = np.uint16(count[i] + np.uint16(n + o))
            s1[i] = np.int32(s1[i] + np.int32(s + t))
            s2[i] = q
            top = np.uint32(top | q)
        last += PIECE
    return top
