"""The guard: what is held, why, and how an operator or the evidence ends it."""

from dataclasses import replace

import numpy as np
import pytest
from builders import TINY

from rmm_stream.config import Policy
from rmm_stream.mask import BadPixel, Held, MapChange, MapFit, MapKey
from rmm_stream.policy import MaskPolicy

SHAPE, KEY = TINY.module_shape, MapKey(0, 0, 1)  # 64 x 32 in two ASICs, 1,800 pixels inside their edges
DARK, LIT = BadPixel.OFFSET | BadPixel.NOISE, BadPixel.LIT_SNR
CALM, UPPER, LOWER = np.s_[40:42, 3:13], np.s_[2:30, 2:30], np.s_[34:62, 2:30]
BEAM, TAIL = np.s_[:, 5:15], np.s_[:, 5:10]


def fit(*bad, bit=BadPixel.OFFSET, judged=DARK, key=KEY, train_id=7):
    flags = np.zeros(SHAPE, np.uint8)
    for place in bad:
        flags[place] |= np.uint8(bit)
    return MapFit(key, flags, flags.copy(), judged, 200, train_id, 5.0)


def begun(settings=Policy(), *bad):
    policy = MaskPolicy(TINY, settings=settings)
    assert isinstance(policy.judge(fit(*bad)), MapChange)
    return policy


def test_a_small_change_passes():
    assert begun().judge(fit(CALM)).newly_bad == 20


def test_a_jump_is_held_and_what_was_published_stays():
    policy = begun(Policy(), CALM)
    held = policy.judge(fit(CALM, UPPER, bit=BadPixel.NOISE, train_id=9))
    assert isinstance(held, Held)
    assert (held.fits, held.since_train, held.proposed.newly_bad) == (1, 9, 784)
    assert held.reason == (
        "784 of 1,800 pixels would turn bad at once (43.6 %; policy.max_new = 0.02), nearly all on the ASIC that begins at "
        "ss 0, fs 0: NOISE 784"
    )
    assert policy.mask(0).flags[0, 1][UPPER].max() == 0
    assert policy.mask(0).flags[0, 1][CALM].min() == BadPixel.OFFSET
    assert policy.held == {KEY: held}


def test_what_turns_in_several_fits_in_a_row_is_one_jump():
    policy = begun()
    assert policy.judge(fit(np.s_[40:42, 3:20])).newly_bad == 34
    for _ in range(8):
        assert policy.judge(fit(np.s_[40:42, 3:20])) is None
    reason = policy.judge(fit(np.s_[40:42, 3:22])).reason
    assert reason.startswith(
        "4 of 1,800 pixels would turn bad at once beside 34 in the fits before (2.1 %; policy.max_new"
    )
    assert policy.judge(fit(np.s_[40:42, 3:20])) is None
    assert policy.judge(fit(np.s_[40:42, 3:22])).newly_bad == 4, "ten fits later it is none"


def test_a_jump_over_the_whole_module_names_how_many_asics():
    assert "on 2 of 2 ASICs: OFFSET 600, NOISE 600" in begun().judge(fit(BEAM, bit=DARK)).reason


def test_a_jump_that_goes_away_leaves_no_trace():
    policy = begun()
    policy.judge(fit(UPPER))
    assert policy.judge(fit()) is None
    assert not policy.held
    assert policy.judge(fit(CALM)).newly_bad == 20


def test_pixels_that_turn_good_all_at_once_are_a_jump_too():
    policy = begun(Policy(clear_after=2), TAIL)
    assert policy.judge(fit()) is None
    assert "300 of 1,800 pixels would turn good at once" in policy.judge(fit()).reason


def test_the_evidence_confirms_a_jump_that_stays():
    policy = begun(Policy(confirm_fits=4))
    said = [policy.judge(fit(UPPER, train_id=n)) for n in range(4)]
    assert [type(answer) for answer in said] == [Held, Held, Held, MapChange]
    assert said[2].since_train == 0
    assert said[3].newly_bad == 784
    assert not policy.held
    assert policy.judge(fit(UPPER)) is None


@pytest.mark.parametrize("limits", [Policy(max_bad=0.5), Policy(max_bad=0.5, set_after=3)])
def test_hysteresis_does_not_interrupt_a_jump_that_is_held(limits):
    """Pixels that turn all at once are held in every fit until the tenth, though a bit takes three fits to turn."""
    before, now = ([UPPER], []) if limits.set_after == 1 else ([], [UPPER])
    policy = begun(limits, *before)
    said = [policy.judge(fit(*now)) for _ in range(12)]
    assert [isinstance(s, Held) for s in said] == [False] * 2 + [True] * 9 + [False]
    assert isinstance(said[-1], MapChange)


def test_an_interrupted_jump_is_counted_from_the_start():
    policy = begun(Policy(confirm_fits=3))
    for bad in (UPPER, UPPER, CALM, UPPER, UPPER):
        last = policy.judge(fit(bad))
    assert isinstance(last, Held)
    assert last.fits == 2


def test_without_confirm_fits_only_an_operator_lets_it_out():
    policy = begun(Policy(confirm_fits=0))
    for _ in range(50):
        policy.judge(fit(UPPER))
    assert policy.held[KEY].fits == 50
    (change,) = policy.accept()
    assert change.newly_bad == 784
    assert policy.mask(0).flags[0, 1][UPPER].min() == BadPixel.OFFSET
    assert policy.accept() == []


def test_an_operator_accepts_some_maps_and_not_others():
    policy, other = begun(Policy(confirm_fits=0)), MapKey(0, 1, 2)
    policy.judge(fit(key=other))
    for key in (KEY, other):
        policy.judge(fit(UPPER, key=key))
    assert [change.key for change in policy.accept(lambda key: key.gain_stage == 1)] == [other]
    assert list(policy.held) == [KEY]


def test_a_rejected_jump_is_silent_until_it_has_gone_away():
    policy = begun(Policy(confirm_fits=2))
    policy.judge(fit(UPPER))
    assert policy.reject() == [KEY]
    assert policy.dismissed == [KEY]
    for _ in range(5):
        assert policy.judge(fit(UPPER)) is None
    assert policy.judge(fit(CALM)).newly_bad == 20
    assert policy.dismissed == []
    assert isinstance(policy.judge(fit(CALM, UPPER)), Held), "a new jump is reported"


def test_pixels_without_data_are_published_at_once_however_many():
    policy = begun()
    change = policy.judge(fit(UPPER, LOWER, bit=BadPixel.NO_DATA))
    assert change.newly_bad == 2 * 784
    assert not policy.held
    bad = fit(UPPER, LOWER, bit=BadPixel.NO_DATA)
    bad.flags[45, 30] |= np.uint8(BadPixel.OFFSET)
    assert policy.judge(bad).newly_bad == 1, "nor do they keep the next pixel back"


def test_a_map_that_lacked_data_is_limited_like_any_other():
    policy = begun(Policy(max_new=1.0))
    policy.judge(fit(UPPER, bit=BadPixel.NO_DATA))
    assert "policy.max_bad" in policy.judge(fit(UPPER, LOWER)).reason


def test_what_a_feature_says_for_the_first_time_is_no_jump():
    policy = begun()
    assert policy.judge(fit(TAIL, bit=LIT, judged=DARK | LIT)).newly_bad == 300


def test_of_a_first_map_only_the_number_of_bad_pixels_is_limited():
    policy = MaskPolicy(TINY)
    assert policy.judge(fit(CALM, BEAM[:1] + (slice(5, 10),))).newly_bad > 0.02 * 1800
    held = policy.judge(fit(UPPER, key=MapKey(0, 0, 2)))
    assert held.reason.startswith("784 of 1,800 pixels would be bad (43.6 %; policy.max_bad = 0.25)")
    assert policy.mask(0).judged[0].tolist() == [0, int(DARK), 0]
    assert (policy.mask(0).flags[0, 2][UPPER] == BadPixel.NO_DATA).all(), "a map that is held is no good map"


def test_a_map_that_was_accepted_beyond_the_limit_goes_on_changing():
    policy = MaskPolicy(TINY)
    policy.judge(fit(UPPER))
    policy.accept()
    assert policy.judge(fit(UPPER, CALM)).newly_bad == 20


def test_overlays_are_nobodys_jump():
    above = np.zeros(SHAPE, np.uint8)
    above[UPPER] = BadPixel.USER
    policy = MaskPolicy(TINY, {0: above})
    policy.judge(fit())
    assert policy.judge(fit(UPPER)) is None


# ---- stored masks ----


def stored(*bad):
    policy = MaskPolicy(TINY)
    policy.judge(fit(*bad))
    return {0: policy.mask(0)}


def test_a_stored_mask_speaks_until_fits_do():
    policy = MaskPolicy(TINY, settings=Policy(clear_after=1))
    (change,) = policy.restore(stored(CALM))
    assert (change.key, change.judged, change.frames) == (KEY, DARK, 200)
    assert policy.mask(0).flags[0, 1][CALM].min() == BadPixel.OFFSET
    assert policy.mask(0).flags[0, 1][0, 0] == BadPixel.EDGE
    assert policy.judge(fit()).newly_good == 20


def test_while_pinned_fits_change_nothing_and_after_release_the_last_one_does():
    policy = begun(Policy(clear_after=1), CALM)
    (change,) = policy.pin(stored())
    assert (change.newly_bad, change.newly_good) == (0, 20)
    assert policy.pinned
    assert [policy.judge(fit(CALM)) for _ in range(3)] == [None] * 3
    assert policy.mask(0).flags[0, 1][CALM].max() == 0
    (change,) = policy.release()
    assert change.newly_bad == 20
    assert policy.release() == []


def test_a_release_into_a_jump_is_held():
    policy = begun()
    policy.pin(stored())
    policy.judge(fit(UPPER))
    assert policy.release() == []
    assert list(policy.held) == [KEY]


def test_after_a_restart_with_a_pin_fits_go_on_from_the_pinned_mask():
    policy = MaskPolicy(TINY)
    policy.pin(stored(CALM))
    assert policy.judge(fit(CALM, UPPER, judged=BadPixel.NOISE, bit=BadPixel.NOISE)).reason
    assert policy.release() == []
    assert policy.mask(0).flags[0, 1][CALM].min() == BadPixel.OFFSET
    assert policy.mask(0).flags[0, 1][UPPER].max() == 0
    assert policy.held


def test_pinning_what_is_in_force_publishes_nothing():
    policy = begun(Policy(), CALM)
    assert policy.pin({0: policy.mask(0)}) == []


@pytest.mark.parametrize("bit", [BadPixel.EDGE, BadPixel.USER])
def test_a_stored_overlay_is_not_taken_over(bit):
    """What is masked by geometry or by hand is said by today's configuration."""
    mask = stored(CALM)[0]
    flags = mask.flags.copy()
    flags[0, 1][45, 20] = bit
    policy = MaskPolicy(TINY)
    policy.restore({0: replace(mask, flags=flags)})
    assert policy.mask(0).flags[0, 1][45, 20] == 0
