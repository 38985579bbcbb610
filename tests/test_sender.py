"""The sending side: waits for its consumer, answers requests as the karabo bridge does, and copies to the tap."""

import threading

import pytest
import zmq

from rmm_stream.errors import ConfigError
from rmm_stream.sources.sender import FrameSender

LOCAL = "tcp://127.0.0.1:*"


@pytest.fixture
def connect():
    """A function: (kind, endpoint) -> a connected socket, closed after the test."""
    context = zmq.Context()
    sockets = []

    def connect(kind, endpoint):
        sockets.append(context.socket(kind))
        if kind == zmq.SUB:
            sockets[-1].subscribe(b"")
        sockets[-1].connect(endpoint)
        return sockets[-1]

    yield connect
    context.destroy(linger=0)


def received(socket):
    assert socket.poll(5000), "nothing arrived"
    return socket.recv_multipart()


@pytest.mark.parametrize(("kind", "receiver"), [("pub", zmq.SUB), ("push", zmq.PULL)])
def test_nothing_is_sent_before_the_consumer_is_there_and_nothing_is_lost_then(connect, kind, receiver):
    with FrameSender(LOCAL, kind) as sender:
        assert not sender.wait(0.0)
        socket = connect(receiver, sender.endpoint)
        assert sender.wait(5.0)
        for i in range(2):
            assert sender.send([b"head", bytes([i])])
        assert [received(socket) for _ in range(2)] == [[b"head", b"\0"], [b"head", b"\1"]]


def test_a_train_goes_out_on_request_and_other_requests_are_refused_like_the_bridge_does(connect):
    with FrameSender(LOCAL, "rep") as sender:
        socket = connect(zmq.REQ, sender.endpoint)
        socket.send(b"more")
        assert sender.wait(5.0)
        sending = threading.Thread(target=sender.send, args=([b"a", b"b"],))
        sending.start()
        assert received(socket) == [b"Error: bad request more"]
        socket.send(b"next")
        assert received(socket) == [b"a", b"b"]
        sending.join(5.0)


def test_the_tap_sees_the_same_messages(connect):
    with FrameSender(LOCAL, "push", tap=LOCAL) as sender:
        puller = connect(zmq.PULL, sender.endpoint)
        assert not sender.wait(0.0, tap=True)
        tapped = connect(zmq.SUB, sender.tap_endpoint)
        assert sender.wait(5.0, tap=True)
        assert sender.send([b"x", b"y"])
        assert received(puller) == received(tapped) == [b"x", b"y"]


def test_a_sender_that_waits_for_nobody_can_be_stopped():
    stop = threading.Event()
    with FrameSender(LOCAL, "push", stop=stop) as sender:
        stop.set()
        assert not sender.wait()
        assert not sender.send([b"x"])
    with FrameSender(LOCAL, "rep", stop=stop) as sender:
        assert not sender.send([b"x"])


def test_a_taken_port_is_the_operators_to_solve():
    with FrameSender(LOCAL, "push") as sender, pytest.raises(ConfigError, match=r"cannot bind .* another simulator"):
        FrameSender(sender.endpoint, "push")
