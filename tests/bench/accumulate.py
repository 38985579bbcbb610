"""Dark frames into exact sums, as the maker adds them, against Welford in numpy and against memory itself. Mpixel/s.

A block of eight frames of 64 memory cells of an AGIPD module, values and gain indicator: more than any cache holds. Some
values are saturated. The sums agree with numpy's, to the bit, before anything is timed.
"""

from collections import Counter
from dataclasses import replace

import numba
import numpy as np

from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.rmm import MaskMaker
from rmm_stream.rmm.dark import Group, Waiting
from rmm_stream.rmm.kernels.blocks import BLOCK
from rmm_stream.rmm.stats import Block, IntegerStats, flat

from .interleaved import medians
from .row import Row

CELLS = 64
SHAPE = AGIPD1M.module_shape
PIXELS = CELLS * SHAPE[0] * SHAPE[1]
SPEC = replace(AGIPD1M, cells=CELLS, gain_thresholds=(3000.0, 5000.0))
LEVELS = (2000, 4000, 6000)  # of the indicator in each stage
MOVED = (
    2 + 18 / BLOCK
)  # bytes per pixel and frame: the frame, and an eighth of reading reference, s1, s2, writing s1, s2
READ = 2 + 10 / BLOCK  # of these, read
WIDE = 2 + 26 / BLOCK  # bytes that sums with an s2 of 64 bits would move


@numba.njit(nogil=True, fastmath={"contract", "reassoc"})
def update_in_place(a, s, t):
    """The access pattern of sums, with nothing else to do."""
    for i in range(a.size):
        a[i] = a[i] * s + t


@numba.njit(nogil=True)
def read(a):
    """All of an array, eight bytes at a time."""
    seen = np.uint64(0)
    for i in range(a.size):
        seen |= a[i]
    return seen


def frames(rng: np.random.Generator, level: float, sd: float, saturated: bool = False) -> np.ndarray:
    """(CELLS, ss, fs) uint16."""
    noise = rng.normal(level, sd, 1 << 20).astype(np.uint16)
    stack = np.resize(noise, PIXELS)
    if saturated:
        stack[:: rng.integers(900, 1000)] = SPEC.saturation
    return stack.reshape(CELLS, *SHAPE)


def block(stacks: list[np.ndarray]) -> Block:
    rows = np.repeat(np.arange(CELLS)[:, None], BLOCK, axis=1)
    return Block(tuple(flat(stack) for stack in stacks), rows, np.arange(CELLS))


class Routed:
    """A maker's dark path, given whole blocks of free-running frames."""

    def __init__(self, values: list[np.ndarray], gains: list[np.ndarray], exposure: Exposure):
        self.darks = MaskMaker(SPEC).darks
        self.group = Group(0, exposure.gain_stage, gains[0].dtype)
        self.values, self.gains = block(values), block(gains)
        batch = FrameBatch(0, values[0], gains[0], *(None,) * 3, 0.0, exposure)
        self.held = [[Waiting(batch, cell, 0, 0)] * BLOCK for cell in range(CELLS)]

    def __call__(self) -> None:
        self.darks._add(self.group, self.values, self.gains, self.held)

    def counts(self) -> Counter:
        """Values that counted, by stage."""
        return Counter(
            {key.gain_stage: sum(int(s.moments(c).count.sum()) for c in range(CELLS))
             for key, s in self.darks.segments.dark.items() if key.quantity == "value"}
        )  # fmt: skip


def check(stats: IntegerStats, values: list[np.ndarray], most: int) -> None:
    """One cell's moments are numpy's, of the values that count."""
    v = np.stack([stack[5] for stack in values]).astype(np.int64)
    ok = v <= most
    found, n = stats.moments(5), ok.sum(0)
    assert (found.count == n).all()
    expected = (v * ok).sum(0)[n > 0] / n[n > 0]
    assert np.abs(found.mean[n > 0] - expected).max() < 1e-9


def measure() -> list[Row]:
    rng = np.random.default_rng(0)
    values = [frames(rng, 8000, 10, saturated=True) for _ in range(BLOCK)]
    gains = [frames(rng, LEVELS[0], 20) for _ in range(BLOCK)]
    stray, mixed = [], []
    for stack in gains:
        few, any_stage = stack.copy(), stack.copy()
        few[rng.random(stack.shape, np.float32) < 5e-5] = LEVELS[1]
        any_stage += rng.integers(0, 3, stack.shape, np.uint16) * np.uint16(LEVELS[1] - LEVELS[0])
        stray.append(few)
        mixed.append(any_stage)
    plain, masked = (IntegerStats(CELLS, SHAPE, narrow=True) for _ in range(2))
    given, limits = block(values), (0, SPEC.saturation - 1)
    mean, m2, x = np.zeros(PIXELS), np.zeros(PIXELS), values[1].reshape(-1)

    def welford() -> None:
        d = x - mean
        mean.__iadd__(d / 5.0)
        m2.__iadd__(d * (x - mean))

    free, held = Exposure(Illumination.DARK), Exposure(Illumination.DARK, 0)
    apart, one, few, random = (
        Routed(values, g, e) for g, e in ((gains, held), (gains, free), (stray, free), (mixed, free))
    )
    plain.add(given, None)
    masked.add(given, limits)
    check(plain, values, 65535)
    check(masked, values, limits[1])
    for routed in (apart, one, few, random):
        routed()
        assert routed.counts().total() == apart.counts().total()  # law 5: stages add up to the valid values
    moved = np.ones(int(PIXELS * BLOCK * MOVED / 2 / 8))  # an update reads and writes each byte
    only_read = np.ones(int(PIXELS * BLOCK * READ / 8), np.uint64)
    seconds = medians(
        {
            "welford": welford,
            "update": lambda: update_in_place(moved, 1.0000001, 0.5),
            "read": lambda: read(only_read),
            "plain": lambda: plain.add(given, None),
            "masked": lambda: masked.add(given, limits),
            "apart": apart,
            "one": one,
            "few": few,
            "random": random,
        }
    )
    block_px, both_px = 1e-6 * BLOCK * PIXELS, 2e-6 * BLOCK * PIXELS
    rate = {name: block_px / seconds[name] for name in ("update", "read", "plain", "masked")}
    rate |= {name: both_px / seconds[name] for name in ("apart", "one", "few", "random")}
    rate["welford"] = 1e-6 * PIXELS / seconds["welford"]
    return [
        Row("unmasked / numpy Welford", rate["plain"], rate["welford"], 45, at_most=False),
        Row("unmasked / in-place update", rate["plain"], rate["update"], 0.85, at_most=False),
        Row("unmasked / update, 64-bit s2", rate["plain"], rate["update"] * MOVED / WIDE, None, at_most=False),
        Row("unmasked / reading its bytes", rate["plain"], rate["read"], None, at_most=False),
        Row("masked, counted / unmasked", rate["masked"], rate["plain"], 0.75, at_most=False),
        Row("masked, counted / Welford", rate["masked"], rate["welford"], 30, at_most=False),
        Row("routed, one stage / masked", rate["one"], rate["apart"], 0.85, at_most=False),
        Row("routed, 5e-5 astray / masked", rate["few"], rate["apart"], None, at_most=False),
        Row("routed, random / masked", rate["random"], rate["apart"], 0.35, at_most=False),
    ]
