"""The non-robust twin: mean and standard deviation instead of FLkOS and MSSE, everything else as in `rmm.outliers`.

Only there to fail: where the robust fit holds and this does too, a test has not shown that robustness was needed.
"""

import numpy as np
from numpy.typing import NDArray

from rmm_stream.rmm.outliers import Judgement


def fit_1d(values: NDArray) -> tuple[float, float]:
    """Mean and standard deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1))


def judge(values: NDArray, where: NDArray) -> Judgement:
    """The plane of each tile by one least squares over all its pixels, and the standard deviation about it.

    values: (ss, fs) float64, nan where a pixel takes no part. where: tiles, (n, 4) int64."""
    model, scale = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    for top, bottom, left, right in where:
        tile = np.s_[top:bottom, left:right]
        y, x = np.mgrid[: bottom - top, : right - left]
        terms = np.stack([np.ones(y.shape), y, x], axis=-1)
        use = np.isfinite(values[tile])
        plane, *_ = np.linalg.lstsq(terms[use], values[tile][use], rcond=None)
        model[tile] = terms @ plane
        scale[tile] = np.std(values[tile][use] - model[tile][use], ddof=3)
    return Judgement(values, model, scale, (values - model) / scale)
