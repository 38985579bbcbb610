"""Every feature's own values, rule and floor, pixel by pixel, against the twin."""

from dataclasses import replace

import naive
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED, TINY_PACKED
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_stream.config import Settings
from rmm_stream.mask import BadPixel
from rmm_stream.rmm.features import (
    FEATURES,
    gain_level,
    gain_separation,
    lit_rate,
    lit_snr,
    noise,
    offset,
)
from rmm_stream.rmm.features.feature import LitCell
from rmm_stream.rmm.stats import Moments

few = settings(max_examples=60, deadline=None)
COUNTING = replace(TINY, gain="none", stages=("one",), counting=True, name="counts")


def pixel(mean, sd, n=200):
    return Moments(np.full((1, 1), n), np.full((1, 1), float(mean)), np.full((1, 1), float(sd) ** 2 * (n - 1)))


def test_values_of_dark_features_are_mean_and_deviation():
    assert offset.values(pixel(7, 2))[0, 0] == 7
    assert noise.values(pixel(7, 2))[0, 0] == pytest.approx(2)
    assert gain_level.values(pixel(7, 2))[0, 0] == 7
    assert np.isnan(noise.values(pixel(7, 2, 1))).all()


@pytest.mark.parametrize(("sd", "dead"), [(0, True), (1e-3, False), (3, False)])
def test_a_pixel_whose_value_never_moves_is_dead(sd, dead):
    assert noise.is_dead(pixel(7, sd), 0, 8.0)[0, 0] == dead
    assert not noise.is_dead(pixel(7, 0, 1), 0, 8.0)[0, 0], "one frame says nothing"


def test_floors_of_maps_over_frames():
    for feature in (offset, noise):
        assert feature.floor(COUNTING) == pytest.approx(1 / 6)
        assert feature.floor(TINY) == 0
        assert feature.floor(TINY_CALIBRATED) == 0
    assert gain_level.floor(TINY_PACKED) == pytest.approx(1 / 6)
    assert gain_level.floor(TINY) == 0
    assert lit_snr.LIT_SNR.floor(COUNTING) == 0, "the outer map has no unit"


def test_features_apply_where_the_detector_has_what_they_look_at():
    def names(spec):
        return {f.name for f in FEATURES if f.applies(spec)}

    lit = {"lit SNR", "lit rate above", "lit rate below", "lit rate lately"}
    assert names(TINY) == {"offset", "noise", "dead", "gain separation", "gain level"} | lit
    assert names(TINY_CALIBRATED) == {"offset", "noise", "dead"} | lit
    assert names(COUNTING) == {"offset", "noise"} | lit
    assert "gain separation" not in names(replace(TINY, stages=("only",)))


def test_each_fitted_bit_has_a_feature_and_no_other():
    flags = BadPixel(0)
    for feature in FEATURES:
        flags |= feature.flag
    assert flags == BadPixel(31)


@few
@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 10)), min_size=2, max_size=4),
    st.integers(0, 3),
    st.floats(3, 12),
)
def test_separation_like_its_twin(steps, stage, cut):
    levels = np.cumsum([1 + d for d, _ in steps])
    stages = [(m, sd) for m, (_, sd) in zip(levels, steps)]
    stage = min(stage, len(stages) - 1)
    moments = [pixel(m, sd) for m, sd in stages]
    exact = [(m, float(p.std()[0, 0])) for (m, _), p in zip(stages, moments)]
    assert gain_separation.is_inseparable(moments, stage, cut)[0, 0] == naive.is_inseparable(exact, stage, cut)


def test_separation_knows_falling_indicators():
    high, low = pixel(9000, 10), pixel(4000, 10)
    assert not gain_separation.is_inseparable([high, low], 0, 8.0)[0, 0]
    assert not gain_separation.is_inseparable([low, high], 0, 8.0)[0, 0]
    assert gain_separation.is_inseparable([high, pixel(8900, 10)], 0, 8.0)[0, 0]


def test_separation_flags_both_stages_of_the_failing_pair_only():
    stages = [pixel(1000, 10), pixel(1100, 10), pixel(5000, 10)]
    assert [bool(gain_separation.is_inseparable(stages, s, 8.0)[0, 0]) for s in range(3)] == [True, True, False]


def test_order_of_stages_is_that_of_the_module_not_of_the_pixel():
    swapped = [np.full((4, 4), 1000.0), np.full((4, 4), 5000.0)]
    swapped[0][1, 1], swapped[1][1, 1] = 5000, 1000
    stages = [Moments(np.full((4, 4), 200), m, np.full((4, 4), 199.0)) for m in swapped]
    assert np.argwhere(gain_separation.is_inseparable(stages, 0, 8.0)).tolist() == [[1, 1]]


def test_a_stage_without_spread_is_allowed():
    assert not gain_separation.is_inseparable([pixel(1, 0), pixel(3, 0)], 0, 8.0)[0, 0]
    assert gain_separation.is_inseparable([pixel(3, 0), pixel(3, 0.1)], 0, 8.0)[0, 0]


def lit(judged, above=0, below=0):
    return LitCell(*(np.full((1, 1), v) for v in (0.0, judged, judged, above, below)), 0, 0, np.zeros((1, 1), bool))


def test_shares_are_counted_apart_and_nan_where_nothing_was_judged():
    assert lit_rate.share_above(lit(200, 30, 4))[0, 0] == 0.15
    assert lit_rate.share_below(lit(200, 30, 4))[0, 0] == 0.02
    assert np.isnan(lit_rate.share_above(lit(0))).all()


@few
@given(st.integers(100, 1000), st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.1))
def test_lit_rate_like_its_twin(n, share, expected, scale):
    share = round(share * n) / n
    model = np.full((1, 1), expected)
    least = lit_rate.binomial_scale(lit(n).judged, model)
    feature, chosen = lit_rate.LIT_RATE_ABOVE, Settings()
    far = (share - expected) / max(scale, least[0, 0]) > 8.0
    bad = far and feature.only(np.full((1, 1), share), chosen)[0, 0]
    assert feature.above_only
    assert bad == naive.is_often(share, expected, n, scale, 8.0, 0.02)


def test_binomial_scale_is_of_at_least_one_frame():
    assert lit_rate.binomial_scale(lit(200).judged, np.zeros((1, 1)))[0, 0] == pytest.approx(1 / 200)
    assert lit_rate.binomial_scale(lit(200).judged, np.full((1, 1), 0.5))[0, 0] == pytest.approx(
        (0.505 * 0.5 / 200) ** 0.5
    )
    assert lit_rate.binomial_scale(lit(200).judged, np.full((1, 1), -0.3))[0, 0] > 0, "a plane may dip below 0"
    assert np.isnan(lit_rate.binomial_scale(lit(200).judged, np.full((1, 1), np.nan)))
