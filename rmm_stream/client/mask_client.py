"""MaskClient: keeps the newest mask of one or several publishers in a background thread. Sockets and time; no rules.

Make it after a fork, not before: threads and ZeroMQ contexts do not survive one.
"""

import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import zmq

from ..errors import ConfigError, ProtocolError
from ..mask import BadPixel, MaskUpdate
from ..wire import masks as wire
from . import view as views
from .core import Ask, ClientCore
from .view import ShardView

NOTHING = BadPixel(0)
HWM = 16  # messages; a slow client shall see the present, and asks for what it missed


class MaskClient:
    """A mask that keeps itself current.

    endpoint, more: PUB endpoints of the publishers; cells of one module may be split over several.
    detector: "" takes the first that is heard. modules: those wanted; None: all.
    requests: ROUTER endpoint, one per publisher, where the one that a publisher announces cannot be reached.
    Raises ConfigError for an endpoint that ZeroMQ does not understand. Close it, or use it in a `with` statement.

    No method but `wait` and `close` blocks. `counts` and `malformed` say what was dropped, and why.
    """

    def __init__(
        self,
        endpoint: str,
        *more: str,
        detector: str = "",
        modules: Sequence[int] | None = None,
        requests: str | Sequence[str] | None = None,
    ):
        self._endpoints = (endpoint, *more)
        self._requests = (requests,) if isinstance(requests, str) else tuple(requests or ())
        if self._requests and len(self._requests) != len(self._endpoints):
            raise ConfigError(f"requests: {len(self._requests)} endpoints given for {len(self._endpoints)} publishers")
        self._core = ClientCore(
            len(self._endpoints), detector, modules,
            now=time.monotonic(), prefix=os.urandom(6).hex().encode() + b"-", jitter=random.random,
        )  # fmt: skip
        self._collapsed = views.Collapsed()
        self._callbacks: tuple[Callable[[MaskUpdate], object], ...] = ()
        self._changed = threading.Condition()
        self._closing = threading.Lock()
        self._closed = False
        self._fault = ""  # what ended the thread, if it was not `close`
        self._context = zmq.Context(io_threads=1)
        try:
            self._updates = [self._subscribe(each) for each in self._endpoints]
            self._wake = _socket(self._context, zmq.PAIR, wire.MAX_REQUEST)
            self._wake.bind("inproc://wake")
            self._waker = _socket(self._context, zmq.PAIR, wire.MAX_REQUEST)
            self._waker.connect("inproc://wake")
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._dealers: list[zmq.Socket | None] = [None] * len(self._endpoints)
        self._thread = threading.Thread(target=self._run, name="mask-client", daemon=True)
        self._thread.start()

    # -- what the consumer asks; each call sees one version

    def flags(self, module: int, gain_stage: int, cell: int | None = None) -> np.ndarray:
        """(cells, ss, fs) uint8, or (ss, fs) for one cell; read-only, 0 is good; NO_DATA in maps not yet judged.

        Raises LookupError for a module, stage or cell that no publisher has announced.
        """
        return views.flags(self._core.view, module, gain_stage, cell)

    def bad(self, module: int, ignore: BadPixel = NOTHING) -> np.ndarray:
        """(ss, fs) bool, read-only, True is bad: OR over judged cells and stages, without the bits of `ignore`.

        Cheap while nothing changed: call it for every frame. Bad everywhere while no map of the module is judged.
        Raises LookupError for a module that no publisher has announced.
        """
        return self._collapsed.bad(self._core.view, module, int(ignore))

    def judged(self, module: int) -> np.ndarray:
        """(stages, cells) uint8, features decided for each map; 0: none yet. Raises LookupError as `flags` does."""
        return views.judged(self._core.view, module)

    @property
    def shards(self) -> dict[str, ShardView]:
        """The state of each shard by name: generation, epoch, sequence, version, train_id, maps. Read-only."""
        return self._core.view.shards

    @property
    def modules(self) -> list[int]:
        """Modules that were heard of."""
        return sorted({view.shard.module for view in self.shards.values()})

    @property
    def version(self) -> int:
        """Number of the newest stored version; of several shards the lowest. 0: none is stored yet."""
        return min((view.version for view in self.shards.values()), default=0)

    @property
    def train_id(self) -> int:
        """The last train behind any map."""
        return max((view.train_id for view in self.shards.values()), default=0)

    @property
    def generation(self) -> int:
        """The highest of all shards; -1 before the first snapshot."""
        return max((view.generation for view in self.shards.values()), default=-1)

    @property
    def epoch(self) -> str:
        """Life of the publisher; of several, joined by commas."""
        return ",".join(sorted({view.epoch for view in self.shards.values() if view.epoch}))

    @property
    def sequence(self) -> int:
        """Updates behind the mask in this epoch, summed over shards; -1 before the first snapshot."""
        return sum(view.sequence for view in self.shards.values()) if self.shards else -1

    @property
    def age(self) -> float:
        """Seconds since the whole mask was last known to be the newest; inf before it was."""
        return self._core.view.age(time.monotonic())

    @property
    def stale(self) -> bool:
        """Whether nothing was heard, some shard is silent or out of step for 3 heartbeats, or nobody listens any more:
        the client is closed, its thread failed, or the process was forked. The mask is served on."""
        view = self._core.view
        return bool(view.stale) or not view.shards or self._closed or not self._thread.is_alive()

    @property
    def counts(self) -> Counter[str]:
        """applied, duplicates, gaps, snapshots, fenced, rivals (two publishers of one generation: an alarm), ..."""
        return Counter(self._core.counts)

    @property
    def malformed(self) -> Counter[str]:
        """Messages refused, by reason."""
        return Counter(self._core.malformed)

    def on_update(self, callback: Callable[[MaskUpdate], object]) -> None:
        """Call `callback` with each MaskUpdate from now on, in the client's thread, after the mask has it.

        A callback that raises is logged and counted (counts["callbacks_failed"]), and called again at the next update.
        """
        self._callbacks = (*self._callbacks, callback)

    def wait(self, timeout: float = 10.0) -> None:
        """Return when every publisher was heard, every snapshot is in, and each module has a judged map.

        Raises TimeoutError after `timeout` s, saying what was missing.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while missing := self._missing():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"no complete mask within {timeout:g} s: {missing}")
                self._changed.wait(left)

    def _missing(self) -> str:
        """What keeps the mask from being complete and current; "": nothing."""
        if self._closed or not self._thread.is_alive():
            return self._fault or "the client is closed"
        core, view = self._core, self._core.view
        silent = [endpoint for link, endpoint in enumerate(self._endpoints) if not core.greeted(link)]
        if silent:
            return f"nothing heard from {', '.join(silent)}; is the service running, and is this its PUB endpoint?"
        heard = {each.shard.module for each in view.shards.values()}
        absent = sorted((core.modules or heard) - heard)
        if absent or not heard:
            what = f"module {', '.join(map(str, absent))}" if absent else f"detector {core.detector!r}"
            return f"the publisher is heard, but not of {what}"
        waiting = sorted(name for name, each in view.shards.items() if each.generation < 0)
        waiting = waiting or core.pending()
        if waiting:
            where = {self._request_endpoint(link) for link in range(len(self._endpoints))}
            return f"no snapshot of {', '.join(waiting)} from {', '.join(sorted(where))}"
        if view.stale:
            return f"no heartbeat of {', '.join(sorted(view.stale))}; the service hangs or has stopped"
        unjudged = [module for module in sorted(heard) if not views.judged(view, module).any()]
        if unjudged:
            return f"no map of module {', '.join(map(str, unjudged))} is judged yet; too few frames so far"
        return ""

    # -- the thread

    def _subscribe(self, endpoint: str) -> zmq.Socket:
        socket = _socket(self._context, zmq.SUB, wire.MAX_UPDATE)
        detector, modules = self._core.detector, self._core.modules
        if detector and modules is not None:
            topics = [wire.mask_topic(detector, module) for module in sorted(modules)]
        else:
            topics = [f"mask/{detector}/".encode() if detector else b"mask/"]
        for topic in (*topics, f"beat/{detector}/".encode() if detector else b"beat/"):
            socket.subscribe(topic)
        return _connect(socket, endpoint)

    def _request_endpoint(self, link: int) -> str:
        if self._requests:
            return self._requests[link]
        return request_endpoint(self._endpoints[link], self._core.requests(link))

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (self._wake, *self._updates):
            poller.register(socket, zmq.POLLIN)
        try:
            while True:
                patience = self._core.wake_at() - time.monotonic()
                ready = dict(poller.poll(int(1000 * min(max(patience, 0.0), 1.0)) + 1))
                if self._wake in ready:
                    return
                for link, (updates, dealer) in enumerate(zip(self._updates, tuple(self._dealers))):
                    if updates in ready:
                        self._drain(poller, link, updates, self._core.feed)
                    if dealer in ready:
                        self._drain(poller, link, dealer, self._core.answer)
                self._act(poller, self._core.tick(time.monotonic()))
        except Exception as e:
            self._fault = f"the client's thread failed: {type(e).__name__}: {e}; make a new client"
            _log_exception("the client's thread failed; its mask is stale from now on")
        finally:
            self._context.destroy(linger=0)
            with self._changed:
                self._changed.notify_all()

    def _drain(self, poller: zmq.Poller, link: int, socket: zmq.Socket, feed: Callable) -> None:
        """Hand over what waits, but not without end, so that each publisher gets its turn."""
        for _ in range(2 * HWM):
            if socket.closed:  # its successor has another request under way
                return
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._act(poller, feed(link, parts, time.monotonic()))

    def _act(self, poller: zmq.Poller, actions: list) -> None:
        for action in actions:
            if isinstance(action, Ask):
                self._ask(poller, action)
            else:
                self._tell(action.update)
        with self._changed:
            self._changed.notify_all()

    def _ask(self, poller: zmq.Poller, ask: Ask) -> None:
        """A new socket for each request: what an old one still brings is nobody's answer."""
        old = self._dealers[ask.link]
        if old is not None:
            poller.unregister(old)
            old.close(linger=0)
            self._dealers[ask.link] = None
        try:
            dealer = _connect(_socket(self._context, zmq.DEALER, wire.MAX_SNAPSHOT), self._request_endpoint(ask.link))
        except ConfigError:
            self._core.malformed["mistyped"] += 1  # a peer announced it; the next heartbeat may do better
            return
        self._dealers[ask.link] = dealer
        poller.register(dealer, zmq.POLLIN)
        with contextlib.suppress(zmq.Again):  # silence: the core asks again
            dealer.send_multipart([ask.id, wire.encode_request(wire.SnapshotRequest(ask.shard))], zmq.NOBLOCK)

    def _tell(self, update: MaskUpdate) -> None:
        for callback in self._callbacks:
            try:
                callback(update)
            except Exception:
                _log_exception("a callback of on_update failed")
                self._core.counts["callbacks_failed"] += 1

    def close(self) -> None:
        """Stop the thread and close the sockets; at once. May be called twice."""
        self._closed = True
        with self._closing:
            if not self._waker.closed:
                self._waker.send(b"")
                if threading.current_thread() is not self._thread:  # a callback may close, too
                    self._thread.join()

    def __enter__(self) -> "MaskClient":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def ask(endpoint: str, request: wire.Request, timeout: float = 5.0) -> dict:
    """Send one operator request to a ROUTER endpoint and return what the service answers.

    Raises ConfigError for a wrong endpoint, TimeoutError after `timeout` s, ProtocolError where the service refuses.
    """
    context = zmq.Context(io_threads=1)
    try:
        dealer = _connect(_socket(context, zmq.DEALER, wire.MAX_REQUEST), endpoint)
        name = os.urandom(8).hex().encode()
        dealer.send_multipart([name, wire.encode_request(request)])
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if dealer.poll(max(1, int(left * 1000))):
                parts = dealer.recv_multipart()
                if len(parts) == 2 and parts[0] == name:
                    reply = wire.decode_reply(parts[1])
                    if reply.reason:
                        raise ProtocolError(reply.reason, reply.text)
                    return reply.result
        raise TimeoutError(f"no answer from {endpoint} within {timeout:g} s; is this the ROUTER endpoint of a service?")
    finally:
        context.destroy(linger=0)


def request_endpoint(updates: str, announced: str) -> str:
    """Where to send requests, given the PUB endpoint that we use and the ROUTER endpoint that the publisher announces.

    A publisher bound to every interface announces no host: it is the one we already talk to. Before it has announced
    anything, it is the next port.
    """
    host, _, port = updates.removeprefix("tcp://").rpartition(":")
    if not announced.startswith(("tcp://", "ipc://")):  # a peer must not lead us to any other kind of transport
        return f"tcp://{host}:{int(port) + 1}" if updates.startswith("tcp://") and port.isdigit() else updates
    for every in ("tcp://0.0.0.0:", "tcp://[::]:", "tcp://*:"):
        if announced.startswith(every) and updates.startswith("tcp://"):
            return f"tcp://{host}:{announced.removeprefix(every)}"
    return announced


def _log_exception(text: str) -> None:
    import logging  # costs 3 % of the client's import, and only what goes wrong needs it

    logging.getLogger(__name__).exception(text)


def _socket(context: zmq.Context, kind: int, limit: int) -> zmq.Socket:
    """All options before connect: most are ignored after it, without an error."""
    socket = context.socket(kind)
    socket.linger = 0
    socket.rcvhwm = socket.sndhwm = HWM
    socket.maxmsgsize = limit
    socket.heartbeat_ivl, socket.heartbeat_timeout, socket.heartbeat_ttl = 500, 1500, 1500  # ms
    socket.reconnect_ivl, socket.reconnect_ivl_max = 100, 1000  # ms
    return socket


def _connect(socket: zmq.Socket, endpoint: str) -> zmq.Socket:
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as e:
        socket.close(linger=0)
        raise ConfigError(f"endpoint {endpoint!r}: {e}; expected one such as tcp://127.0.0.1:5610") from None
    return socket
