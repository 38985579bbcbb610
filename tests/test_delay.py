"""How many judged frames pass until a pixel that goes bad is flagged: docs/method.md 8.1, and measured."""

import math

import numpy as np
import pytest
from beamline import NOISE, PER_PHOTON, SHAPE, Beamline

from rmm_stream.config import Settings

#: Strength in sigma of one frame, share of frames.
CASES = [(2.0, 1.0), (3.0, 1.0), (4.0, 1.0), (12.0, 0.5), (12.0, 0.2), (12.0, 0.1), (12.0, 0.05), (7.0, 0.2)]
EACH = 12  # pixels of each case
QUIET, ON = 1500, 900
PHOTONS = 2.0
FRAME_SIGMA = math.sqrt(NOISE**2 + PER_PHOTON**2 * PHOTONS)


def expected_delay(strength: float, rate: float, map_sigma: float, settings: Settings = Settings()) -> float:
    """Judged frames from the onset to the fit that flags it, in the middle of a window; inf where none does.

    map_sigma: scale of the map of mean SNR."""
    lit, fit, least = settings.features.lit, settings.fit, settings.features.lit_rate
    halves, lately, window = 0.75 * lit.span_frames, 2.5 * lit.span_frames / lit.buckets, lit.span_frames
    ways = [(fit.cut * map_sigma * halves / (min(strength, lit.clip) * rate), halves)]
    counted = rate * 0.5 * math.erfc((least.snr - strength) / math.sqrt(2))
    for frames in (lately, window):
        ways.append((max(fit.cut, least.min_share * frames) / counted, frames))
    best = min((k for k, frames in ways if k <= frames), default=math.inf)
    return best + fit.news * lit.span_frames / 2


@pytest.fixture(scope="module")
def delays(tmp_path_factory):
    """({case: delays of its pixels}, scale of the mean map)."""
    b = Beamline(tmp_path_factory.mktemp("delay"), seed=5)
    places = {case: [(6 + 8 * k, 6 + 14 * n) for k in range(EACH)] for n, case in enumerate(CASES)}
    b.darks(400)
    scene = np.full(SHAPE, PHOTONS, np.float32)
    b.lit(QUIET, scene, hits=0.0)
    assert b.bad == set()
    (stats,) = b.maker.lit.values()
    mean, _ = stats.mean(0, b.now)
    map_sigma = 1.4826 * np.nanmedian(np.abs(mean - np.nanmedian(mean)))

    def extra(rng):
        more = np.zeros(SHAPE, np.float32)
        for (strength, rate), pixels in places.items():
            for place in pixels:
                more[place] = strength * FRAME_SIGMA * (rng.random() < rate)
        return more

    b.extra = extra
    found = {}
    for frame in range(1, ON + 1):
        b.lit(1, scene, hits=0.0)
        for place in b.bad - found.keys():
            found[place] = frame
    assert set(found) <= {place for pixels in places.values() for place in pixels}
    return {case: [found.get(place, math.inf) for place in pixels] for case, pixels in places.items()}, map_sigma


@pytest.mark.parametrize("case", CASES)
def test_a_pixel_is_flagged_about_when_it_is_expected_to_be(delays, case):
    found, map_sigma = delays
    median, expected = float(np.median(found[case])), expected_delay(*case, map_sigma)
    print(f"{case[0]:4.0f} sigma in {case[1]:4.0%} of the frames: expected {expected:4.0f}, median {median:4.0f}, "
          f"longest {max(found[case]):4.0f}")  # fmt: skip
    assert 0.5 * expected - 26 <= median <= 1.5 * expected + 26
