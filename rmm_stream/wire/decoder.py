"""What every decoder shares: the interface, the closed set of reasons, and the checks that come before any allocation.

Sizes, types and ranges are judged from the header, never from the data,
and no byte of a message is ever executed. Knows no protocol.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..errors import ProtocolError
from ..frames import Exposure, FrameBatch

#: Why a message, a source in it, or a frame was not accumulated. A metric label: closed, and never reworded.
REASONS = (
    "truncated",  # fewer bytes or parts than announced
    "oversized",  # more bytes, parts or axes than announced or allowed
    "mistyped",  # not the structure or the values that the protocol allows
    "schema",  # a schema number that we do not speak
    "missing",  # a key that the configuration names is not in the message
    "shape",  # axes that contradict the configuration or the detector
    "dtype",  # element type that is not the detector's, or not allowed at all
    "unknown_source",  # a source or detector that the configuration does not name
    "unknown_module",  # a module that the detector does not have
    "train_id",  # absent, negative, beyond 2**63, or contradicting itself
    "time",  # absent, nan, not in the years 2000 to 2200, or far ahead of our clock
    "cell_range",  # a memory cell that the detector does not have
    "empty",  # a train without frames
    "not_finite",  # a calibrated frame without one finite pixel
    "duplicate",  # the same (train, cell) again
    "reordered",  # a train older than the last one
    "incomplete",  # packets were lost inside the frame
    "gated",  # F1: a dark frame unlike the others
    "no_offset",  # a lit frame before the offsets are known
    "no_gain_thresholds",  # analogue gain before the thresholds are known
    "unknown_exposure",  # nobody says dark, flat or sample
    "no_valid_pixel",  # only sentinels, saturation or nan
    "queue_full",  # the worker was too slow
    "unexpected",  # the message met a fault of ours; see the log
)

#: Stands for the module in a count when no module can be blamed.
NO_MODULE = -1

MAX_AXES = 8
FIRST_TIME = 946_684_800.0  # 2000-01-01
LAST_TIME = 7_258_118_400.0  # 2200-01-01
AHEAD_S = 3600.0  # clocks differ; time windows that were moved further ahead would not forget for as long

Part = bytes | bytearray | memoryview

#: Element types a message may name, by numpy's name and by its type string, in this machine's byte order only.
DTYPES = {
    name: dtype
    for dtype in map(np.dtype, ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "?"))
    for name in (dtype.name, dtype.str)
}

#: Element types of `FrameBatch.gain`.
GAIN_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


class Decoded(NamedTuple):
    """What a message holds for us.

    rejected: frames (or, where nobody can say how many frames there were, sources: each counts one) that were refused
        inside an otherwise good message, by (module or NO_MODULE, reason).
    faults: what was wrong with the refused sources, in words, for the log; some of what `rejected` counts.
    """

    batches: list[FrameBatch]
    rejected: Counter[tuple[int, str]]
    faults: tuple[ProtocolError, ...] = ()


class Decoder(Protocol):
    """Built as Decoder(spec, source, exposure, modules); keeps no state between messages."""

    def decode(self, parts: Sequence[Part], received: float | None = None) -> Decoded:
        """The frames of our modules in one message.

        received: Unix time of arrival, s; stands in where the stream carries no time, and bounds the time that it
            carries from above; None: not known, nothing is bounded.
        Raises ProtocolError, and nothing else, for a message that is refused whole.
        """


def unpack(decoder: msgspec.msgpack.Decoder, part: Part, what: str, limit: int):
    """One msgpack value, of at most `limit` bytes. Raises ProtocolError (oversized, truncated, mistyped)."""
    size = memoryview(part).nbytes
    if size > limit:
        raise ProtocolError("oversized", f"{what} of {size} bytes; at most {limit} are allowed")
    try:
        return decoder.decode(part)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as e:
        raise ProtocolError("truncated" if "truncated" in str(e) else "mistyped", f"{what}: {str(e)[:200]}") from None


def as_array(buffer: Part, dtype: str, shape: Sequence[int]) -> NDArray:
    """A read-only array over `buffer`, without a copy. Raises ProtocolError (dtype, oversized, shape, truncated)."""
    if dtype not in DTYPES:
        raise ProtocolError("dtype", f"element type {dtype[:40]!r} is refused; allowed are {', '.join(DTYPES)}")
    if len(shape) > MAX_AXES:
        raise ProtocolError("oversized", f"{len(shape)} axes; at most {MAX_AXES} are allowed")
    if any(side < 0 for side in shape):
        raise ProtocolError("shape", f"shape {list(shape)} has a negative side")
    found = memoryview(buffer).nbytes
    expected = math.prod(shape) * DTYPES[dtype].itemsize  # Python integers: no overflow, however mad the shape
    if found != expected:
        reason = "truncated" if found < expected else "oversized"
        raise ProtocolError(reason, f"{found} bytes where {dtype} {list(shape)} needs {expected}")
    if math.prod(max(side, 1) for side in shape) >= 1 << 48:  # [0, 2**62] holds nothing, and is too much for numpy
        raise ProtocolError("oversized", f"shape {list(shape)} is beyond any detector")
    return np.frombuffer(memoryview(buffer).toreadonly(), DTYPES[dtype]).reshape(shape)


def check_train_id(train_id: int) -> int:
    """Raises ProtocolError("train_id") outside 0 .. 2**63 - 1."""
    if not 0 <= train_id < 1 << 63:
        raise ProtocolError("train_id", f"train id {train_id} is not within 0 .. 2**63 - 1")
    return train_id


def check_time(timestamp: float, received: float | None = None) -> float:
    """The time as a float. received: of arrival, where that is known. Both Unix, s.

    Raises ProtocolError("time") for nan, for years outside 2000 .. 2200, and for more than AHEAD_S after the arrival.
    The past is never refused: a recording may be played again.
    """
    if not FIRST_TIME <= timestamp < LAST_TIME:  # false for nan, too
        raise ProtocolError("time", f"timestamp {timestamp} s is not in the years 2000 to 2200")
    if received is not None and timestamp > received + AHEAD_S:
        raise ProtocolError(
            "time",
            f"timestamp {timestamp} s is {(timestamp - received) / 3600:.1f} hours ahead of our clock, at most "
            f"{AHEAD_S / 3600:g} is allowed: compare the clocks of the sender and of this machine",
        )
    return float(timestamp)


def admit(
    spec: DetectorSpec,
    module: int,
    pixels: NDArray,
    gain: NDArray | None,
    cell: NDArray,
    train_id: NDArray,
    complete: NDArray,
    timestamp: float,
    exposure: Exposure | None,
    rejected: Counter[tuple[int, str]],
) -> FrameBatch | None:
    """The batch without the frames that cannot be used, which are counted in `rejected`; None where none is left.

    pixels, gain: (n, ss, fs), C-contiguous. cell: (n,) of any integer type. train_id, complete: (n,).
    """
    known = (cell >= 0) & (cell < spec.cells)
    finite = np.ones(len(cell), bool) if pixels.dtype.kind != "f" else _has_finite_pixel(pixels)
    for reason, bad in (("cell_range", ~known), ("not_finite", known & ~finite)):
        if count := int(np.count_nonzero(bad)):
            rejected[module, reason] += count
    keep = known & finite
    if not len(keep):
        rejected[module, "empty"] += 1
    if not keep.any():
        return None
    cell = cell.astype(np.uint16)
    if not keep.all():
        pixels, cell, train_id, complete = (a[keep] for a in (pixels, cell, train_id, complete))
        gain = None if gain is None else gain[keep]
    for array in (pixels, gain, cell, train_id, complete):
        if array is not None:
            array.flags.writeable = False  # from here on it is shared between threads
    return FrameBatch(
        module=module,
        pixels=pixels,
        gain=gain,
        cell=cell,
        train_id=train_id,
        complete=complete,
        timestamp=timestamp,
        exposure=exposure,
        labelled_by="" if exposure is None else "stream",
    )


def _has_finite_pixel(pixels: NDArray) -> NDArray:
    """(n,) bool. Looks at every 16th row first, since nearly every frame passes there."""
    found = np.isfinite(pixels[:, ::16]).any(axis=(1, 2))
    doubtful = np.flatnonzero(~found)
    found[doubtful] = np.isfinite(pixels[doubtful]).any(axis=(1, 2))
    return found
