"""What leaves: flags of one map, changes of it, and the complete mask of a module. 0 is good, always."""

from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class BadPixel(IntFlag):
    """One byte per pixel, memory cell and gain stage. The bits are a wire contract and are never reused."""

    OFFSET = 1  # F2, section 3.2.2: dark mean is an outlier
    NOISE = 2  # F3, section 3.2.3: dark standard deviation is an outlier, or 0
    GAIN_SEPARATION = 4  # F4, section 3.2.4: the indicator does not tell the stages apart
    GAIN_LEVEL = 8  # F5, section 3.2.4: mean gain indicator is an outlier
    LIT_SNR = 16  # F6, section 3.3.1: mean SNR under light, or the share of frames beyond the counting cut
    EDGE = 32  # section 2.1: ASIC edge, masked by geometry, no analysis
    NO_DATA = 64  # too few frames, or the tile could not be fitted
    USER = 128  # a static mask or an operator


#: Bits that a fit decides. EDGE and USER are inputs.
FITTED = BadPixel.OFFSET | BadPixel.NOISE | BadPixel.GAIN_SEPARATION | BadPixel.GAIN_LEVEL | BadPixel.LIT_SNR


class MapKey(NamedTuple):
    """Address of one map: the flags of one (module, gain stage, memory cell)."""

    module: int
    gain_stage: int
    cell: int


@dataclass(frozen=True, slots=True)
class MapFit:
    """What the fit says about one map.

    flags: (ss, fs) uint8, bits with abs(SNR) > cut, and NO_DATA. doubtful: the same at the lower clear_cut.
    judged: features that had enough frames to speak; 0: none yet.
    frames: frames behind it. train_id: the last train behind it. timestamp: data time, s.
    suspected: (ss, fs) bool, pixels held back as signal of the sample: shaped like a Bragg spot; None: not asked.
    """

    key: MapKey
    flags: NDArray
    doubtful: NDArray
    judged: BadPixel
    frames: int
    train_id: int
    timestamp: float
    suspected: NDArray | None = None


@dataclass(frozen=True, slots=True)
class MapChange:
    """New flags of one map that the policy lets out.

    flags: (ss, fs) uint8, complete: fitted bits and the overlay (EDGE, USER). newly_bad, newly_good: pixels.
    """

    key: MapKey
    flags: NDArray
    judged: BadPixel
    frames: int
    train_id: int
    timestamp: float
    newly_bad: int
    newly_good: int


@dataclass(frozen=True, slots=True)
class Held:
    """A jump of one map that the policy keeps back. What was published before stays, until an operator or the evidence decides.

    proposed: the change that waits. reason: one line for the operator, without the address of the map.
    fits: how many fits in a row have said so. since_train: the last train behind the first of them.
    """

    proposed: MapChange
    reason: str
    fits: int
    since_train: int

    @property
    def key(self) -> MapKey:
        return self.proposed.key


@dataclass(frozen=True, slots=True)
class MaskUpdate:
    """A change as published, with its address and its place in the order of trust."""

    detector: str
    shard: str
    generation: int
    epoch: str
    sequence: int
    version: int
    config_digest: str
    change: MapChange


def collapse(flags: NDArray, judged: NDArray) -> NDArray:
    """OR over the judged stages and cells: bad anywhere is bad. An unjudged map takes no part.

    flags: (stages, cells, ss, fs) uint8. judged: (stages, cells) uint8.
    Returns (ss, fs) uint8; NO_DATA everywhere, beside EDGE and USER, where no map is judged.
    """
    speaking = np.asarray(judged, bool)
    if speaking.any():
        return np.bitwise_or.reduce(flags[speaking], axis=0)
    kept = np.uint8(BadPixel.EDGE | BadPixel.USER)
    return np.bitwise_or.reduce(flags.reshape(-1, *flags.shape[-2:]), axis=0) & kept | np.uint8(BadPixel.NO_DATA)


@dataclass(frozen=True, slots=True)
class Mask:
    """A complete mask of one module.

    flags: (stages, cells, ss, fs) uint8. judged: (stages, cells) uint8, features decided per map.
    frames: (stages, cells) int64, frames behind each map. train_id: the last train behind it.
    """

    module: int
    flags: NDArray
    judged: NDArray
    frames: NDArray
    train_id: int = 0
    version: int = 0

    def bad(self, ignore: BadPixel = BadPixel(0)) -> NDArray:
        """(ss, fs) bool, OR over judged cells and stages, without the bits of `ignore`."""
        return self.collapse() & np.uint8(~ignore & 0xFF) != 0

    def collapse(self) -> NDArray:
        """(ss, fs) uint8, OR over judged cells and stages."""
        return collapse(self.flags, self.judged)
