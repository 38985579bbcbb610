"""Publisher: sends the newest mask and answers requests, in one thread that owns both sockets.

A mask is state: the latest update of each map is kept, encoded, and a snapshot is made of these in the thread that
numbers the updates, so that state and sequence agree. Knows nothing of frames, fits and files.
"""

import contextlib
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import zmq

from .config import Publish
from .errors import ConfigError, DataError, ProtocolError, RmmError
from .mask import MapChange, MapKey, MaskUpdate
from .shard import Shard
from .wire import masks as wire

log = logging.getLogger(__name__)

HWM = 16  # messages per peer; a slow one loses the rest, sees the gap, and asks for a snapshot
LINGER_MS = 1000
MARGIN = 1 << 20  # bytes beyond the limit of a request that are still read, to say that it is too large

Request = wire.Request


class _Outlet:
    """One shard's number of updates and latest maps. Mutable, owned by the publishing thread."""

    def __init__(self, shard: Shard):
        self.shard = shard
        self.sequence = 0  # of the last update; 0: none yet
        self.maps: dict[MapKey, bytes] = {}  # encoded as published
        self.packed: bytes | None = None  # all of them, for the next snapshot


class Publisher:
    """PUB for updates and heartbeats, ROUTER for requests.

    settings: endpoints (port 0 or * takes a free one) and the time between heartbeats.
    layout: (stages, cells, ss, fs) of a module's mask. shards: what this process will own.
    on_request: called in the publishing thread with a Request; it must not block. It returns a dict of plain values for
        the reply, or raises RmmError, whose text goes to the one who asked.
    alive: whether the worker makes progress; no heartbeat leaves while it does not, and every client sees it.
    on_update: called in the publishing thread with each update that left; it must not block.

    `published`, `snapshots`, ... of `counts`, and `malformed` by reason, may be read from any thread.
    Raises ConfigError for a mask beyond the limits of the wire.
    """

    def __init__(
        self,
        settings: Publish,
        detector: str,
        layout: tuple[int, int, int, int],
        shards: Sequence[Shard],
        config_digest: str,
        on_request: Callable[[Request], dict],
        alive: Callable[[], bool],
        on_update: Callable[[MaskUpdate], None] = lambda update: None,
    ):
        self.epoch = os.urandom(8).hex()
        self.updates_endpoint = ""  # both are known after bind()
        self.requests_endpoint = ""
        self.failure: BaseException | None = None  # what ended the thread before stop()
        self._settings, self._detector, self._layout = settings, detector, wire.Layout(*layout)
        self._generation, self._digest = 0, config_digest
        self._on_request, self._alive, self._on_update = on_request, alive, on_update
        self._outlets = {shard.name: _Outlet(shard) for shard in shards}
        self._version = self._train_id = 0
        self._counts: Counter[str] = Counter()
        self._malformed: Counter[str] = Counter()
        self._pending: queue.SimpleQueue[tuple[MapChange, int] | threading.Event | None] = queue.SimpleQueue()
        self._waking = threading.Lock()
        self._context: zmq.Context | None = None
        self._thread: threading.Thread | None = None
        if not shards or len(self._outlets) != len(shards):
            raise ConfigError(f"a publisher needs one or more shards, each once; found {[s.name for s in shards]}")
        for outlet in self._outlets.values():
            try:  # by the rule that clients use
                wire.decode_heartbeat(wire.encode_heartbeat(self._heartbeat("beat", outlet)))
            except ProtocolError as e:
                raise ConfigError(f"shard {outlet.shard.name} of {detector} cannot be published: {e}") from None

    # -- for other threads

    def bind(self) -> None:
        """Have both endpoints, and send nothing yet. Raises ConfigError where one cannot be bound; then all is closed."""
        self._context = zmq.Context(io_threads=1)
        try:
            self._pub = self._bound(zmq.PUB, "updates", wire.MAX_REQUEST)
            self._router = self._bound(zmq.ROUTER, "requests", wire.MAX_REQUEST + MARGIN)
            self._wake, self._waker = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
            self._wake.bind("inproc://wake")
            self._waker.connect("inproc://wake")
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.updates_endpoint = self._pub.last_endpoint.decode().rstrip("\0")
        self.requests_endpoint = self._router.last_endpoint.decode().rstrip("\0")

    def start(self, generation: int) -> None:
        """Begin to send. generation: from the lease, on disk already; nothing leaves without it. After bind()."""
        self._generation = generation
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, change: MapChange, version: int = 0) -> None:
        """Send a change as soon as the thread comes to it. version: newest stored version, 0 where none is.

        Raises DataError for a map that is not of this publisher's shards or layout.
        """
        self._outlet_of(change)
        if change.flags.flags.writeable:  # it is encoded later, in another thread
            change = replace(change, flags=change.flags.copy())
        self._pending.put((change, version))
        self._nudge()

    def progress(self, version: int, train_id: int) -> None:
        """Newest stored version and last train, for the next heartbeat; they go on while no map changes."""
        self._version, self._train_id = version, train_id

    def settle(self, timeout_s: float) -> bool:
        """Wait until all that was given to `publish` has left. Returns whether it has."""
        left = threading.Event()
        self._pending.put(left)
        self._nudge()
        return left.wait(timeout_s)

    @property
    def counts(self) -> Counter[str]:
        """published, beats, skipped_beats, snapshots, requests, refused."""
        return Counter(self._counts)

    @property
    def malformed(self) -> Counter[str]:
        """Requests that could not be read, by reason."""
        return Counter(self._malformed)

    def stop(self) -> None:
        """Send what waits and a last heartbeat "bye", then close; takes at most about a second. May be called twice.

        Who has bound and not started only closes: it has nothing to say.
        """
        if self._thread is None:
            if self._context is not None:
                self._context.destroy(linger=0)
        elif self._thread.is_alive():
            self._pending.put(None)
            self._nudge()
            self._thread.join()

    def _nudge(self) -> None:
        # The lock makes one thread after the other own this end. Again: a wake-up is already on its way.
        with self._waking, contextlib.suppress(zmq.Again):
            if self._thread is not None and self._thread.is_alive() and not self._waker.closed:
                self._waker.send(b"", zmq.NOBLOCK)

    def _outlet_of(self, change: MapChange) -> _Outlet:
        key, layout = change.key, self._layout
        for outlet in self._outlets.values():
            if key.module == outlet.shard.module and key.cell in outlet.shard.cells:
                flags = change.flags
                if flags.shape != layout[2:] or flags.dtype != np.uint8 or key.gain_stage >= layout.stages:
                    raise DataError(f"map {key} of {flags.dtype} {flags.shape} does not fit {layout}")
                return outlet
        raise DataError(f"map {key} is in none of the shards {', '.join(self._outlets)}")

    def _bound(self, kind: int, key: str, limit: int) -> zmq.Socket:
        """All options before bind: most are ignored after it, without an error."""
        socket = self._context.socket(kind)
        socket.linger = LINGER_MS
        socket.sndhwm = socket.rcvhwm = HWM
        socket.maxmsgsize = limit
        socket.heartbeat_ivl, socket.heartbeat_timeout, socket.heartbeat_ttl = 500, 1500, 1500  # ms
        endpoint = getattr(self._settings, key)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as e:
            raise ConfigError(f"publish.{key} = {endpoint!r}: {e}; choose another, or stop who has it") from None
        return socket

    # -- the thread

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as e:
            self.failure = e
            log.critical("the publisher stopped: no mask is published", exc_info=True)
        finally:
            with self._waking:
                self._context.destroy(linger=LINGER_MS)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        beat_at = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= beat_at:
                self._beat("beat")
                beat_at = max(beat_at + self._settings.heartbeat_s, now)
            ready = dict(poller.poll(max(0, int(1000 * (beat_at - time.monotonic())) + 1)))
            if self._wake in ready:
                self._wake.recv()
            if not self._send_pending():
                self._beat("bye")
                return
            if self._router in ready:
                self._answer(self._router.recv_multipart())

    def _send_pending(self) -> bool:
        """Publish what waits, a bounded part of it, so that requests get their turn. False: stop() was called."""
        for _ in range(HWM):
            try:
                item = self._pending.get_nowait()
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, threading.Event):
                item.set()
            else:
                self._publish(*item)
        self._nudge()
        return True

    def _publish(self, change: MapChange, version: int) -> None:
        outlet = self._outlet_of(change)
        self._version = max(self._version, version)
        self._train_id = change.train_id  # not the highest: one corrupt id would stay for good
        outlet.sequence += 1
        outlet.packed = None
        update = MaskUpdate(self._detector, outlet.shard.name, self._generation, self.epoch, outlet.sequence,
                            self._version, self._digest, change)  # fmt: skip
        data = outlet.maps[change.key] = wire.encode_update(update)
        self._pub.send_multipart([wire.mask_topic(self._detector, change.key.module), data])
        self._counts["published"] += 1
        self._on_update(update)

    def _standing(self, outlet: _Outlet) -> wire.Standing:
        return wire.Standing(
            self._detector, outlet.shard.name, self._generation, self.epoch, outlet.sequence,
            self._version, self._train_id, self._settings.heartbeat_s, self._layout,
        )  # fmt: skip

    def _heartbeat(self, kind: str, outlet: _Outlet) -> wire.Heartbeat:
        return wire.Heartbeat(kind, self._standing(outlet), self.requests_endpoint)

    def _beat(self, kind: str) -> None:
        if kind == "beat" and not self._alive():
            self._counts["skipped_beats"] += 1
            return
        for name, outlet in self._outlets.items():
            data = wire.encode_heartbeat(self._heartbeat(kind, outlet))
            self._pub.send_multipart([wire.beat_topic(self._detector, name), data])
        self._counts["beats"] += 1

    def _answer(self, parts: list[bytes]) -> None:
        """parts: [peer, (empty, of a REQ socket,) request id, msgpack]. Whatever comes, the thread goes on."""
        delimiter = parts[1:2] if len(parts) == 4 and not parts[1] else []
        envelope, words = parts[:1] + delimiter, parts[1 + len(delimiter) :]
        name = words[0] if words and len(words[0]) <= wire.MAX_ID else b""
        try:
            if len(words) != 2 or not name:
                raise ProtocolError("parts", f"expected a request id of 1 to {wire.MAX_ID} bytes and a msgpack map")
            answer = self._reply(wire.decode_request(words[1]))
        except ProtocolError as e:
            self._malformed[e.reason] += 1
            answer = wire.encode_reply(wire.Reply({}, e.reason, str(e)))
        with contextlib.suppress(zmq.ZMQError):  # the peer has gone: it asks again, or it does not care
            self._router.send_multipart([*envelope, name, answer], zmq.NOBLOCK)

    def _reply(self, request: wire.SnapshotRequest | Request) -> bytes:
        if isinstance(request, wire.SnapshotRequest):
            outlet = self._outlets.get(request.shard or next(iter(self._outlets)))
            if outlet is None:
                raise ProtocolError("unknown_shard", f"no shard {request.shard!r}; here: {', '.join(self._outlets)}")
            if outlet.packed is None:
                outlet.packed = wire.pack_maps(list(outlet.maps.values()))
            self._counts["snapshots"] += 1
            return wire.encode_snapshot(self._standing(outlet), list(self._outlets), outlet.packed)
        try:
            answer = wire.encode_reply(wire.Reply(self._on_request(request)))
            if len(answer) > wire.MAX_REQUEST:
                raise ValueError(f"reply of {len(answer)} bytes")
            self._counts["requests"] += 1
            return answer
        except RmmError as e:
            self._counts["refused"] += 1
            return wire.encode_reply(wire.Reply({}, "refused", str(e)))
        except Exception:  # a fault of ours in one request must not end the publication
            self._counts["refused"] += 1
            log.exception("request %s failed", request)
            return wire.encode_reply(wire.Reply({}, "internal", "the service failed to do this; see its log"))
