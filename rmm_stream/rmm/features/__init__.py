"""The features, in the order of the paper. A new one is a file and a line here; a flag may be shared, the byte is full."""

from .feature import FeatureMap, FittedFeature, LitCell, Needs, RuleFeature
from .gain_level import GAIN_LEVEL
from .gain_separation import GAIN_SEPARATION
from .lit_rate import LIT_RATE_ABOVE, LIT_RATE_BELOW, LIT_RATE_LATELY
from .lit_snr import LIT_SNR
from .noise import DEAD, NOISE
from .offset import OFFSET

FEATURES: tuple[FittedFeature | RuleFeature, ...] = (
    OFFSET,
    NOISE,
    DEAD,
    GAIN_SEPARATION,
    GAIN_LEVEL,
    LIT_SNR,
    LIT_RATE_ABOVE,
    LIT_RATE_BELOW,
    LIT_RATE_LATELY,
)

__all__ = ["FEATURES", "FeatureMap", "FittedFeature", "LitCell", "Needs", "RuleFeature"]
