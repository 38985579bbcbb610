"""A bit is set, and cleared, only after several fits in a row have said so, and the cut to set is not the cut to clear.

A pixel at the edge of a cut would else turn with every fit, and a mask that flickers is worse than a coarse one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..mask import FITTED, BadPixel

BITS = np.arange(8, dtype=np.uint8)


class Streaks(NamedTuple):
    """Pixels of one map of which some bit is contested, and for how long.

    places: (n,) int64, ascending, into the map's pixels. fits: (n, 8) uint8, per bit: fits in a row that spoke against it.
    flags: (n,) uint8, as they were: a bit that has turned since is contested anew. One that was not let out goes on.
    """

    places: NDArray
    fits: NDArray
    flags: NDArray


NONE = Streaks(np.zeros(0, np.int64), np.zeros((0, 8), np.uint8), np.zeros(0, np.uint8))


def settle(
    before: NDArray,
    flags: NDArray,
    doubtful: NDArray,
    judged: BadPixel,
    streaks: Streaks,
    set_after: int,
    clear_after: int,
) -> tuple[NDArray, Streaks]:
    """The flags of a map after one more fit, (ss, fs) uint8, and what is contested now.

    before: as they were. flags: bits beyond the cut. doubtful: bits beyond the lower one, which holds a bit that is set.
    judged: features that spoke; bits of others stay as they were. A pixel for which the fit has NO_DATA keeps its bits.
    """
    spoken = np.uint8(judged | BadPixel.NO_DATA)
    blind = (flags & np.uint8(BadPixel.NO_DATA)) != 0
    to_set = flags & ~before & spoken
    to_clear = before & ~(flags | doubtful) & spoken
    to_clear[blind] &= np.uint8(~FITTED & 0xFF)
    contested = to_set | to_clear
    places = np.flatnonzero(contested)
    if not len(places):
        return before, NONE
    against, now = _bits(contested.reshape(-1)[places]), before.reshape(-1)[places]
    fits = np.where(against, np.minimum(_earlier(streaks, places, now), 200) + 1, 0).astype(np.uint8)
    setting = _bits(to_set.reshape(-1)[places])
    turned = against & (fits >= np.where(setting, set_after, clear_after))
    after = before.copy()
    after.reshape(-1)[places] ^= (turned << BITS).sum(1).astype(np.uint8)
    return after, Streaks(places, fits, now)


def _bits(flags: NDArray) -> NDArray:
    """(n, 8) bool. flags: (n,) uint8."""
    return (flags[:, None] >> BITS & 1).astype(bool)


def _earlier(streaks: Streaks, places: NDArray, now: NDArray) -> NDArray:
    """(n, 8) uint8: how long these bits have been contested as they are now; 0 for those that were not.

    now: (n,) uint8, the flags at these places."""
    fits = np.zeros((len(places), 8), np.uint8)
    _, new, old = np.intersect1d(places, streaks.places, assume_unique=True, return_indices=True)
    fits[new] = np.where(_bits(now[new] ^ streaks.flags[old]), 0, streaks.fits[old])
    return fits
