"""What a hit-finder pays to import the client, to what it pays for numpy, zmq and msgpack alone. CPU of whole processes."""

import os
import resource
import statistics
import subprocess
import sys

from .row import Row

ROUNDS = 21
OURS = "import rmm_stream.client"
BASELINE = "import numpy, zmq, msgpack"


def cpu_seconds(code: str) -> float:
    """User and system time of a Python process that runs the code; from bytecode, as it is installed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure() -> list[Row]:
    """Interleaved, after one warm-up round of each."""
    times = {OURS: [], BASELINE: []}
    for round_ in range(ROUNDS + 1):
        for code, seconds in times.items():
            spent = cpu_seconds(code)
            if round_:
                seconds.append(spent)
    ours, baseline = (statistics.median(times[code]) for code in (OURS, BASELINE))
    return [Row("import rmm_stream.client, s", ours, baseline, 1.15, at_most=True)]
