"""Who says what the detector sees, and what happens when two voices differ."""

import numpy as np
from builders import make_batch

from rmm_stream.exposure import UNKNOWN, VOICES, Contradiction, ExposureLabeler, in_words
from rmm_stream.frames import Exposure, Illumination

DARK = Exposure(Illumination.DARK, 0)
FLAT = Exposure(Illumination.FLAT)
SAMPLE = Exposure(Illumination.SAMPLE)


def labelled(labeler, stream=None):
    batch = labeler.label(make_batch(exposure=stream))
    return batch.exposure, batch.labelled_by


def test_the_configuration_speaks_where_nobody_else_does():
    labeler = ExposureLabeler(SAMPLE)
    assert labelled(labeler) == labeler.current == (SAMPLE, "config")


def test_without_a_default_nothing_is_assumed():
    assert labelled(ExposureLabeler()) == (UNKNOWN, "config")


def test_the_operator_goes_before_the_configuration_and_can_take_it_back():
    labeler = ExposureLabeler(SAMPLE)
    labeler.operator(DARK)
    assert labelled(labeler) == (DARK, "operator")
    labeler.operator(None)
    assert labelled(labeler) == (SAMPLE, "config")


def test_the_stream_goes_before_the_operator():
    labeler = ExposureLabeler(SAMPLE)
    labeler.operator(DARK)
    assert labelled(labeler, FLAT) == labeler.current == (FLAT, "stream")
    assert labelled(labeler) == (DARK, "operator")


def test_a_request_with_override_goes_before_the_stream():
    labeler = ExposureLabeler()
    labeler.operator(DARK, override=True)
    assert labelled(labeler, FLAT) == labeler.current == (DARK, "operator")
    labeler.operator(None, override=True)
    assert labelled(labeler, FLAT) == (FLAT, "stream")


def test_a_second_request_replaces_the_override_of_the_first():
    labeler = ExposureLabeler()
    labeler.operator(DARK, override=True)
    labeler.operator(DARK)
    assert labelled(labeler, FLAT) == (FLAT, "stream")


def test_unknown_is_a_verdict_and_not_silence():
    labeler = ExposureLabeler(SAMPLE)
    labeler.operator(DARK)
    assert labelled(labeler, UNKNOWN) == (UNKNOWN, "stream")
    labeler.operator(UNKNOWN, override=True)
    assert labelled(labeler, FLAT) == (UNKNOWN, "operator")


def test_words_are_for_people():
    assert in_words(DARK) == "dark, stage 0"
    assert in_words(FLAT) == "flat"


def test_contradictions_are_counted_and_visible_while_they_last():
    labeler = ExposureLabeler()
    labeler.operator(DARK)
    labelled(labeler, DARK)
    assert (labeler.contradictions, labeler.contradiction) == (0, None)
    labelled(labeler, FLAT)
    labelled(labeler, FLAT)
    assert (labeler.contradictions, labeler.contradiction) == (2, Contradiction(FLAT, DARK, "stream"))
    labelled(labeler)
    assert (labeler.contradictions, labeler.contradiction) == (2, None)
    labeler.operator(DARK, override=True)
    labelled(labeler, FLAT)
    assert (labeler.contradictions, labeler.contradiction) == (3, Contradiction(FLAT, DARK, "operator"))


def test_another_gain_stage_is_a_contradiction():
    labeler = ExposureLabeler()
    labeler.operator(Exposure(Illumination.DARK, 1))
    labelled(labeler, DARK)
    assert labeler.contradictions == 1


def test_current_follows_a_request_before_the_next_batch():
    labeler = ExposureLabeler(SAMPLE)
    assert labeler.current == (SAMPLE, "config")
    labelled(labeler, FLAT)
    labeler.operator(DARK)
    assert labeler.current == (DARK, "operator")


def test_a_label_of_our_own_is_not_taken_for_the_streams():
    labeler = ExposureLabeler(SAMPLE)
    first = labeler.label(make_batch())
    labeler.operator(DARK)
    again = labeler.label(first)
    assert (again.exposure, again.labelled_by) == (DARK, "operator")
    assert labeler.contradictions == 0


def test_labels_change_and_data_do_not():
    batch = make_batch()
    found = ExposureLabeler(DARK).label(batch)
    assert found.pixels is batch.pixels
    assert batch.exposure is None
    np.testing.assert_array_equal(found.cell, batch.cell)


def test_the_voices_are_in_order_of_precedence():
    assert list(VOICES) == ["stream", "operator", "config"]


def test_the_last_lit_word_is_kept_for_lit_frames_that_nobody_declares():
    labeler = ExposureLabeler(SAMPLE)
    assert labeler.lit == SAMPLE
    labeler.operator(FLAT)
    labeler.operator(DARK)
    labeler.operator(None)
    assert labeler.lit == FLAT
    assert ExposureLabeler(DARK).lit is None
