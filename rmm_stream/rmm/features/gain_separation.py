"""F4, between gain stages (section 3.2.4 i): does the indicator of a pixel tell adjacent stages apart? A rule, no fit."""

import numpy as np
from numpy.typing import NDArray

from ...mask import BadPixel
from ..stats import Moments
from .feature import Needs, RuleFeature


def overlaps(lower: Moments, upper: Moments, cut: float) -> NDArray:
    """(ss, fs) bool: mu + cut * sd of the lower stage exceeds mu - cut * sd of the upper one. sd = 0 is allowed."""
    return lower.mean + cut * lower.std() > upper.mean - cut * upper.std()


def is_inseparable(gain: list[Moments], stage: int, cut: float) -> NDArray:
    """(ss, fs) bool: a stage fails against one of its neighbours. gain: of every stage, in order of stages.

    Which of two stages lies lower is decided once, by the medians over the module (AGIPD: ascending)."""
    bad = np.zeros(gain[stage].mean.shape, bool)
    for a, b in ((stage - 1, stage), (stage, stage + 1)):
        if a < 0 or b >= len(gain):
            continue
        rising = np.nanmedian(gain[a].mean) <= np.nanmedian(gain[b].mean)
        bad |= overlaps(gain[a], gain[b], cut) if rising else overlaps(gain[b], gain[a], cut)
    return bad


GAIN_SEPARATION = RuleFeature(
    "gain separation",
    BadPixel.GAIN_SEPARATION,
    Needs.ALL_DARK_GAIN,
    is_inseparable,
    lambda gain: np.minimum.reduce([known.count for known in gain]),
    applies=lambda spec: spec.gain != "none" and len(spec.stages) > 1,
)
