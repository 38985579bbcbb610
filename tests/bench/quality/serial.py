"""The run: darks, then sample frames, each drawn from the seed and its number, in any order, and never stored as a whole."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmm_stream.frames import Exposure, FrameBatch, Illumination

from .beam import ADU_PER_PHOTON, SATURATION, SPEC, Beam
from .crystal import Crystal, Spots, diffract, paint, random_crystal
from .defects import Defects, Readout, plant

OFFSET, ASIC_SPREAD, OFFSET_SPREAD = 4000.0, 200.0, 12.0  # ADU
NOISE, NOISE_SPREAD = 12.0, 0.05  # ADU; relative sd between pixels
RESPONSE_SPREAD = 0.01
COMMON_MODE = 15.0  # ADU, per ASIC and frame
HIT_RATE = 0.25
RATE_HZ = 100.0  # so that a time window is bounded by frames, as at a fast detector
FOUND = 3.0  # photons in a spot from which on a peak there is a true one
SPOT_PIXEL = 5.0  # photons of a spot in a pixel from which on the pixel matters
BEAM = Beam()
DARK, SAMPLE = Exposure(Illumination.DARK, 0), Exposure(Illumination.SAMPLE, 0)


class Frame(NamedTuple):
    """number: from 0, of the sample frames; darks count from -1 downwards. pixels: (ss, fs) uint16, ADU.

    hit: a crystal was in the beam. spots: its spots. spot_pixels: (n,) flat places of the pixels that matter."""

    number: int
    pixels: NDArray
    hit: bool
    spots: Spots | None
    spot_pixels: NDArray


@dataclass(frozen=True, eq=False)
class Run:
    """darks, frames: how many. share: of the usual numbers of defects, 0: none. hit_rate: of the frames.

    resting: a crystal that stays in the beam, instead of new ones; the hit rate is then 1. planted: defects instead of those
    that are drawn."""

    seed: int = 1
    darks: int = 300
    frames: int = 4000
    share: float = 1.0
    hit_rate: float = HIT_RATE
    beam: Beam = BEAM
    resting: Crystal | None = None
    planted: Defects | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return SPEC.module_shape

    @cached_property
    def good(self) -> Readout:
        """The module as it should be: ASICs of different level, each tilted."""
        rng = np.random.default_rng((self.seed, 0))
        asics = tuple(side // asic for side, asic in zip(self.shape, SPEC.asic_shape))
        y, x = (((np.arange(side) % asic) - asic / 2) for side, asic in zip(self.shape, SPEC.asic_shape))
        offset = OFFSET + over_asics(rng.normal(0, ASIC_SPREAD, asics)) + rng.normal(0, OFFSET_SPREAD, self.shape)
        offset += over_asics(rng.normal(0, 0.3, asics)) * y[:, None] + over_asics(rng.normal(0, 0.3, asics)) * x
        noise = NOISE * rng.normal(1, NOISE_SPREAD, self.shape)
        response = rng.normal(1, RESPONSE_SPREAD, self.shape)
        return Readout(offset, noise, response, OFFSET_SPREAD, NOISE_SPREAD, RESPONSE_SPREAD)

    @cached_property
    def defects(self) -> Defects:
        if self.planted is not None:
            return self.planted
        rng = np.random.default_rng((self.seed, 1))
        table = plant(self.beam, self.good, self.darks, self.frames, rng, self.share or 1.0)
        return Defects(table if self.share else table[:0], self.shape)

    @cached_property
    def readout(self) -> Readout:
        return self.defects.readout(self.good)

    def dark(self, number: int) -> Frame:
        """The dark frame `number`, from 0."""
        rng = np.random.default_rng((self.seed, 2, number))
        return Frame(-1 - number, self._read(np.zeros(self.shape), rng), False, None, np.empty(0, np.int64))

    def is_hit(self, number: int) -> bool:
        rng = np.random.default_rng((self.seed, 3, number))
        return self.resting is not None or bool(rng.random() < self.hit_rate)

    def frame(self, number: int) -> Frame:
        """The sample frame `number`, from 0."""
        rng = np.random.default_rng((self.seed, 4, number))
        photons, shift = self.beam.light(rng)
        hit, spots, places = self.is_hit(number), None, np.empty(0, np.int64)
        if hit:
            crystal = self.resting or random_crystal(rng)
            if self.resting is not None:  # it stays, the pulses differ
                crystal = Crystal(crystal.rotation, crystal.strength * rng.gamma(44.0, 1 / 44.0))
            spots = diffract(crystal, self.shape, shift)
            spots = spots.some(self.beam.passes[np.rint(spots.ss).astype(int), np.rint(spots.fs).astype(int)] > 0.5)
            light = paint(spots, self.shape) * self.beam.passes
            places = np.flatnonzero(light > SPOT_PIXEL)
            photons += light
        photons *= self.good.response
        self.defects.dim(photons, number)
        return Frame(number, self._read(rng.poisson(photons) * ADU_PER_PHOTON, rng, number), hit, spots, places)

    def _read(self, signal: NDArray, rng: np.random.Generator, number: int | None = None) -> NDArray:
        """(ss, fs) uint16: signal, offset, noise, common mode, defects, digitiser."""
        values = rng.standard_normal(self.shape, dtype=np.float32) * self.readout.noise
        values += self.readout.offset
        values += signal
        asics = tuple(side // asic for side, asic in zip(self.shape, SPEC.asic_shape))
        values += over_asics(rng.normal(0, COMMON_MODE, asics))
        if number is not None:
            self.defects.shine(values, number, rng)
        self.defects.freeze(values, self.readout.offset)
        return np.rint(values).clip(0, SATURATION).astype(np.uint16)


def over_asics(values: NDArray) -> NDArray:
    """(ss, fs): one value per ASIC on all of its pixels."""
    return values.repeat(SPEC.asic_shape[0], 0).repeat(SPEC.asic_shape[1], 1)


def batch(frame: Frame, darks: int) -> FrameBatch:
    """A frame as the maker takes it. Train ids and times go on from the first dark to the last sample frame."""
    train = darks + frame.number if frame.number >= 0 else -1 - frame.number
    return FrameBatch(
        module=0,
        pixels=frame.pixels[None],
        gain=None,
        cell=np.zeros(1, np.uint16),
        train_id=np.array([train], np.uint64),
        complete=np.ones(1, bool),
        timestamp=1_700_000_000.0 + train / RATE_HZ,
        exposure=DARK if frame.number < 0 else SAMPLE,
        labelled_by="stream",
    )
