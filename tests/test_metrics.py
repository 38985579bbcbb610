"""/metrics: names as promised, labels bounded, values from Status."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from example_status import OFFSET, change, running, with_module
from prometheus_client.parser import text_string_to_metric_families

from rmm_stream.live.metrics import CollapsedCache, exposition
from rmm_stream.live.status import SourceStatus
from rmm_stream.mask import MapKey
from rmm_stream.rmm.drift import ModuleDrift
from rmm_stream.wire.decoder import NO_MODULE

#: Renaming one breaks every dashboard and alert.
PROMISED = {
    "frames_total", "bytes_total", "frames_missed_total", "frames_rejected_total", "bad_pixels", "mask_version",
    "mask_published_timestamp_seconds", "mask_changed_pixels", "maps_judged", "maps_held", "suspected_signal_pixels",
    "fit_duration_seconds", "frame_age_seconds", "queue_depth", "shard_generation", "run_active",
    "messages_malformed_total", "source_disconnects_total", "source_resets_total", "source_series_total",
    "memory_bytes", "build_info", "lit_every_train", "frames_labelled_total",
    "mask_pinned",
    "asic_drift_adu", "common_mode_adu",
}  # fmt: skip
DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"


def busy():
    """A status in which every metric has a sample."""
    source = SourceStatus(
        "tcp://a:1",
        malformed={"truncated": 2},
        rejected={(3, "queue_full"): 5, (NO_MODULE, "missing"): 1},
        missed={3: 7},
        series={3: 2},
        disconnects=4,
        resets=6,
    )
    module = running().modules[3]
    module = replace(
        module,
        suspected=8,
        drift=ModuleDrift((0.5, float("nan"), -3.0), 12.0, 2.5),
        rejected={"gated": 4},
        labelled={("dark", "stream"): 7, ("sample", "classifier"): 3},
        frame_age=module.frame_age.add(0.2),
        fit_seconds=module.fit_seconds.add(0.03),
    )
    return running(
        modules={3: module},
        sources=(source,),
        queues={"frames": 1},
        memory={"dark": 100},
        requests_malformed={"schema": 3},
    )


def scrape(status) -> dict[str, dict[tuple, float]]:
    """metric name without prefix -> label values -> value."""
    found = {}
    for family in text_string_to_metric_families(exposition(lambda: status)().decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name.removeprefix("rmm_stream_"), {})[labels] = sample.value
    return found


def test_every_promised_name_is_there_and_prefixed():
    text = exposition(busy)().decode()
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert all(name.startswith("rmm_stream_") for name in types)
    samples = {
        line.split("{")[0].split()[0].removeprefix("rmm_stream_") for line in text.splitlines() if line[0] != "#"
    }
    histograms = {name.removesuffix("_bucket") for name in samples if name.endswith("_bucket")}
    assert {name for name in samples if not re.search("_(bucket|count|sum)$", name)} | histograms == PROMISED


def test_every_name_and_label_is_in_the_document_and_nothing_else():
    """Rows of docs/metrics.md: | `name` | labels | meaning |."""
    rows = re.findall(r"^\| `rmm_stream_(\w+)` \|([^|]*)\|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    told = {name: set(re.findall("`([a-z]+)`", labels)) for name, labels in rows}
    found: dict[str, set] = {}
    for family in text_string_to_metric_families(exposition(busy)().decode()):
        name = family.name.removeprefix("rmm_stream_") + ("_total" if family.type == "counter" else "")
        found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert told == found


def test_no_metric_has_a_time_of_creation():
    samples = [line.split("{")[0].split()[0] for line in exposition(busy)().decode().splitlines() if line[0] != "#"]
    assert samples
    assert not any(name.endswith("_created") for name in samples)


def test_values_come_from_the_status():
    found = scrape(busy())
    assert found["frames_total"] == {("3",): 10}
    assert found["frames_missed_total"] == {("3",): 7}
    assert found["frames_rejected_total"] == {("3", "gated"): 4, ("3", "queue_full"): 5, ("unknown", "missing"): 1}
    assert found["messages_malformed_total"] == {("truncated", "frames"): 2, ("schema", "requests"): 3}
    assert found["bad_pixels"]["3", "OFFSET"] == 1
    assert found["bad_pixels"]["3", "EDGE"] == 1
    assert found["frames_labelled_total"] == {("stream", "dark", "3"): 7, ("classifier", "sample", "3"): 3}
    assert found["run_active"] == {(): 1}
    assert found["memory_bytes"] == {("dark",): 100}
    assert found["suspected_signal_pixels"] == {("3",): 8}
    assert found["asic_drift_adu"] == {("0", "3"): 0.5, ("2", "3"): -3.0}  # of the other nothing is known
    assert found["common_mode_adu"] == {("3",): 2.5}
    assert found["source_series_total"] == {("3",): 2}
    assert found["source_disconnects_total"] == {("frames",): 4}
    assert found["source_resets_total"] == {("frames",): 6}


def test_counters_of_what_never_happened_are_there_and_0():
    found = scrape(running())
    assert found["frames_missed_total"] == found["source_series_total"] == {("3",): 0}
    assert found["source_disconnects_total"] == found["source_resets_total"] == {("frames",): 0}


def test_histogram_buckets_add_up():
    found = scrape(busy())
    buckets = {float(le): n for (le, _), n in found["frame_age_seconds_bucket"].items()}
    assert buckets[0.1] == 0
    assert buckets[0.25] == 1
    assert buckets[float("inf")] == found["frame_age_seconds_count"]["3",] == 1
    assert found["frame_age_seconds_sum"]["3",] == pytest.approx(0.2)


def test_no_label_beyond_the_bounded_ones():
    for family in text_string_to_metric_families(exposition(busy)().decode()):
        for sample in family.samples:
            assert set(sample.labels) <= {
                "module",
                "asic",
                "reason",
                "socket",
                "queue",
                "part",
                "version",
                "le",
                "illumination",
                "by",
            }


def test_the_same_status_gives_the_same_text():
    text = exposition(busy)
    assert text() == text()


def test_the_collapsed_mask_is_made_again_only_when_its_serial_grows():
    cache, status = CollapsedCache(), running()
    first = cache.get(status, 3)
    assert cache.get(status, 3) is first
    key = MapKey(3, 0, 4)
    status = replace(with_module(serial=2), changes={3: {key: change(key, [0, 0, OFFSET])}})
    assert np.array_equal(cache.get(status, 3), [[0, 0, OFFSET]])
