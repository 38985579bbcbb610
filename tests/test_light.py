"""Dark and lit frames told apart, frame by frame: darks take in no lit frame, lit statistics no dark one, doubt is counted."""

from dataclasses import replace

import makers
import naive
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED, TINY_PACKED
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import same_moments
from makers import (
    DARK,
    DARK0,
    DARK1,
    FLAT,
    FLAT0,
    SAMPLE,
    SAMPLE0,
    SETTINGS,
    UNKNOWN,
    assert_same_darks,
    fits,
    frames,
    maker,
    part,
)  # fmt: skip
from msgspec import structs

from rmm_stream.config import LightSettings
from rmm_stream.detectors import DetectorSpec
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.rmm import MaskMaker
from rmm_stream.rmm.dark_look import DARK as LOOKS_DARK
from rmm_stream.rmm.dark_look import DOUBTFUL, LIT, SILENT, one_of_each_cell
from rmm_stream.rmm.kernels.compiled import read_only
from rmm_stream.rmm.kernels.light import bright_shares
from rmm_stream.rmm.light import LEAST_LIT, STRETCH, Guard, Seen, Words
from rmm_stream.rmm.memory import of_look

ONE_CELL = replace(TINY, name="one", modules=1, cells=1, module_shape=(32, 32), stages=("high",), gain="none")
COUNTER = replace(ONE_CELL, counting=True, saturation=None)


def told(classify: str = "check", guard_frames: int | None = 0):
    """The settings of all makers here, with a classifier."""
    return structs.replace(SETTINGS, light=LightSettings(classify, guard_frames=guard_frames))


def declared(batch: FrameBatch, exposure: Exposure) -> FrameBatch:
    return replace(batch, exposure=exposure, labelled_by="config")


def mixed(
    spec, dark: np.ndarray, exposure, *, train=2000, time=5.0, seed=0, lit=1300.0
) -> tuple[FrameBatch, np.ndarray]:
    """Trains in which the frames `dark`, (trains, cells) bool, have no light; declared as `exposure`. And (n,) bool, which."""
    n, which = len(dark), dark.reshape(-1)
    batch = frames(spec, n, exposure, train=train, level=lit, sd=14.0, time=time, seed=seed)
    none = frames(spec, n, exposure, train=train, time=time, seed=seed + 1000)
    batch.pixels[which] = none.pixels[which]
    return batch, which


def same_lit(one: MaskMaker, two: MaskMaker) -> None:
    """F6's sums, windows and fits, bit for bit."""
    assert one.lit.keys() == two.lit.keys()
    for key, stats in one.lit.items():
        for (name, a), b in zip(stats.state().items(), two.lit[key].state().values()):
            np.testing.assert_array_equal(a, b, err_msg=f"{key} {name}")


#: So many that those found within light move no offset, which would move the lit sums beside them.
MANY = ((DARK0, 600),)


def learnt(spec=TINY, classify="check", guard_frames=0, darks=((DARK0, 140),), **keywords) -> MaskMaker:
    """A maker that has seen declared darks."""
    m = maker(spec, told(classify, guard_frames), **keywords)
    for number, (exposure, n) in enumerate(darks):
        fed = m.feed(frames(spec, n, exposure, train=10_000 * (number + 1)))
        assert fed.accepted == n * spec.cells, "darks are darks"
    return m


def plain(darks=((DARK0, 140),), spec=TINY) -> MaskMaker:
    """The same without a classifier."""
    m = maker(spec)
    for number, (exposure, n) in enumerate(darks):
        m.feed(frames(spec, n, exposure, train=10_000 * (number + 1)))
    return m


FREE = ((DARK0, 140), (DARK1, 140))
CODES = tuple((Exposure(Illumination.DARK, stage), 140) for stage in range(3))
EACH = pytest.mark.parametrize(
    ("spec", "darks", "exposure", "dark"),
    [
        (TINY, ((DARK0, 140),), SAMPLE0, DARK0),
        (TINY, FREE, SAMPLE, DARK),
        (TINY_PACKED, CODES, FLAT, DARK),
    ],
    ids=["held", "free", "code"],
)


# ---- dark frames within light ----------------------------------------------------------------------------------------------


@EACH
def test_one_frame_in_a_hundred_is_dark_and_only_the_classifier_knows(spec, darks, exposure, dark):
    """Darks equal those of the darks alone, and lit sums those of the lit frames alone, bit for bit."""
    m, alone, lit_alone = learnt(spec, "label", darks=darks), plain(darks, spec), plain(darks, spec)
    rng, found = np.random.default_rng(3), 0
    for trains in range(8):
        none = rng.random((50, spec.cells)) < 0.01
        batch, which = mixed(spec, none, exposure, train=2000 + 50 * trains, time=5.0 + trains)
        fed = m.feed(batch)
        assert not fed.rejected
        assert fed.accepted == len(batch)
        assert m.relabelled == ({Illumination.DARK: which.sum()} if which.any() else {})
        if which.any():
            alone.feed(declared(part(batch, which), dark))
        lit_alone.feed(part(batch, ~which))
        found += which.sum()
    assert found > 2 * spec.cells
    assert_same_darks(m, alone)
    same_lit(m, lit_alone)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0.0, 0.6),
    st.lists(st.integers(0, 90), max_size=4),
    st.sampled_from(["label", "check"]),
)
def test_whatever_is_mixed_and_however_it_is_cut_into_batches_each_goes_where_it_belongs(seed, share, cuts, classify):
    none = np.random.default_rng(seed).random((90, 1)) < share
    none[:LEAST_LIT] = False  # what light looks like
    batch, which = mixed(ONE_CELL, none, SAMPLE0, seed=seed)
    m, apart = learnt(ONE_CELL, classify, darks=MANY), plain(MANY, ONE_CELL)
    rejected = 0
    for piece in np.split(np.arange(90), sorted(cuts)):
        if len(piece):
            rejected += m.feed(part(batch, piece)).rejected.total()
            for here, exposure in ((~which[piece], SAMPLE0), (which[piece], DARK0)):
                if here.any() and (classify == "label" or exposure is SAMPLE0):
                    apart.feed(declared(part(batch, piece[here]), exposure))
    assert rejected == (which.sum() if classify == "check" else 0)
    assert_same_darks(m, apart)
    same_lit(m, apart)


def test_whole_dark_trains_and_dark_cells_within_light_are_darks_too():
    for none in (np.repeat(np.arange(40) % 10 == 9, 3).reshape(40, 3), np.tile([False, True, False], (40, 1))):
        m, alone = learnt(classify="label"), plain()
        batch, which = mixed(TINY, none, FLAT0)
        assert m.feed(batch).accepted == 120
        alone.feed(declared(part(batch, which), DARK0))
        assert_same_darks(m, alone)


def test_without_darks_of_that_stage_nothing_is_called_dark():
    m = learnt(classify="label")
    assert m.light.in_words(0, SAMPLE0) == "no light seen yet"
    dark = frames(n=40, exposure=DARK1, train=5000)
    m.feed(declared(frames(n=40, exposure=Exposure(Illumination.SAMPLE, 1), level=1300, train=4000), SAMPLE0))
    fed = m.feed(declared(dark, Exposure(Illumination.SAMPLE, 1)))
    assert not m.relabelled
    assert fed.rejected == {"no_offset": 120}


def test_calibrated_frames_are_told_apart_like_others():
    m, alone = learnt(TINY_CALIBRATED, "label", darks=((DARK, 140),)), plain(((DARK, 140),), TINY_CALIBRATED)
    batch, which = mixed(TINY_CALIBRATED, np.random.default_rng(3).random((40, 3)) < 0.2, SAMPLE)
    assert m.feed(batch) == (120, {})
    alone.feed(declared(part(batch, which), DARK))
    alone.feed(part(batch, ~which))
    for key, stats in alone.dark.items():
        for cell in range(3):
            same_moments(m.dark[key], stats, cell, exact=False)
    same_lit(m, alone)


def test_calibrated_frames_with_a_gain_code_too():
    spec = replace(TINY_PACKED, bits=0, packed=0)
    darks = ((Exposure(Illumination.DARK, 0), 140),)
    m = learnt(spec, darks=darks)
    assert m.feed(frames(spec, 30, SAMPLE, level=1300, train=1000)) == (30, {})
    assert m.feed(frames(spec, 30, SAMPLE, train=2000)) == (0, {"no_light": 30})


# ---- check: what denies its declaration is used for nothing ------------------------------------------------------------------


def test_a_beam_trip_moves_no_lit_count_and_no_mask():
    m, untouched = learnt(guard_frames=None), plain()
    lit = frames(n=51, exposure=SAMPLE0, level=1300, sd=14, train=1000)
    assert m.feed(lit) == (150, {"transition": 3}), "after the darks"
    untouched.feed(part(lit, np.s_[3:]))
    before = fits(m)
    trip = m.feed(frames(n=100, exposure=SAMPLE0, train=2000))
    assert trip.accepted == 0
    assert trip.rejected == {"transition": 3, "no_light": 297}
    assert fits(m) == before
    same_lit(m, untouched)
    assert m.light.in_a_row(0, Illumination.SAMPLE).dark == 300
    again = m.feed(frames(n=50, exposure=SAMPLE0, level=1300, sd=14, train=3000))
    assert again.rejected == {"transition": 3}, "the shutter may be half open"
    assert again.accepted == 147
    assert m.light.in_a_row(0, Illumination.SAMPLE).dark == 0
    assert_same_darks(m, untouched)


def test_a_long_lit_stretch_declared_dark_never_becomes_the_idea_of_a_dark():
    m, overrun, untouched = learnt(), plain(), plain()
    lit = frames(n=150, level=1300, sd=14, train=2000)  # more than gate.history
    assert m.feed(lit).rejected == {"light": 450}
    assert overrun.feed(lit).accepted > 0, "F1 alone takes it for a step"
    assert m.light.in_a_row(0, Illumination.DARK).lit == 450
    after = frames(n=30, train=4000)
    assert m.feed(after).accepted == untouched.feed(after).accepted == 90
    assert_same_darks(m, untouched)


def test_a_transition_into_the_dark_is_not_used():
    m = learnt(guard_frames=2)
    m.feed(frames(n=20, level=1300, sd=14, train=2000))
    assert m.feed(frames(n=20, train=3000)).rejected == {"transition": 6}


def test_between_dark_and_lit_is_doubt_and_used_for_nothing():
    m = learnt()
    sigma = float(m.light.looks[next(iter(m.light.looks))].sigma[0, 0])
    between = 1000 + 12 * sigma
    assert m.feed(frames(n=10, level=between, train=2000)).rejected == {"doubtful": 30}
    m.feed(frames(n=250, exposure=SAMPLE0, level=1300, sd=14, train=3000))
    fed = m.feed(frames(n=10, exposure=SAMPLE0, level=between, train=4000))
    assert fed.rejected == {"doubtful": 30}
    assert m.light.in_a_row(0, Illumination.SAMPLE).doubtful == 30


def test_darks_whose_asics_shift_from_frame_to_frame_are_still_dark():
    """By 16 ADU over a noise of 3, as ePix10ka does."""
    spec = replace(ONE_CELL, module_shape=(128, 64))
    rng = np.random.default_rng(2)
    batch = frames(spec, 600, DARK0, sd=3.0)
    shifts = np.repeat(np.repeat(rng.normal(0, 16, (600, 4, 2)), 32, axis=1), 32, axis=2)
    batch.pixels[:] = np.rint(batch.pixels + shifts)
    assert not {"light", "doubtful"} & set(maker(spec, told()).feed(batch).rejected)


def test_darker_than_dark_is_doubtful_in_the_first_stage_and_light_in_the_others():
    m = learnt(darks=FREE)
    assert m.feed(frames(n=10, level=900, train=2000)).rejected == {"doubtful": 30}
    assert m.feed(frames(n=10, exposure=DARK1, level=900, train=3000)).rejected == {"light": 30}


def test_doubled_intensity_is_still_light_and_changes_no_flag():
    m = learnt()
    m.feed(frames(n=60, exposure=SAMPLE0, level=1300, sd=14, train=1000))
    before = fits(m)
    assert m.feed(frames(n=60, exposure=SAMPLE0, level=1600, sd=18, train=2000)).accepted == 180
    assert fits(m) == before


def test_a_frame_whose_pixels_left_the_stage_of_the_darks_is_lit():
    m = learnt(classify="label", darks=FREE)
    m.feed(frames(n=20, exposure=SAMPLE, level=1300, sd=14, train=1000))
    switched = frames(n=20, exposure=SAMPLE, train=2000, indicator=makers.LEVELS[1])  # whose values are those of a dark
    fed = m.feed(switched)
    assert not m.relabelled
    assert fed.accepted == 60


def test_a_frame_of_which_nothing_is_data_is_left_to_others():
    m = learnt()
    m.feed(frames(n=20, exposure=SAMPLE0, level=1300, sd=14, train=1000))
    full = frames(n=2, exposure=SAMPLE0, train=2000)
    full.pixels[:] = TINY.saturation
    assert m.feed(full).rejected == {"no_valid_pixel": 6}


# ---- honesty -----------------------------------------------------------------------------------------------------------------


def photons(spec: DetectorSpec, n: int, per_pixel, exposure, *, adu=80.0, train=2000, seed=5) -> FrameBatch:
    """Frames with so many photons per pixel on average, of each frame; most pixels have none."""
    batch = frames(spec, n, exposure, train=train, seed=seed)
    rng = np.random.default_rng(seed)
    mean = np.broadcast_to(per_pixel, len(batch))[:, None, None]
    batch.pixels[:] += np.rint(adu * rng.poisson(np.broadcast_to(mean, batch.pixels.shape))).astype(batch.pixels.dtype)
    return batch


@pytest.mark.parametrize("classify", ["check", "label"])
@pytest.mark.parametrize("spec", [ONE_CELL, COUNTER], ids=["integrating", "counting"])
@pytest.mark.parametrize("per_pixel", [0.1, 0.3, 1.0])
def test_light_of_few_photons_moves_no_robust_mean_and_is_light_all_the_same(spec, per_pixel, classify):
    m = maker(spec, told(classify))
    dark, adu = (
        (frames(spec, 140, DARK0), 80.0) if spec is ONE_CELL else (frames(spec, 140, DARK0, level=0.0, sd=0.1), 1.0)
    )
    m.feed(dark)
    weak = photons(spec, 200, per_pixel, SAMPLE0, adu=adu)
    if spec is COUNTER:
        weak.pixels[:] = np.random.default_rng(0).poisson(per_pixel, weak.pixels.shape)
    fed = m.feed(weak)
    assert (fed.accepted, fed.rejected, m.relabelled) == (200, {}, {})


@pytest.mark.parametrize("classify", ["check", "label"])
def test_light_too_weak_to_be_told_from_dark_is_left_as_declared(classify):
    """A photon in a thousand pixels: no frame looks lit, so none is said to be dark."""
    m, silent = learnt(ONE_CELL, classify), plain(spec=ONE_CELL)
    weak = photons(ONE_CELL, 300, 0.001, SAMPLE0)
    assert m.feed(weak) == silent.feed(weak) == (300, {})
    assert_same_darks(m, silent)
    same_lit(m, silent)


@pytest.mark.parametrize("classify", ["check", "label"])
def test_light_that_reaches_down_to_the_dark_is_left_as_declared(classify):
    """As many frames look doubtful as look dark: nobody can say which of the dark ones are."""
    m, silent = learnt(ONE_CELL, classify), plain(spec=ONE_CELL)
    share = np.random.default_rng(8).uniform(0, 0.06, 300)
    weak = photons(ONE_CELL, 300, share, SAMPLE0)
    codes = m.light._codes(weak, np.arange(300), 0, m.gates)
    assert {LOOKS_DARK, DOUBTFUL, LIT} <= set(codes.tolist()), "or this test would say nothing"
    assert m.feed(weak) == silent.feed(weak) == (300, {})
    assert m.light.in_words(0, SAMPLE0) == "light too weak to be told from dark"
    assert_same_darks(m, silent)
    same_lit(m, silent)


def test_what_may_be_concluded():
    seen = Seen()
    seen.note(0, 0, LEAST_LIT - 1)
    assert not seen.told
    seen.note(0, 0, 1)
    assert seen.told
    seen.note(0, 1, 0)
    assert seen.told
    assert not seen.surely_dark, "one doubtful, no dark"
    seen.note(20, 0, 0)
    assert seen.surely_dark
    seen.note(0, 1, 0)
    assert not seen.told


def test_what_was_seen_is_forgotten_by_halves_and_a_night_is_no_evidence():
    seen = Seen(doubtful=300, lit=2000)
    seen.note(10**6, 0, 0)
    assert (seen.lit, seen.told) == (2000, False)
    assert seen.dark < 10**4
    for _ in range(80):
        seen.note(0, 0, 100)
    assert seen.told


# ---- voices ------------------------------------------------------------------------------------------------------------------


def test_among_unknown_frames_dark_ones_are_darks_and_lit_ones_what_was_said_last():
    m, apart = learnt(classify="label", darks=MANY), plain(MANY)
    none = np.random.default_rng(4).random((60, 3)) < 0.3
    fresh, which = mixed(TINY, none, Exposure(Illumination.UNKNOWN, 0))
    m.words = Words(FLAT0)
    fed = m.feed(fresh)
    assert fed == (180, {})
    assert m.relabelled == {Illumination.DARK: which.sum(), Illumination.FLAT: (~which).sum()}
    apart.feed(declared(part(fresh, ~which), FLAT0))
    apart.feed(declared(part(fresh, which), DARK0))
    assert_same_darks(m, apart)
    same_lit(m, apart)


def test_without_a_word_lit_frames_stay_unknown():
    m = learnt(classify="label")
    assert m.feed(frames(n=40, exposure=UNKNOWN, level=1300, train=2000)).rejected == {"unknown_exposure": 120}


def test_check_says_nothing_about_unknown_frames():
    m = learnt()
    m.words = Words(FLAT0)
    assert m.feed(frames(n=40, exposure=UNKNOWN, level=1300, train=2000)).rejected == {"unknown_exposure": 120}


def test_under_an_override_nothing_is_relabelled_and_what_denies_it_is_not_used():
    m = learnt(classify="label")
    m.feed(frames(n=20, exposure=SAMPLE0, level=1300, train=2000))
    m.words = Words(SAMPLE0, relabel=False)
    assert m.feed(frames(n=20, exposure=SAMPLE0, train=3000)).rejected == {"no_light": 60}
    assert not m.relabelled


def test_off_is_the_default_and_changes_nothing():
    assert LightSettings().classify == "off"
    assert maker().light is None
    assert maker(settings=told(), gate=False).light is None, "who gates the frames knows what they are"


def test_of_sampled_light_only_what_f6_judges_is_looked_at():
    m = learnt()
    m.every_train = 4
    m.feed(frames(n=200, exposure=SAMPLE0, level=1300, sd=14, train=1000))
    counted = m.feed(frames(n=200, exposure=SAMPLE0, train=2000)).rejected["no_light"]
    assert 100 < counted < 200


# ---- beginning anew, keeping -------------------------------------------------------------------------------------------------


def test_after_new_darks_are_asked_for_the_classifier_learns_anew():
    m = learnt()
    stepped = frames(n=140, level=1200, train=2000)
    assert m.feed(stepped).rejected == {"light": 420}
    m.restart(DARK0)
    assert m.light.in_words(0, DARK0) == "no darks known yet"
    assert m.feed(stepped).accepted == 420
    assert m.feed(frames(n=10, train=3000)).rejected == {"doubtful": 30}


def test_after_new_light_is_asked_for_it_is_learnt_anew_what_light_looks_like():
    m = learnt()
    m.feed(frames(n=40, exposure=SAMPLE0, level=1300, sd=14, train=1000))
    m.restart(SAMPLE0)
    assert m.feed(frames(n=10, exposure=SAMPLE0, train=2000)).accepted == 30


@pytest.mark.parametrize("classify", ["check", "label"])
def test_a_restored_maker_goes_on_telling_them_apart(classify):
    m = learnt(classify=classify, guard_frames=3)
    m.feed(frames(n=30, exposure=SAMPLE0, level=1300, sd=14, train=1000))
    m.feed(frames(n=1, exposure=SAMPLE0, train=1100))
    kept = MaskMaker.restore(m.state())
    for name, array in m.light.state().items():
        np.testing.assert_array_equal(kept.light.state()[name], array, err_msg=name)
        assert not np.shares_memory(kept.light.state()[name], array)
    for batch in (mixed(TINY, np.random.default_rng(1).random((20, 3)) < 0.2, SAMPLE0)[0], frames(n=30, train=4000)):
        assert kept.feed(batch) == m.feed(batch)
    assert_same_darks(kept, m)


# ---- parts -------------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_bright_shares_like_its_twin(seed, floats):
    rng = np.random.default_rng(seed)
    images = rng.normal(1000, 30, (4, 6, 8))
    images[rng.random(images.shape) < 0.2] = 16383
    images = images.astype(np.float32) if floats else np.rint(images).astype(np.uint16)
    if floats:
        images[rng.random(images.shape) < 0.2] = np.nan
    images[2] = 16383
    rows, take, cell = np.array([0, 2, 5]), np.array([3, 1, 2]), np.array([0, 1, 0])
    base = images[:2][:, rows]
    around = np.stack([rng.normal(0, 5, 3), rng.uniform(40, 90, 3), rng.uniform(20, 60, 3)], axis=1).astype(np.float32)
    columns, found = np.array([[0, 4], [5, 8]]), np.empty(3)
    bright_shares(read_only(images), take, cell, rows, columns, base, around, np.float32(16382), found)
    expected = naive.bright_shares(images, take, cell, rows, columns, base, around, 16382)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([SILENT, LOOKS_DARK, DOUBTFUL, LIT, LIT, LIT])), max_size=120
    ),
    st.integers(0, 3),
    st.lists(st.integers(0, 120), max_size=3),
)
def test_transitions_like_their_twin_however_frames_are_cut_into_calls(seen, few, cuts):
    runs = [frame for frame in seen for _ in range(3)]
    cell, codes = (np.array([frame[k] for frame in runs], np.int64) for k in (0, 1))
    guard = Guard(few, 3)
    pieces = [guard.transition(cell[piece], codes[piece]) for piece in np.split(np.arange(len(runs)), sorted(cuts))]
    assert np.concatenate(pieces).tolist() == naive.transition(cell.tolist(), codes.tolist(), few, STRETCH)


def test_lone_dark_frames_are_no_transition_for_the_light_around_them():
    codes = np.array([LIT] * 20 + [LOOKS_DARK] + [LIT] * 20 + [LOOKS_DARK] * 20 + [LIT] * 3)
    marked = Guard(1, 1).transition(np.zeros(len(codes), np.int64), codes)
    assert np.flatnonzero(marked).tolist() == [20, 41, 61]


def test_turns_hold_each_cell_once_and_keep_its_order():
    cell = np.array([2, 0, 2, 2, 1, 0])
    assert [turn.tolist() for turn in one_of_each_cell(cell)] == [[0, 1, 4], [2, 5], [3]]
    assert one_of_each_cell(cell[:0]) == []


def test_what_it_will_hold_is_known_before():
    m = learnt(darks=FREE)
    bytes_of = {name: array.nbytes for name, array in m.light.state().items() if name[0].isdigit()}
    assert sum(bytes_of.values()) == 2 * 3 * of_look(TINY, m.settings)
