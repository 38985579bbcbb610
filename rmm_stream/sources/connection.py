"""One ZeroMQ socket towards one endpoint, with its monitor; a REQ socket also remembers that its request is out.

Message parts come out as memoryviews over ZeroMQ's own buffers, without a copy. Knows no protocol but the word "next".
"""

import zmq
from zmq.utils.monitor import recv_monitor_message

from .. import config
from ..errors import ConfigError

KINDS = {"sub": zmq.SUB, "pull": zmq.PULL, "req": zmq.REQ}
REQUEST = b"next"  # karabo-bridge knows no other
RECONNECT_MS, RECONNECT_MAX_MS = 100, 5000
#: s without a sign that ZeroMQ tries again, after which a lost connection is made anew. It does not try again after an
#: oversized part or a failed handshake: one such message would silence the source for good.
REVIVE = 1.0
KEEPALIVE = {zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 30, zmq.TCP_KEEPALIVE_INTVL: 10, zmq.TCP_KEEPALIVE_CNT: 3}
WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED


class Connection:
    """Mutable; one thread. Registers itself with `poller`. Raises ConfigError for an endpoint that ZeroMQ refuses.

    connected: whether the peer is there and speaks ZeroMQ.
    """

    def __init__(self, context: zmq.Context, poller: zmq.Poller, source: config.Source, endpoint: str):
        self.endpoint = endpoint
        self.connected = False
        self._context, self._poller, self._source = context, poller, source
        self._open()

    def _open(self) -> None:
        self.connected = False
        self._lost_reply = False  # the connection broke while our request was out
        self._asked_at: float | None = None  # since when a request is out
        self._down_at: float | None = None  # since when nobody tries to connect
        self._socket = self._context.socket(KINDS[self._source.socket])
        self._socket.linger = 0
        self._socket.set_hwm(self._source.hwm)
        # Bounds each part before it is allocated, at the price of the connection and without a word of why. Up to twice
        # the limit is read and refused by whoever reads it, who can count it.
        self._socket.maxmsgsize = 2 * (self._source.max_message_mb << 20)
        self._socket.reconnect_ivl, self._socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
        for option, value in KEEPALIVE.items():
            self._socket.setsockopt(option, value)
        if self._source.socket == "sub":
            self._socket.subscribe(b"")
        self._monitor = self._socket.get_monitor_socket(WATCHED)
        self._monitor.linger = 0
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            self._socket.connect(self.endpoint)
        except zmq.ZMQError as e:
            self.close()
            raise ConfigError(f"source.endpoint = {self.endpoint!r}: {e}; expected such as tcp://host:port") from None

    def close(self) -> None:
        """Drops what is in flight. May be called twice."""
        if self._socket.closed:
            return
        self.connected = False
        self._poller.unregister(self._socket)
        self._poller.unregister(self._monitor)
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def tend(self, now: float, reply_s: float) -> str:
        """Make a dead socket anew, and send the request that is due (REQ only). Returns why it was dead, or "".

        now: s, any clock that only grows. A REQ socket whose reply was lost can never send again.
        """
        dead = ""
        if self._lost_reply:
            dead = "it was lost with our request"
        elif self._asked_at is not None and self.connected and now - self._asked_at > reply_s:
            dead = f"no reply in {reply_s:.0f} s"
        elif self._down_at is not None and now - self._down_at > REVIVE:
            dead = "ZeroMQ has given it up"
        if dead:
            self.close()
            self._open()
        if self._source.socket == "req" and self._asked_at is None:
            self._socket.send(REQUEST)
            self._asked_at = now
        return dead

    def take(self) -> list[memoryview] | None:
        """The parts of the next message, if one is there."""
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        self._asked_at = None
        return [frame.buffer for frame in frames]

    def news(self, now: float) -> tuple[int, int]:
        """What the monitor saw since the last call: (connections lost, handshakes that failed)."""
        lost = refused = 0
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.connected, self._down_at = True, None
                if self._asked_at is not None:
                    self._asked_at = now  # a request that waited for the peer leaves only now
            elif event == zmq.EVENT_CONNECT_RETRIED:
                self._down_at = None
            else:
                lost += self.connected
                refused += not self.connected
                self._lost_reply |= self.connected and self._asked_at is not None
                self.connected, self._down_at = False, now
        return lost, refused
