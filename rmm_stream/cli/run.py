"""`rmm-stream run`: the live service of one configuration, until SIGTERM."""

import argparse

from ..live import service
from . import logs
from .configuration import blaming, read


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "run",
        help="the live service of a configuration, until SIGTERM",
        description="Receive frames, judge pixels, publish masks, until SIGTERM or Ctrl-C. Exit codes: 0 stopped as "
        "asked, 1 failed, 2 wrong configuration, 3 another process owns the shard.",
    )
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError before anything opens, LeaseLost where the shard is another's."""
    logs.setup(args.log_level)
    config = read(args.config)
    with blaming(args.config):
        return service.run(config)
