"""ePix10ka 2M at LCLS (Dragone et al. 2014): 16 modules of 2 x 2 ASICs; ADC value in bits 13:0 of the word, a gain bit in 14.

The bit tells two stages apart: the configured one, high (or medium), and low, into which a pixel switches by itself. All pixels
of an ASIC shift together by 15 to 17 ADU from frame to frame, against 2 to 4 ADU of noise of a pixel."""

from .spec import DetectorSpec

EPIX10K2M = DetectorSpec(
    name="epix10k2m",
    modules=16,
    module_shape=(352, 384),
    asic_shape=(176, 192),
    stages=("high", "low"),
    bits=14,
    saturation=(1 << 14) - 1,
    gain="code",
    gain_codes=(0, 1),
    packed=2,
    common_mode=16.0,
    remove_common_mode=True,
)
