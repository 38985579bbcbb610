"""One AGIPD module at full rate, live: a real service in a process of its own, a sender in another, masks on the wire.

600 trains of 352 cells, dark and lit in turn, after a prelude of darks that lets every map speak. The darks switch gain
freely, so that they are masked and routed; F6 judges a quarter of the lit frames; masks are fitted and published meanwhile.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zmq

from rmm_stream.wire.masks import decode_update

from .module_config import toml
from .row import Row

CELLS, TRAINS, RATE = 352, 600, 10.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
LOST = ("queue_full", "incomplete")


class Run(NamedTuple):
    """What a run showed, of the counted trains. cpu: s, of the whole service. latency: s, (n,). status: at the end."""

    trains_lost: float
    judged: int
    cpu: float
    wall: float
    latency: np.ndarray
    status: dict


@contextmanager
def process(*words: str, **keywords) -> Iterator[subprocess.Popen]:
    child = subprocess.Popen([sys.executable, "-m", *words], text=True, env=os.environ | ONE_THREAD, **keywords)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def by_thread(pid: int) -> dict[str, float]:
    """The same of each of its threads, by name and id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        head, _, rest = (task / "stat").read_text().rpartition(")")
        fields = rest.split()
        name = f"{head.partition('(')[2]} {task.name}"
        found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


class Listener(threading.Thread):
    """Collects updates as they come: (time of arrival, update)."""

    def __init__(self, endpoint: str):
        super().__init__(daemon=True)
        self.updates: queue.SimpleQueue = queue.SimpleQueue()
        self._endpoint = endpoint

    def run(self) -> None:
        socket = zmq.Context.instance().socket(zmq.SUB)
        socket.set_hwm(0)
        socket.connect(self._endpoint)
        socket.subscribe(b"mask/")
        while True:
            _, data = socket.recv_multipart()
            self.updates.put((time.time(), decode_update(data).change.timestamp))


def ask(page: str, path: str) -> dict:
    with urllib.request.urlopen(page + path, timeout=10) as answer:
        return json.load(answer)


def seen(status: dict) -> int:
    return sum(module["frames"] for module in status["modules"])


def lost(status: dict) -> int:
    """Frames that never came, or were dropped because the worker was late."""
    missed = sum(n for source in status["sources"] for n in source["missed"].values())
    dropped = sum(r["frames"] for source in status["sources"] for r in source["rejected"] if r["reason"] in LOST)
    return missed + dropped


def run(kind: str, rate: float, axes: str = "cell ss fs", trains: int = TRAINS, cells: int = CELLS) -> Run:
    """kind: "pub" or "push". rate: trains per second; 0: as fast as the service takes them, with a sender that waits."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        config = directory / "module.toml"
        socket = {"pub": "sub", "push": "pull"}[kind]
        config.write_text(toml(endpoint, socket, directory.as_posix(), cells, axes, block=not rate))
        words = [endpoint, "--kind", kind, "--rate", str(rate), "--axes", axes, "--trains", str(trains)]
        sender = stack.enter_context(
            process(
                "tests.bench.module_sender",
                *words,
                "--cells",
                str(cells),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert sender.stdout.readline().startswith("ready")
        service = stack.enter_context(process("rmm_stream.cli.main", "run", str(config), stderr=subprocess.PIPE))
        ready = next(line for line in service.stderr if "page at" in line)
        page = ready.split("page at ")[1].split()[0].rstrip(",")
        listener = Listener(ready.split("masks at ")[1].split()[0].rstrip(","))
        listener.start()
        threading.Thread(
            target=lambda: [print(line, end="", file=sys.stderr) for line in service.stderr], daemon=True
        ).start()
        sender.stdin.write("\n")
        sender.stdin.flush()
        assert sender.stdout.readline() == "counted\n"
        before, began, cpu = ask(page, "/api/status"), time.time(), cpu_seconds(service.pid)
        threads = by_thread(service.pid)
        assert sender.stdout.readline() == "sent\n"
        status = ask(page, "/api/status")
        deadline = time.monotonic() + 30
        while seen(status) + lost(status) < (216 + trains) * cells and time.monotonic() < deadline:
            time.sleep(0.02)
            status = ask(page, "/api/status")
        wall, cpu = time.time() - began, cpu_seconds(service.pid) - cpu
        for name, spent in sorted(by_thread(service.pid).items()):
            if spent - threads.get(name, 0.0) > 0.5:
                print(f"  {name:<24} {spent - threads.get(name, 0.0):6.1f} s", file=sys.stderr)
        times = [listener.updates.get() for _ in range(listener.updates.qsize())]
        latency = np.array([arrived - data for arrived, data in times if data >= began])
        judged = sum(m["accepted"] for m in status["modules"]) - sum(m["accepted"] for m in before["modules"])
        never = (216 + trains) * cells - seen(status) - lost(status)
        return Run((lost(status) - lost(before) + max(0, never)) / cells, judged, cpu, wall, latency, status)


def free_port() -> int:
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        return socket.bind_to_random_port("tcp://127.0.0.1")


def measure() -> list[Row]:
    rows = []
    for kind in ("pub", "push"):
        found = run(kind, RATE)
        p99 = float(np.percentile(found.latency, 99))
        expected = CELLS * TRAINS * (0.5 + 0.5 / 4)
        rows += [
            Row(f"{kind} at 10/s: trains lost", found.trains_lost, TRAINS, 0.0, at_most=True),
            Row(f"{kind} at 10/s: service CPU, s", found.cpu, found.wall, 1.0, at_most=True),
            Row(f"{kind} at 10/s: {len(found.latency)} maps, p99 s", p99, 0.5, 1.0, at_most=True),
            Row(f"{kind} at 10/s: frames counted", found.judged, expected, 0.99, at_most=False),
        ]
    found = run("push", 0.0)
    rows.append(Row("flat out, trains/s", TRAINS / found.wall, RATE, 1.5, at_most=False))
    return rows
