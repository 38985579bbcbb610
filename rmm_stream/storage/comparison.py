"""What turned between two masks: pixels by flag, and the list of them. Collapsed over stages and cells, as /collapsed is.

Knows nothing of files.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..mask import BadPixel

FLAGS = tuple(BadPixel)


def bad_by_flag(flags: NDArray) -> dict[str, int]:
    """Pixels of a collapsed mask by the name of each flag, all names always there. flags: uint8."""
    counts = np.bincount(flags.ravel(), minlength=256)
    values = np.arange(256)
    return {flag.name: int(counts[values & flag != 0].sum()) for flag in FLAGS}


class Turned(NamedTuple):
    """What changed in one module: pixels by flag that got the flag, and that lost it; bad, good: pixels that turned."""

    newly_bad: dict[str, int]
    newly_good: dict[str, int]
    bad: int
    good: int


class TurnedPixel(NamedTuple):
    """before, after: flags of the pixel, over all judged stages and cells."""

    module: int
    ss: int
    fs: int
    before: BadPixel
    after: BadPixel


def turned(before: NDArray, after: NDArray) -> Turned:
    """before, after: (ss, fs) uint8, collapsed flags."""
    bad, good = (before == 0) & (after != 0), (before != 0) & (after == 0)
    return Turned(
        bad_by_flag(after & ~before),
        bad_by_flag(before & ~after),
        int(np.count_nonzero(bad)),
        int(np.count_nonzero(good)),
    )


def turned_pixels(before: Mapping[int, NDArray], after: Mapping[int, NDArray]) -> Iterator[TurnedPixel]:
    """Pixels with other flags, of the modules that both have. before, after: (ss, fs) uint8 by module."""
    for module in sorted(before.keys() & after.keys()):
        old, new = before[module], after[module]
        for ss, fs in np.argwhere(old != new).tolist():
            yield TurnedPixel(module, ss, fs, BadPixel(int(old[ss, fs])), BadPixel(int(new[ss, fs])))
