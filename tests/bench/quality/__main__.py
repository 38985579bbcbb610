"""python -m tests.bench.quality [--quick] [--frames N] [--json FILE] [--plot FILE.png]: masks judged by truth and by peaks.

Prints a line per contender, defects found by kind, and the bars of ours. Exit code 1 where a bar is missed, or could not be
measured. docs/quality.md says what the columns mean.
"""

import argparse
import json
import subprocess
import sys
from contextlib import nullcontext

from .contenders import TRUTH, contenders
from .environment import NoPeakFinder, build
from .offline import darks_of
from .peaks import PeakFinder
from .race import race
from .serial import Run
from .table import bar_lines, bars, by_kind, lines, row_of

FRAMES, QUICK = 4000, 2400  # fewer cannot show a release: it takes a time window of 1024 frames
EVERY = 8  # frames between two that the peak finder sees


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, metavar="N", help=f"sample frames; default {FRAMES}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} sample frames, half of the peaks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--no-library", action="store_true", help="without the authors' library, which takes most of a minute"
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE.png")
    args = parser.parse_args()
    run = Run(seed=args.seed, frames=args.frames or (QUICK if args.quick else FRAMES))
    try:
        opened = PeakFinder(build(), run.beam)
    except (NoPeakFinder, OSError, RuntimeError, subprocess.SubprocessError) as e:
        opened = nullcontext(None)
        say(f"no peak finder, so no false peaks and hits, and exit code 1: {e}")
    darks = darks_of(run)
    rows = contenders(run, darks, not args.no_library, say)
    with opened as finder:
        outcome = race(run, darks, rows, finder, EVERY * (2 if args.quick else 1), tick=progress)
    scores = outcome.scores
    table = [row_of(score, scores[TRUTH]) for score in scores.values()]
    kinds, goals = by_kind(list(scores.values())), bars(scores)
    for part in (lines(table), lines(kinds), bar_lines(goals)):
        print("", *part, sep="\n")
    if args.json:
        facts = {"table": table, "kinds": kinds, "bars": [{**bar._asdict(), "met": bool(bar.met)} for bar in goals]}
        with open(args.json, "w") as file:
            json.dump(facts, file, indent=1, default=float)
    if args.plot:
        from .picture import draw

        draw(run, outcome).save(args.plot)
    return 0 if all(bar.met for bar in goals) else 1


def progress(number: int) -> None:
    if number % 500 == 499:
        say(f"{number + 1} frames")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
