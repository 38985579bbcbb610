"""kernels/robust.py against its twin, law 7, and what cannot be fitted. And every kernel without compilation."""

import math
import os
import subprocess
import sys
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_stream.rmm.kernels import robust
from rmm_stream.rmm.outliers import consistency, fit_1d

STRUCTURE, CERTAIN, LAMBDA = 0.5, 0.35, 3.0
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)


def contaminated(seed: int, n: int, share: float) -> np.ndarray:
    """n values of N(100, 5), a share of them far above. Sorted."""
    rng = np.random.default_rng(seed)
    x = rng.normal(100, 5, n)
    x[: int(share * n)] += rng.uniform(30, 3000, int(share * n))
    return np.sort(x)


@few
@given(seeds, st.integers(1, 60), st.data())
def test_nearest_run_like_its_twin(seed, n, data):
    x = np.sort(np.random.default_rng(seed).normal(0, 1, n))
    k = data.draw(st.integers(1, n))
    theta = data.draw(st.floats(-4, 4))
    assert robust.nearest_run(x, theta, k) == naive.nearest_run(x.tolist(), theta, k)


def test_nearest_run_takes_the_smaller_of_two_equally_far():
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert robust.nearest_run(x, 0.0, 2) == naive.nearest_run(x.tolist(), 0.0, 2) == 1
    assert robust.nearest_run(x, 0.0, 4) == 0


@few
@given(seeds, st.integers(1, 60), st.floats(-4, 4), st.sampled_from([0.0, 0.5, 2.0, 9.0]))
def test_run_within_and_its_sums_like_its_twin(seed, n, theta, limit):
    x = np.sort(np.random.default_rng(seed).normal(0, 1, n).round(1))  # with ties, also at the limit
    assert robust.run_within(x, theta, limit) == naive.run_within(x.tolist(), theta, limit)
    assert math.isclose(robust.squares_about(x, theta), naive.squares_about(x.tolist(), theta), rel_tol=1e-12)
    assert math.isclose(robust.mean_of(x), naive.mean_of(x.tolist()), rel_tol=1e-12, abs_tol=1e-14)


@few
@given(seeds, st.integers(20, 120), st.floats(0, 0.45), st.floats(2.5, 8))
def test_msse_and_fit_1d_like_its_twin(seed, n, share, lambda_fit):
    x = contaminated(seed, n, share)
    found = robust.msse_sorted(x, 100.0, n // 2, lambda_fit, 1)
    assert math.isclose(found, naive.msse_sorted(x.tolist(), 100.0, n // 2, lambda_fit, 1), rel_tol=1e-9)
    theta, sigma = robust.fit_sorted(x, STRUCTURE, CERTAIN, lambda_fit)
    expected = naive.fit_sorted(x.tolist(), STRUCTURE, CERTAIN, lambda_fit)
    assert abs(theta - expected[0]) <= 1e-9 * expected[1] + 1e-12
    assert math.isclose(sigma, expected[1], rel_tol=1e-9)


@pytest.mark.parametrize(("structure", "certain"), [(0.12, 0.115), (0.11, 0.1), (0.9, 0.89), (0.5, 0.0)])
def test_fit_1d_has_a_model_at_the_ends_of_its_settings(structure, certain):
    for n in range(20, 60):
        x = contaminated(n, n, 0.0)
        expected = naive.fit_sorted(x.tolist(), structure, certain, LAMBDA)
        np.testing.assert_allclose(robust.fit_sorted(x, structure, certain, LAMBDA), expected, rtol=1e-9)


@few
@given(seeds, st.integers(10, 100), st.floats(0, 0.4), st.floats(0.01, 100), st.floats(-1e4, 1e4), st.booleans())
def test_fit_1d_follows_scale_and_offset_of_either_sign(seed, half, share, factor, offset, negative):
    x = contaminated(seed, 2 * half + 1, share)  # odd, no ties
    factor = -factor if negative else factor
    one, two = fit_1d(x), fit_1d(factor * x + offset)
    assert abs(two.mean - (factor * one.mean + offset)) <= 1e-6 * two.sigma
    assert math.isclose(two.sigma, abs(factor) * one.sigma, rel_tol=1e-6)


@few
@given(seeds, st.integers(20, 300))
def test_fit_1d_depends_on_the_multiset_only(seed, n):
    rng = np.random.default_rng(seed)
    x = np.append(contaminated(seed, n, 0.2), [np.nan, np.inf, -np.inf])
    assert fit_1d(rng.permutation(x)) == fit_1d(x) == fit_1d(x[:n])


@pytest.mark.parametrize("n", [0, 1, 19])
def test_fewer_than_20_values_are_unfit(n):
    assert all(map(math.isnan, fit_1d(np.arange(float(n)))))


@pytest.mark.parametrize("value", [0.0, 1e-30, 16383.0, -5e8])
def test_a_constant_has_the_floor_as_sigma_or_none(value):
    x = np.full(50, value)
    assert fit_1d(x).mean == value
    assert fit_1d(x).sigma_raw == 0
    assert math.isnan(fit_1d(x).sigma)
    assert fit_1d(x, floor=0.25).sigma == 0.25


def test_more_than_half_equal_is_a_constant():
    x = np.append(np.full(60, 7.0), np.random.default_rng(1).normal(100, 30, 50))
    assert fit_1d(x, floor=1.0)[:2] == (7.0, 1.0)


@few
@given(st.floats(0, 100), st.floats(1, 1.1), st.floats(0, 5), st.floats(-1e6, 1e6))
def test_final_sigma_like_its_twin(raw, factor, floor, mu):
    np.testing.assert_equal(robust.final_sigma(raw, factor, floor, mu), naive.final_sigma(raw, factor, floor, mu))


def test_final_sigma_of_rounding_residue_is_that_of_a_constant():
    assert math.isnan(robust.final_sigma(0.001, 1.0, 0.0, 16000.0))
    assert robust.final_sigma(0.001, 1.0, 0.3, 16000.0) == 0.3
    assert math.isnan(robust.final_sigma(math.nan, 1.0, 0.3, 0.0))


@pytest.mark.parametrize(("lambda_fit", "c"), [(2.5, 1.0677), (3, 1.0154), (3.5, 1.0032), (4, 1.0005), (8, 1.0)])
def test_consistency_factor_is_that_of_the_table(lambda_fit, c):
    assert consistency(lambda_fit) == pytest.approx(c, abs=6e-5)
    assert consistency(lambda_fit) == pytest.approx(naive.consistency(lambda_fit), rel=1e-9)


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="is the run that this test starts")
def test_kernels_say_the_same_without_compilation():
    """Bounds are checked there, and nothing is optimised away."""
    names = [f"tests/test_{name}.py" for name in ("plane_passes", "robust", "routing", "sums", "welford", "windows")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "like_its_twin", *names],
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert " passed" in run.stdout
