"""PixelStats: count, mean and M2 of every pixel of every memory cell (docs/method.md 6), the plain averages of section 3.2.

IntegerStats keeps exact sums about a reference, so its moments are the same bits for any order, blocking or sharding.
FloatStats is Welford in float64. Both merge; both subtract. Knows nothing of exposures, gates or features.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .kernels import sums, welford
from .kernels.routing import INVALID

#: `care` of update(): a pixel counts where its value is valid, or where its indicator fits the stage.
VALUE = np.uint8(0xFF)
INDICATOR = np.uint8(0xFF & ~int(INVALID))


class Moments(NamedTuple):
    """Welford's triple. count: (ss, fs) int64. mean, m2: (ss, fs) float64, nan where count is 0."""

    count: NDArray
    mean: NDArray
    m2: NDArray

    def std(self) -> NDArray:
        """(ss, fs) float64, divisor n - 1; nan where count < 2."""
        enough = self.count > 1
        return np.sqrt(np.where(enough, self.m2, np.nan) / np.where(enough, self.count - 1, 1))


class IntegerStats:
    """Exact sums of integer values of at most 16 significant bits. Mutable; one owner.

    reference: (cells, ss, fs) unsigned, first valid value of the pixel. count: uint16. s1: int32. s2: uint64. 16 B per
    pixel and cell; folded into `wide` (20 B more) before they can overflow.
    frames: (cells,) int64, frames of which most pixels counted.
    """

    def __init__(self, cells: int, shape: tuple[int, int], dtype=np.uint16):
        self.shape = (cells, *shape)
        self.reference = np.zeros(self.shape, dtype)
        self.count = np.zeros(self.shape, np.uint16)
        self.s1 = np.zeros(self.shape, np.int32)
        self.s2 = np.zeros(self.shape, np.uint64)
        self.frames = np.zeros(cells, np.int64)
        self.unfolded = np.zeros(cells, np.int64)
        self.wide: dict[str, NDArray] | None = None
        self._nothing = np.zeros(shape[0] * shape[1], np.uint32)

    def update(self, block: NDArray, take: NDArray, where: NDArray, stage: int, cell: int, care=VALUE) -> None:
        """Add the frames `take` of a block to one cell. block: (n, ss, fs). take: (k,) int64. where: (n, ss, fs) uint8."""
        for part in np.array_split(take, -(-len(take) // (sums.FOLD_AT // 2))) if len(take) else ():
            if self.unfolded[cell] + len(part) > sums.FOLD_AT:
                self._fold(cell)
            earlier = self._nothing if self.wide is None else self.wide["earlier"][cell].ravel()
            sums.add_frames(
                block.reshape(len(block), -1), part, where.reshape(len(where), -1), care, np.uint8(stage), earlier,
                *(a[cell].reshape(-1) for a in (self.reference, self.count, self.s1, self.s2)),
            )  # fmt: skip
            self.unfolded[cell] += len(part)

    def moments(self, cell: int) -> Moments:
        reference, n, s1, s2 = self._totals(cell)
        mean, m2 = np.empty(n.shape), np.empty(n.shape)
        sums.moments(*(a.reshape(-1) for a in (reference, n, s1, s2, mean, m2)))
        return Moments(n, mean, m2)

    def restart(self, cell: int) -> None:
        """Forget what one cell has seen."""
        for a in (self.reference, self.count, self.s1, self.s2, self.frames, self.unfolded):
            a[cell] = 0
        if self.wide is not None:
            for a in self.wide.values():
                a[cell] = 0

    def merge(self, other: "IntegerStats") -> None:
        """Add the sums of `other`, re-based to our references. Commutative and associative in the moments."""
        self._combine(other, 1)

    def subtract(self, other: "IntegerStats") -> None:
        """Take out the sums of `other`, which were added before. Exact: undoes merge, bit for bit."""
        self._combine(other, -1)

    def _combine(self, other: "IntegerStats", sign: int) -> None:
        for cell in range(self.shape[0]):
            theirs_ref, m, t1, t2 = other._totals(cell)
            if not m.any():
                continue
            ref, n, s1, s2 = self._totals(cell)
            ref = np.where(n > 0, ref, theirs_ref)
            d = theirs_ref.astype(np.int64) - ref.astype(np.int64)
            t2 = (t2.astype(np.int64) + 2 * d * t1 + m * d * d).astype(np.uint64)
            t1 = t1 + m * d
            self._store(cell, ref, n + sign * m, s1 + sign * t1, s2 + t2 if sign > 0 else s2 - t2)
            self.frames[cell] += sign * other.frames[cell]

    def _totals(self, cell: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        n, s1, s2 = self.count[cell].astype(np.int64), self.s1[cell].astype(np.int64), self.s2[cell].copy()
        if self.wide is not None:
            n += self.wide["earlier"][cell]
            s1 += self.wide["s1"][cell]
            s2 += self.wide["s2"][cell]
        return self.reference[cell], n, s1, s2

    def _store(self, cell: int, reference: NDArray, n: NDArray, s1: NDArray, s2: NDArray) -> None:
        most = int(n.max(initial=0))
        self.reference[cell] = reference
        if most < sums.FOLD_AT:
            self.count[cell], self.s1[cell], self.s2[cell] = n, s1, s2
            self.unfolded[cell] = most
            n, s1, s2 = 0, 0, 0
        else:
            self.count[cell], self.s1[cell], self.s2[cell] = 0, 0, 0
            self.unfolded[cell] = 0
            self._widen()
        if self.wide is not None:
            self.wide["earlier"][cell], self.wide["s1"][cell], self.wide["s2"][cell] = n, s1, s2

    def _fold(self, cell: int) -> None:
        self._widen()
        _, n, s1, s2 = self._totals(cell)
        self.wide["earlier"][cell], self.wide["s1"][cell], self.wide["s2"][cell] = n, s1, s2
        self.count[cell], self.s1[cell], self.s2[cell] = 0, 0, 0
        self.unfolded[cell] = 0

    def _widen(self) -> None:
        if self.wide is None:
            types = {"earlier": np.uint32, "s1": np.int64, "s2": np.uint64}
            self.wide = {name: np.zeros(self.shape, dtype) for name, dtype in types.items()}

    def state(self) -> dict[str, NDArray]:
        """Everything that restore() needs, as plain arrays."""
        names = ("reference", "count", "s1", "s2", "frames", "unfolded")
        return {n: getattr(self, n) for n in names} | {f"wide/{n}": a for n, a in (self.wide or {}).items()}

    @classmethod
    def restore(cls, state: dict[str, NDArray]) -> "IntegerStats":
        """The statistics of a state. The arrays are copied."""
        cells, *shape = state["count"].shape
        stats = cls(cells, tuple(shape), state["reference"].dtype)
        for name, a in state.items():
            if name.startswith("wide/"):
                stats._widen()
                stats.wide[name.removeprefix("wide/")][...] = a
            else:
                getattr(stats, name)[...] = a
        return stats


class FloatStats:
    """Welford's moments in float64, for float frames and integers of more than 16 bits. Mutable; one owner.

    count: (cells, ss, fs) uint32. mean, m2: float64. frames: (cells,) int64, frames of which most pixels counted.
    """

    def __init__(self, cells: int, shape: tuple[int, int], dtype=np.float32):
        self.shape = (cells, *shape)
        self.count = np.zeros(self.shape, np.uint32)
        self.mean = np.zeros(self.shape)
        self.m2 = np.zeros(self.shape)
        self.frames = np.zeros(cells, np.int64)

    def update(self, block: NDArray, take: NDArray, where: NDArray, stage: int, cell: int, care=VALUE) -> None:
        """Add the frames `take` of a block to one cell. block: (n, ss, fs). take: (k,) int64. where: (n, ss, fs) uint8."""
        welford.update_frames(
            block.reshape(len(block), -1), take, where.reshape(len(where), -1), care, np.uint8(stage),
            *(a[cell].reshape(-1) for a in (self.count, self.mean, self.m2)),
        )  # fmt: skip

    def moments(self, cell: int) -> Moments:
        n = self.count[cell].astype(np.int64)
        return Moments(n, np.where(n > 0, self.mean[cell], np.nan), np.where(n > 0, self.m2[cell], np.nan))

    def restart(self, cell: int) -> None:
        """Forget what one cell has seen."""
        for a in (self.count, self.mean, self.m2, self.frames):
            a[cell] = 0

    def merge(self, other: "FloatStats") -> None:
        """Add the moments of `other` (Chan et al. 1979): 1e-8 sigma in the mean, 1e-10 relative in sd."""
        self._combine(other, 1)

    def subtract(self, other: "FloatStats") -> None:
        """Take out the moments of `other`, which were added before; to rounding."""
        self._combine(other, -1)

    def _combine(self, other: "FloatStats", sign: int) -> None:
        welford.merge_moments(
            float(sign), *(a.reshape(-1) for a in (other.count, other.mean, other.m2, self.count, self.mean, self.m2))
        )
        self.frames += sign * other.frames

    def state(self) -> dict[str, NDArray]:
        """Everything that restore() needs, as plain arrays."""
        return {n: getattr(self, n) for n in ("count", "mean", "m2", "frames")}

    @classmethod
    def restore(cls, state: dict[str, NDArray]) -> "FloatStats":
        """The statistics of a state. The arrays are copied."""
        cells, *shape = state["count"].shape
        stats = cls(cells, tuple(shape))
        for name, a in state.items():
            getattr(stats, name)[...] = a
        return stats


PixelStats = IntegerStats | FloatStats
