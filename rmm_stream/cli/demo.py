"""`rmm-stream demo`: detector, service and consumer as three processes over loopback; ends with what was found.

One AGIPD module with a few memory cells and planted defects: darks in three held stages, then flat field with free gain,
in which some defects begin. Nothing in it is special: the same commands, sockets and files as at a beamline.
"""

import argparse
import json
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from ..client import ask
from ..config import Config, build
from ..errors import ConfigError
from ..storage.mask_file import read_mask
from ..storage.picture import write_picture
from ..wire.masks import CommitRequest
from .arguments import seconds
from .children import Children
from .demo_table import print_table
from .peaks import load
from .progress import progress
from .simulate import stopping

CELLS = 4
RATE_HZ = 30.0  # three processes keep this up on two cores
DARK_TRAINS = 220  # per stage; a map speaks from 200 on
LEAST_FLAT_TRAINS = 450  # 200 until the maps speak, and time to see new defects
SECONDS = 40.0  # of stream
START_S = 120.0  # for the first frame: on the first run the kernels are compiled
STOP_S = 90.0
POLL_S = 0.2


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="the whole thing on one machine, in about a minute",
        description="A simulated AGIPD module with planted defects streams over loopback, the service makes masks live, "
        "a peak counter follows them. Ends with a table, the mask as HDF5 and as PNG.",
    )
    parser.add_argument("--seconds", type=seconds, default=SECONDS, metavar="N", help=f"of stream; default {SECONDS:g}")
    parser.add_argument("--keep", action="store_true", help="leave it running, with the page, until Ctrl-C")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-output"), metavar="DIR")


def run(args: argparse.Namespace) -> int:
    """Returns 0 where all ran and the bars of score.py are met, 1 where they are not, 130 where it was stopped.

    Raises ConfigError where the output cannot be a directory, ChildFailed where a process dies, OSError where the output
    cannot be written.
    """
    directory = args.output.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"-o {args.output}: no directory can be made there ({e.strerror}); name another") from None
    for name in ("mask.h5", "peaks.npz", "truth.h5", "mask.png"):
        (directory / name).unlink(missing_ok=True)
    # The last version of another demo would speak first.
    shutil.rmtree(directory / "state" / "agipd1m" / "versions", ignore_errors=True)
    tree = settings(directory, max(LEAST_FLAT_TRAINS, round(args.seconds * RATE_HZ) - 3 * DARK_TRAINS))
    config = build(tree, "demo")
    file = directory / "demo.toml"
    file.write_text(toml(tree), "utf-8")
    begun = time.monotonic()
    with stopping() as stop, Children(directory) as children:
        say(f"three processes, logs and results in {args.output}")
        children.start("service", "rmm_stream.cli.main", "run", str(file))
        children.start("consumer", "rmm_stream.cli.peaks", str(file), "--tap", config.simulate.tap,
                       "-o", str(directory / "peaks.npz"))  # fmt: skip
        children.start("detector", "rmm_stream.cli.main", "simulate", str(file), "--wait-for-tap",
                       "--report-s", "0.5", *(["--forever"] if args.keep else []))  # fmt: skip
        if not watch(config, children, stop) or not settle(config, children, stop):
            say("stopped before the end; nothing to show")
            return 130
        if args.keep:
            commit(config, directory / "mask.h5")
        else:
            children.finish("service", STOP_S)
        children.finish("consumer", STOP_S)
        children.check()
        stored = read_mask(directory / "mask.h5")
        write_picture(directory / "mask.png", stored.masks, "demo: one AGIPD module, all cells and stages")
        missed = print_table(directory / "truth.h5", stored, load(directory / "peaks.npz"))
        took = time.monotonic() - begun
        say(f"mask in {args.output}/mask.h5 and mask.png, what was planted in truth.h5; {took:.0f} s")
        if args.keep:
            page = f"http://127.0.0.1:{config.http.port}/"
            say(f"it goes on: page {page}, masks at {config.publish.updates}; Ctrl-C ends it")
            while not stop.wait(1.0):
                children.check()
    if missed:
        say(f"rmm-stream: the demo missed a bar: {'; '.join(missed)}")
    return 1 if missed else 0


def settings(directory: Path, flat_trains: int) -> dict:
    """The configuration of the demo, as configs/demo.toml has it but for ports and places."""
    frames, tap, updates, requests, http = free_ports(5)
    return {
        "detector": {"name": "agipd1m", "modules": 1, "cells": CELLS},
        "source": {"endpoint": address(frames), "socket": "pull", "when_full": "block"},
        "exposure": {"source": "SIM/EXPOSURE"},
        "features": {"lit": {"every_train": 1}},
        "publish": {"updates": address(updates), "requests": address(requests)},
        "store": {"directory": str(directory / "state"), "mask_file": str(directory / "mask.h5")},
        "http": {"port": http},
        "simulate": {
            "rate_hz": RATE_HZ,
            "dark_trains": DARK_TRAINS,
            "flat_trains": flat_trains,
            "defects": 50,
            "onset_defects": 30,
            "tap": address(tap),
            "truth": str(directory / "truth.h5"),
        },
    }


def watch(config: Config, children: Children, stop) -> bool:
    """Show how far the detector is until its plan is sent. False: stopped before."""
    total = len(config.detector.spec().stages) * config.simulate.dark_trains + config.simulate.flat_trains
    begun = time.monotonic()
    with progress("trains", total) as report:
        while not stop.wait(POLL_S):
            children.check()
            text = children.log("detector").read_text("utf-8", "replace")
            lines = re.findall(r"trains sent: (\d+) of \d+ ?(.*)", text)
            if lines:
                report.at(int(lines[-1][0]), lines[-1][1])
            else:
                report.at(0, "(starting; the first time, the kernels are compiled)")
                if time.monotonic() - begun > START_S:
                    raise TimeoutError(f"no frame within {START_S:g} s; see {children.log('service')}")
            if re.search(r"^\d+ trains sent", text, re.MULTILINE):
                return True
    return False


def settle(config: Config, children: Children, stop) -> bool:
    """Wait until the service has taken in every train of the plan. False: stopped before."""
    planned = len(config.detector.spec().stages) * config.simulate.dark_trains + config.simulate.flat_trains
    deadline = time.monotonic() + STOP_S
    while not stop.wait(POLL_S):
        children.check()
        frames = status(config).get("frames", 0)
        if frames >= planned * len(config.cells):
            return True
        if time.monotonic() > deadline:
            raise TimeoutError(f"the service took in {frames} frames only; see {children.log('service')}")
    return False


def status(config: Config) -> dict:
    """What the service says of itself; {} while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{config.http.port}/api/status", timeout=2) as reply:
            return json.load(reply)
    except (OSError, urllib.error.URLError, json.JSONDecodeError):
        return {}


def commit(config: Config, file: Path) -> None:
    """Have the service write the mask file now, and wait for it."""
    version = ask(config.publish.requests, CommitRequest())["version"]
    deadline = time.monotonic() + STOP_S
    while not file.exists() or read_mask(file).provenance.version < version:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the service did not write {file} within {STOP_S:g} s")
        time.sleep(POLL_S)


def free_ports(n: int) -> list[int]:
    """Ports of the loopback interface that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def address(port: int) -> str:
    return f"tcp://127.0.0.1:{port}"


def toml(tree: dict, name: str = "") -> str:
    """A tree of tables of plain values as TOML."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    head = [f"[{name}]"] if name and plain else []
    tables = [toml(value, f"{name}.{key}".lstrip(".")) for key, value in tree.items() if isinstance(value, dict)]
    return "\n".join(head + plain) + "\n" * bool(plain) + "\n".join(tables)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
