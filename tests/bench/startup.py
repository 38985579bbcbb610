"""What a start costs: from the process to the first mask on the wire, and compiling every kernel. CPU of whole processes.

The module is of AGIPD's geometry with 8 memory cells, so that the program counts and not the memory of the statistics.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from .module import Listener, cpu_seconds, free_port, process
from .module_config import toml
from .row import Row

CELLS, ROUNDS = 8, 7
COMPILES = """
import time
from rmm_stream.rmm import MaskMaker
maker = MaskMaker("agipd1m", cells=range(8))
begin = time.process_time()
maker.warm_up()
print(time.process_time() - begin)
"""


def imports() -> float:
    """CPU of a process that has imported what the service imports, s."""
    with process("tests.bench.wait", "rmm_stream.cli.run", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        return cpu_seconds(child.pid)


def first_mask() -> float:
    """CPU of a service when its first mask is on the wire, s; the frames come as fast as it takes them."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        endpoint, config = f"tcp://127.0.0.1:{free_port()}", Path(directory) / "module.toml"
        config.write_text(toml(endpoint, "pull", directory, CELLS, block=True))
        words = [endpoint, "--kind", "push", "--rate", "0", "--trains", "0", "--cells", str(CELLS)]
        sender = stack.enter_context(
            process("tests.bench.module_sender", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        assert sender.stdout.readline().startswith("ready")
        service = stack.enter_context(process("rmm_stream.cli.main", "run", str(config), stderr=subprocess.PIPE))
        ready = next(line for line in service.stderr if "page at" in line)
        threading.Thread(target=service.stderr.read, daemon=True).start()
        listener = Listener(ready.split("masks at ")[1].split()[0].rstrip(","))
        listener.start()
        time.sleep(0.5)  # a subscription takes its way; the service waits meanwhile
        sender.stdin.write("\n")
        sender.stdin.flush()
        listener.updates.get(timeout=60)
        return cpu_seconds(service.pid)


def cold_compile() -> float:
    with tempfile.TemporaryDirectory() as empty:
        run = subprocess.run(
            [sys.executable, "-c", COMPILES], env=os.environ | {"NUMBA_CACHE_DIR": empty}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
    return float(run.stdout)


def measure() -> list[Row]:
    first_mask()  # fills the cache
    pairs = [(first_mask(), imports()) for _ in range(ROUNDS)]
    started, imported = (statistics.median(times) for times in zip(*pairs))
    return [
        Row("start to first mask, s", started - imported, 0.8, 1.0, at_most=True),
        Row("its imports, s", imported, 0.8, None, at_most=True),
        Row("cold compile, s", statistics.median(cold_compile() for _ in range(3)), 5.0, 1.0, at_most=True),
    ]
