"""The robust fit of values against the authors' library from its fastest correct start, the median. CPU of this thread.

20 % of the values are far on one side. Calls with few values are repeated.
"""

import statistics
import time

import numpy as np

from rmm_stream.rmm.outliers import fit_1d

from .row import Row

ROUNDS = 15
#: Values, calls of each per round, and how many times faster it has to be.
SIZES = ((200, 200, 20, 12), (4096, 30, 4, 130), (65536, 5, 1, 430))


def values(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(100, 5, n)
    x[: n // 5] += rng.uniform(30, 3000, n // 5)
    return rng.permutation(x)


def seconds(call, times: int) -> float:
    begin = time.thread_time()
    for _ in range(times):
        call()
    return (time.thread_time() - begin) / times


def measure() -> list[Row]:
    """Interleaved, after one call of each, which must agree."""
    import RobustGaussianFittingLibrary as library

    rows = []
    for n, ours, theirs, bound in SIZES:
        x = values(n)
        x32 = x.astype(np.float32)

        def baseline(x32=x32):
            return library.fitValue(x32, modelValueInit=float(np.median(x32)), MSSE_LAMBDA=3.0)

        def fit(x=x):
            return fit_1d(x)

        mean, sigma = baseline()
        assert abs(fit().mean - mean) < 0.002 * sigma
        assert abs(fit().sigma_raw - sigma) < 0.002 * sigma
        times = [(seconds(fit, ours), seconds(baseline, theirs)) for _ in range(ROUNDS)]
        fast, slow = (statistics.median(t) for t in zip(*times))
        rows.append(Row(f"fit_1d, {n} values, 1/s", 1 / fast, 1 / slow, bound, at_most=False))
    return rows
