"""python -m tests.bench.quality.rest [--quick]: what must not be flagged, alone: a crystal at rest, rings, streak, beam stop.

No defects but single hot pixels beside spots, so that each number has one cause. Exit code 1 where a bar is missed.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmm_stream.config import Features, Lit, Settings

from .beam import SPEC, Beam
from .contenders import Ours
from .crystal import Crystal, paint, random_crystal
from .defects import ALWAYS, NEVER, TABLE, Defects, frame_sigma
from .race import LEARN
from .serial import SPOT_PIXEL, Run
from .table import Bar, bar_lines

FRAMES, QUICK = 2000, 600
AWAY = (1, 2, 3, 4)  # pixels between the middle of a spot and the hot pixel beside it
SHIFT = 8.0  # sigma of one frame
PER_DISTANCE = 5  # spots that get a hot pixel
WINDOWS = (None, (16, 16))  # features.lit.window
SCENES = (
    ("air", Beam(ring=False, streak=False, stop=False)),
    ("water rings", Beam(ring=True, streak=False, stop=False)),
    ("jet streak", Beam(ring=False, streak=True, stop=False)),
    ("beam stop", Beam(ring=False, streak=False, stop=True)),
)


class Flagged(NamedTuple):
    """Pixels flagged in any frame after the learn-in, (ss, fs) bool, and those flagged at the end."""

    ever: NDArray
    at_end: NDArray


def flagged(run: Run, settings: Settings = Settings(), learn: int = LEARN // 2) -> Flagged:
    """What ours flags in a run, edges apart."""
    ours, edge = Ours("", run, settings), SPEC.edge()
    ever = np.zeros(run.shape, bool)
    for number in range(run.frames):
        frame = run.frame(number)
        if number >= learn:
            ever |= ours.mask
        ours.see(frame, np.empty(0))
    return Flagged(ever & ~edge, ours.mask & ~edge)


def resting(seed: int, frames: int) -> tuple[Run, NDArray, NDArray]:
    """(run, pixels of its spots, distance of the hot pixel from its spot) of a crystal that stays for all frames.

    Pixels of spots: (ss, fs) bool, expected photons at least SPOT_PIXEL. Distances: (n,) pixels, one for each row of the table
    of defects. The beam still shakes and the pulses still differ."""
    rng = np.random.default_rng((seed, 9))
    crystal = Crystal(random_crystal(rng).rotation, 200.0)
    run = Run(seed=seed, frames=frames, share=0.0, resting=crystal, beam=Beam(streak=False, stop=False))
    spots = run.frame(0).spots
    light = paint(spots, run.shape)
    bright = np.flatnonzero(spots.photons > 50)
    rows, distances = [], []
    for i in rng.permutation(bright):
        away = AWAY[len(rows) % len(AWAY)]
        ss, fs = round(float(spots.ss[i])), round(float(spots.fs[i])) + away
        if fs + 2 < run.shape[1] and not SPEC.edge()[ss, fs] and len(rows) < PER_DISTANCE * len(AWAY):
            row = np.zeros(1, TABLE)
            row["kind"], row["strong"], row["when"], row["share"] = "hot", True, "start", 1.0
            row["ss"], row["fs"], row["begins"], row["ends"] = ss, fs, ALWAYS, NEVER
            row["magnitude"] = SHIFT * frame_sigma(run.beam.typical[ss, fs] + light[ss, fs], run.good.noise[ss, fs])
            rows.append(row)
            distances.append(away)
    planted = Defects(np.concatenate(rows), run.shape)
    return replace(run, planted=planted), light >= SPOT_PIXEL, np.array(distances)


def measure(frames: int = FRAMES, seeds: tuple[int, ...] = (1, 2)) -> Iterator[Bar]:
    """The bars, one by one. Hot pixels one or two pixels from a spot have no bar: they are within it."""
    for window in WINDOWS:
        settings = Settings(features=Features(lit=Lit(window=window)))
        words = "" if window is None else f", windows {window[0]} x {window[1]}"
        lost, pixels, false, found, planted = 0, 0, 0, np.zeros(5, int), np.zeros(5, int)
        for seed in seeds:
            run, spots, distances = resting(seed, frames)
            ever, at_end = flagged(run, settings)
            ever &= ~run.defects.ever()
            lost, pixels = lost + int((ever & spots).sum()), pixels + int(spots.sum())
            false += int((ever & ~spots).sum())
            was = at_end.reshape(-1)[run.defects.at]
            found += np.bincount(distances[was], minlength=5)
            planted += np.bincount(distances, minlength=5)
        yield Bar(f"crystal at rest: Bragg pixels lost of {pixels}{words}", lost, 0, True)
        yield Bar(f"crystal at rest: other good pixels flagged{words}", false, 0, True)
        for away in AWAY:
            least = 0.0 if away < 3 else 1.0
            name = f"crystal at rest: hot pixels {away} px from a spot found, of {planted[away]}{words}"
            yield Bar(name, found[away], least * planted[away], False)
        for scene, beam in SCENES:
            run = Run(seed=1, frames=frames // 3, share=0.0, hit_rate=0.0, beam=beam)
            ever, _ = flagged(run, settings)
            yield Bar(f"{scene}: good pixels flagged{words}", int(ever.sum()), 0, True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quality.rest", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} frames instead of {FRAMES}, one crystal")
    args = parser.parse_args()
    bars = list(measure(QUICK, (1,)) if args.quick else measure())
    print(*bar_lines(bars), sep="\n", flush=True)
    return 0 if all(bar.met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
