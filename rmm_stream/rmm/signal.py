"""The sample's own light and shade are no bad pixels: what differs together with its neighbours is held back as signal.

A crystal that turns slowly, or rests, puts its spots on the same pixels in many frames, where no time window tells them
from hot pixels. Their shape does: a spot is wider than a pixel on all sides; a bad pixel is high alone, or with one other. The
shadow of a beam stop, and a background that curves within a tile, are low over many pixels.
"""

import numpy as np
from numpy.typing import NDArray

LEAST = 4.0  # sigma of the map; below, one good pixel in a hundred has a neighbour that is as high by chance
ALIKE = 0.4  # of the pixel's own SNR; the flank of a spot that is two to four pixels wide
FLANK, FLANK_LEAST = (
    0.1,
    2.0,
)  # of the pixel's own SNR, sigma; of a second neighbour, which a pair of hot pixels does not have
SURROUNDED = 0.5  # of the neighbours that have a value, as low: the border of a wide shadow has so many


def spot_shaped(snr: NDArray, elsewhere: NDArray) -> NDArray:
    """(ss, fs) bool: pixels with two of their eight neighbours high, one of them within a factor, or in another gain stage.

    snr: (ss, fs), SNR of a lit map, nan where a pixel has none. elsewhere: (ss, fs) bool, pixels that were mostly left out
    of the map because they were in another stage.
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
    return spots


def shaded(snr: NDArray) -> NDArray:
    """(ss, fs) bool: low pixels of whose neighbours at least a share of SURROUNDED is low too, within a factor.

    snr: (ss, fs), SNR of a lit map, nan where a pixel has none.
    """
    few = np.flatnonzero(snr <= -LEAST)
    around = _neighbours(np.pad(snr, 1, constant_values=np.nan), few)
    low = (around <= np.minimum(-LEAST, ALIKE * snr.flat[few])).sum(0)  # nan is not
    out = np.zeros(snr.shape, bool)
    out.flat[few] = (low > 0) & (low >= SURROUNDED * (~np.isnan(around)).sum(0))
    return out


def _neighbours(padded: NDArray, few: NDArray) -> NDArray:
    """(8, n) values around some pixels. padded: (ss + 2, fs + 2), the map in a frame. few: (n,) places in the map."""
    width = padded.shape[1]
    middle = few + 2 * (few // (width - 2)) + width + 1
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    return padded.reshape(-1)[middle + steps[:, None]]
