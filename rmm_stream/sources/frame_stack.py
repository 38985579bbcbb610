"""Where frames lie in an HDF5 file: what the operator wrote, and what one look into the file makes of it.

EuXFEL, CXI, NeXus, or any stack of frames. What `inspect` returns is plain data that another process can read frames
from (`hdf5.frames`). Knows nothing of statistics, nor of what the frames are for.
"""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..errors import ConfigError, DataError

log = logging.getLogger(__name__)

#: Orders of axes that files are written in; "kind" holds the analogue value and the gain indicator (raw AGIPD files).
LAYOUTS = ("cell ss fs", "cell kind ss fs", "cell module ss fs", "cell module kind ss fs")

#: Names that facilities give to the columns beside the frames, one entry per frame.
CELL, TRAIN, TIME = ("cellId", "memoryCell"), ("trainId",), ("timestamp",)

#: Where the path inside a file tells the module: 3CH0:xtdf (AGIPD, LPD, DSSC), JNGFR03:daqOutput (JUNGFRAU).
MODULE = re.compile(r"(?:/|^)(?:(\d+)CH\d+|[^/]*JNGFR(\d+)):")

_SLICE = re.compile(r"(.*)\[(-?\d*):(-?\d*)\]")
_BRACKET = re.compile(r"\[[^][]*\]?$")  # meant as a range


@dataclass(frozen=True, slots=True)
class Location:
    """What the operator wrote: FILE[:PATH][[a:b]]. dataset "": the one that fits; first, last: a Python slice."""

    path: str
    dataset: str = ""
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        part = "" if self.first is self.last is None else f"[{_text(self.first)}:{_text(self.last)}]"
        return f"{self.path}{':' + self.dataset if self.dataset else ''}{part}"


@dataclass(frozen=True, slots=True)
class FrameStack:
    """Frames `first` to `last` (not included) of a dataset, and where its companions lie.

    axes: words of a layout. module: whose frames these are; None: the dataset has all modules.
    gain, cell, train, time: paths of the datasets beside it, "" where there is none.
    """

    path: str
    dataset: str
    first: int
    last: int
    axes: tuple[str, ...]
    module: int | None
    gain: str
    cell: str
    train: str
    time: str

    def __len__(self) -> int:
        return self.last - self.first

    def __str__(self) -> str:
        return f"{self.path}:{self.dataset}"

    def has(self, module: int) -> bool:
        return self.module in (None, module)


def locate(text: str) -> Location:
    """ "run.h5:/entry/data[50:100]" -> Location. The path inside the file may itself have colons (EuXFEL)."""
    if Path(text).exists():
        return Location(text)
    first = last = None
    if found := _SLICE.fullmatch(text):
        text = found[1]
        first, last = (int(end) if end else None for end in found.groups()[1:])
    elif found := _BRACKET.search(text):
        raise ConfigError(f"{text}: the range {found[0]} is not of the form [first:last], such as [50:100] or [:-5]")
    path, _, dataset = text.partition(":")
    if not path:
        raise ConfigError(f"{text!r} names no file; expected FILE[:PATH][[first:last]]")
    return Location(path, dataset, first, last)


def inspect(location: Location, spec: DetectorSpec, *, module: int | None = None, axes: str = "") -> FrameStack:
    """Look into a file, once, before any frame is read.

    module: whose frames these are, where neither a module axis nor the path tells; needed only if there are several.
    axes: one of LAYOUTS where the shape does not tell; "": told by the shape.
    Raises ConfigError where the operator has to say more or something else, DataError where the file is damaged or lacks
    what the frames need beside them.
    """
    with open_frames(location.path) as file:
        name = location.dataset or _only_stack(file, spec, axes)
        data = file.get(name)
        if not isinstance(data, h5py.Dataset):
            raise ConfigError(f"{location.path} has no dataset {name}; {_candidates(file)}")
        where = f"{location.path}:{data.name}"
        layout = _layout(where, data.shape, spec, axes)
        if data.dtype.newbyteorder("=") != spec.dtype:
            raise ConfigError(
                f"{where} is {data.dtype}, {spec.name} has {spec.dtype} (bits = {spec.bits}): "
                f"give the dataset of {'calibrated' if spec.calibrated else 'raw'} frames, or another detector"
            )
        _check_readable(data, where)
        first, last, _ = slice(location.first, location.last).indices(len(data))
        if first >= last or (location.last or 0) > len(data):
            raise ConfigError(f"{location} selects no frames or too many; {where} has {len(data)}")
        stack = FrameStack(
            path=location.path,
            dataset=data.name,
            first=first,
            last=last,
            axes=layout,
            module=None if _holds_all(data.shape, layout, spec) else _module_number(data.name, spec, module, where),
            gain=_gain_beside(file, data, layout, spec),
            cell=_column_beside(file, data, CELL),
            train=_column_beside(file, data, TRAIN),
            time=_column_beside(file, data, TIME),
        )
        _check_cells(file, stack, spec)
        return stack


def open_frames(path: str) -> h5py.File:
    """A file for reading. Raises ConfigError where there is none of that kind, DataError where it is damaged or busy."""
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (PermissionError, IsADirectoryError) as e:
        raise ConfigError(f"{path}: {os.strerror(e.errno)}; name a file that can be read") from None
    except BlockingIOError:
        raise DataError(f"{path}: another process writes it; wait until it has closed the file") from None
    except OSError:
        if not h5py.is_hdf5(path):
            raise ConfigError(f"{path}: not an HDF5 file; name one that h5ls can list") from None
        raise DataError(f"{path}: an HDF5 file that is damaged or cut short; copy it again") from None


def _only_stack(file: h5py.File, spec: DetectorSpec, axes: str) -> str:
    """The one dataset that has the detector's shape; its type, then its name, decide between several."""
    fitting: list[h5py.Dataset] = []

    def visit(_, item):
        if isinstance(item, h5py.Dataset) and _fitting(item.shape, spec, axes):
            fitting.append(item)

    file.visititems(visit)
    for better in (lambda d: d.dtype.newbyteorder("=") == spec.dtype, lambda d: _last(d.name) not in ("gain", "mask")):
        fitting = [d for d in fitting if better(d)] or fitting
    if len(fitting) == 1:
        return fitting[0].name
    shape = " x ".join(map(str, spec.module_shape))
    if fitting:
        names = ", ".join(d.name for d in fitting[:8])
        raise ConfigError(f"{file.filename}: several datasets hold frames of {shape}: {names}; name one, FILE:PATH")
    raise ConfigError(f"{file.filename}: no dataset holds frames of {shape} ({spec.name}); {_candidates(file)}")


def _candidates(file: h5py.File) -> str:
    """The image-like datasets of a file, in words."""
    found: list[str] = []
    file.visititems(
        lambda name, item: (
            found.append(f"/{name} {item.dtype} {item.shape}")
            if isinstance(item, h5py.Dataset) and len(item.shape or ()) >= 2
            else None
        )
    )
    return f"it has {', '.join(found[:8])}{', ...' if len(found) > 8 else ''}" if found else "it has no images at all"


def _fitting(shape: tuple[int, ...] | None, spec: DetectorSpec, axes: str) -> list[tuple[str, ...]]:
    """The layouts that a shape can have."""
    lengths = {
        "ss": (spec.module_shape[0],),
        "fs": (spec.module_shape[1],),
        "module": (1, spec.modules),
        "kind": (2,) if spec.gain == "analogue" else (),
    }
    return [
        words
        for words in map(tuple, map(str.split, [axes] if axes else LAYOUTS))
        if shape and len(words) == len(shape) and all(n in lengths[word] for word, n in zip(words[1:], shape[1:]))
    ]


def _layout(where: str, shape: tuple[int, ...], spec: DetectorSpec, axes: str) -> tuple[str, ...]:
    if axes and axes not in LAYOUTS:
        raise ConfigError(f"axes {axes!r}: a file may have {', '.join(map(repr, LAYOUTS))}")
    fitting = _fitting(shape, spec, axes)
    if not fitting:
        wanted = f"(frames, {', '.join(map(str, spec.module_shape))})"
        raise ConfigError(f"{where} is {shape}, {spec.name} needs {wanted}: name another dataset or another detector")
    if len(fitting) > 1:
        choices = " or ".join(repr(" ".join(words)) for words in fitting)
        raise ConfigError(f"{where} is {shape}: say which axes these are, {choices}")
    return fitting[0]


def _holds_all(shape: tuple[int, ...], layout: tuple[str, ...], spec: DetectorSpec) -> bool:
    return spec.modules == 1 or ("module" in layout and shape[layout.index("module")] == spec.modules)


def _module_number(name: str, spec: DetectorSpec, module: int | None, where: str) -> int:
    if found := MODULE.search(name):
        module = int(found[1] or found[2]) - spec.first_number
    if module is None:
        raise ConfigError(f"{where} has frames of one module of {spec.modules} and does not tell which: say --module")
    if not 0 <= module < spec.modules:
        raise ConfigError(f"{where}: module {module}; {spec.name} has modules 0 to {spec.modules - 1}")
    return module


def _gain_beside(file: h5py.File, data: h5py.Dataset, layout: tuple[str, ...], spec: DetectorSpec) -> str:
    """The dataset `gain` in the same group, where the detector tells its stage by one that comes apart."""
    gain = data.parent.get("gain")
    if spec.gain == "none" or "kind" in layout or not isinstance(gain, h5py.Dataset) or gain.name == data.name:
        return ""
    expected = ("uint16",) if spec.gain == "analogue" else ("uint8", "uint16")
    if gain.shape != data.shape or gain.dtype.name not in expected:
        raise DataError(
            f"{file.filename}:{gain.name} is {gain.dtype} {gain.shape}; the {spec.gain} gain indicator of {data.name} "
            f"is {' or '.join(expected)} {data.shape}"
        )
    return gain.name


def _column_beside(file: h5py.File, data: h5py.Dataset, names: tuple[str, ...]) -> str:
    """The nearest dataset of one of these names with an entry per frame, in the group of the frames or above it."""
    group = data.parent
    while True:
        for name in names:
            found = group.get(name)
            if isinstance(found, h5py.Dataset) and found.shape in ((len(data),), (len(data), 1)):
                return found.name
        if group.name == "/":
            return ""
        group = group.parent


def column(file: h5py.File, stack: FrameStack, name: str, missing: NDArray) -> NDArray:
    """(n,) the entries of the frames of the stack."""
    return file[name][stack.first : stack.last].reshape(-1) if name else missing


def _check_cells(file: h5py.File, stack: FrameStack, spec: DetectorSpec) -> None:
    if spec.cells == 1:
        return
    if not stack.cell:
        raise DataError(
            f"{stack}: {spec.name} has {spec.cells} memory cells, and no {' or '.join(CELL)} beside it tells them: add "
            "one, an entry per frame (the place of a frame in its train is not its cell)"
        )
    cell = column(file, stack, stack.cell, np.zeros(0))
    insane = np.count_nonzero(cell >= spec.cells)
    if insane == len(stack):
        raise DataError(f"{stack.path}:{stack.cell} has no cell below {spec.cells}; is it a file of {spec.name}?")
    if insane:
        log.warning("%s: %d of %d frames left out, of cells beyond %d", stack, insane, len(stack), spec.cells - 1)


def _check_readable(data: h5py.Dataset, where: str) -> None:
    """What HDF5 would only notice in the middle, or, with the missing files of a virtual dataset, not at all."""
    plist = data.id.get_create_plist()
    for i in range(plist.get_nfilters()):
        code, _, _, title = plist.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            raise ConfigError(
                f"{where} is compressed with the HDF5 filter {code} ({title.decode(errors='replace')}), which is not "
                "installed: install its plugin and set HDF5_PLUGIN_PATH"
            )
    absent = [name for name, place in _parts(data).items() if not place.exists()]
    if absent:
        raise DataError(f"{where} is a virtual dataset; {len(absent)} files of it are missing: copy {absent[0]} too")


def _parts(data: h5py.Dataset) -> dict[str, Path]:
    """The files that a virtual dataset is put together from, by the names that it has for them; {} for a plain one."""
    if not data.is_virtual:
        return {}
    folder = Path(data.file.filename).parent
    names = dict.fromkeys(v.file_name for v in data.virtual_sources())
    return {name: folder / name for name in names if name != "." and "%" not in name}


def files_of(stack: FrameStack) -> list[str]:
    """Every file that frames of a stack lie in: its own, and those behind it where the dataset is virtual."""
    with open_frames(stack.path) as file:
        return [stack.path, *map(str, _parts(file[stack.dataset]).values())]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _text(end: int | None) -> str:
    return "" if end is None else str(end)
