"""Laws 7, 9 and 10 of docs/method.md 6: scale and offset, the cut, fits of unchanged statistics; and what cannot be judged."""

import numpy as np
import pytest
from builders import TINY, TINY_PACKED, make_batch
from numpy.typing import NDArray

from rmm_stream.config import Features, Fit, Lit, Settings
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.mask import BadPixel, MapKey
from rmm_stream.rmm import MaskMaker
from rmm_stream.rmm.features import LitCell
from rmm_stream.rmm.outliers import fit_1d
from rmm_stream.rmm.stats import Moments
from rmm_stream.rmm.verdict import Evidence, judge_map

CUT = 8.0
FRAMES = 200


# ---- law 7 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 0.003, -1.0, -40.0])
@pytest.mark.parametrize("offset", [0.0, -5000.0])
def test_outliers_are_the_same_in_any_unit(factor, offset, rng):
    """Law 7, the mask: x -> s x + o, with the floor scaled by |s|. No ties, odd N."""
    for n, floor in ((21, 0.0), (225, 0.0), (599, 30.0)):
        x = rng.normal(100, 5, n)
        x[: int(0.4 * n)] += rng.uniform(-300, 900, int(0.4 * n))
        x = rng.permutation(x)
        one, two = fit_1d(x, floor=floor), fit_1d(factor * x + offset, floor=floor * abs(factor))
        assert two.mean == pytest.approx(factor * one.mean + offset, abs=1e-9 * one.sigma * abs(factor) + 1e-9)
        assert two.sigma == pytest.approx(abs(factor) * one.sigma, rel=1e-9)
        bad = np.abs(x - one.mean) > CUT * one.sigma
        assert bad.any()
        np.testing.assert_array_equal(np.abs(factor * x + offset - two.mean) > CUT * two.sigma, bad)


# ---- law 9 ------------------------------------------------------------------------------------------------------------


def moments(mean: NDArray, sd: NDArray) -> Moments:
    return Moments(np.full(mean.shape, FRAMES), mean, sd**2 * (FRAMES - 1))


def evidence(rng) -> Evidence:
    """One map with everything that a feature can look at, and pixels at all distances from the good ones in each."""
    shape = TINY.module_shape

    def spread(level: float, sigma: float, sign: bool = True) -> NDArray:
        snr = rng.normal(size=shape)
        bad = rng.random(shape) < 0.1
        snr[bad] += rng.uniform(3, 25, bad.sum()) * (rng.choice([-1, 1], bad.sum()) if sign else 1)
        return level + sigma * snr

    lit = LitCell(
        spread(0, 0.07),
        *(np.full(shape, FRAMES) for _ in range(2)),
        *(rng.binomial(FRAMES, np.where(rng.random(shape) < 0.1, rng.uniform(0, 0.5, shape), 0.01)) for _ in range(2)),
        FRAMES,
        FRAMES,
        np.zeros(shape, bool),
    )
    gain = [moments(spread(4000, 20), spread(20, 1, sign=False)), moments(spread(5000, 20), spread(20, 4, sign=False))]
    dark = moments(spread(1000, 20), spread(6, 0.3, sign=False))
    dark.m2[5, 5] = 0  # dead, whatever the cut
    return Evidence(0, (dark, FRAMES), [(g, FRAMES) for g in gain], [lit], TINY.edge())


def test_a_larger_cut_flags_a_subset_and_separates_less(rng):
    """Law 9. F4 goes the other way: wider bands overlap more."""
    falling = (BadPixel.OFFSET, BadPixel.NOISE, BadPixel.GAIN_LEVEL, BadPixel.LIT_SNR)
    seen = evidence(rng)
    verdicts = [judge_map(TINY, Settings(fit=Fit(cut=c, clear_cut=7)), seen) for c in (7, 8, 9.5, 12, 20)]
    assert verdicts[0].judged == BadPixel.GAIN_SEPARATION | sum(falling, BadPixel(0))
    for tighter, wider in zip(verdicts, verdicts[1:]):
        for flag in falling:
            assert not np.any(wider.flags & flag & ~tighter.flags), flag
            assert np.count_nonzero(wider.flags & flag) < np.count_nonzero(tighter.flags & flag), flag
        less, more = (v.flags & BadPixel.GAIN_SEPARATION for v in (tighter, wider))
        assert not np.any(less & ~more)
        np.testing.assert_array_equal(wider.doubtful, verdicts[0].doubtful)
    np.testing.assert_array_equal(verdicts[0].flags, verdicts[0].doubtful)
    assert np.count_nonzero(verdicts[-1].flags & BadPixel.GAIN_SEPARATION) > 0
    assert verdicts[-1].flags[5, 5] & BadPixel.NOISE


def test_excluded_pixels_get_no_feature_bits(rng):
    seen = evidence(rng)
    flags = judge_map(TINY, Settings(), seen).flags
    assert not flags[seen.excluded].any()


# ---- law 10 -----------------------------------------------------------------------------------------------------------

MANY = Settings(fit=Fit(min_frames=40), features=Features(lit=Lit(every_train=1)))
DARKS = [Exposure(Illumination.DARK, 0), Exposure(Illumination.DARK, 1)]
KEYS = [MapKey(0, stage, cell) for stage in (0, 1) for cell in range(TINY.cells)]


def fed(trains: range, cells=range(TINY.cells), maker: MaskMaker | None = None) -> MaskMaker:
    """A maker of TINY that has seen darks of both stages and flats of the first one, some pixels hot."""
    maker = MaskMaker(TINY, settings=MANY) if maker is None else maker
    for train in trains:
        for exposure in (*DARKS, Exposure(Illumination.FLAT, 0)):
            batch = make_batch(TINY, n=len(cells), cell=list(cells), train_id=train, exposure=exposure)
            batch.pixels[:, 10:14, 5:9] += np.uint16(train % 7 * 100)
            batch.gain[...] += np.uint16(2000 * exposure.gain_stage)
            maker.feed(batch)
    return maker


def as_bytes(fit) -> tuple[bytes, bytes, int, int]:
    return fit.flags.tobytes(), fit.doubtful.tobytes(), int(fit.judged), fit.frames


def test_a_fit_of_unchanged_statistics_gives_identical_bytes():
    maker = fed(range(45))
    before = {key: as_bytes(maker.fit(key)) for key in KEYS}
    restored = MaskMaker.restore(maker.state())
    assert any(flags.strip(b"\0") for flags, *_ in before.values())
    for key in KEYS:
        assert as_bytes(maker.fit(key)) == before[key]
        assert as_bytes(restored.fit(key)) == before[key]


def test_skipping_cells_without_news_changes_nothing():
    maker = fed(range(45))
    assert len(maker.fit_all()) == len(KEYS)
    assert maker.fit_all() == []
    assert maker.fit_due(limit=100) == []
    fed(range(45, 60), cells=[1], maker=maker)
    assert {fit.key.cell for fit in maker.fit_all()} == {1}
    skipped = maker.mask(0)
    for key in KEYS:
        maker.fit(key)
    whole = maker.mask(0)
    np.testing.assert_array_equal(skipped.flags, whole.flags)
    np.testing.assert_array_equal(skipped.judged, whole.judged)
    np.testing.assert_array_equal(skipped.frames, whole.frames)


# ---- what cannot be judged --------------------------------------------------------------------------------------------


def test_an_unfit_tile_gets_no_data_and_no_feature_bits(rng):
    """An integrating detector whose dark means are all equal has no scale: bit 64, and a hot pixel there stays unjudged."""
    seen = evidence(rng)
    dark = moments(np.full(TINY.module_shape, 1000.0), rng.normal(6, 0.3, TINY.module_shape))
    dark.mean[32:] += rng.normal(0, 20, dark.mean[32:].shape)
    dark.mean[3, 3] = 5000
    verdict = judge_map(TINY, Settings(), seen._replace(dark=(dark, FRAMES), gain=[None, None], lit=[]))
    used = ~seen.excluded
    assert verdict.judged == BadPixel.OFFSET | BadPixel.NOISE
    assert np.all(verdict.flags[:32][used[:32]] == BadPixel.NO_DATA)
    assert not np.any(verdict.flags[32:] & BadPixel.NO_DATA)
    assert not verdict.flags[~used].any()


def test_a_gain_code_has_a_floor_and_is_not_unfit(rng):
    """All good pixels have the same mean code: sigma 0 without the floor of 1/6 code."""
    spec = TINY_PACKED
    code = moments(np.full(spec.module_shape, 1.0), np.zeros(spec.module_shape))
    code.mean[4, 4] = 2.5
    seen = Evidence(1, None, [None, (code, FRAMES), None], [], spec.edge())
    verdict = judge_map(spec, Settings(), seen)
    assert verdict.judged == BadPixel.GAIN_LEVEL
    assert verdict.flags[4, 4] == BadPixel.GAIN_LEVEL
    assert np.count_nonzero(verdict.flags) == 1


@pytest.mark.parametrize("frames", [39, 40])
def test_nothing_is_judged_below_min_frames(frames):
    maker = fed(range(frames))
    maker.fit_all()
    judged = maker.mask(0).judged
    assert judged.all() == (frames == 40)
    assert judged.any() == (frames == 40)
