"""Bragg spots are not bad pixels: on sample data what is high together with a neighbour is held back as suspected signal.

A crystal that turns slowly, or rests, puts its spots on the same pixels in many frames, where no time window tells them
from hot pixels. Their shape does: a spot is wider than a pixel, a bad pixel is high alone.
"""

import numpy as np
from numpy.typing import NDArray

LEAST = 4.0  # sigma of the map; below, one good pixel in a hundred has a neighbour that is as high by chance
ALIKE = 0.4  # of the pixel's own SNR; the flank of a spot that is two to four pixels wide


def spot_shaped(snr: NDArray, elsewhere: NDArray) -> NDArray:
    """(ss, fs) bool: pixels with one of their eight neighbours as high, within a factor, or driven into another gain stage.

    snr: (ss, fs), SNR of a lit map, nan where a pixel has none. elsewhere: (ss, fs) bool, pixels that were mostly left out
    of the map because they were in another stage.
    """
    rows, columns = snr.shape
    high = np.full((rows + 2, columns + 2), -np.inf)
    high[1:-1, 1:-1] = np.where(elsewhere, np.inf, np.fmax(snr, -np.inf))  # the other, where one is nan
    beside = np.maximum(high[:, :-2], high[:, 2:])  # left and right
    three = np.maximum(beside, high[:, 1:-1])
    neighbour = np.maximum(np.maximum(three[:-2], three[2:]), beside[1:-1])
    return neighbour >= np.maximum(LEAST, ALIKE * snr)  # false for nan
