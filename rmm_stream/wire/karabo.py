"""karabo-bridge 2.2 and 1.0 (EuXFEL): the sources of a train -> FrameBatches, and back for the simulator.

The one place that knows how a karabo source is laid out: names, axes, cell ids, train ids. The bytes are read by
`karabo_message.py`, axes are turned by `axes.py`. Knows no sockets, and remembers nothing between messages.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from string import Formatter

import numpy as np
from numpy.typing import NDArray

from .. import config
from ..detectors import DetectorSpec
from ..errors import ConfigError, ProtocolError
from ..frames import Exposure, FrameBatch, Illumination
from .axes import Axes
from .decoder import GAIN_DTYPES, NO_MODULE, Decoded, Part, admit, check_train_id
from .karabo_message import KaraboSource, read, stamp, write


class KaraboDecoder:
    """One source per module (`{module}` in source.name), or one stacked source ("module" in source.axes)."""

    def __init__(
        self,
        spec: DetectorSpec,
        source: config.Source,
        exposure: config.ExposureSettings,
        modules: Iterable[int],
    ):
        """Raises ConfigError where the source's description contradicts the detector or itself."""
        self.spec, self.source, self.exposure = spec, source, exposure
        self.modules = frozenset(modules)
        self.axes = Axes.parse(source.axes)
        self.gain_axes = Axes.parse(source.gain_axes or source.axes)
        self._gain_key = _gain_key(spec, source)
        self._names = source_names(spec, source)
        self._family = _family(source.name)
        self._train_key = f"{source.image_key.rpartition('.')[0]}.trainId".lstrip(".")

    def decode(self, parts: Sequence[Part], received: float | None = None) -> Decoded:
        """The frames of our modules; see decoder.Decoder. A module that fails does not take the others with it."""
        sources = read(parts)
        batches: list[FrameBatch] = []
        rejected: Counter[tuple[int, str]] = Counter()
        faults: list[ProtocolError] = []
        notes: list[ProtocolError] = []
        ours = 0
        label, complaint = self._label(sources.pop(self.exposure.source, None))
        if complaint:
            notes.append(complaint)
            rejected[NO_MODULE, complaint.reason] += 1
        for name, source in sources.items():
            if name not in self._names:
                reason = "unknown_module" if self._family.fullmatch(name) else "unknown_source"
                if not rejected[NO_MODULE, reason]:
                    notes.append(ProtocolError(reason, f"{name[:256]} is not of source.name = {self.source.name!r}"))
                rejected[NO_MODULE, reason] += 1
                continue
            wanted = [module for module in self._names[name] if module in self.modules]
            if not wanted:
                continue  # another process does them
            ours += 1
            try:
                batches += self._batches(source, wanted, label, received, rejected)
            except ProtocolError as e:
                faults.append(ProtocolError(e.reason, f"{name[:256]}: {e}"))
                rejected.update((module, e.reason) for module in wanted)
        if faults and len(faults) == ours:
            raise faults[0]
        return Decoded(batches, rejected, (*faults, *notes))

    def _batches(
        self,
        source: KaraboSource,
        modules: Sequence[int],
        label: Exposure | None,
        received: float | None,
        rejected: Counter[tuple[int, str]],
    ) -> list[FrameBatch]:
        """Everything is checked before the first pixel is moved."""
        image = self._array(source, self.source.image_key)
        self.axes.check(image.shape, self.spec)
        if image.dtype != self.spec.dtype:
            raise ProtocolError(
                "dtype",
                f"{self.source.image_key} is {image.dtype}, but {self.spec.name} sends {self.spec.dtype}; "
                "raw and corrected streams differ: set detector.bits (0: corrected) to what is sent",
            )
        n = self.axes.count(image.shape)
        gain = self._gain(source, n)
        cell = self._cells(source, n)
        metadata = source.metadata()
        train_id = self._train_ids(source, n, metadata.train_id)
        timestamp = metadata.time(received)
        batches = []
        for module in modules:
            pixels, code = self.spec.split_raw(self.axes.frames(image, module))
            if "kind" in self.axes:
                code = self.axes.frames(image, module, kind=1)
            elif gain is not None:
                code = self.gain_axes.frames(gain, module)
            complete = np.ones(n, bool)
            batches.append(admit(self.spec, module, pixels, code, cell, train_id, complete, timestamp, label, rejected))
        return [batch for batch in batches if batch is not None]

    def _array(self, source: KaraboSource, key: str) -> NDArray:
        array = source.array(key)
        if array is None:
            known = ", ".join(source.keys())[:200]
            raise ProtocolError("missing", f"no key {key}; the source has {known or 'none'}")
        return array

    def _gain(self, source: KaraboSource, n: int) -> NDArray | None:
        """The gain array as sent, checked; None where the detector or the configuration has none."""
        if not self._gain_key:
            return None
        gain = self._array(source, self._gain_key)
        self.gain_axes.check(gain.shape, self.spec)
        if self.gain_axes.count(gain.shape) != n:
            raise ProtocolError(
                "shape", f"{self._gain_key} {list(gain.shape)} does not have the {n} frames of the image"
            )
        if gain.dtype not in GAIN_DTYPES:
            raise ProtocolError("dtype", f"{self._gain_key} is {gain.dtype}, expected uint8 or uint16")
        return gain

    def _cells(self, source: KaraboSource, n: int) -> NDArray:
        """(n,) of an integer type, as sent; a frame's place in the train only where the configuration says so."""
        if not self.source.cell_key:
            return np.arange(n) if self.spec.cells > 1 else np.zeros(n, np.uint16)
        cell = source.array(self.source.cell_key)
        if cell is None and self.spec.cells == 1:
            return np.zeros(n, np.uint16)
        return _per_frame(self._array(source, self.source.cell_key), n, self.source.cell_key)

    def _train_ids(self, source: KaraboSource, n: int, announced: int | None) -> NDArray:
        """(n,) uint64, from the metadata; from the array beside the image where the metadata has none."""
        if announced is None or self._train_key in source:
            ids = self._array(source, self._train_key)
            ids = np.broadcast_to(ids.reshape(-1), n) if ids.size == 1 else _per_frame(ids, n, self._train_key)
            for extreme in (ids.min(initial=0), ids.max(initial=0)):
                check_train_id(int(extreme))
            if announced is None:
                return ids.astype(np.uint64)
            if (ids != announced).any():
                raise ProtocolError("train_id", f"{self._train_key} is not the timestamp.tid {announced}")
        return np.full(n, announced, np.uint64)

    def _label(self, source: KaraboSource | None) -> tuple[Exposure | None, ProtocolError | None]:
        """What the stream says about the exposure, or why that could not be read. A fault here costs no frame."""
        if source is None:
            return None, None
        try:
            illumination = source.value(self.exposure.illumination_key)
            stage = source.value(self.exposure.gain_stage_key)
        except ProtocolError as e:
            return None, ProtocolError(e.reason, f"exposure source {source.name}: {e}")
        if illumination is None:
            text = f"exposure source {source.name} has no key {self.exposure.illumination_key}"
            return None, ProtocolError("missing", text)
        words = [known.value for known in Illumination]
        if illumination not in words:
            text = f"{self.exposure.illumination_key} = {str(illumination)[:40]!r}, expected {', '.join(words)}"
            return None, ProtocolError("mistyped", text)
        if stage is not None and (type(stage) is not int or stage >= len(self.spec.stages)):
            text = f"{self.exposure.gain_stage_key} = {str(stage)[:40]!r}; {self.spec.name} has {self.spec.stages}"
            return None, ProtocolError("mistyped", text)
        return Exposure(Illumination(illumination), stage if stage is not None and stage >= 0 else None), None


def source_names(spec: DetectorSpec, source: config.Source) -> dict[str, tuple[int, ...]]:
    """Every karabo source of the detector, with its modules. Raises ConfigError where name, axes, detector differ."""
    axes = {"axes": Axes.parse(source.axes), "gain_axes": Axes.parse(source.gain_axes or source.axes)}
    per_module = any(name is not None for name in _fields(source.name))
    for key, words in axes.items():
        if per_module and "module" in words:
            raise ConfigError(
                f'source.{key} = "{words}" and source.name = {source.name!r} both name the module; drop one'
            )
        if not per_module and "module" not in words and spec.modules > 1:
            raise ConfigError(
                f"source.name = {source.name!r} names one source for the {spec.modules} modules of {spec.name}; "
                f'write {{module}} where its number stands, or "module" into source.{key} for a stacked array'
            )
        if "cell" not in words and spec.cells > 1 and not source.cell_key:
            raise ConfigError(
                f'source.{key} = "{words}" has no cell and source.cell_key is empty; cells cannot be told'
            )
    if not per_module:
        return {source.name: tuple(range(spec.modules))}
    names = {source.name.format(module=spec.first_number + m): (m,) for m in range(spec.modules)}
    if len(names) < spec.modules:
        raise ConfigError(f"source.name = {source.name!r} gives two modules the same name")
    return names


def _fields(name: str) -> list[str | None]:
    """The replacement fields of a name pattern; None for plain text. Raises ConfigError for any but {module}."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(name)]
        if not {None, "module"}.issuperset(fields):
            raise ValueError("only {module} or {module:02d} can stand in it")
        name.format(module=0)
    except (ValueError, IndexError, KeyError) as e:
        raise ConfigError(f"source.name = {name!r}: {e}") from None
    return fields


def _family(name: str) -> re.Pattern[str]:
    """What a source of any module is called, also of one that the detector does not have."""
    return re.compile(
        "".join(re.escape(text) + (r"\d+" if field else "") for text, field, _, _ in Formatter().parse(name))
    )


def _gain_key(spec: DetectorSpec, source: config.Source) -> str:
    """The key of a gain array that comes apart from the image; "" where there is none to be read."""
    return "" if spec.gain == "none" or spec.packed or "kind" in Axes.parse(source.axes) else source.gain_key


def _per_frame(array: NDArray, n: int, key: str) -> NDArray:
    """(n,) from an array with one integer per frame; axes of length 1 do not matter. Raises ProtocolError."""
    if array.dtype.kind not in "ui":
        raise ProtocolError("dtype", f"{key} is {array.dtype}, expected integers")
    if array.size != n or max(array.shape, default=1) != n:
        raise ProtocolError("shape", f"{key} has shape {list(array.shape)} for {n} frames")
    return array.reshape(n)


def encode(
    batches: Sequence[FrameBatch],
    spec: DetectorSpec,
    source: config.Source,
    exposure: config.ExposureSettings | None = None,
    version: str = "2.2",
) -> list[Part]:
    """The message of one train as `KaraboDecoder` with the same settings reads it; for simulators.

    batches: one per module, of one train; for a stacked source one of each module, all with the same cells.
    The exposure of the first is announced where `exposure.source` names a source for it.
    """
    axes, gain_axes = Axes.parse(source.axes), Axes.parse(source.gain_axes or source.axes)
    names = {modules: name for name, modules in source_names(spec, source).items()}
    if "module" in axes:
        if [batch.module for batch in batches] != list(range(spec.modules)):
            raise ValueError(f"a stacked source needs one batch of each of the {spec.modules} modules, in order")
        groups = [(names[tuple(range(spec.modules))], batches)]
    else:
        groups = [(names[batch.module,], [batch]) for batch in batches]
    sources, metadata = {}, {}
    for name, group in groups:
        first = group[0]
        pixels = np.stack([b.pixels for b in group])[:, None]
        values = {}
        if first.gain is not None:
            gain = np.stack([b.gain for b in group])[:, None]
            if spec.packed:
                pixels = spec.join_raw(pixels, gain)
            elif "kind" in axes:
                pixels = np.concatenate([pixels, gain.astype(pixels.dtype)], axis=1)
            elif key := _gain_key(spec, source):
                values[key] = gain_axes.join(gain)
        values[source.image_key] = axes.join(pixels)
        if source.cell_key:
            values[source.cell_key] = first.cell
        sources[name], metadata[name] = values, stamp(name, int(first.train_id[0]), first.timestamp)
    if exposure is not None and exposure.source and batches[0].exposure is not None:
        told, name = batches[0].exposure, exposure.source
        stage = -1 if told.gain_stage is None else told.gain_stage
        sources[name] = {exposure.illumination_key: told.illumination.value, exposure.gain_stage_key: stage}
        metadata[name] = stamp(name, int(batches[0].train_id[0]), batches[0].timestamp)
    return write(sources, metadata, version)
