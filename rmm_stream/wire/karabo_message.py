"""The karabo-bridge serialisation, 2.2 (pairs of parts) and 1.0 (one part): message parts <-> named sources.

Knows no detector and no axes; `karabo.py` does. Version 1.0 writes arrays as the package msgpack-numpy does, whose own
decoder unpickles on demand of the sender: its maps are read here instead, and object arrays are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import msgpack
import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from numpy.typing import NDArray

from ..errors import ProtocolError
from .decoder import DTYPES, Part, as_array, check_time, check_train_id, unpack

MAX_PARTS = 4096  # 16 modules with 6 arrays each are 224
MAX_HEADER = 4096  # bytes; real ones have about 200
MAX_VALUES = 1 << 20  # bytes of all values of a source that are not arrays
MAX_ENTRIES = 4096  # of one map or list of version 1.0: sources, keys, plain numbers; real ones have some hundred
MAX_ALL_ENTRIES = 1 << 18  # of all maps and lists of a message of version 1.0, themselves counted
MAX_TEXT = 1 << 16  # bytes of a string of version 1.0
ATTOSECONDS = 10**18


class Header(Struct, frozen=True):
    """The first part of a pair. Unknown keys are skipped."""

    source: Annotated[str, Meta(min_length=1, max_length=256)]
    content: Literal["msgpack", "array"]
    path: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    metadata: Raw = Raw(b"\x80")  # opened for our own sources only: a foreign one cannot spoil the message


class Metadata(Struct, frozen=True):
    """Any key may be missing."""

    timestamp: float | None = None
    tid: int | None = msgspec.field(default=None, name="timestamp.tid")
    sec: str | int | None = msgspec.field(default=None, name="timestamp.sec")
    frac: str | int | None = msgspec.field(default=None, name="timestamp.frac")

    @property
    def train_id(self) -> int | None:
        """Raises ProtocolError("train_id") where it is out of range."""
        return None if self.tid is None else check_train_id(self.tid)

    def time(self, received: float | None) -> float:
        """Unix time, s; `received` where the source has none. Raises ProtocolError("time")."""
        if self.timestamp is not None:
            return check_time(self.timestamp, received)
        if self.sec is not None:
            sec, frac = str(self.sec), str(self.frac or 0)
            if not (sec.isascii() and sec.isdigit() and len(sec) < 16 and frac.isascii() and frac.isdigit()):
                raise ProtocolError("time", f"timestamp.sec {sec[:40]!r}, timestamp.frac {frac[:40]!r} are no numbers")
            return check_time(int(sec) + int(frac[:18]) / ATTOSECONDS, received)
        if received is None:
            raise ProtocolError("time", "the source has no timestamp, and its time of arrival is not known")
        return check_time(received)


class RawArray(NamedTuple):
    """An array as announced, not yet believed."""

    payload: Part
    dtype: str
    shape: Sequence[int]


@dataclass(slots=True)
class KaraboSource:
    """One source of one train. Whatever is not asked for is never opened."""

    name: str
    raw_metadata: Any  # Raw in 2.2; any object in 1.0
    raw_values: Part | dict  # in 1.0 all values, arrays among them
    arrays: dict[str, RawArray] = field(default_factory=dict)

    def metadata(self) -> Metadata:
        """Raises ProtocolError("mistyped")."""
        if isinstance(self.raw_metadata, Raw):
            return unpack(_METADATA, self.raw_metadata, f"metadata of {self.name}", MAX_HEADER)
        if not isinstance(self.raw_metadata, dict):
            raise ProtocolError("mistyped", f"metadata of {self.name} is not a map")
        plain = {key: self._plain(value) for key, value in self.raw_metadata.items()}
        try:
            return msgspec.convert(plain, Metadata)
        except (msgspec.MsgspecError, TypeError) as e:
            raise ProtocolError("mistyped", f"metadata of {self.name}: {str(e)[:200]}") from None

    def array(self, key: str) -> NDArray | None:
        """The array, or plain numbers as an array; None where there is no such key. Raises ProtocolError."""
        if key in self.arrays:
            return as_array(*self.arrays[key])
        value = self.values().get(key)
        if isinstance(value, dict) and b"nd" in value:
            return as_array(*_raw_array(value))
        numbers = value if isinstance(value, list) else [value]
        if value is not None and all(type(number) is int and -(1 << 63) <= number < 1 << 63 for number in numbers):
            return np.array(numbers, np.int64)
        if value is not None:
            raise ProtocolError(
                "mistyped", f"{key} of {self.name} is {str(value)[:40]!r}, expected an array of integers"
            )
        return None

    def value(self, key: str) -> Any:
        """A plain value; an array of one element counts as one. None where there is no such key. Raises ProtocolError."""
        return _item(self.array(key)) if key in self.arrays else self._plain(self.values().get(key))

    def _plain(self, value: Any) -> Any:
        """A value of version 1.0, where a numpy scalar is a map."""
        return _item(as_array(*_raw_array(value))) if isinstance(value, dict) and b"nd" in value else value

    def __contains__(self, key: str) -> bool:
        return key in self.arrays or key in self.values()

    def keys(self) -> list[str]:
        """Raises ProtocolError, as values."""
        return [*self.arrays, *map(str, self.values())]

    def values(self) -> dict:
        """Everything that is not an array. Raises ProtocolError (mistyped, truncated, oversized)."""
        if not isinstance(self.raw_values, dict):
            self.raw_values = unpack(_VALUES, self.raw_values, f"values of {self.name}", MAX_VALUES)
        return self.raw_values


_HEADER = msgspec.msgpack.Decoder(Header)
_METADATA = msgspec.msgpack.Decoder(Metadata)
_VALUES = msgspec.msgpack.Decoder(dict)


def read(parts: Sequence[Part]) -> dict[str, KaraboSource]:
    """The sources of one message, by name. Raises ProtocolError (truncated, oversized, mistyped)."""
    if not parts:
        raise ProtocolError("truncated", "a message without parts")
    if len(parts) == 1:
        return _read_1_0(parts[0])
    if len(parts) > MAX_PARTS:
        raise ProtocolError("oversized", f"{len(parts)} parts; at most {MAX_PARTS} are allowed")
    if len(parts) % 2:
        raise ProtocolError("truncated", f"{len(parts)} parts; karabo-bridge 2.2 has pairs of header and payload")
    sources: dict[str, KaraboSource] = {}
    for head, payload in zip(parts[::2], parts[1::2]):
        header = unpack(_HEADER, head, "header", MAX_HEADER)
        source = sources.get(header.source)
        if header.content == "msgpack":
            if source is not None:
                raise ProtocolError("mistyped", f"source {header.source} comes twice")
            sources[header.source] = KaraboSource(header.source, header.metadata, payload)
        elif source is None:
            raise ProtocolError("mistyped", f"array {header.path} of {header.source} comes before its source")
        elif header.path in source.arrays:
            raise ProtocolError("mistyped", f"array {header.path} of {header.source} comes twice")
        else:
            source.arrays[header.path] = RawArray(payload, header.dtype, header.shape)
    return sources


def _read_1_0(part: Part) -> dict[str, KaraboSource]:
    """One msgpack map of maps. unpackb bounds lengths of bytes by the buffer, we the number of objects it may make."""
    left = MAX_ALL_ENTRIES

    def counted(container: dict | list) -> dict | list:
        nonlocal left
        left -= 1 + len(container)
        if left < 0:
            raise ProtocolError("oversized", f"more than {MAX_ALL_ENTRIES} entries in maps and lists")
        return container

    try:
        tree = msgpack.unpackb(
            part, raw=False, object_hook=counted, list_hook=counted, max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES, max_str_len=MAX_TEXT, max_ext_len=MAX_TEXT,
        )  # fmt: skip
    except ProtocolError:
        raise
    except Exception as e:  # msgpack's errors have no base but this: ValueError, OutOfData, OverflowError, ...
        said = str(e) if isinstance(e, ValueError) else ""
        reason = "truncated" if "incomplete" in said else "oversized" if "exceeds max_" in said else "mistyped"
        raise ProtocolError(reason, f"not karabo-bridge 1.0: {type(e).__name__} {str(e)[:200]}") from None
    if not isinstance(tree, dict) or not all(isinstance(k, str) and isinstance(v, dict) for k, v in tree.items()):
        raise ProtocolError("mistyped", "not karabo-bridge 1.0, which is a map of sources")
    return {name: KaraboSource(name, values.pop("metadata", {}), values) for name, values in tree.items()}


def _raw_array(value: dict) -> RawArray:
    """The map of an array or of a numpy scalar; what is not plain numbers gets a dtype that as_array refuses."""
    dtype, data = value.get(b"type"), value.get(b"data")
    shape = value.get(b"shape") if value[b"nd"] is True else []
    plain = value.get(b"kind", b"") == b"" and isinstance(dtype, str)
    if not isinstance(data, bytes) or not isinstance(shape, list) or not all(type(side) is int for side in shape):
        raise ProtocolError("mistyped", "an array map without shape or data")
    return RawArray(data, dtype if plain else "object", shape)


def _item(array: NDArray) -> Any:
    if array.size != 1:
        raise ProtocolError("mistyped", f"an array of shape {list(array.shape)} where one value is expected")
    return array.item()


def write(
    sources: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Mapping[str, Any]], version: str = "2.2"
) -> list[Part]:
    """Message parts of one train, for simulators; arrays are not copied in version 2.2.

    sources: {source: {key: array or plain value}}; metadata: {source: stamp(...)}. version: "2.2" or "1.0".
    """
    if version == "1.0":
        tree = {name: {**values, "metadata": dict(metadata[name])} for name, values in sources.items()}
        return [msgpack.packb(tree, default=_array_map)]
    if version != "2.2":
        raise ValueError(f"karabo-bridge {version!r} is not written; known are 2.2 and 1.0")
    parts: list[Part] = []
    for name, values in sorted(sources.items()):
        arrays = {key: np.ascontiguousarray(v) for key, v in values.items() if isinstance(v, np.ndarray)}
        plain = {key: v for key, v in values.items() if key not in arrays}
        parts += [
            msgpack.packb({"source": name, "content": "msgpack", "metadata": dict(metadata[name])}),
            msgpack.packb(plain),
        ]
        for key, a in arrays.items():
            head = {"source": name, "content": "array", "path": key, "dtype": a.dtype.name, "shape": a.shape}
            parts += [msgpack.packb(head), a.data]
    return parts


def stamp(source: str, train_id: int, timestamp: float) -> dict[str, Any]:
    """The metadata of one source in one train. timestamp: Unix, s."""
    frac = int(timestamp % 1 * ATTOSECONDS)
    return {
        "source": source,
        "timestamp": timestamp,
        "timestamp.tid": train_id,
        "timestamp.sec": str(int(timestamp)),
        "timestamp.frac": f"{frac:018d}",
    }


def _array_map(value: Any) -> dict:
    """An array as msgpack-numpy writes it."""
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        raise TypeError(f"{type(value).__name__} cannot be written to karabo-bridge")
    return {b"nd": True, b"type": value.dtype.str, b"kind": b"", b"shape": value.shape, b"data": value.tobytes()}
