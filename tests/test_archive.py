"""A maker as arrays by name, and back: it continues identically. And the rehearsal, which leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import makers
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED, TINY_PACKED, TINY_SHIFTING
from makers import DARK, DARK0, FLAT0, SAMPLE0, SETTINGS, frames, maker

from rmm_stream.mask import MapKey
from rmm_stream.rmm import MaskMaker


def fed(spec) -> MaskMaker:
    dark = DARK0 if spec.stages[1:] else DARK
    static = np.zeros(spec.module_shape, bool)
    static[10, 10] = True
    m = maker(spec, exclude={0: static})
    batch = frames(spec, 40, dark)
    batch.pixels[:, 5, 5] += batch.pixels.dtype.type(400)
    m.feed(batch)
    m.feed(frames(spec, 20, SAMPLE0, level=1500, train=3000, time=7.0))
    m.fit_due(1)
    return m


@pytest.mark.parametrize("spec", [TINY, TINY_PACKED, TINY_SHIFTING, TINY_CALIBRATED], ids=lambda s: s.name)
def test_a_restored_maker_continues_identically(spec):
    m = fed(spec)
    state = {name: array.copy() for name, array in m.state().items()}
    kept = MaskMaker.restore(state)
    assert (kept.spec, kept.modules, kept.cells, kept.settings) == (m.spec, m.modules, m.cells, m.settings)
    np.testing.assert_array_equal(kept.mask(0).flags, m.mask(0).flags)
    np.testing.assert_array_equal(kept.mask(0).judged, m.mask(0).judged)
    np.testing.assert_array_equal(kept.flags[MapKey(0, 0, 0)].suspected, m.flags[MapKey(0, 0, 0)].suspected)
    more = [frames(spec, 30, DARK0, train=5000, time=9.0), frames(spec, 20, FLAT0, level=1500, train=6000, time=9.0)]
    more[0].pixels[7] += more[0].pixels.dtype.type(900)  # foreign: the gate must have been kept
    for batch in more:
        assert kept.feed(batch) == m.feed(batch)
    one, two = m.fit_due(9), kept.fit_due(9)
    assert [f.key for f in one] == [f.key for f in two]
    assert [f.flags.tobytes() for f in one] == [f.flags.tobytes() for f in two]
    assert [f[4:] for f in map(_fields, one)] == [f[4:] for f in map(_fields, two)]
    again, twin = kept.state(), m.state()
    assert again.keys() == twin.keys()
    for name, array in twin.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def _fields(fit):
    return (fit.key, fit.flags, fit.doubtful, fit.suspected, fit.judged, fit.frames, fit.train_id, fit.timestamp)


def test_a_state_is_plain_arrays_and_the_restored_maker_owns_its_own():
    m = fed(TINY)
    state = m.state()
    assert all(isinstance(a, np.ndarray) and a.dtype.hasobject is False for a in state.values())
    kept = MaskMaker.restore(state)
    for array in m.state().values():
        if array.flags.writeable and array.dtype != bool:
            array[...] = 0
    assert int(kept.dark[next(iter(kept.dark))].frames[0]) == 40
    assert kept.flags[MapKey(0, 0, 0)].flags.any()


def test_an_empty_maker_has_a_state_too():
    kept = MaskMaker.restore(maker().state())
    assert kept.spec == TINY
    assert kept.settings == SETTINGS
    assert kept.feed(frames()).accepted == 90


def test_a_restored_trial_ends_where_the_first_would_have():
    batch = frames(n=20)
    batch.pixels[9] += np.uint16(300)
    m = maker()
    m.feed(makers.part(batch, np.s_[:30]))
    kept = MaskMaker.restore(m.state())
    assert kept.feed(makers.part(batch, np.s_[30:])) == m.feed(makers.part(batch, np.s_[30:]))
    makers.assert_same_darks(m, kept)


@pytest.mark.parametrize("spec", [TINY, TINY_PACKED, TINY_CALIBRATED], ids=lambda s: s.name)
def test_warm_up_leaves_no_state_behind(spec):
    m = maker(spec)
    before = m.state()
    m.warm_up()
    after = m.state()
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])
    assert not m.dark
    assert not m.news
    assert not m.flags


COMPILES = """
import numpy as np, builders, makers
from dataclasses import replace
from msgspec import structs
from rmm_stream.config import LightSettings
from rmm_stream.rmm.kernels import blocks, frame_gate, light, planes, robust, routing, sums, welford, windows
modules = (blocks, frame_gate, light, planes, robust, routing, sums, welford, windows)
kernels = [k for module in modules for k in vars(module).values() if hasattr(k, "signatures")]
spec = builders.{spec}
m = makers.maker(spec, structs.replace(makers.SETTINGS, light=LightSettings("check", guard_frames=0)))
m.warm_up()
known = {{k: list(k.signatures) for k in kernels}}
held = [makers.Exposure(makers.Illumination.DARK, s) for s in range(len(spec.stages))]
stage = [*held, makers.DARK] if spec.gain != "none" else [makers.DARK]
for exposure in (*stage, makers.FLAT, makers.SAMPLE):
    for cells in ([0], range(spec.cells)):
        n = 140 if exposure in stage and cells == [0] else 30
        batch = makers.frames(spec, n, exposure, cells=cells, level=1000 if exposure in stage else 1500)
        for array in (batch.pixels, batch.gain):
            if array is not None and cells == [0]:  # frames of sockets are read-only, those of files are not
                array.flags.writeable = False
        if batch.gain is not None and exposure is makers.DARK and len(spec.stages) > 1:  # some pixels switch
            switched = batch.gain.copy()
            switched[len(batch) // 2 :, :2] = spec.gain_codes[1] if spec.gain == "code" else makers.LEVELS[1]
            switched.flags.writeable = batch.gain.flags.writeable
            batch = replace(batch, gain=switched)
        assert m.feed(batch).accepted == len(batch)
assert m.feed(makers.frames(spec, 30, makers.SAMPLE, cells=[0])).rejected == {{"no_light": 30}}
assert m.fit_all()
late = {{k.__name__: set(k.signatures) - set(known[k]) for k in kernels if list(k.signatures) != known[k]}}
assert not late, late
"""


@pytest.mark.parametrize("spec", ["TINY", "TINY_PACKED", "TINY_CALIBRATED"])
def test_warm_up_compiles_all_that_received_frames_need(spec):
    """In a process of its own: here other tests have compiled everything."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parent)])
    run = subprocess.run(
        [sys.executable, "-c", COMPILES.format(spec=spec)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
