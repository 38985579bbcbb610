"""Moving Bragg spots for simulated sample frames: in a share of the frames, some spots of a few pixels, anywhere."""

import numpy as np
from numpy.typing import NDArray

from .portrait import Recipe

RADIUS = 2  # pixels; a spot is 5 x 5, with most of its photons in the middle 3 x 3
PHOTONS = (100.0, 1.0)  # median and logarithmic sd of the photons in one spot
MARGIN = RADIUS + 1


def add_spots(photons: NDArray, recipe: Recipe, rng: np.random.Generator) -> None:
    """Add spots to the expected photons of some frames, (frames, ss, fs) float32, in place."""
    ss, fs = photons.shape[1:]
    if min(ss, fs) <= 2 * MARGIN:
        return
    grid = np.arange(-RADIUS, RADIUS + 1)
    for frame in np.flatnonzero(rng.random(len(photons)) < recipe.hit_rate):
        for _ in range(rng.poisson(recipe.spots)):
            y, x = rng.uniform(MARGIN, ss - MARGIN), rng.uniform(MARGIN, fs - MARGIN)
            i, j = int(y), int(x)
            shape = np.exp(-((grid[:, None] + i - y) ** 2 + (grid + j - x) ** 2) / (2 * 0.8**2))
            total = rng.lognormal(np.log(PHOTONS[0]), PHOTONS[1])
            at = np.s_[frame, i - RADIUS : i + RADIUS + 1, j - RADIUS : j + RADIUS + 1]
            photons[at] += (total / shape.sum() * shape).astype(np.float32)
