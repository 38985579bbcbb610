"""The memory that a configuration is said to need, against what a maker really holds."""

from dataclasses import replace

import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED, TINY_PACKED, TINY_SHIFTING
from makers import FLAT, FLAT0, SAMPLE0, SETTINGS, frames, maker
from msgspec import structs

from rmm_stream.config import Settings
from rmm_stream.detectors import detector
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.policy import MaskPolicy
from rmm_stream.rmm import memory
from rmm_stream.rmm.kernels import sums

SUMS = ("reference", "count", "s1", "s2")


def sizes(parts):
    return {p.part: p.size for p in parts}


def held(m, policy):
    """Bytes of every array that is as large as the detector, and of the gates."""
    state = {name: a.nbytes for name, a in m.state().items() if name.split("/")[0] in ("dark", "lit", "gate", "fit")}
    derived = [value if isinstance(value, tuple) else (value,) for *_, value in m.segments._derived.values()]
    kept = sum(a.nbytes for values in derived for a in values if isinstance(a, np.ndarray))
    return sum(state.values()) + kept + sum(c.flags.nbytes for c in policy.published.values())


@pytest.mark.parametrize("spec", [TINY, TINY_PACKED, TINY_SHIFTING, TINY_CALIBRATED], ids=lambda s: s.name)
def test_plan_is_what_a_maker_holds_that_has_been_fed_everything(spec, monkeypatch):
    """Darks and flats of every stage, samples of the first; so many darks that the wide sums are there."""
    monkeypatch.setattr(sums, "FOLD_AT", 16)
    m, policy = maker(spec), MaskPolicy(spec)
    stages = range(len(spec.stages)) if spec.stages[1:] else [None]
    for n, stage in enumerate(stages):
        m.feed(frames(spec, 40, Exposure(Illumination.DARK, stage), train=1000 * (n + 1)))
    for n, stage in enumerate(stages):
        flat = Exposure(Illumination.FLAT, stage)
        assert m.feed(frames(spec, 3, flat, level=1500, train=100_000 + 1000 * n)).accepted
    m.feed(frames(spec, 3, SAMPLE0, level=1500, train=200_000))
    if spec.gain == "analogue":
        m.feed(frames(spec, 1, FLAT, level=1500, train=300_000))
    for fit in m.fit_all():
        policy.judge(fit)
    plan = sizes(memory.plan(spec, 1, spec.cells, m.settings))
    plan = {part: size for part, size in plan.items() if "being replaced" not in part}
    assert held(m, policy) == pytest.approx(sum(plan.values()), rel=0.05)


def test_an_exposure_brings_what_its_part_says():
    m, plan = maker(), sizes(memory.plan(TINY, 1, 3, SETTINGS))
    m.feed(frames(n=30))
    value, indicator = (sum(getattr(stats, n).nbytes for n in SUMS) for stats in m.dark.values())
    assert value == plan["dark values, high"]
    assert indicator == plan["dark gain indicator, high"]
    m.feed(frames(n=1, exposure=FLAT0, level=1500, train=3000))
    lit = next(iter(m.lit.values()))
    arrays = ("usual", "total", "count", "judged", "above", "below")
    assert sum(getattr(lit, n).nbytes for n in arrays) == plan["F6, flat, high"]


def test_gate_holds_what_is_planned_of_a_large_and_a_small_frame():
    for shape, asic in (((64, 64), (64, 64)), ((512, 128), (64, 64)), ((64, 65), (64, 65))):
        spec = replace(TINY, module_shape=shape, asic_shape=asic, cells=3)
        gate = maker(spec).darks.gate(0, 0)
        assert sum(a.nbytes for a in gate.state().values()) == 3 * memory.of_gate(spec, SETTINGS)


def test_an_agipd_module_is_planned_below_3_7_gigabytes():
    parts = memory.plan(detector("agipd1m"), 1, 352, Settings())
    assert 2.9e9 < sum(p.size for p in parts if not p.on_top) <= 3.7e9


def test_plan_grows_with_modules_cells_and_buckets():
    def whole(modules, cells, settings=Settings()):
        return sum(p.size for p in memory.plan(TINY, modules, cells, settings))

    assert whole(2, 3) == 2 * whole(1, 3)
    assert whole(1, 6) == 2 * whole(1, 3)
    lit = structs.replace(SETTINGS.features.lit, buckets=16)
    more = structs.replace(Settings(), features=structs.replace(SETTINGS.features, lit=lit))
    assert whole(1, 3, more) > whole(1, 3)


def test_every_part_says_when_it_comes():
    for spec in (TINY, TINY_PACKED, TINY_CALIBRATED, detector("jungfrau4m")):
        parts = memory.plan(spec, 1, spec.cells, SETTINGS)
        assert len(sizes(parts)) == len(parts)
        assert all(p.when and p.size > 0 for p in parts)


def test_nothing_is_allocated_before_frames_come():
    m = maker(detector("agipd1m"), settings=Settings())
    assert sum(a.nbytes for a in m.state().values()) < 1e6
