"""What a worker is asked for, as messages from the other threads. Immutable; each worker of a crew gets each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..exposure import in_words
from ..frames import Exposure, Illumination
from ..mask import MapKey, Mask


@dataclass(frozen=True, slots=True)
class Expose:
    """What the detector sees from now on. new: start its statistics afresh. override: over the stream's word.

    UNKNOWN takes the operator's word back; with override it is one, and no frame is used whatever the stream says.
    """

    exposure: Exposure
    new: bool = False
    override: bool = False

    @property
    def withdrawn(self) -> bool:
        return self.exposure.illumination is Illumination.UNKNOWN and not self.override

    def __str__(self) -> str:
        if self.withdrawn:
            return "nothing any more"
        return in_words(self.exposure) + ", afresh" * self.new + ", over the stream's word" * self.override


@dataclass(frozen=True, slots=True)
class Stored:
    """The masks of a stored version. cells: memory cell of each place on their cell axis."""

    version: int
    masks: Sequence[Mask]
    cells: range

    def masks_of(self, cells: range) -> Mapping[int, Mask]:
        """By module, the part that one worker owns: a view. cells: of that worker, within ours."""
        part = slice(cells.start - self.cells.start, cells.stop - self.cells.start)
        return {
            mask.module: replace(
                mask, flags=mask.flags[:, part], judged=mask.judged[:, part], frames=mask.frames[:, part]
            )
            for mask in self.masks
        }


class Pin(Stored):
    """These masks are in force, whatever fits say, until Release."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"version {self.version} is in force, whatever fits say"


class Restore(Stored):
    """These masks speak until fits do."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"version {self.version} speaks until fits do"


@dataclass(frozen=True, slots=True)
class Release:
    """Fits are published again."""

    def __str__(self) -> str:
        return "fits are published again"


@dataclass(frozen=True, slots=True)
class Place:
    """Some maps. None: every module, every gain stage, every memory cell."""

    module: int | None = None
    gain_stage: int | None = None
    cell: int | None = None

    def holds(self, key: MapKey) -> bool:
        return all(wanted in (None, found) for wanted, found in zip((self.module, self.gain_stage, self.cell), key))

    def __str__(self) -> str:
        named = zip(("module", "stage", "cell"), (self.module, self.gain_stage, self.cell))
        return ", ".join(f"{name} {value}" for name, value in named if value is not None) or "all maps"


class Accept(Place):
    """Held maps of this place are published after all."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"accept what is held of {Place.__str__(self)}"


class Reject(Place):
    """Held maps of this place are dismissed."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"reject what is held of {Place.__str__(self)}"


Request = Expose | Pin | Restore | Release | Accept | Reject
