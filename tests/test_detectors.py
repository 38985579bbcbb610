"""DetectorSpec: geometry, types and words; and the known detectors."""

from dataclasses import replace

import naive
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED, TINY_PACKED
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rmm_stream.detectors import DETECTORS, detector
from rmm_stream.errors import ConfigError


@pytest.mark.parametrize("name", DETECTORS)
def test_known_detectors_are_what_they_are_called(name):
    spec = detector(name)
    assert spec.name == name
    for whole, asic in zip(spec.module_shape, spec.asic_shape):
        assert whole % asic == 0
    assert spec.exact
    assert spec.dtype == np.uint16


def test_an_unknown_detector_is_told_the_known_ones():
    with pytest.raises(ConfigError, match=r"'agipd'.*agipd1m, epix10k2m, jungfrau4m"):
        detector("agipd")


@settings(max_examples=40, deadline=None)
@given(*[st.integers(1, 4)] * 2, *[st.integers(5, 20)] * 2, *[st.integers(0, 3)] * 2, st.integers(0, 2))
def test_edge_like_its_twin(down, across, a, b, gap_ss, gap_fs, width):
    assume((down - 1) * gap_ss < a and (across - 1) * gap_fs < b)  # or one more ASIC would fit
    shape = down * a + (down - 1) * gap_ss, across * b + (across - 1) * gap_fs
    spec = replace(TINY_CALIBRATED, module_shape=shape, asic_shape=(a, b), edge_width=width, name="any")
    np.testing.assert_array_equal(spec.edge(), naive.edge(spec))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"asic_shape": (65, 32)}, r"asic_shape \[65, 32\].*module_shape \[64, 32\] along ss"),
        ({"asic_shape": (32, 0)}, "along fs"),
        ({"gain": "code", "gain_codes": (0,)}, "gain_codes needs one code per stage, 2"),
        ({"gain_thresholds": (1.0, 2.0)}, "gain_thresholds needs 1 values"),
        ({"edge_width": 16}, "edge_width 16 leaves no pixel"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("bits", "dtype", "exact"),
    [(0, "f4", 0), (1, "u1", 1), (8, "u1", 1), (9, "u2", 1), (16, "u2", 1), (17, "u4", 0), (32, "u4", 0)],
)
def test_bits_decide_type_and_arithmetic(bits, dtype, exact):
    spec = replace(TINY_CALIBRATED, bits=bits)
    assert (spec.dtype, spec.exact, spec.calibrated) == (np.dtype(dtype), exact, bits == 0)


def test_floors_of_single_frames():
    assert TINY.sigma_floor == pytest.approx(12**-0.5)
    assert TINY_CALIBRATED.sigma_floor == 0
    assert replace(TINY, counting=True).sigma_floor == pytest.approx(1 / 6)


def test_packed_words_split_and_join():
    raw = np.arange(1 << 16, dtype=np.uint16)
    raw.flags.writeable = False
    pixels, gain = TINY_PACKED.split_raw(raw)
    assert (pixels.dtype, gain.dtype) == (np.uint16, np.uint8)
    np.testing.assert_array_equal(pixels, raw % (1 << 14))
    np.testing.assert_array_equal(gain, raw >> 14)
    np.testing.assert_array_equal(TINY_PACKED.join_raw(pixels, gain), raw)
    assert TINY.split_raw(raw) == (raw, None)
