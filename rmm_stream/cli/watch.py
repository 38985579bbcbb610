"""`rmm-stream watch`: print mask updates as they come, or save the present mask and go."""

import argparse
import contextlib
import json
import queue
import time

import numpy as np

from ..client import MaskClient
from ..detectors import DETECTORS, detector
from ..errors import ConfigError
from ..mask import BadPixel, Mask, MaskUpdate
from .arguments import seconds
from .outputs import check_writable


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "watch",
        help="print mask updates as they come, or save the present mask",
        description="Follow the masks of one or more running services.",
    )
    parser.add_argument("endpoint", nargs="+", help="where a service publishes, such as tcp://127.0.0.1:5610")
    parser.add_argument("--once", action="store_true", help="wait for a complete mask, say what it is, and exit")
    parser.add_argument("--output", metavar="MASK.h5", help="with --once: save the mask")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="give up when no mask is complete (default 10)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")


def run(args: argparse.Namespace) -> int:
    """Until the reader has had enough; with --once until the first complete mask."""
    if args.output and not args.once:
        raise ConfigError("--output saves one mask: say --once as well")
    if args.output:
        check_writable(args.output)
    with MaskClient(*args.endpoint) as client:
        if args.once:
            client.wait(10.0 if args.timeout is None else args.timeout)
            _once(client, args)
        else:
            _follow(client, args)
    return 0


def _once(client: MaskClient, args: argparse.Namespace) -> None:
    shards = client.shards
    masks = assemble(shards)
    if args.output:
        from ..storage.mask_file import Provenance, write_mask

        newest = max(shards.values(), key=lambda view: view.generation)
        digests = {update.config_digest for view in shards.values() for update in view.maps.values()}
        name = newest.detector
        write_mask(
            args.output,
            detector(name) if name in DETECTORS else name,
            masks,
            cells=range(newest.layout.cells),
            provenance=Provenance(client.version, newest.epoch, newest.generation, ",".join(sorted(digests))),
        )
    for mask in masks:
        collapsed = mask.collapse()
        facts = {
            "module": mask.module,
            "version": mask.version,
            "train_id": mask.train_id,
            "maps": mask.judged.size,
            "judged": int(np.count_nonzero(mask.judged)),
            "pixels": collapsed.size,
            "bad": int(np.count_nonzero(collapsed)),
            "by_flag": by_flag(collapsed),
        }
        text = (
            "module {module}: {bad} of {pixels} pixels bad ({said}), {judged} of {maps} maps judged, train {train_id}"
        )
        print(json.dumps(facts) if args.json else text.format(**facts, said=in_words(facts["by_flag"])), flush=True)


def _follow(client: MaskClient, args: argparse.Namespace) -> None:
    """Print from this thread, so that a slow terminal never holds the client up."""
    updates: queue.SimpleQueue[MaskUpdate] = queue.SimpleQueue()
    client.on_update(updates.put)
    if args.timeout is not None:
        client.wait(args.timeout)
    said = None
    while True:
        with contextlib.suppress(queue.Empty):
            print(line(updates.get(timeout=0.5), args.json), flush=True)
        if (stale := client.stale) != said:
            said = stale
            print(_say_stale(stale, client.age, args.json), flush=True)


def _say_stale(stale: bool, age: float, as_json: bool) -> str:
    if as_json:
        return json.dumps({"stale": stale, "age": None if age == float("inf") else age})
    return "the publisher is silent: the mask may be old" if stale else "the mask is current"


def line(update: MaskUpdate, as_json: bool) -> str:
    """One update as a line for a person or a program."""
    change, key = update.change, update.change.key
    facts = {
        "shard": update.shard,
        "generation": update.generation,
        "sequence": update.sequence,
        "version": update.version,
        **key._asdict(),
        "judged": [flag.name for flag in BadPixel if change.judged & flag],
        "frames": change.frames,
        "train_id": change.train_id,
        "timestamp": change.timestamp,
        "newly_bad": change.newly_bad,
        "newly_good": change.newly_good,
        "bad": int(np.count_nonzero(change.flags)),
        "by_flag": by_flag(change.flags),
    }
    if as_json:
        return json.dumps(facts)
    return (
        f"{time.strftime('%H:%M:%S')} module {key.module} stage {key.gain_stage} cell {key.cell}: "
        f"{facts['bad']} bad, +{change.newly_bad} -{change.newly_good} ({in_words(facts['by_flag'])}), "
        f"{change.frames} frames, train {change.train_id}"
    )


def by_flag(flags: np.ndarray) -> dict[str, int]:
    """Pixels by the name of each flag that occurs. flags: uint8."""
    counts = np.bincount(flags.ravel(), minlength=256)
    values = np.arange(256)
    found = {flag.name: int(counts[values & flag != 0].sum()) for flag in BadPixel}
    return {name: count for name, count in found.items() if count}


def in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.lower().replace('_', ' ')} {count}" for name, count in counts.items()) or "none"


def assemble(shards: dict) -> list[Mask]:
    """Complete masks, one per module, of the client's shards; NO_DATA in maps that are absent or not yet judged."""
    masks = []
    for module in sorted({view.shard.module for view in shards.values()}):
        views = [view for view in shards.values() if view.shard.module == module]
        layout = max(views, key=lambda view: view.generation).layout
        flags = np.full(layout, np.uint8(BadPixel.NO_DATA))
        judged, frames = np.zeros(layout[:2], np.uint8), np.zeros(layout[:2], np.int64)
        for key, update in (
            (key, update) for view in views if view.layout == layout for key, update in view.maps.items()
        ):
            at = key.gain_stage, key.cell
            flags[at] = update.change.flags
            judged[at], frames[at] = int(update.change.judged), update.change.frames
        newest = max((view.train_id for view in views), default=0)
        masks.append(Mask(module, flags, judged, frames, newest, max(view.version for view in views)))
    return masks
