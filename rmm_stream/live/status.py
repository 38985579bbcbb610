"""Status: the one truth that metrics, page, heartbeat and files read. Immutable, replaced as a whole by its owner.

Knows no clock and no thread: times come in as numbers, s, Unix.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..frames import Exposure, Illumination
from ..mask import BadPixel, MapChange, MapKey, Mask
from ..policy.overlay import lay_over
from ..rmm.drift import UNKNOWN_DRIFT, ModuleDrift
from ..storage.comparison import bad_by_flag as bad_by_flag

FIT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
FRAME_AGE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
NOTHING: Mapping = MappingProxyType({})

NOBODY_SAYS = (
    "nobody says what the detector sees, so its frames are not used: rmm-stream expose ENDPOINT dark|flat|sample"
)
STATES = ("starting", "running", "stopping", "stopped", "failed")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values at or below each bound, the last for all above. bounds: ascending; counts: one more."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float = 0.0

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> "Histogram":
        return cls(bounds, (0,) * (len(bounds) + 1))

    def add(self, value: float) -> "Histogram":
        """The histogram with one value more."""
        counts = list(self.counts)
        counts[bisect_left(self.bounds, value)] += 1
        return Histogram(self.bounds, tuple(counts), self.total + value)


NO_FITS, NO_AGES = Histogram.empty(FIT_SECONDS), Histogram.empty(FRAME_AGE_SECONDS)


@dataclass(frozen=True, slots=True)
class ModuleStatus:
    """One module, as the worker sees it.

    frames: offered to the statistics; accepted: counted by them; rejected: refused, by reason. nbytes: of their pixels.
    maps, judged, held: maps of this process, those with a verdict, those that the guard keeps back.
    labelled: frames offered, by (illumination, voice). light: what the classifier can tell by now, in words; "": it is off.
    suspected: pixels that the last fits of its maps held back as signal of the sample, summed over maps.
    drift: how far its ASICs have moved in the dark.
    changed: pixels that the latest update turned bad or good. serial: grows with every change of flags.
    first_train, train_id: of the first frames since the start and of the latest ones.
    fed_at, published_at: s, Unix, by our clock; data_at: the source's clock of the latest frames; 0: not yet.
    """

    module: int
    maps: int
    frames: int = 0
    accepted: int = 0
    nbytes: int = 0
    rejected: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    labelled: Mapping[tuple[str, str], int] = field(default_factory=lambda: NOTHING)
    light: str = ""
    judged: int = 0
    held: int = 0
    suspected: int = 0
    drift: ModuleDrift = UNKNOWN_DRIFT
    changed: int = 0
    version: int = 0
    serial: int = 0
    first_train: int = 0
    train_id: int = 0
    fed_at: float = 0.0
    data_at: float = 0.0
    published_at: float = 0.0
    fit_seconds: Histogram = NO_FITS
    frame_age: Histogram = NO_AGES


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One input socket, as its receiver sees it.

    messages, nbytes: received. malformed: messages refused whole, by reason.
    rejected: frames refused by the decoder or the ledger or dropped from a full queue, by (module, reason);
    module NO_MODULE: the message did not say. missed: frames that never came, by module. series: new series of train
    ids, by module: restarts of the sender. disconnects: connections lost; resets: sockets made anew.
    connected: None: not known.
    """

    endpoint: str
    messages: int = 0
    nbytes: int = 0
    malformed: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    rejected: Mapping[tuple[int, str], int] = field(default_factory=lambda: NOTHING)
    missed: Mapping[int, int] = field(default_factory=lambda: NOTHING)
    series: Mapping[int, int] = field(default_factory=lambda: NOTHING)
    disconnects: int = 0
    resets: int = 0
    connected: bool | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """All that anybody outside the worker may know.

    state: one of STATES; reason: why, when it is not "running". turns: of the worker's loop; turned_at: the latest one.
    exposure: of the latest frames, labelled_by: who said so. exposures_ended: how often it changed.
    contradictions: voices that disagreed with the one in force.
    requests_malformed: refused by the publisher, by reason.
    changes: by module, the latest published flags of each map.
    overlay: (ss, fs) uint8 EDGE | USER by module, for maps not in changes.
    cells: the memory cells of this process.
    pinned: the stored version that fits may not change, after a rollback; 0: none.
    every_train: F6 judges one lit train in so many; more than configured while the worker is late. 0: not known yet.
    """

    detector: str
    stages: int
    cells: range
    modules: Mapping[int, ModuleStatus]
    state: str = "starting"
    reason: str = ""
    shard: str = ""
    generation: int = 0
    epoch: str = ""
    sequence: int = 0
    started_at: float = 0.0
    turns: int = 0
    turned_at: float = 0.0
    exposure: Exposure | None = None
    labelled_by: str = ""
    contradictions: int = 0
    exposures_ended: int = 0
    sources: tuple[SourceStatus, ...] = ()
    queues: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    requests_malformed: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    memory: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    every_train: int = 0
    pinned: int = 0
    alarms: tuple[str, ...] = ()
    changes: Mapping[int, Mapping[MapKey, MapChange]] = field(default_factory=lambda: NOTHING)
    overlay: Mapping[int, NDArray] = field(default_factory=lambda: NOTHING)

    @property
    def frames(self) -> int:
        return sum(m.frames for m in self.modules.values())

    @property
    def latest(self) -> ModuleStatus:
        """The module that was fed last; its train is the latest. Not the highest train: one may be corrupt."""
        return max(self.modules.values(), key=lambda module: module.fed_at)

    @property
    def run_active(self) -> bool:
        """Whether frames are expected: running, and no source is known to be away."""
        return self.state == "running" and all(s.connected is not False for s in self.sources)

    @property
    def fed_at(self) -> float:
        """s, Unix: when frames were last given to the statistics; 0: never."""
        return max((m.fed_at for m in self.modules.values()), default=0.0)


def health(status: Status, now: float, stall_s: float) -> str:
    """ "" while frames are processed and a mask is out, else the reason, one line. now: s, Unix."""
    if status.state != "running":
        return f"{status.state}: {status.reason}" if status.reason else status.state
    if now - status.turned_at > stall_s:
        return f"the worker has not turned for {now - status.turned_at:.0f} s"
    if not status.fed_at:
        return f"no frame yet since the start {now - status.started_at:.0f} s ago"
    if now - status.fed_at > stall_s:
        return f"no frame for {now - status.fed_at:.0f} s"
    silent = [m.module for m in status.modules.values() if now - m.fed_at > stall_s]
    if silent:
        return f"no frame for {stall_s:.0f} s from modules {', '.join(map(str, silent))}"
    waiting = [m.module for m in status.modules.values() if not m.judged]
    if waiting and status.exposure is not None and status.exposure.illumination is Illumination.UNKNOWN:
        return NOBODY_SAYS
    if waiting:
        return f"no map judged yet for modules {', '.join(map(str, waiting))}"
    return ""


def assemble(status: Status, module: int) -> Mask:
    """The complete mask as published: the latest change of each map; overlay and NO_DATA, unjudged, elsewhere."""
    overlay, changes = status.overlay[module], status.changes.get(module, NOTHING)
    shape = (status.stages, len(status.cells))
    flags = np.empty((*shape, *overlay.shape), np.uint8)
    no_data = np.full(overlay.shape, np.uint8(BadPixel.NO_DATA))
    judged, frames, train_id = np.zeros(shape, np.uint8), np.zeros(shape, np.int64), 0
    for stage in range(status.stages):
        for place, cell in enumerate(status.cells):
            change = changes.get(MapKey(module, stage, cell))
            if change is None:
                flags[stage, place] = lay_over(no_data, overlay)
                continue
            flags[stage, place] = change.flags
            judged[stage, place], frames[stage, place] = int(change.judged), change.frames
            train_id = max(train_id, change.train_id)
    return Mask(module, flags, judged, frames, train_id, status.modules[module].version)


def collapsed(status: Status, module: int) -> NDArray:
    """(ss, fs) uint8: `assemble(status, module).collapse()`, without building the mask."""
    overlay = status.overlay[module]
    out = np.zeros_like(overlay)
    speaking = [c for c in status.changes.get(module, NOTHING).values() if c.judged]
    for change in speaking:
        np.bitwise_or(out, change.flags, out=out)
    return out if speaking else overlay | np.uint8(BadPixel.NO_DATA)


def _known(value: float) -> float | None:
    """For JSON, which has no nan."""
    return round(value, 3) if isfinite(value) else None


def describe(status: Status, now: float, stall_s: float) -> dict:
    """The status as plain values, for JSON: no arrays."""
    exposure = status.exposure
    return {
        "state": status.state,
        "reason": status.reason,
        "health": health(status, now, stall_s) or "ok",
        "detector": status.detector,
        "shard": status.shard,
        "generation": status.generation,
        "epoch": status.epoch,
        "sequence": status.sequence,
        "started_at": status.started_at,
        "exposure": exposure and {"illumination": exposure.illumination.value, "gain_stage": exposure.gain_stage},
        "labelled_by": status.labelled_by,
        "contradictions": status.contradictions,
        "frames": status.frames,
        "queues": dict(status.queues),
        "alarms": list(status.alarms),
        "memory": dict(status.memory),
        "every_train": status.every_train,
        "pinned": status.pinned,
        "sources": [
            {
                "endpoint": s.endpoint,
                "connected": s.connected,
                "messages": s.messages,
                "bytes": s.nbytes,
                "malformed": dict(s.malformed),
                "missed": {str(module): n for module, n in s.missed.items()},
                "series": {str(module): n for module, n in s.series.items()},
                "disconnects": s.disconnects,
                "resets": s.resets,
                "rejected": [{"module": m, "reason": r, "frames": n} for (m, r), n in s.rejected.items()],
            }
            for s in status.sources
        ],
        "modules": [
            {
                "module": m.module,
                "frames": m.frames,
                "accepted": m.accepted,
                "rejected": dict(m.rejected),
                "labelled": [{"illumination": i, "by": who, "frames": n} for (i, who), n in m.labelled.items()],
                "light": m.light,
                "maps": m.maps,
                "judged": m.judged,
                "held": m.held,
                "suspected": m.suspected,
                "asic_drift_adu": [_known(adu) for adu in m.drift.asic_drift],
                "drift_adu_per_hour": _known(m.drift.per_hour),
                "common_mode_adu": _known(m.drift.common_mode),
                "changed": m.changed,
                "version": m.version,
                "train_id": m.train_id,
                "fed_at": m.fed_at,
                "published_at": m.published_at,
            }
            for m in status.modules.values()
        ],
    }
