"""The mask file: complete masks of some modules as one HDF5 file, with what stands behind them. 0 is good.

Replaced by write-then-rename, always. Knows nothing of policies, streams or other programs' conventions.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import h5py
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..detectors import DetectorSpec
from ..errors import ConfigError, DataError
from ..mask import Mask
from .atomic import replace_file

SCHEMA = 1
POLARITY = "0 = good"
FLAGS = "1 offset, 2 noise, 4 gain separation, 8 gain level, 16 lit SNR, 32 edge, 64 no data, 128 user"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a mask comes from; attributes of the file.

    version: number in the store, 0 outside of one. epoch: life of the publisher, "" from files. generation: of the
    shard's owner. settings_digest: `Config.digest`. created: ISO 8601 with zone, "" when written means now.
    program_version: of rmm-stream.
    """

    version: int = 0
    epoch: str = ""
    generation: int = 0
    settings_digest: str = ""
    created: str = ""
    program_version: str = __version__


@dataclass(frozen=True, slots=True)
class MaskFile:
    """What a mask file holds. cells, stages: ids of the cell axis and names of the stage axis of every mask."""

    detector: str
    masks: tuple[Mask, ...]
    cells: tuple[int, ...]
    stages: tuple[str, ...]
    provenance: Provenance

    def mask(self, module: int) -> Mask:
        """The mask of a module. Raises ConfigError, listing the modules in the file."""
        for mask in self.masks:
            if mask.module == module:
                return mask
        raise ConfigError(
            f"the mask file has no module {module}; it has {', '.join(str(m.module) for m in self.masks)}"
        )


def write_mask(
    path: str | os.PathLike,
    detector: DetectorSpec | str,
    masks: Sequence[Mask],
    *,
    cells: Sequence[int],
    provenance: Provenance,
    stages: Sequence[str] = (),
    attributes: Mapping[str, object] = {},
    new: bool = False,
) -> None:
    """Replace the mask file at `path`.

    detector: its spec, or its name where no more is known. masks: one per module, equal shapes.
    cells: memory cell of each place on the cell axis of the masks. stages: names of the gain stages, where there is no spec.
    attributes: more of them, for `/`. new: raise FileExistsError rather than replace a file.
    Raises DataError where the masks do not fit together, OSError where the file cannot be written.
    """
    masks = checked(masks)
    shape = masks[0].flags.shape
    if shape[1] != len(cells):
        raise DataError(f"the masks have {shape[1]} cells, their cell axis {len(cells)}")
    spec = detector if isinstance(detector, DetectorSpec) else None
    with replace_hdf5(path, new) as file:
        flags = file.create_dataset(
            "mask", (len(masks), *shape), "u1", chunks=(1, 1, 1, *shape[2:]), compression="gzip", compression_opts=1
        )  # a chunk is a map: one map is read without the others
        flags.attrs["flags"] = FLAGS
        collapsed = contiguous(file, "collapsed", (len(masks), *shape[2:]))
        for i, mask in enumerate(masks):
            flags[i] = mask.flags
            collapsed[i] = mask.collapse()
        file["judged"] = np.stack([m.judged for m in masks]).astype("u1")
        file["frames"] = np.stack([m.frames for m in masks]).astype("i8")
        file["module"] = np.array([m.module for m in masks], "u2")
        file["cell"] = np.array(cells, "u2")
        file["gain_stage"] = np.arange(shape[0], dtype="u1")
        if names := list(spec.stages if spec else stages):
            file["gain_stage"].attrs["names"] = names
        stamp(file, spec.name if spec else detector, masks, provenance)
        file.attrs.update(attributes)


def read_mask(path: str | os.PathLike) -> MaskFile:
    """What the mask file at `path` holds.

    Raises ConfigError where there is no such file, DataError where it is not a mask file or contradicts itself.
    """
    with open_hdf5(path) as file:
        try:
            return _parse(file)
        except OSError as e:
            raise DataError(f"{path}: damaged ({e}); write it again") from None
        except KeyError as e:
            raise DataError(f"{path}: not a whole mask file: attribute {e} is missing; write it again") from None


def _parse(file: h5py.File) -> MaskFile:
    attributes = {name: plain(value) for name, value in file.attrs.items()}
    if "schema" not in attributes or "mask" not in file:
        raise DataError(f"{file.filename}: not a mask file: no attribute 'schema' or no dataset /mask")
    if attributes["schema"] != SCHEMA:
        found = attributes["schema"]
        raise DataError(f"{file.filename}: schema {found}, this program reads {SCHEMA}: update rmm-stream")
    modules = _read(file, "module", "u", (None,))
    cells = _read(file, "cell", "u", (None,))
    stages = _read(file, "gain_stage", "u", (None,))
    maps = (len(modules), len(stages), len(cells))
    judged = _read(file, "judged", "u", maps)
    frames = _read(file, "frames", "i", maps)
    flags = _find(file, "mask", "u", (*maps, None, None))
    names = file["gain_stage"].attrs.get("names", [str(stage) for stage in stages])
    return MaskFile(
        detector=attributes["detector"],
        masks=tuple(
            Mask(int(module), flags[i], judged[i], frames[i], attributes["train_id"], attributes["version"])
            for i, module in enumerate(modules)
        ),
        cells=tuple(int(cell) for cell in cells),
        stages=tuple(plain(name) for name in names),
        provenance=Provenance(**{field.name: attributes[field.name] for field in fields(Provenance)}),
    )


def checked(masks: Sequence[Mask]) -> Sequence[Mask]:
    """The masks, if there is one and all have one shape and different modules; else raises DataError."""
    if not masks:
        raise DataError("no mask to write: no module has been fitted yet")
    if len({m.flags.shape for m in masks}) > 1 or len({m.module for m in masks}) < len(masks):
        found = ", ".join(f"module {m.module} {m.flags.shape}" for m in masks)
        raise DataError(f"masks of one file need one shape and different modules; found {found}")
    return masks


@contextmanager
def replace_hdf5(path: str | os.PathLike, new: bool = False) -> Iterator[h5py.File]:
    """Yields an HDF5 file to fill, in memory; it takes the place of `path` when the block ends. Raises OSError.

    new: FileExistsError where there is one already.

    The HDF5 library never writes to the disk: where it meets a full one, it keeps objects that can be neither closed nor
    dropped, and ends the process when it tries again.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        yield file
    with replace_file(path, new) as aside:
        aside.write_bytes(image.getbuffer())


def contiguous(file: h5py.File, name: str, shape: tuple[int, ...]) -> h5py.Dataset:
    """A new uint8 dataset that any program can map or read in one piece: no chunks, no compression."""
    return file.create_dataset(name, shape, "u1", chunks=None)


def stamp(file: h5py.File, detector: str, masks: Sequence[Mask], provenance: Provenance) -> None:
    """Write the attributes of `/` that every file of ours carries."""
    file.attrs["schema"] = SCHEMA
    file.attrs["polarity"] = POLARITY
    file.attrs["detector"] = detector
    file.attrs["train_id"] = np.uint64(max(m.train_id for m in masks))
    file.attrs["frames"] = np.int64(sum(int(np.sum(m.frames)) for m in masks))
    for field in fields(Provenance):
        file.attrs[field.name] = getattr(provenance, field.name)
    if not provenance.created:
        file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")


def open_hdf5(path: str | os.PathLike) -> h5py.File:
    """An HDF5 file for reading. Raises ConfigError where there is none, DataError where it is unreadable."""
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as e:
        raise DataError(f"{path}: not a readable HDF5 file ({e}); copy it again, or look at it with h5ls") from None


def _find(file: h5py.File, name: str, kind: str, shape: tuple[int | None, ...]) -> h5py.Dataset:
    """A dataset of integers of that kind and shape (None: any length). Raises DataError."""
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{file.filename}: not a whole mask file: dataset /{name} is missing; write it again")
    fits = len(found.shape) == len(shape) and all(b in (a, None) for a, b in zip(found.shape, shape))
    if not fits or found.dtype.kind != kind:
        wanted = " x ".join("any" if n is None else str(n) for n in shape)
        raise DataError(f"{file.filename}: /{name} is {found.dtype} {found.shape}, expected integers ({wanted})")
    return found


def _read(file: h5py.File, name: str, kind: str, shape: tuple[int | None, ...]) -> NDArray:
    return _find(file, name, kind, shape)[()]


def plain(value):
    """A Python value of an HDF5 attribute."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
