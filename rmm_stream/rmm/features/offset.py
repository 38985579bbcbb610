"""F2, pixel offset (section 3.2.2): the mean dark value of each pixel. Knows nothing of fits or thresholds."""

from numpy.typing import NDArray

from ...detectors import DetectorSpec
from ...mask import BadPixel
from ..stats import Moments
from .feature import FittedFeature, Needs


def values(dark: Moments) -> NDArray:
    """Mean dark value, (ss, fs) float64, ADU or counts; nan where a pixel has no frames."""
    return dark.mean


def floor(spec: DetectorSpec) -> float:
    """Counting detectors: 1/6 count (section 2.1), for most of their dark values are equal."""
    return spec.sigma_floor if spec.counting else 0.0


OFFSET = FittedFeature("offset", BadPixel.OFFSET, Needs.DARK_VALUE, values, lambda dark: dark.count, floor)
