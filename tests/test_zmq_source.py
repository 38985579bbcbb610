"""ZmqSource against real servers on loopback: what comes is handed on, what is lost or refused is counted."""

import logging
import socket
import time

import hostile
import numpy as np
import pytest
import zmq
from builders import NOW, TINY, TINY_SOURCE, assert_same_batch, karabo_message, make_batch, make_train, native_message
from karabo_bridge.serializer import deserialize
from karabo_bridge.server import ServerInThread
from msgspec.structs import replace as having

from rmm_stream.config import ExposureSettings
from rmm_stream.errors import ConfigError
from rmm_stream.sources.zmq import ZmqSource
from rmm_stream.wire.decoder import NO_MODULE
from rmm_stream.wire.karabo import KaraboDecoder
from rmm_stream.wire.native import NativeDecoder

LIMIT = 30.0  # s, until a test is given up; nothing waits so long when all is well
SERVERS = {"REP": "req", "PUB": "sub", "PUSH": "pull"}


def open_source(endpoint, kind="pull", decoder=None, clock=time.monotonic, **settings):
    config = having(TINY_SOURCE, endpoint=endpoint, socket=kind, **settings)
    decoder = decoder or KaraboDecoder(TINY, config, ExposureSettings(), range(TINY.modules))
    return ZmqSource(config, decoder, TINY, clock=clock, wall=lambda: NOW)


def until(source, found):
    """Batches received until found(batches) is true."""
    batches, end = [], time.monotonic() + LIMIT
    while not found(batches):
        assert time.monotonic() < end, f"nothing came: {source.tally}"
        batches += source.receive(0.0) or source.receive(0.02)
    return batches


def feed(server, train_id):
    server.feed(*deserialize(karabo_message(make_train(train_id=train_id))), timeout=LIMIT)


@pytest.fixture
def context():
    with zmq.Context() as context:
        context.linger = 0
        yield context


@pytest.fixture
def push(context):
    """A sender bound to a free port, and its endpoint."""
    with context.socket(zmq.PUSH) as sender:
        sender.sndtimeo = int(LIMIT * 1000)
        port = sender.bind_to_random_port("tcp://127.0.0.1")
        yield sender, f"tcp://127.0.0.1:{port}"


@pytest.mark.parametrize("version", ["2.2", "1.0"])
@pytest.mark.parametrize("kind", ["REP", "PUSH"])
def test_a_karabo_bridge_is_read_without_loss(kind, version):
    with (
        ServerInThread("tcp://127.0.0.1:*", sock=kind, protocol_version=version) as server,
        open_source(server.endpoint, SERVERS[kind]) as source,
    ):
        for train_id in range(5):
            feed(server, train_id)
        batches = until(source, lambda batches: len(batches) == 10)
        for n, batch in enumerate(batches):
            assert_same_batch(batch, make_batch(module=n % 2, train_id=n // 2))
        assert source.connected
        tally = source.tally
        assert (tally.messages, tally.frames) == (5, {0: 15, 1: 15})
        assert not tally.missed + tally.malformed + tally.rejected
        assert tally.nbytes > 5 * 2 * 2 * make_batch().pixels.nbytes


@pytest.mark.parametrize("version", ["2.2", "1.0"])
def test_a_karabo_bridge_that_publishes_is_read_from_wherever_it_is(version):
    with (
        ServerInThread("tcp://127.0.0.1:*", sock="PUB", protocol_version=version) as server,
        open_source(server.endpoint, "sub") as source,
    ):
        batches, train_id, end = [], 0, time.monotonic() + LIMIT
        while len(batches) < 6:
            assert time.monotonic() < end
            feed(server, train_id)
            batches += source.receive(0.05)
            train_id += 1
        for batch in batches:
            assert_same_batch(batch, make_batch(module=batch.module, train_id=int(batch.train_id[0])))


def test_gaps_duplicates_and_late_trains_are_counted_and_not_handed_on(push):
    sender, endpoint = push
    with open_source(endpoint) as source:
        for train_id in (1, 2, 2, 5, 3, 6):
            sender.send_multipart(karabo_message([make_batch(train_id=train_id)]))
        batches = until(source, lambda batches: source.tally.messages == 6)
        assert [int(batch.train_id[0]) for batch in batches] == [1, 2, 5, 6]
        assert source.tally.missed_trains == {0: 2}
        assert source.tally.missed == {0: 6}
        assert source.tally.rejected == {(0, "duplicate"): 3, (0, "reordered"): 3}
        assert source.tally.frames == {0: 12}


def test_a_train_in_two_messages_is_one_train(push):
    sender, endpoint = push
    with open_source(endpoint) as source:
        sender.send_multipart(karabo_message([make_batch(n=2, cell=[0, 1])]))
        sender.send_multipart(karabo_message([make_batch(n=2, cell=[1, 2])]))
        first, second = until(source, lambda batches: len(batches) == 2)
        np.testing.assert_array_equal(first.cell, [0, 1])
        np.testing.assert_array_equal(second.cell, [2])
        assert second.pixels.shape == second.gain.shape == (1, 64, 32)
        assert source.tally.rejected == {(0, "duplicate"): 1}


def test_a_restarted_sender_is_noticed_and_costs_nothing(push):
    sender, endpoint = push
    with open_source(endpoint) as source:
        for train_id in (5000, 1, 2):
            sender.send_multipart(karabo_message([make_batch(train_id=train_id)]))
        assert len(until(source, lambda batches: source.tally.messages == 3)) == 3
        assert source.tally.series == {0: 1}
        assert not source.tally.missed


@pytest.mark.parametrize(
    ("cases", "protocol"),
    [
        (hostile.anything() + hostile.karabo_2_2() + hostile.karabo_1_0(), KaraboDecoder),
        (hostile.anything() + hostile.native(), NativeDecoder),
    ],
    ids=["karabo", "native"],
)
def test_after_each_hostile_message_the_next_good_train_is_accumulated(push, cases, protocol):
    sender, endpoint = push
    cases = [case for case in cases if case.parts]
    decoder = protocol(TINY, TINY_SOURCE, ExposureSettings(), range(2))
    good = karabo_message if protocol is KaraboDecoder else lambda batches: native_message(batches[0])
    with open_source(endpoint, decoder=decoder) as source:
        for number, case in enumerate(cases):
            before, train_id = source.tally.snapshot(), 5000 + number
            sender.send_multipart(case.parts)
            sender.send_multipart(good([make_batch(train_id=train_id)]))
            batches = until(source, lambda _, n=number: source.tally.messages == 2 * n + 2)
            assert_same_batch(batches[-1], make_batch(train_id=train_id))
            if case.whole:
                assert source.tally.malformed - before.malformed == {case.reason: 1}, case.name
                assert len(batches) == 1
            else:
                assert case.reason in {reason for _, reason in source.tally.rejected - before.rejected}, case.name
        assert source.tally.disconnects == 0


def test_a_part_beyond_the_limit_is_counted_before_anybody_decodes_it(push, caplog):
    sender, endpoint = push
    with open_source(endpoint, max_message_mb=1, decoder=Broken()) as source:
        sender.send_multipart([b"x", bytes((1 << 20) + 1)])
        until(source, lambda _: source.tally.messages == 1)
        assert source.tally.malformed == {"oversized": 1}
        assert source.tally.disconnects == 0
        assert "a part of 1048577 bytes; source.max_message_mb = 1" in caplog.text


def test_a_part_beyond_twice_the_limit_costs_the_connection_and_no_more(push, caplog):
    sender, endpoint = push
    with open_source(endpoint, max_message_mb=1) as source:
        sender.send_multipart(karabo_message([make_batch(train_id=1)]))
        until(source, lambda batches: batches)
        sender.send_multipart([b"x", bytes((2 << 20) + 1)])
        until(source, lambda _: source.tally.disconnects == 1)
        assert "source.max_message_mb = 1" in caplog.text
        until(source, lambda _: source.connected)
        sender.send_multipart(karabo_message([make_batch(train_id=2)]))
        (batch,) = until(source, lambda batches: batches)
        assert batch.train_id[0] == 2
        assert source.tally.messages == 2


def test_a_peer_of_the_wrong_kind_is_reported_and_tried_again(context, caplog):
    clock = Clock()
    with context.socket(zmq.PUB) as wrong:
        port = wrong.bind_to_random_port("tcp://127.0.0.1")
        with open_source(f"tcp://127.0.0.1:{port}", clock=clock) as source:
            until_true(source, lambda: "source.socket = 'pull'" in caplog.text)
            assert not source.connected
            wrong.close(linger=0)
            with context.socket(zmq.PUSH) as right:
                until_true(source, lambda: bound(right, port))
                clock.now += 2
                until_true(source, lambda: source.connected)
                right.send_multipart(karabo_message())
                until_true(source, lambda: source.tally.frames == {0: 3, 1: 3})


def test_several_endpoints_are_one_stream(context):
    with context.socket(zmq.PUSH) as one, context.socket(zmq.PUSH) as other:
        senders = (one, other)
        endpoints = tuple(f"tcp://127.0.0.1:{s.bind_to_random_port('tcp://127.0.0.1')}" for s in senders)
        with open_source(endpoints) as source:
            until(source, lambda _: source.connected)
            for module, sender in enumerate(senders):
                for train_id in (1, 2, 4):
                    sender.send_multipart(karabo_message([make_batch(module=module, train_id=train_id)]))
            until(source, lambda batches: len(batches) == 6)
            assert source.tally.missed_trains == {0: 1, 1: 1}


class Clock:
    """Time that passes only when told."""

    now = 1000.0

    def __call__(self):
        return self.now


def asked(server):
    """The peer whose request has come."""
    assert server.poll(LIMIT * 1000), "no request came"
    peer, _, request = server.recv_multipart()
    assert request == b"next"
    return peer


def test_a_lost_reply_does_not_silence_a_req_socket(context):
    clock = Clock()
    with context.socket(zmq.ROUTER) as server:
        endpoint = f"tcp://127.0.0.1:{server.bind_to_random_port('tcp://127.0.0.1')}"
        with open_source(endpoint, "req", clock=clock) as source:
            source.receive(0.0)
            asked(server)
            until_true(source, lambda: source.connected)
            clock.now += 29
            source.receive(0.0)
            assert source.tally.resets == 0
            clock.now += 2
            source.receive(0.0)
            assert source.tally.resets == 1
            server.send_multipart([asked(server), b"", *karabo_message()])
            until_true(source, lambda: source.tally.frames == {0: 3, 1: 3})
            source.receive(0.0)
            asked(server)  # and it goes on


def test_a_server_that_dies_with_our_request_is_asked_again_when_it_is_back(context):
    clock = Clock()
    with context.socket(zmq.ROUTER) as server:
        port = server.bind_to_random_port("tcp://127.0.0.1")
        with open_source(f"tcp://127.0.0.1:{port}", "req", clock=clock) as source:
            source.receive(0.0)
            asked(server)
            until_true(source, lambda: source.connected)
            server.close(linger=0)
            until_true(source, lambda: source.tally.disconnects == 1)
            assert not source.connected
            with context.socket(zmq.ROUTER) as again:
                until_true(source, lambda: bound(again, port))
                until_true(source, lambda: again.poll(0))
                again.send_multipart([asked(again), b"", *karabo_message()])
                until_true(source, lambda: source.tally.frames == {0: 3, 1: 3})
                assert source.tally.resets == 1


def bound(server, port):
    try:
        server.bind(f"tcp://127.0.0.1:{port}")
    except zmq.ZMQError:
        return False
    return True


def until_true(source, found):
    """Turn the source, whose clock stands still, until found() is true."""
    end = time.monotonic() + LIMIT
    while not found():
        assert time.monotonic() < end, f"in vain: {source.tally}"
        source.receive(0.0)


def test_a_server_that_is_not_there_yet_is_waited_for():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clock = Clock()
    with open_source(f"tcp://127.0.0.1:{port}", "req", clock=clock) as source:
        assert source.receive(0.0) == []
        clock.now += 1000
        assert source.receive(0.0) == []
        assert not source.connected
        assert source.tally.resets == 0


def test_receive_gives_up_when_its_time_is_over(push):
    with open_source(push[1]) as source:
        begun = time.monotonic()
        assert source.receive(0.15) == []
        assert time.monotonic() - begun >= 0.15


def test_frames_outlive_the_socket_they_came_through(push):
    sender, endpoint = push
    with open_source(endpoint) as source:
        sender.send_multipart(karabo_message())
        batches = until(source, lambda batches: batches)
    for batch in batches:
        assert_same_batch(batch, make_batch(module=batch.module))


def test_a_stream_without_a_clock_gets_the_time_of_arrival(push):
    sender, endpoint = push
    with open_source(endpoint) as source:
        sender.send_multipart(hostile.karabo_train(timestamp=None, sec=None))
        (batch,) = until(source, lambda batches: batches)
        assert batch.timestamp == NOW


class Broken:
    """A decoder with a fault of ours."""

    def decode(self, parts, received=None):
        raise KeyError("ours")


def test_a_fault_of_ours_is_counted_logged_and_survived(push, caplog):
    sender, endpoint = push
    with open_source(endpoint, decoder=Broken()) as source:
        for _ in range(3):
            sender.send_multipart([b"", b""])
        until(source, lambda _: source.tally.messages == 3)
        assert source.tally.malformed == {"unexpected": 3}
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.exc_info


def test_each_reason_is_logged_once_and_then_counted(push, caplog):
    sender, endpoint = push
    caplog.set_level(logging.INFO)
    clock = Clock()
    with open_source(endpoint, clock=clock) as source:
        for number in range(6):
            sender.send_multipart(hostile.karabo_train(data=np.zeros((3, 32, 64), np.uint16)))
            sender.send_multipart(hostile.karabo_train(name="XGM/A"))
            until_true(source, lambda n=number: source.tally.messages == 2 * n + 2)
            clock.now += 25
        shape = [r.getMessage() for r in caplog.records if r.event == "shape"]
        assert len(shape) == 2
        assert "message refused (shape): TINY/DET/0CH0:xtdf: array of shape [3, 32, 64]" in shape[0]
        assert "(2 more of the kind shape since the last line)" in shape[1]
        foreign = [r for r in caplog.records if r.event == "unknown_source"]
        assert [r.levelno for r in foreign] == [logging.INFO] * 2
        assert "XGM/A" in foreign[0].getMessage()
        assert source.tally.malformed == {"shape": 6}
        assert source.tally.rejected == {(NO_MODULE, "unknown_source"): 6}


def test_train_ids_that_start_again_and_again_are_one_line_a_minute(push, caplog):
    sender, endpoint = push
    caplog.set_level(logging.INFO)
    with open_source(endpoint, clock=Clock()) as source:
        for number in range(20):
            sender.send_multipart(karabo_message([make_batch(train_id=10**6 * (1 + number % 2))]))
        until_true(source, lambda: source.tally.messages == 20)
        assert source.tally.series == {0: 19}
        (line,) = (r.getMessage() for r in caplog.records if r.event == "new_series")
        assert line == "module 0: train ids start again at 2000000"


def test_a_snapshot_of_the_tally_stands_still(push):
    sender, endpoint = push
    with open_source(endpoint) as source:
        before = source.tally.snapshot()
        sender.send_multipart(karabo_message())
        until(source, lambda batches: batches)
        assert (before.messages, before.frames) == (0, {})
        assert source.tally.snapshot() == source.tally


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1", "tcp://no-such-host-here:x", "udp://127.0.0.1:5"])
def test_an_endpoint_that_cannot_be_is_a_config_error(endpoint, context):
    with pytest.raises(ConfigError, match=r"source\.endpoint"):
        open_source(endpoint)


def test_a_source_closes_twice_and_leaves_a_foreign_context_open(context):
    config = having(TINY_SOURCE, endpoint="tcp://127.0.0.1:1", socket="req")
    source = ZmqSource(config, Broken(), TINY, context=context)
    source.receive(0.0)
    source.close()
    source.close()
    assert not context.closed
