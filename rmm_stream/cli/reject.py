"""`rmm-stream reject`: dismiss held maps of a running service; what is published stays. The twin of `accept`."""

import argparse

from ..wire.masks import RejectRequest
from .accept import add_place, ask_about


def add_parser(subparsers) -> None:
    add_place(
        subparsers,
        "reject",
        "dismiss held maps: what is published stays",
        "Dismiss maps that a service holds back because they changed suspiciously: what is published stays, and the same "
        "jump is not reported again until it goes away. Without options, all of them.",
    )


def run(args: argparse.Namespace) -> int:
    """Ask, and say how much is concerned."""
    return ask_about(args, RejectRequest, "rejected: what is published there stays")
