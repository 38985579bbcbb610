"""The mask on the wire: updates, heartbeats, snapshots and requests as msgpack maps, read with ranges and size limits.

docs/wire.md says the same in words. One literal table and plain msgpack instead of typed structs: a hit-finder pays for
each import, and msgspec alone costs 9 % of numpy + zmq + msgpack. Knows no sockets, no clock, and not whom to believe.
"""

import zlib
from math import prod
from typing import NamedTuple

import msgpack
import numpy as np

from ..errors import ConfigError, ProtocolError
from ..mask import BadPixel, MapChange, MapKey, MaskUpdate
from ..shard import Shard
from .requests import (
    ILLUMINATIONS,
    REQUESTS,
    RESERVED,
    Request,
    SnapshotRequest,
)
from .requests import AcceptRequest as AcceptRequest
from .requests import CommitRequest as CommitRequest
from .requests import ExposeRequest as ExposeRequest
from .requests import RejectRequest as RejectRequest
from .requests import ReleaseRequest as ReleaseRequest
from .requests import RollbackRequest as RollbackRequest

SCHEMA = 1  # of the wire; a change that an old reader would misread takes the next number

MAX_PIXELS = 1 << 26  # of one map; EIGER 16M, taken as one module, has 18 million
MAX_UPDATE = MAX_PIXELS + (1 << 16)  # bytes; zlib adds 5 bytes in 16 KiB to what it cannot compress
MAX_SNAPSHOT = 1 << 29  # bytes; AGIPD, 352 cells x 3 stages: 66 MiB before compression
MAX_REQUEST = 1 << 16  # bytes; also of a reply that is not a snapshot
MAX_MASK = 1 << 31  # pixels of one module in all its cells and stages
MAX_MAPS = 1 << 14  # of one shard
MAX_SHARDS = 1 << 10  # of one publisher
MAX_ID = 64  # bytes of a request id

#: Why a message is refused: labels of a metric, so the set is closed.
REASONS = (
    "parts", "topic", "oversized", "truncated", "schema", "kind", "mistyped", "range", "shape", "cell_range",
    "unknown_request", "unknown_shard", "not_offered", "refused", "internal",
)  # fmt: skip

#: name: (type, least, most). Of numbers the value is limited, of texts, bytes and lists the length.
FIELDS = {
    "schema": (int, 0, 65535),
    "kind": (str, 1, 16),
    "detector": (str, 1, 64),
    "shard": (str, 0, 32),
    "shards": (list, 0, MAX_SHARDS),
    "generation": (int, 0, 2**63 - 1),
    "epoch": (str, 1, 64),
    "sequence": (int, 0, 2**63 - 1),
    "version": (int, 0, 2**63 - 1),
    "module": (int, 0, 65535),
    "gain_stage": (int, 0, 7),
    "cell": (int, 0, 65535),
    "shape": (list, 2, 2),
    "stages": (int, 1, 8),
    "cells": (int, 1, 65536),
    "judged": (int, 0, 255),
    "frames": (int, 0, 2**63 - 1),
    "train_id": (int, 0, 2**64 - 1),
    "timestamp": (float, -1e12, 1e12),
    "newly_bad": (int, 0, MAX_PIXELS),
    "newly_good": (int, 0, MAX_PIXELS),
    "config_digest": (str, 0, 64),
    "flags": (bytes, 1, MAX_UPDATE),
    "heartbeat_s": (float, 0.01, 3600.0),
    "requests": (str, 0, 256),
    "maps": (list, 0, MAX_MAPS),
    "illumination": (str, 1, 16),
    "new": (bool, 0, 1),
    "override": (bool, 0, 1),
    "result": (dict, 0, 64),
    "reason": (str, 1, 32),
    "text": (str, 0, 4096),
}

_PLACE = ("detector", "shard", "generation", "epoch", "sequence", "version")
_UPDATE = (*_PLACE, "module", "gain_stage", "cell", "shape", "judged", "frames", "train_id", "timestamp",
           "newly_bad", "newly_good", "config_digest", "flags")  # fmt: skip
_STANDING = (*_PLACE, "train_id", "heartbeat_s", "stages", "cells", "shape")


class Layout(NamedTuple):
    """Axes of a module's complete mask, (stages, cells, ss, fs); `cells`: of the detector, not of a shard."""

    stages: int
    cells: int
    ss: int
    fs: int


class Standing(NamedTuple):
    """Where a shard's publisher stands: what a heartbeat tells and a snapshot repeats.

    heartbeat_s: time between two heartbeats, s.
    """

    detector: str
    shard: str
    generation: int
    epoch: str
    sequence: int
    version: int
    train_id: int
    heartbeat_s: float
    layout: Layout


class Heartbeat(NamedTuple):
    """kind: "beat", or "bye" from a publisher that stops. requests: endpoint of its ROUTER."""

    kind: str
    standing: Standing
    requests: str


class Snapshot(NamedTuple):
    """The latest update of every map of one shard. shards: names of all shards of this publisher."""

    standing: Standing
    shards: tuple[str, ...]
    maps: tuple[MaskUpdate, ...]


class Reply(NamedTuple):
    """Answer to an operator's request. reason: "" where it was done, else one of REASONS, with a text for a person."""

    result: dict
    reason: str = ""
    text: str = ""


def mask_topic(detector: str, module: int) -> bytes:
    """Subscriptions are prefixes: without the last slash, module 1 would bring module 10 along."""
    return f"mask/{detector}/{module}/".encode()


def beat_topic(detector: str, shard: str) -> bytes:
    return f"beat/{detector}/{shard}/".encode()


# -- write


def _message(kind: str, **fields) -> dict:
    return {"schema": SCHEMA, "kind": kind, **fields}


def encode_update(update: MaskUpdate) -> bytes:
    """flags: (ss, fs) uint8 of the change; the whole map is sent, zlib level 1."""
    change, key = update.change, update.change.key
    flags = np.ascontiguousarray(change.flags, np.uint8)
    message = _message("update")
    message.update((name, getattr(update, name)) for name in _PLACE)
    message.update(module=int(key.module), gain_stage=int(key.gain_stage), cell=int(key.cell))
    message.update(shape=list(flags.shape), judged=int(change.judged), frames=int(change.frames))
    message.update(train_id=int(change.train_id), timestamp=float(change.timestamp))
    message.update(newly_bad=int(change.newly_bad), newly_good=int(change.newly_good))
    message.update(config_digest=update.config_digest, flags=zlib.compress(flags, 1))
    return msgpack.packb(message)


def _standing(kind: str, standing: Standing, **more) -> dict:
    fields = standing._asdict()
    stages, cells, ss, fs = fields.pop("layout")
    return _message(kind, **fields, stages=stages, cells=cells, shape=[ss, fs], **more)


def encode_heartbeat(beat: Heartbeat) -> bytes:
    return msgpack.packb(_standing(beat.kind, beat.standing, requests=beat.requests))


def pack_maps(updates: list[bytes]) -> bytes:
    """Encoded updates as one msgpack array of byte strings, to be kept for `encode_snapshot`."""
    return msgpack.packb(updates)


def encode_snapshot(standing: Standing, shards: list[str], maps: bytes) -> bytes:
    """maps: from `pack_maps`; it is copied, not packed again, so that a hundred clients cost a hundred copies."""
    message = _standing("snapshot", standing, shards=shards, maps=[])
    return msgpack.packb(message)[:-1] + maps  # the empty array is the last byte


def encode_request(request: SnapshotRequest | Request) -> bytes:
    kind = next(kind for kind, (_, _, made) in REQUESTS.items() if made is type(request))
    return msgpack.packb(_message(kind, **request._asdict()))


def encode_reply(reply: Reply) -> bytes:
    if reply.reason:
        return msgpack.packb(_message("error", reason=reply.reason, text=reply.text[: FIELDS["text"][2]]))
    return msgpack.packb(_message("ok", result=reply.result))


# -- read


def _unpack(data, limit: int, longest: int = 64) -> dict:
    if len(data) > limit:
        raise ProtocolError("oversized", f"message of {len(data)} bytes; at most {limit} are allowed")
    try:
        # Limits of array and map keep nested headers from reserving memory that no data follows.
        message = msgpack.unpackb(
            data, strict_map_key=True, max_array_len=longest, max_map_len=64, max_str_len=4096, max_ext_len=0
        )
    except (ValueError, msgpack.UnpackException) as e:
        raise ProtocolError("truncated", f"not a msgpack map: {type(e).__name__} {e}"[:200]) from None
    if type(message) is not dict:
        raise ProtocolError("mistyped", f"a {type(message).__name__} where a msgpack map is expected")
    schema, kind = _checked(message, ("schema", "kind"))
    if schema != SCHEMA:
        raise ProtocolError("schema", f"wire schema {schema}; this program reads {SCHEMA}: update the older side")
    message["kind"] = kind
    return message


def _check(name: str, value):
    kind, least, most = FIELDS[name]
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ProtocolError("mistyped", f"{name} is of type {type(value).__name__}; expected {kind.__name__}")
    size = len(value) if kind in (str, bytes, list, dict) else value
    if not least <= size <= most:
        what = "length" if kind in (str, bytes, list, dict) else "value"
        raise ProtocolError("range", f"{name} has the {what} {size}; allowed are {least} to {most}")
    return value


def _checked(message: dict, names: tuple[str, ...]) -> list:
    """Values of `names`, each of its type and in its range; other keys are ignored, for what later versions add."""
    return [_check(name, message.get(name)) for name in names]


def _of_kind(message: dict, *kinds: str) -> str:
    if message["kind"] not in kinds:
        raise ProtocolError("kind", f"message of kind {message['kind']!r}; expected {' or '.join(kinds)}")
    return message["kind"]


def _shape(sides: list) -> tuple[int, int]:
    if any(type(side) is not int or not 1 <= side <= 65535 for side in sides) or prod(sides) > MAX_PIXELS:
        raise ProtocolError("shape", f"shape {sides!r}; expected [ss, fs] of at most {MAX_PIXELS} pixels")
    return tuple(sides)


def parse_shard(name: str) -> Shard:
    """The Shard of a name that a peer sent. Raises ProtocolError, since it is the peer's fault."""
    try:
        return Shard.parse(name)
    except ConfigError as e:
        raise ProtocolError("mistyped", str(e)) from None


def _inflate(data: bytes, size: int) -> bytes:
    """Exactly `size` bytes, whatever the stream claims."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, size)
        if len(plain) == size and not stream.eof:
            plain += stream.decompress(stream.unconsumed_tail, 1)  # the checksum may lie behind the last byte
    except zlib.error as e:
        raise ProtocolError("truncated", f"flags are not a zlib stream: {e}") from None
    if len(plain) != size or not stream.eof or stream.unused_data:
        raise ProtocolError("shape", f"flags are not the {size} bytes that shape announces")
    return plain


def decode_update(data, layout: Layout | None = None) -> MaskUpdate:
    """layout: what the shape and gain stage must agree with, where it is known. Flags come read-only.

    Raises ProtocolError.
    """
    message = _unpack(data, MAX_UPDATE)
    _of_kind(message, "update")
    (detector, name, generation, epoch, sequence, version, module, stage, cell, shape, judged, frames, train_id,
     timestamp, newly_bad, newly_good, digest, flags) = _checked(message, _UPDATE)  # fmt: skip
    shape = _shape(shape)
    shard = parse_shard(name)
    if module != shard.module or cell not in shard.cells:
        raise ProtocolError("cell_range", f"module {module} cell {cell} is not of shard {name}")
    if layout is not None and (shape != layout[2:] or stage >= layout.stages or cell >= layout.cells):
        raise ProtocolError("shape", f"map {shape} of stage {stage} cell {cell} does not fit {layout}")
    plain = np.frombuffer(_inflate(flags, prod(shape)), np.uint8).reshape(shape)
    change = MapChange(MapKey(module, stage, cell), plain, BadPixel(judged), frames, train_id, float(timestamp),
                       newly_bad, newly_good)  # fmt: skip
    return MaskUpdate(detector, name, generation, epoch, sequence, version, digest, change)


def _read_standing(message: dict) -> Standing:
    *place, train_id, heartbeat_s, stages, cells, shape = _checked(message, _STANDING)
    layout = Layout(stages, cells, *_shape(shape))
    shard = parse_shard(place[1])
    if shard.last >= cells:
        raise ProtocolError("cell_range", f"shard {shard.name} of a detector with {cells} cells")
    if prod(layout) > MAX_MASK or len(shard.cells) * stages > MAX_MAPS:
        raise ProtocolError("oversized", f"a mask of {layout} is beyond {MAX_MASK} pixels or {MAX_MAPS} maps")
    return Standing(*place, train_id, float(heartbeat_s), layout)


def decode_heartbeat(data) -> Heartbeat:
    """Raises ProtocolError."""
    message = _unpack(data, MAX_REQUEST)
    kind = _of_kind(message, "beat", "bye")
    return Heartbeat(kind, _read_standing(message), *_checked(message, ("requests",)))


def decode_snapshot(data) -> Snapshot:
    """Every map agrees with the snapshot's own standing, and no key comes twice. Raises ProtocolError.

    A Reply that refuses the request arrives in the same place; it raises ProtocolError with its own reason.
    """
    message = _unpack(data, MAX_SNAPSHOT, longest=MAX_MAPS)
    if _of_kind(message, "snapshot", "error") == "error":
        reply = _read_error(message)
        raise ProtocolError(reply.reason, f"the publisher refused: {reply.text[:200]}")
    standing = _read_standing(message)
    names, encoded = _checked(message, ("shards", "maps"))
    maps, keys = [], set()
    for data in encoded:
        update = decode_update(_check("flags", data), standing.layout)
        same = all(getattr(update, name) == getattr(standing, name) for name in _PLACE[:4])  # detector to epoch
        if not same or update.sequence > standing.sequence or update.change.key in keys:
            raise ProtocolError("mistyped", f"map {update.change.key} does not belong to snapshot {standing}")
        keys.add(update.change.key)
        maps.append(update)
    return Snapshot(standing, tuple(parse_shard(_check("shard", name)).name for name in names), tuple(maps))


def decode_request(data) -> SnapshotRequest | Request:
    """Raises ProtocolError; "not_offered" for a request that has a name but no server yet."""
    message = _unpack(data, MAX_REQUEST)
    kind = message["kind"]
    if kind in RESERVED:
        raise ProtocolError("not_offered", f"request {kind!r} is reserved; this version offers {', '.join(REQUESTS)}")
    if kind not in REQUESTS:
        raise ProtocolError("unknown_request", f"unknown request {kind!r}; known: {', '.join(REQUESTS)}")
    names, optional, make = REQUESTS[kind]
    given = tuple(name for name in optional if message.get(name) is not None)
    request = make(**dict(zip(names + given, _checked(message, names + given))))
    if kind == "expose" and request.illumination not in ILLUMINATIONS:
        raise ProtocolError("range", f"illumination {request.illumination!r}; known: {', '.join(ILLUMINATIONS)}")
    return request


def _read_error(message: dict) -> Reply:
    reason, text = _checked(message, ("reason", "text"))
    return Reply({}, reason if reason in REASONS else "refused", text)


def decode_reply(data) -> Reply:
    """Answer to any request but a snapshot. Raises ProtocolError."""
    message = _unpack(data, MAX_REQUEST)
    if _of_kind(message, "ok", "error") == "error":
        return _read_error(message)
    return Reply(*_checked(message, ("result",)))
