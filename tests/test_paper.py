"""The paper's own figures: Fig. 11, one-sided contamination, counting detectors, the insensitivity to lambda (Appendix B).

Each test prints what it found (`-s`). Where a figure speaks for robustness, the non-robust twin has to fail.
"""

from dataclasses import replace
from typing import NamedTuple

import nonrobust
import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from rmm_stream.config import Features, Fit, Lit, Settings
from rmm_stream.detectors import DetectorSpec
from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.mask import BadPixel, MapKey
from rmm_stream.rmm import MaskMaker
from rmm_stream.rmm.background import dither
from rmm_stream.rmm.features.noise import NOISE as NOISE_FEATURE
from rmm_stream.rmm.features.offset import OFFSET
from rmm_stream.rmm.keys import VALUES, DarkKey
from rmm_stream.rmm.outliers import Stack, fit_1d, tiles

CUT = 8.0
FRAMES = 200
EVERY_TRAIN = Settings(features=Features(lit=Lit(every_train=1)))
DARK, FLAT = Illumination.DARK, Illumination.FLAT


# ---- values -----------------------------------------------------------------------------------------------------------


def biases(samples: list[NDArray], mean: float, sigma: float) -> NDArray:
    """Mean error of (robust mean, sigma_raw, sigma, plain mean, plain sd) over samples."""
    found = []
    for x in samples:
        fit = fit_1d(x)
        found.append((fit.mean, fit.sigma_raw, fit.sigma, *nonrobust.fit_1d(x)))
    return np.mean(found, axis=0) - (mean, sigma, sigma, mean, sigma)


def test_figure_11(rng):
    """100 N(20, 5) among 50 U(-20, 180)."""
    samples = [np.concatenate([rng.normal(20, 5, 100), rng.uniform(-20, 180, 50)]) for _ in range(1000)]
    mean, raw, sigma, plain_mean, plain_sd = biases(samples, 20, 5)
    print(
        f"\nFig. 11, bias over 1000 trials: mean {mean:+.3f}, sigma_raw {raw:+.3f}, sigma {sigma:+.3f}; "
        f"non-robust {plain_mean:+.2f}, {plain_sd:+.2f}"
    )
    assert abs(mean) < 0.1
    assert abs(raw) < 0.45
    assert plain_mean > 10
    assert plain_sd > 10


@pytest.mark.parametrize(
    ("where", "share"), [("far", 0.1), ("far", 0.3), ("far", 0.45), ("+6 sd", 0.05), ("+6 sd", 0.2), ("+6 sd", 0.4)]
)
def test_one_sided_contamination(where, share, rng):
    """225 N(100, 5), a share of them shifted: far (by 50 to 5000) or by 6 sd."""
    samples = []
    for _ in range(1000):
        x = rng.normal(100, 5, 225)
        bad = int(share * x.size)
        x[:bad] += rng.uniform(50, 5000, bad) if where == "far" else 30
        samples.append(x)
    mean, raw, sigma, plain_mean, plain_sd = biases(samples, 100, 5)
    print(
        f"\n{where:5} {share:4.0%}, bias: mean {mean:+.3f}, sigma_raw {raw:+.3f}, sigma {sigma:+.3f}; "
        f"non-robust {plain_mean:+.1f}, {plain_sd:+.1f}"
    )
    assert abs(mean) < 0.1
    assert abs(raw) < 0.15
    assert abs(sigma) < 0.15
    assert plain_mean > 1
    assert plain_sd > 1


def test_the_consistency_factor_removes_the_bias_of_sigma(rng):
    mean, raw, sigma, *_ = biases([rng.normal(0, 1, 1001) for _ in range(1000)], 0, 1)
    print(f"\nclean Gaussian, N = 1001: mean {mean:+.4f}, sigma_raw {raw:+.4f}, sigma {sigma:+.4f}")
    assert abs(mean) < 0.005
    assert raw < -0.01
    assert abs(sigma) < 0.005


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_counts_below_ln_2_need_the_floor(rate, rng):
    """The fit seeks the mode: where more than half of the counts are 0 it is 0 +- 0, and 1/6 count is what is believed."""
    counts = rng.poisson(rate, 1024).astype(float)
    bare, floored = fit_1d(counts), fit_1d(counts, floor=1 / 6)
    assert (bare.mean, bare.sigma_raw) == (0, 0)
    assert np.isnan(bare.sigma)
    assert (floored.mean, floored.sigma) == (0, 1 / 6)


@pytest.mark.parametrize(("sd", "dithered"), [(0.3, 0.33), (0.5, 0.63), (0.8, 0.89), (1.5, 1.54)])
def test_dither_gives_integer_frames_a_scale(sd, dithered, rng):
    """Algorithm 2.3: planes of 64x64 integers; sigma before the consistency factor."""
    stack = Stack(np.array([[0, 64, 0, 64]]), Fit())
    stack.usable[:], stack.wanted[:] = 4096, 1
    found = {never_or_always: [] for never_or_always in (0, 1)}
    for _ in range(50):
        frame = np.rint(rng.normal(100, sd, (64, 64))).astype(np.float32)
        for share, sigmas in found.items():
            stack.fit((frame + share * dither((64, 64))).reshape(1, -1), stack.planes, stack.sigmas, stack.nearest)
            sigmas.append(np.nan_to_num(stack.sigmas[0]))
    raw, with_dither = (np.mean(s) for s in found.values())
    print(f"\nintegers of sd {sd}: sigma_raw {raw:.2f}, dithered {with_dither:.2f} +- {np.std(found[1]):.2f}")
    assert min(found[1]) > 0
    assert with_dither == pytest.approx(dithered, rel=0.1)


# ---- counting detectors -----------------------------------------------------------------------------------------------

COUNTER = DetectorSpec(
    name="counter", modules=1, module_shape=(384, 320), asic_shape=(64, 64), bits=12, counting=True, sentinels=(4095,)
)
KEY = MapKey(0, 0, 0)


def batch(pixels: NDArray, illumination: Illumination, gain: NDArray | None = None, stage: int = 0) -> FrameBatch:
    """Frames of one module and cell. pixels, gain: (n, ss, fs)."""
    n = len(pixels)
    return FrameBatch(
        module=0,
        pixels=pixels,
        gain=gain,
        cell=np.zeros(n, np.uint16),
        train_id=np.arange(n, dtype=np.uint64),
        complete=np.ones(n, bool),
        timestamp=0.0,
        exposure=Exposure(illumination, stage),
        labelled_by="config",
    )


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.2, 0.5, 0.69, 1, 2, 5])
def test_no_good_pixel_of_a_counting_detector_is_flagged(rate, rng):
    """Darks and flats of `rate` counts per pixel, with pixels that are hot in the dark, and pixels hot under light."""
    good = ~COUNTER.edge()
    places = rng.permutation(np.flatnonzero(good))[:400]
    hot_dark, hot_lit = places[:200], places[200:]
    good.flat[places] = False
    assert good.sum() >= 100_000
    dark = rng.poisson(rate, (FRAMES, *COUNTER.module_shape)).astype(np.uint16)
    flat = np.ascontiguousarray(dark[:, ::-1, ::-1])  # as random as the darks, and twice as fast
    dark.reshape(FRAMES, -1)[:, hot_dark] += rng.poisson(4, (FRAMES, 200)).astype(np.uint16)
    flat.reshape(FRAMES, -1)[:, hot_lit] += rng.poisson(2 + 2 * np.sqrt(rate), (FRAMES, 200)).astype(np.uint16)
    maker = MaskMaker(COUNTER, settings=EVERY_TRAIN)
    accepted = maker.feed(batch(dark, DARK)).accepted, maker.feed(batch(flat, FLAT)).accepted
    (fit,) = maker.fit_all()
    found_dark = (fit.flags.flat[hot_dark] & (BadPixel.OFFSET | BadPixel.NOISE)) > 0
    found_lit = (fit.flags.flat[hot_lit] & BadPixel.LIT_SNR) > 0
    false = int((fit.flags[good] != 0).sum())
    print(
        f"\n{rate} counts per pixel: {false} of {good.sum()} good pixels flagged; "
        f"hot in the dark {found_dark.sum()} of 200, under light {found_lit.sum()} of 200 found"
    )
    assert accepted == (FRAMES, FRAMES)
    assert fit.judged == BadPixel.OFFSET | BadPixel.NOISE | BadPixel.LIT_SNR
    assert false == 0
    assert found_dark.all()
    assert found_lit.all()


# ---- lambda, and what a non-robust mask misses ------------------------------------------------------------------------

SPEC = replace(AGIPD1M, modules=1, module_shape=(256, 128), cells=1, stages=("high",), gain="none")
NOISE = 6.0  # ADU, of good pixels
#: Sigma of good pixels in each feature: spread of offsets, error of a standard deviation, error of flat minus dark; ADU.
SIGMA = {
    BadPixel.OFFSET: 20.0,
    BadPixel.NOISE: NOISE / np.sqrt(2 * (FRAMES - 1)),
    BadPixel.LIT_SNR: NOISE * np.sqrt(2 / FRAMES),
}


class Module(NamedTuple):
    """What a module is: ADU in the dark, noise, light seen, each (ss, fs). planted: flag -> (ss, fs) bool."""

    offset: NDArray
    noise: NDArray
    light: NDArray
    planted: dict[BadPixel, NDArray]

    def frames(self, rng, light: bool = False) -> NDArray:
        """(FRAMES, ss, fs) uint16, ADU."""
        noise = rng.standard_normal((FRAMES, *self.noise.shape), np.float32) * self.noise.astype(np.float32)
        return np.rint(self.offset + self.light * light + noise).clip(0, 16382).astype(np.uint16)


def module(rng, shares: dict[BadPixel, float]) -> Module:
    """A module in which some share of the pixels has each defect, 15 to 150 sigma far, and none has two."""
    y, x = np.mgrid[: SPEC.module_shape[0], : SPEC.module_shape[1]]
    made = {
        BadPixel.OFFSET: rng.normal(4000, SIGMA[BadPixel.OFFSET], y.shape) + 0.3 * y - 0.2 * x,
        BadPixel.NOISE: np.full(y.shape, NOISE),
        BadPixel.LIT_SNR: np.full(y.shape, 100.0),
    }
    planted = {}
    places = rng.permutation(np.flatnonzero(~SPEC.edge()))
    for flag, share in shares.items():
        here, places = np.split(places, [int(share * (~SPEC.edge()).sum())])
        signs = 1 if flag is BadPixel.NOISE else rng.choice([-1, 1], here.size)
        made[flag].flat[here] += SIGMA[flag] * signs * np.geomspace(15, 150, here.size)
        planted[flag] = np.isin(np.arange(y.size), here).reshape(y.shape)
    return Module(*made.values(), planted)


def test_the_mask_hardly_depends_on_lambda(rng):
    """Appendix B: from 7 to 12 the found share of planted defects changes by less than 0.5 %, and no good pixel is bad."""
    seen = module(rng, {BadPixel.OFFSET: 0.03, BadPixel.NOISE: 0.03, BadPixel.LIT_SNR: 0.03})
    maker = MaskMaker(SPEC, settings=EVERY_TRAIN)
    maker.feed(batch(seen.frames(rng), DARK))
    maker.feed(batch(seen.frames(rng, light=True), FLAT))
    good = ~SPEC.edge() & ~np.logical_or.reduce(list(seen.planted.values()))
    found, false = [], []
    for cut in (7, 8, 9, 10, 11, 12):
        maker.settings = structs.replace(EVERY_TRAIN, fit=Fit(cut=cut, clear_cut=7))
        flags = maker.fit(KEY).flags
        found.append([np.mean((flags[where] & flag) > 0) for flag, where in seen.planted.items()])
        false.append(int((flags[good] != 0).sum()))
        print(
            f"\nlambda {cut}: found {np.mean(found[-1]):.2%} (offset, noise, lit: {np.round(found[-1], 4)}), "
            f"false {false[-1]} of {good.sum()}",
            end="",
        )
    assert np.ptp(np.mean(found, axis=1)) < 0.005
    assert np.ptp(found, axis=0).max() < 0.005
    assert np.min(found) > 0.99
    assert false == [0] * 6


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_the_non_robust_twin_fails_where_the_robust_fit_holds(share, rng):
    """Offset and noise, each with a share of the pixels 15 to 150 sigma off, judged at 8."""
    seen = module(rng, {BadPixel.OFFSET: share, BadPixel.NOISE: share})
    maker = MaskMaker(SPEC)
    maker.feed(batch(seen.frames(rng), DARK))
    (fit,) = maker.fit_all()
    moments = maker.dark[DarkKey(0, VALUES, 0)].moments(0)
    judged = ~SPEC.edge()
    for feature in (OFFSET, NOISE_FEATURE):
        planted = seen.planted[feature.flag]
        values = np.where(judged, feature.values(moments), np.nan)
        twin = np.abs(nonrobust.judge(values, tiles(SPEC, (64, 64))).snr) > CUT
        robust = (fit.flags & feature.flag) > 0
        found, twin_found = np.mean(robust[planted]), np.mean(twin[planted])
        false = int(robust[judged & ~planted].sum())
        print(
            f"\n{feature.name}, {share:.0%} bad: robust finds {found:.2%}, {false} false; twin finds {twin_found:.2%}",
            end="",
        )
        assert found >= 0.995
        assert false == 0
        assert twin_found < 0.5
