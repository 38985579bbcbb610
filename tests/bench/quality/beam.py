"""Detector and light of the run: geometry, water ring, jet streak, beam-stop shadow. What every frame has in common.

One AGIPD-like module (Allahgholi et al. 2015) with the beam near one side, so that it sees from the beam stop to 2.1 Angstrom.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rmm_stream.detectors import DetectorSpec

ADU_PER_PHOTON = 60.0
SATURATION = (1 << 14) - 1

SPEC = DetectorSpec(
    name="module of the quality benchmark",
    modules=1,
    module_shape=(384, 256),
    asic_shape=(64, 64),
    stages=("high",),
    bits=14,
    saturation=SATURATION,
    adu_per_photon=ADU_PER_PHOTON,
)

WAVELENGTH = 1.333  # Angstrom; 9.3 keV, section 4.1 of the paper
DISTANCE = 80.0  # mm
PIXEL = 0.2  # mm
CENTRE = (190.3, 22.7)  # (ss, fs), pixels, where the beam would hit the module

WATER_RINGS = ((1.95, 0.22, 2.5), (2.75, 0.35, 1.1))  # centre and sd in q, 1/Angstrom; photons per pixel at the top
SMALL_ANGLE = (0.35, 2.0)  # decay in q; photons at q = 0
AIR = 0.4  # photons per pixel, everywhere
STREAK = (60.0, 2.0, 8.0)  # decay along it and sd across it, pixels; photons at its foot
STREAK_ANGLE = np.deg2rad(68.0)  # from the fast-scan axis
STOP_RADIUS, STEM, STOP_BLUR = 24.0, 5.0, 1.5  # pixels
STOP_LEAK = 0.02  # of the light behind the beam stop


@dataclass(frozen=True)
class Beam:
    """What lights the module beside crystals. ring, streak, stop: whether each is there."""

    ring: bool = True
    streak: bool = True
    stop: bool = True
    spec: DetectorSpec = SPEC

    @cached_property
    def places(self) -> tuple[NDArray, NDArray]:
        """(y, x), each (ss, fs) float64: pixels from the beam."""
        ss, fs = self.spec.module_shape
        y, x = np.mgrid[:ss, :fs].astype(np.float64)
        return y - CENTRE[0], x - CENTRE[1]

    @cached_property
    def radius(self) -> NDArray:
        """(ss, fs) float32, pixels."""
        return np.hypot(*self.places).astype(np.float32)

    @cached_property
    def q(self) -> NDArray:
        """(ss, fs) float64: 4 pi sin(theta) / lambda, 1/Angstrom."""
        return 4 * np.pi / WAVELENGTH * np.sin(np.arctan(self.radius.astype(np.float64) * PIXEL / DISTANCE) / 2)

    @cached_property
    def smooth(self) -> tuple[NDArray, NDArray, NDArray]:
        """(photons, along ss, along fs), (ss, fs) float64: light of solvent and air without the stop; its slopes per pixel."""
        decay, top = SMALL_ANGLE
        photons = AIR + top * np.exp(-self.q / decay)
        if self.ring:
            for middle, width, height in WATER_RINGS:
                photons += height * np.exp(-0.5 * ((self.q - middle) / width) ** 2)
        return photons, *np.gradient(photons)

    @cached_property
    def passes(self) -> NDArray:
        """(ss, fs) float64: share of the light that comes past the beam stop and its stem. The stop stays, the beam moves."""
        if not self.stop:
            return np.ones(self.spec.module_shape)
        y, x = self.places
        inside = np.maximum(STOP_RADIUS - np.hypot(y, x), np.where(x < 0, STEM - np.abs(y), -np.inf))
        return 1 - (1 - STOP_LEAK) / (
            1 + np.exp(-inside / STOP_BLUR * 1.7)
        )  # 1.7: a logistic much like a Gaussian edge

    @cached_property
    def shadow(self) -> NDArray:
        """(ss, fs) bool: pixels that get less than nine tenths of the light. Not defective: an analysis masks them by hand."""
        return self.passes < 0.9

    def streak_light(self, strength: float, turn: float) -> NDArray:
        """(ss, fs) float64 photons: the streak of the jet. turn: rad, from where it mostly is."""
        y, x = self.places
        decay, width, top = STREAK
        angle = STREAK_ANGLE + turn
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        return strength * top * np.exp(-np.abs(along) / decay - 0.5 * (across / width) ** 2)

    @cached_property
    def typical(self) -> NDArray:
        """(ss, fs) float64: expected photons per pixel and frame, without crystals."""
        return (self.smooth[0] + (self.streak_light(1.0, 0.0) if self.streak else 0.0)) * self.passes

    def light(self, rng: np.random.Generator) -> tuple[NDArray, tuple[float, float]]:
        """(photons, shift): expected photons of one shot, (ss, fs) float64, and by how many pixels (ss, fs) the beam is off."""
        energy, thickness = rng.gamma(44.0, 1 / 44.0), rng.lognormal(0.0, 0.2)  # 15 %, 20 %
        dy, dx = rng.normal(0.0, 0.3, 2)
        photons, by_y, by_x = self.smooth
        photons = (photons - dy * by_y - dx * by_x) * thickness
        strength, turn = rng.lognormal(0.0, 0.5), rng.normal(0.0, np.deg2rad(1.0))
        if self.streak:
            photons += self.streak_light(strength, turn)
        return np.maximum(photons, 0.0) * (energy * self.passes), (dy, dx)
