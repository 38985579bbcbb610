"""The client core against the table of docs/wire.md, and against a model under random loss; no sockets, no clock."""

import subprocess
import sys

import mask_traffic as traffic
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_stream.client.core import ANSWER_S, JOIN_S, PATIENCE_S, Ask, ClientCore, Told
from rmm_stream.client.mask_client import request_endpoint
from rmm_stream.client.view import Collapsed, flags, judged
from rmm_stream.mask import BadPixel, MapKey, collapse
from rmm_stream.shard import Shard
from rmm_stream.wire import masks as wire


class Bench:
    """A core, its clock, and what it did."""

    def __init__(self, links=1, **options):
        self.now = 100.0
        self.core = ClientCore(links, now=self.now, **options)
        self.asks: list[Ask] = []
        self.told = []

    def _note(self, actions):
        self.asks += [each for each in actions if isinstance(each, Ask)]
        self.told += [each.update for each in actions if isinstance(each, Told)]
        return [each for each in actions if isinstance(each, Ask)]

    def feed(self, parts, link=0):
        return self._note(self.core.feed(link, parts, self.now))

    def beat(self, *args, link=0, kind="beat", requests="tcp://127.0.0.1:5611", **standing):
        return self.feed(traffic.beat_parts(traffic.standing(*args, **standing), kind, requests), link)

    def update(self, *args, link=0, **fields):
        return self.feed(traffic.update_parts(traffic.update(*args, **fields)), link)

    def answer(self, data, ask=None, link=0):
        return self._note(self.core.answer(link, [(ask or self.asks[-1]).id, data], self.now))

    def snapshot(self, sequence, maps=(), shards=(), **standing):
        return self.answer(traffic.snapshot(traffic.standing(sequence, **standing), maps, shards))

    def sleep(self, seconds):
        self.now += seconds
        return self._note(self.core.tick(self.now))

    def joined(self, sequence=5, **standing):
        """In step with epoch "a", generation 1."""
        self.beat(sequence, **standing)
        self.snapshot(sequence, [traffic.update(n + 1, traffic.change(n, cell=n)) for n in range(min(sequence, 3))])
        return self

    @property
    def state(self):
        view = self.core.view.shards[traffic.SHARD.name]
        return view.generation, view.epoch, view.sequence

    @property
    def stale(self):
        return bool(self.core.view.stale)


# -- the table, row by row


def test_first_heartbeat_asks_for_a_snapshot_and_shapes_the_answer():
    bench = Bench()
    (ask,) = bench.beat(5)
    assert (ask.link, ask.shard) == (0, "m00-c000-002")
    assert (flags(bench.core.view, 0, 1) == BadPixel.NO_DATA).all()
    assert flags(bench.core.view, 0, 1).shape == (3, 4, 6)
    assert bench.stale
    bench.snapshot(5, [traffic.update(2), traffic.update(5, traffic.change(9, cell=2))])
    assert bench.state == (1, "a", 5)
    assert [each.sequence for each in bench.told] == [2, 5]
    assert (flags(bench.core.view, 0, 0, 2) == 9).all()
    assert not bench.stale


def test_lower_generation_is_fenced():
    bench = Bench()
    bench.beat(5, generation=2)
    bench.snapshot(5, generation=2)
    assert not bench.beat(9, generation=1, epoch="zombie")
    assert not bench.update(6, generation=1, epoch="zombie")
    assert bench.state == (2, "a", 5)
    assert bench.core.counts["fenced"] == 2


def test_snapshot_of_a_lower_generation_is_refused():
    bench = Bench().joined()
    bench.beat(0, generation=3, epoch="c")
    bench.snapshot(0, generation=3, epoch="c")
    bench.sleep(10)
    assert bench.asks[-1].shard == traffic.SHARD.name
    bench.snapshot(50, [traffic.update(50, generation=2, epoch="b")], generation=2, epoch="b")
    assert bench.state == (3, "c", 0)
    assert bench.core.counts["fenced"] == 1
    assert bench.sleep(PATIENCE_S)


def test_higher_generation_means_snapshot():
    bench = Bench().joined()
    assert bench.update(1, generation=2, epoch="b")
    bench.snapshot(0, generation=2, epoch="b")
    assert bench.state == (2, "b", 1)  # the update queued, and follows the snapshot


def test_unknown_epoch_means_snapshot_and_the_one_just_left_is_dropped():
    bench = Bench().joined()
    assert bench.beat(0, epoch="b")
    bench.snapshot(0, epoch="b")
    assert not bench.update(6, epoch="a")
    assert not bench.beat(6, epoch="a")
    assert bench.state == (1, "b", 0)
    assert bench.core.counts["left"] == 2
    assert bench.core.counts["rivals"] == 1


def test_a_queued_update_of_a_life_that_was_never_seen_does_not_ask_for_ever():
    bench = Bench()
    bench.beat(5, epoch="a")
    bench.update(6, epoch="a")
    asks = len(bench.asks)
    bench.snapshot(0, epoch="b")
    bench.sleep(1)
    assert len(bench.asks) == asks
    assert bench.state == (1, "b", 0)


def test_duplicate_is_dropped():
    bench = Bench().joined()
    assert not bench.update(5, traffic.change(99))
    assert bench.core.counts["duplicates"] == 1
    assert not (flags(bench.core.view, 0, 0, 0) == 99).any()


def test_next_update_is_applied_and_told():
    bench = Bench().joined()
    told = len(bench.told)
    assert not bench.update(6, traffic.change(99), version=8)
    assert (flags(bench.core.view, 0, 0, 0) == 99).all()
    assert bench.core.view.shards[traffic.SHARD.name].version == 8
    assert len(bench.told) == told + 1


def test_gap_asks_and_keeps_the_old_version_until_the_snapshot():
    bench = Bench().joined()
    before = bench.core.view.shards
    assert bench.update(7, traffic.change(99))
    assert bench.core.counts["gaps"] == 1
    assert bench.core.view.shards == before
    bench.update(8, traffic.change(100, cell=1))
    bench.snapshot(7, [traffic.update(7, traffic.change(99))])
    assert bench.state == (1, "a", 8)
    assert bench.core.counts["duplicates"] == 1


def test_heartbeat_ahead_reveals_a_lost_last_update():
    bench = Bench().joined()
    assert bench.beat(6)
    assert bench.core.counts["gaps"] == 1


def test_heartbeat_in_step_keeps_the_mask_fresh_and_brings_the_version():
    bench = Bench().joined()
    for _ in range(10):
        bench.sleep(traffic.BEAT_S)
        assert not bench.beat(5, version=3)
        assert not bench.stale
    assert bench.core.view.shards[traffic.SHARD.name].version == 3
    assert bench.core.view.age(bench.now) == 0
    assert len(bench.asks) == 1


def test_one_old_heartbeat_is_ignored_two_in_a_row_are_not():
    bench = Bench().joined()
    assert not bench.beat(4)
    assert not bench.beat(5)
    assert not bench.beat(4)
    assert bench.beat(4)
    assert bench.core.counts["behind"] == 1
    bench.snapshot(4)
    assert bench.state == (1, "a", 4)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "parts"),
        ([b"mask/tiny/0/"], "parts"),
        ([b"mask/tiny/0/", b"", b""], "parts"),
        ([b"else", b""], "topic"),
        ([b"mask/tiny/0/", b"junk"], "truncated"),
        ([b"mask/tiny/1/", traffic.update_parts(traffic.update(6))[1]], "topic"),
        ([b"beat/tiny/m01-c000-002/", traffic.beat_parts(traffic.standing(6))[1]], "topic"),
        (traffic.update_parts(traffic.update(6, traffic.change(shape=(4, 5)))), "shape"),
        (traffic.update_parts(traffic.update(6, traffic.change(gain_stage=2))), "shape"),
    ],
)
def test_malformed_message_is_counted_and_the_next_good_one_accepted(parts, reason):
    bench = Bench().joined()
    bench.feed(parts)
    assert bench.core.malformed == {reason: 1}
    bench.update(6, traffic.change(99))
    assert bench.state == (1, "a", 6)


# -- silence and requests


def test_silence_makes_stale_asks_once_and_keeps_the_mask():
    bench = Bench().joined()
    bench.sleep(3 * traffic.BEAT_S)
    assert not bench.stale
    assert bench.sleep(0.01)
    assert bench.stale
    assert (flags(bench.core.view, 0, 0, 2) == 2).all()
    bench.snapshot(5)
    assert bench.stale  # the ROUTER answers, but the worker behind it is silent
    assert not bench.sleep(100)
    assert not bench.beat(5)
    assert not bench.stale


def test_out_of_step_for_long_is_stale_although_heartbeats_come():
    bench = Bench().joined()
    for sequence in range(7, 15):
        bench.sleep(traffic.BEAT_S)
        bench.beat(sequence)
    assert bench.stale
    bench.snapshot(14)
    assert not bench.stale


def test_bye_is_stale_at_once():
    bench = Bench().joined()
    assert not bench.beat(5, kind="bye")
    assert bench.stale
    assert not bench.sleep(100)


def test_bye_of_a_zombie_changes_nothing():
    bench = Bench()
    bench.beat(5, generation=2)
    bench.snapshot(5, generation=2)
    bench.beat(5, generation=1, kind="bye")
    assert not bench.stale


def test_silent_router_is_asked_again_with_growing_patience_and_a_late_answer_is_ignored():
    bench = Bench()
    bench.beat(5)
    first = bench.asks[0]
    times = []
    while len(times) < 8:
        waited = bench.core.wake_at() - bench.now
        assert waited > 0
        if bench.sleep(waited):
            times.append(bench.now)
    gaps = np.diff([100.0, *times])
    assert gaps[0] == pytest.approx(ANSWER_S)
    assert (np.diff(gaps) >= -1e-9).all()
    assert gaps[-1] == pytest.approx(PATIENCE_S)
    assert len({each.id for each in bench.asks}) == len(bench.asks)
    bench.answer(traffic.snapshot(traffic.standing(5)), first)
    assert bench.core.counts["late"] == 1
    assert bench.state[0] == -1
    bench.answer(traffic.snapshot(traffic.standing(5)))
    bench.answer(traffic.snapshot(traffic.standing(4)))
    assert bench.core.counts["late"] == 2
    assert bench.state == (1, "a", 5)


def test_a_publisher_that_returns_is_not_made_to_wait_for_old_patience():
    bench = Bench().joined()
    for _ in range(100):
        bench.sleep(1.0)
    bench.beat(0, generation=2, epoch="b", requests="tcp://127.0.0.1:9999")
    assert bench.core.requests(0) == "tcp://127.0.0.1:9999"
    asked = len(bench.asks)
    bench.sleep(2 * ANSWER_S + 0.01)
    assert len(bench.asks) > asked


def test_malformed_or_refused_answer_is_asked_again():
    bench = Bench()
    bench.beat(5)
    bad = (
        b"junk",
        wire.encode_reply(wire.Reply({}, "unknown_shard", "no")),
        traffic.snapshot(traffic.standing(5, shard=Shard(1, 0, 2))),
    )
    for n, answer in enumerate(bad):
        assert not bench.answer(answer)  # not at once: that would be a loop
        assert bench.sleep(ANSWER_S * 2**n)
    assert bench.core.malformed == {"truncated": 1, "unknown_shard": 2}
    bench.snapshot(5)
    assert bench.state == (1, "a", 5)


def test_publisher_without_heartbeats_is_asked_after_a_while_and_tells_its_shards():
    bench = Bench()
    assert not bench.sleep(JOIN_S - 0.01)
    (ask,) = bench.sleep(0.02)
    assert ask.shard == ""
    (second,) = bench.snapshot(5, shards=["m00-c000-002", "m01-c000-002"])
    assert second.shard == "m01-c000-002"
    bench.snapshot(2, shard=Shard(1, 0, 2))
    assert set(bench.core.view.shards) == {"m00-c000-002", "m01-c000-002"}
    assert bench.core.view.stale == {"m00-c000-002", "m01-c000-002"}


def test_requests_of_many_clients_are_spread():
    waits = []
    for jitter in (0.0, 0.5, 0.99):
        bench = Bench(jitter=lambda jitter=jitter: jitter).joined()
        bench.update(9)
        waits.append(bench.core.wake_at() - bench.now if len(bench.asks) == 1 else 0.0)
    assert waits == pytest.approx([0.0, 0.25, 0.495])


# -- which shards


def test_unwanted_modules_and_detectors_are_left_alone():
    bench = Bench(detector="tiny", modules=[0])
    assert not bench.beat(3, shard=Shard(1, 0, 2))
    assert not bench.beat(3, detector="other")
    bench.update(1, shard=Shard(1, 0, 2))
    assert not bench.core.view.shards
    assert not bench.core.malformed


def test_the_first_detector_heard_is_the_one():
    bench = Bench().joined()
    bench.beat(3, detector="other", shard=Shard(1, 0, 2))
    assert list(bench.core.view.shards) == ["m00-c000-002"]


def test_cells_of_one_module_from_two_publishers_are_one_mask():
    bench = Bench(links=2)
    low, high = Shard(0, 0, 1), Shard(0, 2, 2)
    (ask,) = bench.beat(1, shard=low)
    bench.snapshot(1, [traffic.update(1, traffic.change(1, cell=0), shard=low)], shard=low)
    (ask,) = bench.beat(1, shard=high, link=1, epoch="z")
    assert ask.link == 1
    parts = traffic.snapshot(
        traffic.standing(1, shard=high, epoch="z"),
        [traffic.update(1, traffic.change(2, cell=2), shard=high, epoch="z")],
    )
    bench.answer(parts, ask, link=1)
    whole = flags(bench.core.view, 0, 0)
    assert [int(whole[cell, 0, 0]) for cell in range(3)] == [1, BadPixel.NO_DATA, 2]
    assert (Collapsed().bad(bench.core.view, 0, ignore=1)).all()
    assert judged(bench.core.view, 0).tolist() == [[3, 0, 3], [0, 0, 0]]


def test_a_replacement_on_another_link_takes_over():
    bench = Bench(links=2).joined()
    (ask,) = bench.beat(1, generation=2, epoch="b", link=1)
    assert ask.link == 1
    bench.answer(traffic.snapshot(traffic.standing(1, generation=2, epoch="b")), ask, link=1)
    bench.update(6)
    assert bench.state == (2, "b", 1)


def test_too_many_shards_are_refused(monkeypatch):
    monkeypatch.setattr(wire, "MAX_SHARDS", 3)
    bench = Bench()
    for module in range(10):
        bench.beat(1, shard=Shard(module, 0, 2))
    assert len(bench.core.view.shards) == 3
    assert bench.core.malformed == {"oversized": 7}


# -- arrays


def test_bad_is_the_or_of_judged_maps_and_agrees_with_the_mask(rng):
    bench = Bench()
    bench.beat(0)
    bench.snapshot(0)
    collapsed = Collapsed()
    whole, spoken = np.zeros((2, 3, 4, 6), np.uint8), np.zeros((2, 3), np.uint8)
    assert collapsed.bad(bench.core.view, 0).all()
    for sequence in range(1, 40):
        stage, cell = int(rng.integers(2)), int(rng.integers(3))
        what = traffic.change(0, gain_stage=stage, cell=cell, judged=int(rng.integers(2)))
        object.__setattr__(what, "flags", (1 << rng.integers(0, 40, (4, 6))).astype(np.uint8))
        whole[stage, cell], spoken[stage, cell] = what.flags, int(what.judged)
        bench.update(sequence, what)
        for ignore in (BadPixel(0), BadPixel.EDGE, BadPixel.EDGE | BadPixel.OFFSET):
            expected = collapse(whole, spoken) & np.uint8(~ignore & 0xFF) != 0
            got = collapsed.bad(bench.core.view, 0, ignore)
            assert np.array_equal(got, expected)
            assert got is collapsed.bad(bench.core.view, 0, ignore)
            assert not got.flags.writeable
        assert np.array_equal(judged(bench.core.view, 0), spoken)


def test_an_unjudged_map_reads_no_data():
    bench = Bench().joined()
    bench.update(6, traffic.change(int(BadPixel.EDGE), judged=0))
    assert (flags(bench.core.view, 0, 0, 0) == BadPixel.EDGE | BadPixel.NO_DATA).all()


def test_arrays_are_read_only():
    bench = Bench().joined()
    for array in (flags(bench.core.view, 0, 0), flags(bench.core.view, 0, 0, 0), flags(bench.core.view, 0, 1, 0)):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("place", [(1, 0, None), (0, 2, None), (0, -1, None), (0, 0, 3), (0, 0, -1)])
def test_a_place_that_no_publisher_announced_is_a_lookup_error(place):
    with pytest.raises(LookupError, match=r"heard: 0|has 0 to"):
        flags(Bench().joined().core.view, *place)


def test_a_reader_keeps_the_version_it_took():
    bench = Bench().joined()
    view = bench.core.view
    before = flags(view, 0, 0).copy()
    bench.update(6, traffic.change(99))
    assert np.array_equal(flags(view, 0, 0), before)


# -- random interleaving against a model


class LossyNetwork:
    """A publisher that restarts, a network that loses, repeats and delays, and one client."""

    def __init__(self):
        self.generation, self.lives = 1, 0
        self.maps, self.sequence = {}, 0
        self.published = {}  # (generation, epoch, sequence): {key: value}
        self.wire, self.requests, self.replies = [], [], []
        self.client = Bench()
        self.history = []
        self._live()

    def _live(self):
        self.lives += 1
        self.epoch = f"e{self.lives}"
        self.sequence = 0
        self._record()

    def _record(self):
        values = {key: int(each.change.flags[0, 0]) for key, each in self.maps.items()}
        self.published[(self.generation, self.epoch, self.sequence)] = values

    def _standing(self):
        return traffic.standing(self.sequence, self.generation, self.epoch)

    def _publish(self, key, value, lost=False):
        self.sequence += 1
        what = traffic.change(value, gain_stage=key[0], cell=key[1])
        self.maps[key] = update = traffic.update(self.sequence, what, self.generation, self.epoch)
        self._record()
        if not lost:
            self.wire.append(traffic.update_parts(update))

    def publish(self, burst):
        for key, value, lost in burst:
            self._publish(key, value, lost)

    def beat(self, lost):
        if not lost:
            self.wire.append(traffic.beat_parts(self._standing()))

    def turn(self, seconds, count, served):
        """Time passes, the network brings what it has, and the ROUTER answers, or is slow."""
        self.requests += self.client.sleep(seconds)
        for _ in range(min(count, len(self.wire))):
            self.requests += self.client.feed(self.wire.pop(0))
        if served:
            self.serve()
            self.reply(0, False)

    def serve(self):
        """The ROUTER answers with the state of this moment; the answers are under way."""
        for ask in self.requests:
            self.replies.append((ask, traffic.snapshot(self._standing(), list(self.maps.values()))))
        self.requests.clear()

    def reply(self, which, twice):
        if self.replies:
            ask, data = self.replies.pop(which)
            for _ in range(1 + twice):
                self.requests += self.client.answer(data, ask)

    def restart(self, keep, same_generation):
        """A new life: with the maps of the old one published again, or with none; once in a while without a lease."""
        old, self.maps = self.maps if keep else {}, {}
        self.generation += not same_generation
        self._live()
        for key, each in old.items():
            self._publish(key, int(each.change.flags[0, 0]))

    def repeat(self, which, where):
        if which < len(self.wire):
            self.wire.insert(where, self.wire[which])

    def hostile(self, data):
        self.requests += self.client.feed(data)

    def client_shows_a_published_version_and_never_goes_back(self):
        if traffic.SHARD.name not in self.client.core.view.shards:
            return
        view = self.client.core.view.shards[traffic.SHARD.name]
        if view.generation < 0:
            return
        place = (view.generation, view.epoch, view.sequence)
        assert {key[1:]: int(each.change.flags[0, 0]) for key, each in view.maps.items()} == self.published[place]
        if self.history and place[:2] == self.history[-1][:2]:
            assert place >= self.history[-1]
        elif self.history:
            assert place[0] >= self.history[-1][0]
            assert place[1] not in {each[1] for each in self.history}  # nobody returns to a life that was left
        self.history.append(place)

    def settle(self):
        """Quiescence: nothing is lost any more. Within a few heartbeats the client has the newest version."""
        self.turn(PATIENCE_S, 1000, True)  # patience with a silent ROUTER may have grown
        for _ in range(4):
            self.beat(False)
            for _ in range(50):
                self.turn(0.02, 1000, True)
        self.client_shows_a_published_version_and_never_goes_back()
        assert len(self.client.asks) < 100  # and without a storm of requests
        assert self.client.state == (self.generation, self.epoch, self.sequence)
        assert not self.client.stale


LOST = st.sampled_from([False] * 4 + [True])
BURST = st.lists(st.tuples(st.tuples(st.integers(0, 1), st.integers(0, 2)), st.integers(0, 255), LOST), max_size=4)
STEPS = {
    "publish": st.tuples(BURST),
    "beat": st.tuples(LOST),
    "turn": st.tuples(st.sampled_from([0.0, 0.1, 0.6, 1.0, 4.0]), st.sampled_from([1, 3, 99, 99]), st.booleans()),
    "serve": st.tuples(),
    "reply": st.tuples(st.sampled_from([0, -1]), st.booleans()),
    "restart": st.tuples(st.booleans(), LOST),
    "repeat": st.tuples(st.integers(0, 5), st.integers(0, 5)),
    "hostile": st.tuples(
        st.sampled_from([[b"mask/tiny/0/", b"\xc1"], [b"beat/tiny/m00-c000-002/", b"\x80"], [b"x"], []])
    ),
}
OFTEN = ["publish"] * 5 + ["beat"] * 3 + ["turn"] * 8 + ["serve", "reply", "reply", "restart", "repeat", "hostile"]
STEP = st.sampled_from(OFTEN).flatmap(lambda name: st.tuples(st.just(name), STEPS[name]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(STEP, min_size=30, max_size=60))
def test_client_shows_published_versions_only_and_the_newest_in_the_end(steps):
    network = LossyNetwork()
    for name, arguments in steps:
        getattr(network, name)(*arguments)
        network.client_shows_a_published_version_and_never_goes_back()
    network.settle()


# -- what it costs


def test_importing_the_client_stays_light():
    heavy = ("numba", "h5py", "prometheus_client", "starlette", "uvicorn", "rich", "msgspec", "asyncio", "logging",
             "rmm_stream.config", "rmm_stream.publisher", "rmm_stream.rmm")  # fmt: skip
    code = f"import sys, rmm_stream.client; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    ("updates", "announced", "expected"),
    [
        ("tcp://127.0.0.1:5610", "", "tcp://127.0.0.1:5611"),
        ("tcp://[::1]:5610", "", "tcp://[::1]:5611"),
        ("ipc:///tmp/x", "", "ipc:///tmp/x"),
        ("tcp://127.0.0.1:5610", "inproc://wake", "tcp://127.0.0.1:5611"),
        ("tcp://max-exfl1:5610", "tcp://0.0.0.0:7001", "tcp://max-exfl1:7001"),
        ("tcp://max-exfl1:5610", "tcp://[::]:7001", "tcp://max-exfl1:7001"),
        ("tcp://max-exfl1:5610", "tcp://10.0.0.7:7001", "tcp://10.0.0.7:7001"),
    ],
)
def test_where_requests_go(updates, announced, expected):
    assert request_endpoint(updates, announced) == expected


def test_the_key_of_a_map_is_what_flags_is_asked_for():
    view = Bench().joined().core.view.shards[traffic.SHARD.name]
    assert list(view.maps) == [MapKey(0, 0, 0), MapKey(0, 0, 1), MapKey(0, 0, 2)]
