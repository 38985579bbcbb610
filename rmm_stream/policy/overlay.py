"""Edge and static masks on top of the fitted flags. No fit clears them."""

import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..mask import BadPixel


def overlay(spec: DetectorSpec, static: NDArray | None = None) -> NDArray:
    """(ss, fs) uint8: EDGE by geometry, USER where a static mask, (ss, fs), is not 0."""
    flags = np.where(spec.edge(), np.uint8(BadPixel.EDGE), np.uint8(0))
    return flags if static is None else flags | np.where(static != 0, np.uint8(BadPixel.USER), np.uint8(0))


def lay_over(fitted: NDArray, above: NDArray) -> NDArray:
    """Fitted flags under an overlay, (ss, fs) uint8 both; a pixel masked without analysis carries no fitted bit."""
    return np.where(above != 0, above, fitted)
