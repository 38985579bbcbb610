"""Lit rate: the share of recent frames in which a pixel is far above, or far below, its window (section 3.3.1, "too often").

Finds pixels that are off too often, strongly. The share of good pixels is not 0 (noise tails, Bragg peaks, rings), so it is
judged by the robust fit like every feature, with the binomial error as least scale, and only upwards. What is above is looked
for in the last part of the window too: a pixel that begins to flicker must not wait until it has done so for a whole window.
"""

import numpy as np
from numpy.typing import NDArray

from ...config import Settings
from ...mask import BadPixel
from .feature import FittedFeature, LitCell, Needs


def share_above(lit: LitCell) -> NDArray:
    """(ss, fs) float64 share of judged frames with SNR > lit_rate.snr; nan where none was judged."""
    return np.where(lit.judged > 0, lit.above, np.nan) / np.maximum(lit.judged, 1)


def share_below(lit: LitCell) -> NDArray:
    """(ss, fs) float64 share of judged frames with SNR < -lit_rate.snr; nan where none was judged."""
    return np.where(lit.judged > 0, lit.below, np.nan) / np.maximum(lit.judged, 1)


def share_lately(lit: LitCell) -> NDArray:
    """share_above() in the last part of the window."""
    judged, above, _ = lit.recent
    return np.where(judged > 0, above, np.nan) / np.maximum(judged, 1)


def binomial_scale(judged: NDArray, model: NDArray) -> NDArray:
    """Standard error of a share of n judged frames whose expectation is the model, as if one more had been beyond the cut.

    Eight Gaussian sigmas above an expectation of a frame or less are too few: the Poisson tail is longer."""
    n = np.maximum(judged, 1)
    p = np.clip(model, 0, 1)
    return np.sqrt((p + 1 / n) * (1 - p) / n)


def often_enough(share: NDArray, settings: Settings, to_stay: bool = False) -> NDArray:
    """Below this share a defect does no harm, and a busy Bragg pixel could be meant. (ss, fs) bool.

    to_stay: half of it is enough to stay flagged: the frames behind a share come and go in whole slots of the window."""
    return share >= settings.features.lit_rate.min_share * (0.5 if to_stay else 1.0)


def _feature(name, values, spots, needs=Needs.LIT_SHARE, count=lambda lit: lit.judged) -> FittedFeature:
    return FittedFeature(
        name,
        BadPixel.LIT_SNR,
        needs,
        values,
        count,
        floor=lambda spec: np.finfo(np.float32).tiny,  # good pixels may all have share 0: the binomial scale decides
        least_scale=binomial_scale,
        only=often_enough,
        above_only=True,
        spots=spots,
    )


LIT_RATE_ABOVE = _feature("lit rate above", share_above, spots=True)
LIT_RATE_BELOW = _feature("lit rate below", share_below, spots=False)
LIT_RATE_LATELY = _feature(
    "lit rate lately", share_lately, spots=True, needs=Needs.LIT_RECENT, count=lambda lit: lit.recent[0]
)
