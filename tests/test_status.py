"""Status: histograms, health in words, the assembled mask."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from example_status import EDGE, NO_DATA, NOISE, OFFSET, change, running, with_module

from rmm_stream.frames import Exposure, Illumination
from rmm_stream.live.status import (
    Histogram,
    ModuleStatus,
    SourceStatus,
    assemble,
    bad_by_flag,
    collapsed,
    describe,
    health,
)
from rmm_stream.mask import BadPixel, MapKey
from rmm_stream.rmm.drift import ModuleDrift


def test_a_histogram_counts_a_bound_with_the_bucket_below():
    histogram = Histogram.empty((1.0, 2.0)).add(0.5).add(1.0).add(1.5).add(7.0)
    assert histogram.counts == (2, 1, 1)
    assert histogram.total == 10.0


def test_nothing_can_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        running().state = "failed"


def test_health_is_silent_while_frames_flow_and_a_mask_is_out():
    assert health(running(), 100.0, 30.0) == ""


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (running(state="starting"), "starting"),
        (running(state="failed", reason="ValueError: no"), "failed: ValueError: no"),
        (running(turned_at=20.0), "the worker has not turned for 80 s"),
        (with_module(fed_at=0.0), "no frame yet since the start 50 s ago"),
        (with_module(fed_at=60.0), "no frame for 40 s"),
        (with_module(judged=0), "no map judged yet for modules 3"),
    ],
)
def test_health_gives_the_reason(status, reason):
    assert health(status, 100.0, 30.0) == reason


def test_health_says_what_an_operator_has_to_do_when_nobody_names_the_exposure():
    status = replace(with_module(judged=0), exposure=Exposure(Illumination.UNKNOWN))
    assert "rmm-stream expose" in health(status, 100.0, 30.0)


def test_health_names_the_module_that_fell_silent():
    status = running()
    both = {3: status.modules[3], 8: replace(status.modules[3], module=8, fed_at=10.0)}
    assert health(replace(status, modules=both), 100.0, 30.0) == "no frame for 30 s from modules 8"


def test_a_source_known_to_be_away_ends_the_expectation_of_frames():
    assert running(sources=(SourceStatus("tcp://a:1"), SourceStatus("tcp://b:1", connected=True))).run_active
    assert not running(sources=(SourceStatus("tcp://a:1", connected=False),)).run_active
    assert not running(state="stopping").run_active


def test_the_assembled_mask_has_changes_in_place_and_no_data_elsewhere():
    mask = assemble(running(), 3)
    assert mask.flags.shape == (2, 2, 1, 3)
    assert mask.flags[1, 1].tolist() == [[EDGE, OFFSET, 0]]
    assert mask.flags[0, 0].tolist() == [[EDGE, NO_DATA, NO_DATA]]
    assert mask.judged.tolist() == [[0, 0], [0, int(BadPixel.OFFSET)]]
    assert mask.frames[1, 1] == 200
    assert mask.train_id == 77


def test_collapsed_equals_the_collapsed_assembled_mask():
    status = running()
    assert np.array_equal(collapsed(status, 3), assemble(status, 3).collapse())
    more = {
        3: dict(status.changes[3])
        | {
            MapKey(3, 0, 4): change(MapKey(3, 0, 4), [EDGE, 0, NOISE]),
            MapKey(3, 0, 5): change(MapKey(3, 0, 5), [EDGE | NO_DATA] * 3, judged=BadPixel(0)),
        }
    }
    status = replace(status, changes=more)
    assert collapsed(status, 3).tolist() == [[EDGE, OFFSET, NOISE]]
    assert np.array_equal(collapsed(status, 3), assemble(status, 3).collapse())


def test_without_a_judged_map_everything_is_no_data():
    status = running(changes={})
    assert collapsed(status, 3).tolist() == [[EDGE | NO_DATA, NO_DATA, NO_DATA]]
    assert np.array_equal(collapsed(status, 3), assemble(status, 3).collapse())


def test_pixels_are_counted_by_each_flag_they_carry():
    counts = bad_by_flag(np.array([[0, OFFSET, OFFSET | NOISE, 128]], np.uint8))
    assert counts["OFFSET"] == 2
    assert counts["NOISE"] == 1
    assert counts["USER"] == 1
    assert counts["EDGE"] == 0
    assert set(counts) == {flag.name for flag in BadPixel}


def test_the_description_is_plain_json():
    source = SourceStatus(
        "tcp://a:1", messages=2, malformed={"truncated": 1}, rejected={(3, "gated"): 4}, missed={3: 5},
        series={3: 1}, disconnects=2, resets=6,
    )  # fmt: skip
    status = with_module(suspected=12)
    status = replace(status, sources=(source,), exposure=Exposure(Illumination.DARK, 1), labelled_by="operator")
    found = json.loads(json.dumps(describe(status, 100.0, 30.0)))
    assert found["health"] == "ok"
    assert found["exposure"] == {"illumination": "dark", "gain_stage": 1}
    assert found["sources"][0]["rejected"] == [{"module": 3, "reason": "gated", "frames": 4}]
    assert found["sources"][0]["missed"] == {"3": 5}
    assert found["sources"][0]["series"] == {"3": 1}
    assert (found["sources"][0]["disconnects"], found["sources"][0]["resets"]) == (2, 6)
    assert (found["modules"][0]["frames"], found["modules"][0]["suspected"]) == (10, 12)


def test_the_latest_module_is_the_one_fed_last_whatever_its_train_says():
    older, latest = (
        ModuleStatus(n, 1, train_id=train, fed_at=at) for n, train, at in ((3, 2**63, 98.0), (4, 77, 99.0))
    )
    assert running(modules={3: older, 4: latest}).latest is latest


def test_a_pin_is_described():
    assert describe(running(pinned=12), 100.0, 30.0)["pinned"] == 12
    assert describe(running(), 100.0, 30.0)["pinned"] == 0


def test_drift_is_told_and_what_is_unknown_is_null():
    drift = ModuleDrift((0.12345, float("nan")), float("nan"), 16.0)
    (told,) = describe(with_module(drift=drift), 100.0, 30.0)["modules"]
    assert told["asic_drift_adu"] == [0.123, None]
    assert told["drift_adu_per_hour"] is None
    assert told["common_mode_adu"] == 16.0
