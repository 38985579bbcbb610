"""Our fits and masks beside those of the authors' library (docs/method.md 10 and 11), on the same data.

1-D fits are compared with each other; planes with the truth; masks with each other, except close to the cut. `-s` shows the
figures.
"""

from collections.abc import Callable
from typing import NamedTuple

import library
import numpy as np
import pytest
from numpy.typing import NDArray

from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.rmm.outliers import fit_1d, judge, tiles

CUT = 8.0  # section 3.1


@pytest.fixture(autouse=True)
def oracle() -> None:
    library.require_library()


# ---- one dimension ----------------------------------------------------------------------------------------------------


def contaminated(rng: np.random.Generator) -> NDArray:
    """N(m, s) of 20 to 600 values, up to 49 % of them shifted to either side. float32, as the library has it."""
    n = int(rng.integers(20, 601))
    x = rng.normal(rng.uniform(-100, 100), rng.uniform(0.5, 20), n)
    bad = int(rng.uniform(0, 0.49) * n)
    x[:bad] += rng.uniform(-300, 900, bad)
    return rng.permutation(x).astype(np.float32)


def test_fits_of_contaminated_vectors_agree(rng):
    vectors = [contaminated(rng) for _ in range(1000)]
    theirs = library.fit_values(vectors)
    fits = [fit_1d(x) for x in vectors]
    mean, sigma = np.array([f.mean for f in fits]), np.array([f.sigma_raw for f in fits])
    agree = [np.mean(np.abs(a - b) <= 1e-3 * sigma) for a, b in ((mean, theirs[:, 0]), (sigma, theirs[:, 1]))]
    print(f"\n1000 contaminated vectors, within 1e-3 sigma: mean {agree[0]:.1%}, sigma_raw {agree[1]:.1%}")
    assert agree[0] >= 0.95
    assert agree[1] >= 0.90


@pytest.mark.parametrize("rate", [0.5, 1, 2, 5])
def test_fits_of_counts_are_not_more_biased(rate, rng):
    """1024 Poisson counts and 1 % at +20, before floor and dither: skewed and full of ties, so no fit finds the mean."""
    vectors = [np.append(rng.poisson(rate, 1014), rng.poisson(rate, 10) + 20).astype(np.float32) for _ in range(300)]
    theirs = library.fit_values(vectors).mean(axis=0) - (rate, np.sqrt(rate))
    ours = np.mean([(f.mean, f.sigma_raw) for f in map(fit_1d, vectors)], axis=0) - (rate, np.sqrt(rate))
    print(f"\nPoisson {rate}, bias of mean and sigma_raw: library {np.round(theirs, 3)}, ours {np.round(ours, 3)}")
    assert np.all(np.abs(ours) <= np.abs(theirs) + 0.005)


# ---- planes -----------------------------------------------------------------------------------------------------------

SD = 8.0  # ADU
TRIALS = 200


class Planes(NamedTuple):
    """Maps of one tile each, and what they would be without noise and defects. (n, ss, fs) both. sd: of good pixels."""

    maps: NDArray
    truth: NDArray
    sd: float


def planes(rng, side: int, slope: float, offset: float = 1000.0) -> NDArray:
    """(TRIALS, side, side): planes with slopes up to `slope` ADU per pixel along both axes."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    cy, cx = rng.uniform(-slope, slope, (2, TRIALS, 1, 1))
    return offset + cy * y + cx * x


def scattered(share: float, side: int = 64, slope: float = 5.0, offset: float = 1000.0) -> Callable:
    """A share of hot pixels anywhere, 4 to 400 sd high."""

    def make(rng) -> Planes:
        truth = planes(rng, side, slope, offset)
        maps = truth + rng.normal(0, SD, truth.shape)
        hot = rng.random(truth.shape) < share
        maps[hot] += SD * rng.uniform(4, 400, hot.sum())
        return Planes(maps, truth, SD)

    return make


def bad_block(rng) -> Planes:
    """30 % of the tile in one corner, 25 sd high."""
    truth = planes(rng, 64, 1.0)
    maps = truth + rng.normal(0, SD, truth.shape)
    maps[:, :35, :35] += 25 * SD
    return Planes(maps, truth, SD)


def poisson(rng) -> Planes:
    """Counts of 3 photons per pixel: skewed, so that no robust fit finds the mean."""
    truth = np.full((TRIALS, 64, 64), 3.0)
    return Planes(rng.poisson(truth).astype(float), truth, 3.0**0.5)


#: Rows of the plane table: name, data, how much closer to the truth than the library we have to be.
ROWS = (
    ("64x64, clean, slope 0-5", scattered(0.0), 2.5),
    ("64x64, 20 % hot, slope 0-5", scattered(0.2), 2.5),
    ("64x64, 40 % hot, slope 0-5", scattered(0.4), 1.4),
    ("64x64, 30 % corner block, slope 0-1", bad_block, 1.8),
    ("64x64, pedestal-subtracted", scattered(0.0, slope=0.0, offset=0.0), 2.5),
    ("64x64, Poisson 3", poisson, 1.0),
    ("16x16, clean", scattered(0.0, side=16), 1.0),
    ("16x16, 20 % hot", scattered(0.2, side=16), 1.0),
    ("16x16, 40 % hot", scattered(0.4, side=16), 1.0),
)


def rms(model: NDArray, data: Planes) -> float:
    return float(np.sqrt(np.mean((model - data.truth) ** 2)) / data.sd)


@pytest.mark.parametrize(("name", "make", "least"), ROWS, ids=[row[0] for row in ROWS])
def test_planes_are_closer_to_the_truth(name, make, least, rng):
    data = make(rng)
    data = data._replace(maps=data.maps.astype(np.float32))
    side = data.maps.shape[1]
    theirs, _ = library.fit_maps(data.maps, (side, side))
    ours = np.stack([judge(z, np.array([[0, side, 0, side]])).model for z in data.maps])
    us, them = rms(ours, data), rms(theirs, data)
    print(f"\n{name:36} rms error / sd: library {them:.3f}, ours {us:.3f}, {them / us:.2f} times closer; bar {least}")
    assert them > us
    assert them / us >= least


# ---- masks ------------------------------------------------------------------------------------------------------------


def feature_map(rng, share: float) -> NDArray:
    """Values of an AGIPD module, (512, 128): ASICs of different level, a slope, a share of pixels 4 to 100 sigma off."""
    y, x = np.mgrid[:512, :128]
    level = np.kron(rng.normal(4000, 100, (8, 2)), np.ones((64, 64)))
    snr = rng.normal(size=y.shape)
    bad = rng.random(y.shape) < share
    snr[bad] += np.geomspace(4, 100, bad.sum()) * rng.choice([-1, 1], bad.sum())
    return level + rng.uniform(-1, 1) * y + rng.uniform(-1, 1) * x + 20 * snr


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.4])
def test_masks_agree_where_the_cut_is_not_close(share, rng):
    values, use = feature_map(rng, share), ~AGIPD1M.edge()
    mean, sigma = library.fit_maps(values[None], (64, 64), use[None])[:, 0]
    ours = judge(np.where(use, values, np.nan), tiles(AGIPD1M, (64, 64)))
    snr = np.abs(ours.snr)
    fitted = use & (sigma > 0)  # a tile that the library gave up has mean and sigma 0
    clear = fitted & ~((snr >= 7.5) & (snr <= 8.5))
    differ = (snr > CUT) != (np.abs(values - mean) > CUT * sigma)
    print(
        f"\n{share:.0%} bad: {int((snr > CUT)[clear].sum())} flagged of {clear.sum()}, {int(differ[clear].sum())} differ; "
        f"{int(differ[fitted].sum())} of {int((fitted & ~clear).sum())} with 7.5 <= |SNR| <= 8.5"
    )
    assert fitted.sum() == use.sum()
    assert clear.sum() > 0.95 * use.sum()
    assert not differ[clear].any()
