"""Small, seeded inputs: detectors, frame batches and messages of every protocol."""

import numpy as np

from rmm_stream.config import ExposureSettings, Source
from rmm_stream.detectors import DetectorSpec
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.wire import karabo, native

NOW = 1_700_000_000.25

#: 2 modules, 3 cells, 2 stages; everything that AGIPD has, in 2 x 1 ASICs.
TINY = DetectorSpec(
    name="tiny",
    modules=2,
    module_shape=(64, 32),
    asic_shape=(32, 32),
    cells=3,
    stages=("high", "low"),
    bits=14,
    saturation=(1 << 14) - 1,
    gain="analogue",
)
#: The same as an operator would describe it.
TINY_SECTION = """\
[detector]
name = "tiny"
modules = 2
module_shape = [64, 32]
asic_shape = [32, 32]
cells = 3
stages = ["high", "low"]
bits = 14
saturation = 16383
gain = "analogue"
"""
#: Gain code on top of the word, modules numbered from 1, no memory cells: what JUNGFRAU has.
TINY_PACKED = DetectorSpec(
    name="tinyjf",
    modules=2,
    first_number=1,
    module_shape=(64, 32),
    asic_shape=(32, 32),
    stages=("G0", "G1", "G2"),
    bits=14,
    gain="code",
    gain_codes=(0, 1, 3),
    packed=2,
)
#: The ASICs shift by more than the noise from frame to frame, and that is removed: what ePix10ka has.
TINY_SHIFTING = DetectorSpec(
    name="tinyepix",
    modules=2,
    module_shape=(64, 32),
    asic_shape=(32, 32),
    cells=3,
    stages=("high", "low"),
    bits=14,
    gain="code",
    gain_codes=(0, 1),
    packed=2,
    common_mode=16.0,
    remove_common_mode=True,
)
#: Corrected frames, float32.
TINY_CALIBRATED = DetectorSpec(
    name="tinycal", modules=2, module_shape=(64, 32), asic_shape=(32, 32), cells=3, bits=0, gain="none"
)

TINY_SOURCE = Source(name="TINY/DET/{module}CH0:xtdf")
SAYS_EXPOSURE = ExposureSettings(source="TINY/EXP/STATE")
DARK = Exposure(Illumination.DARK, 0)


def make_batch(
    spec: DetectorSpec = TINY,
    module: int = 0,
    n: int | None = None,
    *,
    train_id: int = 1000,
    cell=None,
    exposure: Exposure | None = None,
    labelled_by: str | None = None,
    offset: float = 1000.0,
    noise: float = 10.0,
    timestamp: float = NOW,
    seed: int = 0,
) -> FrameBatch:
    """One train of `spec`: normal noise on a flat offset, a gain indicator of stage 0; n defaults to one per cell."""
    rng = np.random.default_rng([seed, module, train_id])
    n = spec.cells if n is None else n
    shape = (n, *spec.module_shape)
    values = rng.normal(offset, noise, shape)
    pixels = values.astype(np.float32) if spec.calibrated else np.rint(values).clip(0).astype(spec.dtype)
    gain = None
    if spec.gain == "analogue":
        gain = np.rint(rng.normal(4000, 20, shape)).astype(np.uint16)
    elif spec.gain == "code":
        gain = np.full(shape, spec.gain_codes[0], np.uint8)
    return FrameBatch(
        module=module,
        pixels=pixels,
        gain=gain,
        cell=np.asarray(np.arange(n) % spec.cells if cell is None else cell, np.uint16),
        train_id=np.full(n, train_id, np.uint64),
        complete=np.ones(n, bool),
        timestamp=timestamp,
        exposure=exposure,
        labelled_by=("" if exposure is None else "stream") if labelled_by is None else labelled_by,
    )


def make_train(spec: DetectorSpec = TINY, **keywords) -> list[FrameBatch]:
    """The batches of all modules of one train."""
    return [make_batch(spec, module, **keywords) for module in range(spec.modules)]


def karabo_message(
    batches: list[FrameBatch] | None = None,
    spec: DetectorSpec = TINY,
    source: Source = TINY_SOURCE,
    exposure: ExposureSettings | None = None,
    version: str = "2.2",
) -> list[bytes]:
    """The parts of a karabo-bridge message, as bytes."""
    batches = make_train(spec) if batches is None else batches
    return [bytes(part) for part in karabo.encode(batches, spec, source, exposure, version)]


def native_message(batch: FrameBatch | None = None, detector: str = "tiny") -> list[bytes]:
    """The parts of a native frame message, as bytes."""
    return [bytes(part) for part in native.encode(make_batch() if batch is None else batch, detector)]


def assert_same_batch(found: FrameBatch, expected: FrameBatch) -> None:
    """Equal in every field, arrays by value and type; and laid out as the whole package expects it."""
    for field in ("module", "exposure", "labelled_by"):
        assert getattr(found, field) == getattr(expected, field), field
    assert abs(found.timestamp - expected.timestamp) < 1e-6
    for field in ("pixels", "gain", "cell", "train_id", "complete"):
        a, b = getattr(found, field), getattr(expected, field)
        assert (a is None) == (b is None), field
        if b is not None:
            assert a.dtype == b.dtype, field
            np.testing.assert_array_equal(a, b, err_msg=field)
            assert a.flags.c_contiguous, field
