"""The simulated detector: frames of a portrait with planted defects, the same ones for the same seed.

It is demo, fixture, benchmark and training; `defects.py` says what is planted, `truth.py` writes it down. Knows no
socket and no clock: the time of a train is its place in the plan.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..frames import Exposure, FrameBatch, Illumination
from .defects import marks, paint, plant
from .plan import Plan
from .portrait import (
    FRAMES,
    RealMaps,
    Recipe,
    StageMaps,
    asic_grid,
    check_real,
    draw_maps,
    draw_response,
    generator,
    over_asics,
    recipe_for,
)
from .scene import Planting, high, scene
from .spots import add_spots

#: Below so many photons per pixel they are drawn one by one (Poisson); above, a Gaussian of the same width will do.
FEW_PHOTONS = 10.0


class SimulatedDetector:
    """Some modules of a detector. `defects`, `planted`: the truth, complete before the first frame.

    defects: rows of `scene.TABLE`. planted: (modules, stages, cells, ss, fs) uint8, 0 where a pixel is good, 1 where a
    defect may show, 2 where the measured maps that frames are drawn from call the pixel odd.
    """

    def __init__(
        self,
        spec: DetectorSpec,
        plan: Plan,
        *,
        modules: tuple[int, ...] = (0,),
        cells: range | None = None,
        seed: int = 1,
        recipe: Recipe | None = None,
        planting: Planting | None = None,
        settings: Settings | None = None,
        real: RealMaps | None = None,
        start: float = 1_700_000_000.0,
    ):
        """settings: of the maker that will judge the frames, for the SNR of the truth. real: measured dark maps to draw
        from, without common mode. start: Unix time of the first train, s.

        Raises DataError where the measured maps do not fit the detector.
        """
        self.spec, self.plan, self.modules, self.seed, self.start = spec, plan, tuple(modules), seed, start
        self.cells = range(spec.cells) if cells is None else cells
        self.recipe = recipe or recipe_for(spec, **({"common_mode": 0.0} if real is not None else {}))
        self.real = None if real is None else check_real(spec, real)
        self.scene = scene(spec, self.recipe, plan, planting or Planting(), seed, self.real, settings)
        self.defects = plant(self.scene, self.modules, self.cells)
        self._maps: dict[tuple[int, int], _Readout] = {}
        self._response: dict[int, NDArray] = {}

    @property
    def planted(self) -> NDArray:
        return marks(self.scene, self.defects, self.modules, self.cells)

    def __iter__(self) -> Iterator[FrameBatch]:
        for batches in self.trains():
            yield from batches

    def trains(self) -> Iterator[list[FrameBatch]]:
        """The trains of the plan, each one batch per module, all cells, exposure as the plan has it."""
        for place, (train_id, exposure) in enumerate(self.plan.trains()):
            timestamp = self.start + place / self.plan.rate_hz
            yield [self.train(module, train_id, exposure, timestamp) for module in self.modules]

    def train(self, module: int, train_id: int, exposure: Exposure, timestamp: float) -> FrameBatch:
        """One train of one module. Any order of calls gives the same frames."""
        stage = exposure.gain_stage or 0
        rng = generator(self.seed, module, train_id, FRAMES)
        pixels, gain = self._draw(module, stage, exposure, train_id, rng)
        n = len(self.cells)
        return FrameBatch(
            module=module,
            pixels=pixels,
            gain=gain,
            cell=np.array(self.cells, np.uint16),
            train_id=np.full(n, train_id, np.uint64),
            complete=np.ones(n, bool),
            timestamp=timestamp,
            exposure=exposure,
            labelled_by="stream",
        )

    def _draw(self, module: int, stage: int, exposure: Exposure, train_id: int, rng: np.random.Generator):
        """(pixels, gain): noise on offset and light, defects, then the digitiser."""
        readout = self._readout(module, stage)
        maps = readout.maps
        values = rng.standard_normal(maps.offset.shape, dtype=np.float32)
        switched = None
        if exposure.illumination.lit:
            signal = self._light(module, stage, exposure, train_id, readout, values, rng)
            if exposure.gain_stage is None and exposure.illumination is Illumination.SAMPLE:
                switched = np.flatnonzero(signal > self.recipe.switch_adu)
            values += signal
        else:
            values *= maps.noise
        values += maps.offset
        if self.recipe.common_mode:
            values += over_asics(
                self.spec, self.recipe.common_mode * rng.standard_normal((len(self.cells), *asic_grid(self.spec)))
            )
        gain = self._indicator(readout, stage, rng)
        if switched is not None and len(switched):
            self._switch(module, values, signal, gain, switched, rng)
        if exposure.illumination.lit:
            flat = values.reshape(-1)
            on = readout.hot["onset_train"] <= train_id
            flat[readout.hot_at[on]] += readout.hot["magnitude"][on]
            on = high(self.scene, readout.flickering, module, train_id)
            flat[readout.flickering_at[on]] += readout.flickering["extra"][on]
        pixels = self._digitise(values)
        pixels.reshape(-1)[readout.fixed_at] = readout.fixed
        return pixels, gain

    def _light(self, module, stage, exposure, train_id, readout, values, rng) -> NDArray:
        """Signal in ADU, (cells, ss, fs) float32; `values`, standard normals, become the noise that belongs to it."""
        recipe, maps = self.recipe, readout.maps
        if module not in self._response:
            self._response[module] = draw_response(self.spec, recipe, self.seed, module)
        shape = 1 / recipe.intensity_spread**2 if recipe.intensity_spread else 0
        energy = rng.gamma(shape, 1 / shape, len(self.cells)) if shape else np.ones(len(self.cells))
        flat = exposure.illumination is Illumination.FLAT
        mean = recipe.flat_photons if flat else recipe.sample_photons
        photons = self._response[module] * (mean * energy).astype(np.float32)[:, None, None]
        if not flat:
            add_spots(photons, recipe, rng)
        on = readout.cold["onset_train"] <= train_id
        photons.reshape(-1)[readout.cold_at[on]] *= readout.cold["magnitude"][on]
        per_photon = np.float32(recipe.adu_per_photon[stage])
        if mean < FEW_PHOTONS or self.spec.counting:
            values *= maps.noise
            return rng.poisson(photons).astype(np.float32) * per_photon
        photons *= per_photon
        width = photons * per_photon
        width += readout.variance
        np.sqrt(width, out=width)
        values *= width
        return photons

    def _switch(self, module, values, signal, gain, at, rng) -> None:
        """Pixels with more signal than their stage takes are read in the next one, in place."""
        following = self._readout(module, 1)
        recipe, maps = self.recipe, following.maps
        noise = maps.noise.reshape(-1)[at] * rng.standard_normal(len(at), dtype=np.float32)
        ratio = np.float32(recipe.adu_per_photon[1] / recipe.adu_per_photon[0])
        values.reshape(-1)[at] = maps.offset.reshape(-1)[at] + signal.reshape(-1)[at] * ratio + noise
        if gain is not None:
            gain.reshape(-1)[at] = np.rint(maps.level.reshape(-1)[at]).astype(gain.dtype)

    def _indicator(self, readout: "_Readout", stage: int, rng: np.random.Generator) -> NDArray | None:
        """(cells, ss, fs) uint16 ADC value, or uint8 code; None where the detector sends neither."""
        maps = readout.maps
        if maps.level is None:
            return None
        if self.spec.gain == "code":
            code = maps.level.astype(np.uint8)
            wrong = rng.random(len(readout.unsure), dtype=np.float32) < readout.unsure["magnitude"]
            neighbour = 1 if stage == 0 else stage - 1
            code.reshape(-1)[readout.unsure_at[wrong]] = self.spec.gain_codes[min(neighbour, len(self.spec.stages) - 1)]
            return code
        level = rng.standard_normal(maps.level.shape, dtype=np.float32)
        level *= maps.level_noise
        level += maps.level
        return _rounded(level, (1 << self.spec.bits or 16) - 1, np.dtype(np.uint16))

    def _digitise(self, values: NDArray) -> NDArray:
        """ADU as the detector would send them: whole numbers within its range; calibrated frames stay floats."""
        return values if self.spec.calibrated else _rounded(values, self.scene.top, self.spec.dtype)

    def _readout(self, module: int, stage: int) -> "_Readout":
        """The maps of a stage with its defects painted in; those of other stages are let go, all but the next one."""
        if (module, stage) not in self._maps:
            for key in [key for key in self._maps if key[0] == module and abs(key[1] - stage) > 1]:
                del self._maps[key]
            chosen = (self.defects["module"] == module) & (self.defects["gain_stage"] == stage)
            self._maps[module, stage] = _readout_of(self, module, stage, self.defects[chosen])
        return self._maps[module, stage]


@dataclass(frozen=True, slots=True)
class _Readout:
    """One module in one stage: its maps, and the defects that act on single frames with their flat places."""

    maps: StageMaps
    variance: NDArray  # noise squared, ADU^2
    fixed_at: NDArray
    fixed: NDArray
    hot: NDArray
    hot_at: NDArray
    cold: NDArray
    cold_at: NDArray
    flickering: NDArray
    flickering_at: NDArray
    unsure: NDArray
    unsure_at: NDArray


def _readout_of(detector: SimulatedDetector, module: int, stage: int, rows: NDArray) -> _Readout:
    spec, cells = detector.spec, detector.cells
    shifted = rows[np.isin(rows["kind"], [b"offset", b"gain_level"])]
    typical = (shifted["cell"].astype(np.int64) - cells[0], shifted["ss"], shifted["fs"])
    maps = draw_maps(spec, detector.recipe, detector.seed, module, stage, cells, typical)
    if detector.real is not None:
        maps.offset[:], maps.noise[:] = detector.real.offset[stage], detector.real.rms[stage]
    paint(detector.scene, maps, rows, cells[0])

    def of(kind: str) -> tuple[NDArray, NDArray]:
        chosen = rows[rows["kind"] == kind.encode()]
        cell = chosen["cell"].astype(np.int64) - cells[0]
        return chosen, np.ravel_multi_index((cell, chosen["ss"], chosen["fs"]), maps.offset.shape)

    _, dead_at = of("dead")
    stuck, stuck_at = of("stuck")
    own = detector._digitise(maps.offset.reshape(-1)[dead_at].copy())
    fixed = np.concatenate([own, stuck["magnitude"].astype(spec.dtype)])
    return _Readout(
        maps,
        np.square(maps.noise),
        np.concatenate([dead_at, stuck_at]),
        fixed,
        *of("hot"),
        *of("cold"),
        *of("flickering"),
        *of("gain_separation"),
    )


def _rounded(values: NDArray, top: int, dtype: np.dtype) -> NDArray:
    """float32, overwritten, -> whole numbers 0 to top."""
    np.rint(values, out=values)
    np.clip(values, 0, top, out=values)
    return values.astype(dtype)
