"""python -m tests.bench [NAME...] [--json FILE]: measure the bars and print name | ours | baseline | ratio | goal.

Exit code 1 where a bar is missed. BARS is a literal table: a new bar is a file with a `measure` and a line here.
"""

import argparse
import json
import sys
from importlib import import_module

BARS = {
    "client-import": "tests.bench.client_import",
    "fit-1d": "tests.bench.fit_1d",
    "gate": "tests.bench.gate",
    "accumulate": "tests.bench.accumulate",
    "light": "tests.bench.light",
    "levels": "tests.bench.levels",
    "f6": "tests.bench.f6",
    "refresh": "tests.bench.refresh",
    "startup": "tests.bench.startup",
    "ingest": "tests.bench.ingest",
    "module": "tests.bench.module",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BARS)}; none: all")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    unknown = set(args.names) - set(BARS)
    if unknown:
        parser.error(f"unknown bar {', '.join(unknown)}; known: {', '.join(BARS)}")
    rows = []
    print(f"{'name':<34} {'ours':>12} {'baseline':>12} {'ratio':>8}  goal")
    for name in args.names or BARS:
        for row in import_module(BARS[name]).measure():
            rows.append(row)
            met = "" if row.met else "  MISSED"
            print(
                f"{row.name:<34} {row.ours:>12.4f} {row.baseline:>12.4f} {row.ratio:>8.3f}  {row.goal}{met}", flush=True
            )
    if args.json:
        with open(args.json, "w") as file:
            facts = [{**row._asdict(), "ratio": float(row.ratio), "met": bool(row.met)} for row in rows]
            json.dump(facts, file, indent=1, default=float)
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
