"""JUNGFRAU (Leonarski et al. 2020): gain code in bits 15:14 of the word, ADC value in 13:0; code 2 is invalid.

Pixels at ASIC edges are double size and read twice the light: not bad, but not like their neighbours, hence EDGE."""

from dataclasses import replace

from .spec import DetectorSpec

JUNGFRAU4M = DetectorSpec(
    name="jungfrau4m",
    modules=8,
    first_number=1,
    module_shape=(512, 1024),
    asic_shape=(256, 256),
    stages=("G0", "G1", "G2"),
    bits=14,
    gain="code",
    gain_codes=(0, 1, 3),
    packed=2,
)

JUNGFRAU05M = replace(JUNGFRAU4M, name="jungfrau05m", modules=1)
