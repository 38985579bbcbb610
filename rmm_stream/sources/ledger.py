"""Which trains came, per module: missed, duplicate, reordered, or a new series. Integers in, verdicts out; pure.

The statistics do not need consecutive frames, so a gap costs nothing but must be known; the same frame twice would
count double, so it is dropped.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Trains that are remembered per module. Networks reorder by a few trains; further back is another series.
MEMORY = 64
#: Messages in a row, each older than the newest and newer than the one before, that prove a restarted source.
PATIENCE = 16
#: Trains. A longer jump forward is a pause, or an insane id, not a loss: 17 minutes at 10 trains a second.
PAUSE = 10_000


class Entry(NamedTuple):
    """What the ledger says about one batch.

    fresh: (n,) bool, frames to accumulate. duplicate, reordered: frames not to. missed: trains that never came, counted
    here for the only time; missed_frames: the same in frames, as many each as the train before the gap had.
    new_series: the ids started again somewhere else; nothing is missed by that.
    """

    fresh: NDArray
    missed: int = 0
    missed_frames: int = 0
    duplicate: int = 0
    reordered: int = 0
    new_series: bool = False


@dataclass(slots=True)
class _Series:
    """One module: the newest train and its frames, the cells of the latest ones, and how older ones behave."""

    newest: int
    frames: int = 0
    seen: OrderedDict[int, NDArray] = field(default_factory=OrderedDict)
    last_older: int = -1
    ascending: int = 0


class TrainLedger:
    """Mutable; one thread. step: how far apart two successive train ids are. cells: memory cells of the detector."""

    def __init__(self, step: int = 1, cells: int = 1):
        self._step, self._cells = step, cells
        self._series: dict[int, _Series] = {}

    def enter(self, module: int, train_id: NDArray, cell: NDArray) -> Entry:
        """Take down the frames of one batch.

        train_id: (n,) unsigned integers. cell: (n,) unsigned integers below `cells`.
        A train may come in several batches with different cells. Without memory cells all its frames come in one.
        """
        entry = Entry(np.zeros(len(train_id), bool))
        borders = np.flatnonzero(np.diff(train_id)) + 1 if len(train_id) > 1 else ()
        for first, last in zip((0, *borders), (*borders, len(train_id))):
            if first < last:
                entry = self._enter_train(entry, module, int(train_id[first]), cell, slice(first, last))
        return entry

    def _enter_train(self, entry: Entry, module: int, train: int, cell: NDArray, frames: slice) -> Entry:
        """The entry with the frames of one train added."""
        series = self._series.get(module)
        n = frames.stop - frames.start
        missed = missed_frames = 0
        new_series = False
        if series is not None and train < series.newest:
            if not self._restarted(series, train):
                cells = series.seen.get(train)
                seen = n if cells is not None and self._cells == 1 else 0
                if cells is not None and self._cells > 1:
                    seen = int(np.count_nonzero(cells[cell[frames]]))
                return entry._replace(duplicate=entry.duplicate + seen, reordered=entry.reordered + n - seen)
            new_series = True
        elif series is not None and train > series.newest:
            missed = (train - series.newest - 1) // self._step
            new_series = missed >= PAUSE
            if new_series:
                missed = 0
            else:
                missed_frames = missed * series.frames
                series.newest, series.frames = train, 0
                series.ascending, series.last_older = 0, -1
        if series is None or new_series:
            series = self._series[module] = _Series(train)
        fresh = self._fresh(series, train, cell[frames])
        entry.fresh[frames] = fresh
        series.frames += int(np.count_nonzero(fresh))
        return entry._replace(
            missed=entry.missed + missed,
            missed_frames=entry.missed_frames + missed_frames,
            duplicate=entry.duplicate + n - int(np.count_nonzero(fresh)),
            new_series=entry.new_series or new_series,
        )

    def _restarted(self, series: _Series, train: int) -> bool:
        """Whether an older train begins a new series: far back, or one of many that ascend on their own."""
        series.ascending = series.ascending + 1 if train > series.last_older else 1
        series.last_older = train
        return train < series.newest - MEMORY * self._step or series.ascending >= PATIENCE

    def _fresh(self, series: _Series, train: int, cell: NDArray) -> NDArray:
        """(n,) bool: frames of the newest train that were not there before; from now on they were."""
        known = series.seen.get(train)
        if known is None:
            known = series.seen[train] = np.zeros(self._cells, bool)
            while len(series.seen) > MEMORY:
                series.seen.popitem(last=False)
        elif self._cells == 1:
            return np.zeros(len(cell), bool)
        first = np.zeros(len(cell), bool)
        first[np.unique(cell, return_index=True)[1]] = True
        fresh = (first | (self._cells == 1)) & ~known[cell]
        known[cell] = True
        return fresh
