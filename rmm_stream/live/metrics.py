"""Prometheus metrics, computed from Status at scrape time. Counts nothing itself; names as in docs/metrics.md.

Every label set is bounded: modules and closed lists of words. Never a label per pixel, cell, train or client.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from math import isfinite

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .. import __version__
from ..wire.decoder import NO_MODULE
from .status import Histogram, Status, bad_by_flag, collapsed

PREFIX = "rmm_stream_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class CollapsedCache:
    """The collapsed mask of each module, made again only when its serial grew. For one reader thread."""

    def __init__(self):
        self._kept: dict[int, tuple[int, NDArray]] = {}

    def get(self, status: Status, module: int) -> NDArray:
        """(ss, fs) uint8, read-only by agreement."""
        serial = status.modules[module].serial
        kept = self._kept.get(module)
        if kept is None or kept[0] != serial:
            kept = self._kept[module] = (serial, collapsed(status, module))
        return kept[1]


class StatusCollector(Collector):
    """A collector over a function that gives the present Status."""

    def __init__(self, status: Callable[[], Status]):
        self._status = status
        self._cache = CollapsedCache()

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield from _frames(status)
        yield from _masks(status, self._cache)
        yield from _machine(status)

    def describe(self) -> list[Metric]:
        """Nothing: so that registering does not ask for a Status that is not there yet."""
        return []


def exposition(status: Callable[[], Status]) -> Callable[[], bytes]:
    """A function that gives the text of /metrics, from a registry of its own."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    return lambda: generate_latest(registry)


def _counter(name: str, text: str, labels: list[str], values: dict[tuple, float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    return family


def _gauge(name: str, text: str, labels: list[str], values: dict[tuple, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    return family


def _histogram(name: str, text: str, values: dict[tuple, Histogram]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=["module"])
    for key, histogram in sorted(values.items()):
        running, buckets = 0, []
        for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts):
            running += count
            buckets.append((bound, running))
        family.add_metric(list(key), buckets, histogram.total)
    return family


def _label(module: int) -> str:
    return "unknown" if module == NO_MODULE else str(module)


def _frames(status: Status) -> Iterator[Metric]:
    """What came in."""
    modules = status.modules.values()
    by_module = ["module"]
    yield _counter(
        "frames", "Frames offered to the statistics.", by_module, {(str(m.module),): m.frames for m in modules}
    )
    yield _counter("bytes", "Bytes of their pixels.", by_module, {(str(m.module),): m.nbytes for m in modules})
    missed: Counter[tuple] = Counter({(str(m.module),): 0 for m in modules})
    series = missed.copy()
    rejected: Counter[tuple] = Counter()
    malformed: Counter[tuple] = Counter({("requests", reason): n for reason, n in status.requests_malformed.items()})
    for m in modules:
        rejected.update({(str(m.module), reason): n for reason, n in m.rejected.items()})
    for s in status.sources:
        missed.update({(_label(module),): n for module, n in s.missed.items()})
        series.update({(_label(module),): n for module, n in s.series.items()})
        rejected.update({(_label(module), reason): n for (module, reason), n in s.rejected.items()})
        malformed.update({("frames", reason): n for reason, n in s.malformed.items()})
    yield _counter("frames_missed", "Frames that never came, from gaps in the train ids.", by_module, missed)
    labelled = {(str(m.module), *label): n for m in modules for label, n in m.labelled.items()}
    yield _counter(
        "frames_labelled",
        "Frames by what they were taken for, and by whose word.",
        ["module", "illumination", "by"],
        labelled,
    )
    yield _counter("frames_rejected", "Frames that came and were refused.", ["module", "reason"], rejected)
    yield _counter("messages_malformed", "Messages refused whole.", ["socket", "reason"], malformed)
    yield _counter("source_series", "New series of train ids: restarts of the sender.", by_module, series)
    disconnects, resets = (sum(getattr(s, name) for s in status.sources) for name in ("disconnects", "resets"))
    yield _counter("source_disconnects", "Connections lost.", ["socket"], {("frames",): disconnects})
    yield _counter("source_resets", "Sockets made anew.", ["socket"], {("frames",): resets})
    yield _histogram(
        "frame_age_seconds",
        "From the source's time stamp to the statistics.",
        {(str(m.module),): m.frame_age for m in modules},
    )
    yield _gauge("lit_every_train", "F6 judges one lit train in so many.", [], {(): status.every_train})
    yield _gauge("queue_depth", "Messages that wait.", ["queue"], {(k,): v for k, v in status.queues.items()})
    yield _gauge("run_active", "1 while frames are expected.", [], {(): float(status.run_active)})


def _masks(status: Status, cache: CollapsedCache) -> Iterator[Metric]:
    """What went out."""
    modules = status.modules.values()
    bad = {
        (str(module), name): count
        for module in status.overlay
        for name, count in bad_by_flag(cache.get(status, module)).items()
    }
    yield _gauge(
        "bad_pixels", "Pixels of the mask, collapsed over cells and stages, by flag.", ["module", "reason"], bad
    )
    for name, text, value in (
        ("mask_version", "Number of the newest stored mask, 0: none.", "version"),
        ("mask_published_timestamp_seconds", "When a map was last published, 0: never.", "published_at"),
        ("mask_changed_pixels", "Pixels that the latest update turned.", "changed"),
        ("maps_judged", "Maps with a verdict.", "judged"),
        ("maps_held", "Maps that the guard keeps back.", "held"),
        ("suspected_signal_pixels", "Pixels held back as signal of the sample, summed over maps.", "suspected"),
    ):
        yield _gauge(name, text, ["module"], {(str(m.module),): getattr(m, value) for m in modules})
    yield _gauge("mask_pinned", "1 while fits change nothing, after a rollback.", [], {(): float(status.pinned > 0)})
    drift = {
        (str(m.module), str(asic)): adu for m in modules for asic, adu in enumerate(m.drift.asic_drift) if isfinite(adu)
    }
    yield _gauge(
        "asic_drift_adu", "How far an ASIC has moved since its dark statistics began.", ["module", "asic"], drift
    )
    shifts = {(str(m.module),): m.drift.common_mode for m in modules if isfinite(m.drift.common_mode)}
    yield _gauge("common_mode_adu", "Rms of the shifts of ASICs from frame to frame.", ["module"], shifts)
    yield _gauge(
        "shard_generation",
        "How often this shard has had a new owner.",
        ["module"],
        {(str(m.module),): status.generation for m in modules},
    )
    yield _histogram(
        "fit_duration_seconds", "Time of one fit of one map.", {(str(m.module),): m.fit_seconds for m in modules}
    )


def _machine(status: Status) -> Iterator[Metric]:
    yield _gauge("memory_bytes", "Bytes in use, by part.", ["part"], {(k,): v for k, v in status.memory.items()})
    yield _gauge("build_info", "The program.", ["version"], {(__version__,): 1})
