"""Values of a map -> model, scale and SNR (eq. 1), tile by tile within ASICs (sections 2.3 and 3.1).

Knows neither features nor flags: whether an SNR is too large (eq. 2) is decided by who asked.
"""

import math
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Fit
from ..detectors import DetectorSpec
from .kernels import planes, robust
from .kernels.compiled import aligned, read_only


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


BITS, FLOATS = Struct("=2q"), Struct("=2d")
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
    x = read_only(x)
    low, high = _extent(x)
    if not math.isfinite(low) or not math.isfinite(high):
        x = read_only(x[np.isfinite(x)])
        if x.size < BINNED_FROM:
            return None
        low, high = _extent(x)
    if not 1e-290 < high - low < 1e290:  # a constant, or what no bins can cover
        return None
    room = np.empty(robust.ROOM, np.int32)
    mean, sigma_raw, done = robust.fit_binned(x, low, high, fit.structure, fit.certain, fit.lambda_fit, room)
    return (mean, sigma_raw) if done else None


def _extent(x: NDArray) -> tuple[float, float]:
    """The least and the largest value; one of them is not finite where any value is not."""
    return FLOATS.unpack(BITS.pack(*robust.extent(x.view(np.int64))))


class Layout(NamedTuple):
    """How the tiles of a module lie in a stack, (n, H * W): one after another, H x W the largest of them, row by row.

    tiles: (n, 4) int64. shape: (2,) int64, H and W. least: (n,) int64, pixels that a fit needs. sample: rows to concentrate
    on. places: (6, at least H * W) float32, y and x about the centre: of the pixels, the sample, and the blocks of the start.
    """

    tiles: NDArray
    shape: NDArray
    least: NDArray
    sample: NDArray
    places: NDArray


def layout(where: NDArray) -> Layout:
    """The layout of tiles, (n, 4) int64."""
    return _layout(np.ascontiguousarray(where, np.int64).tobytes())


@lru_cache(maxsize=16)
def _layout(where: bytes) -> Layout:
    where = np.frombuffer(where, np.int64).reshape(-1, 4)
    sides = np.stack([where[:, 1] - where[:, 0], where[:, 3] - where[:, 2]], axis=1)
    rows, columns = map(int, sides.max(axis=0))
    y, x = np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2
    # one row of each group, now this one, now that: no pattern of a readout is all of the sample
    step = max(1, min(4, rows * columns // planes.SAMPLE))
    group = np.arange(rows // step)
    sample = group * step + group * (group + 1) // 2 % step
    if rows >= planes.TALL:
        y_block, x_block = (
            np.arange(planes.BLOCK_ROWS / 2, rows - planes.BLOCK_ROWS / 2 + 1, planes.BLOCK_STEP) - rows / 2,
            x,
        )
    else:
        (y_block, x_block) = (
            (np.arange(4) * (side - -(-side // 4)) + 1) // 3 + -(-side // 4) / 2 - side / 2 for side in (rows, columns)
        )
    places = aligned((6, max(rows * columns, planes.SAMPLED)), np.float32)
    places.fill(0)
    for at, (down, across) in zip((0, 2, 4), ((y, x), (y[sample], x), (y_block, x_block))):
        n = len(down) * len(across)
        places[at, :n], places[at + 1, :n] = np.repeat(down, len(across)), np.tile(across, len(down))
    least = np.maximum(planes.MIN_PIXELS, np.ceil(planes.MIN_SHARE * sides.prod(axis=1))).astype(np.int64)
    return Layout(where, np.array([rows, columns]), least, sample, places)


class Stack:
    """The tiles of a picture in a row, and the planes of the last fit. Mutable; one owner. Its arrays are as kernels have them.

    z: (n, H * W) float32, nan where a pixel takes no part. usable: (n,) int64, pixels that do. wanted: (n,) int64, whether a
    tile is to be fitted. planes: (n, 3), sigmas, nearest: (n,) float64.
    """

    def __init__(self, where: NDArray, fit: Fit, at_rest: float = planes.AT_REST):
        self.at_rest = at_rest
        self.layout, self.structure, self.lambda_fit = layout(where), fit.structure, fit.lambda_fit
        self.y, self.x = self.layout.places[:2]
        n, size = len(where), int(self.layout.shape.prod())
        self.z = aligned((n, size), np.float32)
        self.z.fill(np.nan)
        self.usable, self.wanted = np.zeros((2, n), np.int64)
        self.planes, self.sigmas, self.nearest = np.zeros((n, 3)), np.full(n, np.nan), np.zeros(n)
        self.scratch, self.sums = aligned((4, self.layout.places.shape[1]), np.float32), np.empty(15)

    def fit(self, z: NDArray, planes_: NDArray, sigmas: NDArray, nearest: NDArray, warm: bool = False) -> float:
        """Fit the planes of the tiles that are wanted. warm: starting from planes_. Returns the least sigma_raw, inf where none
        was fitted."""
        it = self.layout
        return planes.fit_tiles(
            z, it.shape, self.usable, it.least, self.wanted, warm, it.sample, it.places, self.structure, self.lambda_fit,
            self.at_rest, planes_, sigmas, nearest, self.scratch, self.sums,
        )  # fmt: skip


def judge(values: NDArray, where: NDArray, fit: Fit = Fit(), floor: float = 0.0) -> Judgement:
    """Fit a plane to each tile of a map and say how far each pixel is from it. Starts cold: a function of its data alone.

    values: (ss, fs) float64, nan where a pixel takes no part. where: tiles, (n, 4) int64. floor: least sigma believed.
    """
    values = np.ascontiguousarray(values, np.float64)
    stack = Stack(where, fit)
    it, width, base = stack.layout, values.shape[1], np.empty(len(where))
    columns = int(it.shape[1])
    planes.load_map(
        values.reshape(-1), width, it.tiles, columns, stack.scratch[0], base, stack.z, stack.usable, stack.wanted
    )
    stack.fit(stack.z, stack.planes, stack.sigmas, stack.nearest)
    model, scale, snr = np.full((3, *values.shape), np.nan)  # what lies between the tiles stays so
    planes.write_map(
        values.reshape(-1), width, it.tiles, stack.planes, base, stack.sigmas, consistency(fit.lambda_fit), float(floor),
        columns, stack.y, stack.x, *(a.reshape(-1) for a in (model, scale, snr)),
    )  # fmt: skip
    return Judgement(values, model, scale, snr)
