"""The sample's own light and shade are no bad pixels: what differs together with its neighbours is held back as signal.

A crystal that turns slowly, or rests, puts its spots on the same pixels in many frames, where no time window tells them
from hot pixels. Their shape does: a spot is wider than a pixel on all sides; a bad pixel is high alone, or with one other. The
shadow of a beam stop, and a background that curves within a tile, are low over many pixels.
"""

from collections.abc import Iterator

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
    high = np.where(elsewhere, np.inf, np.fmax(snr, -np.inf))  # the other, where one is nan
    first, second = (np.full(snr.shape, -np.inf) for _ in range(2))
    for neighbour in _neighbours(high, -np.inf):
        np.maximum(second, np.minimum(first, neighbour), out=second)
        np.maximum(first, neighbour, out=first)
    return (first >= np.maximum(LEAST, ALIKE * snr)) & (second >= np.maximum(FLANK_LEAST, FLANK * snr))  # false for nan


def shaded(snr: NDArray) -> NDArray:
    """(ss, fs) bool: pixels of whose neighbours at least a share of SURROUNDED is low too, within a factor.

    snr: (ss, fs), SNR of a lit map, nan where a pixel has none.
    """
    bound = np.minimum(-LEAST, ALIKE * snr)
    low, known = np.zeros((2, *snr.shape), np.uint8)
    for neighbour in _neighbours(snr, np.nan):
        low += neighbour <= bound  # false for nan
        known += ~np.isnan(neighbour)
    return (low > 0) & (low >= SURROUNDED * known)


def _neighbours(values: NDArray, beyond: float) -> Iterator[NDArray]:
    """The eight neighbours of every pixel, one (ss, fs) view after the other. beyond: what lies outside."""
    rows, columns = values.shape
    padded = np.pad(values, 1, constant_values=beyond)
    for i in range(3):
        for j in range(3):
            if (i, j) != (1, 1):
                yield padded[i : i + rows, j : j + columns]
