"""Bragg spots are not bad pixels: on sample data what is high together with a neighbour is held back as suspected signal.

A crystal that turns slowly, or rests, puts its spots on the same pixels in many frames, where no time window tells them
from hot pixels. Their shape does: a spot is wider than a pixel, a bad pixel is high alone.
"""

import numpy as np
from numpy.typing import NDArray

LEAST = 3.0  # sigma of the map; a neighbour below it is not elevated
ALIKE = 0.4  # of the pixel's own SNR; the flank of a spot that is two to four pixels wide


def spot_shaped(snr: NDArray, elsewhere: NDArray) -> NDArray:
    """(ss, fs) bool: pixels with one of their eight neighbours as high, within a factor, or driven into another gain stage.

    snr: (ss, fs), SNR of a lit map, nan where a pixel has none. elsewhere: (ss, fs) bool, pixels that were mostly left out
    of the map because they were in another stage.
    """
    high = np.pad(np.where(elsewhere, np.inf, np.nan_to_num(snr, nan=-np.inf)), 1, constant_values=-np.inf)
    rows, columns = snr.shape
    neighbour = np.full(snr.shape, -np.inf)
    for i in (0, 1, 2):
        for j in (0, 1, 2):
            if (i, j) != (1, 1):
                np.maximum(neighbour, high[i : i + rows, j : j + columns], out=neighbour)
    return neighbour >= np.maximum(LEAST, ALIKE * snr)  # false for nan
