"""Masks made once, from recorded frames: mean and standard deviation as everybody does, and the paper's procedure.

The paper's is computed by the authors' library alone (tests/library.py); nothing of the maker is used here.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests import library

from .beam import SPEC

CUT = 8.0  # section 3.1 and Appendix B
FRAMES = 200  # for F6; sections 3.3.1 and 4.1
AT_ONCE = 20  # frames in one process of the library
TILE = SPEC.asic_shape


class Darks(NamedTuple):
    """Of each pixel in the dark, (ss, fs) float64, ADU: mean and standard deviation."""

    mean: NDArray
    sd: NDArray


class Recorded(NamedTuple):
    """The first lit frames less the dark mean, (FRAMES, ss, fs) float32, and the number of the last of them."""

    frames: NDArray
    last: int


def darks_of(run) -> Darks:
    """One pass over the dark frames of a run."""
    total, squares = np.zeros((2, *run.shape))
    for number in range(run.darks):
        less = run.dark(number).pixels - 4000.0
        total += less
        squares += less * less
    mean = total / run.darks
    return Darks(mean + 4000.0, np.sqrt(np.maximum(squares - run.darks * mean**2, 0) / (run.darks - 1)))


def record(run, darks: Darks, blank: bool) -> Recorded:
    """The first FRAMES lit frames of a run. blank: of those without a crystal, as truth knows them."""
    found = []
    for number in range(run.frames):
        if not (blank and run.is_hit(number)):
            found.append((run.frame(number).pixels - darks.mean).astype(np.float32))
            if len(found) == FRAMES:
                break
    return Recorded(np.array(found), number)


def nonrobust(darks: Darks, lit: Recorded) -> NDArray:
    """(ss, fs) bool: beyond mean +- CUT standard deviations of the tile, on the maps of dark mean, dark sd and lit mean."""
    bad = darks.sd == 0
    for values in (darks.mean, darks.sd, lit.frames.mean(0, dtype=np.float64)):
        tiles = _tiles(values)
        far = np.abs(tiles - tiles.mean((1, 3), keepdims=True)) > CUT * tiles.std((1, 3), keepdims=True)
        bad |= far.reshape(values.shape)
    return bad


def paper(darks: Darks, lit: Recorded, with_lit: bool = True) -> NDArray:
    """(ss, fs) bool: F2 and F3 from the darks, F6 from the lit frames, as sections 3.2 and 3.3 say.

    Edge pixels take no part (section 2.1). A pixel that never changes in the dark is bad, as the paper's library has it too.
    """
    use = ~SPEC.edge()
    maps = np.stack([darks.mean, darks.sd])
    bad = _outlying(maps, use).any(0) | (darks.sd == 0)
    if with_lit:
        parts = [lit.frames[i : i + AT_ONCE] for i in range(0, len(lit.frames), AT_ONCE)]
        with ThreadPoolExecutor(2) as pool:
            total = sum(pool.map(lambda part: _snr(part, use).sum(0), parts))
        bad |= _outlying(total[None] / len(lit.frames), use)[0]
    return bad


def _outlying(maps: NDArray, use: NDArray) -> NDArray:
    """(n, ss, fs) bool: eq. (2), a plane per tile."""
    return np.abs(_snr(maps, use)) > CUT


def _snr(maps: NDArray, use: NDArray) -> NDArray:
    """(n, ss, fs) float64: eq. (1); 0 where the library could not fit, or the pixel takes no part."""
    mean, sigma = library.fit_maps(maps, TILE, np.broadcast_to(use, maps.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(use & (sigma > 0), (maps - mean) / sigma, 0.0)


def _tiles(values: NDArray) -> NDArray:
    ss, fs = values.shape
    return values.reshape(ss // TILE[0], TILE[0], fs // TILE[1], TILE[1])
