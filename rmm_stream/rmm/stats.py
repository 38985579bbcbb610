"""PixelStats: count, mean and M2 of every pixel of every memory cell (docs/method.md 6), the plain averages of section 3.2.

IntegerStats keeps exact sums about a reference, so its moments are the same bits for any order, blocking or sharding.
FloatStats is Welford in float64. Both merge; both subtract. Knows nothing of exposures, gates or features.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..detectors.spec import NARROW_BITS
from .kernels import blocks, sums, welford
from .kernels.blocks import BLOCK
from .kernels.compiled import read_only
from .kernels.moments import narrow_moments
from .kernels.routing import INVALID
from .kernels.sums import SPILL_AT

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
        divisor = self.count - 1.0
        divisor[divisor < 1] = np.nan
        return np.sqrt(self.m2 / divisor)


class Block(NamedTuple):
    """Eight frames of each of some memory cells, where they were received.

    stacks: eight (n, px) arrays, read-only, not always different ones. rows: (k, 8) int64, which frame of each stack
    belongs to which cell. cells: (k,) int64, from 0. A place without a frame has values that do not count; the first has one.
    """

    stacks: tuple[NDArray, ...]
    rows: NDArray
    cells: NDArray


def flat(frames: NDArray) -> NDArray:
    """Frames, (n, ss, fs), as (n, px), read-only."""
    return read_only(frames.reshape(len(frames), -1))


class IntegerStats:
    """Exact sums of integer values of at most 16 significant bits. Mutable; one owner.

    reference: (cells, ss, fs) unsigned, one of the first values. count: uint16, frames that counted, pixel by pixel.
    s1: int32. s2: uint32 where values are narrow (12 B per pixel and cell, blocks of eight frames), else uint64 (16 B).
    Folded into `wide` (20 B more) before they can overflow; of narrow ones, the s2 of wild pixels earlier, into `spilled`.
    whole: (cells,) int64, frames in which every pixel counted, beside `count`.
    frames: (cells,) int64, frames of which most pixels counted.
    """

    def __init__(self, cells: int, shape: tuple[int, int], dtype=np.uint16, narrow: bool = False):
        self.shape = (cells, *shape)
        self.narrow = narrow
        self.reference = np.zeros(self.shape, dtype)
        self.count = np.zeros(self.shape, np.uint16)
        self.s1 = np.zeros(self.shape, np.int32)
        self.s2 = np.zeros(self.shape, np.uint32 if narrow else np.uint64)
        self.whole = np.zeros(cells, np.int64)
        self.frames = np.zeros(cells, np.int64)
        self.unfolded = np.zeros(cells, np.int64)
        self.referred = np.zeros(cells, bool)
        self.wide: dict[str, NDArray] | None = None
        self.spilled: dict[
            int, tuple[NDArray, NDArray]
        ] = {}  # cell -> (pixels uint32, rising; their part of s2 uint64)

    # ---- adding frames ----

    def add(self, block: Block, limits: tuple[int, int] | None) -> None:
        """Add a block of narrow values. limits: least and most value that counts; None: every value does."""
        for k in range(len(block.cells)):
            self._prepare(block, k, limits)
        seen = np.empty(len(block.cells), np.uint32)
        reference, count, s1, s2 = self._rows()
        if limits is None:
            blocks.add_blocks(*block, reference, s1, s2, seen)
            self.whole[block.cells] += BLOCK
        else:
            least, most = map(block.stacks[0].dtype.type, limits)
            blocks.add_blocks_masked(*block, least, most, reference, count, s1, s2, seen)
        for cell in block.cells[seen >= SPILL_AT].tolist():
            self._spill(cell)

    def add_if_placed(self, gains: Block, k: int, band: NDArray, within_all: NDArray, most: int) -> bool:
        """Add the indicators of the k-th cell of a block if all lie in a band, (2, px) uint16, and none beyond most.

        within_all: (2, ss) uint16, what the bands of a row have in common. Returns whether they do; if not, no sum has
        changed."""
        cell = self._prepare(gains, k, (0, most))
        reference, _, s1, s2 = (a[cell] for a in self._rows())
        arguments = gains.stacks, gains.rows[k], band[0], band[1], within_all, gains.stacks[0].dtype.type(most)
        outside, seen = blocks.add_block_placed(*arguments, np.int32(1), reference, s1, s2)
        if outside:
            blocks.add_block_placed(*arguments, np.int32(-1), reference, s1, s2)
            return False
        self.whole[cell] += BLOCK
        if seen >= SPILL_AT:
            self._spill(cell)
        return True

    def add_marked(self, block: Block, k: int, marks: NDArray, limits: tuple[int, int]) -> None:
        """Add what of the k-th cell of a block is within limits and marked; marks: (px,) uint8, a bit per frame."""
        cell = self._prepare(block, k, limits, marks)
        least, most = map(block.stacks[0].dtype.type, limits)
        sums_of_cell = (a[cell] for a in self._rows())
        if blocks.add_block_marked(block.stacks, block.rows[k], marks, least, most, *sums_of_cell) >= SPILL_AT:
            self._spill(cell)

    def _prepare(self, block: Block, k: int, limits: tuple[int, int] | None, marks: NDArray | None = None) -> int:
        """Make room for the frames of the k-th cell of a block, which is returned. marks: None where all count."""
        cell = int(block.cells[k])
        if self.unfolded[cell] + BLOCK > sums.FOLD_AT:
            self._fold(cell)
        self.unfolded[cell] += BLOCK
        if not self.referred[cell]:
            frames = (stack[row] for stack, row in zip(block.stacks, block.rows[k]))
            if marks is not None:
                dtype = block.stacks[0].dtype
                none = dtype.type(np.iinfo(dtype).max)  # never within limits
                frames = (np.where(marks & np.uint8(1 << f), frame, none) for f, frame in enumerate(frames))
            self._refer(cell, frames, limits)
        return cell

    def update(self, block: NDArray, take: NDArray, where: NDArray, stage: int, cell: int, care=VALUE) -> None:
        """Add the frames `take` of a block to one cell. block: (n, ss, fs). take: (k,) int64. where: (n, ss, fs) uint8."""
        most = BLOCK if self.narrow else sums.FOLD_AT // 2
        for part in np.array_split(take, -(-len(take) // most)) if len(take) else ():
            if self.unfolded[cell] + len(part) > sums.FOLD_AT:
                self._fold(cell)
            self.unfolded[cell] += len(part)
            if not self.referred[cell]:
                self._refer(cell, block[part[:1]], None)
            largest = sums.add_frames(
                flat(block), part, where.reshape(len(where), -1), care, np.uint8(stage),
                *(a[cell] for a in self._rows()),
            )  # fmt: skip
            if self.narrow and largest >= SPILL_AT:
                self._spill(cell)

    def _rows(self) -> tuple[NDArray, ...]:
        return tuple(a.reshape(self.shape[0], -1) for a in (self.reference, self.count, self.s1, self.s2))

    def _refer(self, cell: int, frames: Iterable[NDArray], limits: tuple[int, int] | None) -> None:
        """Let each pixel's first value within limits be its reference; where there is none, the nearest that may count."""
        least, most = limits or (0, self._most_reference())
        reference, lacking = self.reference[cell].reshape(-1), None
        for frame in frames:
            if lacking is None:
                reference[:] = frame.reshape(-1)
            else:
                reference[lacking] = frame.reshape(-1)[lacking]
            lacking = (reference < least) | (reference > most)
            if not lacking.any():
                break
        np.clip(reference, least, most, out=reference)
        self.referred[cell] = True

    def _most_reference(self) -> int:
        top = np.iinfo(self.reference.dtype).max
        return min((1 << NARROW_BITS) - 1, top) if self.narrow else top

    # ---- reading ----

    def moments(self, cell: int) -> Moments:
        if self.narrow and self.wide is None and cell not in self.spilled:
            n, mean, m2 = np.empty(self.shape[1:], np.int64), *np.empty((2, *self.shape[1:]))
            reference, count, s1, s2 = (a[cell] for a in self._rows())
            narrow_moments(reference, count, self.whole[cell], s1, s2, *(a.reshape(-1) for a in (n, mean, m2)))
            return Moments(n, mean, m2)
        reference, n, s1, s2 = self._totals(cell)
        mean, m2 = np.empty(n.shape), np.empty(n.shape)
        sums.moments(*(a.reshape(-1) for a in (reference, n, s1, s2, mean, m2)))
        return Moments(n, mean, m2)

    # ---- joining, forgetting ----

    def restart(self, cell: int) -> None:
        """Forget what one cell has seen."""
        for a in (self.reference, self.count, self.s1, self.s2, self.whole, self.frames, self.unfolded, self.referred):
            a[cell] = 0
        self.spilled.pop(cell, None)
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
            theirs_ref = self._theirs(other, cell, theirs_ref)
            ref = np.where(n > 0, ref, np.clip(theirs_ref, 0, self._most_reference()))
            d = theirs_ref - ref.astype(np.int64)
            t2 = (t2.astype(np.int64) + 2 * d * t1 + m * d * d).astype(np.uint64)
            t1 = t1 + m * d
            self._store(cell, ref, n + sign * m, s1 + sign * t1, s2 + t2 if sign > 0 else s2 - t2)
            self.frames[cell] += sign * other.frames[cell]

    def _theirs(self, other: "IntegerStats", cell: int, reference: NDArray) -> NDArray:
        """(ss, fs) int64: the reference of another's cell, in our terms."""
        return reference.astype(np.int64)

    # ---- narrow sums, and what has left them ----

    def _totals(self, cell: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        n = self.count[cell].astype(np.int64) + self.whole[cell]
        s1, s2 = self.s1[cell].astype(np.int64), self.s2[cell].astype(np.uint64)
        if cell in self.spilled:
            pixels, above = self.spilled[cell]
            s2.reshape(-1)[pixels] += above
        if self.wide is not None:
            n += self.wide["earlier"][cell]
            s1 += self.wide["s1"][cell]
            s2 += self.wide["s2"][cell]
        return self.reference[cell], n, s1, s2

    def _store(self, cell: int, reference: NDArray, n: NDArray, s1: NDArray, s2: NDArray) -> None:
        most = int(n.max(initial=0))
        self.reference[cell] = reference
        self.referred[cell] = True
        self._clear(cell)
        if most < sums.FOLD_AT:
            self.count[cell], self.s1[cell] = n, s1
            if self.narrow:
                pixels = np.flatnonzero(s2 >= SPILL_AT).astype(np.uint32)
                if len(pixels):
                    self.spilled[cell] = pixels, s2.reshape(-1)[pixels]
                    s2 = np.where(s2 >= SPILL_AT, 0, s2)
            self.s2[cell] = s2
            self.unfolded[cell] = most
            n, s1, s2 = 0, 0, 0
        else:
            self._widen()
        if self.wide is not None:
            self.wide["earlier"][cell], self.wide["s1"][cell], self.wide["s2"][cell] = n, s1, s2

    def _clear(self, cell: int) -> None:
        for a in (self.count, self.s1, self.s2, self.whole, self.unfolded):
            a[cell] = 0
        self.spilled.pop(cell, None)

    def _fold(self, cell: int) -> None:
        """Into the wide sums, before a narrow one can overflow."""
        self._widen()
        _, n, s1, s2 = self._totals(cell)
        self._clear(cell)
        self.wide["earlier"][cell], self.wide["s1"][cell], self.wide["s2"][cell] = n, s1, s2

    def _spill(self, cell: int) -> None:
        """Take the large ones of the narrow s2 away: those of wild pixels, a few of a cell."""
        s2 = self.s2[cell].reshape(-1)
        large = np.flatnonzero(s2 >= SPILL_AT // 2).astype(
            np.uint32
        )  # one that is near would be back with the next block
        pixels, above = self.spilled.get(cell, (large[:0], np.zeros(0, np.uint64)))
        both = np.union1d(pixels, large)
        total = np.zeros(len(both), np.uint64)
        total[np.searchsorted(both, pixels)] = above
        total[np.searchsorted(both, large)] += s2[large]
        s2[large] = 0
        self.spilled[cell] = both, total

    def _widen(self) -> None:
        if self.wide is None:
            types = {"earlier": np.uint32, "s1": np.int64, "s2": np.uint64}
            self.wide = {name: np.zeros(self.shape, dtype) for name, dtype in types.items()}

    # ---- keeping ----

    def state(self) -> dict[str, NDArray]:
        """Everything that restore() needs, as plain arrays."""
        state = {name: getattr(self, name) for name in _KEPT}
        for cell, (pixels, above) in self.spilled.items():
            state |= {f"spilled/{cell}/pixels": pixels, f"spilled/{cell}/s2": above}
        return state | {f"wide/{n}": a for n, a in (self.wide or {}).items()}

    @classmethod
    def restore(cls, state: dict[str, NDArray]) -> "IntegerStats":
        """The statistics of a state. The arrays are copied."""
        cells, *shape = state["count"].shape
        stats = cls(cells, tuple(shape), state["reference"].dtype, state["s2"].dtype == np.uint32)
        stats.take_over(state)
        return stats

    def take_over(self, state: dict[str, NDArray]) -> None:
        """Let empty statistics of the right shape have a state. The arrays are copied."""
        for name, a in state.items():
            if name.startswith("wide/"):
                self._widen()
                self.wide[name.removeprefix("wide/")][...] = a
            elif name.startswith("spilled/"):
                cell = int(name.split("/")[1])
                self.spilled[cell] = state[f"spilled/{cell}/pixels"].copy(), state[f"spilled/{cell}/s2"].copy()
            else:
                getattr(self, name)[...] = a


_KEPT = ("reference", "count", "s1", "s2", "whole", "frames", "unfolded", "referred")


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
