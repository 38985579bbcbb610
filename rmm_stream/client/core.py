"""ClientCore: whom a client believes. Messages and the time go in, requests to send and updates to tell come out.

The table of docs/wire.md as code. Knows no sockets, no threads and no clock; never raises on what a peer sent.
A *link* is one publisher, by its place in the list of endpoints.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from ..errors import ProtocolError
from ..mask import MaskUpdate
from ..shard import Shard
from ..wire import masks as wire
from .view import ShardView, View

SILENT_BEATS = 3  # heartbeats missed before a mask is called stale
JOIN_S = 2.0  # a publisher that says nothing for so long is asked without waiting for it
ANSWER_S = 0.5  # first patience with a snapshot request; doubled at each silence
PATIENCE_S = 10.0  # most patience; 10 MB at 10 Mbit/s
QUEUE = 256  # updates kept while a snapshot is due; what falls out shows as a gap and costs another snapshot


class Ask(NamedTuple):
    """Send a snapshot request for `shard` ("": the publisher's first) on a new socket of this link."""

    link: int
    shard: str
    id: bytes


class Told(NamedTuple):
    """A map has changed; the view already has it."""

    update: MaskUpdate


class _Record:
    """All about one shard. Mutable, owned by the core; readers get `view`."""

    __slots__ = ("beat_s", "behind", "due", "heard", "left", "link", "queue", "since", "view")

    def __init__(self, link: int, shard: Shard, standing: wire.Standing):
        self.view = ShardView(shard, standing.detector, -1, "", -1, 0, 0, standing.layout, {})
        self.link = link
        self.left = ""  # the epoch before this one, of the same generation
        self.heard = -inf  # last believed message of the PUB socket
        self.since = -inf  # last time the view was known to be current
        self.beat_s = standing.heartbeat_s
        self.behind = 0  # heartbeats in a row with a sequence that we passed long ago
        self.due = False  # a snapshot is due: updates queue
        self.queue: deque[MaskUpdate] = deque(maxlen=QUEUE)

    def fresh_until(self) -> float:
        """A mask is stale when its publisher is silent, and also when the way back into step takes too long."""
        return min(self.heard, self.since) + SILENT_BEATS * self.beat_s


class _Link:
    """One publisher. Mutable, owned by the core. At most one request is under way."""

    __slots__ = ("asked", "attempt", "due", "greeted", "joined", "requests")

    def __init__(self, now: float):
        self.joined = now
        self.greeted = False  # something believable came from it
        self.requests = ""  # endpoint that it announces
        self.due: dict[str, float] = {}  # shard: when to ask
        self.asked: tuple[bytes, str, float] | None = None  # id, shard, deadline
        self.attempt = 0


class ClientCore:
    """State machine of one client.

    links: number of publishers. detector: "" for the first that is heard. modules: those wanted; None: all.
    prefix: makes request ids unlike those of other clients. jitter: () -> [0, 1), spreads requests of many clients.
    `view` is replaced as a whole at each change; any thread may read it. `counts`, `malformed`: what was dropped, why.
    """

    def __init__(
        self,
        links: int,
        detector: str = "",
        modules: Sequence[int] | None = None,
        *,
        now: float = 0.0,
        prefix: bytes = b"",
        jitter: Callable[[], float] = lambda: 0.0,
    ):
        self.view = View({}, frozenset(), {})
        self.detector = detector
        self.modules = None if modules is None else frozenset(modules)
        self.counts: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self._links = [_Link(now) for _ in range(links)]
        self._records: dict[str, _Record] = {}
        self._prefix, self._jitter, self._requests = prefix, jitter, 0

    # -- what the sockets bring

    def feed(self, link: int, parts: Sequence, now: float) -> list[Ask | Told]:
        """A message of the link's PUB socket, [topic, msgpack]. now: s, of a clock that never goes back."""
        told: list[Ask | Told] = []
        try:
            if len(parts) != 2:
                raise ProtocolError("parts", f"{len(parts)} parts; expected topic and message")
            topic = bytes(parts[0][:256])
            if topic.startswith(b"beat/"):
                self._beat(link, topic, parts[1], now)
            elif topic.startswith(b"mask/"):
                told = self._heard_update(link, topic, parts[1], now)
            else:
                raise ProtocolError("topic", f"unknown topic {topic!r}")
        except ProtocolError as e:
            self.malformed[e.reason] += 1
        return told + self.tick(now)

    def answer(self, link: int, parts: Sequence, now: float) -> list[Ask | Told]:
        """A message of the link's ROUTER socket, [request id, msgpack]."""
        asked = self._links[link].asked
        told: list[Ask | Told] = []
        if asked is None or len(parts) != 2 or bytes(parts[0][: wire.MAX_ID]) != asked[0]:
            self.counts["late"] += 1
            return self.tick(now)
        self._links[link].asked = None
        try:
            told = self._adopt(link, asked[1], wire.decode_snapshot(parts[1]), now)
        except ProtocolError as e:
            self.malformed[e.reason] += 1
            self._again(link, asked[1], now, self._patience(link))
        return told + self.tick(now)

    def tick(self, now: float) -> list[Ask | Told]:
        """Let time pass: notice silence, give up requests, send those that are due."""
        asks: list[Ask | Told] = []
        for name, record in self._records.items():
            stale = now > record.fresh_until()
            if stale and name not in self.view.stale:
                self._show(stale=self.view.stale | {name})
                if not record.due:
                    self._want(record, now)
            elif not stale and name in self.view.stale:
                self._show(stale=self.view.stale - {name})
        for number, link in enumerate(self._links):
            if not link.greeted and link.asked is None and not link.due and now - link.joined >= JOIN_S:
                link.due[""] = now
            if link.asked and now >= link.asked[2]:
                self.counts["unanswered"] += 1
                shard, link.asked = link.asked[1], None
                self._again(number, shard, now)
            if link.asked is None and link.due:
                shard = min(link.due, key=link.due.get)
                if link.due[shard] <= now:
                    del link.due[shard]
                    self._requests += 1
                    request = self._prefix + b"%d" % self._requests
                    link.asked = (request, shard, now + self._patience(number))
                    self.counts["asked"] += 1
                    asks.append(Ask(number, shard, request))
        return asks

    def wake_at(self) -> float:
        """When `tick` has something to do although no message came; s."""
        times = [record.fresh_until() for name, record in self._records.items() if name not in self.view.stale]
        for link in self._links:
            if link.asked:
                times.append(link.asked[2])
            else:
                times += link.due.values()
                if not link.greeted:
                    times.append(link.joined + JOIN_S)
        return min(times, default=inf)

    def requests(self, link: int) -> str:
        """Endpoint of the link's ROUTER as its heartbeat says; "" before one is heard."""
        return self._links[link].requests

    def greeted(self, link: int) -> bool:
        """Whether anything believable came from this publisher."""
        return self._links[link].greeted

    def pending(self) -> list[str]:
        """Names of the shards whose snapshot is due."""
        return [name for name, record in self._records.items() if record.due]

    # -- the table

    def _wanted(self, detector: str, module: int) -> bool:
        return (not self.detector or detector == self.detector) and (self.modules is None or module in self.modules)

    def _fenced(self, record: _Record, generation: int, epoch: str) -> bool:
        """Whether a message is of a publisher that was replaced, or of the life just left."""
        if generation < record.view.generation:
            self.counts["fenced"] += 1
        elif generation == record.view.generation and epoch == record.left:
            self.counts["left"] += 1
        else:
            return False
        return True

    def _beat(self, link: int, topic: bytes, data, now: float) -> None:
        beat = wire.decode_heartbeat(data)
        standing = beat.standing
        if topic != wire.beat_topic(standing.detector, standing.shard):
            raise ProtocolError("topic", f"heartbeat of {standing.shard} under {topic!r}")
        self._links[link].greeted = True
        record = self._record(link, standing, now)
        if record is None or self._fenced(record, standing.generation, standing.epoch):
            return
        view = record.view
        record.link, record.beat_s = link, standing.heartbeat_s
        if beat.kind == "bye":
            self._show(stale=self.view.stale | {standing.shard})
            record.heard = -inf
            return
        if standing.shard in self.view.stale or beat.requests != self._links[link].requests:
            self._revived(self._links[link], now)
        self._links[link].requests = beat.requests
        record.heard = now
        if record.due:
            return
        if (standing.generation, standing.epoch) != (view.generation, view.epoch):
            self._want(record, now, spread=view.generation >= 0)
        elif standing.sequence > view.sequence:
            self.counts["gaps"] += 1
            self._want(record, now, spread=True)
        elif standing.sequence < view.sequence:
            record.behind += 1  # once is normal: it queued before the snapshot
            if record.behind > 1:
                self.counts["behind"] += 1
                self._want(record, now, spread=True)
        else:
            record.behind = 0
            record.since = now
            self._put(record, view._replace(version=standing.version, train_id=standing.train_id))

    def _heard_update(self, link: int, topic: bytes, data, now: float) -> list[Ask | Told]:
        words = topic.split(b"/")
        if self.modules is not None and len(words) == 4 and words[2].isdigit() and int(words[2]) not in self.modules:
            return []  # unwanted, and not worth decoding
        update = wire.decode_update(data)
        if topic != wire.mask_topic(update.detector, update.change.key.module):
            raise ProtocolError("topic", f"update of module {update.change.key.module} under {topic!r}")
        record = self._records.get(update.shard)
        if record is None or not self._wanted(update.detector, update.change.key.module):
            return []  # its heartbeat comes first: only that says how large the mask is
        if self._fenced(record, update.generation, update.epoch):
            return []
        record.link = link
        record.heard = now
        if record.due:
            record.queue.append(update)
            return []
        return self._live(record, update, now)

    def _live(self, record: _Record, update: MaskUpdate, now: float) -> list[Ask | Told]:
        """An update of a shard whose snapshot is in."""
        view = record.view
        if self._fenced(record, update.generation, update.epoch):
            return []
        if (update.generation, update.epoch) != (view.generation, view.epoch):
            record.queue.append(update)
            self._want(record, now, spread=True)
        elif update.sequence <= view.sequence:
            self.counts["duplicates"] += 1
        elif update.sequence > view.sequence + 1:
            self.counts["gaps"] += 1
            record.queue.append(update)
            self._want(record, now, spread=True)
        elif not _fits(update, view.layout):
            # The sequence stays behind, so that the next heartbeat brings a snapshot.
            raise ProtocolError("shape", f"map {update.change.flags.shape} does not fit {view.layout}")
        else:
            record.behind = 0
            record.since = now
            self.counts["applied"] += 1
            maps = view.maps | {update.change.key: update}
            train_id = max(view.train_id, update.change.train_id)
            self._put(
                record,
                view._replace(sequence=update.sequence, version=update.version, train_id=train_id, maps=maps),
            )
            return [Told(update)]
        return []

    def _adopt(self, link: int, asked: str, snapshot: wire.Snapshot, now: float) -> list[Ask | Told]:
        """Swap in all maps at once, then go through what queued."""
        standing = snapshot.standing
        if asked and standing.shard != asked:
            raise ProtocolError("unknown_shard", f"snapshot of {standing.shard}; {asked} was asked for")
        self._links[link].greeted = True
        for name in snapshot.shards:
            self._record(link, standing._replace(shard=name), now)
        record = self._record(link, standing, now)
        if record is None:
            return []
        old = record.view
        if standing.generation < old.generation:
            self.counts["fenced"] += 1
            self._again(link, standing.shard, now, self._patience(link))
            return []
        self._links[link].attempt = 0
        self._links[link].due.pop(standing.shard, None)
        if old.generation == standing.generation and old.epoch != standing.epoch:
            self.counts["rivals"] += old.epoch != ""  # the lease gives each life a generation of its own
            record.left = old.epoch
        elif old.generation != standing.generation:
            record.left = ""
        maps = {update.change.key: update for update in snapshot.maps}
        record.due, record.behind, record.since = False, 0, now
        self.counts["snapshots"] += 1
        place = standing[2:7]  # generation to train_id
        self._put(record, ShardView(old.shard, standing.detector, *place, standing.layout, maps))
        news = [each for key, each in maps.items() if key not in old.maps or not _equal(old.maps[key], each)]
        told: list[Ask | Told] = [Told(each) for each in sorted(news, key=lambda each: each.sequence)]
        queued = list(record.queue)
        record.queue.clear()
        for update in queued:
            if record.due:
                record.queue.append(update)
                continue
            if update.generation == standing.generation and update.epoch != standing.epoch:
                self.counts["left"] += 1  # of a life before the snapshot; to ask again would bring the same answer
                continue
            try:
                told += self._live(record, update, now)
            except ProtocolError as e:
                self.malformed[e.reason] += 1
        return told

    # -- book-keeping

    def _record(self, link: int, standing: wire.Standing, now: float) -> _Record | None:
        """The record of a shard; a new one asks for its snapshot. None: not wanted, or too many."""
        shard = wire.parse_shard(standing.shard)
        if not self._wanted(standing.detector, shard.module):
            return None
        record = self._records.get(standing.shard)
        if record is None:
            if len(self._records) >= wire.MAX_SHARDS:
                raise ProtocolError("oversized", f"more than {wire.MAX_SHARDS} shards")
            self.detector = standing.detector
            record = self._records[standing.shard] = _Record(link, shard, standing)
            self._show(stale=self.view.stale | {standing.shard})
            self._put(record, record.view)
            self._want(record, now)
        return record

    def _revived(self, link: _Link, now: float) -> None:
        """A publisher speaks again, or from elsewhere: patience with its silence is over."""
        link.attempt = 0
        if link.asked:
            request, shard, deadline = link.asked
            link.asked = (request, shard, min(deadline, now + ANSWER_S))
        for shard, when in link.due.items():
            link.due[shard] = min(when, now + ANSWER_S)

    def _want(self, record: _Record, now: float, spread: bool = False) -> None:
        """A snapshot of this shard is due; `spread`: many clients may want one at this moment."""
        record.due = True
        delay = self._jitter() * record.beat_s / 2 if spread else 0.0
        link = self._links[record.link]
        if not (link.asked and link.asked[1] == record.view.shard.name):
            link.due.setdefault(record.view.shard.name, now + delay)

    def _patience(self, number: int) -> float:
        return min(ANSWER_S * 2 ** self._links[number].attempt, PATIENCE_S)

    def _again(self, number: int, shard: str, now: float, delay: float = 0.0) -> None:
        """Ask once more, more patiently; of the link that last spoke for the shard.

        delay: after silence the wait is behind us; an answer of no use comes at once, and must not be asked for in a loop.
        """
        link = self._links[number]
        link.attempt = min(link.attempt + 1, 8)
        record = self._records.get(shard)
        if shard and record is None:
            return
        target = link if record is None else self._links[record.link]
        target.due.setdefault(shard, now + delay + ANSWER_S * self._jitter())

    def _put(self, record: _Record, view: ShardView) -> None:
        record.view = view
        name = view.shard.name
        self._show(shards=self.view.shards | {name: view}, since=self.view.since | {name: record.since})

    def _show(self, **changed) -> None:
        self.view = self.view._replace(**changed)


def _fits(update: MaskUpdate, layout: wire.Layout) -> bool:
    key = update.change.key
    return update.change.flags.shape == layout[2:] and key.gain_stage < layout.stages and key.cell < layout.cells


def _equal(this: MaskUpdate, that: MaskUpdate) -> bool:
    return (this.generation, this.epoch, this.sequence) == (that.generation, that.epoch, that.sequence)
