"""`rmm-stream simulate`: a detector with planted defects that speaks a real protocol. The truth is written beforehand."""

import argparse
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np

from ..config import Config, build, is_loopback
from ..detectors import DETECTORS
from ..errors import ConfigError
from ..frames import FrameBatch
from ..sources.plan import usual_plan
from ..sources.scene import Planting
from ..sources.sender import MIRROR, FrameSender
from ..sources.simulated import SimulatedDetector
from ..sources.truth import write_truth
from ..storage.atomic import replace_file
from ..wire import karabo, make_decoder, native
from ..wire.decoder import Part
from .arguments import seconds
from .configuration import read
from .outputs import check_apart, check_writable
from .progress import EVERY_S, progress

EXPOSURE_SOURCE = "SIM/EXPOSURE"
FOREVER_HZ = 10.0

#: What the receiver connects with, by what the simulator binds.
RECEIVERS = {kind: receiver for receiver, kind in MIRROR.items()}

#: Option -> (section, key) of the configuration that it overrides.
OVERRIDES = {
    "detector": ("detector", "name"),
    "protocol": ("source", "protocol"),
    "endpoint": ("source", "endpoint"),
    "axes": ("source", "axes"),
    "modules": ("shards", "modules"),
    "rate": ("simulate", "rate_hz"),
    "dark_trains": ("simulate", "dark_trains"),
    "flat_trains": ("simulate", "flat_trains"),
    "sample_trains": ("simulate", "sample_trains"),
    "seed": ("simulate", "seed"),
    "defects": ("simulate", "defects"),
    "onset_defects": ("simulate", "onset_defects"),
    "truth": ("simulate", "truth"),
    "karabo_version": ("simulate", "karabo_version"),
    "tap": ("simulate", "tap"),
}


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="a detector with planted defects that speaks a real protocol",
        description="Send what a configuration expects: darks in each gain stage, then flat field, then sample, with "
        "planted defects. Options override the file; without one, name at least --detector. Waits for its consumer.",
    )
    add = parser.add_argument
    add("config", metavar="CONFIG.toml", nargs="?", help="the service's configuration, with an optional [simulate]")
    add("--detector", choices=tuple(DETECTORS))
    add("--protocol", choices=("karabo", "native"))
    add("--endpoint", metavar="tcp://HOST:PORT", help="where to bind; default tcp://127.0.0.1:4545")
    add("--socket", choices=tuple(RECEIVERS), help="pub (default): to all; push: to one; rep: on request")
    add("--axes", help='order of the array\'s axes, e.g. "fs ss cell"')
    add("--modules", type=int, nargs="+", metavar="M", help="default 0; with a file, those of the file")
    add("--cells", type=int, metavar="N", help="memory cells 0 to N-1")
    add("--rate", type=float, metavar="HZ", help="trains per second, at most; default 10")
    add("--dark-trains", type=int, metavar="N", help="in each gain stage; default 250")
    add("--flat-trains", type=int, metavar="N", help="default 500")
    add("--sample-trains", type=int, metavar="N", help="with moving Bragg spots; default 0")
    add("--seed", type=int, help="the same seed makes the same frames; default 1")
    add("--defects", type=int, metavar="N", help="of each kind in each map; default 50")
    add("--onset-defects", type=int, metavar="N", help="of each lit kind in each map, beginning on the way; default 20")
    add("--truth", metavar="FILE.h5", help="write what was planted, before the first frame")
    add("--karabo-version", choices=("2.2", "1.0"))
    add("--tap", metavar="ENDPOINT", help="bind a second, PUB socket with the same messages")
    add("--first-train", type=int, default=1, metavar="ID", help="id of the first train; default 1")
    add("--wait-for-tap", action="store_true", help="start only when somebody listens to the tap, too")
    add("--forever", action="store_true", help="after the plan, go on with its last exposure until stopped, at 10 Hz")
    add(
        "--report-s",
        type=seconds,
        default=EVERY_S,
        metavar="S",
        help="between two lines of progress in a log; default 10",
    )
    add("--wait-s", type=seconds, metavar="S", help="give up when no consumer came after S seconds; default: never")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError before anything opens, OSError where the truth cannot be written."""
    config = configuration(args)
    spec, settings = config.detector.spec(), config.simulate
    if settings.truth:
        check_writable(settings.truth)
        check_apart(settings.truth, [("the configuration", args.config)] if args.config else [])
    make_decoder(config)  # refuses a source that its receiver would refuse
    detector = make_detector(config, args.first_train)
    _warn(config)
    with stopping() as stop, ExitStack() as stack:
        groups = np.array_split(config.modules, len(config.source.endpoints))
        kind = MIRROR[config.source.socket]
        senders = [
            (
                stack.enter_context(FrameSender(endpoint, kind, settings.tap if i == 0 else None, stop)),
                set(group.tolist()),
            )
            for i, (endpoint, group) in enumerate(zip(config.source.endpoints, groups))
        ]
        if settings.truth:
            with replace_file(settings.truth) as aside:
                write_truth(aside, detector)
        print(
            f"{spec.name}: {len(detector.plan)} trains, {kind} on {', '.join(s.endpoint for s, _ in senders)}", end=""
        )
        print(f", tap on {senders[0][0].tap_endpoint}" if settings.tap else "", flush=True)
        for sender, _ in senders:
            if not sender.wait(args.wait_s, args.wait_for_tap):
                if stop.is_set():
                    return 0
                raise TimeoutError(
                    f"no consumer at {sender.endpoint} within {args.wait_s:g} s; is the service running?"
                )
        sent = stream(config, detector, senders, stop, args.report_s)
        print(f"{sent} trains sent" + ("" if sent == len(detector.plan) else ", then stopped"), flush=True)
        if args.forever:
            go_on(config, detector, senders, stop)
    return 0


def configuration(args: argparse.Namespace) -> Config:
    """The configuration of the command line. Raises ConfigError."""
    if args.config:
        read(args.config)  # its own errors first, under its own name
        tree = tomllib.loads(Path(args.config).read_text("utf-8"))
    elif args.detector:
        tree = {"exposure": {"source": EXPOSURE_SOURCE}, "shards": {"modules": [0]}}
    else:
        raise ConfigError("simulate: name a CONFIG.toml, or a detector with --detector")
    for option, (section, key) in OVERRIDES.items():
        if getattr(args, option) is not None:
            tree.setdefault(section, {})[key] = getattr(args, option)
    if args.socket:
        tree.setdefault("source", {})["socket"] = RECEIVERS[args.socket]
    if args.cells is not None:
        tree.setdefault("shards", {})["cells"] = [0, args.cells - 1]
    return build(tree, f"{args.config} with these options" if args.config else "simulate")


def make_detector(config: Config, first_train: int = 1) -> SimulatedDetector:
    """The detector that [simulate] describes, with darks in every stage, flat field, and sample."""
    spec, settings = config.detector.spec(), config.simulate
    plan = usual_plan(
        len(spec.stages),
        settings.dark_trains,
        settings.flat_trains,
        settings.sample_trains,
        settings.rate_hz,
        first_train,
    )
    return SimulatedDetector(
        spec,
        plan,
        modules=config.modules,
        cells=config.cells,
        seed=settings.seed,
        planting=Planting(settings.defects, settings.onset_defects),
        settings=config.settings,
        start=time.time(),
    )


def messages(config: Config, batches: list[FrameBatch]) -> list[list[Part]]:
    """The messages of one train: one in karabo-bridge, one per module in our own protocol."""
    spec = config.detector.spec()
    if config.source.protocol == "native":
        return [native.encode(batch, spec.name) for batch in batches]
    return [karabo.encode(batches, spec, config.source, config.exposure, config.simulate.karabo_version)]


Senders = list[tuple[FrameSender, set[int]]]


def stream(config: Config, detector: SimulatedDetector, senders: Senders, stop: threading.Event, every_s: float) -> int:
    """Send the plan, paced. Returns the trains sent."""
    with progress("trains sent", len(detector.plan), every_s) as report:
        sent = 0
        for batches in paced(detector.trains(), config.simulate.rate_hz, stop):
            if not send(config, batches, senders):
                break
            sent += 1
            exposure = batches[0].exposure
            stage = "" if exposure.gain_stage is None else f", stage {exposure.gain_stage}"
            report.at(sent, f"({exposure.illumination.value}{stage})")
    return sent


def go_on(config: Config, detector: SimulatedDetector, senders: Senders, stop: threading.Event) -> None:
    """Send more trains of the last exposure, at most FOREVER_HZ, until `stop` is set."""
    first, exposure = detector.plan.first_train + len(detector.plan), detector.plan.segments[-1].exposure
    trains = ([detector.train(m, train_id, exposure, 0.0) for m in detector.modules] for train_id in count(first))
    for batches in paced(trains, min(FOREVER_HZ, config.simulate.rate_hz), stop):
        if not send(config, batches, senders):
            return


def paced(trains: Iterable, rate_hz: float, stop: threading.Event) -> Iterator:
    """Not more than `rate_hz` of them per second; a delay is not made up for. Ends when `stop` is set."""
    due = time.monotonic()
    for train in trains:
        if stop.wait(max(0.0, due - time.monotonic())):
            return
        due = max(due, time.monotonic() - 1 / rate_hz) + 1 / rate_hz
        yield train


def send(config: Config, batches: list[FrameBatch], senders: Senders) -> bool:
    """Send one train, stamped with the time of sending. False: stopped while waiting for a consumer."""
    now = time.time()
    for sender, modules in senders:
        here = [replace(batch, timestamp=now) for batch in batches if batch.module in modules]
        for parts in messages(config, here) if here else ():
            if not sender.send(parts):
                return False
    return True


@contextmanager
def stopping():
    """An Event that SIGTERM and Ctrl-C set, so that the sockets are closed and the last line is printed."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _warn(config: Config) -> None:
    """What is allowed and may surprise."""
    if config.source.protocol == "karabo" and not config.exposure.source:
        print(
            "exposure.source is empty, so the stream does not say what the detector sees: use `rmm-stream expose`, or set "
            f'exposure.source = "{EXPOSURE_SOURCE}"',
            file=sys.stderr,
        )
    away = [endpoint for endpoint in config.source.endpoints if not is_loopback(endpoint)]
    if away:
        print(f"{', '.join(away)}: frames leave this machine, without encryption", file=sys.stderr)
