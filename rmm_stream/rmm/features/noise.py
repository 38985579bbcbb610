"""F3, pixel variations (section 3.2.3): the standard deviation of the dark values of each pixel.

The deviation is fitted, not the variance, which is more skewed. An integrating pixel whose value never moves is dead,
which no fit can say: for 200 frames a cut of 8 sigma is +-40 % of the noise, and 0 may lie inside. Hence the rule.
"""

from numpy.typing import NDArray

from ...detectors import DetectorSpec
from ...mask import BadPixel
from ..stats import Moments
from .feature import FittedFeature, Needs, RuleFeature


def values(dark: Moments) -> NDArray:
    """Standard deviation, divisor n - 1, (ss, fs) float64, ADU or counts; nan where a pixel has fewer than two frames."""
    return dark.std()


def floor(spec: DetectorSpec) -> float:
    """Counting detectors: 1/6 count (section 2.1), for most of their dark values are equal."""
    return spec.sigma_floor if spec.counting else 0.0


def is_dead(dark: Moments, stage: int, cut: float) -> NDArray:
    """(ss, fs) bool: the value never moved."""
    return (dark.m2 == 0) & (dark.count > 1)


NOISE = FittedFeature("noise", BadPixel.NOISE, Needs.DARK_VALUE, values, lambda dark: dark.count, floor)
DEAD = RuleFeature(
    "dead", BadPixel.NOISE, Needs.DARK_VALUE, is_dead, lambda dark: dark.count, lambda spec: not spec.counting
)
