"""F6, average SNR of pixels over time (section 3.3.1): finds pixels that are off all the time, even weakly."""

from numpy.typing import NDArray

from ...mask import BadPixel
from .feature import FittedFeature, LitCell, Needs


def values(lit: LitCell) -> NDArray:
    """Mean over frames of the SNR of a pixel in its window, (ss, fs) float64; nan where no frame was judged."""
    return lit.mean


LIT_SNR = FittedFeature("lit SNR", BadPixel.LIT_SNR, Needs.LIT_MEAN, values, lambda lit: lit.count, spots=True)
