"""What the mask does when something happens at the beamline that is no defect of a pixel, and what the operator sees."""

import numpy as np
import pytest
from beamline import DARK, SAMPLE, SHAPE, Beamline, scattering

from rmm_stream.live.requests import Expose, Reject
from rmm_stream.mask import BadPixel

PLANTED = {(10, 10), (90, 30), (100, 100)}


@pytest.fixture
def beamline(tmp_path):
    return begun(tmp_path)


def begun(directory, toml="") -> Beamline:
    """Darks, and enough light for a mask: of three pixels of which one is off, one noisy, one bright under light only."""
    b = Beamline(directory, toml)
    b.offset[10, 10] += 400
    b.noise[90, 30] *= 12
    hot = np.zeros(SHAPE, np.float32)
    hot[100, 100] = 150
    b.extra = lambda rng: hot
    b.darks(300)
    b.lit(500)
    assert b.bad == PLANTED
    assert b.alarms == ""
    return b


def test_a_beam_trip_changes_nothing(beamline):
    beamline.darks(400, SAMPLE)
    assert beamline.bad == PLANTED
    beamline.lit(300)
    assert beamline.bad == PLANTED
    assert beamline.alarms == ""


def test_a_beam_trip_is_seen_where_frames_are_checked(tmp_path):
    b = begun(tmp_path, '[exposure]\nclassify = "check"')
    judged = b.maker.lit
    before = sum(int(stats.frames.sum()) for stats in judged.values())
    b.darks(400, SAMPLE)
    assert sum(int(stats.frames.sum()) for stats in judged.values()) == before, "no dark frame among the lit"
    assert b.bad == PLANTED
    assert "400 frames without light while sample is declared" in b.alarms
    b.lit(50)
    assert b.alarms == ""


def test_twice_the_light_changes_nothing(beamline):
    beamline.lit(600, brightness=2.0)
    beamline.lit(600, brightness=0.5)
    assert beamline.bad == PLANTED
    assert beamline.alarms == ""


def test_a_moved_detector_changes_nothing(beamline):
    """The ring, the streak and the beamstop's edge lie on other pixels from one frame to the next."""
    beamline.lit(1200, scattering(centre=(70.0, 90.0)))
    assert beamline.bad == PLANTED
    beamline.lit(1200, scattering(centre=(-30.0, 60.0)))
    assert beamline.bad == PLANTED
    assert beamline.alarms == ""


def noisy_third(b: Beamline, times: float = 30.0):
    """From now on 30 % of the pixels are so many times as noisy."""
    third = b.rng.random(SHAPE) < 0.3
    b.noise[third] *= times
    return third


def test_pixels_that_turn_noisy_one_after_the_other_are_a_jump_too(tmp_path):
    """Of a third of the module that is ten times as noisy some pixels are beyond the cut after 100 frames, others after 600."""
    b = begun(tmp_path, "[policy]\nconfirm_fits = 0")
    noisy_third(b, times=10)
    b.lit(600)
    assert len(b.bad) < 0.02 * 62 * 62 * 4 + len(PLANTED)
    assert "in the fits before" in b.alarms


def test_a_third_of_the_module_turned_noisy_is_held_until_the_operator_accepts(tmp_path):
    b = begun(tmp_path, "[policy]\nconfirm_fits = 0")
    third = noisy_third(b)
    before = len(b.published)
    b.lit(600)
    assert b.bad == PLANTED
    assert len(b.published) == before
    assert b.status.modules[0].held == 1
    assert "module 0, gain stage 0, cell 0: held since train" in b.alarms
    assert "pixels would turn bad at once" in b.alarms
    assert "on 4 of 4 ASICs: LIT_SNR" in b.alarms
    assert "rmm-stream accept" in b.alarms
    assert b.policy.accept()
    flags = b.policy.mask(0).flags[0, 0]
    inside = third & (flags & BadPixel.EDGE == 0)
    assert (flags[inside] != 0).mean() > 0.99


def test_it_is_published_when_the_evidence_stays(beamline):
    third = noisy_third(beamline)
    beamline.lit(400)
    assert beamline.bad == PLANTED
    beamline.lit(800)
    flags = beamline.policy.mask(0).flags[0, 0]
    inside = third & (flags & BadPixel.EDGE == 0)
    assert (flags[inside] != 0).mean() > 0.99
    assert beamline.status.modules[0].held == 0
    assert beamline.alarms == ""


def test_a_rejected_jump_is_not_reported_again(beamline):
    noisy_third(beamline)
    beamline.lit(400)
    beamline.worker.requests.put(Reject())
    beamline.lit(800)
    assert beamline.bad == PLANTED
    assert beamline.alarms.startswith(
        "module 0: a jump of 1 maps was rejected and is still there; nothing of these maps is"
    )


def test_darks_with_light_in_them_do_not_reach_the_darks(beamline):
    beamline.lit(0)
    photons = scattering()
    before = {key: stats.frames.copy() for key, stats in beamline.maker.dark.items()}
    for _ in range(100):
        beamline.feed(beamline.read(photons)[None], DARK)
    beamline.maker.fold()
    for key, stats in beamline.maker.dark.items():
        np.testing.assert_array_equal(stats.frames, before[key])
    assert beamline.bad == PLANTED
    assert beamline.status.modules[0].rejected["gated"] == 100


def test_an_operators_word_begins_afresh_and_the_old_mask_stays_meanwhile(beamline):
    beamline.offset[10, 10] -= 400
    beamline.worker.requests.put(Expose(DARK, new=True))
    beamline.darks(100)
    assert beamline.bad == PLANTED
    beamline.darks(300)
    assert beamline.bad == PLANTED - {(10, 10)}


def test_a_step_of_one_asic_changes_nothing_and_is_named(beamline):
    """Of its 20 ADU, darks know after 50 frames, and have offsets for it after 250 more."""
    beamline.offset[:64, 64:] += 20
    beamline.darks(100)
    beamline.lit(300)
    assert beamline.bad == PLANTED
    beamline.darks(500)
    beamline.lit(300)
    assert beamline.bad == PLANTED
    assert "module 0, stage high: ASIC 1 has moved by +" in beamline.alarms
    assert "its dark statistics have been started afresh" in beamline.alarms
    offset = beamline.maker.segments.offset(0, 0, 0)
    assert abs(np.nanmedian(offset[:64, 64:] - beamline.offset[:64, 64:])) < 0.5
