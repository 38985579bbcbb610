"""Common mode: all pixels of an ASIC shift together from one dark frame to the next. Its size, and statistics without it.

The shift is taken as the level of the ASIC in this frame (docs/method.md 7), which depends on the frame alone. LevelledStats
keeps the sums of (value - level) and, apart, the sum of the levels: their means add up to the mean value, whatever the order
of the frames and whichever came first, so the laws of integer statistics hold bit for bit. Knows no gates and no routes.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from . import gain
from .gate import rows
from .kernels import levels as kernel
from .kernels import sums
from .kernels.compiled import read_only
from .kernels.levels import EMPTY, MOVED, UNKNOWN
from .stats import IntegerStats, Moments

__all__ = ["UNKNOWN", "Asics", "LevelledStats", "asics", "levels", "measurable"]


MOST = 1 << 15  # pixels of one ASIC that are looked at


class Asics(NamedTuple):
    """Where the ASICs of a module lie. Numbered row by row, from 0.

    down: (a, 2), across: (b, 2) int64, first and last + 1 pixel along ss and fs. rows: (r,) int64, those that F1 looks at;
    first: (a + 1,) int64, where in rows each row of ASICs begins, and the end."""

    down: NDArray
    across: NDArray
    rows: NDArray
    first: NDArray

    def __len__(self) -> int:
        return len(self.down) * len(self.across)

    def part(self, asic: int) -> tuple[slice, slice]:
        """The pixels of one ASIC."""
        a, b = divmod(asic, len(self.across))
        return np.s_[self.down[a, 0] : self.down[a, 1], self.across[b, 0] : self.across[b, 1]]


@lru_cache
def asics(spec: DetectorSpec) -> Asics:
    """Where the ASICs of a module of this detector lie."""
    down, across = (np.array(spec.asics(axis), np.int64) for axis in (0, 1))
    looked_at = [[r for r in rows(spec).tolist() if first <= r < last] for first, last in down]
    step = -(-max(map(len, looked_at)) * spec.asic_shape[1] // MOST)
    looked_at = [of[step // 2 :: step] for of in looked_at]
    return Asics(down, across, np.concatenate(looked_at), np.cumsum([0, *map(len, looked_at)]))


def measurable(spec: DetectorSpec) -> bool:
    """Whether ASICs have a level in the dark: values are raw integers of a voltage."""
    return spec.exact and not spec.counting


def levels(spec: DetectorSpec, frames: NDArray, take: NDArray) -> NDArray:
    """(k, ASICs) int32, ADU: level of each ASIC in some frames; UNKNOWN. frames: (n, ss, fs). take: (k,) int64."""
    of = asics(spec)
    least, most, _ = gain.data_range(spec)
    found = np.empty((len(take), len(of)), np.int32)
    room = np.empty(int(np.diff(of.first).max() * np.diff(of.across).max()), np.uint16)
    kernel.frame_levels(read_only(frames), take, of.rows, of.first, of.across, least, most, spec.bits, room, found)
    return found


class LevelledStats(IntegerStats):
    """Exact sums of values less the level of their ASIC. Mutable; one owner. Dark values of at most 14 bits.

    In the sums a value stands as value - level + datum, which lies within the detector's range as the value does; `headroom`
    above the value in a cell's first frame, so that values near 0 stay in it. One that leaves the range does not count.
    datum: (cells, ASICs) int32, ADU; UNKNOWN before the first frame. total, n: (cells, ASICs) int64, sum and number of levels.
    still: (cells, ss, fs) uint16, the value of a pixel that has never had another; MOVED; EMPTY. A dead pixel does not
    follow its ASIC, so that removing its shift would give it noise: it is known by `still`, and its noise is 0.
    subtract() takes sums out again; `still` does not forget.
    """

    def __init__(self, cells: int, spec: DetectorSpec):
        super().__init__(cells, spec.module_shape, spec.dtype, narrow=True)
        self.spec, self.asics = spec, asics(spec)
        self.headroom = (1 << spec.bits) >> 7
        self.datum = np.full((cells, len(self.asics)), UNKNOWN, np.int32)
        self.total, self.n = np.zeros((2, cells, len(self.asics)), np.int64)
        self.still = np.full(self.shape, EMPTY, np.uint16)

    def take_level(self, frame: NDArray, level: NDArray, cell: int, blank: int, out: NDArray) -> None:
        """Write a frame of a cell as it is to be added, and remember its levels. It has to be added then.

        frame, out: (ss, fs). level: (ASICs,) int32 of levels(). blank: stands in `out` for what does not count."""
        known = level != UNKNOWN
        fresh = known & (self.datum[cell] == UNKNOWN)
        self.datum[cell, fresh] = level[fresh] + self.headroom
        self.total[cell, known] += level[known]
        self.n[cell] += known
        lift = np.where(known, level - self.datum[cell], UNKNOWN).astype(np.int32)
        least, most, _ = gain.data_range(self.spec)
        kernel.level_frame(
            read_only(frame), self.asics.down, self.asics.across, lift, least, most, blank, self.still[cell], out
        )

    def moments(self, cell: int) -> Moments:
        reference, n, s1, s2 = self._totals(cell)
        relative = reference.astype(np.int64) - self._spread(np.where(self.datum[cell] == UNKNOWN, 0, self.datum[cell]))
        mean, m2 = np.empty(n.shape), np.empty(n.shape)
        sums.moments(*(a.reshape(-1) for a in (relative, n, s1, s2, mean, m2)))
        mean += self._spread(self.total[cell] / np.maximum(self.n[cell], 1))
        same = (n > 0) & (self.still[cell] < MOVED)
        mean[same], m2[same] = self.still[cell][same], 0.0
        return Moments(n, mean, m2)

    def _spread(self, of_asic: NDArray) -> NDArray:
        """(ss, fs): to every pixel what its ASIC has, (ASICs,); 0 between ASICs."""
        image = np.zeros(self.shape[1:], of_asic.dtype)
        for asic, value in enumerate(of_asic):
            image[self.asics.part(asic)] = value
        return image

    def restart(self, cell: int) -> None:
        super().restart(cell)
        self.datum[cell], self.total[cell], self.n[cell], self.still[cell] = UNKNOWN, 0, 0, EMPTY

    def _combine(self, other: "LevelledStats", sign: int) -> None:
        """Sums of another, whose first frames were others: its datum differs from ours by whole ADU, which are known."""
        fresh = self.datum == UNKNOWN
        self.datum[fresh] = other.datum[fresh]
        super()._combine(other, sign)
        self.total += sign * other.total
        self.n += sign * other.n
        if sign > 0:
            both = np.where((self.still == other.still) | (other.still == EMPTY), self.still, MOVED)
            self.still[...] = np.where(self.still == EMPTY, other.still, both)

    def _theirs(self, other: "LevelledStats", cell: int, reference: NDArray) -> NDArray:
        known = other.datum[cell] != UNKNOWN
        return reference.astype(np.int64) + self._spread(np.where(known, self.datum[cell] - other.datum[cell], 0))

    def state(self) -> dict[str, NDArray]:
        return super().state() | {name: getattr(self, name) for name in ("datum", "total", "n", "still")}
