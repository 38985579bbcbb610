"""Frames from ZeroMQ: sockets, a decoder and a ledger. Message parts in, FrameBatches out, every loss counted.

SUB gets a copy of the stream; PULL and REQ get a share of it, which other clients then miss. One bad message never
stops the next good train. Knows no protocol: that is the decoder's.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import zmq

from .. import config
from ..detectors import DetectorSpec
from ..errors import ProtocolError
from ..frames import FrameBatch
from ..wire.decoder import NO_MODULE, Decoder
from .complaints import Complaints
from .connection import Connection
from .ledger import TrainLedger
from .tally import Tally

log = logging.getLogger(__name__)

POLL_MS = 100  # longest wait between two looks at the requests


class ZmqSource:
    """Mutable; used by one thread, except `tally` and `connected`, which any thread may read. Close it, or use `with`.

    reply_s: a REQ socket without a reply for so long is made anew; the server then drops the train that it had meant
    for the lost request. A lost connection is noticed at once, without this limit.
    """

    def __init__(
        self,
        source: config.Source,
        decoder: Decoder,
        spec: DetectorSpec,
        *,
        context: zmq.Context | None = None,
        reply_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ):
        """Connects; the peer need not be there yet. Raises ConfigError for an endpoint that ZeroMQ refuses.

        clock: s, only grows. wall: s, Unix, for streams without a time of their own.
        """
        self.tally = Tally()
        self._source, self._decoder, self._reply_s = source, decoder, reply_s
        self._clock, self._wall = clock, wall
        self._ledger = TrainLedger(source.train_step, spec.cells)
        self._complaints = Complaints(log, clock)
        self._context = zmq.Context() if context is None else context
        self._owns_context = context is None
        self._poller = zmq.Poller()
        self._connections: list[Connection] = []
        try:
            for endpoint in source.endpoints:
                self._connections.append(Connection(self._context, self._poller, source, endpoint))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "ZmqSource":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the sockets; what was in flight is dropped. May be called twice."""
        for connection in self._connections:
            connection.close()
        if self._owns_context:
            self._context.term()

    @property
    def connected(self) -> bool:
        """Whether every endpoint has a peer, as of the last `receive`."""
        return all(connection.connected for connection in self._connections)

    def receive(self, timeout_s: float) -> list[FrameBatch]:
        """The batches of the next message, or of one message per endpoint; [] when none came in time.

        Raises nothing for what a peer sends: that is counted in `tally`, and logged at most once a minute per reason.
        """
        deadline = self._clock() + timeout_s
        while True:
            now = self._clock()
            for connection in self._connections:
                if dead := connection.tend(now, self._reply_s):
                    self.tally.resets += 1
                    self._complaints.say("reset", f"connection to {connection.endpoint} made anew: {dead}")
            self._poller.poll(min(POLL_MS, max(0, round((deadline - now) * 1000))))
            batches: list[FrameBatch] = []
            for connection in self._connections:
                self._listen(connection)
                if (parts := connection.take()) is not None:
                    batches += self._read(parts)
            if batches or self._clock() >= deadline:
                return batches

    def _listen(self, connection: Connection) -> None:
        lost, refused = connection.news(self._clock())
        self.tally.disconnects += lost
        if lost:
            self._complaints.say(
                "disconnect",
                f"lost {connection.endpoint}, connecting again; where this repeats with every train, a message part "
                f"may be more than twice source.max_message_mb = {self._source.max_message_mb}",
            )
        if refused:
            self._complaints.say(
                "handshake",
                f"{connection.endpoint} refuses us: no ZeroMQ, or not the counterpart of "
                f"source.socket = {self._source.socket!r}",
            )

    def _read(self, parts: Sequence[memoryview]) -> list[FrameBatch]:
        """The batches of one message that are new."""
        tally = self.tally
        tally.messages += 1
        tally.nbytes += sum(part.nbytes for part in parts)
        try:
            check_size(parts, self._source.max_message_mb)
            decoded = self._decoder.decode(parts, self._wall())
        except ProtocolError as e:
            tally.malformed[e.reason] += 1
            self._complaints.say(e.reason, f"message refused ({e.reason}): {e}")
            return []
        except Exception:  # our fault, not the peer's; a live service outlives it, and says so loudly
            tally.malformed["unexpected"] += 1
            self._complaints.say("unexpected", "message met a fault of ours", level=logging.ERROR, exc_info=True)
            return []
        tally.rejected.update(decoded.rejected)
        for fault in decoded.faults:
            self._complaints.say(fault.reason, f"refused ({fault.reason}): {fault}", level=_level(fault.reason))
        told = {fault.reason for fault in decoded.faults}
        for (module, reason), count in decoded.rejected.items():
            if reason not in told:
                self._reject(module, reason, count)
        return [batch for batch in map(self._enter, decoded.batches) if len(batch)]

    def _enter(self, batch: FrameBatch) -> FrameBatch:
        """The frames of a batch that did not come before and are not late; the others are counted."""
        entry = self._ledger.enter(batch.module, batch.train_id, batch.cell)
        tally, module = self.tally, batch.module
        if entry.missed:
            tally.missed_trains[module] += entry.missed
            tally.missed[module] += entry.missed_frames
            self._complaints.say("missed", f"module {module}: {entry.missed} trains missed", level=logging.INFO)
        if entry.new_series:
            tally.series[module] += 1
            text = f"module {module}: train ids start again at {batch.train_id[0]}"
            self._complaints.say("new_series", text, level=logging.INFO)
        for reason, count in (("duplicate", entry.duplicate), ("reordered", entry.reordered)):
            if count:
                tally.rejected[module, reason] += count
                self._reject(module, reason, count)
        if not entry.fresh.all():
            kept = {name: getattr(batch, name)[entry.fresh] for name in ("pixels", "cell", "train_id", "complete")}
            batch = replace(batch, **kept, gain=None if batch.gain is None else batch.gain[entry.fresh])
        if len(batch):
            tally.frames[module] += len(batch)
        return batch

    def _reject(self, module: int, reason: str, count: int) -> None:
        whose = "no module of ours" if module == NO_MODULE else f"module {module}"
        self._complaints.say(reason, f"{whose}: {count} refused ({reason})", level=_level(reason))


def check_size(parts: Sequence[memoryview], limit_mb: int) -> None:
    """Raises ProtocolError("oversized") for a part beyond source.max_message_mb, before anybody decodes it."""
    largest = max((part.nbytes for part in parts), default=0)
    if largest > limit_mb << 20:
        raise ProtocolError("oversized", f"a part of {largest} bytes; source.max_message_mb = {limit_mb} allows fewer")


def _level(reason: str) -> int:
    """Foreign sources are part of many streams: worth a line, not a warning."""
    return logging.INFO if reason in ("unknown_source", "empty") else logging.WARNING
