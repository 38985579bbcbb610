"""kernels/points.py and planes.py against their twin, pass by pass and whole; law 8 of tiles, and what cannot be fitted."""

import math

import naive_planes as naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_stream.config import Fit
from rmm_stream.rmm.kernels import planes
from rmm_stream.rmm.outliers import Stack, judge, layout

STRUCTURE, LAMBDA = 0.5, 3.0
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)


def hot_tile(seed: int, shape=(24, 20), share=0.1, missing=0.05, slope=(0.05, -0.03)) -> np.ndarray:
    """A float32 tile: plane, noise of 2, a share of hot pixels, some missing."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, shape) + np.add.outer(slope[0] * naive.centred(shape[0]), slope[1] * naive.centred(shape[1]))
    z[rng.random(shape) < share] += rng.uniform(30, 300)
    z[rng.random(shape) < missing] = np.nan
    return z.astype(np.float32)


def stack_of(*shapes, fit=Fit(structure=STRUCTURE, lambda_fit=LAMBDA)) -> Stack:
    """An empty stack of tiles side by side."""
    right = np.cumsum([columns for _, columns in shapes])
    return Stack(np.array([[0, rows, end - columns, end] for (rows, columns), end in zip(shapes, right)]), fit)


def fit(z):
    """(plane, sigma_raw) of one tile, by fit_tiles()."""
    stack = stack_of(z.shape)
    stack.z[0], stack.usable[0], stack.wanted[0] = z.ravel(), (~np.isnan(z)).sum(), 1
    stack.fit(stack.z, stack.planes, stack.sigmas, stack.nearest)
    return stack.planes[0], float(stack.sigmas[0])


def places(shape) -> tuple[np.ndarray, np.ndarray]:
    """Centred coordinates of the pixels of a tile, y and x, flat."""
    y, x = layout(np.array([[0, shape[0], 0, shape[1]]])).places[:2, : shape[0] * shape[1]]
    return y, x


# ---- the passes over a tile -----------------------------------------------------------------------------------------------


@few
@given(seeds, st.floats(0, 20))
def test_passes_over_residuals_like_its_twin(seed, limit):
    z, plane, limit = hot_tile(seed), np.array([0.5, 0.04, -0.02]), np.float32(limit)
    r = np.empty(z.size, np.float32)
    y, x = places(z.shape)
    np.testing.assert_array_equal(y.reshape(z.shape)[:, 0], naive.centred(z.shape[0]))
    np.testing.assert_array_equal(x.reshape(z.shape)[0], naive.centred(z.shape[1]))
    planes.residuals(z.ravel(), y, x, plane, r)
    expected = naive.residuals(z, plane)
    np.testing.assert_allclose(r, expected, rtol=1e-5, atol=1e-5)
    assert planes.count_within(r, limit) == naive.count_within(r, limit)
    sums = np.empty(10)
    planes.squares_within(r, limit, sums)
    n, total = sums[:2]
    m, squares = naive.squares_within(r, limit)
    assert n == m
    assert math.isclose(total, squares, rel_tol=1e-5, abs_tol=1e-6)
    planes.moments_within(z.ravel(), y, x, plane, limit, sums)
    twin = naive.moments_within(z.ravel(), y, x, plane, limit)
    if sums[0] == twin[0]:  # a residual within rounding of the limit may fall on either side
        np.testing.assert_allclose(sums, twin, rtol=1e-4, atol=2e-2)
        before, nearer = sums.copy(), np.float32(0.7) * limit
        if before[0] > 0:
            planes.gradient_within(z.ravel(), y, x, plane, nearer, sums)
            twin = naive.gradient_within(z.ravel(), y, x, plane, nearer, before)
            if round(sums[0]) == round(twin[0]):
                np.testing.assert_allclose(sums, twin, rtol=1e-4, atol=2e-2)
    else:
        assert abs(sums[0] - twin[0]) <= 1


@pytest.mark.parametrize("share", [0.01, 0.4])
def test_repeated_gradients_go_to_the_least_squares_plane(share):
    """Moments of places from a sample of rows: each step leaves a small part of the error of the last."""
    z, (y, x), it = hot_tile(3, (64, 64), share, missing=0).ravel(), places((64, 64)), stack_of((64, 64)).layout
    rows = np.repeat(it.sample * 64, 64) + np.tile(np.arange(64), len(it.sample))
    found, exact, sums = np.zeros(3), np.zeros(3), np.empty(10)
    for _ in range(4):
        planes.moments_within(z, y, x, exact, np.float32(20), sums)
        planes.refit(y, x, sums, exact)
    planes.moments_within(z[rows], y[rows], x[rows], found, np.float32(20), sums)
    for _ in range(4):
        planes.gradient_within(z, y, x, found, np.float32(20), sums)
        planes.refit(y, x, sums, found)
    np.testing.assert_allclose(
        naive.residuals(z.reshape(64, 64), found), naive.residuals(z.reshape(64, 64), exact), atol=2e-3
    )


@few
@given(seeds, st.floats(0.01, 1), st.sampled_from([0.1, 0.015, 1e-4]), st.sampled_from([0.0, 1e-9, 2.0, 1e12]))
def test_kth_smallest_like_its_twin(seed, part, precision, guess):
    r = hot_tile(seed).ravel()
    k = max(1, int(part * (~np.isnan(r)).sum()))
    found, exact = planes.kth_smallest(r, k, guess, precision), naive.kth_smallest(r, k)
    assert planes.count_within(r, found) >= k
    assert exact <= found <= exact / (1 - precision) * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e18])
def test_kth_smallest_of_any_magnitude(scale):
    r = (np.arange(1, 1001) * scale).astype(np.float32)
    assert planes.kth_smallest(r, 500, 0.0, 1e-3) == pytest.approx(500 * scale, rel=2e-3)


def test_kth_smallest_of_zeros_is_zero():
    r = np.zeros(100, np.float32)
    r[60:] = 5
    assert planes.kth_smallest(r, 50, 0.0, 1e-3) == 0


def refit(z, limit, plane):
    """(points, sum of their squares about the new plane, change at a corner); plane is changed."""
    sums, (y, x) = np.empty(10), places(z.shape)
    planes.moments_within(z.ravel(), y, x, plane, np.float32(limit), sums)
    return sums, planes.refit(y, x, sums, plane)


@few
@given(seeds, st.floats(1, 10))
def test_refit_like_its_twin(seed, limit):
    z, before = hot_tile(seed), np.array([0.1, 0.0, 0.0])
    plane = before.copy()
    sums, moved = refit(z, limit, plane)
    r = (z.ravel() - np.float32(0.1)).astype(np.float32)
    expected, m = naive.refit(r, z.shape, np.float32(limit), before)
    assert sums[0] == m
    np.testing.assert_allclose(plane, expected, atol=2e-4)
    inside, change, (y, x) = np.abs(r) <= np.float32(limit), expected - before, places(z.shape)
    after = r - (change[0] + change[1] * y + change[2] * x)
    assert sums[9] == pytest.approx((after[inside] ** 2).sum(), rel=1e-2, abs=1e-2)
    assert moved == pytest.approx(abs(change[0]) + abs(change[1] * y[0]) + abs(change[2] * x[0]), rel=1e-2, abs=1e-3)


def test_points_on_a_line_keep_the_slopes():
    z = np.full((12, 12), np.nan, np.float32)
    z[5] = 3.0
    plane = np.array([1.0, 0.25, -0.5])
    y, x = places(z.shape)
    z[5] += (0.25 * y - 0.5 * x).reshape(12, 12)[5]
    sums, moved = refit(z, 9, plane)
    assert sums[0] == 12
    np.testing.assert_allclose(plane, [3.0, 0.25, -0.5])
    assert moved == pytest.approx(2)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_median_like_its_twin(n, rng):
    values = rng.normal(0, 1, 8).astype(np.float32)
    assert planes.median_of(values.copy(), n) == pytest.approx(naive.median_of(values, n), rel=1e-6)


@pytest.mark.parametrize("missing", [0, 0.1, 0.5])
def test_medians_of_nine_like_its_twin(missing, rng):
    z = rng.integers(0, 5, (9, 201)).astype(np.float32)  # with ties
    z[rng.random(z.shape) < missing] = np.nan
    medians = np.empty(201, np.float32)
    m = planes.medians_of_nine(z.ravel(), medians)
    np.testing.assert_array_equal(medians, np.array(naive.medians_of_nine(z, 201), np.float32))
    assert m == np.isfinite(medians).sum()


@pytest.mark.parametrize("shape", [(64, 64), (36, 10), (92, 65), (97, 60), (35, 40), (15, 15), (20, 64)])
@pytest.mark.parametrize("missing", [0, 0.1, 0.5])
def test_block_medians_like_its_twin(shape, missing):
    z = hot_tile(3, shape, missing=missing)
    expected = np.array(naive.block_medians(z))
    medians, scratch = np.empty(len(expected), np.float32), np.empty(z.size, np.float32)
    m = planes.block_medians(z.ravel(), *shape, scratch, medians)
    y, x = layout(np.array([[0, shape[0], 0, shape[1]]])).places[4:, : len(expected)]
    np.testing.assert_allclose(np.stack([medians, y, x], axis=1), expected, rtol=1e-6, atol=1e-6)
    assert m == np.isfinite(expected[:, 0]).sum()


def test_the_sample_of_rows_follows_no_pattern():
    """Every pattern of rows that repeats after 2, 3, 4 or 8 of them is in the sample with about its share."""
    rows = layout(np.array([[0, 64, 0, 64]])).sample
    assert len(rows) == 16
    for period in (2, 3, 4, 8):
        for phase in range(period):
            assert abs(np.mean(rows % period == phase) - 1 / period) <= 0.1


@pytest.mark.parametrize("n", [8, 16, 24, 25, 49, 50, 97, 98, 448])
def test_level_like_its_twin(n, rng):
    medians = rng.normal(5, 2, n + 30).astype(np.float32)
    medians[rng.permutation(n + 30)[:30]] = np.nan
    np.testing.assert_allclose(planes.level(medians, n, np.empty(25, np.float32)), naive.level(medians, n), rtol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (15, 15), (1, 1)])
def test_the_base_of_a_tile_lies_among_its_values(shape, rng):
    values = rng.normal(8000, 3, shape)
    values.ravel()[::7] = np.nan
    values.ravel()[1::7] = 1e9
    stack, base = stack_of(shape), np.empty(1)
    load_map(values, stack, base)
    assert base[0] == 0 if shape == (1, 1) else 7900 < base[0] < 8100


def load_map(values, stack, base):
    planes.load_map(
        values.ravel(), values.shape[1], stack.layout.tiles, int(stack.layout.shape[1]), np.empty(25, np.float32), base,
        stack.z, stack.usable, stack.wanted,
    )  # fmt: skip


def test_load_map_like_its_twin(rng):
    values, stack, base = rng.normal(8000, 5, (40, 63)), stack_of((40, 33), (39, 30)), np.empty(2)
    values[4, :50] = np.nan
    load_map(values, stack, base)
    for z, middle, n, twin in zip(stack.z, base, stack.usable, naive.load_map(values, stack.layout.tiles)):
        rows, columns = twin.shape
        np.testing.assert_allclose(z.reshape(40, 33)[:rows, :columns], twin - middle, rtol=1e-6, atol=1e-6)
        assert np.isnan(z.reshape(40, 33)[rows:]).all()
        assert np.isnan(z.reshape(40, 33)[:, columns:]).all()
        assert n == np.isfinite(twin).sum()
    assert stack.wanted.tolist() == [1, 1]


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
    tiles = [hot_tile(7, (20, 24)), hot_tile(8, (20, 24)), np.full((20, 24), np.nan, np.float32), hot_tile(9, (20, 24))]
    stack = stack_of(*[(20, 24)] * 4)
    for t, z in enumerate(tiles):
        stack.z[t], stack.usable[t] = z.ravel(), (~np.isnan(z)).sum()
    stack.wanted[:] = 1, 1, 1, 0
    least = stack.fit(stack.z, stack.planes, stack.sigmas, stack.nearest)
    for z, plane, sigma, (expected, scale) in zip(
        tiles[:2], stack.planes, stack.sigmas, naive.fit_tiles(tiles, STRUCTURE, LAMBDA)
    ):
        np.testing.assert_allclose(naive.residuals(z, plane), naive.residuals(z, expected), atol=0.02 * scale)
        assert sigma == pytest.approx(scale, rel=0.01)
    assert least == min(stack.sigmas[:2])
    assert np.isnan(stack.sigmas[2:]).all()
    assert not stack.planes[3].any(), "not wanted"


@pytest.mark.parametrize("jump", [0, 1, 5, 20, 100])
@pytest.mark.parametrize("scale", [0.19, 0.6, 1.0, 1.3, 1.7])
@pytest.mark.parametrize("share", [0.01, 0.4])
def test_a_warm_fit_is_the_cold_one_whatever_the_light_did(jump, scale, share):
    """The frame before was so many sigmas lower, and so much weaker."""
    stack, cold = stack_of((64, 64)), stack_of((64, 64))
    for turn, z in enumerate([hot_tile(1, (64, 64), share), scale * hot_tile(2, (64, 64), share) + 2 * jump]):
        for s, warm in ((stack, turn > 0), (cold, False)):
            s.z[0], s.usable[0], s.wanted[0] = z.ravel(), (~np.isnan(z)).sum(), 1
            s.fit(s.z, s.planes, s.sigmas, s.nearest, warm)
    y, x = places((64, 64))
    change = (stack.planes - cold.planes)[0]
    rms = np.sqrt(np.mean((change[0] + change[1] * y + change[2] * x) ** 2))
    assert rms < 0.02 * cold.sigmas[0]
    assert stack.sigmas[0] == pytest.approx(cold.sigmas[0], rel=0.02)


def test_write_map_like_its_twin():
    values = np.concatenate([hot_tile(7, (20, 24)), hot_tile(8, (20, 24))], axis=1).astype(float) + 8000
    values[:, 24:] -= 3000
    found = judge(values, np.array([[0, 20, 0, 24], [0, 20, 24, 48]]), Fit(structure=STRUCTURE, lambda_fit=LAMBDA))
    expected, sigma = naive.write_map(values, [[0, 20, 0, 24], [0, 20, 24, 48]], STRUCTURE, LAMBDA, 1.0154, 0.0)
    np.testing.assert_allclose(found.model, expected, atol=0.03 * sigma.max())
    np.testing.assert_allclose(found.scale, sigma, rtol=0.01)
    np.testing.assert_allclose(found.snr, (values - found.model) / found.scale, rtol=1e-9)


def test_what_lies_between_tiles_has_no_model(rng):
    found = judge(rng.normal(100, 1, (20, 50)), np.array([[0, 20, 0, 24], [0, 20, 26, 50]]))
    for a in (found.model, found.scale, found.snr):
        assert np.isnan(a[:, 24:26]).all()
        assert np.isfinite(a[:, :24]).all()
        assert np.isfinite(a[:, 26:]).all()


def test_an_unfit_tile_is_nan_and_its_neighbour_is_not():
    values = np.concatenate([np.full((20, 24), np.nan), hot_tile(8, (20, 24))], axis=1).astype(float)
    values[0, 0] = 5.0
    values.flags.writeable = False
    found = judge(values, np.array([[0, 20, 0, 24], [0, 20, 24, 48]]), floor=1.0)
    for a in (found.model, found.scale, found.snr):
        assert np.isnan(a[:, :24]).all()
    assert np.isfinite(found.model[:, 24:]).all()
