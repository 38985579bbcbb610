"""`rmm-stream check`: what is wrong with a configuration, what memory it needs; compiles the kernels. Opens no socket."""

import argparse
import json
import time
from collections.abc import Sequence

from ..live.memory import machine_memory, plan
from ..live.prepare import prepare
from ..rmm.memory import Part
from .configuration import blaming, read


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "check",
        help="validate a configuration, compile the kernels, print the memory it needs",
        description="Validate a configuration, compile and keep the kernels, print the memory it needs, part by part.",
    )
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError, which is exit code 2, where the configuration or a file that it names is wrong."""
    config = read(args.config)
    with blaming(args.config):
        parts = prepare(config)
    begun = time.monotonic()
    parts.workers[0].maker.warm_up()
    compiled = time.monotonic() - begun
    memory = plan(config)
    needed = sum(part.size for part in memory if not part.on_top)
    most = sum(part.size for part in memory)
    if args.json:
        facts = {
            "config": args.config,
            "digest": config.digest,
            "kernels_s": round(compiled, 2),
            "memory": [part._asdict() for part in memory],
            "bytes": needed,
            "bytes_at_most": most,
            "machine_bytes": machine_memory(),
        }
        print(json.dumps(facts))
        return 0
    spec = parts.spec
    print(f"{args.config}: valid, settings {config.digest}")
    print(f"{spec.name}: modules {_span(config.modules)}, cells {_span(config.cells)}, stages {', '.join(spec.stages)}")
    print(f"kernels ready after {compiled:.1f} s")
    _table("memory, as exposures arrive", [part for part in memory if not part.on_top], needed)
    _table("on top of it", [part for part in memory if part.on_top], most - needed)
    print(f"at most {_mb(most).strip()}; the machine has {_mb(machine_memory()).strip()}")
    if needed > machine_memory():
        print("that is more than the machine has: give this service fewer modules or cells, in [shards]")
    return 0


def _table(title: str, parts: Sequence[Part], total: int) -> None:
    print(f"{title}:")
    width = max([8, *(len(part.part) for part in parts)])
    for part in parts:
        print(f"  {part.part:<{width}}  {_mb(part.size)}  {part.when}")
    print(f"  {'together':<{width}}  {_mb(total)}")


def _mb(size: int) -> str:
    return f"{size / 1e6:>10,.1f} MB"


def _span(numbers) -> str:
    numbers = list(numbers)
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
