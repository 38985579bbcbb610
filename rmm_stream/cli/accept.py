"""`rmm-stream accept`: publish held maps of a running service after all. `reject` is its twin."""

import argparse

from ..client import ask
from ..wire.masks import AcceptRequest, RejectRequest
from .arguments import natural, seconds, stage_number


def add_parser(subparsers) -> None:
    add_place(
        subparsers,
        "accept",
        "publish held maps after all",
        "Publish maps that a service holds back because they changed suspiciously. Without options, all of them.",
    )


def add_place(subparsers, name: str, text: str, description: str) -> None:
    """The parser of a command about some maps of a running service."""
    parser = subparsers.add_parser(name, help=text, description=description)
    parser.add_argument("endpoint", help="where the service takes requests, such as tcp://127.0.0.1:5611")
    parser.add_argument("--module", type=natural, metavar="M", help="of this module only")
    parser.add_argument("--gain-stage", type=stage_number, metavar="G", help="of this gain stage only")
    parser.add_argument("--cell", type=natural, metavar="C", help="of this memory cell only")
    parser.add_argument("--timeout", type=seconds, default=5.0, metavar="S", help="seconds to wait for the answer")


def run(args: argparse.Namespace) -> int:
    """Ask, and say how much is concerned."""
    return ask_about(args, AcceptRequest, "accepted: what is held there is published")


def ask_about(args: argparse.Namespace, kind: type[AcceptRequest] | type[RejectRequest], done: str) -> int:
    """Send a request about the place that the options name."""
    held = ask(args.endpoint, kind(args.module, args.gain_stage, args.cell), args.timeout).get("held", 0)
    named = [f"{name} {n}" for name, n in (("stage", args.gain_stage), ("cell", args.cell)) if n is not None]
    modules = "all modules" if args.module is None else f"module {args.module}"
    said = f"{done}; {held} maps were held in {modules}" if held else f"no map is held in {modules}: nothing changes"
    print(f"{args.endpoint}: {', '.join([modules, *named])}: {said}")
    return 0
