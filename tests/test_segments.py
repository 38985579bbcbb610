"""Segments: what goes on speaking after a restart, a pause, or a wrong clock, and what may be merged."""

from dataclasses import replace

import numpy as np
import pytest
from builders import NOW, TINY, TINY_CALIBRATED, TINY_PACKED
from makers import DARK0, DARK1, FLAT, SAMPLE0, SETTINGS, assert_same_windows, bad, frames, maker, part
from msgspec import structs

from rmm_stream.config import Gate, Policy
from rmm_stream.errors import ConfigError, DataError
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.mask import BadPixel, MapKey
from rmm_stream.policy import MaskPolicy
from rmm_stream.rmm import MaskMaker
from rmm_stream.rmm.keys import VALUES, DarkKey, GateKey

ONE_CELL = replace(TINY, cells=1)
KEY = MapKey(0, 0, 0)
OFFSET, NOISE, LIT, NO_DATA = (int(b) for b in (BadPixel.OFFSET, BadPixel.NOISE, BadPixel.LIT_SNR, BadPixel.NO_DATA))


def at(batch, timestamp):
    return replace(batch, timestamp=timestamp)


def sample(n, train, hot=(20, 20)):
    batch = frames(ONE_CELL, n, SAMPLE0, level=1500, sd=30, train=train)
    if hot:
        batch.pixels[:, hot[0], hot[1]] += 900
    return batch


def feed_one_by_one(m, batch, start, step=0.1):
    for t in range(len(batch)):
        m.feed(at(part(batch, [t]), start + step * t))


# ---- time ---------------------------------------------------------------------------------------------------------------


def test_one_frame_with_a_wrong_time_does_not_blind_f6():
    m = maker(ONE_CELL)
    m.feed(frames(ONE_CELL, 40))
    feed_one_by_one(m, sample(40, 2000), NOW)
    assert bad(m)[20, 20] == LIT
    m.feed(at(sample(1, 3000), NOW + 5e9))
    feed_one_by_one(m, sample(40, 4000), NOW + 4)
    assert bad(m)[20, 20] == LIT
    assert m.fit(KEY).timestamp < NOW + 100
    assert m.fit(KEY).train_id < 5000


def test_fits_go_on_after_a_frame_with_a_wrong_time():
    m = maker(ONE_CELL, settings=structs.replace(SETTINGS, fit=structs.replace(SETTINGS.fit, every_s=1.0)))
    m.feed(at(frames(ONE_CELL, 40), NOW))
    assert m.fit_due(1)
    m.feed(at(frames(ONE_CELL, 40, train=2000), NOW + 5e9))
    assert m.fit_due(1)
    m.feed(at(frames(ONE_CELL, 40, train=3000), NOW + 2))
    assert m.fit_due(1)


def test_after_a_long_pause_f6_is_silent_and_the_policy_keeps_what_it_said():
    m, policy = maker(ONE_CELL), MaskPolicy(ONE_CELL, settings=Policy(clear_after=1))
    m.feed(frames(ONE_CELL, 40))
    feed_one_by_one(m, sample(40, 2000), NOW)
    policy.judge(m.fit(KEY))
    assert policy.mask(0).flags[0, 0, 20, 20] == LIT
    feed_one_by_one(m, sample(10, 3000), NOW + 10_000)
    fit = m.fit(KEY)
    assert not fit.judged & BadPixel.LIT_SNR
    assert policy.judge(fit) is None
    assert policy.mask(0).flags[0, 0, 20, 20] == LIT
    assert policy.mask(0).judged[0, 0] & BadPixel.LIT_SNR
    feed_one_by_one(m, sample(40, 4000, hot=None), NOW + 10_010)
    feed_one_by_one(m, sample(400, 5000, hot=None), NOW + 20_000)
    policy.judge(m.fit(KEY))
    assert policy.mask(0).flags[0, 0, 20, 20] == 0


# ---- restart ------------------------------------------------------------------------------------------------------------


def test_replaced_darks_speak_until_their_successors_can():
    m, old = maker(ONE_CELL), frames(ONE_CELL, 40)
    old.pixels[:, 5, 5] += 400
    old.pixels[:, 7, 7] = 1234
    m.feed(old)
    m.restart(DARK0)
    few = frames(ONE_CELL, 29, level=1100, train=3000)
    m.feed(few)
    assert bad(m) == {(5, 5): OFFSET, (7, 7): OFFSET | NOISE}
    assert m.feed(sample(1, 3500)).accepted == 1, "F6 goes on with the old offset"
    m.feed(frames(ONE_CELL, 1, level=1100, train=3100))
    assert bad(m) == {}
    assert m.segments.old_dark == {}
    assert m.dark[DarkKey(0, VALUES, 0)].frames[0] == 30


def test_replaced_darks_are_dropped_though_some_cells_never_came():
    m = maker()
    m.feed(frames(n=40, cells=(0, 1)))
    m.restart(DARK0)
    m.feed(frames(n=30, cells=(0,), train=3000))
    assert m.segments.old_dark, "cell 1 still speaks through them"
    m.feed(frames(n=30, cells=(1,), train=4000))
    m.fold()
    assert m.segments.old_dark == {}


def test_darks_that_never_spoke_are_dropped_at_once():
    m = maker(ONE_CELL)
    m.feed(frames(ONE_CELL, 10))
    m.restart(DARK0)
    assert m.dark == {}
    assert m.segments.old_dark == {}


def test_a_restart_of_one_stage_leaves_the_others():
    m = maker(ONE_CELL)
    for stage, exposure in enumerate((DARK0, DARK1)):
        m.feed(frames(ONE_CELL, 40, exposure, train=1000 * stage))
    m.restart(DARK1)
    assert {key.gain_stage for key in m.dark} == {0}
    assert {key.gain_stage for key in m.segments.old_dark} == {1}


# ---- pixels that F6 cannot see ----------------------------------------------------------------------------------------------


def test_a_hot_pixel_beside_one_without_data_is_no_spot():
    m = maker(ONE_CELL)
    dark, lit = frames(ONE_CELL, 40), sample(40, 2000)
    dark.pixels[:, 20, 21] = lit.pixels[:, 20, 21] = 16383
    m.feed(dark)
    m.feed(lit)
    assert bad(m) == {(20, 20): LIT, (20, 21): NO_DATA}


def test_a_lit_tile_that_can_never_be_fitted_has_no_data():
    spec = replace(TINY_CALIBRATED, cells=1)
    m = maker(spec)
    lit = frames(spec, 40, FLAT, level=100, sd=3)
    lit.pixels[:, :32, :] = 7.0
    lit.pixels[:, 50, 20] = np.nan
    m.feed(lit)
    flags = m.fit(KEY).flags
    inside = ~spec.edge()
    assert (flags[:32][inside[:32]] == NO_DATA).all()
    assert flags[50, 20] == NO_DATA
    assert (flags[32:] != 0).sum() == 1


def test_frames_whose_stage_nothing_tells_are_refused():
    packed = frames(TINY_PACKED, 5, Exposure(Illumination.DARK))
    fed = maker(TINY_PACKED).feed(replace(packed, gain=None))
    assert (fed.accepted, fed.rejected) == (0, {"no_gain_thresholds": 5})


# ---- merge, state -----------------------------------------------------------------------------------------------------------


def test_makers_of_other_settings_or_pixels_are_refused_and_nothing_changes():
    one = maker(ONE_CELL)
    one.feed(frames(ONE_CELL, 40))
    lit = structs.replace(SETTINGS.features.lit, buckets=4)
    other = structs.replace(SETTINGS, features=structs.replace(SETTINGS.features, lit=lit))
    hidden = {0: np.ones(ONE_CELL.module_shape, bool)}
    for two in (maker(ONE_CELL, settings=other), MaskMaker(ONE_CELL, [0], None, SETTINGS, exclude=hidden)):
        two.feed(frames(ONE_CELL, 40))
        with pytest.raises(ConfigError, match="only makers"):
            one.merge(two)
    assert one.dark[DarkKey(0, VALUES, 0)].frames[0] == 40


def test_makers_with_frames_on_trial_are_refused():
    settings = structs.replace(SETTINGS, gate=Gate(learn=50, history=100))
    one, two = maker(ONE_CELL, settings=settings), maker(ONE_CELL, settings=settings)
    one.feed(frames(ONE_CELL, 60))
    two.feed(frames(ONE_CELL, 49))
    with pytest.raises(ConfigError, match="on trial: feed 50"):
        one.merge(two)


def test_a_merged_dark_is_news_for_the_stages_beside_it():
    one, two = maker(ONE_CELL), maker(ONE_CELL)
    one.feed(frames(ONE_CELL, 40))
    one.fit_all()
    two.feed(frames(ONE_CELL, 40, DARK1))
    one.merge(two)
    judged = {fit.key.gain_stage: fit.judged for fit in one.fit_all()}
    assert judged[0] & judged[1] & BadPixel.GAIN_SEPARATION


def test_windows_of_shards_that_turned_at_other_times_are_joined_by_age():
    lit = structs.replace(SETTINGS.features.lit, span_frames=64)  # a bucket of 8 frames
    settings = structs.replace(SETTINGS, features=structs.replace(SETTINGS.features, lit=lit))
    start = maker(ONE_CELL, settings=settings)
    start.feed(frames(ONE_CELL, 40))
    whole, one, two = (MaskMaker.restore(start.state()) for _ in range(3))
    batch = sample(40, 2000)
    feed_one_by_one(whole, batch, NOW)
    feed_one_by_one(one, part(batch, np.s_[:26]), NOW)
    feed_one_by_one(two, part(batch, np.s_[26:]), NOW + 2.6)
    one.dark.clear()
    one.merge(two)
    assert_same_windows(one, whole)
    feed_one_by_one(one, sample(9, 3000), NOW + 5)
    key = next(iter(one.lit))
    assert one.lit[key].window(0, NOW + 6).judged[20, 20] == 49, "no recent count is overwritten"


def test_a_state_does_not_change_while_its_maker_goes_on():
    m = maker(ONE_CELL)
    m.feed(frames(ONE_CELL, 40))
    state = m.state()
    m.feed(frames(ONE_CELL, 20, train=3000))
    restored = MaskMaker.restore(state)
    assert restored.dark[DarkKey(0, VALUES, 0)].frames[0] == 40
    assert restored.gates[GateKey(0, 0)].series["values"].count[0, 0] == 40


@pytest.mark.parametrize("cells", [range(0, 3, 2), range(0), range(2, 9)])
def test_cells_that_are_no_part_of_the_detector_are_refused(cells):
    with pytest.raises(ConfigError, match="cells"):
        MaskMaker(TINY, [0], cells)


@pytest.mark.parametrize("modules", [[], [2], [0, 0]])
def test_modules_that_are_no_part_of_the_detector_are_refused(modules):
    with pytest.raises(ConfigError, match="modules"):
        MaskMaker(TINY, modules)


def test_a_maker_is_not_merged_with_itself():
    m = maker(ONE_CELL)
    with pytest.raises(ConfigError, match="with itself"):
        m.merge(m)


def test_what_is_no_state_is_refused():
    with pytest.raises(DataError, match="lacks cells, gated"):
        MaskMaker.restore({"spec": np.zeros(1)})
