"""The truth: which pixels are defective, how, how strongly, from which frame to which. Painting them into frames.

A strength is told in sigma of the map that finds the defect, as that map is after 200 frames (section 3.3.1), from what is
planted and never from the frames. Weak ones lie below the cut of 8 by design: no method has to find them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .beam import ADU_PER_PHOTON, SATURATION, Beam

ALWAYS, NEVER = -(10**9), 10**9  # frames of the sample; darks come before frame 0
MAP_FRAMES = 200  # of the F6 map in whose sigma strengths are told
CLIP, BEYOND = 5.0, 5.0  # of one frame, in the mean and in the share: docs/method.md 8
STRONG, WEAK = (12.0, 120.0), (3.0, 8.0)

TABLE = np.dtype([
    ("kind", "S10"), ("strong", bool), ("when", "S8"),  # when: start, onset or recovery
    ("ss", "i8"), ("fs", "i8"), ("begins", "i8"), ("ends", "i8"),  # defective in begins <= frame < ends
    ("magnitude", "f8"), ("share", "f8"),  # see `Defects`
    ("snr", "f8"),  # expected, in the map of MAP_FRAMES
])  # fmt: skip

#: kind, strong, when, how many. "pair": two touching hot pixels.
PLANTED = (
    ("offset", True, "start", 40), ("offset", False, "start", 30),
    ("noise", True, "start", 40), ("noise", False, "start", 30),
    ("dead", True, "start", 20), ("stuck", True, "start", 20),
    ("hot", True, "start", 60), ("hot", False, "start", 40), ("pair", True, "start", 20),
    ("cold", True, "start", 30), ("cold", False, "start", 20),
    ("flickering", True, "start", 40), ("flickering", False, "start", 30),
    ("hot", True, "onset", 60), ("flickering", True, "onset", 60), ("dying", True, "onset", 30),
    ("hot", True, "recovery", 30), ("flickering", True, "recovery", 30), ("dying", True, "recovery", 20),
)  # fmt: skip
ONSET, RECOVERY = (0.25, 0.5), (0.3, 0.5)  # of the sample frames, in which they begin and end


class Readout(NamedTuple):
    """Of good pixels, (ss, fs) float64: offset and noise in ADU, answer to light. offset_spread, noise_spread: of pixels."""

    offset: NDArray
    noise: NDArray
    response: NDArray
    offset_spread: float
    noise_spread: float
    response_spread: float


def plant(
    beam: Beam, readout: Readout, darks: int, frames: int, rng: np.random.Generator, share: float = 1.0
) -> NDArray:
    """The table of defects, (n,) TABLE. share: of the numbers in PLANTED."""
    free = ~beam.spec.edge() & (beam.passes > 0.9)
    light = beam.typical
    rows = []
    for kind, strong, when, count in PLANTED:
        n = max(2, round(count * share))
        block = np.zeros(n, TABLE)
        block["kind"], block["strong"], block["when"] = kind, strong, when
        block["begins"], block["ends"], block["share"] = ALWAYS, NEVER, 1.0
        block["ss"], block["fs"] = _places(kind, n, free, light, beam, rng)
        if when == "onset":
            block["begins"] = (rng.uniform(*ONSET, n) * frames).astype(int)
        elif when == "recovery":
            block["ends"] = (rng.uniform(*RECOVERY, n) * frames).astype(int)
        _strength(block, beam, readout, darks, rng)
        rows.append(block)
    return np.concatenate(rows)


def _places(
    kind: str, n: int, free: NDArray, light: NDArray, beam: Beam, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Free pixels, which are free no longer; a third of the hot ones on the flanks of the water ring."""
    allowed = free & (light > 0.5) if kind in ("cold", "dying") else free
    if kind == "pair":
        right = np.zeros_like(free)
        right[:, :-1] = free[:, :-1] & free[:, 1:]
        at = rng.choice(np.flatnonzero(right), n // 2, replace=False)
        at = np.stack([at, at + 1], 1).reshape(-1)
    else:
        ring = allowed & (np.abs(beam.q - 1.95) < 0.25)
        some = n // 3 if kind == "hot" else 0
        at = rng.choice(np.flatnonzero(ring), some, replace=False)
        elsewhere = np.setdiff1d(np.flatnonzero(allowed), at)
        at = np.concatenate([at, rng.choice(elsewhere, n - some, replace=False)])
    free.flat[at] = False
    return np.unravel_index(at, free.shape)


def _logarithmic(rng: np.random.Generator, between: tuple[float, float], n: int) -> NDArray:
    return np.exp(rng.uniform(*np.log(between), n))


def frame_sigma(light: NDArray, noise: NDArray) -> NDArray:
    """ADU, sigma of a pixel in one frame of so many photons."""
    return np.sqrt(noise**2 + 1 / 12 + ADU_PER_PHOTON**2 * light)


def map_sigma(light: NDArray, readout: Readout, noise: NDArray, darks: int) -> NDArray:
    """Sigma of the map of mean SNR after MAP_FRAMES: photons and noise, error of the dark offset, unequal answers to light."""
    sigma = frame_sigma(light, noise)
    answers = readout.response_spread * ADU_PER_PHOTON * light / sigma
    return np.sqrt(1 / MAP_FRAMES + (noise / sigma) ** 2 / darks + answers**2)


def _strength(block: NDArray, beam: Beam, readout: Readout, darks: int, rng: np.random.Generator) -> None:
    """Fill in magnitude, share and SNR."""
    n, kind, strong = len(block), block["kind"][0].decode(), bool(block["strong"][0])
    light, noise = beam.typical[block["ss"], block["fs"]], readout.noise[block["ss"], block["fs"]]
    sigma, width = frame_sigma(light, noise), map_sigma(light, readout, noise, darks)
    snr = _logarithmic(rng, STRONG if strong else WEAK, n)
    late = block["when"][0] != b"start"
    if kind == "offset":
        spread = np.hypot(readout.offset_spread, noise / np.sqrt(darks))
        block["magnitude"], block["snr"] = snr * spread * rng.choice([-1, 1], n), snr
    elif kind == "noise":
        spread = np.hypot(
            readout.noise_spread * np.median(readout.noise), np.median(readout.noise) / np.sqrt(2 * darks)
        )
        block["magnitude"], block["snr"] = np.median(readout.noise) + snr * spread, snr
    elif kind == "dead":
        block["snr"] = np.inf
    elif kind == "stuck":  # every other one at saturation, where there is no data at all
        block["magnitude"], block["snr"] = rng.uniform(8000, 16000, n), np.inf
        block["magnitude"][::2] = SATURATION
    elif kind in ("hot", "pair"):
        shift = snr * width
        if late or kind == "pair":
            shift = _logarithmic(rng, (3.0, 50.0), n)
        block["magnitude"], block["snr"] = shift * sigma, np.minimum(shift, CLIP) / width
    elif kind in ("cold", "dying"):
        full = ADU_PER_PHOTON * light / sigma / width  # SNR of a pixel that sees nothing
        answer = rng.uniform(0.0, 0.3, n) if kind == "cold" else np.zeros(n)
        if not strong:
            answer = np.clip(1 - snr / full, 0.0, 1.0)
        block["magnitude"], block["snr"] = answer, (1 - answer) * full
        block["strong"] &= block["snr"] >= STRONG[0]
    else:
        assert kind == "flickering"
        share = _logarithmic(rng, ((0.03, 0.9) if late else (0.06, 0.9)) if strong else (0.015, 0.04), n)
        shift = _logarithmic(rng, (8.0, 60.0), n)
        block["share"], block["magnitude"] = share, shift * sigma
        block["snr"] = np.maximum(share * MAP_FRAMES, CLIP * share / width)


class Defects:
    """The table, ready to be painted. magnitude: ADU added (offset, hot, pair, flickering), noise in ADU, the value of a stuck
    pixel, or the answer to light (cold, dying)."""

    def __init__(self, table: NDArray, shape: tuple[int, int]):
        self.table, self.shape = table, shape
        self.at = np.ravel_multi_index((table["ss"], table["fs"]), shape)
        self.kinds = {kind: np.flatnonzero(np.isin(table["kind"], words)) for kind, words in GROUPS.items()}

    def active(self, frame: int) -> NDArray:
        """(n,) bool: those there in a frame."""
        return (self.table["begins"] <= frame) & (frame < self.table["ends"])

    def mask(self, frame: int) -> NDArray:
        """(ss, fs) bool: pixels defective in a frame."""
        out = np.zeros(self.shape, bool)
        out.flat[self.at[self.active(frame)]] = True
        return out

    def ever(self) -> NDArray:
        """(ss, fs) bool: pixels that are defective at any time."""
        out = np.zeros(self.shape, bool)
        out.flat[self.at] = True
        return out

    def readout(self, good: Readout) -> Readout:
        """What the pixels have in the dark, with offset and noise as the defective ones have them."""
        offset, noise = good.offset.copy(), good.noise.copy()
        shifted, noisy = self.kinds["offset"], self.kinds["noise"]
        offset.flat[self.at[shifted]] += self.table["magnitude"][shifted]
        noise.flat[self.at[noisy]] = self.table["magnitude"][noisy]
        return good._replace(offset=offset, noise=noise)

    def dim(self, photons: NDArray, frame: int) -> None:
        """Pixels that answer light too little, in place. photons: (ss, fs) expected."""
        these = self._now("dim", frame)
        photons.flat[self.at[these]] *= self.table["magnitude"][these]

    def shine(self, values: NDArray, frame: int, rng: np.random.Generator) -> None:
        """Pixels that read high under light, in place. values: (ss, fs) ADU."""
        lucky = rng.random(len(self.table)) < self.table["share"]
        these = self._now("bright", frame)
        these = these[lucky[these]]
        values.flat[self.at[these]] += self.table["magnitude"][these]

    def freeze(self, values: NDArray, offset: NDArray) -> None:
        """Pixels whose value never changes, in place."""
        dead, stuck = self.kinds["dead"], self.kinds["stuck"]
        values.flat[self.at[dead]] = offset.flat[self.at[dead]]
        values.flat[self.at[stuck]] = self.table["magnitude"][stuck]

    def _now(self, kind: str, frame: int) -> NDArray:
        these = self.kinds[kind]
        return these[self.active(frame)[these]]


GROUPS = {
    "offset": [b"offset"], "noise": [b"noise"], "dead": [b"dead"], "stuck": [b"stuck"],
    "dim": [b"cold", b"dying"], "bright": [b"hot", b"pair", b"flickering"],
}  # fmt: skip
