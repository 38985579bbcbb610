"""DetectorSpec: everything the program knows about a detector, as plain data. Knows nothing of sources or statistics."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

COUNTING_FLOOR = 1 / 6  # count; section 2.1 of the paper
DIGITISER_FLOOR = 1 / math.sqrt(12)  # ADU; rounding error of an integer

#: Integer values up to this many significant bits are accumulated exactly about a reference.
EXACT_BITS = 16
#: And values up to this many in blocks of frames, whose sums stay within narrow lanes (rmm/kernels/blocks.py).
NARROW_BITS = 14


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """All modules that are read out together.

    modules: how many; first_number: external number of module 0.
    module_shape, asic_shape: (ss, fs), pixels; no fit crosses an ASIC edge.
    cells: memory cells per pixel, 1 where there are none. stages: gain stages, most sensitive first.
    bits: significant bits of a raw value; 0: calibrated float frames.
    sentinels: values that are not data. saturation: values at or above it are not accumulated; None: no such value.
    counting: photons are counted (dark values are mostly 0), not integrated.
    edge_width: pixels masked without analysis on each ASIC side.
    gain: where the stage of a pixel is told: "none" (fixed, or not sent), "code" (small integers, `gain_codes[stage]`),
        "analogue" (an ADC value, cut at thresholds).
    packed: bits of the gain code on top of the raw word, `bits` below (JUNGFRAU: 2); 0: the code comes apart, or never.
    gain_thresholds: ADC values between adjacent stages, used while the dark of a stage lacks; () if unknown.
    adu_per_photon: ADU of one photon in stage 0, for the photon floor of lit frames; None: unknown.
    common_mode: ADU, typical shift of one ASIC from frame to frame; 0: none known. Used by the simulator.
    remove_common_mode: whether that is so large that dark statistics need it removed, unless [common_mode] says otherwise.
    """

    name: str
    modules: int
    module_shape: tuple[int, int]
    asic_shape: tuple[int, int]
    cells: int = 1
    stages: tuple[str, ...] = ("high",)
    bits: int = 16
    sentinels: tuple[int, ...] = ()
    saturation: int | None = None
    counting: bool = False
    edge_width: int = 1
    first_number: int = 0
    gain: str = "none"
    gain_codes: tuple[int, ...] = ()
    packed: int = 0
    gain_thresholds: tuple[float, ...] = ()
    adu_per_photon: float | None = None
    common_mode: float = 0.0
    remove_common_mode: bool = False

    def __post_init__(self):
        for side, (whole, part) in enumerate(zip(self.module_shape, self.asic_shape)):
            if part < 1 or whole < part:
                raise ConfigError(
                    f"detector {self.name!r}: asic_shape {list(self.asic_shape)} does not fit in module_shape "
                    f"{list(self.module_shape)} along {'ss' if side == 0 else 'fs'}"
                )
            rest, between = whole % part, whole // part - 1
            if rest and (between == 0 or rest % between):
                raise ConfigError(
                    f"detector {self.name!r}: along {'ss' if side == 0 else 'fs'}, {whole} pixels are not ASICs of {part} "
                    f"with equal gaps between them ({rest} pixels would be left over)"
                )
        if len(set(self.stages)) < len(self.stages):
            raise ConfigError(f"detector {self.name!r}: stages {list(self.stages)} must have different names")
        if self.saturation is not None and self.bits and self.saturation >= 1 << self.bits:
            raise ConfigError(f"detector {self.name!r}: saturation {self.saturation} lies beyond {self.bits} bits")
        if self.packed and self.bits + self.packed > 8 * self.dtype.itemsize:
            raise ConfigError(
                f"detector {self.name!r}: {self.bits} bits and {self.packed} packed ones do not fit in {self.dtype}"
            )
        if self.gain_thresholds and self.gain != "analogue":
            raise ConfigError(f'detector {self.name!r}: gain_thresholds need gain = "analogue"')
        if self.gain == "code" and len(self.gain_codes) != len(self.stages):
            raise ConfigError(f"detector {self.name!r}: gain_codes needs one code per stage, {len(self.stages)}")
        if self.gain_thresholds and len(self.gain_thresholds) != len(self.stages) - 1:
            raise ConfigError(
                f"detector {self.name!r}: gain_thresholds needs {len(self.stages) - 1} values, between adjacent stages"
            )
        if 2 * self.edge_width >= min(self.asic_shape):
            raise ConfigError(f"detector {self.name!r}: edge_width {self.edge_width} leaves no pixel of an ASIC")

    @property
    def calibrated(self) -> bool:
        """Frames are floats with the offset already subtracted."""
        return self.bits == 0

    @property
    def exact(self) -> bool:
        """Sums about a reference are exact integers (IntegerStats); else Welford in float64 (FloatStats)."""
        return 0 < self.bits <= EXACT_BITS

    @property
    def narrow(self) -> bool:
        """Values are accumulated in blocks of frames."""
        return 0 < self.bits <= NARROW_BITS

    @property
    def dtype(self) -> np.dtype:
        """The type of `FrameBatch.pixels` that this detector is expected to send."""
        if self.calibrated:
            return np.dtype(np.float32)
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16 if self.bits <= 16 else np.uint32)

    @property
    def sigma_floor(self) -> float:
        """Least sigma that is believed on a single frame: 1/6 count, 1/sqrt(12) ADU, or 0 for calibrated floats."""
        if self.counting:
            return COUNTING_FLOOR
        return 0.0 if self.calibrated else DIGITISER_FLOOR

    def asics(self, axis: int) -> list[tuple[int, int]]:
        """First and last + 1 pixel of each ASIC along an axis, 0 for ss and 1 for fs; equal gaps lie between them."""
        whole, part = self.module_shape[axis], self.asic_shape[axis]
        n = whole // part
        gap = (whole - n * part) // (n - 1) if n > 1 else 0
        return [(i * (part + gap), i * (part + gap) + part) for i in range(n)]

    def edge(self) -> NDArray:
        """(ss, fs) bool: pixels within edge_width of an ASIC side, or between ASICs. Section 2.1: masked without analysis."""
        inside = []
        for axis in (0, 1):
            inside.append(np.zeros(self.module_shape[axis], bool))
            for first, last in self.asics(axis):
                inside[axis][first + self.edge_width : last - self.edge_width] = True
        return ~(inside[0][:, None] & inside[1][None, :])

    def split_raw(self, raw: NDArray) -> tuple[NDArray, NDArray | None]:
        """Raw words -> (pixels, gain code): `packed` bits on top, `bits` below. (raw, None) where nothing is packed."""
        if not self.packed:
            return raw, None
        return raw & raw.dtype.type((1 << self.bits) - 1), (raw >> raw.dtype.type(self.bits)).astype(np.uint8)

    def join_raw(self, pixels: NDArray, gain: NDArray) -> NDArray:
        """The inverse of split_raw, for simulators: (pixels, gain code) -> raw words."""
        return (pixels | (gain.astype(pixels.dtype) << pixels.dtype.type(self.bits))) if self.packed else pixels
