"""Tiles and the planes on them, as maps are judged: geometry, symmetry, accuracy, what cannot be fitted (docs/method.md 3)."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from rmm_stream.config import Fit
from rmm_stream.detectors import DetectorSpec
from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.detectors.jungfrau import JUNGFRAU4M
from rmm_stream.errors import ConfigError
from rmm_stream.rmm.outliers import consistency, judge, tiles


def described(name: str, module_shape: tuple[int, int], asic_shape: tuple[int, int]) -> DetectorSpec:
    return DetectorSpec(name=name, modules=1, module_shape=module_shape, asic_shape=asic_shape)


EIGER = described("eiger", (514, 1030), (256, 256))
PILATUS = described("pilatus", (195, 487), (97, 60))
CSPAD = described("cspad", (185, 388), (185, 194))
EPIX = described("epix10k", (352, 384), (176, 192))


# ---- tiles ------------------------------------------------------------------------------------------------------------

#: Sides of the tiles of whole ASICs: the table of docs/method.md 5.
SIDES = (
    (AGIPD1M, {64}, {64}),
    (JUNGFRAU4M, {64}, {64}),
    (EIGER, {64}, {64}),
    (PILATUS, {97}, {60}),
    (CSPAD, {92, 93}, {64, 65}),
    (EPIX, {88}, {64}),
)


@pytest.mark.parametrize(("spec", "rows", "columns"), SIDES, ids=[spec.name for spec, *_ in SIDES])
def test_tiles_have_the_size_of_the_table(spec, rows, columns):
    assert {int(bottom - top) for top, bottom, _, _ in tiles(spec, (64, 64))} == rows
    assert {int(right - left) for _, _, left, right in tiles(spec, (64, 64))} == columns


@pytest.mark.parametrize("tile", [(64, 64), (15, 15), (100, 20)])
@pytest.mark.parametrize("spec", [spec for spec, *_ in SIDES], ids=lambda spec: spec.name)
def test_tiles_cover_each_asic_once_and_what_lies_between_is_edge(spec, tile):
    asic = np.full(spec.module_shape, -1)
    for number, ((top, bottom), (left, right)) in enumerate(product(spec.asics(0), spec.asics(1))):
        assert (bottom - top, right - left) == spec.asic_shape
        asic[top:bottom, left:right] = number
    covered = np.zeros(spec.module_shape, int)
    for top, bottom, left, right in tiles(spec, tile):
        covered[top:bottom, left:right] += 1
        assert len(np.unique(asic[top:bottom, left:right])) == 1
    np.testing.assert_array_equal(covered, asic >= 0)
    assert spec.edge()[asic < 0].all()
    assert asic[-1, -1] == asic.max(), "from edge to edge of the module"


def test_gaps_between_chips_are_where_the_detector_has_them():
    assert PILATUS.asics(0) == [(0, 97), (98, 195)]
    assert PILATUS.asics(1)[1] == (61, 121)
    assert EIGER.asics(1) == [(0, 256), (258, 514), (516, 772), (774, 1030)]


def test_an_asic_shape_that_does_not_tile_the_module_is_refused():
    with pytest.raises(ConfigError, match=r"along ss, 100 pixels are not ASICs of 64 .*36 pixels would be left over"):
        described("part", (100, 70), (64, 64))


def test_a_step_between_asics_is_no_outlier(rng):
    """One tile across the border would see two levels; each ASIC has its own plane."""
    spec = described("two", (64, 128), (64, 64))
    values = rng.normal(100, 1, (64, 128))
    values[:, 64:] += 500
    found = judge(values, tiles(spec, (64, 64)))
    assert np.abs(found.snr).max() < 8
    assert found.model[:, :64] == pytest.approx(100, abs=0.3)
    assert found.model[:, 64:] == pytest.approx(600, abs=0.3)


# ---- accuracy ---------------------------------------------------------------------------------------------------------


def one_tile(values: NDArray, floor: float = 0.0, fit: Fit = Fit()):
    """Judge a map that is one tile."""
    return judge(values, np.array([[0, values.shape[0], 0, values.shape[1]]]), fit, floor)


def contaminated(rng, share: float, shape: tuple[int, int]) -> NDArray:
    """N(0, 1) with a share of the pixels 4 to 100 sd high."""
    z = rng.normal(size=shape)
    bad = rng.random(z.shape) < share
    z[bad] += rng.uniform(4, 100, bad.sum())
    return z


def slanted(rng, side: int) -> NDArray:
    """A plane whose range over the tile is below 10."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    cy, cx = rng.uniform(-1, 1, 2)
    return rng.uniform(0, 10) / ((abs(cy) + abs(cx)) * (side - 1)) * (cy * y + cx * x) + rng.normal(0, 30)


def test_a_plane_added_to_a_tile_is_added_to_its_model(rng):
    """Law 8, up to 40 % bad: 0.02 sigma everywhere in the tile."""
    worst = 0.0
    for _ in range(200):
        z, plane = contaminated(rng, rng.uniform(0, 0.4), (64, 64)), slanted(rng, 64)
        before, after = one_tile(z), one_tile(z + plane)
        worst = max(worst, np.abs(after.model - before.model - plane).max() / before.scale[0, 0])
    print(f"\n64x64, plane added: model differs by at most {worst:.3f} sigma")
    assert worst <= 0.02


@pytest.mark.parametrize(("side", "most"), [(64, 0.020), (15, 0.15)])
def test_a_turned_tile_has_the_turned_model(side, most, rng):
    """Law 8: mirrored along either axis, and transposed, up to 40 % bad."""
    worst = 0.0
    for _ in range(200):
        z = contaminated(rng, rng.uniform(0, 0.4), (side, side))
        straight = one_tile(z)
        for turn in (np.flipud, np.fliplr, np.transpose):
            worst = max(worst, np.abs(one_tile(turn(z)).model - turn(straight.model)).max() / straight.scale[0, 0])
    print(f"\n{side}x{side}, mirrored and transposed: model differs by at most {worst:.3f} sigma")
    assert worst <= most


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_planes_are_as_good_as_least_squares_of_the_good_pixels(share, rng):
    """rms error of the model against the optimum sqrt(3 / good pixels); sigma_raw within 2 %."""
    y, x = np.mgrid[:64, :64] - 31.5
    errors, scales = [], []
    for _ in range(200):
        truth = 1000 + rng.uniform(-5, 5) * y + rng.uniform(-5, 5) * x
        found = one_tile(truth + 8 * contaminated(rng, share, truth.shape))
        errors.append(np.mean((found.model - truth) ** 2) / 64)
        scales.append(found.scale[0, 0] / consistency(3.0) / 8)
    error, optimum = np.sqrt(np.mean(errors)), np.sqrt(3 / 4096 / (1 - share))
    print(f"\n64x64, {share:.0%} hot: rms error {error:.4f} sd, optimum {optimum:.4f}; sigma_raw {np.mean(scales):.3f}")
    assert error < 1.1 * optimum
    assert np.mean(scales) == pytest.approx(0.985, abs=0.015)


# ---- what cannot be fitted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "least"), [(64, 2048), (15, 113), (12, 100)])
def test_a_tile_needs_half_of_its_pixels_and_a_hundred(side, least, rng):
    """Of 15x15, 14x14 are left in the corner of an ASIC; that is enough."""
    values = rng.normal(100, 5, (side, side))
    order = rng.permutation(values.size)
    values.flat[order[least:]] = np.nan
    assert np.isfinite(one_tile(values).scale).all()
    values.flat[order[least - 1]] = np.nan
    unfit = one_tile(values)
    assert np.isnan(unfit.model).all()
    assert np.isnan(unfit.scale).all()
    assert np.isnan(unfit.snr).all()


def test_an_unfit_tile_leaves_its_neighbours_alone(rng):
    spec = described("four", (128, 128), (64, 64))
    values = rng.normal(100, 5, (128, 128))
    values[:64, :40] = np.nan
    found = judge(values, tiles(spec, (64, 64)))
    assert np.isnan(found.scale[:64, :64]).all()
    assert np.isfinite(found.scale[64:]).all()
    assert np.isfinite(found.scale[:, 64:]).all()


def test_missing_values_do_not_move_the_plane(rng):
    """A pixel that is left out counts for nothing, whatever it would have been."""
    values = rng.normal(100, 5, (64, 64)) + np.linspace(0, 20, 64)
    gone = rng.random(values.shape) < 0.3
    one, two = (one_tile(np.where(gone, np.nan, values + shift * gone)) for shift in (0, 1e6))
    np.testing.assert_array_equal(one.model, two.model)
    assert np.isnan(one.snr[gone]).all()
    assert np.isfinite(one.snr[~gone]).all()


def test_mostly_equal_values_have_the_floor_as_sigma_or_none(rng):
    """More than half of the values equal: sigma_raw 0. A hot pixel is then far, or the tile unfit."""
    values = np.full((64, 64), 7.0)
    values.flat[rng.permutation(4096)[:1800]] += rng.uniform(0.5, 3, 1800)
    values[10, 10] = 30
    floored, bare = one_tile(values, floor=1 / 6), one_tile(values)
    assert (floored.scale == 1 / 6).all()
    assert (floored.model == 7).all()
    assert floored.snr[10, 10] == pytest.approx(6 * 23)
    assert np.isnan(bare.scale).all()


def test_the_floor_is_the_least_sigma_and_no_more(rng):
    values = rng.normal(0, 0.05, (64, 64))
    assert (one_tile(values, floor=1 / 6).scale == 1 / 6).all()
    values = rng.normal(0, 5, (64, 64))
    assert one_tile(values, floor=1 / 6).scale[0, 0] == one_tile(values).scale[0, 0]


@pytest.mark.parametrize("level", [0.1, 8191.3, 1e6])
def test_rounding_of_a_constant_is_no_sigma(level, rng):
    """sigma <= 4 eps32 |mu| is what is left of a constant."""
    values = level * (1 + 1e-8 * rng.normal(size=(64, 64)))
    assert np.isnan(one_tile(values).scale).all()


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_half_of_a_small_tile_is_enough_of_it(share, rng):
    """15x15 with every second pixel missing at random, where hardly a block of the start is half full."""
    y, x = np.mgrid[:15, :15] - 7.0
    errors = []
    for _ in range(200):
        cy, cx = rng.uniform(-0.3, 0.3, 2)
        values = rng.normal(size=(15, 15)) + cy * y + cx * x
        order = rng.permutation(225)
        values.flat[order[: int(share * 113)]] += rng.uniform(4, 100, int(share * 113))
        values.flat[order[113:]] = np.nan
        errors.append(np.mean((one_tile(values).model - cy * y - cx * x) ** 2))
    print(f"\n15x15, half missing, {share:.0%} hot: rms error {np.sqrt(np.mean(errors)):.3f} sd")
    assert np.sqrt(np.max(errors)) < 0.6
    assert np.sqrt(np.mean(errors)) < 1.3 * np.sqrt(3 / 113 / (1 - share))


def test_a_background_that_curves_within_a_tile_is_fitted():
    """Rings and streaks of scattered light: the pixels nearest a plane lie in a band, and all inliers elsewhere."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] - 31.5
    for _ in range(100):
        turn, middle, width = rng.uniform(0, 2 * np.pi), rng.uniform(-60, 60), rng.uniform(5, 60)
        along, across = y * np.sin(turn) - x * np.cos(turn), y * np.cos(turn) + x * np.sin(turn)
        ridge = (across - middle + rng.uniform(-0.01, 0.01) * along**2) / width
        z = rng.uniform(0, 40) * np.exp(-0.5 * ridge**2) + rng.normal(0, 1, y.shape)
        found = judge(z, np.array([[0, 64, 0, 64]]))
        assert np.isfinite(found.model).all()
        assert found.scale[0, 0] > 0.8


def test_shares_of_which_about_half_are_zero_are_fitted():
    """Counts of few frames: where the equal ones decide the scale is 0, and the floor is believed; it is never unknown."""
    across = np.linspace(-0.5, 0.5, 64)
    for seed in (
        246,
        827,
        1128,
        1182,
        1207,
        *range(50),
    ):  # with the first ones, rounding once left no pixel within scale 0
        rng = np.random.default_rng(seed)
        rate, slope, frames = rng.uniform(0.6, 0.68), rng.uniform(-0.5, 0.5), rng.integers(200, 1024)
        z = rng.poisson(rate + slope * across, (64, 64)) / frames
        z[[0, -1]] = z[:, [0, -1]] = np.nan
        found = judge(z, np.array([[0, 64, 0, 64]]), floor=1e-30)
        assert np.isfinite(found.model).all()
        assert (np.abs(found.model) < 2 / frames).all()
