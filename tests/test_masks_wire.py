import tracemalloc
import zlib
from pathlib import Path

import mask_traffic as traffic
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_stream.errors import ProtocolError
from rmm_stream.frames import Illumination
from rmm_stream.mask import BadPixel
from rmm_stream.shard import Shard
from rmm_stream.wire import masks as wire


def altered(data: bytes, **fields) -> bytes:
    """The same message with some fields changed; None removes one."""
    message = msgpack.unpackb(data) | fields
    return msgpack.packb({name: value for name, value in message.items() if value is not None})


def refused(decode, data, reason):
    with pytest.raises(ProtocolError) as caught:
        decode(data)
    assert caught.value.reason == reason
    assert reason in wire.REASONS


UPDATE = wire.encode_update(traffic.update())
BEAT = traffic.beat_parts(traffic.standing())[1]
SNAPSHOT = traffic.snapshot(traffic.standing(1), [traffic.update()])


def test_update_survives_the_wire(rng):
    flags = rng.integers(0, 256, (4, 6), dtype=np.uint8)
    sent = traffic.update(9, traffic.change(cell=2, gain_stage=1), version=4)
    object.__setattr__(sent.change, "flags", flags)
    got = wire.decode_update(wire.encode_update(sent), traffic.LAYOUT)
    assert np.array_equal(got.change.flags, flags)
    assert got.change.flags.dtype == np.uint8
    assert not got.change.flags.flags.writeable
    assert got.change.judged == BadPixel.OFFSET | BadPixel.NOISE
    for name in ("detector", "shard", "generation", "epoch", "sequence", "version", "config_digest"):
        assert getattr(got, name) == getattr(sent, name)
    for name in ("key", "frames", "train_id", "timestamp", "newly_bad", "newly_good"):
        assert getattr(got.change, name) == getattr(sent.change, name)


def test_heartbeat_and_bye_survive_the_wire():
    for kind in ("beat", "bye"):
        beat = wire.Heartbeat(kind, traffic.standing(5, version=2), "tcp://127.0.0.1:5611")
        assert wire.decode_heartbeat(wire.encode_heartbeat(beat)) == beat


@pytest.mark.parametrize("count", [0, 1, 6])
def test_snapshot_survives_the_wire(count):
    maps = [traffic.update(n + 1, traffic.change(n, gain_stage=n // 3, cell=n % 3)) for n in range(count)]
    got = wire.decode_snapshot(traffic.snapshot(traffic.standing(count), maps, ["m00-c000-002", "m01-c000-002"]))
    assert got.standing == traffic.standing(count)
    assert got.shards == ("m00-c000-002", "m01-c000-002")
    assert [each.sequence for each in got.maps] == list(range(1, count + 1))
    assert [int(each.change.flags[0, 0]) for each in got.maps] == list(range(count))


@pytest.mark.parametrize(
    "request_",
    [
        wire.SnapshotRequest("m00-c000-002"),
        wire.SnapshotRequest(""),
        wire.ExposeRequest("dark", 2, True),
        wire.ExposeRequest("sample"),
        wire.ExposeRequest("flat", None, False, True),
        wire.CommitRequest(),
        wire.RollbackRequest(7),
        wire.ReleaseRequest(),
        wire.AcceptRequest(),
        wire.AcceptRequest(3, 0, 351),
        wire.RejectRequest(module=0),
        wire.RejectRequest(cell=7),
    ],
)
def test_requests_survive_the_wire(request_):
    got = wire.decode_request(wire.encode_request(request_))
    assert got == request_
    assert type(got) is type(request_)


def test_replies_survive_the_wire():
    for reply in (wire.Reply({"version": 7}), wire.Reply({}, "refused", "no dark frames yet")):
        assert wire.decode_reply(wire.encode_reply(reply)) == reply


def test_illuminations_are_those_of_the_frames():
    assert set(wire.ILLUMINATIONS) == {each.value for each in Illumination}


def test_unknown_keys_are_ignored():
    assert wire.decode_update(altered(UPDATE, colour="blue", more=[1, {"a": 2}])).sequence == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schema": 0}, "schema"),
        ({"schema": 2}, "schema"),
        ({"schema": None}, "mistyped"),
        ({"schema": True}, "mistyped"),
        ({"kind": "beat"}, "kind"),
        ({"detector": ""}, "range"),
        ({"detector": "d" * 65}, "range"),
        ({"detector": b"tiny"}, "mistyped"),
        ({"shard": "everything"}, "mistyped"),
        ({"shard": "m01-c000-002"}, "cell_range"),
        ({"generation": -1}, "range"),
        ({"generation": 2**63}, "range"),
        ({"generation": 1.0}, "mistyped"),
        ({"sequence": None}, "mistyped"),
        ({"sequence": True}, "mistyped"),
        ({"epoch": 5}, "mistyped"),
        ({"cell": 3}, "cell_range"),
        ({"cell": 65536}, "range"),
        ({"gain_stage": 8}, "range"),
        ({"judged": 256}, "range"),
        ({"timestamp": float("nan")}, "range"),
        ({"timestamp": float("inf")}, "range"),
        ({"shape": [4]}, "range"),
        ({"shape": [4, 6, 1]}, "range"),
        ({"shape": [0, 6]}, "shape"),
        ({"shape": [4, -6]}, "shape"),
        ({"shape": [4.0, 6]}, "shape"),
        ({"shape": [65535, 65535]}, "shape"),
        ({"shape": [4, 5]}, "shape"),
        ({"shape": [4, 7]}, "shape"),
        ({"flags": b""}, "range"),
        ({"flags": b"no zlib"}, "truncated"),
        ({"flags": zlib.compress(bytes(24))[:-1]}, "shape"),
        ({"flags": zlib.compress(bytes(24)) + b"tail"}, "shape"),
        ({"flags": zlib.compress(bytes(23))}, "shape"),
        ({"flags": zlib.compress(bytes(25))}, "shape"),
        ({"flags": [0] * 24}, "mistyped"),
        ({"more": [0] * 65}, "truncated"),
        ({"more": msgpack.ExtType(1, b"x")}, "truncated"),
    ],
)
def test_bad_update_is_refused_with_its_reason(fields, reason):
    refused(wire.decode_update, altered(UPDATE, **fields), reason)


def test_update_must_fit_the_layout():
    with pytest.raises(ProtocolError, match="does not fit"):
        wire.decode_update(UPDATE, traffic.LAYOUT._replace(fs=5))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"heartbeat_s": 0.0}, "range"),
        ({"heartbeat_s": 1e9}, "range"),
        ({"stages": 0}, "range"),
        ({"cells": 2}, "cell_range"),
        ({"shape": [65535, 1], "cells": 65535}, "oversized"),
        ({"stages": 8, "cells": 4000, "shard": "m00-c000-3999"}, "oversized"),
        ({"requests": "x" * 257}, "range"),
        ({"kind": "update"}, "kind"),
    ],
)
def test_bad_heartbeat_is_refused_with_its_reason(fields, reason):
    refused(wire.decode_heartbeat, altered(BEAT, **fields), reason)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sequence": 0}, "mistyped"),  # a map from the future
        ({"generation": 2}, "mistyped"),
        ({"epoch": "b"}, "mistyped"),
        ({"detector": "other"}, "mistyped"),
        ({"stages": 1, "shape": [4, 5]}, "shape"),
        ({"maps": [UPDATE, UPDATE]}, "mistyped"),
        ({"maps": [5]}, "mistyped"),
        ({"maps": [b"junk"]}, "truncated"),
        ({"shards": ["nonsense"]}, "mistyped"),
        ({"shards": [3]}, "mistyped"),
    ],
)
def test_bad_snapshot_is_refused_with_its_reason(fields, reason):
    refused(wire.decode_snapshot, altered(SNAPSHOT, **fields), reason)


def test_error_reply_in_place_of_a_snapshot_raises_its_reason():
    refused(wire.decode_snapshot, wire.encode_reply(wire.Reply({}, "unknown_shard", "no such")), "unknown_shard")
    refused(wire.decode_snapshot, wire.encode_reply(wire.Reply({}, "a reason of tomorrow", "?")), "refused")


@pytest.mark.parametrize("kind", wire.RESERVED)
def test_reserved_requests_are_told_apart_from_unknown_ones(kind):
    refused(wire.decode_request, msgpack.packb({"schema": 1, "kind": kind}), "not_offered")
    refused(wire.decode_request, msgpack.packb({"schema": 1, "kind": kind + "x"}), "unknown_request")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"illumination": "bright"}, "range"),
        ({"gain_stage": 9}, "range"),
        ({"gain_stage": "high"}, "mistyped"),
        ({"new": 1}, "mistyped"),
        ({"padding": "x" * 70000}, "oversized"),
    ],
)
def test_bad_request_is_refused_with_its_reason(fields, reason):
    refused(wire.decode_request, altered(wire.encode_request(wire.ExposeRequest("dark", 1, True)), **fields), reason)


@pytest.mark.parametrize(
    ("request_", "fields", "reason"),
    [
        (wire.RollbackRequest(7), {"version": None}, "mistyped"),
        (wire.RollbackRequest(7), {"version": "7"}, "mistyped"),
        (wire.RollbackRequest(7), {"version": True}, "mistyped"),
        (wire.RollbackRequest(7), {"version": -1}, "range"),
        (wire.RollbackRequest(7), {"version": 2**63}, "range"),
        (wire.AcceptRequest(), {"module": 65536}, "range"),
        (wire.AcceptRequest(), {"module": [0]}, "mistyped"),
        (wire.AcceptRequest(), {"cell": -1}, "range"),
        (wire.RejectRequest(), {"gain_stage": 8}, "range"),
        (wire.RejectRequest(), {"gain_stage": False}, "mistyped"),
        (wire.ReleaseRequest(), {"schema": 2}, "schema"),
    ],
)
def test_bad_requests_about_the_history_are_refused_with_their_reason(request_, fields, reason):
    refused(wire.decode_request, altered(wire.encode_request(request_), **fields), reason)


def test_what_a_request_leaves_out_or_leaves_nil_means_all():
    assert wire.decode_request(msgpack.packb({"schema": 1, "kind": "accept"})) == wire.AcceptRequest()
    nil = {"schema": 1, "kind": "reject", "module": 2, "gain_stage": None, "cell": None}
    assert wire.decode_request(msgpack.packb(nil)) == wire.RejectRequest(2)


def test_a_zip_bomb_costs_no_more_than_its_shape():
    bomb = altered(UPDATE, flags=zlib.compress(bytes(50_000_000)))
    tracemalloc.start()
    refused(wire.decode_update, bomb, "shape")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_nested_headers_without_data_reserve_no_memory():
    tracemalloc.start()
    refused(wire.decode_snapshot, b"\x81\xa1a" + b"\xdd\x7f\xff\xff\xff" * 500, "truncated")
    refused(wire.decode_snapshot, b"\xdc\x3f\xff" * 2000, "truncated")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000_000


def reasons(message: bytes) -> set[str]:
    """Why each decoder refuses the message; anything but a ProtocolError gets out."""
    found = set()
    for decode in DECODERS:
        try:
            decode(message)
        except ProtocolError as e:
            found.add(e.reason)
    return found


DECODERS = (wire.decode_update, wire.decode_heartbeat, wire.decode_snapshot, wire.decode_request, wire.decode_reply)
GOOD = (UPDATE, BEAT, SNAPSHOT, wire.encode_request(wire.CommitRequest()),
        wire.encode_request(wire.RollbackRequest(3)), wire.encode_request(wire.AcceptRequest(1, 0, 2)),
        wire.encode_reply(wire.Reply({})))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_raise_nothing_but_protocol_errors(data):
    good = bytearray(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(0, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    message = data.draw(
        st.one_of(st.just(bytes(good)), st.just(bytes(good[: data.draw(st.integers(0, 300))])), st.binary())
    )
    assert reasons(message) <= set(wire.REASONS)


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.floats() | st.text(max_size=5)
                    | st.binary(max_size=5), lambda each: st.lists(each, max_size=3), max_leaves=5),
       st.sampled_from(sorted(wire.FIELDS)), st.sampled_from(GOOD))  # fmt: skip
def test_any_value_in_any_field_raises_nothing_but_protocol_errors(value, name, good):
    message = altered(good, **{name: value})
    assert reasons(message) <= set(wire.REASONS)


def test_topics_end_in_a_slash():
    assert wire.mask_topic("tiny", 1) == b"mask/tiny/1/"
    assert not wire.mask_topic("tiny", 10).startswith(wire.mask_topic("tiny", 1))
    assert wire.beat_topic("tiny", Shard(3, 0, 175).name) == b"beat/tiny/m03-c000-175/"


def test_docs_name_every_field_and_reason():
    page = (Path(__file__).parents[1] / "docs" / "wire.md").read_text()
    assert not [name for name in (*wire.FIELDS, *wire.REASONS, *wire.RESERVED) if f"`{name}`" not in page]
