"""The worker: one owner, one message at a time, from memory to memory. No sockets; a thread only where it is the subject."""

import queue
from collections import Counter
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from builders import DARK, NOW, TINY, make_batch
from msgspec import structs

from rmm_stream.config import ExposureSettings, Features, Fit, Gate, LightSettings, Lit, Settings, parse
from rmm_stream.errors import DataError
from rmm_stream.exposure import ExposureLabeler
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.live import sampling
from rmm_stream.live import worker as worker_file
from rmm_stream.live.crew import Lane
from rmm_stream.live.prepare import prepare
from rmm_stream.live.receiver import Receiver
from rmm_stream.live.requests import Accept, Pin, Reject, Release, Restore
from rmm_stream.live.status import NOBODY_SAYS, ModuleStatus, Status, describe
from rmm_stream.live.worker import Expose, Worker, select
from rmm_stream.mask import BadPixel, MapFit, MapKey
from rmm_stream.policy import MaskPolicy
from rmm_stream.policy.overlay import overlay
from rmm_stream.rmm import MaskMaker
from rmm_stream.rmm.drift import ModuleDrift
from rmm_stream.sources.tally import Tally

FRAMES = 24
FLAT = Exposure(Illumination.FLAT, None)


class FakeMaker:
    """Accepts everything; says what is due."""

    def __init__(self, due=()):
        self.fed, self.restarted, self.fits, self.folded = [], [], list(due), 0
        self.segments, self.lit, self.every_train = SimpleNamespace(dark={}), {}, 1
        self.light, self.relabelled = None, Counter()
        self.drift = SimpleNamespace(alarms={}, of_module=lambda module: ModuleDrift(common_mode=2.5))

    def feed(self, batch):
        self.fed.append(batch)
        return len(batch), Counter()

    def fold(self):
        self.folded += 1

    def due(self, since=0.0):
        return [fit.key for fit in self.fits if fit.timestamp >= since]

    def refresh(self, key):
        n = next(n for n, fit in enumerate(self.fits) if fit.key == key)
        return self.fits.pop(n)

    def fit_all(self):
        fits, self.fits = self.fits, []
        return fits

    def restart(self, exposure):
        self.restarted.append(exposure)


def fit_of(cell: int, bad: int = 0, module: int = 0) -> MapFit:
    flags = np.zeros(TINY.module_shape, np.uint8)
    flags[10, 10 : 10 + bad] = BadPixel.OFFSET
    return MapFit(MapKey(module, 0, cell), flags, flags, BadPixel.OFFSET, 200, 1000, NOW)


def make(maker=None, cells=range(3), modules=(0,), clock=lambda: NOW + 1.0, default=None, lit=Lit()):
    """(worker, list of published changes). default: the exposure of the configuration."""
    overlays = {module: overlay(TINY) for module in modules}
    status = Status(
        "tiny", 2, cells, {m: ModuleStatus(m, 2 * len(cells)) for m in modules}, overlay=overlays, state="running"
    )
    published = []
    labeler = ExposureLabeler(*([] if default is None else [default]))
    policy = MaskPolicy(TINY, overlays, cells)
    return (
        Worker(
            maker or FakeMaker(),
            policy,
            labeler,
            status,
            published.append,
            queue.Queue(4),
            queue.SimpleQueue(),
            clock,
            lit,
        ),
        published,
    )


def put(worker: Worker, *batches) -> None:
    worker.frames.put(list(batches))


def ask(worker: Worker, *request) -> None:
    worker.requests.put(Expose(*request))


# Whose frames ---------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_all_ours_is_not_copied():
    batch = make_batch()
    assert select(batch, range(3)) is batch


def test_neighbouring_cells_are_a_view():
    batch = make_batch(n=6)  # cells 0 1 2 0 1 2
    mine = select(make_batch(), range(1, 3))
    assert mine.cell.tolist() == [1, 2]
    assert mine.pixels.base is not None
    scattered = select(batch, range(1, 2))
    assert scattered.cell.tolist() == [1, 1]
    assert np.array_equal(scattered.pixels, batch.pixels[[1, 4]])
    assert np.array_equal(scattered.gain, batch.gain[[1, 4]])
    assert len(scattered.train_id) == len(scattered.complete) == 2


def test_frames_of_others_are_neither_fed_nor_counted():
    maker = FakeMaker()
    worker, _ = make(maker, cells=range(1, 2))
    put(worker, make_batch(module=1), make_batch(cell=[0, 2, 0]), make_batch())
    worker.step()
    assert [batch.cell.tolist() for batch in maker.fed] == [[1]]
    assert worker.status.modules[0].frames == 1
    assert worker.status.modules[0].rejected == {}


def test_suspected_signal_is_counted_over_the_last_fit_of_each_map_whether_the_flags_changed_or_not():
    def fit(cell, suspected):
        held_back = np.zeros(TINY.module_shape, bool)
        held_back[20, :suspected] = True
        return replace(fit_of(cell), suspected=held_back)

    maker = FakeMaker([fit(0, 4), fit(1, 3), fit(0, 1), fit_of(2)])
    worker, _ = make(maker)
    counts = []
    for _ in range(4):
        worker._judge([maker.fits.pop(0)], 0.1)
        worker._report()
        counts.append(worker.status.modules[0].suspected)
    assert counts == [4, 7, 4, 4]


# Accounts -------------------------------------------------------------------------------------------------------------


def test_an_empty_step_does_nothing_but_turn():
    worker, _ = make()
    assert worker.step() is False
    assert worker.status.turns == 1


def test_what_was_fed_is_in_the_status():
    worker, _ = make(default=DARK)
    batch = make_batch()
    put(worker, batch)
    assert worker.step() is True
    module = worker.status.modules[0]
    assert (module.frames, module.accepted, module.train_id) == (3, 3, 1000)
    assert module.nbytes == batch.pixels.nbytes + batch.gain.nbytes
    assert module.fed_at == NOW + 1.0
    assert module.frame_age.total == pytest.approx(1.0)
    assert worker.status.exposure == DARK
    assert worker.status.labelled_by == "config"


def test_the_status_is_replaced_and_never_changed():
    worker, _ = make(FakeMaker([fit_of(0, 2)]))
    before = worker.status
    put(worker, make_batch())
    worker.step()
    assert before.frames == 0
    assert before.changes == {}
    assert worker.status is not before


def test_frames_that_nobody_can_place_are_counted_and_fed_to_nothing():
    maker = MaskMaker(TINY, [0])
    worker, _ = make(maker)
    put(worker, make_batch())
    worker.step()
    assert worker.status.modules[0].rejected == {"unknown_exposure": 3}
    assert worker.status.alarms == (NOBODY_SAYS,)
    assert worker.status.modules[0].accepted == 0


def test_frames_that_contradict_the_detector_do_not_end_the_worker():
    maker = FakeMaker()
    worker, _ = make(maker)
    good = maker.feed
    maker.feed = lambda batch: (_ for _ in ()).throw(DataError("frames of (1, 1) pixels"))
    put(worker, make_batch())
    worker.step()
    maker.feed = good
    put(worker, make_batch(train_id=1001))
    worker.step()
    assert worker.status.modules[0].rejected == {"shape": 3}
    assert worker.status.modules[0].accepted == 3


# Requests -------------------------------------------------------------------------------------------------------------


def test_the_operators_word_is_in_force_from_the_next_message_on():
    maker = FakeMaker()
    worker, _ = make(maker, default=DARK)
    put(worker, make_batch())
    ask(worker, FLAT)
    worker.step()
    assert [batch.exposure for batch in maker.fed] == [FLAT]
    assert worker.status.labelled_by == "operator"


def test_new_starts_the_statistics_afresh_and_without_it_they_go_on():
    maker = FakeMaker()
    worker, _ = make(maker)
    ask(worker, FLAT)
    ask(worker, DARK, True)
    assert worker.step() is True
    assert maker.restarted == [DARK]


@pytest.mark.parametrize(("override", "expected"), [(False, DARK), (True, FLAT)])
def test_a_contradiction_is_shown_and_decided_by_override(override, expected):
    maker = FakeMaker()
    worker, _ = make(maker)
    ask(worker, FLAT, False, override)
    put(worker, make_batch(exposure=DARK))
    worker.step()
    assert maker.fed[0].exposure == expected
    assert worker.status.contradictions == 1
    decided = "operator" if override else "stream"
    said = f"the stream says dark, stage 0; the operator says flat; in force is the word of the {decided}"
    assert worker.status.alarms == (said,)


@pytest.mark.parametrize(
    ("override", "expected"), [(False, (DARK, "config")), (True, (Exposure(Illumination.UNKNOWN), "operator"))]
)
def test_unknown_takes_the_operators_word_back_unless_it_overrides(override, expected, caplog):
    caplog.set_level("INFO")
    maker = FakeMaker()
    worker, _ = make(maker, default=DARK)
    ask(worker, FLAT)
    ask(worker, Exposure(Illumination.UNKNOWN), not override, override)
    put(worker, make_batch())
    worker.step()
    assert (worker.status.exposure, worker.status.labelled_by) == expected
    assert maker.restarted == []
    said = "unknown, over the stream's word" if override else "nothing any more"
    assert caplog.messages[:2] == ["the operator says: flat", f"the operator says: {said}"]


def test_the_last_train_is_that_of_the_latest_frames():
    worker, _ = make()
    for train in (2**63 - 1, 7):
        worker.feed([make_batch(train_id=train)])
    assert worker._modules[0].train_id == 7
    mixed = make_batch(n=3)
    worker.feed([replace(mixed, train_id=np.array([8, 2**63 - 1, 9], np.uint64))])
    assert worker._modules[0].train_id == 9


def test_the_end_of_an_exposure_is_noted():
    worker, _ = make()
    for exposure in (DARK, DARK, FLAT, FLAT):
        put(worker, make_batch(exposure=exposure))
        worker.step()
    assert worker.status.exposures_ended == 1


# Light ----------------------------------------------------------------------------------------------------------------

SAMPLE0, UNKNOWN0 = (Exposure(illumination, 0) for illumination in (Illumination.SAMPLE, Illumination.UNKNOWN))


def classifying(mode: str):
    """A worker whose maker tells dark from lit frames, and has seen 130 darks of each cell."""
    settings = Settings(Gate(learn=20), Fit(min_frames=FRAMES), light=LightSettings(mode, guard_frames=0))
    settings = structs.replace(settings, features=Features(lit=Lit(every_train=1)))
    worker, _ = make(MaskMaker(TINY, [0], settings=settings), default=UNKNOWN0, lit=Lit(every_train=1))
    worker.feed([make_batch(n=390, exposure=DARK, train_id=1)])
    return worker


def trains(worker, n, offset, exposure=SAMPLE0, first=1000):
    for train in range(first, first + n):
        worker.feed([make_batch(train_id=train, offset=offset, exposure=exposure)])
    worker.step()
    return worker.status.modules[0]


def test_a_beam_trip_is_counted_and_the_operator_is_told_until_the_beam_is_back():
    worker = classifying("check")
    assert trains(worker, 10, 1300).light == "dark frames are told"
    assert worker.status.alarms == ()
    module = trains(worker, 10, 1000, first=2000)
    assert module.rejected == {"no_light": 30}
    (alarm,) = worker.status.alarms
    assert alarm.startswith("module 0: 30 frames without light while sample is declared, none of them used")
    assert "expose ENDPOINT sample --new" in alarm
    module = trains(worker, 1, 1300, first=3000)
    assert worker.status.alarms == ()
    assert module.labelled == {("dark", "stream"): 390, ("sample", "stream"): 63}


def test_an_open_shutter_in_the_dark_is_told():
    worker = classifying("check")
    module = trains(worker, 10, 1300, DARK)
    assert module.rejected == {"light": 30}
    assert module.light == "lit frames are told"
    assert worker.status.alarms[0].startswith("module 0: 30 frames with light while dark is declared")


def test_the_status_says_who_labelled_how_many_frames_as_what():
    worker = classifying("label")
    ask(worker, SAMPLE0)
    ask(worker, Exposure(Illumination.UNKNOWN))
    worker.step()
    for train in range(20):
        worker.feed([make_batch(train_id=1000 + train, offset=1300), make_batch(train_id=3000 + train)])
    worker.step()
    labelled = worker.status.modules[0].labelled
    told = describe(worker.status, NOW, 10.0)["modules"][0]["labelled"]
    assert {(d["illumination"], d["by"]): d["frames"] for d in told} == labelled
    silent = 18  # of each: nothing is said until 20 frames have looked lit
    assert labelled == {
        ("dark", "stream"): 390, ("unknown", "config"): 2 * silent, ("sample", "classifier"): 60 - silent,
        ("dark", "classifier"): 60 - silent,
    }  # fmt: skip
    assert worker.status.alarms == ()


def test_an_override_goes_before_what_frames_look_like():
    worker = classifying("label")
    trains(worker, 10, 1300)
    ask(worker, SAMPLE0, False, True)
    worker.step()
    module = trains(worker, 10, 1000, DARK, first=2000)
    assert module.rejected == {"no_light": 30}
    assert module.labelled["sample", "operator"] == 30


# Fits -----------------------------------------------------------------------------------------------------------------


def test_a_change_is_published_and_stands_in_the_status():
    worker, published = make(FakeMaker([fit_of(0, bad=2)]))
    put(worker, make_batch())
    worker.step()
    (change,) = published
    assert change.newly_bad == 2
    module = worker.status.modules[0]
    assert (module.judged, module.changed, module.serial, module.published_at) == (1, 2, 1, NOW + 1.0)
    assert sum(module.fit_seconds.counts) == 1
    assert worker.status.changes[0][change.key] is change


def test_a_fit_that_says_nothing_new_is_not_published():
    worker, published = make(FakeMaker([fit_of(0, bad=2), fit_of(0, bad=2)]))
    put(worker, make_batch())
    worker.step()
    assert len(published) == 1
    assert sum(worker.status.modules[0].fit_seconds.counts) == 2
    assert worker.status.modules[0].serial == 1


def test_nothing_is_fitted_without_news():
    worker, _ = make(FakeMaker([fit_of(0)]))
    worker.step()
    assert worker._maker.fits


def test_after_a_message_fits_get_a_small_share_of_the_time_and_in_a_pause_all_of_it():
    ticks = count()
    maker = FakeMaker([fit_of(cell % 3, bad=cell) for cell in range(20)])
    worker, _ = make(maker, clock=lambda: next(ticks) * 0.02)
    put(worker, make_batch())
    worker.step()
    busy = 20 - len(maker.fits)
    assert 1 <= busy <= 2, "the next train is on its way"
    worker.step()
    assert len(maker.fits) == 0 or 20 - len(maker.fits) - busy > 2 * busy, "none came: fits have the time"


def test_after_a_message_only_what_has_just_changed_is_fitted_and_in_a_pause_the_rest():
    """So that a change is out soon after the frames that made it, however many maps are due."""
    old = replace(fit_of(1, bad=1), timestamp=NOW - 1.0)
    worker, published = make(FakeMaker([old, fit_of(0, bad=1)]))
    put(worker, make_batch(timestamp=NOW))
    worker.step()
    assert [change.key.cell for change in published] == [0]
    worker.step()
    assert [change.key.cell for change in published] == [0, 1]


def test_frames_that_wait_for_their_block_are_folded_when_no_more_come(monkeypatch):
    monkeypatch.setattr(worker_file, "PAUSE_S", 0.0)
    maker = FakeMaker()
    worker, published = make(maker)
    put(worker, make_batch())
    worker.step()
    assert maker.folded == 0
    maker.fits = [fit_of(0, bad=1)]
    assert worker.step(), "a pause"
    worker.step()
    assert (maker.folded, len(published)) == (1, 1), "once"


def test_when_trains_wait_f6_judges_fewer_of_them_and_more_again_later():
    maker = FakeMaker()
    worker, _ = make(maker)
    for train in range(4):
        put(worker, make_batch(train_id=train))
    worker.step()
    assert worker.status.every_train == maker.every_train == 8, "three of four places are taken"
    for _ in range(3):
        worker.step()
    assert maker.every_train == 8
    for train in range(sampling.PATIENCE):
        put(worker, make_batch(train_id=10 + train))
        worker.step()
    assert maker.every_train == 4
    keep, _ = make(FakeMaker(), lit=Lit(when_late="keep"))
    for train in range(4):
        put(keep, make_batch(train_id=train))
    keep.step()
    assert keep.status.every_train == 4


def test_finish_folds_what_waits_and_fits_every_map():
    maker = FakeMaker()
    worker, published = make(maker)
    for train in range(3):
        put(worker, make_batch(train_id=train))
    maker.fits = [fit_of(cell, bad=1) for cell in range(3)]
    maker.due = lambda since=0.0: []
    worker.finish()
    assert [int(batch.train_id[0]) for batch in maker.fed] == [0, 1, 2]
    assert len(published) == 3
    assert worker.status.modules[0].judged == 3


def test_with_the_real_maker_a_planted_defect_is_published():
    settings = Settings(gate=Gate(learn=20), fit=Fit(min_frames=FRAMES, tile=(32, 32)))
    worker, published = make(MaskMaker(TINY, [0], settings=settings), default=DARK)
    for train in range(FRAMES):
        batch = make_batch(train_id=train, timestamp=NOW + 0.1 * train)
        batch.pixels[:, 20, 7] += 2000
        put(worker, batch)
        worker.step()
    worker.finish()
    judged = {change.key.cell: change for change in published}
    assert set(judged) == {0, 1, 2}
    for change in judged.values():
        assert change.flags[20, 7] & BadPixel.OFFSET
        assert change.train_id == FRAMES - 1
    assert worker.status.modules[0].judged == 3
    assert worker.status.memory["dark_value"] > 0


# The thread -----------------------------------------------------------------------------------------------------------


def test_the_thread_ends_as_asked_after_its_last_fit():
    maker = FakeMaker()
    worker, published = make(maker)
    put(worker, make_batch())
    maker.fit_all = lambda: [fit_of(0, bad=1)]
    worker.start()
    worker.stop()
    assert worker.join(10.0)
    assert len(maker.fed) == 1
    assert len(published) == 1
    assert worker.status.state == "stopped"


def test_an_error_ends_the_thread_and_the_status_says_why(caplog):
    maker = FakeMaker()
    maker.feed = lambda batch: (_ for _ in ()).throw(ValueError("no such thing"))
    worker, _ = make(maker)
    put(worker, make_batch())
    worker.start()
    assert worker.join(10.0)
    assert isinstance(worker.error, ValueError)
    assert (worker.status.state, worker.status.reason) == ("failed", "ValueError: no such thing")


def test_an_abandoned_worker_publishes_nothing_more():
    maker = FakeMaker()
    worker, published = make(maker)
    maker.fit_all = lambda: [fit_of(0, bad=1)]
    worker.abandon()
    worker.start()
    assert worker.join(10.0)
    assert published == []


# The queue ------------------------------------------------------------------------------------------------------------


class Still:
    """A source that never brings anything."""

    def __init__(self):
        self.tally = Tally(
            rejected=Counter({(0, "duplicate"): 1}),
            missed=Counter({0: 5}),
            series=Counter({0: 1}),
            disconnects=2,
            resets=3,
        )
        self.connected, self.closed = False, False

    def receive(self, timeout_s):
        return []

    def close(self):
        self.closed = True


def test_a_full_queue_drops_the_oldest_and_counts_its_frames():
    frames = queue.Queue(2)
    receiver = Receiver(Still(), [Lane(frames, range(3))], "drop-oldest", "tcp://a:1")
    for train in range(5):
        receiver.hand_on([make_batch(train_id=train), make_batch(module=1, train_id=train)])
    waiting = [frames.get_nowait()[0].train_id[0] for _ in range(2)]
    assert waiting == [3, 4]
    assert receiver.status().rejected == {(0, "queue_full"): 9, (1, "queue_full"): 9, (0, "duplicate"): 1}


def test_what_the_source_lost_is_in_its_status():
    status = Receiver(Still(), [Lane(queue.Queue(1), range(3))], "block", "tcp://a:1").status()
    assert (status.missed, status.series, status.disconnects, status.resets) == ({0: 5}, {0: 1}, 2, 3)


def test_a_blocking_queue_loses_nothing():
    frames = queue.Queue(1)
    receiver = Receiver(Still(), [Lane(frames, range(3))], "block", "tcp://a:1")
    receiver.hand_on([make_batch(train_id=0)])
    taken = []
    put, frames.put = frames.put, lambda item, block, timeout: taken.append(frames.get()) or put(item, block, timeout)
    receiver.hand_on([make_batch(train_id=1)])
    assert taken[0][0].train_id[0] == 0
    assert frames.get_nowait()[0].train_id[0] == 1
    assert (0, "queue_full") not in receiver.status().rejected


def test_a_receiver_closes_its_source_whether_it_ran_or_not():
    source = Still()
    receiver = Receiver(source, [Lane(queue.Queue(1), range(3))], "block", "tcp://a:1")
    assert receiver.join(1.0)
    assert source.closed
    source = Still()
    receiver = Receiver(source, [Lane(queue.Queue(1), range(3))], "block", "tcp://a:1")
    receiver.start()
    receiver.stop()
    assert receiver.join(10.0)
    assert source.closed


# What it starts from --------------------------------------------------------------------------------------------------


def test_a_configuration_becomes_parts_that_fit_together(tmp_path):
    config = parse(
        f"""
        [detector]
        name = "tiny"
        modules = 2
        module_shape = [64, 32]
        asic_shape = [32, 32]
        cells = 3
        [shards]
        modules = [1]
        cells = [1, 2]
        [exposure]
        default = "dark"
        [store]
        mask_file = "{tmp_path}/mask.h5"
        """
    )
    parts = prepare(config)
    assert [shard.name for shard in parts.shards] == ["m01-c001-002"]
    (own,) = parts.workers
    assert own.status.modules == {1: ModuleStatus(1, maps=2)}
    assert own.labeler.current.exposure == ExposureSettings(default="dark").default_exposure
    assert replace(own.status, overlay={}).cells == range(1, 3)


def test_a_held_jump_is_on_the_status_and_says_what_to_do():
    w, published = make(FakeMaker([fit_of(0), fit_of(1)]))
    w._news = True
    w.step()
    w._maker.fits, w._news = [replace(fit_of(0, bad=12), flags=half_bad()), fit_of(1, bad=1)], True
    w.step()
    assert [change.newly_bad for change in published] == [0, 0, 1]
    assert w.status.modules[0].held == 1
    (alarm,) = w.status.alarms
    assert alarm.startswith(
        "module 0, gain stage 0, cell 0: held since train 1000, the last mask stays: 900 of 1,800 pixels would turn bad"
    )
    assert "rmm-stream accept" in alarm
    w._maker.fits, w._news = [fit_of(0)], True
    w.step()
    assert (w.status.modules[0].held, w.status.alarms) == (0, ())


def half_bad():
    flags = np.zeros(TINY.module_shape, np.uint8)
    flags[:32] = BadPixel.OFFSET
    return flags


# What operators ask ---------------------------------------------------------------------------------------------------


class AskedPolicy(MaskPolicy):
    """Notes which maps it is asked about."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    def accept(self, where):
        keys = [MapKey(module, stage, cell) for module in (0, 1) for stage in (0, 1) for cell in self.cells]
        self.asked.append([key for key in keys if where(key)])
        return [change] if (change := self.judge(fit_of(1, bad=2))) else []

    def reject(self, where):
        return [MapKey(0, 0, 2)] if where(MapKey(0, 0, 2)) else []


def test_accept_and_reject_ask_the_policy_and_publish_what_it_lets_out(caplog):
    caplog.set_level("INFO")
    worker, published = make(modules=(0, 1))
    worker._policy = policy = AskedPolicy(TINY)
    for place in ((), (1, None, 2)):
        worker.requests.put(Accept(*place))
    worker.requests.put(Reject(cell=2))
    worker.step()
    assert [len(keys) for keys in policy.asked] == [12, 2]
    assert policy.asked[1] == [MapKey(1, 0, 2), MapKey(1, 1, 2)]
    assert [change.newly_bad for change in published] == [2]
    assert worker.status.changes[0][MapKey(0, 0, 1)] is published[0]
    assert "accept what is held of module 1, cell 2" in caplog.text
    assert "reject what is held of cell 2: 1 maps dismissed, 0 maps published" in caplog.text


def test_a_pin_is_out_before_the_next_frame_counts_and_shows_until_release():
    before, stored = MaskPolicy(TINY, cells=range(3)), []
    before.judge(fit_of(1, bad=3))
    stored.append(before.mask(0))
    maker = FakeMaker([fit_of(1, bad=1)] * 3)  # three, for hysteresis: they go on from the pinned mask
    worker, published = make(maker, cells=range(1, 3))
    worker.requests.put(Pin(7, stored, range(3)))
    put(worker, make_batch())
    worker.step()
    assert [change.key for change in published] == [MapKey(0, 0, 1)]
    assert np.count_nonzero(published[0].flags == BadPixel.OFFSET) == 3
    assert worker.status.pinned == 7
    assert worker.status.modules[0].judged == 1
    assert maker.fits == [], "fits go on"
    worker.requests.put(Release())
    worker.step()
    assert worker.status.pinned == 0
    assert [(change.newly_bad, change.newly_good) for change in published[1:]] == [(0, 2)]


def test_a_restored_mask_is_no_pin(caplog):
    caplog.set_level("INFO")
    before = MaskPolicy(TINY)
    before.judge(fit_of(1, bad=3))
    worker, published = make()
    worker.requests.put(Restore(7, [before.mask(0)], range(3)))
    worker.step()
    assert len(published) == 1
    assert worker.status.pinned == 0
    assert "the store says: version 7 speaks until fits do: 1 maps published" in caplog.text


def test_a_drift_is_an_alarm_while_it_stands_and_one_line_in_the_log(caplog):
    maker = FakeMaker()
    worker, _ = make(maker, default=DARK)
    maker.drift.alarms = {(0, 1): "module 0, stage low: ASIC 3 has moved by +20.1 ADU"}
    for moved in (20.2, 20.3):
        worker.feed([make_batch()])
        maker.drift.alarms = {(0, 1): f"module 0, stage low: ASIC 3 has moved by +{moved} ADU"}
    assert [r.message for r in caplog.records if getattr(r, "event", "") == "drift"] == [
        "module 0, stage low: ASIC 3 has moved by +20.1 ADU"
    ]
    worker.step()
    assert worker.status.alarms == ("module 0, stage low: ASIC 3 has moved by +20.2 ADU",)
    maker.drift.alarms = {}
    worker.feed([make_batch()])
    worker.step()
    assert worker.status.alarms == ()
    worker.step()
    assert worker.status.modules[0].drift.common_mode == 2.5
