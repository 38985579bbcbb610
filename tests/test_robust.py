"""kernels/robust.py against its twin, the symmetries of the fits (laws 7 and 8), and what cannot be fitted."""

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


def hot_tile(seed: int, shape=(24, 20), share=0.1, missing=0.05, slope=(0.05, -0.03)) -> np.ndarray:
    """A float32 tile: plane, noise of 2, a share of hot pixels, some missing."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, shape) + np.add.outer(slope[0] * naive.centred(shape[0]), slope[1] * naive.centred(shape[1]))
    z[rng.random(shape) < share] += rng.uniform(30, 300)
    z[rng.random(shape) < missing] = np.nan
    return z.astype(np.float32)


def fit(z, structure=STRUCTURE, lambda_fit=LAMBDA):
    plane = np.full(3, np.nan)
    sigma = robust.fit_plane(z, structure, lambda_fit, plane, np.empty(z.size, np.float32))
    return plane, sigma


# ---- one dimension ----------------------------------------------------------------------------------------------------


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


# ---- the passes over a tile -----------------------------------------------------------------------------------------------


@few
@given(seeds, st.floats(0, 20))
def test_passes_over_residuals_like_its_twin(seed, limit):
    z, plane, limit = hot_tile(seed), np.array([0.5, 0.04, -0.02]), np.float32(limit)
    r = np.empty(z.size, np.float32)
    robust.residuals(z, plane, r)
    expected = naive.residuals(z, plane)
    np.testing.assert_allclose(r, expected, rtol=1e-5, atol=1e-5)
    assert robust.count_within(r, limit) == naive.count_within(r, limit)
    n, total = robust.squares_within(r, limit)
    m, squares = naive.squares_within(r, limit)
    assert n == m
    assert math.isclose(total, squares, rel_tol=1e-5, abs_tol=1e-6)
    x = naive.centred(20).astype(np.float32)
    np.testing.assert_allclose(
        robust.row_moments(r[:20], limit, x), naive.row_moments(r[:20], limit, x), rtol=1e-4, atol=1e-3
    )


@few
@given(seeds, st.floats(0.01, 1), st.sampled_from([0.1, 0.015, 1e-4]))
def test_kth_smallest_like_its_twin(seed, part, precision):
    r = hot_tile(seed).ravel()
    k = max(1, int(part * (~np.isnan(r)).sum()))
    found, exact = robust.kth_smallest(r, k, precision), naive.kth_smallest(r, k)
    assert robust.count_within(r, found) >= k
    assert exact <= found <= exact / (1 - precision) * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e18])
def test_kth_smallest_of_any_magnitude(scale):
    r = (np.arange(1, 1001) * scale).astype(np.float32)
    assert robust.kth_smallest(r, 500, 1e-3) == pytest.approx(500 * scale, rel=2e-3)


def test_kth_smallest_of_zeros_is_zero():
    r = np.zeros(100, np.float32)
    r[60:] = 5
    assert robust.kth_smallest(r, 50, 1e-3) == 0


@few
@given(seeds, st.floats(1, 10))
def test_refit_like_its_twin(seed, limit):
    z = hot_tile(seed)
    r = naive.residuals(z, np.zeros(3)).astype(np.float32)
    plane = np.array([0.1, 0.0, 0.0])
    n = robust.refit(r, z.shape, np.float32(limit), plane)
    expected, m = naive.refit(r, z.shape, np.float32(limit), np.array([0.1, 0, 0]))
    assert n == m
    np.testing.assert_allclose(plane, expected, atol=2e-4)


def test_points_on_a_line_keep_the_slopes():
    z = np.full((12, 12), np.nan, np.float32)
    z[5] = 3.0
    plane = np.array([1.0, 0.25, -0.5])
    assert robust.refit(z.ravel(), z.shape, np.float32(9), plane) == 12
    np.testing.assert_allclose(plane, [4.0, 0.25, -0.5])
    np.testing.assert_allclose(robust.solve_plane(4.0, 8.0, 0.0, 16.0, 0.0, 5.0, 8.0, 16.0, 0.0), [2.0, 0.0, 0.0])


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_median_like_its_twin(n, rng):
    values = rng.normal(0, 1, 8).astype(np.float32)
    assert robust.median_of(values.copy(), n) == pytest.approx(naive.median_of(values, n), rel=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (36, 10), (35, 40), (15, 15), (92, 65), (97, 60)])
def test_block_medians_like_its_twin(shape):
    z = hot_tile(3, shape, missing=0.4)
    medians, y, x = (np.empty(12 * max(shape) + 16, np.float32) for _ in range(3))
    m = robust.block_medians(z, medians, y, x)
    expected = np.array(naive.block_medians(z))
    np.testing.assert_allclose(np.stack([medians, y, x], axis=1)[:m], expected, rtol=1e-6, atol=1e-6)


# ---- the plane ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(15, 15), (24, 20)])
def test_fit_plane_like_its_twin(seed, shape):
    z = hot_tile(seed, shape)
    plane, sigma = fit(z)
    expected, scale = naive.fit_plane(z, STRUCTURE, LAMBDA)
    np.testing.assert_allclose(naive.residuals(z, plane), naive.residuals(z, expected), atol=0.02 * scale)
    assert sigma == pytest.approx(scale, rel=0.01)


@pytest.mark.parametrize("shape", [(64, 64), (92, 65), (64, 24)])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_fit_plane_of_a_large_tile(shape, share):
    z = hot_tile(11, shape, share)
    plane, sigma = fit(z)
    expected, scale = naive.fit_plane(z, STRUCTURE, LAMBDA)
    assert np.abs(naive.residuals(z, plane) - naive.residuals(z, expected))[~np.isnan(z.ravel())].max() < 0.02 * scale
    assert sigma == pytest.approx(scale, rel=0.01)
    assert sigma == pytest.approx(2, rel=0.08)


@pytest.mark.parametrize("shape", [(64, 64), (15, 15)])
@pytest.mark.parametrize("turn", [np.transpose, np.flipud, np.fliplr])
def test_a_mirrored_tile_has_the_mirrored_model(shape, turn):
    z = hot_tile(5, shape, missing=0)
    model = z.astype(float) - naive.residuals(z, fit(z)[0]).reshape(shape)
    turned = np.ascontiguousarray(turn(z))
    there = turned.astype(float) - naive.residuals(turned, fit(turned)[0]).reshape(turned.shape)
    assert np.abs(turn(model) - there).max() < (0.03 if shape == (64, 64) else 0.2) * 2


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-0.15, 0.15), st.floats(-0.15, 0.15), st.floats(-1000, 1000))
def test_a_plane_added_to_the_data_is_added_to_the_model(seed, cy, cx, c0):
    z = hot_tile(seed % 5, (64, 64), slope=(0, 0), missing=0)
    added = np.array([c0, cy, cx])
    raised = (z - naive.residuals(np.zeros_like(z), added).reshape(z.shape)).astype(np.float32)
    (one, sigma), (two, sigma_raised) = fit(z), fit(raised)
    difference = naive.residuals(np.zeros_like(z), two - one - added)
    assert np.abs(difference).max() < 0.05 * 2  # aim 0.02 rms; the corners of a tile move most
    assert sigma_raised == pytest.approx(sigma, rel=0.01)


def test_a_tile_with_too_few_pixels_is_unfit():
    z = hot_tile(1, (20, 20), missing=0)
    z.ravel()[:199] = np.nan
    assert fit(z)[1] > 0
    z.ravel()[:201] = np.nan
    assert math.isnan(fit(z)[1])
    assert math.isnan(fit(hot_tile(1, (9, 11), missing=0))[1])
    assert math.isnan(fit(np.full((64, 64), np.nan, np.float32))[1])
    assert math.isnan(fit(np.ones((1, 1), np.float32))[1])
    assert fit(hot_tile(1, (3, 64), missing=0))[1] > 0  # thin, but large enough


@pytest.mark.parametrize("value", [0.0, 65535.0, -1e9])
def test_a_constant_tile_has_sigma_zero_and_its_value_as_model(value):
    plane, sigma = fit(np.full((64, 64), value, np.float32))
    assert sigma == 0
    np.testing.assert_allclose(plane, [value, 0, 0], atol=1e-6)


def test_fit_tiles_like_its_twin():
    values = np.concatenate([hot_tile(7, (20, 24)), hot_tile(8, (20, 24))], axis=1).astype(float) + 8000
    values[:, 24:] -= 3000
    tiles = np.array([[0, 20, 0, 24], [0, 20, 24, 48]])
    model, scale = np.empty(values.shape), np.empty(values.shape)
    robust.fit_tiles(values, tiles, STRUCTURE, LAMBDA, 1.0154, 0.0, model, scale)
    expected, sigma = naive.fit_tiles(values, tiles, STRUCTURE, LAMBDA, 1.0154, 0.0)
    np.testing.assert_allclose(model, expected, atol=0.03 * sigma.max())
    np.testing.assert_allclose(scale, sigma, rtol=0.01)


def test_an_unfit_tile_is_nan_and_its_neighbour_is_not():
    values = np.concatenate([np.full((20, 24), np.nan), hot_tile(8, (20, 24))], axis=1).astype(float)
    values[0, 0] = 5.0
    values.flags.writeable = False
    tiles = np.array([[0, 20, 0, 24], [0, 20, 24, 48]])
    model, scale = np.empty(values.shape), np.empty(values.shape)
    robust.fit_tiles(values, tiles, STRUCTURE, LAMBDA, 1.0154, 1.0, model, scale)
    assert np.isnan(model[:, :24]).all()
    assert np.isnan(scale[:, :24]).all()
    assert np.isfinite(model[:, 24:]).all()


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="is the run that this test starts")
def test_kernels_say_the_same_without_compilation():
    """Bounds are checked there, and nothing is optimised away."""
    names = [f"tests/test_{name}.py" for name in ("robust", "routing", "sums", "welford", "windows")]
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
