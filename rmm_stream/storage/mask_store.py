"""The store: numbered versions of the mask, each a mask file that also says what made it and what turned since the last.

`versions/000123.h5` never changes once it is there; `000123.jsonl` beside it is the journal of what was published after it.
Numbers only grow. Knows nothing of streams, and not when a version is due.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..detectors import DetectorSpec
from ..errors import ConfigError, DataError, RmmError
from ..mask import Mask
from .atomic import replace_file
from .comparison import FLAGS, bad_by_flag, turned
from .mask_file import MaskFile, Provenance, open_hdf5, plain, read_mask, write_mask

FOLDER = "versions"
PIN = "pin.json"


@dataclass(frozen=True, slots=True)
class Version:
    """What a version says of itself; attributes of its file, beside those of every mask file.

    previous: the version it is compared with; 0: an all good mask. made_by: "exposure ended", "request", "every_s", "exit" or
    "rollback of 7". first_train, last_train: trains that came since the previous version; it is in force for trains after
    last_train. frames: behind all its maps. bad, newly_bad, newly_good: pixels by flag, collapsed over stages and cells;
    turned: (bad, good) pixels. settings: the configuration as JSON.
    """

    number: int
    created: str
    detector: str
    modules: tuple[int, ...]
    cells: tuple[int, ...]
    shape: tuple[int, ...]
    previous: int
    made_by: str
    first_train: int
    last_train: int
    frames: int
    epoch: str
    generation: int
    settings_digest: str
    settings: str
    program_version: str
    bad: Mapping[str, int]
    newly_bad: Mapping[str, int]
    newly_good: Mapping[str, int]
    turned: tuple[int, int]

    def misfit(self, spec: DetectorSpec, modules: Sequence[int], cells: range) -> str:
        """What keeps it from being the mask of this part of a detector, in words; "" where it fits."""
        shape = (len(spec.stages), len(cells), *spec.module_shape)
        for what, found, wanted in (
            ("detector", self.detector, spec.name),
            ("modules", self.modules, tuple(modules)),
            ("memory cells", self.cells, tuple(cells)),
            ("shape (stages, cells, ss, fs)", self.shape, shape),
        ):
            if found != wanted:
                return f"its {what}: {_short(found)}; here: {_short(wanted)}"
        return ""


@dataclass(frozen=True, slots=True)
class Making:
    """What makes a version, and when: see Version."""

    made_by: str
    first_train: int
    last_train: int
    settings: str = ""


class MaskStore:
    """The versions of a folder. Holds no state but the disk's: several may look at once, one service writes."""

    def __init__(self, directory: str | os.PathLike):
        """directory: of a detector, in a state directory. Nothing is made yet."""
        self.folder = Path(directory) / FOLDER

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.h5"

    def journal(self, number: int) -> Path:
        """What was published after that version; 0: before the first one."""
        return self.folder / f"{number:06d}.jsonl"

    def prepare(self) -> None:
        """Make the folder, and take away what a kill left half written. Raises ConfigError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.tmp"):
                left.unlink(missing_ok=True)
        except OSError as e:
            raise ConfigError(f"{self.folder}: {e.strerror or e}; the state directory must be writable") from None

    def numbers(self) -> list[int]:
        """Every version that is there, ascending."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(int(path.stem) for path in self.folder.glob("*.h5") if path.stem.isdecimal())
        return []

    @property
    def newest(self) -> int:
        """0: there is none."""
        return max(self.numbers(), default=0)

    def version(self, number: int) -> Version:
        """What a version says of itself. Raises ConfigError where there is none, DataError where it cannot be read."""
        self._known(number)
        with open_hdf5(self.path(number)) as file:
            try:
                return _parse(file)
            except (OSError, KeyError, ValueError, TypeError) as e:
                raise DataError(f"{file.filename}: not a whole version ({e}); the others are not concerned") from None

    def read(self, number: int) -> MaskFile:
        """The masks of a version. Raises like `version`."""
        self._known(number)
        return read_mask(self.path(number))

    def collapsed(self, number: int) -> dict[int, NDArray]:
        """(ss, fs) uint8 by module, over judged stages and cells; {} of version 0. Raises like `version`."""
        if number == 0:
            return {}
        self._known(number)
        with open_hdf5(self.path(number)) as file:
            try:
                return dict(zip(file["module"][()].tolist(), file["collapsed"][()], strict=True))
            except (OSError, KeyError, ValueError) as e:
                raise DataError(f"{file.filename}: not a whole version ({e}); the others are not concerned") from None

    def add(
        self,
        detector: DetectorSpec | str,
        masks: Sequence[Mask],
        cells: Sequence[int],
        provenance: Provenance,
        making: Making,
        stages: Sequence[str] = (),
    ) -> int:
        """Write the next version, and return its number. provenance.version: at least this one.

        Raises OSError; then nothing has changed. Another process that writes the same number is one reason.
        """
        newest = self.newest
        number = max(newest + 1, provenance.version)
        now = {mask.module: mask.collapse() for mask in masks}
        previous, before = self._before(newest, now)
        made = [turned(before[module], now[module]) for module in now]
        attributes = {
            "previous": previous,
            "made_by": making.made_by,
            "first_train": np.uint64(making.first_train),
            "last_train": np.uint64(making.last_train),
            "settings": making.settings,
            "flag_names": [flag.name for flag in FLAGS],
            "bad": _counts([bad_by_flag(flags) for flags in now.values()]),
            "newly_bad": _counts([each.newly_bad for each in made]),
            "newly_good": _counts([each.newly_good for each in made]),
            "turned": np.array([sum(each.bad for each in made), sum(each.good for each in made)]),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_mask(
            self.path(number), detector, masks, cells=cells, provenance=replace(provenance, version=number),
            stages=stages, attributes=attributes, new=True,
        )  # fmt: skip
        return number

    def again(
        self, old: Version, found: MaskFile, making: Making, epoch: str = "", generation: int = 0, least: int = 0
    ) -> int:
        """Write a new version equal to an old one, and return its number, at least `least`. Raises like `add`.

        The settings that stand behind it are those of the old one.
        """
        provenance = replace(
            found.provenance, version=least, created="", epoch=epoch, generation=generation, program_version=__version__
        )
        making = replace(making, made_by=f"rollback of {old.number}", settings=old.settings)
        return self.add(found.detector, found.masks, found.cells, provenance, making, found.stages)

    # The pin ----------------------------------------------------------------------------------------------------------

    @property
    def pinned(self) -> int:
        """The version that fits may not change, also after a restart; 0: none. Raises DataError for a damaged file."""
        try:
            return int(json.loads((self.folder / PIN).read_bytes())["version"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            path = self.folder / PIN
            raise DataError(f"{path}: damaged; remove it, and roll back again if fits shall not speak") from None

    def pin(self, number: int) -> None:
        """Raises OSError."""
        with replace_file(self.folder / PIN) as aside:
            aside.write_text(
                json.dumps({"version": number, "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
            )

    def release(self) -> None:
        """End the pin. Raises OSError."""
        (self.folder / PIN).unlink(missing_ok=True)

    # Its files --------------------------------------------------------------------------------------------------------

    def prune(self, keep: int) -> list[int]:
        """Remove the oldest versions beyond `keep`, with their journals, never the pinned one. Returns them.

        Raises OSError, and DataError where nobody can say which one is pinned.
        """
        pinned = self.pinned
        old = [number for number in self.numbers()[:-keep] if number != pinned]
        for number in [0, *old] if old else []:
            self.journal(number).unlink(missing_ok=True)
            self.path(number).unlink(missing_ok=True)
        return old

    def _known(self, number: int) -> None:
        if not self.path(number).exists():
            numbers = self.numbers()
            known = f"{len(numbers)}, from {numbers[0]} to {numbers[-1]}" if numbers else "none"
            raise ConfigError(f"{self.folder} has no version {number}; it has {known}")

    def _before(self, newest: int, now: Mapping[int, NDArray]) -> tuple[int, Mapping[int, NDArray]]:
        """The version to compare with, where the newest is readable and of these modules; else an all good mask."""
        try:
            before = self.collapsed(newest)
        except RmmError:
            before = {}
        if all(module in before and before[module].shape == flags.shape for module, flags in now.items()):
            return newest, before
        return 0, {module: np.zeros_like(flags) for module, flags in now.items()}


def find_store(place: str | os.PathLike) -> MaskStore:
    """The store in a state directory, or in a detector's directory in it. Raises ConfigError where it is not clear which."""
    path = Path(place)
    if (path / FOLDER).is_dir():
        return MaskStore(path)
    try:
        found = sorted(inner for inner in path.iterdir() if (inner / FOLDER).is_dir())
    except OSError as e:
        raise ConfigError(f"{place}: {e.strerror}; name the state directory of a service (store.directory)") from None
    if len(found) == 1:
        return MaskStore(found[0])
    if found:
        raise ConfigError(f"{place} has several stores, name one: {', '.join(map(str, found))}")
    raise ConfigError(f"{place}: no versions here; name the state directory of a service (store.directory)")


def _parse(file: h5py.File) -> Version:
    said = {name: plain(value) for name, value in file.attrs.items()}
    names = [plain(name) for name in said["flag_names"]]
    counts = {key: dict(zip(names, map(int, said[key]), strict=True)) for key in ("bad", "newly_bad", "newly_good")}
    alike = ("detector", "previous", "made_by", "first_train", "last_train", "frames", "epoch", "generation",
             "settings_digest", "settings", "program_version", "created")  # fmt: skip
    return Version(
        number=said["version"],
        modules=tuple(file["module"][()].tolist()),
        cells=tuple(file["cell"][()].tolist()),
        shape=file["mask"].shape[1:],
        turned=tuple(map(int, said["turned"])),
        **counts,
        **{name: said[name] for name in alike},
    )


def _counts(parts: Sequence[Mapping[str, int]]) -> NDArray:
    """Sums over modules, in the order of the flags."""
    return np.array([sum(part[flag.name] for part in parts) for flag in FLAGS], np.int64)


def _short(values) -> str:
    """A few values, or first and last of many."""
    if isinstance(values, str) or len(values) <= 8:
        return str(values)
    return f"{values[0]} to {values[-1]} ({len(values)})"
