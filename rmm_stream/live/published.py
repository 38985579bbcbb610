"""What has left, told by the publisher's thread and taken by the main thread: the latest flags of each map, and a record of
each update for the journal. The only thing that both touch, under one lock.
"""

import threading
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..mask import MapChange, MapKey, MaskUpdate

MOST_RECORDS = 200_000  # that wait for a disk; what comes beyond is counted as lost


class Flags(NamedTuple):
    """Of one map, as stored. flags: (ss, fs) uint8."""

    flags: NDArray
    judged: int


class Published:
    """Mutable, shared by two threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._maps: dict[MapKey, MapChange] = {}
        self._stored: Mapping[MapKey, Flags] = {}
        self._different: set[MapKey] = set()
        self._records: list[dict] = []
        self._lost = 0

    def note(self, update: MaskUpdate, after_train: int, now: float) -> None:
        """An update that left. after_train: the latest train then; it is in force for later ones. now: s, Unix."""
        change = update.change
        record = {
            "time": round(now, 3),
            "after_train": after_train,
            "train_id": change.train_id,
            **change.key._asdict(),
            "sequence": update.sequence,
            "version": update.version,
            "newly_bad": change.newly_bad,
            "newly_good": change.newly_good,
        }
        with self._lock:
            self._maps[change.key] = change
            self._compare(change)
            if len(self._records) < MOST_RECORDS:
                self._records.append(record)
            else:
                self._lost += 1

    def _compare(self, change: MapChange) -> None:
        stored = self._stored.get(change.key)
        same = stored is not None and stored.judged == change.judged and np.array_equal(stored.flags, change.flags)
        (self._different.discard if same else self._different.add)(change.key)

    @property
    def different(self) -> bool:
        """Whether anything that was published differs from the stored version."""
        return bool(self._different)

    def take(self) -> tuple[list[dict], int]:
        """Records since the last time, and how many are lost beside them."""
        with self._lock:
            records, lost = self._records, self._lost
            self._records, self._lost = [], 0
        return records, lost

    def maps(self) -> dict[MapKey, MapChange]:
        """The latest change of each map; every one of them is in the records taken so far, or in those to come."""
        with self._lock:
            return dict(self._maps)

    def store(self, stored: Mapping[MapKey, Flags]) -> None:
        """This is what the newest version holds."""
        with self._lock:
            self._stored = stored
            self._different = set()
            for change in self._maps.values():
                self._compare(change)
