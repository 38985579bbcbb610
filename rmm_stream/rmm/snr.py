"""SnrStats: what F6 keeps of lit frames (section 3.3.1; docs/method.md 8): mean SNR, and how often it is beyond a cut.

Both forget by replacement, never by subtraction: sums live in two half-windows, counts in a ring of time buckets, and a
half or a bucket that is full is overwritten by the next but one, or when its turn comes round again. Each is closed when it
has lasted its part of `span_s`, or has seen its part of `span_frames`, whichever comes first. Time comes in as data, and is
that of the last frame: where it steps back, everything seen before counts as seen now.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .kernels.compiled import aligned

#: Of a flat exposure all frames count; a half is closed only before its uint16 counts could overflow.
FLAT_HALF = 16384


class Window(NamedTuple):
    """What the live buckets add up to, for one cell. Each (ss, fs) int64."""

    judged: NDArray
    above: NDArray
    below: NDArray


class SnrStats:
    """F6 under light, of one (module, illumination, gain stage). Mutable; one owner.

    usual: (cells, ss, fs) bool: pixels that are nearly always judged. Of these, frames in which they were *not* are counted,
    of the others frames in which they were: so that counts change, and memory is touched, for few pixels of a frame.
    total, count: (2, cells, ss, fs) float32 sum of SNR, uint16 frames as above, per half-window.
    judged, above, below: (buckets, cells, ss, fs) uint16 frames as above, SNR > cut, SNR < -cut, per time bucket.
    tried: (2, cells, tiles) int64, per half-window: frames in which most pixels of a tile were in this stage.
    frames: (cells,) int64, frames judged of each cell, ever. 61 B per pixel and cell with 8 buckets.
    planes: (cells, tiles, 3), sigmas, nearest: (cells, tiles) float64: the last fit of each tile, from which the next starts;
    no statistics, so that a merge leaves them as they are.

    A half-window or bucket is cleared when it begins, so that gigabytes need not be in one train: before, it is arbitrary.
    """

    def __init__(
        self,
        cells: int,
        shape: tuple[int, int],
        buckets: int,
        span_s: float,
        span_frames: int,
        forgets: bool,
        tiles: int = 1,
    ):
        self.shape = (cells, *shape)
        self.span_s, self.span_frames, self.forgets = span_s, span_frames, forgets
        self.total = aligned((2, *self.shape), np.float32)
        self.count = np.empty((2, *self.shape), np.uint16)
        self.judged = np.empty((buckets, *self.shape), np.uint16)
        self.above = np.empty((buckets, *self.shape), np.uint16)
        self.below = np.empty((buckets, *self.shape), np.uint16)
        self.usual = np.zeros(self.shape, bool)
        self.tried = np.zeros((2, cells, tiles), np.int64)
        self.frames = np.zeros(cells, np.int64)
        self.planes = np.zeros((cells, tiles, 3))
        self.sigmas = np.full((cells, tiles), np.nan)
        self.nearest = np.zeros((cells, tiles))
        self.latest = np.full(cells, -np.inf)  # data time of the last frame, s
        self.half = np.zeros(cells, np.int64)  # which half-window is open
        self.half_frames = np.zeros((2, cells), np.int64)
        self.half_start = np.full((2, cells), np.nan)  # data time, s
        self.bucket = np.zeros(cells, np.int64)  # which bucket is open
        self.bucket_frames = np.zeros((buckets, cells), np.int64)
        self.bucket_start = np.full((buckets, cells), np.nan)
        self._flat: tuple[NDArray, ...] = ()

    def flat(self) -> tuple[NDArray, ...]:
        """What a judged frame changes, pixels flat, as kernels have it: usual, tried, total, count, judged, above, below."""
        if not self._flat or self._flat[0].base is not self.usual:  # views of a copied object are of no use
            windows = (self.total, self.count, self.judged, self.above, self.below)
            usual = self.usual.reshape(self.shape[0], -1)
            self._flat = usual, self.tried, *(a.reshape(*a.shape[:2], -1) for a in windows)
        return self._flat

    def open(self, cell: int, timestamp: float) -> tuple[int, int]:
        """(half-window, bucket) into which the next frame of a cell goes.

        Closes the half-window and the bucket that this frame finds full or too old, and clears those it opens."""
        if self.forgets:
            half_s, half_frames = self.span_s / 2, self.span_frames // 2
        else:
            half_s, half_frames = np.inf, FLAT_HALF
        if timestamp < self.latest.item(cell):
            for start in (self.half_start, self.bucket_start):
                np.minimum(start[:, cell], timestamp, out=start[:, cell])
        self.latest[cell] = timestamp
        h, b, buckets = self.half.item(cell), self.bucket.item(cell), len(self.judged)
        begun, n = self.half_start.item(h, cell), self.half_frames.item(h, cell)
        if n >= half_frames or timestamp - begun >= half_s:
            h = self.half[cell] = 1 - h
            begun = math.nan
        if begun != begun:
            self._clear(_HALVES, h, cell)
            self.half_start[h, cell], n = timestamp, 0
        self.half_frames[h, cell] = n + 1
        begun, n = self.bucket_start.item(b, cell), self.bucket_frames.item(b, cell)
        if n >= self.span_frames // buckets or timestamp - begun >= self.span_s / buckets:
            b = self.bucket[cell] = (b + 1) % buckets
            begun = math.nan
        if begun != begun:
            self._clear(_BUCKETS, b, cell)
            self.bucket_start[b, cell], n = timestamp, 0
        self.bucket_frames[b, cell] = n + 1
        self.frames[cell] += 1
        return h, b

    def _clear(self, names: tuple[str, ...], window: int, cell: int) -> None:
        for name in names:
            getattr(self, name)[window, cell] = 0

    def expect(self, cell: int, usual: NDArray) -> None:
        """Say which pixels of a cell are nearly always judged, (ss, fs) bool; once, before its first frame."""
        self.usual[cell] = usual

    def mean(self, cell: int, timestamp: float) -> tuple[NDArray, NDArray]:
        """(mean SNR, frames) over the live half-windows, (ss, fs) float64 and int64; nan where no frame was judged."""
        live = self._live_halves(cell, timestamp)
        n = self._counted(self.count, self.half_frames, live, cell)
        total = self.total[live, cell].astype(np.float64).sum(0)
        return np.where(n > 0, total, np.nan) / np.maximum(n, 1), n

    def window(self, cell: int, timestamp: float) -> Window:
        """Counts over the live buckets of a cell."""
        return self._counts(cell, self._live_buckets(cell, timestamp))

    def recent(self, cell: int, timestamp: float) -> tuple[Window, int]:
        """Counts over the last quarter of the buckets and the one that is open, and frames behind them."""
        live = self._live_buckets(cell, timestamp)
        buckets = len(self.judged)
        live = live[(self.bucket[cell] - live) % buckets <= -(-buckets // 4)]
        return self._counts(cell, live), int(self.bucket_frames[live, cell].sum())

    def often_above(self, cell: int, least: float) -> NDArray:
        """(ss, fs) bool: pixels beyond the counting cut in at least so many frames of the bucket that is open."""
        return self.above[self.bucket[cell], cell] >= least

    def _counts(self, cell: int, buckets: NDArray) -> Window:
        judged = self._counted(self.judged, self.bucket_frames, buckets, cell)
        return Window(judged, *(a[buckets, cell].astype(np.int64).sum(0) for a in (self.above, self.below)))

    def _counted(self, kept: NDArray, frames: NDArray, live: NDArray, cell: int) -> NDArray:
        """(ss, fs) int64: frames in which each pixel was judged, over some half-windows or buckets."""
        n = kept[live, cell].astype(np.int64).sum(0)
        return np.where(self.usual[cell], frames[live, cell].sum() - n, n)

    def frames_in_window(self, cell: int, timestamp: float) -> int:
        """Frames of a cell in its live buckets."""
        return int(self.bucket_frames[self._live_buckets(cell, timestamp), cell].sum())

    def frames_in_halves(self, cell: int, timestamp: float) -> int:
        """Frames of a cell in its live half-windows."""
        return int(self.half_frames[self._live_halves(cell, timestamp), cell].sum())

    def tried_in_halves(self, cell: int, timestamp: float) -> NDArray:
        """(tiles,) int64: frames of the live half-windows in which most pixels of a tile were in this stage."""
        return self.tried[self._live_halves(cell, timestamp), cell].sum(0)

    def _live_buckets(self, cell: int, timestamp: float) -> NDArray:
        return self._live(self.bucket_start[:, cell], timestamp, self.span_s)

    def _live_halves(self, cell: int, timestamp: float) -> NDArray:
        return self._live(self.half_start[:, cell], timestamp, np.inf if not self.forgets else 1.5 * self.span_s)

    @staticmethod
    def _live(start: NDArray, timestamp: float, span_s: float) -> NDArray:
        return np.flatnonzero(~np.isnan(start) & ~(timestamp - start > span_s))

    def check_merge(self, other: "SnrStats") -> None:
        """Raises ConfigError where `other` cannot be merged: other windows, or more frames than a uint16 counts."""
        if (self.shape, len(self.judged), self.span_s, self.span_frames, self.forgets) != (
            other.shape, len(other.judged), other.span_s, other.span_frames, other.forgets,
        ):  # fmt: skip
            raise ConfigError("only F6 statistics with the same windows can be merged")
        for mine, theirs in ((self.half_frames, other.half_frames), (self.bucket_frames, other.bucket_frames)):
            if (mine.max(0) + theirs.max(0)).max() > np.iinfo(np.uint16).max:
                raise ConfigError("too many frames in one time window: merge fewer shards, or shorten span_frames")

    def merge(self, other: "SnrStats") -> None:
        """Add what another shard saw. Counts are exact; sums of SNR hold to 0.02 sigma of the map.

        Open windows are joined with open ones, those before them with those before; each counts as begun at the later
        of the two times. Raises ConfigError as check_merge()."""
        self.check_merge(other)
        for cell in range(self.shape[0]):
            if self.frames[cell] == 0:
                self.usual[cell] = other.usual[cell]
            unlike = self.usual[cell] != other.usual[cell]
            for names, start, mine, theirs in (
                (_HALVES, "half_start", self.half, other.half),
                (_BUCKETS, "bucket_start", self.bucket, other.bucket),
            ):
                n = len(getattr(self, start))
                for age in range(n):
                    to, of = (mine[cell] - age) % n, (theirs[cell] - age) % n
                    if np.isnan(getattr(other, start)[of, cell]):
                        continue
                    if np.isnan(getattr(self, start)[to, cell]):
                        self._clear(names, to, cell)
                    counts, *sums, frames = names
                    kept = getattr(other, counts)[of, cell]
                    getattr(self, counts)[to, cell] += np.where(
                        unlike, getattr(other, frames)[of, cell] - kept, kept
                    ).astype(np.uint16)
                    for name in (*sums, frames):
                        getattr(self, name)[to, cell] += getattr(other, name)[of, cell]
                    begun = getattr(self, start)
                    begun[to, cell] = np.fmax(begun[to, cell], getattr(other, start)[of, cell])
        self.frames += other.frames
        np.fmax(self.latest, other.latest, out=self.latest)

    def state(self) -> dict[str, NDArray]:
        """Everything that restore() needs, as plain arrays."""
        for names, start in ((_HALVES, self.half_start), (_BUCKETS, self.bucket_start)):
            for window, cell in np.argwhere(np.isnan(start)).tolist():
                self._clear(names, window, cell)
        return {name: getattr(self, name) for name in _ARRAYS} | {
            "window": np.array([self.span_s, self.span_frames, self.forgets], float)
        }

    @classmethod
    def restore(cls, state: dict[str, NDArray]) -> "SnrStats":
        """The statistics of a state. The arrays are copied."""
        buckets, cells, *shape = state["judged"].shape
        span_s, span_frames, forgets = state["window"]
        tiles = state["tried"].shape[2]
        stats = cls(cells, tuple(shape), buckets, float(span_s), int(span_frames), bool(forgets), tiles)
        for name in _ARRAYS:
            getattr(stats, name)[...] = state[name]
        return stats


_HALVES = ("count", "total", "tried", "half_frames")
_BUCKETS = ("judged", "above", "below", "bucket_frames")
_ARRAYS = (
    "usual", "total", "count", "judged", "above", "below", "tried", "frames", "latest",
    "half", "half_frames", "half_start", "bucket", "bucket_frames", "bucket_start", "planes", "sigmas", "nearest",
)  # fmt: skip
