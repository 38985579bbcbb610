"""Receiving and accumulating dark trains of an AGIPD module, against libc's memcpy. CPU of the whole process, s per GB.

A sender in another process, as fast as it is taken from; both axis orders that facilities send. The darks switch gain freely,
and all are in high gain. F1, fits and F6 are left out: they have bars of their own.
"""

import ctypes
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

from rmm_stream.config import parse
from rmm_stream.frames import Illumination
from rmm_stream.live import memory
from rmm_stream.rmm import MaskMaker
from rmm_stream.sources.zmq import ZmqSource
from rmm_stream.wire import make_decoder

from .module import free_port, process
from .module_config import toml
from .row import Row

WARM_UP, TRAINS = 24, 80
ORDERS = {"cell ss fs": 3.0, "fs ss cell": None}


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def received(axes: str, accumulate: bool) -> float:
    """CPU seconds per GB of a process that receives, and accumulates or not. In a process of its own: the allocator."""
    code = f"from tests.bench.ingest import receive; print(receive({axes!r}, {accumulate}))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def receive(axes: str, accumulate: bool) -> float:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    config = parse(toml(endpoint, "pull", "state", axes=axes, block=True))
    memory.tune()
    memory.touch(memory.at_start(config))
    spec = config.detector.spec()
    maker = MaskMaker(spec, [0], settings=config.settings, gate=False)
    maker.warm_up()
    words = [
        endpoint,
        "--kind",
        "push",
        "--rate",
        "0",
        "--axes",
        axes,
        "--prelude",
        str(WARM_UP + TRAINS),
        "--trains",
        "0",
    ]
    with process("tests.bench.module_sender", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
        assert sender.stdout.readline().startswith("ready")
        sender.stdin.write("\n")
        sender.stdin.flush()
        with ZmqSource(config.source, make_decoder(config), spec) as source:
            trains, begun, nbytes = 0, 0.0, 0
            while trains < WARM_UP + TRAINS:
                for batch in source.receive(10.0):
                    trains += 1
                    if accumulate:
                        assert batch.exposure.illumination is Illumination.DARK
                        assert maker.feed(batch).accepted == len(batch)
                    if trains == WARM_UP:
                        begun = cpu()
                    elif trains > WARM_UP:
                        nbytes += batch.pixels.nbytes + batch.gain.nbytes
            return (cpu() - begun) / nbytes * 1e9


def memcpy() -> float:
    """CPU seconds of libc's memcpy per GB copied."""
    libc = ctypes.CDLL(None)
    source, target = np.ones(1 << 27, np.uint8), np.ones(1 << 27, np.uint8)
    times = []
    for _ in range(9):
        begin = time.thread_time()
        libc.memcpy(
            ctypes.c_void_p(target.ctypes.data), ctypes.c_void_p(source.ctypes.data), ctypes.c_size_t(source.nbytes)
        )
        times.append(time.thread_time() - begin)
    return statistics.median(times) / source.nbytes * 1e9


def measure() -> list[Row]:
    rows = []
    for axes, bound in ORDERS.items():
        rounds = [(received(axes, True), received(axes, False), memcpy()) for _ in range(3)]
        both, only, copied = (statistics.median(times) for times in zip(*rounds))
        rows += [
            Row(f"receive + accumulate, {axes}", both, copied, bound, at_most=True),
            Row(f"  of it receive, {axes}", only, copied, None, at_most=True),
        ]
    return rows
