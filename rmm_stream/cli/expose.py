"""`rmm-stream expose`: tell a running service what the detector sees now."""

import argparse

from ..client import ask
from ..wire.masks import ExposeRequest
from .arguments import seconds, stage_number


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "expose",
        help="tell a running service what the detector sees now",
        description="Tell a running service what the detector sees from now on. What the stream itself announces goes "
        "first, unless --override is given. `unknown` without --override takes back what was said here: the stream and "
        "the configuration speak again.",
    )
    parser.add_argument("endpoint", help="where the service takes requests, such as tcp://127.0.0.1:5611")
    parser.add_argument("illumination", choices=("dark", "flat", "sample", "unknown"))
    parser.add_argument(
        "--gain-stage",
        type=stage_number,
        metavar="N",
        help="the stage the detector is held in, 0 = most sensitive; without it each pixel switches by itself",
    )
    parser.add_argument("--new", action="store_true", help="start the statistics of that exposure afresh")
    parser.add_argument("--override", action="store_true", help="believe this rather than what the stream announces")
    parser.add_argument("--timeout", type=seconds, default=5.0, metavar="S", help="seconds to wait for the answer")


def run(args: argparse.Namespace) -> int:
    """Ask, and say what the service answered."""
    ask(args.endpoint, ExposeRequest(args.illumination, args.gain_stage, args.new, args.override), args.timeout)
    if args.illumination == "unknown" and not args.override:
        print(f"{args.endpoint}: the operator's word is taken back; the stream and the configuration speak again")
        return 0
    held = "each pixel switches by itself" if args.gain_stage is None else f"gain stage {args.gain_stage}"
    print(f"{args.endpoint}: {args.illumination}, {held}{', statistics start afresh' if args.new else ''}")
    return 0
