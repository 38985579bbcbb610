"""Small makers and frames to feed them: seeded stacks of one module, as batches of any cut, in any order."""

import numpy as np
from builders import TINY

from rmm_stream.config import Features, Fit, Gate, Lit, Settings
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.mask import MapKey
from rmm_stream.rmm import MaskMaker

#: 30 frames are enough to speak; F6 looks at every train, and starts cold: then its counts depend on no order of frames.
SETTINGS = Settings(Gate(history=60, learn=20), Fit(min_frames=30), Features(lit=Lit(every_train=1, warm=False)))

DARK0, DARK1 = Exposure(Illumination.DARK, 0), Exposure(Illumination.DARK, 1)
DARK, FLAT, SAMPLE = (Exposure(i) for i in (Illumination.DARK, Illumination.FLAT, Illumination.SAMPLE))
FLAT0, SAMPLE0 = Exposure(Illumination.FLAT, 0), Exposure(Illumination.SAMPLE, 0)
UNKNOWN = Exposure(Illumination.UNKNOWN)
LEVELS = 4000.0, 7000.0  # of the gain indicator, ADU


def maker(spec=TINY, settings=SETTINGS, **keywords) -> MaskMaker:
    return MaskMaker(spec, keywords.pop("modules", (0,)), settings=settings, **keywords)


def frames(
    spec=TINY, n=30, exposure=DARK0, *, seed=0, cells=None, train=1000, level=1000.0, sd=10.0, indicator=None,
    time=0.0, module=0,
) -> FrameBatch:  # fmt: skip
    """n trains with a frame of each cell: pixels with offsets of their own, an indicator of the stage. Writable.

    indicator: level of the gain indicator; default that of the held stage."""
    rng = np.random.default_rng([seed, train, module])
    cells = range(spec.cells) if cells is None else cells
    shape = (n * len(cells), *spec.module_shape)
    fixed = np.random.default_rng(7).normal(0, 15, spec.module_shape)
    values = rng.normal(level, sd, shape) + (0 if spec.calibrated or spec.counting else fixed)
    pixels = values.astype(np.float32) if spec.calibrated else np.rint(values).clip(0).astype(spec.dtype)
    stage, gain = exposure.gain_stage or 0, None
    if spec.gain == "analogue":
        gain = np.rint(rng.normal(LEVELS[stage] if indicator is None else indicator, 20, shape)).astype(np.uint16)
    elif spec.gain == "code":
        gain = np.full(shape, spec.gain_codes[stage], np.uint8)
    return FrameBatch(
        module=module,
        pixels=pixels,
        gain=gain,
        cell=np.tile(np.asarray(cells, np.uint16), n),
        train_id=np.repeat(np.arange(train, train + n, dtype=np.uint64), len(cells)),
        complete=np.ones(shape[0], bool),
        timestamp=time,
        exposure=exposure,
        labelled_by="config",
    )


def part(batch: FrameBatch, indices, **changes) -> FrameBatch:
    """Some frames of a batch, in the order given."""
    fields = {name: getattr(batch, name) for name in FrameBatch.__slots__}
    fields |= {name: fields[name][indices] for name in ("pixels", "cell", "train_id", "complete")}
    fields["gain"] = None if batch.gain is None else batch.gain[indices]
    return FrameBatch(**fields | changes)


def one_by_one(maker: MaskMaker, batch: FrameBatch) -> None:
    for t in range(len(batch)):
        maker.feed(part(batch, [t]))


def assert_same_darks(one: MaskMaker, two: MaskMaker, cells=None) -> None:
    """Count, mean and M2 of every dark statistic and cell, bit for bit."""
    assert one.dark.keys() == two.dark.keys()
    for key, stats in one.dark.items():
        for cell in one.cells if cells is None else cells:
            a = stats.moments(cell - one.cells.start)
            b = two.dark[key].moments(cell - two.cells.start)
            for x, y in zip(a, b):
                np.testing.assert_array_equal(x, y, err_msg=str((key, cell)))
            assert stats.frames[cell - one.cells.start] == two.dark[key].frames[cell - two.cells.start]


def assert_same_windows(one: MaskMaker, two: MaskMaker, cells=None) -> None:
    """What the lit windows counted, exactly; their mean SNR to 0.02."""
    assert one.lit.keys() == two.lit.keys()
    for key, stats in one.lit.items():
        for cell in one.cells if cells is None else cells:
            i, j = cell - one.cells.start, cell - two.cells.start
            now = float(stats.latest[i])
            for x, y in zip(stats.window(i, now), two.lit[key].window(j, now)):
                np.testing.assert_array_equal(x, y, err_msg=str((key, cell)))
            np.testing.assert_allclose(stats.mean(i, now)[0], two.lit[key].mean(j, now)[0], atol=0.02)


def fits(maker: MaskMaker) -> dict[MapKey, bytes]:
    """The flags of a fit of every map that has been fed, as bytes."""
    return {key: maker.fit(key).flags.tobytes() for key in sorted(maker.news)}


def bad(maker: MaskMaker, stage=0, cell=0, module=0) -> dict[tuple[int, int], int]:
    """Pixels of one map that are flagged now, by place."""
    flags = maker.fit(MapKey(module, stage, cell)).flags
    return {tuple(p): int(flags[tuple(p)]) for p in np.argwhere(flags).tolist()}
