"""Refresh: the robust planes of maps over frames, F2 and F3 of an AGIPD module in 64 x 64 tiles, as outliers.judge has them.

Ours writes model, scale and SNR of every pixel. The baseline is the planes alone of the authors' library, of one map.
"""

import numpy as np
from numpy.typing import NDArray

from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.rmm.outliers import judge, tiles

from .f6 import LIBRARY_ROUNDS, SHAPE, interleaved
from .row import Row

CELLS = 352
HELD = 16  # cells whose maps are kept; the others are these again: 352 x 2 would be 370 MB


def maps(rng) -> tuple[NDArray, NDArray]:
    """((HELD, 2, ss, fs) float64, their true planes): offset and noise, 2 % of the pixels 15 to 100 sigma off, edges nan."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] % 64 - 31.5
    slopes = rng.uniform(-1, 1, (2, HELD, 2, 1, 1)) * np.array([0.7, 0.002]).reshape(2, 1, 1)
    sd = np.array([40.0, 0.4]).reshape(2, 1, 1)
    truth = np.array([5000.0, 8.0]).reshape(2, 1, 1) + slopes[0] * y + slopes[1] * x
    values = truth + rng.normal(0, 1, truth.shape) * sd
    bad = rng.random(values.shape) < 0.02
    values += np.where(bad, rng.uniform(15, 100, values.shape), 0) * sd
    return np.where(AGIPD1M.edge(), np.nan, values), truth


def measure() -> list[Row]:
    import RobustGaussianFittingLibrary as library

    values, truth = maps(np.random.default_rng(3))
    where = tiles(AGIPD1M, (64, 64))
    use = np.broadcast_to(~AGIPD1M.edge(), values[0, :1].shape).astype(np.int8)
    one = np.nan_to_num(values[0, :1]).astype(np.float32)

    def refresh(cells: int) -> None:
        for cell in range(cells):
            for values_ in values[cell % HELD]:
                judge(values_, where)

    def theirs() -> NDArray:
        return library.fitBackgroundTensor(one, use, winX=64, winY=64, numStrides=0)

    all_ = 2 * CELLS
    calls = {"library": (theirs, 1), "ours": (lambda: refresh(CELLS // 8), all_ // 8)}
    per_map = interleaved(calls, 2 * LIBRARY_ROUNDS + 1)
    cost = interleaved({"all": (lambda: refresh(CELLS), 1), "tenth": (lambda: refresh(CELLS // 10), 1)}, LIBRARY_ROUNDS)
    inside = ~AGIPD1M.edge()
    ours = np.sqrt(np.mean((judge(values[0, 0], where).model - truth[0, 0])[inside] ** 2))
    library_ = np.sqrt(np.mean((theirs()[0, 0] - truth[0, 0])[inside] ** 2))
    return [
        Row("refresh, maps/s : library", 1 / per_map["ours"], 1 / per_map["library"], 140, at_most=False),
        Row("refresh of 10 % of the cells, s", cost["tenth"], cost["all"], 0.11, at_most=True),
        Row("refresh, error of the planes", ours, library_, 0.5, at_most=True),
    ]
