"""F5, for each gain stage (section 3.2.4 ii): the mean gain indicator of each pixel in the dark."""

from numpy.typing import NDArray

from ...detectors import DetectorSpec
from ...mask import BadPixel
from ..stats import Moments
from .feature import FittedFeature, Needs

CODE_FLOOR = 1 / 6  # code; good pixels all have the same mean, so that their scale would be 0


def values(gain: Moments) -> NDArray:
    """Mean indicator, (ss, fs) float64, ADU or code; nan where a pixel has no frames."""
    return gain.mean


def floor(spec: DetectorSpec) -> float:
    return CODE_FLOOR if spec.gain == "code" else 0.0


GAIN_LEVEL = FittedFeature(
    "gain level",
    BadPixel.GAIN_LEVEL,
    Needs.DARK_GAIN,
    values,
    lambda gain: gain.count,
    floor,
    applies=lambda spec: spec.gain != "none",
)
