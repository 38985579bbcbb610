"""How far a planted defect stands from the good pixels, computed from what is planted: the SNR of the truth table.

Each function gives the |SNR| at which the maker should see the defect (F2 to F6 of the paper), from the numbers of the
portrait and the number of frames in the plan; the frames themselves are not looked at. Arguments may be arrays.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..detectors.spec import COUNTING_FLOOR
from .plan import Plan
from .portrait import Recipe, Scales

CODE_FLOOR = 1 / 6  # sigma floor of F5 where the indicator is a code
ROUNDING = 1 / 12  # variance of a rounding error


@dataclass(frozen=True, slots=True)
class Judging:
    """What the defects are judged on.

    dark: frames per cell, by stage. lit: frames per cell under light; first, last: train ids of that stretch.
    window: frames in the time window of the lit rate. snr, min_share: its cuts. clip: largest SNR of one frame in the
    mean (infinite on a flat field). cut: of F4. photons: mean photons per pixel in the middle of the module.
    """

    dark: tuple[int, ...]
    lit: int
    first: int
    last: int
    window: int
    snr: float
    min_share: float
    clip: float
    cut: float
    photons: float


def judging(spec: DetectorSpec, recipe: Recipe, plan: Plan, settings: Settings) -> Judging:
    """What the plan offers to a maker with these settings."""
    lit, rate = settings.features.lit, settings.features.lit_rate
    dark = tuple(plan.dark_frames(stage) for stage in range(len(spec.stages)))
    stretch = plan.lit()
    if stretch is None:
        return Judging(dark, 0, 0, 0, 0, rate.snr, rate.min_share, lit.clip, settings.fit.cut, 0.0)
    segment, first = stretch
    frames = segment.trains // lit.every_train
    flat = segment.exposure.illumination.value == "flat"
    return Judging(
        dark=dark,
        lit=frames,
        first=first,
        last=first + segment.trains - 1,
        window=min(frames, lit.span_frames, max(1, int(lit.span_s * plan.rate_hz / lit.every_train))),
        snr=rate.snr,
        min_share=rate.min_share,
        clip=math.inf if flat else lit.clip,
        cut=settings.fit.cut,
        photons=recipe.flat_photons if flat else recipe.sample_photons,
    )


def offset_sigma(scales: Scales, frames: int, counting: bool) -> NDArray:
    """ADU, width of F2's map: sqrt(spread^2 + (noise^2 + 1/12)/T). Common mode is in the plane."""
    sigma = np.sqrt(np.square(scales.offset_spread) + (np.square(scales.noise) + ROUNDING) / max(frames, 1))
    return np.maximum(sigma, COUNTING_FLOOR) if counting else sigma


def noise_sigma(scales: Scales, common_mode: float, frames: int, counting: bool) -> tuple[NDArray, NDArray]:
    """(ADU, ADU), level and width of F3's map.

    A pixel's sd is s = sqrt(n^2 + c^2 + 1/12), n its noise and c the common mode. n differs by `noise_spread` between
    pixels, which moves s by n*(n*noise_spread)/s; T frames estimate it to sqrt((n^4 + 2 n^2 c^2)/(2(T-1)))/s, the
    sampling error of the common mode itself being common to the tile.
    """
    n2 = np.square(scales.noise) + ROUNDING
    level = np.sqrt(n2 + common_mode**2)
    sampling = (n2**2 + 2 * n2 * common_mode**2) / (2 * max(frames - 1, 1))
    sigma = np.sqrt(np.square(n2 * scales.noise_spread) + sampling) / level
    return level, np.maximum(sigma, COUNTING_FLOOR) if counting else sigma


def level_sigma(recipe: Recipe, frames: int, code: bool) -> float:
    """ADU or code, width of F5's map: sqrt(level_spread^2 + level_noise^2/T); 1/6 where the indicator is a code."""
    if code:
        return CODE_FLOOR
    return math.sqrt(recipe.level_spread**2 + (recipe.level_noise**2 + ROUNDING) / max(frames, 1))


def separation(gap: float, wide: NDArray, other: float, cut: float, frames: int) -> NDArray:
    """F4 for an analogue indicator: how clearly the bands of two stages overlap, in standard errors.

    The rule is cut*(sd_g + sd_(g+1)) > gap; its margin divided by its own error from T frames,
    sqrt((sd_g^2 + sd_(g+1)^2) * (cut^2/(2(T-1)) + 1/T)). Negative: the bands are apart. wide, other: sd, ADU.
    """
    variance = np.square(wide) + other**2
    error = np.sqrt(variance * (cut**2 / (2 * max(frames - 1, 1)) + 1 / max(frames, 1)))
    return (cut * (np.asarray(wide) + other) - gap) / error


def code_separation(gap: float, share: NDArray, cut: float, frames: int) -> NDArray:
    """F4 for a code that reads its neighbour's in a share q of the frames, in standard errors.

    Mean q*gap and sd gap*sqrt(q(1-q)) give the margin gap*(cut*sqrt(q(1-q)) - (1-q)); its error is the derivative by q
    times the binomial error sqrt(q(1-q)/T).
    """
    sd = np.sqrt(share * (1 - share))
    margin = cut * sd - (1 - share)
    slope = np.abs(cut * (1 - 2 * share) / (2 * sd) + 1)
    return margin / np.maximum(slope * sd / math.sqrt(max(frames, 1)), 1 / max(frames, 1))


def frame_sigma(spec: DetectorSpec, recipe: Recipe, scales: Scales, photons: NDArray, dark_frames: int) -> NDArray:
    """ADU, width of a tile in one lit frame: noise, error of the dark offset, photon noise, unequal answers to light.

    sqrt((noise^2 + 1/12)*(1 + 1/T_dark) + a^2*m + (response_spread*a*m)^2); a ADU per photon, m photons per pixel.
    """
    a = recipe.adu_per_photon[0]
    dark = 0.0 if spec.calibrated and not dark_frames else 1 / max(dark_frames, 1)
    variance = (np.square(scales.noise) + ROUNDING) * (1 + dark) + a * a * photons
    return np.sqrt(variance + np.square(recipe.response_spread * a * photons))


def lit_mean(
    shift: NDArray, frames: NDArray, recipe: Recipe, photons, sigma, scales: Scales, dark: int, judged: Judging
):
    """F6, mean: |shift| (in sigmas of a frame, clipped) times the share of frames that show it, over the map's width.

    The width is the spread of good pixels' mean SNR: their unequal answers to light (response_spread*a*m/sigma), the
    error of the dark offset (noise/sigma/sqrt(T_dark)), and 1/sqrt(T). frames: how many of the T show the shift.
    """
    answers = recipe.response_spread * recipe.adu_per_photon[0] * photons / sigma
    offsets = np.square(scales.noise / sigma) / max(dark, 1)
    width = np.sqrt(np.square(answers) + offsets + 1 / max(judged.lit, 1))
    return np.minimum(np.abs(shift), judged.clip) * frames / max(judged.lit, 1) / width


def lit_share(shift: NDArray, frames: NDArray, judged: Judging) -> NDArray:
    """F6, share of frames beyond `snr`: the share over the binomial width 1/n of a tile in which good pixels have none.

    A frame that is off by `shift` sigmas passes the cut with probability b = Phi(|shift| - snr). A share counts only if
    it stays above min_share by three binomial errors. frames: how many of the last n (the window) show the shift.
    """
    n = max(judged.window, 2)
    beyond = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)), otypes=[float])(np.abs(shift) - judged.snr)
    count = np.asarray(frames) * beyond
    safe = count - 3 * np.sqrt(count * (1 - beyond)) >= judged.min_share * n
    return np.where(safe, (count / n) / math.sqrt((1 / n) * (1 - 1 / n) / n), 0.0)
