"""What arrives: frames of one module, with the conditions under which they were taken.

Axis rule of the whole package, no exceptions: (..., cell or frame, slow scan, fast scan), C-contiguous, written (ss, fs).
Decoders transpose on the way in; nothing else ever does. Knows nothing of bytes, sockets or statistics.
"""

from dataclasses import dataclass, replace
from enum import Enum

from numpy.typing import NDArray


class Illumination(Enum):
    """What the beam did while a frame was taken. UNKNOWN frames are counted and fed to nothing."""

    DARK = "dark"
    FLAT = "flat"
    SAMPLE = "sample"
    UNKNOWN = "unknown"

    @property
    def lit(self) -> bool:
        return self in (Illumination.FLAT, Illumination.SAMPLE)


@dataclass(frozen=True, slots=True)
class Exposure:
    """The conditions of a frame; a dict key. Not a time.

    gain_stage: the stage the detector is held in (0 = most sensitive); None: each pixel switches by itself.
    """

    illumination: Illumination
    gain_stage: int | None = None


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """n frames of ONE module that arrived together; at a free-electron laser usually one train.

    module: int, from 0.
    pixels: (n, ss, fs) uint8 | uint16 | uint32 | float32 (DetectorSpec.dtype), ADU or counts, as received.
    gain: (n, ss, fs) uint8 | uint16 gain indicator as received, or None.
    cell: (n,) uint16 memory cell; 0 where the detector has none.
    train_id: (n,) uint64; frame number at a synchrotron.
    complete: (n,) bool; False: packets were lost, the frame is not accumulated.
    exposure: None until the ExposureLabeler has spoken; then labelled_by says who did:
        "stream" | "operator" | "config" | "classifier".
    timestamp: s, Unix, of the source: the only clock that rmm/ and policy/ know.
    """

    module: int
    pixels: NDArray
    gain: NDArray | None
    cell: NDArray
    train_id: NDArray
    complete: NDArray
    timestamp: float
    exposure: Exposure | None = None
    labelled_by: str = ""

    def __len__(self) -> int:
        return len(self.pixels)

    def some(self, chosen: slice | NDArray) -> "FrameBatch":
        """The chosen frames only: a slice gives views, indices or a (n,) bool mask give copies."""
        return replace(
            self,
            pixels=self.pixels[chosen],
            gain=None if self.gain is None else self.gain[chosen],
            cell=self.cell[chosen],
            train_id=self.train_id[chosen],
            complete=self.complete[chosen],
        )
