"""The levels of ASICs on the dark path: taken of every frame where their shifts are removed, else of an even sample.

What they say of drift goes to drift.py. Knows nothing of gates and routes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from . import common_mode
from .drift import Drift
from .kernels.blocks import BLOCK
from .keys import VALUES, DarkKey
from .segments import Segments
from .stats import Block, flat

#: Where shifts are not removed, they are watched: of each memory cell in one frame of so many, of few cells and of many.
SAMPLED, SAMPLED_OF_MANY, MANY = 16, 32, 16


def spacing(segments: Segments) -> int:
    """Levels are taken of one frame of a memory cell in so many."""
    if segments.levelled:
        return 1
    return SAMPLED if len(segments.cells) < MANY else SAMPLED_OF_MANY


class Levelling:
    """Mutable; one owner. Frames are given as (batch, index, stage in which most pixels are, ...): dark.Waiting."""

    def __init__(self, spec: DetectorSpec, cells: range, segments: Segments, drift: Drift):
        self.spec, self.cells, self.segments, self.drift = spec, cells, segments, drift
        self.spacing = spacing(segments)
        self.watches = common_mode.measurable(spec)
        self._room: NDArray | None = None

    def watch(self, module: int, last: Mapping[int, tuple], n: int) -> None:
        """Tell where ASICs are, of those cells whose next n frames contain one to be looked at: it is the last of them.

        last: by cell; all of one batch."""
        sampled: dict[int, list[int]] = {}
        for cell, (_, _, stage, *_) in last.items() if self.watches else ():
            stats = self.segments.dark.get(DarkKey(module, VALUES, stage))
            before = 0 if stats is None else int(stats.frames[cell - self.cells.start])
            if before // self.spacing < (before + n) // self.spacing:
                sampled.setdefault(stage, []).append(cell)
        for stage, cells in sampled.items():
            batch = last[cells[0]][0]
            levels = common_mode.levels(self.spec, batch.pixels, np.array([last[cell][1] for cell in cells]))
            self.drift.note(module, stage, np.array(cells) - self.cells.start, levels, batch.timestamp)

    def block(self, module: int, cell: int, frames: Sequence[tuple]) -> Block:
        """At most a block of frames of one cell, less the shifts of its ASICs. It holds until the next."""
        dtype, at = self.spec.dtype, np.array([cell - self.cells.start])
        if self._room is None:
            self._room = np.empty((BLOCK, 1, *self.spec.module_shape), dtype)
        blank = int(np.iinfo(dtype).max)
        self._room[len(frames) :] = blank
        for (batch, frame, stage, *_), out in zip(frames, self._room):
            levels = common_mode.levels(self.spec, batch.pixels, np.array([frame]))
            self.drift.note(module, stage, at, levels, batch.timestamp)
            stats = self.segments.open_dark(DarkKey(module, VALUES, stage), dtype)
            stats.take_level(batch.pixels[frame], levels[0], int(at[0]), blank, out[0])
        return Block(tuple(flat(frame) for frame in self._room), np.zeros((1, BLOCK), np.int64), at)

    def begin(self, module: int, stage: int, cell: int) -> None:
        """What a cell has seen is forgotten."""
        self.drift.begin(module, stage, cell - self.cells.start)
