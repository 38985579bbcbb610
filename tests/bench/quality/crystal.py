"""A protein crystal in the beam: points of a real reciprocal lattice that lie near the Ewald sphere, as spots on the module.

Tetragonal lysozyme. One table of intensities for all crystals: Wilson statistics (exponential), Laue group 4/mmm, falling
with resolution. Knows no pixel noise and no defects.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .beam import CENTRE, DISTANCE, PIXEL, WAVELENGTH

CELL = (79.1, 79.1, 37.9)  # Angstrom
FINEST = 2.0  # Angstrom; no reflection beyond
WILSON_B = 20.0  # Angstrom^2
WIDTH = 0.0012  # 1/Angstrom: how thick the points are, from mosaicity, divergence and bandwidth
SPOT = 0.7  # pixels, sd of a spot
REACH = 3  # pixels around the middle into which a spot is painted
FAINT = 1.0  # photons; weaker spots are left out
TYPICAL = 60.0  # photons in a whole reflection of average intensity at low angles, of a median crystal
SPREAD = 1.0  # logarithmic sd of the crystals' strengths


class Spots(NamedTuple):
    """Spots on the module. ss, fs: (n,) float64, pixels. photons: (n,) expected. hkl: (n, 3) int64."""

    ss: NDArray
    fs: NDArray
    photons: NDArray
    hkl: NDArray

    def some(self, chosen: NDArray) -> "Spots":
        return Spots(*(a[chosen] for a in self))


@dataclass(frozen=True)
class Crystal:
    """rotation: (3, 3), of the lattice. strength: photons of an average reflection in full."""

    rotation: NDArray
    strength: float


@lru_cache
def reflections(seed: int = 79) -> tuple[NDArray, NDArray, NDArray]:
    """(hkl, points, intensity): (n, 3) int64; (n, 3) float64, 1/Angstrom, unrotated; (n,), mean 1 at low angles."""
    most = [int(edge / FINEST) for edge in CELL]
    h, k, line = (np.arange(-m, m + 1) for m in most)
    hkl = np.stack(np.meshgrid(h, k, line, indexing="ij"), -1).reshape(-1, 3)
    points = hkl / np.array(CELL)
    length = np.linalg.norm(points, axis=1)
    keep = (length > 0) & (length < 1 / FINEST)
    hkl, points, length = hkl[keep], points[keep], length[keep]
    table = np.random.default_rng(seed).exponential(1.0, (most[0] + 1, most[1] + 1, most[2] + 1))
    a, b, c = np.abs(hkl).T
    intensity = table[np.maximum(a, b), np.minimum(a, b), c] * np.exp(-WILSON_B * length**2 / 2)
    return hkl, points, intensity


def random_crystal(rng: np.random.Generator) -> Crystal:
    """Any orientation, evenly (a random unit quaternion), and a strength."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    return Crystal(rotation, TYPICAL * rng.lognormal(0.0, SPREAD))


def diffract(crystal: Crystal, shape: tuple[int, int], shift: tuple[float, float] = (0.0, 0.0)) -> Spots:
    """The spots of a still on a module of `shape` (ss, fs), with the beam off by `shift` (ss, fs) pixels.

    A point s diffracts by how near s + k0 is to the sphere of radius 1/lambda; k0 along z, fast scan along x."""
    hkl, points, intensity = reflections()
    s = points @ crystal.rotation.T
    k = s + np.array([0.0, 0.0, 1 / WAVELENGTH])
    off = np.linalg.norm(k, axis=1) - 1 / WAVELENGTH
    near = (np.abs(off) < 4 * WIDTH) & (k[:, 2] > 0)
    hkl, k, off, intensity = hkl[near], k[near], off[near], intensity[near]
    fs = CENTRE[1] + shift[1] + k[:, 0] / k[:, 2] * DISTANCE / PIXEL
    ss = CENTRE[0] + shift[0] + k[:, 1] / k[:, 2] * DISTANCE / PIXEL
    photons = crystal.strength * intensity * np.exp(-0.5 * (off / WIDTH) ** 2)
    on = (ss > REACH) & (ss < shape[0] - 1 - REACH) & (fs > REACH) & (fs < shape[1] - 1 - REACH) & (photons > FAINT)
    return Spots(ss, fs, photons, hkl).some(on)


def paint(spots: Spots, shape: tuple[int, int]) -> NDArray:
    """(ss, fs) float64: expected photons of the spots."""
    grid = np.arange(-REACH, REACH + 1)
    i, j = np.rint(spots.ss).astype(int), np.rint(spots.fs).astype(int)
    y = np.exp(-0.5 * ((grid + (i - spots.ss)[:, None]) / SPOT) ** 2)
    x = np.exp(-0.5 * ((grid + (j - spots.fs)[:, None]) / SPOT) ** 2)
    each = y[:, :, None] * x[:, None, :]
    each *= (spots.photons / each.sum((1, 2)))[:, None, None]
    out = np.zeros(shape)
    np.add.at(out, (i[:, None, None] + grid[:, None], j[:, None, None] + grid), each)
    return out
