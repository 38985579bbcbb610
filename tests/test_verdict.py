"""One map judged: which features may speak, eq. (2) at two cuts, NO_DATA, and excluded pixels. Also tiles and judge()."""

from dataclasses import replace

import naive
import naive_planes
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED
from msgspec import structs

from rmm_stream.config import Fit, Settings
from rmm_stream.detectors import DETECTORS, detector
from rmm_stream.mask import BadPixel
from rmm_stream.rmm.features import LitCell
from rmm_stream.rmm.kernels import marks
from rmm_stream.rmm.outliers import judge, tiles
from rmm_stream.rmm.signal import spot_shaped
from rmm_stream.rmm.stats import Moments
from rmm_stream.rmm.verdict import Evidence, judge_map

OFFSET, NOISE, SEPARATION, LEVEL, LIT, EDGE, NO_DATA, USER = BadPixel
SHAPE = TINY.module_shape
SETTINGS = Settings()


def moments(seed=0, mean=1000.0, sd=10.0, n=250):
    rng = np.random.default_rng(seed)
    spread = sd * (1 + rng.normal(0, 0.05, SHAPE))
    return Moments(np.full(SHAPE, n), mean + rng.normal(0, 3, SHAPE), spread**2 * (n - 1))


def lit_cell(seed=0, judged=250):
    rng = np.random.default_rng(seed)
    count = np.full(SHAPE, judged)
    rare = rng.poisson(0.1, SHAPE), rng.poisson(0.1, SHAPE)
    return LitCell(rng.normal(0, 0.1, SHAPE), count, count.copy(), *rare, 250, 250, np.zeros(SHAPE, bool))


def evidence(stage=0, dark=None, gain=(None, None), lit=(), excluded=None):
    excluded = TINY.edge() if excluded is None else excluded
    return Evidence(stage, dark, list(gain), list(lit), excluded)


def verdict(seen, spec=TINY, settings=SETTINGS):
    return judge_map(spec, settings, seen)


def bits(out, y, x):
    return BadPixel(int(out.flags[y, x]))


def test_nothing_known_nothing_said():
    out = verdict(evidence())
    assert out.judged == BadPixel(0)
    assert not out.flags.any()
    assert out.maps == []


@pytest.mark.parametrize(("frames", "judged"), [(199, BadPixel(0)), (200, OFFSET | NOISE)])
def test_a_feature_speaks_from_min_frames_on(frames, judged):
    out = verdict(evidence(dark=(moments(n=frames), frames)))
    assert out.judged == judged
    assert not out.flags.any()


def test_offset_and_noise_outliers_are_flagged_either_way():
    dark = moments()
    dark.mean[5, 5] += 60
    dark.mean[6, 6] -= 60
    dark.m2[7, 7] *= 16
    dark.m2[8, 8] = 0
    out = verdict(evidence(dark=(dark, 250)))
    found = {tuple(p): bits(out, *p) for p in np.argwhere(out.flags).tolist()}
    assert found == {(5, 5): OFFSET, (6, 6): OFFSET, (7, 7): NOISE, (8, 8): NOISE}
    assert out.judged == OFFSET | NOISE


def test_dead_is_a_rule_of_integrating_detectors_only():
    dark = moments()
    dark.m2[8, 8] = 0
    dark.m2[20:24] *= 1 + np.random.default_rng(1).normal(0, 1, (4, 32)) ** 2 * 3  # no fit could tell
    single = replace(TINY, gain="none", stages=("one",))
    assert bits(verdict(evidence(gain=[None], dark=(dark, 250)), single), 8, 8) == NOISE
    dark.m2[...] = 0
    quiet = replace(single, counting=True)
    assert not verdict(evidence(gain=[None], dark=(dark, 250)), quiet).flags.any()


def test_counting_detector_believes_no_sigma_below_a_sixth():
    quiet = replace(TINY, gain="none", stages=("one",), counting=True)
    dark = Moments(np.full(SHAPE, 250), np.zeros(SHAPE), np.zeros(SHAPE))
    dark.mean[5, 5], dark.mean[6, 6] = 1.30, 1.40  # 8/6 = 1.33 counts
    out = verdict(evidence(gain=[None], dark=(dark, 250)), quiet)
    assert np.argwhere(out.flags & OFFSET).tolist() == [[6, 6]]


def test_doubtful_is_what_lies_beyond_the_lower_cut():
    dark = moments()
    sigma = np.std(dark.mean[1:31, 1:31])
    dark.mean[5, 5] = 1000 + 7.5 * sigma
    out = verdict(evidence(dark=(dark, 250)))
    assert not out.flags[5, 5]
    assert out.doubtful[5, 5] == OFFSET
    assert ((out.flags & ~out.doubtful) == 0).all()


@pytest.mark.parametrize("feature", ["dark", "lit"])
def test_a_larger_cut_flags_a_subset(feature):
    rng = np.random.default_rng(3)
    dark, cell = moments(), lit_cell()
    dark.mean[...] += rng.standard_t(2, SHAPE) * 8
    dark.m2[...] *= 1 + rng.exponential(0.5, SHAPE)
    cell.mean[...] += rng.standard_t(2, SHAPE) * 0.3
    cell.above[...] += rng.poisson(rng.exponential(3, SHAPE))
    seen = evidence(dark=(dark, 250)) if feature == "dark" else evidence(lit=[cell])
    before = None
    for cut in (4.0, 6.0, 8.0, 12.0):
        chosen = structs.replace(SETTINGS, fit=Fit(cut=cut, clear_cut=3.0))
        flags = verdict(seen, settings=chosen).flags
        assert flags.any()
        if before is not None:
            assert ((flags & ~before) == 0).all()
        before = flags


def test_a_larger_cut_flags_more_inseparable_pixels():
    gain = [(moments(1, 4000, 20), 250), (moments(2, 4300, 20), 250)]
    n = []
    for cut in (4.0, 8.0, 12.0):
        chosen = structs.replace(SETTINGS, fit=Fit(cut=cut, clear_cut=3.0))
        n.append(int((verdict(evidence(gain=gain), settings=chosen).flags & SEPARATION > 0).sum()))
    assert n[0] == 0 < n[1] < n[2]


def test_separation_waits_for_every_stage():
    low, high = (moments(1, 4000, 20), 250), (moments(2, 9000, 20), 250)
    assert verdict(evidence(gain=[low, None])).judged == LEVEL
    assert verdict(evidence(gain=[low, (high[0], 150)])).judged == LEVEL
    assert verdict(evidence(stage=1, gain=[low, None])).judged == BadPixel(0)
    assert verdict(evidence(gain=[low, high])).judged == LEVEL | SEPARATION


def test_separation_shows_on_the_maps_of_both_stages():
    low, high = moments(1, 4000, 20), moments(2, 9000, 20)
    low.mean[9, 9] = 9000
    for stage, expected in ((0, SEPARATION | LEVEL), (1, SEPARATION)):
        out = verdict(evidence(stage=stage, gain=[(low, 250), (high, 250)]))
        assert np.argwhere(out.flags).tolist() == [[9, 9]]
        assert bits(out, 9, 9) == expected


def test_lit_outliers_in_the_mean_and_in_either_rate():
    cell = lit_cell()
    cell.mean[5, 5] = 3
    cell.mean[6, 6] = -3
    cell.above[7, 7] = 50
    cell.below[8, 8] = 50
    out = verdict(evidence(lit=[cell]))
    assert {tuple(p) for p in np.argwhere(out.flags == LIT).tolist()} == {(5, 5), (6, 6), (7, 7), (8, 8)}
    assert out.judged == LIT
    assert [m.name for m in out.maps] == ["lit SNR", "lit rate above", "lit rate below"]


def test_a_share_below_min_share_does_no_harm():
    cell = lit_cell(judged=1000)
    cell.above[...] = 0
    cell.above[7, 7] = 19  # of 1000: far outside, but below 0.02
    cell.above[8, 8] = 21
    out = verdict(evidence(lit=[cell._replace(mean_frames=1000, share_frames=1000)]))
    assert np.argwhere(out.flags).tolist() == [[8, 8]]


def test_flat_and_sample_both_speak():
    flat, sample = lit_cell(1), lit_cell(2)
    flat.mean[5, 5] = 4
    sample.above[6, 6] = 100
    out = verdict(evidence(lit=[flat, sample]))
    assert np.argwhere(out.flags).tolist() == [[5, 5], [6, 6]]
    assert len(out.maps) == 6


def test_a_pixel_with_few_frames_is_no_data_in_the_dark():
    dark = moments()
    for y, n in ((4, 99), (5, 100)):
        dark.count[y, y] = n
        dark.m2[y, y] = 100 * (n - 1)
    out = verdict(evidence(dark=(dark, 250)))
    assert np.argwhere(out.flags).tolist() == [[4, 4]]
    assert bits(out, 4, 4) == NO_DATA
    assert out.doubtful[4, 4] == NO_DATA


def test_a_tile_that_cannot_be_fitted_is_no_data_and_its_neighbour_is_judged():
    dark = moments()
    dark.mean[:32] = 500.0
    out = verdict(evidence(dark=(dark, 250)))
    inner = ~TINY.edge()
    assert (out.flags[:32][inner[:32]] == NO_DATA).all()
    assert not out.flags[32:].any()


def test_lit_says_nothing_of_tiles_and_pixels_it_did_not_see():
    cell = lit_cell()
    for a in cell[:5]:
        a[:32] = np.nan if a.dtype.kind == "f" else 0
    cell.judged[40, 10] = cell.count[40, 10] = 3
    out = verdict(evidence(lit=[cell]))
    assert not out.flags.any()
    assert out.judged == LIT


def test_excluded_pixels_take_no_part_and_get_no_bit():
    """Over half of a tile far away would pull any fit; excluded, it changes nothing."""
    excluded = TINY.edge()
    excluded[2:8, 2:30] = True
    plain, dark = moments(), moments()
    dark.mean[excluded] = 1e6
    dark.m2[excluded] = 0
    dark.count[excluded] = 0
    cell, gain = lit_cell(), moments(4, 4000, 20)
    for a in (cell.mean, gain.mean):
        a[excluded] = 1e5
    seen = evidence(dark=(dark, 250), gain=[(gain, 250), (gain, 250)], lit=[cell], excluded=excluded)
    out, bare = verdict(seen), verdict(evidence(dark=(plain, 250), excluded=excluded))
    assert not out.flags[excluded].any()
    assert not out.doubtful[excluded].any()
    np.testing.assert_array_equal(out.maps[0].model, bare.maps[0].model)
    assert np.isnan(out.maps[0].values[excluded]).all()


def test_unchanged_evidence_gives_identical_bytes():
    seen = evidence(dark=(moments(), 250), lit=[lit_cell()])
    one, two = verdict(seen), verdict(seen)
    assert one.flags.tobytes() == two.flags.tobytes()
    for a, b in zip(one.maps, two.maps):
        assert a.snr.tobytes() == b.snr.tobytes()


def test_nothing_of_the_evidence_is_changed():
    dark, cell = moments(), lit_cell()
    for a in (*dark, *cell[:5]):
        a.flags.writeable = False
    verdict(evidence(dark=(dark, 250), lit=[cell]))


def test_spots_of_the_sample_are_held_back_and_lone_pixels_are_not():
    for sample in (True, False):
        cell = lit_cell()._replace(sample=sample)
        cell.mean[9:11, 9:11] = 4.0  # a spot
        cell.mean[20, 20] = 4.0  # a pixel
        cell.mean[25:27, 25] = -4.0  # below is no spot
        out = verdict(evidence(lit=[cell]))
        flagged = {tuple(p) for p in np.argwhere(out.flags == LIT).tolist()}
        spot = {(9, 9), (9, 10), (10, 9), (10, 10)}
        assert flagged == {(20, 20), (25, 25), (26, 25)} | (set() if sample else spot)
        assert {tuple(p) for p in np.argwhere(out.suspected).tolist()} == (spot if sample else set())


def test_two_hot_pixels_side_by_side_are_no_spot():
    """A spot is wider than a pixel on all sides; 0.5 sigma stands for its flank, here that of a spot between two pixels."""
    for flank in (0.0, 0.5):
        cell = lit_cell()._replace(sample=True)
        cell.mean[9:12, 9:13] += flank
        cell.mean[10, 10:12] = 4.0
        out = verdict(evidence(lit=[cell]))
        assert (out.flags[10, 10:12] == LIT).all() == (flank == 0.0)
        assert out.suspected[10, 10:12].all() == (flank > 0.0)


def test_a_faint_spot_is_held_back_though_none_of_its_neighbours_is_high():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for height, held in ((1.0, True), (0.0, False)):
        cell = lit_cell()._replace(sample=True)
        cell.mean[9:12, 9:12] = 0
        cell.mean[...] += 0.9 * height * np.exp(-0.5 * ((y - 10) ** 2 + (x - 10) ** 2) / 0.7**2)
        cell.mean[10, 10] = 0.9
        out = verdict(evidence(lit=[cell]))
        assert (bool(out.suspected[10, 10]), out.flags[10, 10] == LIT) == (held, not held)


def test_beside_an_edge_the_flank_of_a_spot_is_held_back_and_a_hot_pixel_is_not():
    cell = lit_cell()._replace(sample=True)
    cell.mean[1:3, 8:23] = 0
    cell.mean[1, 10], cell.mean[2, 10] = 1.5, 0.6  # a spot that lies on the edge
    cell.mean[1, 20] = 1.5
    out = verdict(evidence(lit=[cell]))
    assert (bool(out.suspected[1, 10]), int(out.flags[1, 10])) == (True, 0)
    assert out.flags[1, 20] == LIT


def test_a_shadow_is_no_bad_pixel_and_one_or_two_dark_pixels_are():
    for sample in (True, False):
        cell = lit_cell()._replace(sample=sample)
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        shadow = np.hypot(y - 10, x - 10) < 6
        cell.mean[shadow] -= 1.0
        cell.mean[25, 25] = cell.mean[27, 4] = cell.mean[27, 5] = -1.5
        out = verdict(evidence(lit=[cell]))
        assert (out.flags[[25, 27, 27], [25, 4, 5]] == LIT).all()
        assert out.flags[shadow].any() != sample


def test_what_is_far_off_only_beside_its_tile_is_listed_as_suspected():
    cell, x = lit_cell()._replace(sample=True), np.arange(32)
    cell.mean[...] = cell.mean / 10 + 8 * np.exp(-0.5 * ((x - 16) / 0.6) ** 2)
    out = verdict(evidence(lit=[cell]))
    assert not out.flags.any()
    assert out.suspected[3:29, 16].mean() > 0.9


def test_the_shape_in_the_mean_holds_for_the_rate_above():
    cell = lit_cell()._replace(sample=True)
    cell.mean[5:7, 5:7] = 4.0
    cell.above[5, 5] = 60
    cell.below[6, 6] = 60
    out = verdict(evidence(lit=[cell]))
    assert np.argwhere(out.flags).tolist() == [[6, 6]]


def test_spot_shaped_like_its_twin():
    rng = np.random.default_rng(2)
    for _ in range(20):
        snr = rng.normal(0, 4, (9, 11))
        snr[rng.random(snr.shape) < 0.1] = np.nan
        elsewhere = np.isnan(snr) & (rng.random(snr.shape) < 0.5)
        hidden = rng.random(snr.shape) < 0.2
        found, expected = spot_shaped(3 * snr, elsewhere, hidden), naive.spot_shaped(3 * snr, elsewhere, hidden)
        np.testing.assert_array_equal(found, expected)


# ---- outliers.py ----------------------------------------------------------------------------------------------------------


def test_tiles_are_those_of_the_table():
    sizes = {name: {(b - t, r - left) for t, b, left, r in tiles(detector(name), (64, 64))} for name in DETECTORS}
    assert sizes["agipd1m"] == sizes["jungfrau4m"] == {(64, 64)}
    cspad = replace(TINY_CALIBRATED, module_shape=(185, 388), asic_shape=(185, 194))
    assert {(b - t, r - left) for t, b, left, r in tiles(cspad, (64, 64))} == {(92, 64), (92, 65), (93, 64), (93, 65)}


def test_judge_says_how_far_each_pixel_is_like_its_twin():
    values = np.random.default_rng(1).normal(100, 2, SHAPE)
    values[5, 5] += 40
    values[9] = np.nan
    found = judge(values, tiles(TINY, (64, 64)))
    model, scale = naive_planes.write_map(values, tiles(TINY, (64, 64)), 0.5, 3.0, naive.consistency(3.0), 0.0)
    np.testing.assert_allclose(found.snr, (values - model) / scale, atol=0.05, rtol=0.01)
    assert np.isnan(found.snr[9]).all()
    assert np.isfinite(found.model[9]).all()


def test_mark_like_its_twin(rng):
    snr = np.concatenate([rng.normal(0, 8, 200), [np.nan, np.inf, -np.inf, 8.0, -8.0, 7.0]])
    asked, staying = rng.random((2, len(snr))) < 0.8
    for both_sides in (False, True):
        flags, doubtful = rng.integers(0, 64, (2, len(snr))).astype(np.uint8)
        expected = naive.mark(snr, asked, staying, 8.0, 7.0, both_sides, 16, flags, doubtful)
        marks.mark(snr, asked, staying, 8.0, 7.0, both_sides, np.uint8(16), flags, doubtful)
        assert [flags.tolist(), doubtful.tolist()] == expected


def test_scale_of_a_share_where_nothing_may_be_flagged_is_only_made_when_asked_for():
    """The binomial scale costs more than the fit; explaining a pixel shows it all the same."""
    seen = evidence(lit=[lit_cell()])
    quick, whole = judge_map(TINY, SETTINGS, seen), judge_map(TINY, SETTINGS, seen, whole=True)
    np.testing.assert_array_equal(quick.flags, whole.flags)
    np.testing.assert_array_equal(quick.doubtful, whole.doubtful)
    shares = {m.name: m for m in whole.maps}["lit rate above"]
    known = np.isfinite(shares.scale)
    assert (shares.scale[known] >= (1 / 251) ** 0.5 / 251**0.5).all()
    np.testing.assert_array_equal(shares.snr[known], ((shares.values - shares.model) / shares.scale)[known])


def test_a_share_that_falls_below_the_least_stays_doubtful_until_half_of_it():
    """The frames behind a share come and go in whole slots of the window: 20 of 1,000 are 20 of 900 a moment later."""
    cell = lit_cell()
    cell = cell._replace(judged=np.full(SHAPE, 1000), above=np.zeros(SHAPE, np.int64), share_frames=1000)
    for column, above in enumerate((20, 19, 11, 9)):
        cell.above[5, 5 + 4 * column] = above
    out = verdict(evidence(lit=[cell]))
    at = 5, [5, 9, 13, 17]
    assert (out.flags[at] & LIT != 0).tolist() == [True, False, False, False]
    assert (out.doubtful[at] & LIT != 0).tolist() == [True, True, True, False]


def test_a_pixel_that_has_just_begun_to_flicker_is_seen_in_the_last_part_of_the_window():
    cell, none = lit_cell(), np.zeros(SHAPE, np.int64)
    recent = np.full(SHAPE, 300), none.copy(), none
    recent[1][5, 5], recent[1][9, 9] = 9, 7
    cell = cell._replace(judged=np.full(SHAPE, 1000), above=recent[1], share_frames=1000)
    assert not verdict(evidence(lit=[cell])).flags[5, 5]
    out = verdict(evidence(lit=[cell._replace(recent=recent, recent_frames=300)]))
    assert [bits(out, 5, 5), bits(out, 9, 9)] == [LIT, 0]
    out = verdict(evidence(lit=[cell._replace(recent=recent, recent_frames=199)]))
    assert not out.flags.any(), "too few frames to speak"


def test_on_sample_data_a_pixel_among_the_lines_through_it_is_as_it_should_be():
    """A steep streak beside an ASIC's edge: far from the neighbourhood, but not from what runs through."""
    cell, x = lit_cell()._replace(sample=True), np.arange(32)
    cell.mean[...] = cell.mean / 10 + 8 * np.exp(-0.5 * ((x - 16) / 1.5) ** 2)
    cell.mean[20, 5] += 3
    out = verdict(evidence(lit=[cell]))
    assert np.argwhere(out.flags).tolist() == [[20, 5]]
    assert not out.suspected[20, 5]
    assert out.suspected.any()
