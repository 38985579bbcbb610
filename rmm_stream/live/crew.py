"""The workers of a service, as one: each owns the maps of a range of memory cells, and the statistics behind them.

More cores, more workers: maps are never shared, so there is nothing to lock. Frames are handed to all uncopied; each takes
its own cells of them.
"""

import queue
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..frames import FrameBatch
from ..mask import MapKey
from ..rmm.drift import worst
from .requests import Request
from .status import STATES, Histogram, ModuleStatus, Status
from .worker import Worker


class Lane(NamedTuple):
    """The queue of messages of one worker, and the memory cells that it takes out of them."""

    frames: queue.Queue
    cells: range


class Crew:
    """One or more workers. Any thread may ask; who starts and stops them is one."""

    def __init__(self, workers: Sequence[Worker]):
        self.workers = tuple(workers)

    @property
    def lanes(self) -> tuple[Lane, ...]:
        return tuple(Lane(worker.frames, worker.status.cells) for worker in self.workers)

    @property
    def status(self) -> Status:
        return joined([worker.status for worker in self.workers])

    @property
    def error(self) -> BaseException | None:
        return next((worker.error for worker in self.workers if worker.error is not None), None)

    def ask(self, request: Request) -> None:
        """Every worker gets it; what is not of its cells does not concern it."""
        for worker in self.workers:
            worker.requests.put(request)

    def train(self, key: MapKey) -> int:
        """The train of the latest frames of the worker that owns a map; 0: none yet."""
        return next((worker.train(key.module) for worker in self.workers if key.cell in worker.status.cells), 0)

    def waiting(self) -> dict[str, int]:
        """Messages and requests that wait for the worker that has most of them."""
        return {
            "frames": max(worker.frames.qsize() for worker in self.workers),
            "requests": max(worker.requests.qsize() for worker in self.workers),
        }

    def idle_s(self) -> float:
        """Seconds since the loop last turned of the worker that turns slowest."""
        return max(worker.idle_s() for worker in self.workers)

    def start(self, generation: int, epoch: str, now: float) -> None:
        for worker in self.workers:
            worker.status = replace(worker.status, generation=generation, epoch=epoch, started_at=now)
            worker.start()

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()

    def abandon(self) -> None:
        for worker in self.workers:
            worker.abandon()

    def join(self, timeout_s: float) -> bool:
        """Wait for all to end, at most so long for each. Returns whether they have."""
        return all(worker.join(timeout_s) for worker in self.workers)


def joined(parts: Sequence[Status]) -> Status:
    """What several workers say, as if one had said it."""
    first = parts[0]
    if len(parts) == 1:
        return first
    said = max(parts, key=lambda part: part.fed_at)  # the exposure of the latest frames
    # the worst state, in the order in which a service lives
    state = "failed" if any(p.state == "failed" for p in parts) else min((p.state for p in parts), key=STATES.index)
    cells = range(min(p.cells.start for p in parts), max(p.cells.stop for p in parts))
    modules = {number: _module([part.modules[number] for part in parts]) for number in first.modules}
    return replace(
        said,
        cells=cells,
        modules=modules,
        state=state,
        reason=next((part.reason for part in parts if part.reason), ""),
        shard=f"{first.shard}, {parts[-1].shard}" if len(parts) == 2 else f"{first.shard} to {parts[-1].shard}",
        turns=min(part.turns for part in parts),
        turned_at=min(part.turned_at for part in parts),
        exposures_ended=max(part.exposures_ended for part in parts),
        contradictions=max(part.contradictions for part in parts),
        every_train=max(part.every_train for part in parts),
        pinned=min(part.pinned for part in parts),  # once all are
        memory=_memory([part.memory for part in parts]),
        alarms=tuple(dict.fromkeys(alarm for part in parts for alarm in part.alarms)),
        changes={
            number: {key: change for part in parts for key, change in part.changes.get(number, {}).items()}
            for number in first.modules
        },
    )


def _module(parts: Sequence[ModuleStatus]) -> ModuleStatus:
    fed, published = max(parts, key=lambda p: p.fed_at), max(parts, key=lambda p: p.published_at)
    totals = ("maps", "frames", "accepted", "nbytes", "judged", "held", "suspected", "serial")
    return replace(
        fed,
        **{name: sum(getattr(part, name) for part in parts) for name in totals},
        rejected=dict(sum((Counter(part.rejected) for part in parts), Counter())),
        labelled=dict(sum((Counter(part.labelled) for part in parts), Counter())),
        drift=worst([part.drift for part in parts]),
        changed=published.changed,
        published_at=published.published_at,
        first_train=min((part.first_train for part in parts if part.frames), default=0),
        fit_seconds=_histogram(part.fit_seconds for part in parts),
        frame_age=fed.frame_age,  # all workers see the same messages
    )


def _memory(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Sums of what each holds; the process is one."""
    total = {
        name: sum(part.get(name, 0) for part in parts) for name in dict.fromkeys(n for part in parts for n in part)
    }
    if "resident" in total:
        total["resident"] = max(part.get("resident", 0) for part in parts)
    return total


def _histogram(parts: Iterable[Histogram]) -> Histogram:
    parts = list(parts)
    counts = tuple(map(sum, zip(*(part.counts for part in parts))))
    return Histogram(parts[0].bounds, counts, sum(part.total for part in parts))


def frames_of(batches: Sequence[FrameBatch], cells: range) -> Counter[int]:
    """Frames of some memory cells in a message, by module."""
    found: Counter[int] = Counter()
    for batch in batches:
        found[batch.module] += int(((batch.cell >= cells.start) & (batch.cell < cells.stop)).sum())
    return found
