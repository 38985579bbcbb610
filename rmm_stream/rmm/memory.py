"""What a configuration will need, part by part, before it is needed. Arithmetic over shapes; allocates nothing."""

from typing import NamedTuple

from ..config import Settings
from ..detectors import DetectorSpec
from .dark_look import LEARN, SPREADS
from .gate import quantities, rows

NARROW_BYTES = 2 + 2 + 4 + 4  # reference, count, s1, s2 of IntegerStats of at most 14 bits
INTEGER_BYTES = 2 + 2 + 4 + 8  # of more
STILL_BYTES = 2  # still of LevelledStats
WIDE_BYTES = 4 + 8 + 8  # of IntegerStats.wide
FLOAT_BYTES = 4 + 8 + 8  # count, mean, m2 of FloatStats
HALVES_BYTES = 2 * (4 + 2) + 1  # two half-windows of total and count of SnrStats, and usual
BUCKET_BYTES = 3 * 2  # judged, above, below of one time bucket
OFFSET_BYTES = 4  # float32 dark mean that F6 subtracts
BAND_BYTES = 2 * 2  # first and last indicator of a stage
FLAG_BYTES = 4  # last fit (flags, doubtful, suspected) and published flags of a map


class Part(NamedTuple):
    """part: its name. when: what brings it. size: bytes. on_top: beyond the narrow sums and one lit stage."""

    part: str
    when: str
    size: int
    on_top: bool


def of_gate(spec: DetectorSpec, settings: Settings) -> int:
    """Bytes of a frame gate for one cell: base frames of all that it judges, and their last means, by age and by size."""
    means = 8 * (2 * settings.gate.history + 1) + 16 + 1
    return sum(len(rows(q)) * q.module_shape[1] * q.dtype.itemsize + means for q in quantities(spec).values())


def of_look(spec: DetectorSpec, settings: Settings) -> int:
    """Bytes of what the classifier knows of the darks of one cell and stage: the ring of three numbers, and their fits."""
    numbers = len(quantities(spec)) + 1
    return 8 * (numbers * (max(settings.gate.history, LEARN) + 2) + 2 * SPREADS + 1)


def plan(spec: DetectorSpec, modules: int, cells: int, settings: Settings) -> list[Part]:
    """The parts that a maker of so many modules and cells will allocate, and when. Each exposure brings its own."""
    pixels = modules * cells * spec.module_shape[0] * spec.module_shape[1]
    integer = NARROW_BYTES if spec.narrow else INTEGER_BYTES
    sums = integer if spec.exact else FLOAT_BYTES
    sums += STILL_BYTES if settings.common_mode.removed_from(spec) else 0
    f6 = HALVES_BYTES + BUCKET_BYTES * settings.features.lit.buckets
    parts = []
    for name in spec.stages:
        parts.append(Part(f"dark values, {name}", f"first dark frame in {name}", pixels * sums, False))
        if spec.gain != "none":
            size = integer - (1 if spec.packed else 0)  # a packed code's reference is one byte
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
        bands = len(spec.stages) * BAND_BYTES
        parts.append(Part("bands of the gain indicator", "free-running frames", pixels * bands, True))
    quantities = 1 if spec.gain == "none" else 2
    parts.append(
        Part("dark being replaced, per stage", "expose --new, until the new speaks", quantities * pixels * sums, True)
    )
    parts.append(Part("F6 being replaced, per stage", "expose --new, until the new speaks", pixels * f6, True))
    maps = len(spec.stages)
    parts.append(Part("flags", "fits and publication", maps * pixels * FLAG_BYTES, True))
    parts.append(Part("frame gate", "dark frames", modules * cells * maps * of_gate(spec, settings), True))
    if settings.light.classify != "off":
        parts.append(
            Part("what darks look like", "dark frames", modules * cells * maps * of_look(spec, settings), True)
        )
    return parts
