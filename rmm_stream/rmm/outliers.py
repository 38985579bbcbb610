"""Values of a map -> model, scale and SNR (eq. 1), tile by tile within ASICs (sections 2.3 and 3.1).

Knows neither features nor flags: whether an SNR is too large (eq. 2) is decided by who asked.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Fit
from ..detectors import DetectorSpec
from .kernels import planes, robust


class Judgement(NamedTuple):
    """Four (ss, fs) float64 maps: x(i), robust mean, robust sigma, SNR(i) of eq. (1); the last three nan where unfit."""

    values: NDArray
    model: NDArray
    scale: NDArray
    snr: NDArray


class RobustFit(NamedTuple):
    """Robust mean and sigma of a set of values; sigma_raw is before the consistency factor. nan: could not be fitted."""

    mean: float
    sigma: float
    sigma_raw: float


@lru_cache
def consistency(lambda_fit: float) -> float:
    """C of docs/method.md 2.1: MSSE with a finite lambda_fit cuts the tails of the Gaussian; sigma = C * sigma_raw."""
    s = 1.0
    for _ in range(200):
        t = lambda_fit * s
        density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
        s = math.sqrt(1 - 2 * t * density / math.erf(t / math.sqrt(2)))
    return 1 / s


@lru_cache
def tiles(spec: DetectorSpec, tile: tuple[int, int]) -> NDArray:
    """The tiles of a module, (n, 4) int64: first and last + 1 row, first and last + 1 column. None crosses an ASIC edge.

    Per ASIC side of length L there are max(1, L // tile) tiles, as equal as can be (docs/method.md 5).
    """
    borders = []
    for axis, side in enumerate(tile):
        spans = []
        for first, last in spec.asics(axis):
            n = max(1, (last - first) // side)
            at = [first + q * (last - first) // n for q in range(n + 1)]
            spans += zip(at, at[1:])
        borders.append(spans)
    return np.array([(*rows, *columns) for rows in borders[0] for columns in borders[1]], np.int64)


BINNED_FROM = 4000  # values; of so many one more or less among the inliers is less than 0.002 sigma


def fit_1d(values: NDArray, fit: Fit = Fit(), floor: float = 0.0) -> RobustFit:
    """Robust mean and sigma of values (Appendix A); nan among them takes no part. nan where fewer than 20 are left.

    From BINNED_FROM values on they are counted in bins, which is exact for integers, else to 0.002 sigma.
    """
    x = np.asarray(values, np.float64).reshape(-1)
    factor = consistency(fit.lambda_fit)
    if x.size >= BINNED_FROM and (found := _binned(x, fit)) is not None:
        mean, sigma_raw = found
        return RobustFit(mean, robust.final_sigma(sigma_raw, factor, float(floor), mean), sigma_raw)
    x = x.copy()
    x.sort()
    room = np.empty(3 * x.size + 2)
    return RobustFit(*robust.fit_values(x, room, fit.structure, fit.certain, fit.lambda_fit, factor, float(floor)))


def _binned(x: NDArray, fit: Fit) -> tuple[float, float] | None:
    """Robust mean and sigma_raw by counting; None where that cannot be done."""
    low, high = np.minimum.reduce(x), np.maximum.reduce(x)
    if not -np.inf < low <= high < np.inf:
        x = x[np.isfinite(x)]
        if x.size < BINNED_FROM:
            return None
        low, high = np.minimum.reduce(x), np.maximum.reduce(x)
    if not 1e-290 < high - low < 1e290:  # a constant, or what no bins can cover
        return None
    x = x.view()
    x.flags.writeable = False  # one signature for all
    mean, sigma_raw, done = robust.fit_binned(x, low, high, fit.structure, fit.certain, fit.lambda_fit)
    return (mean, sigma_raw) if done else None


def judge(values: NDArray, where: NDArray, fit: Fit = Fit(), floor: float = 0.0) -> Judgement:
    """Fit a plane to each tile of a map and say how far each pixel is from it.

    values: (ss, fs) float64, nan where a pixel takes no part. where: tiles, (n, 4) int64. floor: least sigma believed.
    """
    values = np.ascontiguousarray(values, np.float64)
    model, scale = np.full((2, *values.shape), np.nan)  # what lies between the tiles stays so
    planes.fit_tiles(
        values, where, fit.structure, fit.lambda_fit, consistency(fit.lambda_fit), float(floor), model, scale
    )
    return Judgement(values, model, scale, (values - model) / scale)
