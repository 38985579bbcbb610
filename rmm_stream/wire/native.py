"""Our own frame protocol: two or three parts, a typed msgpack header, raw pixels, raw gain indicators.

For detectors whose readout we may write ourselves, for the simulator, and for passing frames between machines.
The bytes are specified in docs/wire-frames.md. Masks have a protocol of their own, `masks.py`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from .. import config
from ..detectors import DetectorSpec
from ..errors import ProtocolError
from ..frames import Exposure, FrameBatch, Illumination
from .decoder import GAIN_DTYPES, NO_MODULE, Decoded, Part, admit, as_array, check_time, check_train_id, unpack

SCHEMA = 1
MAX_FRAMES = 4096  # in one message
MAX_HEADER = 1 << 16  # bytes; MAX_FRAMES frames with a train id each take 50 KB

_Ids = Annotated[list[Annotated[int, Meta(ge=0, lt=1 << 32)]], Meta(max_length=MAX_FRAMES)]


class _Schema(Struct, frozen=True):
    """Read first, so that a later schema is refused by its number and not by its fields."""

    schema: int


class FrameHeader(Struct, frozen=True, omit_defaults=True):
    """Part 0. Unknown keys are skipped: adding one does not change `schema`, changing a meaning does.

    schema: SCHEMA. detector: its configured name. module: from 0. timestamp: Unix, s.
    train_id: one for all frames, or one each. cell: one per frame. shape: (n, ss, fs). dtype: numpy name of the pixels.
    gain_dtype: of part 2; "": there is no part 2. complete: one per frame; None: all are.
    illumination: None: the stream does not say. gain_stage: None: each pixel switches by itself.
    """

    schema: int
    detector: Annotated[str, Meta(max_length=256)]
    module: Annotated[int, Meta(ge=0)]
    timestamp: float
    train_id: int | Annotated[list[int], Meta(max_length=MAX_FRAMES)]
    cell: _Ids
    shape: tuple[int, int, int]
    dtype: str
    gain_dtype: str = ""
    complete: Annotated[list[bool], Meta(max_length=MAX_FRAMES)] | None = None
    illumination: Illumination | None = None
    gain_stage: Annotated[int, Meta(ge=0)] | None = None


_SCHEMA = msgspec.msgpack.Decoder(_Schema)
_HEADER = msgspec.msgpack.Decoder(FrameHeader)
_ENCODER = msgspec.msgpack.Encoder()


class NativeDecoder:
    """One message, one module. `source` and `exposure` are not read: the header says it all."""

    def __init__(
        self,
        spec: DetectorSpec,
        source: config.Source,
        exposure: config.ExposureSettings,
        modules: Iterable[int],
    ):
        self.spec = spec
        self.modules = frozenset(modules)

    def decode(self, parts: Sequence[Part], received: float | None = None) -> Decoded:
        """The frames of one message; see decoder.Decoder. The timestamp is mandatory; `received` only bounds it."""
        if not 2 <= len(parts) <= 3:
            reason = "truncated" if len(parts) < 2 else "oversized"
            raise ProtocolError(reason, f"{len(parts)} parts; a frame message has header, pixels and perhaps gain")
        schema = unpack(_SCHEMA, parts[0], "header", MAX_HEADER).schema
        if schema != SCHEMA:
            raise ProtocolError("schema", f"frame schema {schema}; this program speaks {SCHEMA}")
        header = unpack(_HEADER, parts[0], "header", MAX_HEADER)
        rejected: Counter[tuple[int, str]] = Counter()
        if header.detector != self.spec.name:
            rejected[NO_MODULE, "unknown_source"] += 1
        elif header.module >= self.spec.modules:
            rejected[NO_MODULE, "unknown_module"] += 1
        elif header.module in self.modules:
            batch = self._batch(header, parts, received, rejected)
            return Decoded([] if batch is None else [batch], rejected)
        return Decoded([], rejected)

    def _batch(
        self,
        header: FrameHeader,
        parts: Sequence[Part],
        received: float | None,
        rejected: Counter[tuple[int, str]],
    ) -> FrameBatch | None:
        n = header.shape[0]
        if header.shape[1:] != self.spec.module_shape or n > MAX_FRAMES:
            raise ProtocolError(
                "shape",
                f"frames of shape {list(header.shape)}; {self.spec.name} has (n, ss, fs) = "
                f"(up to {MAX_FRAMES}, {self.spec.module_shape[0]}, {self.spec.module_shape[1]})",
            )
        many = isinstance(header.train_id, list)
        ids = header.train_id if many else [header.train_id]
        for what, values in (
            ("cell", header.cell),
            ("train_id", ids if many else header.cell),
            ("complete", header.cell if header.complete is None else header.complete),
        ):
            if len(values) != n:
                raise ProtocolError("shape", f"{len(values)} entries of {what} for {n} frames")
        if header.gain_stage is not None and header.gain_stage >= len(self.spec.stages):
            raise ProtocolError("mistyped", f"gain stage {header.gain_stage}; {self.spec.name} has {self.spec.stages}")
        pixels = as_array(parts[1], header.dtype, header.shape)
        if pixels.dtype != self.spec.dtype:
            raise ProtocolError("dtype", f"pixels are {pixels.dtype}, but {self.spec.name} sends {self.spec.dtype}")
        train_id = np.array([check_train_id(i) for i in ids], np.uint64)
        return admit(
            self.spec,
            header.module,
            pixels,
            self._gain(header, parts),
            np.array(header.cell, np.int64),
            train_id if many else np.repeat(train_id, n),
            np.ones(n, bool) if header.complete is None else np.array(header.complete, bool),
            check_time(header.timestamp, received),
            None if header.illumination is None else Exposure(header.illumination, header.gain_stage),
            rejected,
        )

    def _gain(self, header: FrameHeader, parts: Sequence[Part]) -> NDArray | None:
        if (len(parts) == 3) != bool(header.gain_dtype):
            reason = "truncated" if header.gain_dtype else "oversized"
            raise ProtocolError(reason, f"{len(parts)} parts, but gain_dtype is {header.gain_dtype[:40]!r}")
        if not header.gain_dtype:
            return None
        gain = as_array(parts[2], header.gain_dtype, header.shape)
        if gain.dtype not in GAIN_DTYPES:
            raise ProtocolError("dtype", f"gain is {gain.dtype}, expected uint8 or uint16")
        return gain


def encode(batch: FrameBatch, detector: str) -> list[Part]:
    """Message parts of a batch; pixels and gain are not copied."""
    ids = batch.train_id.tolist()
    told = batch.exposure
    header = FrameHeader(
        schema=SCHEMA,
        detector=detector,
        module=batch.module,
        timestamp=float(batch.timestamp),
        train_id=ids[0] if ids and len(set(ids)) == 1 else ids,
        cell=batch.cell.tolist(),
        shape=batch.pixels.shape,
        dtype=batch.pixels.dtype.name,
        gain_dtype="" if batch.gain is None else batch.gain.dtype.name,
        complete=None if batch.complete.all() else batch.complete.tolist(),
        illumination=None if told is None else told.illumination,
        gain_stage=None if told is None else told.gain_stage,
    )
    arrays = [batch.pixels] if batch.gain is None else [batch.pixels, batch.gain]
    return [_ENCODER.encode(header), *(np.ascontiguousarray(array).data for array in arrays)]
