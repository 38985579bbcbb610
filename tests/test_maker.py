"""MaskMaker, feeding: what is accumulated and what is refused; stream == batch == shards == merged makers."""

from dataclasses import replace

import makers
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED, TINY_PACKED
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import DARK, DARK0, DARK1, FLAT, FLAT0, SAMPLE0, UNKNOWN, frames, maker, part
from msgspec import structs

from rmm_stream.errors import ConfigError, DataError
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.mask import BadPixel, MapKey
from rmm_stream.rmm import MaskMaker
from rmm_stream.rmm.keys import INDICATORS, VALUES, DarkKey, LitKey

ONE_CELL = replace(TINY, cells=1)
CONFIGURED = replace(TINY, gain_thresholds=(5500.0,))


def counts(m, stage=0, cell=0, quantity=VALUES, module=0):
    stats = m.dark.get(DarkKey(module, quantity, stage))
    return 0 if stats is None else int(stats.frames[cell])


# ---- laws -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000))
def test_stream_is_batch_is_shuffled_batches_is_shards(seed):
    rng = np.random.default_rng(seed)
    darks = [frames(exposure=e, n=34, seed=seed, train=t) for e, t in ((DARK0, 1000), (DARK1, 2000))]
    darks[0].pixels[rng.random(darks[0].pixels.shape) < 0.01] = 16383  # saturated here and there
    darks[0].pixels[:, 9, 9] = 1003  # dead
    whole, live, shuffled = (maker() for _ in range(3))
    shards = [maker(cells=range(0, 1)), maker(cells=range(1, 3))]
    for batch in darks:
        assert whole.feed(batch).accepted == len(batch)
        makers.one_by_one(live, batch)
        pieces = np.split(np.arange(len(batch)), np.sort(rng.integers(0, len(batch), 5)))
        for piece in (pieces[i] for i in rng.permutation(len(pieces))):
            shuffled.feed(part(batch, rng.permutation(piece)))
        for shard in shards:
            shard.feed(batch)
    expected = makers.fits(whole)
    assert any(any(flags) for flags in expected.values())
    for other in (live, shuffled):
        makers.assert_same_darks(whole, other)
        assert makers.fits(other) == expected
    for shard in shards:
        makers.assert_same_darks(shard, whole, shard.cells)
        assert makers.fits(shard) == {k: v for k, v in expected.items() if k.cell in shard.cells}


@pytest.mark.parametrize("spec", [TINY, TINY_PACKED, TINY_CALIBRATED], ids=lambda s: s.name)
def test_merged_makers_are_one(spec):
    stage = Exposure(Illumination.DARK, 0 if spec.stages[1:] else None)
    batch = frames(spec, 40, stage)
    whole, one, two = (maker(spec, gate=False) for _ in range(3))
    whole.feed(batch)
    for m, piece in ((one, np.s_[::2]), (two, np.s_[1::2])):
        m.feed(part(batch, piece))
    other_way = MaskMaker.restore(two.state())
    other_way.merge(one)
    one.merge(two)
    for merged in (one, other_way):
        assert counts(merged) == counts(whole) == 40
        if spec.exact:
            makers.assert_same_darks(merged, whole)
            assert makers.fits(merged) == makers.fits(whole)
        else:
            a, b = (m.dark[DarkKey(0, VALUES, 0)].moments(0) for m in (merged, whole))
            np.testing.assert_allclose(a.mean, b.mean, atol=1e-7)
            np.testing.assert_allclose(a.m2, b.m2, rtol=1e-9)
    assert one.news.keys() == whole.news.keys()
    assert one.news[MapKey(0, 0, 0)].frames == whole.news[MapKey(0, 0, 0)].frames


@pytest.mark.parametrize("exposure", [FLAT0, SAMPLE0])
def test_merged_windows_count_what_one_maker_counts(exposure):
    start = maker()
    start.feed(frames())
    lit = frames(exposure=exposure, n=24, level=1500, sd=30, train=3000)
    lit.pixels[::3, 20, 20] += 900
    whole, live, one, two = (MaskMaker.restore(start.state()) for _ in range(4))
    whole.feed(lit)
    makers.one_by_one(live, lit)
    makers.assert_same_windows(whole, live)
    for m, piece in ((one, np.s_[:30]), (two, np.s_[30:])):
        m.dark.update(start.dark)
        m.feed(part(lit, piece))
    assert one.lit.keys() == {LitKey(0, exposure.illumination, 0)}
    one.dark.clear()
    one.merge(two)
    makers.assert_same_windows(one, whole)


def test_merge_takes_what_only_the_other_has_and_leaves_it_alone():
    one, two = maker(), maker()
    two.feed(frames(exposure=DARK1))
    one.merge(two)
    makers.assert_same_darks(one, two)
    one.feed(frames(exposure=DARK1, train=5000))
    assert counts(two, 1) == 30
    assert counts(one, 1) == 60


@pytest.mark.parametrize(
    "other",
    [
        lambda: maker(TINY_PACKED),
        lambda: maker(replace(TINY, name="other")),
        lambda: maker(modules=(1,)),
        lambda: maker(cells=range(2)),
    ],
)
def test_merge_of_unlike_makers_is_refused(other):
    with pytest.raises(ConfigError, match=r"only makers of the same (spec|modules|cells) can be merged"):
        maker().merge(other())


def test_values_of_all_stages_add_up_to_the_valid_ones():
    spec = replace(CONFIGURED, cells=1)
    m, batch = maker(spec, gate=False), frames(spec, 12, DARK)
    rng = np.random.default_rng(1)
    batch.gain[rng.random(batch.gain.shape) < 0.2] = 7000
    batch.pixels[rng.random(batch.pixels.shape) < 0.1] = 16383
    m.feed(batch)
    n = sum(m.dark[DarkKey(0, VALUES, s)].moments(0).count for s in (0, 1))
    np.testing.assert_array_equal(n, (batch.pixels < 16383).sum(0))
    high = m.dark[DarkKey(0, INDICATORS, 1)].moments(0).count
    np.testing.assert_array_equal(high, (batch.gain > 5500).sum(0))


# ---- gain ------------------------------------------------------------------------------------------------------------------


def test_free_running_frames_without_thresholds_are_rejected():
    m, batch = maker(), frames(exposure=DARK, n=4)
    assert m.feed(batch) == (0, {"no_gain_thresholds": 12})
    m.feed(frames(exposure=DARK0))
    assert m.feed(batch).rejected == {"no_gain_thresholds": 12}, "the dark of stage 1 lacks still"
    assert maker().feed(part(batch, np.s_[:], gain=None)).rejected == {"no_gain_thresholds": 12}


def test_free_running_frames_are_cut_at_the_configured_thresholds():
    m = maker(CONFIGURED)
    assert m.feed(frames(exposure=DARK, n=4, indicator=7000)).accepted == 12
    assert m.dark.keys() == {DarkKey(0, VALUES, 1), DarkKey(0, INDICATORS, 1)}


def test_free_running_frames_are_cut_at_the_darks_once_every_stage_has_one():
    m = maker()
    for exposure in (DARK0, DARK1):
        m.feed(frames(exposure=exposure))
    flat = frames(exposure=FLAT, n=10, level=1500, indicator=7000, train=3000)
    assert m.feed(flat).accepted == 30
    assert m.lit.keys() == {LitKey(0, Illumination.FLAT, 1)}
    flat.gain[:, :32] = 4000  # the tiles of one ASIC in stage 0, of the other in stage 1
    assert m.feed(flat).accepted == 30
    judged = m.lit[LitKey(0, Illumination.FLAT, 0)].mean(0, 0.0)[1]
    assert judged[:32].max() == 10
    assert not judged[32:].any()


def test_a_code_that_contradicts_the_held_stage_leaves_the_value_out():
    m, batch = maker(TINY_PACKED), frames(TINY_PACKED, 30)
    batch.gain[:, 5, 5], batch.gain[:10, 6, 6] = 3, 2
    m.feed(batch)
    n = m.dark[DarkKey(0, VALUES, 0)].moments(0).count
    assert (n[5, 5], n[6, 6], n[7, 7]) == (0, 20, 30)
    assert (m.dark[DarkKey(0, INDICATORS, 0)].moments(0).count == 30).all()
    assert makers.bad(m) == {(5, 5): BadPixel.NO_DATA | BadPixel.GAIN_LEVEL}


def test_an_invalid_code_in_a_free_exposure_belongs_nowhere():
    m, batch = maker(TINY_PACKED), frames(TINY_PACKED, 30, DARK)
    batch.gain[:, 5, 5], batch.gain[:, 6, 6] = 2, 1
    m.feed(batch)
    n = {s: m.dark[DarkKey(0, VALUES, s)].moments(0).count for s in (0, 1)}
    assert [int(n[s][p]) for s in (0, 1) for p in ((5, 5), (6, 6), (7, 7))] == [0, 0, 30, 0, 30, 0]


# ---- refusals --------------------------------------------------------------------------------------------------------------


def test_frames_that_are_not_data_are_counted_by_reason():
    batch = frames(n=2)
    batch.complete[:2] = False
    batch.pixels[2] = 16383
    assert maker().feed(batch) == (3, {"incomplete": 2, "no_valid_pixel": 1})
    assert maker().feed(part(batch, np.s_[:], exposure=UNKNOWN)).rejected == {"incomplete": 2, "unknown_exposure": 4}


def test_unknown_exposures_change_nothing():
    m = maker()
    m.feed(frames(exposure=UNKNOWN))
    assert not m.dark
    assert not m.lit
    assert m.fit_all() == []


def test_lit_frames_wait_for_a_dark_offset_of_their_stage():
    m, flat = maker(), frames(exposure=FLAT0, n=5)
    assert m.feed(flat) == (0, {"no_offset": 15})
    m.feed(frames(n=29))
    assert m.feed(flat).rejected == {"no_offset": 15}
    m.feed(frames(n=1, train=2000))
    assert m.feed(flat) == (15, {})
    assert m.feed(part(flat, np.s_[:], exposure=Exposure(Illumination.FLAT, 1))).rejected == {"no_offset": 15}


def test_calibrated_lit_frames_need_no_dark():
    m = maker(TINY_CALIBRATED)
    assert m.feed(frames(TINY_CALIBRATED, 5, FLAT)) == (15, {})


def test_cells_of_other_shards_are_passed_over():
    m = maker(cells=range(1, 2))
    assert m.feed(frames(n=4)) == (4, {})
    assert m.news.keys() == {MapKey(0, 0, 1)}


def test_f6_takes_of_each_cell_one_train_in_so_many_and_of_each_train_the_same_number_of_cells():
    lit = structs.replace(makers.SETTINGS.features.lit, every_train=3)
    chosen = structs.replace(makers.SETTINGS, features=structs.replace(makers.SETTINGS.features, lit=lit))
    m = maker(settings=chosen)
    m.feed(frames())
    fed = m.feed(frames(exposure=FLAT0, n=40, train=3000))
    assert fed.rejected == {}
    assert fed.accepted == 40, "one of the three cells of each train"
    judged = m.lit[LitKey(0, Illumination.FLAT, 0)].frames
    assert judged.sum() == 40
    assert judged.min() >= 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: part(b, np.s_[:], module=1), "module 1"),
        (lambda b: part(b, np.s_[:], pixels=b.pixels[:, :32]), "pixels"),
        (lambda b: part(b, np.s_[:], pixels=b.pixels.astype(np.uint32)), "uint32"),
        (lambda b: part(b, np.s_[:], pixels=b.pixels.astype(np.float32)), "float32"),
        (lambda b: part(b, np.s_[:], gain=b.gain[:1]), "gain indicator"),
        (lambda b: part(b, np.s_[:], gain=b.gain.astype(np.float32)), "gain indicator"),
        (lambda b: part(b, np.s_[:], cell=b.cell[:1]), "one entry"),
        (lambda b: part(b, np.s_[:], exposure=None), "exposure"),
    ],
)
def test_frames_of_another_detector_are_a_data_error_and_change_nothing(change, says):
    m = maker()
    with pytest.raises(DataError, match=says):
        m.feed(change(frames(n=2)))
    assert not m.dark
    assert not m.news


def test_read_only_and_sliced_frames_are_taken():
    batch = frames(n=4)
    expected, m = maker(), maker()
    expected.feed(batch)
    double = part(batch, np.s_[:], pixels=np.repeat(batch.pixels, 2, axis=0)[::2])  # not contiguous
    for a in (double.pixels, double.gain):
        a.flags.writeable = False
    m.feed(double)
    makers.assert_same_darks(expected, m)


# ---- F1 --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feed", [MaskMaker.feed, makers.one_by_one])
@pytest.mark.parametrize("at", [0, 7, 19])
def test_a_foreign_frame_during_the_trial_starts_the_cell_again(feed, at):
    m, batch = maker(ONE_CELL), frames(ONE_CELL, 30)
    batch.pixels[at] += np.uint16(300)
    feed(m, batch)
    assert counts(m) == counts(m, quantity=INDICATORS) == 10
    clean = maker(ONE_CELL, gate=False)
    clean.feed(part(batch, np.s_[20:]))
    makers.assert_same_darks(m, clean)


def test_the_trial_of_one_cell_is_no_matter_of_another():
    m, batch = maker(), frames(n=20)
    batch.pixels[3 * 5 + 1] += np.uint16(300)  # train 5, cell 1
    fed = m.feed(batch)
    assert [counts(m, cell=c) for c in range(3)] == [20, 0, 20]
    assert fed == (40, {"gated": 20})


def test_a_foreign_frame_after_the_trial_is_gated():
    m, batch = maker(ONE_CELL), frames(ONE_CELL, 40)
    batch.pixels[[25, 33]] += np.uint16(300)
    assert m.feed(batch) == (38, {"gated": 2})
    clean = maker(ONE_CELL, gate=False)
    clean.feed(part(batch, np.delete(np.arange(40), [25, 33])))
    makers.assert_same_darks(m, clean)


def test_a_real_step_does_not_lock_the_gate_for_good():
    m = maker(ONE_CELL)
    m.feed(frames(ONE_CELL, 60))
    after = m.feed(frames(ONE_CELL, 100, level=1080, train=5000))
    assert after.rejected["gated"] >= 20
    assert after.accepted >= 40


def test_without_the_gate_all_frames_count():
    m, batch = maker(ONE_CELL, gate=False), frames(ONE_CELL, 40)
    batch.pixels[::5] += np.uint16(300)
    assert m.feed(batch) == (40, {})


def test_lit_frames_are_not_gated():
    m = maker(ONE_CELL)
    m.feed(frames(ONE_CELL))
    flat = frames(ONE_CELL, 30, FLAT0, train=4000)
    flat.pixels[::2] += np.uint16(2000)
    assert m.feed(flat) == (30, {})


def test_a_held_dark_that_lacks_its_indicator_now_and_then_is_accumulated():
    m, batch = maker(), frames(n=20)
    for t in range(0, len(batch), 3):
        here = part(batch, np.arange(t, t + 3))
        m.feed(replace(here, gain=None) if t % 2 else here)
    values, indicators = (m.dark[DarkKey(0, quantity, 0)] for quantity in (VALUES, INDICATORS))
    assert values.moments(0).count.max() == 20
    assert indicators.moments(0).count.max() == indicators.frames[0] == 10


def test_a_stream_may_send_its_indicator_as_bytes_now_and_as_words_then():
    m, batch = maker(), frames(n=20, indicator=100)
    for t in range(0, len(batch), 3):
        here = part(batch, np.arange(t, t + 3))
        m.feed(replace(here, gain=here.gain.astype(np.uint8)) if t % 2 else here)
    assert m.dark[DarkKey(0, INDICATORS, 0)].moments(0).count.max() == 20


def test_darks_held_in_a_stage_that_no_code_names_are_no_darks_of_it():
    m, batch = maker(TINY_PACKED), frames(TINY_PACKED, 8, exposure=DARK0)
    fed = m.feed(replace(batch, exposure=DARK1))
    assert (fed.accepted, fed.rejected) == (0, {"no_valid_pixel": 8})


def test_looking_at_a_maker_does_not_change_what_comes_of_it():
    """Freely switching darks near their thresholds: these do not move while the stretch of darks goes on."""
    makers_ = [maker(gate=False) for _ in range(2)]
    for m in makers_:
        for stage, exposure in enumerate((DARK0, DARK1)):
            m.feed(frames(n=32, exposure=exposure, train=1000 * stage + 1000))
    for n in range(20):
        free = frames(n=2, exposure=DARK, train=5000 + 10 * n, indicator=5500)
        for look, m in enumerate(makers_):
            m.feed(free)
            if look and n % 3 == 0:
                m.state()
    makers.assert_same_darks(*makers_)


def test_what_is_held_is_bounded_though_cells_come_rarely():
    m = maker(TINY, gate=False)
    for train in range(60):
        m.feed(frames(n=1, cells=[0] if train else [0, 1], train=train + 1))
    waiting = {id(w.batch) for cells in m.darks._waiting.values() for frames_ in cells.values() for w in frames_}
    assert len(waiting) <= 9
    assert m.segments.dark[DarkKey(0, VALUES, 0)].frames[1] == 1


def test_a_block_that_is_not_full_is_in_no_stage_that_it_has_not_seen():
    spec = replace(TINY, stages=("a", "b", "c"), gain_thresholds=(5000.0, 8000.0))
    m, batch = maker(spec, gate=False), frames(spec, 3, exposure=DARK, cells=[0], indicator=4000)
    batch.gain[1, 5, 5] = 6000
    m.feed(batch)
    assert {key.gain_stage for key in m.dark} == {0, 1}
