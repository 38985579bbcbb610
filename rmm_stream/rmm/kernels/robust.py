"""FLkOS and MSSE (Appendix A): the robust mean and scale of values. planes.py is the same for the plane of a tile.

FLkOS looks for the model whose k-th smallest residual is least; MSSE then grows the inliers from the smallest residuals
while the next one lies within lambda_fit sigma of those before it. Knows nothing of features, cuts or flags.
"""

import math

import numpy as np

from .compiled import exact, fast

STEPS = 12  # optimisation steps, Bab-Hadiashar & Hoseinnezhad (2008), quoted in Appendix A
MIN_VALUES = 20  # below it k is so small that nothing is robust


@exact
def nearest_run(x, theta, k):
    """Start of the run of the k values nearest theta in sorted x; of two equally far the smaller value goes in."""
    low, high = 0, x.size - k
    while low < high:
        middle = (low + high) >> 1
        if theta - x[middle] > x[middle + k] - theta:
            low = middle + 1
        else:
            high = middle
    return low


@exact
def run_within(x, theta, limit):
    """(first, last + 1) of the values of sorted x that lie within +-limit of theta."""
    first, high = 0, x.size
    while first < high:
        middle = (first + high) >> 1
        if theta - x[middle] > limit:
            first = middle + 1
        else:
            high = middle
    last, high = first, x.size
    while last < high:
        middle = (last + high) >> 1
        if x[middle] - theta <= limit:
            last = middle + 1
        else:
            high = middle
    return first, last


@fast
def squares_about(x, theta):
    """Sum of squared differences of x from theta."""
    total = 0.0
    for i in range(x.size):
        total += (x[i] - theta) * (x[i] - theta)
    return total


@fast
def mean_of(x):
    """Mean of x, at least one value."""
    total = 0.0
    for i in range(x.size):
        total += x[i]
    return total / x.size


@exact
def msse_sorted(x, theta, k, lambda_fit, parameters):
    """MSSE of sorted x about theta: sigma of the k nearest values and of all that join them. Returns sigma_raw.

    All that lie within lambda_fit sigma join at once; sigma does not decrease as they do, so that none joins too early."""
    a = nearest_run(x, theta, k)
    b = a + k
    while True:
        sigma = math.sqrt(squares_about(x[a:b], theta) / (b - a - parameters))
        first, last = run_within(x, theta, lambda_fit * sigma)
        if first >= a and last <= b:
            return sigma
        a, b = min(a, first), max(b, last)


@exact
def fit_sorted(x, structure, certain, lambda_fit):
    """Robust mean and sigma_raw of sorted, finite float64 values, at least MIN_VALUES of them (Appendix A).

    structure: k/N. certain: inner end of the rank window, which narrows to 0, so that the last step concentrates on the
    k nearest values. Returns (theta, sigma_raw), sigma_raw without the consistency factor.
    """
    n = x.size
    k = int(structure * n)
    middle = x[n // 2]
    y = x - middle
    upto = np.zeros(n + 1)
    for i in range(n):
        upto[i + 1] = upto[i] + y[i]
    theta = 0.0
    for step in range(1, STEPS + 1):
        j = min(int(certain * (1.0 - step / STEPS) * n), k - 1)
        a = nearest_run(y, theta, k)
        total, m = upto[a + k] - upto[a], k
        if j > 0:
            inner = min(max(nearest_run(y, theta, j), a), a + k - j)
            total -= upto[inner + j] - upto[inner]
            m -= j
        theta = total / m
    sigma = 0.0
    for _ in range(2):
        sigma = msse_sorted(y, theta, k, lambda_fit, 1)
        a, b = run_within(y, theta, lambda_fit * sigma)
        if a == b:
            break
        theta = mean_of(y[a:b])
    return theta + middle, sigma


EPS32 = float(np.finfo(np.float32).eps)


@exact
def final_sigma(sigma_raw, consistency, floor, mu):
    """Consistency factor and floor of docs/method.md 2.1 to 2.3. nan where there is no scale to judge by."""
    sigma = consistency * sigma_raw
    if sigma <= 4 * EPS32 * abs(mu):  # what rounding leaves of a constant
        sigma = 0.0
    if np.isnan(sigma_raw):
        return np.nan
    sigma = max(sigma, floor)
    return sigma if sigma > 0 else np.nan
