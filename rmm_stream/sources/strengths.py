"""How strong each planted defect is: its magnitude, drawn so that the |SNR| spreads over a range, and that SNR.

One function per kind of defect; each fills the columns magnitude, extra and snr of its rows. The formulas are those of
`snr.py`. Knows nothing of places, frames or files.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..mask import BadPixel
from . import snr
from .portrait import Scales, profile
from .scene import Scene, high


def _spread(scene: Scene, count: int, rng: np.random.Generator) -> NDArray:
    """|SNR|, evenly on a logarithmic scale."""
    weakest, strongest = np.log([scene.planting.weakest, scene.planting.strongest])
    return np.exp(rng.uniform(weakest, strongest, count))


def _at(scales: Scales, block: NDArray) -> Scales:
    """The scales of the pixels of a block, where they are arrays."""
    return Scales(*(s[block["ss"], block["fs"]] if np.ndim(s) else s for s in scales))


def _offset(scene: Scene, scales: Scales, block: NDArray, rng: np.random.Generator) -> None:
    """Mean dark value off its ASIC's plane by SNR times the width of F2's map, either sign.

    A measured pixel is moved further to the side on which it is, so that its SNR is at least what is written.
    """
    frames = scene.judged.dark[block["gain_stage"][0]] if len(block) else 1
    sigma = snr.offset_sigma(_at(scales, block), frames, scene.spec.counting)
    shift = _spread(scene, len(block), rng) * sigma
    if scene.spec.counting:
        shift = np.ceil(shift)
    elif scales.own is not None:
        shift = np.copysign(shift, _at(scales, block).own)
    else:
        shift *= rng.choice([-1.0, 1.0], len(block))
    block["magnitude"], block["snr"] = shift, np.abs(shift) / sigma


def _noise(scene: Scene, scales: Scales, block: NDArray, rng: np.random.Generator) -> None:
    """Noise so large that the sd over frames is off F3's level by SNR times the width of F3's map.

    A counter has no negative counts: half of a Gaussian keeps 0.584 of its sd, so it is drawn wider.
    """
    frames = scene.judged.dark[block["gain_stage"][0]] if len(block) else 1
    common = scene.recipe.common_mode
    level, sigma = snr.noise_sigma(_at(scales, block), common, frames, scene.spec.counting)
    block["snr"] = _spread(scene, len(block), rng)
    block["magnitude"] = np.sqrt(np.square(level + block["snr"] * sigma) - common**2 - snr.ROUNDING)
    if scene.spec.counting:
        block["magnitude"] /= math.sqrt(0.5 - 0.5 / math.pi)


def _dead(scene: Scene, scales: Scales, block: NDArray, rng: np.random.Generator) -> None:
    """Always the same value, its own offset: sd is 0, a rule, so the SNR is infinite."""
    block["snr"] = np.inf


def _stuck(scene: Scene, scales: Scales, block: NDArray, rng: np.random.Generator) -> None:
    """Always the largest value: without data where the detector names a saturation, else off in offset and sd."""
    block["magnitude"], block["snr"] = scene.top, np.inf


def _gain_level(scene: Scene, scales: Scales, block: NDArray, rng: np.random.Generator) -> None:
    """Indicator off by SNR times the width of F5's map, at most a quarter of the way to the next stage.

    A code: always a wrong one, SNR = distance of the codes over 1/6; so a code off by one is below the cut of 8."""
    if not len(block):
        return
    stage, levels = int(block["gain_stage"][0]), np.asarray(scene.recipe.levels)
    if scene.code:
        wrong = rng.choice(np.delete(levels, stage), len(block)) if len(levels) > 1 else np.full(len(block), levels[0])
        block["magnitude"], block["snr"] = wrong, np.abs(wrong - levels[stage]) / snr.CODE_FLOOR
        block["expected"] |= np.uint8(BadPixel.GAIN_SEPARATION)
        return
    sigma = snr.level_sigma(scene.recipe, scene.judged.dark[stage], code=False)
    most = 0.25 * np.diff(levels).min() if len(levels) > 1 else np.inf
    shift = np.minimum(_spread(scene, len(block), rng) * sigma, most)
    block["magnitude"], block["snr"] = shift * rng.choice([-1.0, 1.0], len(block)), shift / sigma


def _gain_separation(scene: Scene, scales: Scales, block: NDArray, rng: np.random.Generator) -> None:
    """Indicator so noisy, 1.5 to 5 times the sd at which the bands touch, that the bands of two stages overlap.

    A code: it reads the neighbour's in 5 to 50 % of the frames. SNR: `snr.separation`, `snr.code_separation`."""
    if not len(block):
        return
    stage, recipe, cut = int(block["gain_stage"][0]), scene.recipe, scene.judged.cut
    other = 1 if stage == 0 else stage - 1
    gap = abs(recipe.levels[other] - recipe.levels[stage])
    frames = min(scene.judged.dark[stage], scene.judged.dark[other])
    if scene.code:
        share = rng.uniform(0.05, 0.5, len(block))
        block["magnitude"], block["snr"] = share, snr.code_separation(gap, share, cut, frames)
        return
    touching = gap / cut - recipe.level_noise
    wide = touching * np.exp(rng.uniform(np.log(1.5), np.log(5), len(block)))
    block["magnitude"], block["snr"] = wide, snr.separation(gap, wide, recipe.level_noise, cut, frames)


def _lit(scene: Scene, scales: Scales, block: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """(photons per pixel and frame, ADU of one frame sigma, frames in which the defect is there) of each pixel."""
    photons = scene.judged.photons * profile(scene.spec)[block["ss"], block["fs"]]
    sigma = snr.frame_sigma(scene.spec, scene.recipe, _at(scales, block), photons, scene.judged.dark[0])
    judged = scene.judged
    since = np.maximum(block["onset_train"].astype(np.int64), judged.first)
    every = max(1, (judged.last - judged.first + 1) // max(judged.lit, 1))
    return photons, sigma, (judged.last + 1 - since) // every


def _strongest(scene: Scene, scales: Scales, block: NDArray, shift: NDArray, frames: NDArray) -> NDArray:
    """The larger of the SNRs of F6's mean and of its share, for pixels off by `shift` sigmas in `frames` frames."""
    photons, sigma, _ = _lit(scene, scales, block)
    judged, recipe = scene.judged, scene.recipe
    mean = snr.lit_mean(shift, frames, recipe, photons, sigma, _at(scales, block), judged.dark[0], judged)
    return np.maximum(mean, snr.lit_share(shift, np.minimum(frames, judged.window), judged))


def _hot(scene: Scene, scales: Scales, block: NDArray, rng: np.random.Generator) -> None:
    """Reads so many ADU more in every lit frame. The strength is spread for the mean; a late onset dilutes it."""
    photons, sigma, frames = _lit(scene, scales, block)
    judged = scene.judged
    unit = snr.lit_mean(1.0, judged.lit, scene.recipe, photons, sigma, _at(scales, block), judged.dark[0], judged)
    shift = _spread(scene, len(block), rng) / unit
    if block["onset_train"].any():
        shift *= judged.lit / np.maximum(frames, 1)  # so that a late one is as strong at the end as an early one
    block["magnitude"], block["snr"] = shift * sigma, _strongest(scene, scales, block, shift, frames)


def _cold(scene: Scene, scales: Scales, block: NDArray, rng: np.random.Generator) -> None:
    """Answers light with 0 to 0.5 of what a good pixel does; found only where the photons suffice."""
    photons, sigma, frames = _lit(scene, scales, block)
    response = rng.uniform(0.0, 0.5, len(block))
    shift = -(1 - response) * scene.recipe.adu_per_photon[0] * photons / sigma
    block["magnitude"], block["snr"] = response, _strongest(scene, scales, block, shift, frames)


def _flickering(scene: Scene, scales: Scales, block: NDArray, rng: np.random.Generator) -> None:
    """10 to 30 frame sigmas high in 2 to 50 % of the frames, at random. The SNR comes from `count_flickers`."""
    _, sigma, _ = _lit(scene, scales, block)
    block["magnitude"] = np.exp(rng.uniform(np.log(0.02), np.log(0.5), len(block)))
    block["extra"] = sigma * rng.uniform(10.0, 30.0, len(block))


def count_flickers(scene: Scene, scales: list[Scales], table: NDArray) -> NDArray:
    """Fill in the SNR of flickering pixels, from the frames of the lit stretch, and of its window, that are high."""
    judged = scene.judged
    if not judged.lit:
        return table
    for module in np.unique(table["module"]):
        at = np.flatnonzero((table["module"] == module) & (table["kind"] == b"flickering"))
        rows = table[at]
        if not len(rows):
            continue
        every = max(1, (judged.last - judged.first + 1) // judged.lit)
        total, window = np.zeros(len(rows)), np.zeros(len(rows))
        for train_id in range(judged.first, judged.last + 1):
            now = high(scene, rows, int(module), train_id)
            total += now
            if train_id > judged.last - judged.window * every:
                window += now
        photons, sigma, _ = _lit(scene, scales[0], rows)
        shift, here = rows["extra"] / sigma, _at(scales[0], rows)
        mean = snr.lit_mean(shift, total / every, scene.recipe, photons, sigma, here, judged.dark[0], judged)
        table["snr"][at] = np.maximum(mean, snr.lit_share(shift, window / every, judged))
    return table


#: kind -> function(scene, scales of the stage, rows, rng), filling the rows in place.
STRENGTH: dict[str, Callable] = {
    "offset": _offset,
    "noise": _noise,
    "dead": _dead,
    "stuck": _stuck,
    "gain_level": _gain_level,
    "gain_separation": _gain_separation,
    "hot": _hot,
    "cold": _cold,
    "flickering": _flickering,
}
