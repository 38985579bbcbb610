"""Publisher and client over real sockets on loopback."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import mask_traffic as traffic
import msgpack
import numpy as np
import pytest
import zmq

from rmm_stream.client import MaskClient, ask, core
from rmm_stream.config import Publish
from rmm_stream.errors import ConfigError, DataError, ProtocolError
from rmm_stream.mask import BadPixel
from rmm_stream.publisher import MARGIN, Publisher
from rmm_stream.shard import Shard
from rmm_stream.wire import masks as wire

ANY = "tcp://127.0.0.1:0"
BEAT_S = 0.1
PATIENCE_S = 20.0  # only a broken build waits so long


class Started(Publisher):
    """A publisher that sends while its block lasts, under a generation that no lease gave it."""

    def __init__(self, generation, *args):
        super().__init__(*args)
        self.generation = generation

    def go(self):
        self.bind()
        self.start(self.generation)
        return self

    __enter__ = go

    def __exit__(self, *_):
        self.stop()


def make(updates=ANY, requests=ANY, generation=1, shards=(traffic.SHARD,), on_request=None, alive=None, beat_s=BEAT_S):
    return Started(
        generation,
        Publish(updates=updates, requests=requests, heartbeat_s=beat_s),
        "tiny",
        tuple(traffic.LAYOUT),
        list(shards),
        "abc",
        on_request or (lambda request: {}),
        alive or (lambda: True),
    )


def until(condition):
    """Wait for something that another thread does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def has(client, place, value):
    """Whether the client holds this value at (stage, cell) of module 0."""
    return 0 in client.modules and (client.flags(0, *place) == value).all()


@contextlib.contextmanager
def dealer(endpoint, kind=zmq.DEALER):
    context = zmq.Context()
    socket = context.socket(kind)
    socket.linger = 0
    socket.rcvtimeo = int(PATIENCE_S * 1000)
    socket.connect(endpoint)
    try:
        yield socket
    finally:
        context.destroy(linger=0)


def test_endpoints_are_known_and_connectable_after_start():
    with make() as publisher:
        assert publisher.updates_endpoint.startswith("tcp://127.0.0.1:")
        assert not publisher.updates_endpoint.endswith(":0")
        assert publisher.requests_endpoint != publisher.updates_endpoint


def test_a_taken_port_is_the_operators_error():
    with make() as publisher, pytest.raises(ConfigError, match=r"publish\.updates"):
        make(updates=publisher.updates_endpoint).bind()


def test_a_bound_publisher_says_nothing_before_it_has_a_generation():
    publisher = make(beat_s=0.02)
    publisher.bind()
    context = zmq.Context()
    with context.socket(zmq.SUB) as listener, listener.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED) as monitor:
        listener.subscribe(b"")
        listener.connect(publisher.updates_endpoint)
        assert monitor.poll(PATIENCE_S * 1000), "no connection"
        publisher.publish(traffic.change(1))
        assert not listener.poll(200)
        publisher.start(7)
        assert listener.poll(PATIENCE_S * 1000), "nothing after the start"
        assert wire.decode_heartbeat(listener.recv_multipart()[1]).standing.generation == 7
        listener.disable_monitor()
    publisher.stop()
    context.destroy(linger=0)


def test_a_publisher_that_is_stopped_before_it_started_gives_its_ports_back():
    first = make()
    first.bind()
    first.stop()
    first.stop()
    with make(updates=first.updates_endpoint, requests=first.requests_endpoint):
        pass


def test_the_last_train_is_that_of_the_latest_frames():
    with make() as publisher, MaskClient(publisher.updates_endpoint) as client:
        publisher.progress(0, 2**63 - 1)  # one corrupt id
        until(lambda: client.train_id == 2**63 - 1)
        publisher.publish(traffic.change(1))
        until(lambda: client.train_id == 77)
        publisher.progress(0, 78)
        until(lambda: client.train_id == 78)


def test_late_joiner_gets_the_complete_mask_then_follows():
    with make() as publisher:
        for cell in range(3):
            publisher.publish(traffic.change(cell + 1, cell=cell), version=4)
        until(lambda: publisher.counts["published"] == 3)
        with MaskClient(publisher.updates_endpoint) as client:
            client.wait(PATIENCE_S)
            assert [int(client.flags(0, 0)[cell, 0, 0]) for cell in range(3)] == [1, 2, 3]
            assert (client.version, client.generation, client.sequence, client.train_id) == (4, 1, 3, 77)
            assert client.epoch == publisher.epoch
            assert not client.stale
            assert client.age < PATIENCE_S
            told, event = [], threading.Event()
            client.on_update(lambda update: (told.append(update), event.set()))
            publisher.publish(traffic.change(9, cell=1))
            assert event.wait(PATIENCE_S)
            assert told[0].change.key == (0, 0, 1)
            assert (client.flags(0, 0, 1) == 9).all()
            assert client.bad(0, ignore=BadPixel.OFFSET).any()


def test_a_client_that_was_there_first_sees_the_first_map():
    context = zmq.Context()
    probe = context.socket(zmq.PUB)
    port = probe.bind_to_random_port("tcp://127.0.0.1")
    probe.unbind(f"tcp://127.0.0.1:{port}")
    context.destroy(linger=0)
    with MaskClient(f"tcp://127.0.0.1:{port}") as client:
        with pytest.raises(TimeoutError, match="nothing heard from tcp"):
            client.wait(0.05)
        assert client.stale
        assert client.age == float("inf")
        assert (client.version, client.generation, client.sequence, client.epoch) == (0, -1, -1, "")
        with make(updates=f"tcp://127.0.0.1:{port}") as publisher:
            publisher.publish(traffic.change(1))
            client.wait(PATIENCE_S)


def test_wait_says_what_is_missing():
    silent = threading.Event()
    with (
        make(alive=lambda: not silent.is_set()) as publisher,
        MaskClient(publisher.updates_endpoint) as client,
        MaskClient(publisher.updates_endpoint, modules=[0, 5]) as other,
        MaskClient(publisher.updates_endpoint, requests="tcp://127.0.0.1:9") as deaf,
        MaskClient(publisher.updates_endpoint, detector="agipd1m") as stranger,
    ):
        until(lambda: client.modules and other.modules and deaf.modules)
        for each, reason in (
            (client, "no map of module 0 is judged"),
            (other, "not of module 5"),
            (deaf, "no snapshot of m00-c000-002 from tcp://127.0.0.1:9"),
            (stranger, "nothing heard"),
        ):
            until(lambda each=each, reason=reason: reason in each._missing())
            with pytest.raises(TimeoutError, match=reason):
                each.wait(0.01)
        publisher.publish(traffic.change(1))
        client.wait(PATIENCE_S)
        silent.set()
        until(lambda: client.stale)
        with pytest.raises(TimeoutError, match="hangs"):
            client.wait(0.01)
        assert publisher.counts["skipped_beats"]


def test_stale_after_silence_serves_the_last_mask_and_recovers():
    silent = threading.Event()
    with make(alive=lambda: not silent.is_set()) as publisher, MaskClient(publisher.updates_endpoint) as client:
        publisher.publish(traffic.change(7))
        client.wait(PATIENCE_S)
        silent.set()
        until(lambda: client.stale)
        assert has(client, (0, 0), 7)
        silent.clear()
        until(lambda: not client.stale)
        assert client.counts["gaps"] == 0


def test_bye_makes_stale_at_once_and_silence_is_no_obstacle_to_the_mask(monkeypatch):
    monkeypatch.setattr(core, "JOIN_S", 0.05)
    with make(beat_s=60.0) as publisher:  # three of which nobody waits for
        publisher.publish(traffic.change(7))
        until(lambda: publisher.counts["beats"] and publisher.counts["published"])
        with MaskClient(publisher.updates_endpoint, requests=publisher.requests_endpoint) as client:
            until(lambda: has(client, (0, 0), 7))
            publisher.publish(traffic.change(8))
            until(lambda: has(client, (0, 0), 8))
            client.wait(PATIENCE_S)
            assert not client.stale
            publisher.stop()
            until(lambda: client.stale)
            assert has(client, (0, 0), 8)


@pytest.mark.parametrize("keep", [True, False])
def test_restart_brings_the_new_publishers_state(keep):
    with MaskClientAfter() as (first, client):
        updates, requests = first.updates_endpoint, first.requests_endpoint
        first.stop()
        with make(updates, requests, generation=2) as second:
            if keep:
                second.publish(traffic.change(5))
            until(lambda: client.epoch == second.epoch and client.sequence == keep)
            assert client.generation == 2
            assert has(client, (0, 0), 5 if keep else BadPixel.NO_DATA)


@contextlib.contextmanager
def MaskClientAfter():
    with make() as publisher, MaskClient(publisher.updates_endpoint) as client:
        publisher.publish(traffic.change(5))
        client.wait(PATIENCE_S)
        yield publisher, client


def test_zombie_beside_its_replacement_is_refused():
    with make(generation=1) as zombie, make(generation=2) as owner:
        zombie.publish(traffic.change(1))
        owner.publish(traffic.change(2))
        with MaskClient(owner.updates_endpoint, zombie.updates_endpoint) as client:
            until(lambda: client.generation == 2 and client.counts["fenced"] >= 2)
            until(lambda: has(client, (0, 0), 2))
            zombie.publish(traffic.change(3))
            fenced = client.counts["fenced"]
            until(lambda: client.counts["fenced"] > fenced + 2)
            assert has(client, (0, 0), 2)
            zombie.stop()  # its "bye" is fenced as well
            client.wait(PATIENCE_S)


@contextlib.contextmanager
def lossy(publisher, lost):
    """A forwarder that drops updates: `lost(n)` says whether the n-th one is."""
    context = zmq.Context()
    inside, outside = context.socket(zmq.SUB), context.socket(zmq.PUB)
    inside.subscribe(b"")
    inside.connect(publisher.updates_endpoint)
    port = outside.bind_to_random_port("tcp://127.0.0.1")
    stop, dropped = threading.Event(), []

    def forward():
        count = 0
        while not stop.is_set():
            if inside.poll(20):
                parts = inside.recv_multipart()
                update = parts[0].startswith(b"mask/")
                count += update
                if update and lost(count):
                    dropped.append(count)
                else:
                    outside.send_multipart(parts)

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}", dropped
    finally:
        stop.set()
        thread.join()
        context.destroy(linger=0)


def test_three_clients_and_a_late_one_agree_after_a_fifth_of_400_updates_was_lost(rng):
    lost = set((np.flatnonzero(rng.random(400) < 0.2) + 1).tolist()) | {400}
    latest = {}
    with make() as publisher, lossy(publisher, lost.__contains__) as (endpoint, dropped):
        clients = [MaskClient(endpoint) for _ in range(3)]
        try:
            until(lambda: all(client.sequence == 0 for client in clients))
            for n in range(400):
                place = (int(rng.integers(2)), int(rng.integers(3)))
                latest[place] = n % 251
                publisher.publish(traffic.change(n % 251, gain_stage=place[0], cell=place[1]))
                if n % 16 == 0:
                    until(lambda n=n: publisher.counts["published"] > n)
                if n == 300:
                    clients.append(MaskClient(endpoint))
            for client in clients:
                until(lambda client=client: client.sequence == 400 and not client.stale)
                assert all(has(client, place, value) for place, value in latest.items())
                assert not client.malformed
            assert len(dropped) > 40
            assert all(client.counts["gaps"] for client in clients[:3])
        finally:
            for client in clients:
                client.close()


def test_a_slow_callback_does_not_disturb_another_client():
    gate = threading.Event()
    with (
        make() as publisher,
        MaskClient(publisher.updates_endpoint) as slow,
        MaskClient(publisher.updates_endpoint) as fast,
    ):
        publisher.publish(traffic.change(0))
        slow.wait(PATIENCE_S)
        fast.wait(PATIENCE_S)
        slow.on_update(lambda update: gate.wait(PATIENCE_S))
        for n in range(1, 101):
            publisher.publish(traffic.change(n))
        until(lambda: has(fast, (0, 0), 100))
        assert not has(slow, (0, 0), 100)
        gate.set()
        until(lambda: has(slow, (0, 0), 100) and not slow.stale)


def test_a_callback_that_raises_is_logged_and_counted_and_the_mask_goes_on(caplog):
    with MaskClientAfter() as (publisher, client), caplog.at_level(logging.ERROR):
        client.on_update(lambda update: 1 / 0)
        publisher.publish(traffic.change(6))
        publisher.publish(traffic.change(7))
        until(lambda: has(client, (0, 0), 7) and client.counts["callbacks_failed"] == 2)
    assert "ZeroDivisionError" in caplog.text


def test_a_client_whose_thread_dies_is_stale_and_says_so_and_serves_its_mask_on(caplog, monkeypatch):
    with make() as publisher, MaskClient(publisher.updates_endpoint) as client:
        publisher.publish(traffic.change(7))
        client.wait(PATIENCE_S)
        assert not client.stale

        def broken(now):
            raise ZeroDivisionError("a fault of ours")

        monkeypatch.setattr(client._core, "tick", broken)
        until(lambda: client.stale)
        client._thread.join(PATIENCE_S)
        assert has(client, (0, 0), 7)
        with pytest.raises(TimeoutError, match="thread failed: ZeroDivisionError: a fault of ours; make a new client"):
            client.wait(0.01)
    (record,) = [record for record in caplog.records if record.name == "rmm_stream.client.mask_client"]
    assert record.levelno == logging.ERROR
    assert "thread failed; its mask is stale" in record.message
    assert record.exc_info[0] is ZeroDivisionError


def test_a_closed_client_is_stale_and_serves_its_mask_on():
    with make() as publisher:
        with MaskClient(publisher.updates_endpoint) as client:
            publisher.publish(traffic.change(7))
            client.wait(PATIENCE_S)
            assert not client.stale
        assert client.stale
        assert has(client, (0, 0), 7)
        with pytest.raises(TimeoutError, match="the client is closed"):
            client.wait(0.01)


def test_a_callback_may_close_the_client():
    with MaskClientAfter() as (publisher, client):
        client.on_update(lambda update: client.close())
        publisher.publish(traffic.change(6))
        until(lambda: not client._thread.is_alive())
        with pytest.raises(TimeoutError, match="closed"):
            client.wait(0.01)


def test_close_is_quick_with_nobody_there_and_may_come_twice():
    client = MaskClient("tcp://127.0.0.1:9")
    started = time.monotonic()
    client.close()
    client.close()
    assert time.monotonic() - started < 5
    assert not client._thread.is_alive()


def test_nonsense_endpoints_are_the_users_error():
    with pytest.raises(ConfigError, match="expected one such as"):
        MaskClient("127.0.0.1:5610")
    with pytest.raises(ConfigError, match="2 endpoints given for 1"):
        MaskClient("tcp://127.0.0.1:9", requests=["tcp://127.0.0.1:9", "tcp://127.0.0.1:10"])


def test_one_publisher_of_several_shards_and_a_client_of_one_module():
    shards = [Shard(0, 0, 1), Shard(0, 2, 2), Shard(1, 0, 2), Shard(10, 0, 2)]
    with make(shards=shards) as publisher:
        for module in (0, 1, 10):
            for cell in range(3):
                publisher.publish(traffic.change(module + 1, module, cell=cell))
        with (
            MaskClient(publisher.updates_endpoint, detector="tiny", modules=[1]) as one,
            MaskClient(publisher.updates_endpoint) as whole,
        ):
            whole.wait(PATIENCE_S)
            one.wait(PATIENCE_S)
            until(lambda: whole.sequence == 9)
            assert whole.modules == [0, 1, 10]
            assert one.modules == [1]
            assert (whole.flags(0, 0) == 1).all()
            assert (whole.flags(10, 0) == 11).all()
            for n in range(5):
                publisher.publish(traffic.change(n, 10))
            publisher.publish(traffic.change(50, 1))
            until(lambda: (one.flags(1, 0, 0) == 50).all())
            assert one.counts["gaps"] == 0


def test_publish_copies_what_the_caller_may_change():
    with make() as publisher, MaskClient(publisher.updates_endpoint) as client:
        what = traffic.change(1)
        mine = np.full((4, 6), 3, np.uint8)
        object.__setattr__(what, "flags", mine)
        publisher.publish(what)
        mine[...] = 200
        client.wait(PATIENCE_S)
        assert has(client, (0, 0), 3)


@pytest.mark.parametrize(
    "what",
    [
        traffic.change(cell=3),
        traffic.change(module=1),
        traffic.change(gain_stage=2),
        traffic.change(shape=(4, 5)),
    ],
)
def test_a_map_that_is_not_of_this_publisher_is_refused(what):
    with pytest.raises(DataError):
        make().publish(what)


@pytest.mark.parametrize("shards", [[], [traffic.SHARD, traffic.SHARD], [Shard(0, 0, 3)]])
def test_shards_that_cannot_be_published_are_refused(shards):
    with pytest.raises(ConfigError):
        make(shards=shards)


# -- requests


def test_operator_requests_are_served_and_refused_with_reasons():
    seen = []

    def on_request(request):
        seen.append(request)
        if isinstance(request, wire.CommitRequest):
            raise DataError("no map is judged yet")
        if request.illumination == "flat":
            raise ZeroDivisionError
        if request.illumination == "sample":
            return {"text": "x" * 100_000}
        return {"exposure": request.illumination}

    with make(on_request=on_request) as publisher:
        where = publisher.requests_endpoint
        assert ask(where, wire.ExposeRequest("dark", 1, True)) == {"exposure": "dark"}
        assert seen == [wire.ExposeRequest("dark", 1, True)]
        for request, reason in (
            (wire.CommitRequest(), "refused"),
            (wire.ExposeRequest("flat"), "internal"),
            (wire.ExposeRequest("sample"), "internal"),
            (wire.ExposeRequest("bright"), "range"),
        ):
            with pytest.raises(ProtocolError) as caught:
                ask(where, request)
            assert caught.value.reason == reason
        assert publisher.counts["refused"] == 3
        assert ask(where, wire.ExposeRequest("dark")) == {"exposure": "dark"}


def test_a_request_to_nobody_times_out():
    with pytest.raises(TimeoutError, match="ROUTER"):
        ask("tcp://127.0.0.1:9", wire.CommitRequest(), timeout=0.05)


def test_a_req_socket_is_served_too():
    with make() as publisher, dealer(publisher.requests_endpoint, zmq.REQ) as socket:
        publisher.publish(traffic.change(3))
        until(lambda: publisher.counts["published"])
        socket.send_multipart([b"id", wire.encode_request(wire.SnapshotRequest(""))])
        name, data = socket.recv_multipart()
        assert name == b"id"
        assert wire.decode_snapshot(data).maps[0].sequence == 1


GOOD = wire.encode_request(wire.SnapshotRequest(""))
HOSTILE = [
    ([b""], "parts"),
    ([b"id"], "parts"),
    ([b"id", GOOD, b"more"], "parts"),
    ([b"", b"", b"", b""], "parts"),
    ([b"x" * 65, GOOD], "parts"),
    ([b"id", b""], "truncated"),
    ([b"id", GOOD[:-1]], "truncated"),
    ([b"id", b"\xdd\xff\xff\xff\xff"], "truncated"),
    ([b"id", b"\xc6\xff\xff\xff\xff"], "truncated"),
    ([b"id", b"[1]"], "truncated"),
    ([b"id", msgpack.packb([1])], "mistyped"),
    ([b"id", msgpack.packb({"schema": 0, "kind": "snapshot", "shard": ""})], "schema"),
    ([b"id", msgpack.packb({"schema": 2, "kind": "snapshot", "shard": ""})], "schema"),
    ([b"id", msgpack.packb({"schema": 1, "kind": "snapshot", "shard": 7})], "mistyped"),
    ([b"id", msgpack.packb({"schema": 1, "kind": "snapshot", "shard": "m99-c000-000"})], "unknown_shard"),
    ([b"id", msgpack.packb({"schema": 1, "kind": "explode"})], "unknown_request"),
    ([b"id", msgpack.packb({"schema": 1, "kind": "explain"})], "not_offered"),
    ([b"id", msgpack.packb({"schema": 1, "kind": "rollback", "version": -3})], "range"),
    ([b"id", msgpack.packb({"schema": 1, "kind": "accept", "module": "all"})], "mistyped"),
]


def test_hostile_requests_are_counted_answered_and_survived(rng):
    with make() as publisher, dealer(publisher.requests_endpoint) as socket:
        for parts, reason in HOSTILE:
            before = publisher.malformed[reason]
            socket.send_multipart(parts)
            assert wire.decode_reply(socket.recv_multipart()[-1]).reason == reason
            assert publisher.malformed[reason] == before + 1
        for _ in range(200):
            socket.send_multipart([b"id", rng.bytes(int(rng.integers(0, 200)))])
            assert wire.decode_reply(socket.recv_multipart()[-1]).reason in wire.REASONS
        socket.send_multipart([b"id", bytes(wire.MAX_REQUEST + 1)])
        assert wire.decode_reply(socket.recv_multipart()[-1]).reason == "oversized"
        assert publisher.malformed["oversized"] == 1
        with dealer(publisher.requests_endpoint) as oversize:  # costs the sender its connection
            oversize.send_multipart([b"id", bytes(wire.MAX_REQUEST + MARGIN + 1)])
        socket.send_multipart([b"id", GOOD])
        assert wire.decode_snapshot(socket.recv_multipart()[-1]).maps == ()
        assert publisher.failure is None


def test_hostile_updates_are_counted_and_the_next_good_one_accepted(rng):
    context = zmq.Context()
    pub = context.socket(zmq.PUB)
    pub.linger = 0
    port = pub.bind_to_random_port("tcp://127.0.0.1")
    try:
        with make() as publisher, MaskClient(f"tcp://127.0.0.1:{port}", publisher.updates_endpoint) as client:
            publisher.publish(traffic.change(1))
            until(lambda: has(client, (0, 0), 1))
            good = traffic.update_parts(traffic.update(2, generation=1, epoch=publisher.epoch))
            bad = [[b"mask/"], [b"mask/tiny/0/", good[1][:-3]], [b"mask/tiny/0/", good[1], b""], [b"beat/", b"\x80"],
                   [b"mask/tiny/1/", good[1]], [b"mask/\xff\xfe/0/", good[1]]]  # fmt: skip
            bad += [[b"mask/tiny/0/", rng.bytes(50)] for _ in range(20)]

            def flood():
                for parts in bad:
                    pub.send_multipart(parts)
                return sum(client.malformed.values()) >= 3 * len(bad)

            until(flood)
            publisher.publish(traffic.change(9))
            until(lambda: has(client, (0, 0), 9))
            assert {"parts", "topic", "truncated"} <= set(client.malformed)
    finally:
        context.destroy(linger=0)


def test_a_crash_of_the_thread_is_visible(monkeypatch, caplog):
    publisher = make(alive=lambda: 1 / 0).go()
    until(lambda: publisher.failure is not None)
    publisher.stop()
    publisher.publish(traffic.change())  # nobody takes it, and nobody hangs
    assert isinstance(publisher.failure, ZeroDivisionError)
    assert "no mask is published" in caplog.text


def test_stop_sends_what_waits_and_may_come_twice():
    with make() as publisher, MaskClient(publisher.updates_endpoint) as client:
        until(lambda: client.sequence == 0)
        for n in range(50):
            publisher.publish(traffic.change(n))
        publisher.stop()
        publisher.stop()
        assert publisher.counts["published"] == 50
        assert publisher.failure is None


# -- processes


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
import mask_traffic as traffic
from test_publisher import make
publisher = make({updates!r}, {requests!r}, generation={generation}).go()
print(publisher.updates_endpoint, publisher.requests_endpoint, flush=True)
n = 0
while True:
    n += 1
    publisher.publish(traffic.change(n % 251, cell=n % 3), version=n)
    time.sleep(0.001)
"""


def spawn(updates=ANY, requests=ANY, generation=1):
    code = CHILD.format(tests=os.path.dirname(__file__), updates=updates, requests=requests, generation=generation)
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    return child, *child.stdout.readline().split()


@contextlib.contextmanager
def ended(child):
    try:
        yield
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


@pytest.mark.system
def test_a_killed_publisher_and_its_successor_never_show_a_torn_or_older_map():
    child, updates, requests = spawn()
    torn, seen = [], [(0, 0)]
    with MaskClient(updates) as client:

        def look(update):
            flags = client.flags(0, 0, update.change.key.cell)
            if (flags != flags[0, 0]).any() or (update.generation, update.sequence) < seen[-1]:
                torn.append(update)
            seen.append((update.generation, update.sequence))

        with ended(child):
            client.wait(PATIENCE_S)
            client.on_update(look)
            until(lambda: len(seen) > 20)
        for generation in (2, 3):
            child, *_ = spawn(updates, requests, generation)
            with ended(child):
                until(lambda generation=generation: seen[-1][0] == generation and client.sequence > 20)
        until(lambda: client.stale)
        assert not torn


@pytest.mark.system
def test_a_frozen_publisher_is_stale_and_refused_when_it_wakes_beside_its_replacement():
    child, updates, _ = spawn()
    with ended(child), make(generation=2) as replacement, MaskClient(updates) as alone:
        alone.wait(PATIENCE_S)
        with MaskClient(updates, replacement.updates_endpoint) as client:
            until(lambda: client.generation == 2)
            child.send_signal(signal.SIGSTOP)
            until(lambda: alone.stale)
            replacement.publish(traffic.change(252))
            until(lambda: has(client, (0, 0), 252))
            fenced = client.counts["fenced"]
            child.send_signal(signal.SIGCONT)
            until(lambda: not alone.stale)
            until(lambda: client.counts["fenced"] > fenced)
            assert has(client, (0, 0), 252)
            assert client.generation == 2


def test_each_update_is_told_as_it_left_and_settled_once_all_have():
    told = []
    publisher = make()
    publisher._on_update = told.append
    with publisher:
        for n in range(40):
            publisher.publish(traffic.change(n % 7), version=n)
        assert publisher.settle(PATIENCE_S)
        assert [(update.sequence, update.version) for update in told] == [(n + 1, n) for n in range(40)]
        assert {update.epoch for update in told} == {publisher.epoch}
