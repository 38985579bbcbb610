"""Messages that a peer should never send: malformed ones, and well-formed but insane ones.

They arrive at NOW or later. The one invariant, for each decoder and for the whole service: refused, counted under `reason`,
and the next good train is still accumulated. A case with `whole` is refused by a ProtocolError; another is decoded, and
something in it counted.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import msgpack
import numpy as np
from builders import NOW, TINY, TINY_SOURCE, karabo_message, make_batch, native_message

from rmm_stream.errors import ProtocolError
from rmm_stream.wire.decoder import REASONS, Decoded, Decoder
from rmm_stream.wire.karabo_message import stamp, write

NAME = TINY_SOURCE.name.format(module=0)
HUGE = b"\xdd\xff\xff\xff\xff"  # msgpack: an array of 4 billion items, in 5 bytes
DEEP = b"\x91" * 100_000  # msgpack: lists in lists


class Hostile(NamedTuple):
    name: str
    reason: str
    parts: list[bytes]
    whole: bool = True


def decode_or_refuse(decoder: Decoder, parts: list[bytes]) -> Decoded | None:
    """What the decoder finds, or None where it refuses the message for a known reason; anything else is a defect."""
    try:
        found = decoder.decode(parts, NOW)
    except ProtocolError as e:
        if e.reason not in REASONS:
            raise
        return None
    assert {reason for _, reason in found.rejected} <= set(REASONS)
    return found


def bomb() -> bytes:
    """A pickle that would end the process of whoever loads it."""
    return b"cos\n_exit\n(I66\ntR."


def many_empty(container: bytes, lists: int = 100) -> bytes:
    """msgpack: lists of 4096 empty containers each, a byte that becomes an object of half a hundred."""
    return b"\xdd" + lists.to_bytes(4) + (b"\xdc\x10\0" + container * 4096) * lists


def anything() -> list[Hostile]:
    """Bytes that no protocol knows."""
    noise = np.random.default_rng(7).bytes(4096)
    return [
        Hostile("no parts", "truncated", []),
        Hostile("two empty parts", "truncated", [b"", b""]),
        Hostile("noise in pairs", "mistyped", [noise[:100], noise]),
        Hostile("pickle in pairs", "mistyped", [bomb(), bomb()]),
        Hostile("json in pairs", "mistyped", [b'{"htype":"dheader-1.0","series":1}', b"{}"]),
        Hostile("long header", "oversized", [b"\xda\xff\xff" + bytes(1 << 17), b""]),
        Hostile("deep header", "mistyped", [b"\x81\xa6source" + b"\x91" * 3990 + b"\x90", b""]),
        Hostile("huge list in the header", "truncated", [b"\x81\xa5shape" + HUGE, b""]),
    ]


def sources_of(module: int = 0, **changes: Any) -> tuple[dict, dict]:
    """A good karabo train of one module as (sources, metadata); `changes` replace keys, None removes one.

    Keys: data, gain, cellId, trainId, tid, timestamp, sec, frac, name.
    """
    batch = make_batch(TINY, module)
    name = changes.get("name", TINY_SOURCE.name.format(module=module))
    values = {"data": batch.pixels, "gain": batch.gain, "cellId": batch.cell} | {
        key: value for key, value in changes.items() if key in ("data", "gain", "cellId", "trainId")
    }
    metadata = stamp(name, int(batch.train_id[0]), NOW)
    for key, place in (
        ("tid", "timestamp.tid"),
        ("timestamp", "timestamp"),
        ("sec", "timestamp.sec"),
        ("frac", "timestamp.frac"),
    ):
        if key in changes:
            metadata[place] = changes[key]
    return (
        {name: {f"image.{key}": value for key, value in values.items() if value is not None}},
        {name: {key: value for key, value in metadata.items() if value is not None}},
    )


def karabo_train(version: str = "2.2", **changes: Any) -> list[bytes]:
    """The message of `sources_of`."""
    return [bytes(part) for part in write(*sources_of(**changes), version)]


def header(**changes: Any) -> bytes:
    """A karabo array header, with `changes`."""
    good = {"source": NAME, "content": "array", "path": "image.data", "dtype": "uint16", "shape": [3, 64, 32]}
    return msgpack.packb({key: value for key, value in (good | changes).items() if value is not None})


def insane_trains(version: str) -> list[Hostile]:
    """Perfect karabo-bridge, impossible content."""
    batch = make_batch()
    square = np.zeros((3, 32, 64), np.uint16)
    cases = [
        ("axes swapped", "shape", {"data": square}),
        ("axes reversed", "shape", {"data": batch.pixels.T}),
        ("an axis too few", "shape", {"data": batch.pixels[0]}),
        ("float instead of raw", "dtype", {"data": batch.pixels.astype(np.float32)}),
        ("wider integers", "dtype", {"data": batch.pixels.astype(np.uint32)}),
        ("signed integers", "dtype", {"data": batch.pixels.astype(np.int16)}),
        ("no image", "missing", {"data": None}),
        ("no gain", "missing", {"gain": None}),
        ("no cells", "missing", {"cellId": None}),
        ("gain of other frames", "shape", {"gain": batch.gain[:2]}),
        ("float gain", "dtype", {"gain": batch.gain.astype(np.float64)}),
        ("cells of other frames", "shape", {"cellId": np.arange(2, dtype=np.uint16)}),
        ("float cells", "dtype", {"cellId": np.array([0, np.nan, 2])}),
        ("train id negative", "train_id", {"tid": -1}),
        ("train id of 64 bits", "train_id", {"tid": 1 << 63}),
        ("no train id", "missing", {"tid": None}),
        ("train id is a word", "mistyped", {"tid": "7"}),
        ("train ids contradict", "train_id", {"trainId": np.full(3, 999, np.uint64)}),
        ("year 3000", "time", {"timestamp": 32_503_680_000.0}),
        ("year 2199", "time", {"timestamp": 7_231_000_000.0}),
        ("year 1970", "time", {"timestamp": 0.0}),
        ("time is nan", "time", {"timestamp": float("nan")}),
        ("time is a word", "mistyped", {"timestamp": "now"}),
        ("seconds are a word", "time", {"timestamp": None, "sec": "now"}),
        ("seconds are many", "time", {"timestamp": None, "sec": "9" * 500}),
        ("seconds of the year 2199", "time", {"timestamp": None, "sec": "7231000000"}),
        ("fraction is a word", "time", {"timestamp": None, "frac": "half"}),
    ]
    whole = [Hostile(name, reason, karabo_train(version, **changes)) for name, reason, changes in cases]
    part = [
        Hostile(name, reason, karabo_train(version, **changes), whole=False)
        for name, reason, changes in [
            ("cell 999", "cell_range", {"cellId": np.array([0, 999, 2], np.uint16)}),
            ("cell negative", "cell_range", {"cellId": np.array([0, -1, 2], np.int16)}),
            ("cell of 64 bits", "cell_range", {"cellId": np.array([0, 2**63, 2], np.uint64)}),
            (
                "a train without frames",
                "empty",
                {
                    "data": np.zeros((0, 64, 32), np.uint16),
                    "gain": np.zeros((0, 64, 32), np.uint16),
                    "cellId": np.zeros(0, np.uint16),
                },
            ),
            ("module 99", "unknown_module", {"name": TINY_SOURCE.name.format(module=99)}),
            ("another detector", "unknown_source", {"name": "SPB_XTD9_XGM/XGM/DOOCS"}),
        ]
    ]
    return whole + part


def karabo_2_2() -> list[Hostile]:
    """For a decoder of TINY with TINY_SOURCE."""
    good = karabo_train()
    main = good[:2]
    payload = bytes(3 * 64 * 32 * 2)
    one_bad = karabo_message()
    place = next(i for i, part in enumerate(one_bad) if b"image.data" in part[:200])
    one_bad[place + 1] = one_bad[place + 1][:-1]
    return [
        *insane_trains("2.2"),
        Hostile("odd number of parts", "truncated", good[:-1]),
        Hostile("too many parts", "oversized", good * 1000),
        Hostile("payload cut", "truncated", [*good[:3], good[3][:-1], *good[4:]]),
        Hostile("payload empty", "truncated", [*good[:3], b"", *good[4:]]),
        Hostile("payload too long", "oversized", [*good[:3], good[3] + b"\0", *good[4:]]),
        Hostile("source twice", "mistyped", [*good, *good]),
        Hostile("array twice", "mistyped", [*good, *good[2:4]]),
        Hostile("array before its source", "mistyped", [*good[2:], *good[:2]]),
        Hostile("header and payload swapped", "mistyped", [good[1], good[0], *good[2:]]),
        Hostile("unknown content", "mistyped", [*main, header(content="pickle"), payload]),
        Hostile("pickled objects", "dtype", [*main, header(dtype="object", shape=[1]), bomb()]),
        Hostile("dtype O", "dtype", [*main, header(dtype="|O"), payload]),
        Hostile("structured dtype", "dtype", [*main, header(dtype="u2,u2"), payload]),
        Hostile("foreign byte order", "dtype", [*main, header(dtype=np.dtype("u2").newbyteorder().str), payload]),
        Hostile("half floats", "dtype", [*main, header(dtype="float16"), payload]),
        Hostile("shape overflows 64 bits", "truncated", [*main, header(shape=[1 << 32, 1 << 32, 2]), payload]),
        Hostile("shape wraps to the payload", "truncated", [*main, header(shape=[(1 << 64) - 1] * 3), payload]),
        Hostile("shape negative", "shape", [*main, header(shape=[-3, -64, 32]), payload]),
        Hostile("shape empty and vast", "oversized", [*main, header(shape=[0, 1 << 62, 1 << 62]), b""]),
        Hostile("shape of floats", "mistyped", [*main, header(shape=[3.0, 64.0, 32.0]), payload]),
        Hostile("shape of nine axes", "oversized", [*main, header(shape=[1] * 9), payload]),
        Hostile(
            "metadata is a list",
            "mistyped",
            [msgpack.packb({"source": NAME, "content": "msgpack", "metadata": [1]}), *good[1:]],
        ),
        Hostile("values are a list", "mistyped", [*main[:1], b"\x93\1\2\3"]),
        Hostile("values are deep", "mistyped", [*main[:1], b"\x81\xa1a" + DEEP]),
        Hostile("values are huge", "truncated", [*main[:1], b"\x81\xa1a" + HUGE]),
        Hostile("values are megabytes", "oversized", [*main[:1], bytes(2 << 20)]),
        Hostile("values with a map as a key", "mistyped", [*main[:1], b"\x81\x81\1\1\1"]),
        Hostile("image is a word", "mistyped", [*main[:1], msgpack.packb({"image.data": "pixels"})]),
        Hostile("one module of two is cut", "truncated", one_bad, whole=False),
    ]


def array_map(**changes: Any) -> dict:
    """The karabo-bridge 1.0 map of good pixels, with `changes`."""
    pixels = make_batch().pixels
    good = {b"nd": True, b"type": "<u2", b"kind": b"", b"shape": list(pixels.shape), b"data": pixels.tobytes()}
    return good | {key.encode(): value for key, value in changes.items()}


def karabo_1_0() -> list[Hostile]:
    """For the same decoder."""
    good = karabo_train("1.0")[0]

    def with_image(image: Any) -> list[bytes]:
        tree = msgpack.unpackb(good)
        tree[NAME]["image.data"] = image
        return [msgpack.packb(tree)]

    return [
        *insane_trains("1.0"),
        Hostile("empty part", "truncated", [b""]),
        Hostile("cut", "truncated", [good[:-100]]),
        Hostile("trailing bytes", "mistyped", [good + b"\0"]),
        Hostile("deep", "mistyped", [DEEP]),
        Hostile("huge", "oversized", [HUGE]),
        Hostile("many empty lists", "oversized", [many_empty(b"\x90")]),
        Hostile("many empty maps", "oversized", [many_empty(b"\x80")]),
        Hostile("a long string", "oversized", with_image("x" * (1 << 17))),
        Hostile("pickle", "mistyped", [bomb()]),
        Hostile("a list", "mistyped", [b"\x93\1\2\3"]),
        Hostile("sources are numbers", "mistyped", [msgpack.packb({NAME: 1})]),
        Hostile("a number as a key", "mistyped", [msgpack.packb({1: {}})]),
        Hostile(
            "metadata is a list", "mistyped", [msgpack.packb({NAME: msgpack.unpackb(good)[NAME] | {"metadata": [1]}})]
        ),
        Hostile("pickled objects", "dtype", with_image(array_map(kind=b"O", type="|O", data=bomb(), shape=[1]))),
        Hostile("structured dtype", "dtype", with_image(array_map(kind=b"V", type=[["a", "<u2"]]))),
        Hostile("array cut", "truncated", with_image(array_map(data=b"\0"))),
        Hostile("no data", "mistyped", with_image(array_map(data=None))),
        Hostile("shape is a word", "mistyped", with_image(array_map(shape="3, 64, 32"))),
        Hostile("shape of words", "mistyped", with_image(array_map(shape=["3", "64", "32"]))),
        Hostile("shape overflows 64 bits", "truncated", with_image(array_map(shape=[1 << 32, 1 << 32, 2]))),
        Hostile("foreign byte order", "dtype", with_image(array_map(type=np.dtype("u2").newbyteorder().str))),
    ]


def native() -> list[Hostile]:
    """For a NativeDecoder of TINY."""
    batch = make_batch()
    good = native_message(batch)

    def with_header(**changes: Any) -> list[bytes]:
        fields = msgpack.unpackb(good[0]) | changes
        return [msgpack.packb({key: value for key, value in fields.items() if value is not None}), *good[1:]]

    cases = [
        ("later schema", "schema", {"schema": 2}),
        ("no schema", "mistyped", {"schema": None}),
        ("no cells", "mistyped", {"cell": None}),
        ("cells of other frames", "shape", {"cell": [0, 1]}),
        ("cell negative", "mistyped", {"cell": [0, 1, -1]}),
        ("too many cells", "mistyped", {"cell": [0] * 5000}),
        ("train ids of other frames", "shape", {"train_id": [1, 2]}),
        ("train id negative", "train_id", {"train_id": -1}),
        ("train id of 64 bits", "train_id", {"train_id": [1, 2, 1 << 63]}),
        ("train id is a word", "mistyped", {"train_id": "7"}),
        ("complete of other frames", "shape", {"complete": [True]}),
        ("axes swapped", "shape", {"shape": [3, 32, 64]}),
        ("an axis too few", "mistyped", {"shape": [64, 32]}),
        ("more frames than sent", "truncated", {"shape": [4, 64, 32], "cell": [0, 1, 2, 0]}),
        ("frames by the billion", "shape", {"shape": [1 << 40, 64, 32]}),
        ("pickled objects", "dtype", {"dtype": "object"}),
        ("foreign byte order", "dtype", {"dtype": np.dtype("u2").newbyteorder().str}),
        ("signed integers", "dtype", {"dtype": "int16"}),
        ("signed gain", "dtype", {"gain_dtype": "int16"}),
        ("gain not announced", "oversized", {"gain_dtype": None}),
        ("year 3000", "time", {"timestamp": 32_503_680_000.0}),
        ("year 2199", "time", {"timestamp": 7_231_000_000.0}),
        ("time is nan", "time", {"timestamp": float("nan")}),
        ("illumination unheard of", "mistyped", {"illumination": "moonlight"}),
        ("gain stage beyond the detector", "mistyped", {"illumination": "dark", "gain_stage": 7}),
        ("module negative", "mistyped", {"module": -1}),
    ]
    return [
        *[Hostile(name, reason, with_header(**changes)) for name, reason, changes in cases],
        Hostile("one part", "truncated", good[:1]),
        Hostile("four parts", "oversized", [*good, b""]),
        Hostile("gain lost", "truncated", good[:2]),
        Hostile("pixels cut", "truncated", [good[0], good[1][:-1], good[2]]),
        Hostile("pixels too long", "oversized", [good[0], good[1] + b"\0", good[2]]),
        Hostile("module 99", "unknown_module", with_header(module=99), whole=False),
        Hostile("another detector", "unknown_source", with_header(detector="agipd1m"), whole=False),
        Hostile("cell 999", "cell_range", with_header(cell=[0, 999, 2]), whole=False),
        Hostile(
            "a train without frames",
            "empty",
            native_message(
                replace(
                    batch,
                    pixels=batch.pixels[:0],
                    gain=batch.gain[:0],
                    cell=batch.cell[:0],
                    train_id=batch.train_id[:0],
                    complete=batch.complete[:0],
                )
            ),
            whole=False,
        ),
    ]
