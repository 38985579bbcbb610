"""What a configuration will need, part by part, before it is needed. Arithmetic over shapes; allocates nothing."""

from typing import NamedTuple

from ..config import Settings
from ..detectors import DetectorSpec
from .gate import STRIDE, WHOLE_BELOW

INTEGER_BYTES = 2 + 2 + 4 + 8  # reference, count, s1, s2 of IntegerStats
WIDE_BYTES = 4 + 8 + 8  # of IntegerStats.wide
FLOAT_BYTES = 4 + 8 + 8  # count, mean, m2 of FloatStats
HALVES_BYTES = 2 * (4 + 2)  # two half-windows of total and count of SnrStats
BUCKET_BYTES = 3 * 2  # judged, above, below of one time bucket
OFFSET_BYTES = 4  # float32 dark mean that F6 subtracts
CUT_BYTES = 4  # float32 threshold between two stages
FLAG_BYTES = 4  # last fit (flags, doubtful, suspected) and published flags of a map


class Part(NamedTuple):
    """part: its name. when: what brings it. size: bytes. on_top: beyond the narrow sums and one lit stage."""

    part: str
    when: str
    size: int
    on_top: bool


def seen_by_gate(spec: DetectorSpec) -> int:
    """Pixels of a frame on which F1 looks, those of gate.subset()."""
    pixels = spec.module_shape[0] * spec.module_shape[1]
    return pixels if pixels <= WHOLE_BELOW else len(range(STRIDE // 2, pixels, STRIDE))


def plan(spec: DetectorSpec, modules: int, cells: int, settings: Settings) -> list[Part]:
    """The parts that a maker of so many modules and cells will allocate, and when. Each exposure brings its own."""
    pixels = modules * cells * spec.module_shape[0] * spec.module_shape[1]
    sums = INTEGER_BYTES if spec.exact else FLOAT_BYTES
    f6 = HALVES_BYTES + BUCKET_BYTES * settings.features.lit.buckets
    parts = []
    for name in spec.stages:
        parts.append(Part(f"dark values, {name}", f"first dark frame in {name}", pixels * sums, False))
        if spec.gain != "none":
            size = INTEGER_BYTES - (1 if spec.packed else 0)  # a packed code's reference is one byte
            parts.append(Part(f"dark gain indicator, {name}", f"first dark frame in {name}", pixels * size, False))
    parts.append(Part(f"F6, flat, {spec.stages[0]}", "first judged flat frame", pixels * f6, False))
    parts.append(Part(f"F6, sample, {spec.stages[0]}", "first judged sample frame", pixels * f6, True))
    for name in spec.stages[1:]:
        parts.append(Part(f"F6, {name}", f"lit frames, where most pixels of a tile are in {name}", pixels * f6, True))
    if spec.exact:
        quantities = len(spec.stages) * (2 if spec.gain != "none" else 1)
        parts.append(Part("wide sums", "32,768 dark frames of a cell", quantities * pixels * WIDE_BYTES, True))
    if not (spec.calibrated or spec.counting):
        for name in spec.stages:
            parts.append(Part(f"offsets for F6, {name}", f"lit frames in {name}", pixels * OFFSET_BYTES, True))
    if spec.gain == "analogue":
        cuts = (len(spec.stages) - 1) * CUT_BYTES
        parts.append(Part("gain thresholds", "free-running frames", pixels * cuts, True))
    quantities = 1 if spec.gain == "none" else 2
    parts.append(
        Part("dark being replaced, per stage", "expose --new, until the new speaks", quantities * pixels * sums, True)
    )
    parts.append(Part("F6 being replaced, per stage", "expose --new, until the new speaks", pixels * f6, True))
    maps = len(spec.stages)
    series = 2 if spec.gain == "analogue" else 1  # values, and the indicator
    gate_bytes = series * 8 * (seen_by_gate(spec) + settings.gate.history)  # base frame and frame means of F1
    parts.append(Part("flags", "fits and publication", maps * pixels * FLAG_BYTES, True))
    parts.append(Part("frame gate", "dark frames", modules * cells * maps * gate_bytes, True))
    return parts
