"""The sending side of a stream, for the simulator: one PUB, PUSH or REP socket, and a tap that copies it.

Binds and waits for its consumer, so that nobody misses the darks. Knows no protocol but karabo's request, `next`.
"""

import threading
import time
from collections.abc import Sequence

import zmq

from ..errors import ConfigError
from ..wire.decoder import Part

#: What the receiver connects with -> what the sender binds. XPUB is PUB that sees subscriptions come and go.
MIRROR = {"sub": "pub", "pull": "push", "req": "rep"}
KINDS = {"pub": zmq.XPUB, "push": zmq.PUSH, "rep": zmq.REP}
REQUEST = b"next"
HWM = 2  # messages; a slow consumer shall slow a PUSH, not fill the memory
LINGER_MS = 10_000  # the last trains still go out after the end
POLL_MS = 100


class FrameSender:
    """Mutable, used by one thread; `stop` may be set by another, or by a signal. Close it, or use `with`."""

    def __init__(self, endpoint: str, kind: str, tap: str | None = None, stop: threading.Event | None = None):
        """Binds. kind: of KINDS. Raises ConfigError where an endpoint cannot be bound."""
        self._kind, self._stop = kind, stop or threading.Event()
        self._context = zmq.Context()
        try:
            self._socket = _bind(self._context, KINDS[kind], endpoint)
            self._tap = None if tap is None else _bind(self._context, zmq.XPUB, tap)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.endpoint = _bound(self._socket)
        self.tap_endpoint = None if self._tap is None else _bound(self._tap)

    def wait(self, timeout_s: float | None = None, tap: bool = False) -> bool:
        """Wait until a consumer is there (a subscriber, a PULL, a first request), and with `tap` one of the tap too.

        Returns False after `timeout_s`, None: never, or when `stop` was set.
        """
        event = zmq.POLLOUT if self._kind == "push" else zmq.POLLIN
        wanted = [(self._socket, event)] + ([(self._tap, zmq.POLLIN)] if tap and self._tap is not None else [])
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for socket, event in wanted:
            while not socket.poll(POLL_MS, event):
                if self._stop.is_set() or (deadline is not None and time.monotonic() >= deadline):
                    return False
        return True

    def send(self, parts: Sequence[Part]) -> bool:
        """Send one message, and a copy to the tap. PUSH and REP wait for their consumer. False: stopped while waiting."""
        if self._tap is not None:
            _forget_subscriptions(self._tap)
            self._tap.send_multipart(parts, copy=False)
        if self._kind == "rep" and not self._request():
            return False
        if self._kind == "pub":
            _forget_subscriptions(self._socket)
        while not self._socket.poll(POLL_MS, zmq.POLLOUT):
            if self._stop.is_set():
                return False
        self._socket.send_multipart(parts, copy=False)
        return True

    def _request(self) -> bool:
        """Take one request for a train; other requests get the answer that the karabo bridge gives."""
        while not self._stop.is_set():
            if self._socket.poll(POLL_MS):
                request = self._socket.recv()
                if request == REQUEST:
                    return True
                self._socket.send(b"Error: bad request " + request[:256])
        return False

    def close(self) -> None:
        """Closes the sockets; what was sent still goes out, for at most LINGER_MS unless `stop` was set."""
        self._context.destroy(linger=0 if self._stop.is_set() else LINGER_MS)

    def __enter__(self) -> "FrameSender":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _bind(context: zmq.Context, kind: int, endpoint: str) -> zmq.Socket:
    socket = context.socket(kind)
    socket.set(zmq.SNDHWM, HWM)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as e:
        raise ConfigError(f"cannot bind {endpoint}: {e.strerror}; is another simulator running there?") from None
    return socket


def _bound(socket: zmq.Socket) -> str:
    return socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()


def _forget_subscriptions(socket: zmq.Socket) -> None:
    """XPUB queues what subscribers say; nobody reads it here."""
    while socket.poll(0):
        socket.recv()
