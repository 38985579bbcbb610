"""The portrait of a healthy detector: what each good pixel reads in the dark and how it answers light.

Numbers are of the order that real detectors show (AGIPD, JUNGFRAU); every draw follows from the seed and the address of
the map, so that one module or cell can be drawn without the others. Knows nothing of defects, frames or files.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..errors import DataError

#: Last word of a seed: which of the draws of one address.
MAPS, RESPONSE, PLACES, PATTERN, FRAMES = range(5)

BEAM = 500.0  # pixels, sd of the flat field's profile


def generator(*seed: int) -> np.random.Generator:
    """A fast generator for one address: (seed, module, stage, cell, purpose)."""
    return np.random.Generator(np.random.SFC64(seed))


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers behind a portrait.

    offset: ADU, mean dark level. asic_spread: ADU, sd of the ASICs' levels. slope: ADU per pixel, sd of their tilts.
    offset_spread: ADU, sd of the pixels of an ASIC about its plane. noise: ADU, per stage. noise_spread: relative sd of
    the pixels' noise. levels: ADC value or code of the indicator, per stage. level_spread, level_noise: ADU.
    common_mode: ADU, shift of an ASIC from frame to frame. adu_per_photon: ADU, per stage. response_spread: relative sd
    of the pixels' answer to light. intensity_spread: relative sd of the pulse energy. flat_photons, sample_photons:
    photons per pixel in the middle. switch_adu: signal above which a free pixel takes the next stage.
    """

    offset: float
    asic_spread: float
    slope: float
    offset_spread: float
    noise: tuple[float, ...]
    noise_spread: float
    levels: tuple[float, ...]
    level_spread: float
    level_noise: float
    common_mode: float
    adu_per_photon: tuple[float, ...]
    response_spread: float = 0.01
    intensity_spread: float = 0.1
    flat_photons: float = 20.0
    sample_photons: float = 2.0
    hit_rate: float = 0.25
    spots: float = 12.0
    switch_adu: float = float("inf")


def recipe_for(spec: DetectorSpec, **changes) -> Recipe:
    """The usual numbers for a detector, scaled to its range of values; `changes` replace fields of the Recipe."""
    stages = len(spec.stages)
    unit = 2.0**spec.bits / 2**14 if spec.exact else 1.0  # the numbers below are those of a 14-bit ADC
    per_photon = spec.adu_per_photon or (1.0 if spec.counting else 10.0 * unit)
    if spec.gain == "code":
        levels, spread, noise = tuple(map(float, spec.gain_codes)), 0.0, 0.0
    else:
        levels, spread, noise = tuple(unit * (5000.0 + 2000.0 * g) for g in range(stages)), 10.0 * unit, 20.0 * unit
    quiet = spec.counting
    recipe = Recipe(
        offset=0.0 if quiet or spec.calibrated else 4000.0 * unit,
        asic_spread=0.0 if quiet else 200.0 * unit,
        slope=0.0 if quiet else 0.3 * unit,
        offset_spread=0.0 if quiet else 12.0 * unit,
        noise=(0.0,) * stages if quiet else tuple(unit * max(8.0 - 1.5 * g, 4.0) for g in range(stages)),
        noise_spread=0.05,
        levels=levels,
        level_spread=spread,
        level_noise=noise,
        common_mode=spec.common_mode,
        adu_per_photon=tuple(per_photon / 20.0**g for g in range(stages)),
        switch_adu=2500.0 * unit if stages > 1 else float("inf"),
    )
    return replace(recipe, **changes)


@dataclass(frozen=True, slots=True)
class StageMaps:
    """What the pixels of one module read in one gain stage, before any defect.

    offset, noise: (cells, ss, fs) float32, ADU. level, level_noise: the same of the indicator, ADU or code; None where
    the detector sends none. Mutable on purpose: defects are painted in, by their owner.
    """

    offset: NDArray
    noise: NDArray
    level: NDArray | None
    level_noise: NDArray | None


class Scales(NamedTuple):
    """How much good pixels differ from each other in the dark: numbers, or (ss, fs) arrays. ADU; noise_spread relative.

    own: (ss, fs) ADU, by how much a measured pixel is off its tile; None where a planted pixel is exactly typical.
    """

    offset_spread: NDArray | float
    noise: NDArray | float
    noise_spread: NDArray | float
    own: NDArray | None = None


class RealMaps(NamedTuple):
    """Measured dark maps to draw from instead of a recipe: (stages, ss, fs) float32, ADU; rms 0 is a constant pixel."""

    offset: NDArray
    rms: NDArray


def draw_maps(
    spec: DetectorSpec,
    recipe: Recipe,
    seed: int,
    module: int,
    stage: int,
    cells: range,
    typical: tuple[NDArray, NDArray, NDArray] | None = None,
) -> StageMaps:
    """The maps of good pixels: a level and a tilt per ASIC and cell, and a spread from pixel to pixel.

    typical: places (cell's place, ss, fs) of pixels that get no spread of their own, so that a defect painted there is
    exactly as strong as planned.
    """
    shape = (len(cells), *spec.module_shape)
    maps = StageMaps(
        np.empty(shape, np.float32),
        np.empty(shape, np.float32),
        *((np.empty(shape, np.float32), np.empty(shape, np.float32)) if spec.gain != "none" else (None, None)),
    )
    grid = asic_grid(spec)
    y, x = (
        ((np.arange(whole) % part) - (part - 1) / 2).astype(np.float32)
        for whole, part in zip(spec.module_shape, spec.asic_shape)
    )
    for at, cell in enumerate(cells):
        rng = generator(seed, module, stage, cell, MAPS)
        level, tilt_y, tilt_x = rng.standard_normal((3, *grid)) * [
            [[recipe.asic_spread]],
            [[recipe.slope]],
            [[recipe.slope]],
        ]
        plane = over_asics(spec, level) + over_asics(spec, tilt_y) * y[:, None] + over_asics(spec, tilt_x) * x
        own = np.ones(shape[1:], np.float32)
        if typical is not None:
            here = typical[0] == at
            own[typical[1][here], typical[2][here]] = 0
        maps.offset[at] = plane + recipe.offset + recipe.offset_spread * own * _normal(rng, shape[1:])
        maps.noise[at] = recipe.noise[stage] * np.maximum(1 + recipe.noise_spread * _normal(rng, shape[1:]), 0.5)
        if maps.level is not None:
            maps.level[at] = recipe.levels[stage] + recipe.level_spread * own * _normal(rng, shape[1:])
            maps.level_noise[at] = recipe.level_noise
    return maps


def draw_response(spec: DetectorSpec, recipe: Recipe, seed: int, module: int) -> NDArray:
    """(ss, fs) float32: photons on each pixel relative to the middle of the module, times its answer to light.

    The beam is wide: within a 64 x 64 tile its profile is a plane to 0.3 %.
    """
    rng = generator(seed, module, 0, 0, RESPONSE)
    return profile(spec) * (1 + recipe.response_spread * np.clip(_normal(rng, spec.module_shape), -4, 4))


def profile(spec: DetectorSpec) -> NDArray:
    """(ss, fs) float32: the illumination without the pixels' own answer; 1 in the middle, a Gaussian of sd BEAM pixels."""
    y, x = ((np.arange(n, dtype=np.float32) - (n - 1) / 2) / BEAM for n in spec.module_shape)
    return np.exp(-0.5 * (y[:, None] ** 2 + x**2), dtype=np.float32)


def asic_grid(spec: DetectorSpec) -> tuple[int, int]:
    """How many ASICs a module has along (ss, fs)."""
    return tuple(-(-whole // part) for whole, part in zip(spec.module_shape, spec.asic_shape))


def over_asics(spec: DetectorSpec, per_asic: NDArray) -> NDArray:
    """(..., rows, columns) one value per ASIC -> (..., ss, fs) float32, the value on each of its pixels."""
    spread = np.asarray(per_asic, np.float32).repeat(spec.asic_shape[0], axis=-2).repeat(spec.asic_shape[1], axis=-1)
    return spread[..., : spec.module_shape[0], : spec.module_shape[1]]


def check_real(spec: DetectorSpec, maps: RealMaps) -> RealMaps:
    """Measured maps as (stages, ss, fs) float32. Raises DataError where they do not fit the detector."""
    shape = (len(spec.stages), *spec.module_shape)
    out = []
    for name, array in zip(("offset", "rms"), maps):
        array = np.asarray(array, np.float32)
        if array.shape != shape and array.shape != spec.module_shape:
            raise DataError(f"{name} map of shape {array.shape}; {spec.name} needs {shape} or {spec.module_shape}")
        array = np.broadcast_to(array, shape)
        if not np.isfinite(array).all() or (name == "rms" and (array < 0).any()):
            raise DataError(f"{name} map holds values that are not finite, or below 0; set such pixels to rms 0")
        out.append(array)
    return RealMaps(*out)


def real_scales(spec: DetectorSpec, maps: RealMaps, stage: int) -> tuple[Scales, NDArray]:
    """Spread of measured maps, tile by tile, and the pixels that they call quiet.

    Returns Scales of (ss, fs) arrays and (ss, fs) bool, True where offset and rms are within 5 sd of the tile and the
    rms is not 0. The spread is 1.4826 times the median distance from the tile's median: a tilt widens it, so that SNRs
    computed from it err on the low side.
    """
    offset, rms = maps.offset[stage], maps.rms[stage]
    spread, level, relative, own = (np.ones(spec.module_shape, np.float32) for _ in range(4))
    quiet = rms > 0
    tile = tuple(min(64, part) for part in spec.asic_shape)
    for i in range(0, spec.module_shape[0], tile[0]):
        for j in range(0, spec.module_shape[1], tile[1]):
            at = np.s_[i : i + tile[0], j : j + tile[1]]
            here = rms[at] > 0
            if not here.any():
                continue
            middle, width = _median_mad(offset[at][here])
            noise, noise_width = _median_mad(rms[at][here])
            spread[at], level[at], relative[at], own[at] = width, noise, noise_width / noise, offset[at] - middle
            quiet[at] &= (np.abs(offset[at] - middle) < 5 * width) & (np.abs(rms[at] - noise) < 5 * noise_width)
    return Scales(spread, level, relative, own), quiet


def _median_mad(values: NDArray) -> tuple[float, float]:
    middle = float(np.median(values))
    return middle, max(1.4826 * float(np.median(np.abs(values - middle))), 1e-6)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    return rng.standard_normal(shape, dtype=np.float32)
