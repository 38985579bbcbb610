"""The light of a sample is no bad pixel: what is off together with its surroundings is signal, and taken, or held, back.

Rings of powder and solvent, the streak of a jet and the shadow of a beamstop are wider than five pixels one way: a pixel is
compared with the lines through it as well as with its tile. Bragg spots are narrower, but wider than a pixel. A crystal
that turns slowly, or rests, puts them on the same pixels in many frames, where no time window tells them from hot pixels;
their shape does.
"""

import numpy as np
from numpy.typing import NDArray

LEAST = 4.0  # sigma of the map; below, one good pixel in a hundred has a neighbour that is as high by chance
ALIKE = 0.4  # of the pixel's own SNR; the flank of a spot that is two to four pixels wide
#: Of a second neighbour, which a pair of hot pixels does not have: of the pixel's own SNR; sigma.
FLANK, FLANK_LEAST = 0.1, 2.0
#: Of all neighbours but the highest, together: a faint spot, none of whose neighbours is high for certain. Of the pixel's own
#: SNR; sigma, which is chance once in a thousand.
TOGETHER, TOGETHER_LEAST = 0.6, 6.0

#: Hidden neighbours of a pixel beside an edge; sigma, below which a pixel is faint.
HALF_HIDDEN, FAINT = 3, 12.0
#: Of a neighbour of a pixel beside an edge: of the pixel's own SNR; sigma, which is chance once in 150.
BESIDE, BESIDE_LEAST = 0.15, 3.0

#: Pixels, side of the tiles of the mean map: rings and streaks bend, and scatter, less within them. The paper's least is 15.
NEAR = 16
#: The scale of 49 pixels is known to an eighth; beyond so much more than that of the tile, it is another.
ANOTHER = 1.3
#: The others of four lines of five pixels through the middle one, (line, pixel, axis).
LINES = np.array([[(k * dy, k * dx) for k in (-2, -1, 1, 2)] for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))])


def along_lines(values: NDArray, places: NDArray) -> tuple[NDArray, NDArray]:
    """(k,) each: the second lowest value on a line through a place, of the line where that is lowest; and the second highest.

    values: (ss, fs), nan takes no part. places: (k, 2) int64. Lines are rows, columns and diagonals, two pixels to either side.
    A streak, or the edge of a shadow, runs through one of them: two others are as high, or as low. A pixel that is off alone,
    or beside another one, is so on no line. A line of fewer than two others says nothing; inf, -inf if none does."""
    padded = np.pad(values, 2, constant_values=np.nan)
    at = places[:, None, None, :] + 2 + LINES
    others = padded[at[..., 0], at[..., 1]]
    lowest = np.sort(others, axis=-1)[..., 1]  # nan comes last
    highest = -np.sort(-others, axis=-1)[..., 1]
    return np.fmin.reduce(lowest, axis=1, initial=np.inf), np.fmax.reduce(highest, axis=1, initial=-np.inf)


def local_scale(values: NDArray, places: NDArray) -> NDArray:
    """(k,): 1.4826 times the median distance from the median, of the 7 x 7 pixels about a place. nan takes no part.

    values: (ss, fs), less their model. Where it is bright, pixels scatter more than elsewhere in the tile."""
    padded = np.pad(values, 3, constant_values=np.nan)
    block = np.arange(7)
    about = padded[places[:, 0, None, None] + block[:, None], places[:, 1, None, None] + block].reshape(len(places), 49)
    return 1.4826 * np.nanmedian(np.abs(about - np.nanmedian(about, axis=1, keepdims=True)), axis=1)


def spot_shaped(snr: NDArray, elsewhere: NDArray, hidden: NDArray) -> NDArray:
    """(ss, fs) bool: pixels with two of their eight neighbours high, one of them within a factor, or in another gain stage;
    faint ones also with all of them but one high together.

    snr: (ss, fs), SNR of a lit map, nan where a pixel has none. elsewhere: (ss, fs) bool, pixels that were mostly left out
    of the map because they were in another stage. hidden: (ss, fs) bool, pixels that are masked without analysis: beside the
    edge of an ASIC most of a spot may lie on them, so that one neighbour that is a little high will do.
    """
    rows, columns = snr.shape
    high = np.full((rows + 2, columns + 2), -np.inf)
    high[1:-1, 1:-1] = np.where(elsewhere, np.inf, np.fmax(snr, -np.inf))  # the other, where one is nan
    beside = np.maximum(high[:, :-2], high[:, 2:])  # left and right
    three = np.maximum(beside, high[:, 1:-1])
    highest = np.maximum(np.maximum(three[:-2], three[2:]), beside[1:-1])
    spots = highest >= np.maximum(LEAST, ALIKE * snr)  # false for nan
    few = np.flatnonzero(spots)
    second = np.sort(_neighbours(high, few), axis=0)[-2]
    spots.flat[few] = second >= np.maximum(FLANK_LEAST, FLANK * snr.flat[few])
    rest = np.flatnonzero((snr >= LEAST) & ~spots)
    here = snr.flat[rest]
    around = _neighbours(np.where(np.isneginf(high), 0, high), rest)
    together = np.sort(around, axis=0)[:-1].sum(axis=0) >= np.maximum(TOGETHER_LEAST, TOGETHER * here)
    at_edge = _neighbours(np.pad(hidden, 1, constant_values=True), rest).sum(axis=0) >= HALF_HIDDEN
    near = highest.flat[rest] >= np.maximum(BESIDE_LEAST, BESIDE * here)
    spots.flat[rest] = (here < FAINT) & together | at_edge & near
    return spots


def _neighbours(padded: NDArray, few: NDArray) -> NDArray:
    """(8, n) values around some pixels. padded: (ss + 2, fs + 2), the map in a frame. few: (n,) places in the map."""
    width = padded.shape[1]
    middle = few + 2 * (few // (width - 2)) + width + 1
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    return padded.reshape(-1)[middle + steps[:, None]]


def swings(judged: NDArray, above: NDArray, below: NDArray, min_share: float) -> NDArray:
    """(ss, fs) bool: pixels that are far below about as often as far above. That is noise: light is on one side.

    judged, above, below: (ss, fs) frames. min_share: of the frames, the least on either side."""
    rarer, commoner = np.minimum(above, below), np.maximum(above, below)
    return (rarer >= min_share * judged) & (4 * rarer >= commoner) & (rarer > 0)
