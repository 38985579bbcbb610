"""MaskMaker, fitting: which maps are due, what their flags say, masks, explanations, restarts."""

from dataclasses import replace

import makers
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED, make_batch
from makers import DARK, DARK0, DARK1, FLAT, FLAT0, SAMPLE0, SETTINGS, bad, frames, maker, part
from msgspec import structs

from rmm_stream.config import Fit, Gate, Settings
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.mask import BadPixel, MapKey
from rmm_stream.rmm import MaskMaker
from rmm_stream.rmm.keys import VALUES, DarkKey

OFFSET, NOISE, SEPARATION, LEVEL, LIT, EDGE, NO_DATA, USER = (int(b) for b in BadPixel)
ONE_CELL = replace(TINY, cells=1)
COUNTING = replace(ONE_CELL, gain="none", stages=("one",), counting=True, saturation=None, name="counts")


def keys(fits):
    return [f.key for f in fits]


# ---- which maps are due ------------------------------------------------------------------------------------------------------


def test_nothing_is_due_before_min_frames_and_nothing_twice():
    m = maker()
    m.feed(frames(n=29))
    assert m.fit_due(10) == m.fit_all() == []
    m.feed(frames(n=1, train=2000))
    every = [MapKey(0, 0, cell) for cell in range(3)]
    assert keys(m.fit_due(2)) == every[:2]
    assert keys(m.fit_due(2)) == every[2:]
    assert m.fit_due(2) == m.fit_all() == []


def test_the_map_with_most_news_is_fitted_first():
    m = maker()
    m.feed(frames(n=40))
    m.fit_all()
    for cell, n in ((0, 3), (1, 9), (2, 5)):
        m.feed(frames(n=n, cells=[cell], train=2000 + 100 * cell))
    assert keys(m.fit_due(2)) == [MapKey(0, 0, 1), MapKey(0, 0, 2)]
    assert keys(m.fit_due(2)) == [MapKey(0, 0, 0)]


def test_a_share_of_new_frames_makes_a_map_due():
    m = maker()
    m.feed(frames(n=40, cells=[0]))
    assert len(m.fit_due(9)) == 1
    m.feed(frames(n=2, cells=[0], train=2000))  # 2 of 42 is below 0.05
    assert m.fit_due(9) == []
    assert keys(m.fit_all()) == [MapKey(0, 0, 0)], "but there is news"
    m.feed(frames(n=3, cells=[0], train=3000))
    assert keys(m.fit_due(9)) == [MapKey(0, 0, 0)]


def test_maps_wait_for_every_s_of_data_time():
    m = maker(settings=structs.replace(SETTINGS, fit=structs.replace(SETTINGS.fit, every_s=10.0)))
    m.feed(frames(n=30, cells=[0], time=100.0))
    assert len(m.fit_due(9)) == 1
    m.feed(frames(n=20, cells=[0], train=2000, time=109.0))
    assert m.fit_due(9) == []
    m.feed(frames(n=1, cells=[0], train=3000, time=110.0))
    assert len(m.fit_due(9)) == 1


def test_a_fit_says_what_is_behind_it():
    m = maker()
    m.feed(frames(n=30, time=5.0))
    fit = m.fit_due(1)[0]
    assert (fit.key, fit.frames, fit.train_id, fit.timestamp) == (MapKey(0, 0, 0), 30, 1029, 5.0)
    assert fit.judged == BadPixel.OFFSET | BadPixel.NOISE | BadPixel.GAIN_LEVEL
    assert fit.flags.dtype == np.uint8
    assert fit.flags.shape == TINY.module_shape


def test_a_fit_of_unchanged_state_gives_identical_bytes():
    m = maker()
    m.feed(frames())
    assert makers.fits(m) == makers.fits(m)


# ---- what is found ------------------------------------------------------------------------------------------------------


def test_dark_defects_are_found_and_nothing_else():
    m, batch = maker(ONE_CELL), frames(ONE_CELL, 60)
    rng = np.random.default_rng(1)
    batch.pixels[:, 5, 5] += 400
    batch.pixels[:, 6, 6] -= 400
    batch.pixels[:, 7, 7] = rng.normal(1000, 80, 60)
    batch.pixels[:, 8, 8] = 1001
    batch.pixels[:, 9, 9] = 16383
    batch.gain[:, 40, 20] += 400
    m.feed(batch)
    found = {(5, 5): OFFSET, (6, 6): OFFSET, (7, 7): NOISE, (8, 8): NOISE, (9, 9): NO_DATA, (40, 20): LEVEL}
    assert bad(m) == found


def test_inseparable_stages_show_on_both_maps():
    m = maker(ONE_CELL)
    for exposure in (DARK0, DARK1):
        batch = frames(ONE_CELL, 40, exposure)
        if exposure == DARK1:
            batch.gain[:, 12, 12] = frames(ONE_CELL, 40, DARK0, seed=4).gain[:, 12, 12]
        m.feed(batch)
    assert bad(m, 0) == {(12, 12): SEPARATION}
    assert bad(m, 1) == {(12, 12): SEPARATION | LEVEL}


def test_separation_is_not_decided_while_a_stage_lacks():
    m = maker(ONE_CELL)
    m.feed(frames(ONE_CELL))
    assert BadPixel.GAIN_SEPARATION not in m.fit(MapKey(0, 0, 0)).judged
    m.feed(frames(ONE_CELL, exposure=DARK1))
    assert BadPixel.GAIN_SEPARATION in m.fit(MapKey(0, 0, 0)).judged


def test_counting_detector_is_quiet_in_the_dark_and_has_no_dead_rule():
    m = maker(COUNTING)
    batch = frames(COUNTING, 40, DARK)
    batch.pixels[...] = np.random.default_rng(2).random(batch.pixels.shape) < 0.01
    batch.pixels[:, 8, 8] = 0
    batch.pixels[:, 9, 9] = 3
    m.feed(batch)
    assert bad(m) == {(9, 9): OFFSET}


def test_calibrated_frames_with_nan_are_judged():
    spec = replace(TINY_CALIBRATED, cells=1)
    m, batch = maker(spec), frames(spec, 40, DARK, level=0.0)
    batch.pixels[:, 4, 4] = np.nan
    batch.pixels[::3, 5, 5] = np.nan
    batch.pixels[:, 6, 6] += 90
    batch.pixels[:, 7, 7] = 0.25
    m.feed(batch)
    assert bad(m) == {(4, 4): NO_DATA, (6, 6): OFFSET, (7, 7): NOISE}
    flat = frames(spec, 40, FLAT, level=50.0, train=3000)
    flat.pixels[:, 4, 4] = np.nan
    flat.pixels[:, 10, 10] += 40
    m.feed(flat)
    assert bad(m) == {(4, 4): NO_DATA, (6, 6): OFFSET, (7, 7): NOISE, (10, 10): LIT}


def lit_maker(exposure, change, spec=ONE_CELL, n=60):
    m = maker(spec)
    m.feed(frames(spec, 40))
    batch = frames(spec, n, exposure, level=1500, sd=30, train=4000)
    change(batch.pixels)
    m.feed(batch)
    return m


def test_a_pixel_that_is_off_all_the_time_is_found_under_light():
    def off(pixels):
        pixels[:, 5, 5] += 150
        pixels[:, 45, 9] -= 150

    for exposure in (FLAT0, SAMPLE0):
        assert bad(lit_maker(exposure, off)) == {(5, 5): LIT, (45, 9): LIT}


def test_a_pixel_that_flickers_is_found_above_and_below():
    def flicker(pixels):
        pixels[::4, 5, 5] += 600
        pixels[::4, 45, 9] -= 600

    assert bad(lit_maker(SAMPLE0, flicker)) == {(5, 5): LIT, (45, 9): LIT}


def test_one_bragg_peak_flags_nothing_on_sample_frames():
    """Some thousand sigma in one of sixty frames: the plain mean, as on a flat exposure, would be shifted by it."""

    def peak(pixels):
        pixels[13, 20, 20] = 15000

    assert bad(lit_maker(SAMPLE0, peak)) == {}
    assert bad(lit_maker(FLAT0, peak)) == {(20, 20): LIT}


def test_lit_frames_give_no_data_to_no_pixel_they_did_not_see():
    def overexposed(pixels):
        pixels[:, 32:] = 16383  # one ASIC is never valid

    m = lit_maker(FLAT0, overexposed)
    assert bad(m) == {}
    assert BadPixel.LIT_SNR in m.fit(MapKey(0, 0, 0)).judged


def test_lit_flags_stay_while_other_exposures_run():
    """Hours of dark frames say nothing of how a pixel behaves under light."""

    def flicker(pixels):
        pixels[::4, 5, 5] += 600

    m = lit_maker(SAMPLE0, flicker)
    m.feed(frames(ONE_CELL, 20, train=9000, time=1e5))
    assert bad(m) == {(5, 5): LIT}
    m.feed(frames(ONE_CELL, 60, SAMPLE0, level=1500, sd=30, train=9100, time=1.1e5))
    assert bad(m) == {}, "but frames of the same exposure replace what is too old"


def test_excluded_pixels_take_no_part_and_are_never_flagged():
    static = np.zeros(TINY.module_shape, bool)
    static[3:9, 3:29] = True
    m, batch = maker(ONE_CELL, exclude={0: static}), frames(ONE_CELL, 40)
    batch.pixels[:, static] = 9000
    batch.pixels[:, TINY.edge()] = 0
    m.feed(batch)
    flat = frames(ONE_CELL, 40, FLAT0, level=1500, train=3000)
    flat.pixels[:, static] = 60
    m.feed(flat)
    assert bad(m) == {}
    verdict = m._verdict(MapKey(0, 0, 0))
    assert len(verdict.maps) == 7
    for seen in verdict.maps:
        assert np.isnan(seen.values[static | TINY.edge()]).all()


# ---- masks, explanations, restarts --------------------------------------------------------------------------------------


def test_mask_holds_the_last_fits_under_the_edge_and_no_data_where_unjudged():
    m, batch = maker(), frames(cells=[0, 2])
    batch.pixels[:, 5, 5] += 400
    m.feed(batch)
    m.fit_all()
    mask = m.mask(0)
    edge = TINY.edge()
    assert mask.flags.shape == (2, 3, *TINY.module_shape)
    assert (mask.flags[:, :, edge] == EDGE).all()
    assert (mask.flags[0, 1][~edge] == NO_DATA).all()
    assert (mask.flags[1][:, ~edge] == NO_DATA).all()
    for cell in (0, 2):
        assert np.argwhere(mask.flags[0, cell] & OFFSET).tolist() == [[5, 5]]
    assert (mask.judged[0] > 0).tolist() == [True, False, True]
    assert mask.frames[0].tolist() == [30, 0, 30]
    assert mask.train_id == 1029
    assert mask.bad()[5, 5]
    assert mask.bad().sum() == edge.sum() + 1


def test_mask_of_a_shard_counts_cells_from_its_first():
    m = maker(cells=range(1, 3))
    m.feed(frames())
    m.fit_all()
    assert m.mask(0).frames.tolist() == [[30, 30], [0, 0]]


def test_explain_shows_why():
    m, batch = maker(ONE_CELL), frames(ONE_CELL, 40)
    batch.pixels[:, 5, 6] += 400
    m.feed(batch)
    why = {e.name: e for e in m.explain(MapKey(0, 0, 0), 5, 6)}
    assert why.keys() == {"offset", "noise", "gain level"}
    offset = why["offset"]
    assert offset.flag == BadPixel.OFFSET
    assert offset.values.shape == offset.snr.shape == (1, 1)
    assert offset.values[0, 0] == pytest.approx(batch.pixels[:, 5, 6].mean())
    assert offset.snr[0, 0] == pytest.approx((offset.values - offset.model)[0, 0] / offset.scale[0, 0])
    assert offset.snr[0, 0] > 8 > abs(why["noise"].snr[0, 0])


def test_restart_drops_one_stage_of_one_exposure():
    m = maker(ONE_CELL)
    for exposure in (DARK0, DARK1, FLAT0, SAMPLE0):
        m.feed(frames(ONE_CELL, exposure=exposure, train=1000))
    lit = dict(m.lit)
    m.restart(DARK1)
    assert {k.gain_stage for k in m.dark} == {0}
    assert {k.gain_stage for k in m.gates} == {0}
    assert m.lit == lit
    m.restart(Exposure(Illumination.FLAT))
    assert {k.illumination for k in m.lit} == {Illumination.SAMPLE}
    m.restart(Exposure(Illumination.DARK))
    assert not m.dark
    assert not m.gates


def test_after_a_restart_only_new_frames_count():
    m, old = maker(ONE_CELL), frames(ONE_CELL, 40)
    old.pixels[:, 5, 5] += 400
    m.feed(old)
    assert bad(m) == {(5, 5): OFFSET}
    m.restart(DARK0)
    m.feed(frames(ONE_CELL, 40, train=3000))
    assert bad(m) == {}
    assert m.dark[DarkKey(0, VALUES, 0)].frames[0] == 40


def test_offsets_follow_the_darks():
    """A restarted dark of as many frames must not leave the old offset in use."""
    m = maker(ONE_CELL, settings=structs.replace(SETTINGS, fit=Fit(min_frames=20)))
    m.feed(frames(ONE_CELL, 20))
    m.fold()
    first = m.segments.offset(0, 0, 0)
    m.restart(DARK0)
    m.feed(part(frames(ONE_CELL, 20, level=3000, train=2000), np.s_[:]))
    m.fold()
    assert np.nanmean(m.segments.offset(0, 0, 0) - first) == pytest.approx(2000, abs=5)
    assert np.isnan(first[TINY.edge()]).all()


def test_the_dark_of_an_adjacent_stage_is_news_for_gain_separation():
    """A map that was fitted before the dark of the next stage came is fitted again, or F4 would stay undecided on it."""
    settings = Settings(gate=Gate(learn=20), fit=Fit(tile=(32, 32), min_frames=20))
    m = MaskMaker(TINY, settings=settings)
    for stage in (0, 1):
        for train in range(20):
            batch = make_batch(TINY, train_id=100 * stage + train, exposure=Exposure(Illumination.DARK, stage))
            m.feed(replace(batch, gain=batch.gain + np.uint16(3000 * stage)))
        fits = m.fit_due(limit=100)
    judged = {fit.key.gain_stage: fit.judged for fit in fits}
    assert judged[0] & BadPixel.GAIN_SEPARATION
    assert judged[1] & BadPixel.GAIN_SEPARATION
    assert m.fit_due(limit=100) == []


def test_a_frame_with_a_foreign_gain_indicator_is_gated():
    """Its values are good; but one such frame would widen the bands of F4 for every pixel."""
    m = maker(ONE_CELL)
    m.feed(frames(ONE_CELL, 60, DARK1))
    dark = frames(ONE_CELL, 61)
    dark.gain[45] = 16000
    assert m.feed(dark).rejected == {"gated": 1}
    assert bad(m) == bad(m, stage=1) == {}


def test_a_pixel_that_begins_to_stand_out_makes_its_map_due_at_once():
    m = maker(ONE_CELL)
    m.feed(frames(ONE_CELL, 40))
    flat = frames(ONE_CELL, 400, FLAT0, level=1500, train=3000)
    m.feed(flat)
    m.fit_all()
    later = frames(ONE_CELL, 16, FLAT0, level=1500, train=4000)
    m.feed(later)
    assert m.due() == [], "16 of 400 frames are no news"
    m.fit_all()
    later = frames(ONE_CELL, 16, FLAT0, level=1500, train=5000)
    later.pixels[:, 12, 9] += 900
    m.feed(later)
    assert m.due() == [MapKey(0, 0, 0)]
    assert m.refresh(MapKey(0, 0, 0)).flags[12, 9] == LIT
    m.feed(frames(ONE_CELL, 16, FLAT0, level=1500, train=6000))
    assert m.due() == [], "what is flagged is not looked for again"
