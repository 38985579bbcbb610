"""AGIPD-1M at EuXFEL (Allahgholi et al. 2015): 16 modules, 352 analogue memory cells, three gain stages.

The indicator is an ADC value of its own, ascending from high to low gain (section 3.2.4)."""

from .spec import DetectorSpec

AGIPD1M = DetectorSpec(
    name="agipd1m",
    modules=16,
    module_shape=(512, 128),
    asic_shape=(64, 64),
    cells=352,
    stages=("high", "medium", "low"),
    bits=14,
    saturation=(1 << 14) - 1,
    gain="analogue",
)
