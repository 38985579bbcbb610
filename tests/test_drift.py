"""Drift: how far ASICs have moved, when that is believed, and what becomes of the dark statistics."""

from dataclasses import replace

import numpy as np
import pytest
from builders import TINY_SHIFTING
from hypothesis import given
from hypothesis import settings as settings_
from hypothesis import strategies as st
from makers import DARK0, FLAT0, SETTINGS, assert_same_darks, frames, maker
from msgspec import structs

from rmm_stream.config import CommonMode, Drift, Fit, Gate, Settings
from rmm_stream.detectors import DetectorSpec
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.mask import BadPixel, MapKey
from rmm_stream.rmm import MaskMaker
from rmm_stream.rmm.common_mode import UNKNOWN
from rmm_stream.rmm.drift import POINTS, RECENT, SUSPECTED, Moved, Track, _median, worst
from rmm_stream.rmm.drift import Drift as Tracks
from rmm_stream.rmm.keys import VALUES, DarkKey

#: Four ASICs, one memory cell, nothing removed.
QUAD = DetectorSpec(name="quad", modules=2, module_shape=(64, 64), asic_shape=(32, 32), bits=14)
NOISE, KEY = 3.0, DarkKey(0, VALUES, 0)
AUTO = Settings(Gate(), Fit(min_frames=200))
LEFT = structs.replace(AUTO, drift=Drift(replace="operator"))
REMOVED = structs.replace(AUTO, common_mode=CommonMode(remove="on"))


def darks(n, first=0, moved=0.0, coefficient=1.0, spec=QUAD, module=0, exposure=DARK0, rate=10.0, seed=0):
    """n darks. moved: (n,) ADU, or one number for all, or per ASIC (n, 4); times coefficient, (ss, fs)."""
    rng, fixed = np.random.default_rng([seed, first, module]), np.random.default_rng(3)
    values = 3000 + fixed.normal(0, 15, spec.module_shape) + rng.normal(0, NOISE, (n, *spec.module_shape))
    moved = np.broadcast_to(np.asarray(moved, float).reshape(-1, 1) if np.ndim(moved) == 1 else moved, (n, 4))
    image = np.repeat(np.repeat(moved.reshape(n, 2, 2), 32, axis=1), 32, axis=2)
    ids = np.arange(first, first + n, dtype=np.uint64)
    return FrameBatch(
        module, np.rint(values + image * coefficient).astype(np.uint16), None, np.zeros(n, np.uint16), ids,
        np.ones(n, bool), (first + n - 1) / rate, exposure, "config",
    )  # fmt: skip


def run(m, n, moved=lambda t: 0.0, first=0, step=20, **keywords):
    """Feed n darks, `step` at a time. moved: of their numbers. Returns the alarms that were seen, and refused frames."""
    said, refused = {}, 0
    for start in range(first, first + n, step):
        t = np.arange(start, start + step)
        refused += m.feed(darks(step, start, moved(t), **keywords)).rejected["gated"]
        said |= m.drift.alarms
    return said, refused


def flagged(m, stage=0, cell=0):
    """Pixels flagged now, beside the edges."""
    return int(((m.fit(MapKey(0, stage, cell)).flags != 0) & ~m.spec.edge()).sum())


# ---- one ASIC steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [AUTO, REMOVED], ids=["kept", "removed"])
def test_a_step_of_one_asic_flags_nothing_and_replaces_its_segment(settings):
    """20 ADU, seven times the noise, after 600 frames."""
    m = MaskMaker(QUAD, settings=settings)

    def step(t):
        moved = np.zeros((len(t), 4))
        moved[t >= 600, 2] = 20
        return moved

    said, refused = run(m, 600)
    before, offsets = m.dark[KEY], m.dark[KEY].moments(0).mean
    assert (said, refused, flagged(m)) == ({}, 0, 0)
    counts, alarms = [], {}
    for first in range(600, 1600, 100):
        more, gated = run(m, 100, step, first)
        refused += gated
        alarms |= more
        counts.append(flagged(m))
    assert refused < 10, "F1 sees the mean of the module, in which one ASIC is a few outliers"
    assert counts == [0] * 10
    (alarm,) = alarms.values()
    assert alarm.startswith("module 0, stage high: ASIC 2 has moved by +")
    assert 18 < float(alarm.split("by +")[1].split()[0]) < 22
    assert alarm.endswith("its dark statistics have been started afresh")
    assert m.dark[KEY] is not before
    assert not m.segments.old_dark, "the successor speaks"
    assert m.drift.alarms == {}, "and all is right again"
    here = np.s_[32:, :32]
    gone = m.dark[KEY].moments(0).mean - offsets
    assert np.median(gone[here]) == pytest.approx(20, abs=0.5)
    gone[here] = 0
    assert np.abs(np.median(gone)) < 0.3


def test_a_step_of_a_module_does_not_lock_f1_for_good():
    m = MaskMaker(QUAD, settings=AUTO)
    run(m, 600)
    before = m.dark[KEY]
    said, refused = run(m, 1600, lambda t: np.full(len(t), 20.0), 600)
    assert 0 < refused <= AUTO.gate.history
    assert said
    assert m.dark[KEY] is not before
    assert flagged(m) == 0
    assert np.median(m.dark[KEY].moments(0).mean) == pytest.approx(3020, abs=1)


def test_an_operator_may_decide():
    m = MaskMaker(QUAD, settings=LEFT)
    run(m, 600)
    before = m.dark[KEY]
    run(m, 1000, lambda t: np.tile([0, 0, 0, -20.0], (len(t), 1)), 600)
    assert m.dark[KEY] is before
    (alarm,) = m.drift.alarms.values()
    assert "ASIC 3 has moved by -" in alarm
    assert "seen since 1970-01-01 00:01:" in alarm, "600 frames at 10 Hz, and the look at them"
    assert alarm.endswith("rmm-stream expose ENDPOINT dark --new")
    m.restart(Exposure(Illumination.DARK))
    assert m.drift.alarms == {}
    assert m.dark == {}


def test_an_alarm_goes_when_the_asic_comes_back():
    m = MaskMaker(QUAD, settings=LEFT)
    run(m, 600)
    run(m, 1000, lambda t: np.tile([0, 0, 0, -20.0], (len(t), 1)), 600)
    assert m.drift.alarms
    run(m, 600, first=1600)
    assert not m.drift.alarms


# ---- warm-up ---------------------------------------------------------------------------------------------------------------


def warm_up(t):
    """100 ADU, 33 times the noise, in 4000 frames."""
    return np.minimum(t, 4000) * (100 / 4000)


@pytest.mark.parametrize(("settings", "least", "most"), [(LEFT, 150, 400), (AUTO, 0, 0)], ids=["naive", "replaced"])
def test_a_warm_up_flags_good_pixels_unless_segments_are_replaced(settings, least, most):
    """One pixel in 20 follows the temperature 10 % more than the others: 192 of the 3844 pixels that are no edge."""
    m = MaskMaker(QUAD, settings=settings)
    coefficient = np.where(np.random.default_rng(1).random(QUAD.module_shape) < 0.05, 1.10, 1.0)
    counts, replaced, was = [], 0, None
    for first in range(0, 4400, 200):
        run(m, 200, warm_up, first, coefficient=coefficient)
        counts.append(flagged(m))
        replaced += m.dark.get(KEY) is not was
        was = m.dark.get(KEY)
    assert least <= counts[-1] <= most
    assert max(counts) <= most
    assert replaced > 3 if settings is AUTO else replaced == 1


def test_a_temperature_step_flags_nobody():
    """30 ADU within 50 frames, pixels as above; looked at every 40 frames. Naive statistics flag most of those for good."""
    coefficient = np.where(np.random.default_rng(1).random(QUAD.module_shape) < 0.05, 1.10, 1.0)
    found = {}
    for name, settings in (("naive", LEFT), ("replaced", AUTO)):
        m = MaskMaker(QUAD, settings=settings)
        counts = []
        for first in range(0, 2000, 40):
            run(m, 40, lambda t: np.clip((t - 600) / 50, 0, 1) * 30, first, coefficient=coefficient)
            counts.append(flagged(m))
        found[name] = max(counts)
    assert found["naive"] > 150
    assert found["replaced"] == 0


def test_random_walks_and_common_mode_are_no_drift():
    """Shifts of 10 ADU in every frame, 3 ADU of noise, 4000 frames: nothing is replaced by chance."""
    for settings in (AUTO, REMOVED):
        m, rng = MaskMaker(QUAD, settings=settings), np.random.default_rng(8)
        said, _ = run(m, 4000, lambda t, rng=rng: rng.normal(0, 10, (len(t), 4)), step=100)
        assert said == {}
        assert m.drift.of_module(0).common_mode == pytest.approx(10, rel=0.1)


# ---- segments --------------------------------------------------------------------------------------------------------------


def test_one_dark_in_a_hundred_keeps_one_segment_alive():
    m = MaskMaker(QUAD, settings=AUTO)
    run(m, 300)
    before = m.dark[KEY]
    for k in range(40):
        m.feed(darks(1, 300 + k))
        m.feed(darks(9, 10_000 + 9 * k, exposure=FLAT0))
    assert m.dark[KEY] is before
    assert before.frames[0] == 340


def test_only_the_module_and_stage_that_moved_is_replaced():
    m = MaskMaker(QUAD, (0, 1), settings=AUTO)
    for module in (0, 1):
        run(m, 600, module=module)
    before = dict(m.dark)
    said, _ = run(m, 1000, lambda t: np.tile([20.0, 0, 0, 0], (len(t), 1)), 600, module=1)
    assert list(said) == [(1, 0)]
    assert m.dark[KEY] is before[KEY]
    assert m.dark[DarkKey(1, VALUES, 0)] is not before[DarkKey(1, VALUES, 0)]


def test_what_is_known_survives_a_restart_and_goes_on_identically():
    m = MaskMaker(QUAD, settings=AUTO)
    run(m, 700, lambda t: np.where(t < 600, 0.0, 20.0))
    kept = MaskMaker.restore({name: a.copy() for name, a in m.state().items()})
    for one in (m, kept):
        run(one, 1200, lambda t: np.full(len(t), 20.0), 700)
    assert m.state().keys() == kept.state().keys()
    assert all(np.array_equal(a, kept.state()[name], equal_nan=a.dtype.kind == "f") for name, a in m.state().items())
    assert m.drift.of_module(0) == kept.drift.of_module(0)


def test_a_suspicion_that_passes_leaves_the_sums_of_one_segment():
    """An ASIC that is off for 60 frames: its frames go to a segment of their own meanwhile; then all are joined, to the bit."""
    m, whole = MaskMaker(QUAD, settings=REMOVED), MaskMaker(QUAD, settings=structs.replace(REMOVED, drift=LEFT.drift))
    parted = []
    for first in range(0, 1000, 20):
        moved = np.tile([0, 20.0 if 600 <= first < 660 else 0, 0, 0], (20, 1))
        for one in (m, whole):
            one.feed(darks(20, first, moved))
        parted.append(bool(m.segments.parted))
    assert any(parted)
    assert not parted[-1]
    assert m.drift.alarms == {}
    assert_same_darks(m, whole)


def test_a_request_ends_a_suspicion():
    m = MaskMaker(QUAD, settings=REMOVED)
    run(m, 600)
    run(m, 60, lambda t: np.tile([20.0, 0, 0, 0], (len(t), 1)), 600)
    assert m.segments.parted == {(0, 0)}
    m.restart(Exposure(Illumination.DARK))
    assert m.segments.parted == set()
    assert list(m.segments.old_dark) == [KEY], "it speaks on"
    run(m, 240, first=700)
    assert m.segments.old_dark == {}


# ---- the numbers -----------------------------------------------------------------------------------------------------------


def test_trend_is_that_of_the_run_whatever_is_replaced():
    """25 ADU in 1000 frames of a tenth of a second are 900 ADU an hour."""
    m = MaskMaker(QUAD, settings=AUTO)
    run(m, 4000, warm_up)
    assert m.drift.of_module(0).per_hour == pytest.approx(900, rel=0.1)
    assert np.nan_to_num(np.abs(m.drift.of_module(0).asic_drift)).max() < 25, "of the segment: little, or not known yet"
    naive = MaskMaker(QUAD, settings=LEFT)
    run(naive, 4000, warm_up)
    assert naive.drift.of_module(0).asic_drift == pytest.approx([95] * 4, abs=6)
    assert naive.drift.of_module(0).per_hour == pytest.approx(900, rel=0.1)


def test_course_of_a_long_run_is_thinned_and_keeps_its_ends():
    track = Track(1, 2, 1, 8, 8)
    track.note(np.array([0]), np.array([[100, 200]], np.int32))
    for n in range(5000):
        track.note(np.array([0]), np.array([[100 + n, 200 - n]], np.int32))
        if track.due:
            track.look(0.5, lambda cell: np.array([3.0, 3.0]), float(n))
    times = track.course[: int(track.pace[0]), 0]
    assert POINTS // 2 <= len(times) <= POINTS
    assert times[0] < 100
    assert times[-1] > 4500
    assert track.per_hour() == pytest.approx([3600, -3600], rel=0.02)


def test_asics_without_data_are_unknown_and_nobody_elses_business():
    track = Track(3, 2, 1, 8, 8)
    levels = np.array([[100, UNKNOWN], [120, UNKNOWN], [90, UNKNOWN]], np.int32)
    for _ in range(40):
        track.note(np.arange(3), levels)
    assert track.due
    assert track.look(0.5, lambda cell: np.array([3.0, np.nan]), 1.0).tolist() == []
    assert track.now[0] == 0
    assert np.isnan(track.now[1])
    assert track.common_mode() == 0
    assert np.isnan(Track(1, 2, 1, 8, 8).common_mode())
    assert track.recent.shape == (RECENT, 2)


@pytest.mark.parametrize("cells", [1, 100])
def test_cells_of_a_train_that_move_together_are_no_drift(cells):
    """Trains differ by 4 ADU, all cells of a train alike: of 9000 nothing is confirmed, and hardly anything suspected."""
    suspected = 0
    for seed in range(30):
        drift = Tracks(QUAD, AUTO, range(cells), 32, lambda *key: np.full(4, 3.0))
        rng, k = np.random.default_rng(seed), max(1, cells // 4)
        for n in range(300):
            at = (np.arange(k) + k * n) % cells
            train = rng.normal(3000, 4, (1, 4)) + rng.normal(0, 0.3, (k, 4))
            drift.note(0, 0, at, np.rint(train).astype(np.int32), float(n))
            news = drift.news()
            assert not any(isinstance(what, Moved) for what in news.values())
            suspected += SUSPECTED in news.values()
    assert suspected <= 5


@settings_(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_medians_of_what_is_known(seed, n):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 5, (n, 4)).astype(float)
    rows[rng.random(rows.shape) < 0.4] = np.nan
    expected = [np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in rows.T]
    np.testing.assert_array_equal(_median(rows), expected)


def test_memory_cells_are_joined():
    """100 cells, of which each says little: a step shows after few frames of each."""
    drift = Tracks(QUAD, AUTO, range(100), 16, lambda *key: np.full(4, 3.0))
    rng, cells = np.random.default_rng(0), np.arange(100)
    base, seen = rng.integers(2000, 4000, (100, 4)), {}
    for n in range(60):  # trains that are measured: 16 * 60 frames of each cell
        shift = np.array([0, 0, 2 if n >= 20 else 0, 0])
        drift.note(0, 0, cells, np.rint(base + shift + rng.normal(0, 0.3, (100, 4))).astype(np.int32), float(n))
        seen |= {key: news for key, news in drift.news().items() if news != SUSPECTED}
    ((key, moved),) = seen.items()
    assert key == (0, 0)
    assert (moved.module, moved.gain_stage, moved.asic) == (0, 0, 2)
    assert moved.by == pytest.approx(2, abs=0.3)
    assert drift.news() == {}


def test_workers_are_joined_by_the_worst():
    m = MaskMaker(QUAD, settings=LEFT)
    run(m, 600)
    still = m.drift.of_module(0)
    run(m, 600, lambda t: np.tile([0, -9.0, 0, 0], (len(t), 1)), 600)
    moved = m.drift.of_module(0)
    assert worst([still, moved]).asic_drift[1] == moved.asic_drift[1] < -7
    assert worst([still, m.drift.of_module(1)]).asic_drift == still.asic_drift
    assert np.isnan(worst([]).per_hour)


def test_a_maker_of_other_values_watches_nothing():
    counting = replace(QUAD, counting=True)
    m = MaskMaker(counting, settings=AUTO)
    run(m, 300, spec=counting)
    assert m.drift.tracks == {}
    assert m.drift.of_module(0).asic_drift == ()


def test_a_detector_with_cells_and_shifts_is_watched_in_every_frame():
    m = maker(TINY_SHIFTING, settings=structs.replace(SETTINGS, drift=Drift(confirm_frames=40)))
    m.feed(frames(TINY_SHIFTING, 60, DARK0))
    moved = frames(TINY_SHIFTING, 300, DARK0, train=5000)
    moved.pixels[:, 32:] += np.uint16(9)
    m.feed(moved)
    assert m.dark[KEY].frames.max() < 300, "replaced"
    assert m.flags == {}
    for cell in range(3):
        assert not (m.fit(MapKey(0, 0, cell)).flags & np.uint8(BadPixel.OFFSET | BadPixel.NOISE))[~m.spec.edge()].any()
