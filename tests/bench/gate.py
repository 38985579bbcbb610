"""F1 on a dark train of one AGIPD module, values and indicator, against a copy of the train. CPU of this thread, ms.

Also what compiling its kernels takes, in a process that has none: CPU, s.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from rmm_stream.config import Gate
from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.rmm.gate import FrameGate

from .row import Row

ROUNDS = 15
TRAINS = 3  # in turn, so that none is in a cache
COMPILES = """
import time
import numpy as np
from rmm_stream.config import Gate
from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.rmm.gate import FrameGate
from rmm_stream.rmm.kernels.compiled import exact
gate, frames = FrameGate(AGIPD1M, Gate(), 1), np.zeros((1, 512, 128), np.uint16)
exact(lambda x: x + 1, cache=False)(1)  # what numba does once
begin = time.process_time()
gate.judge(frames, frames, np.arange(1), np.arange(1))
print(time.process_time() - begin)
"""


def train(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and indicator, (352, 512, 128) uint16: noise of 10 and 20 ADU, and a common mode of 3."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 10, 1 << 20).astype(np.float32)
    images = []
    for level, factor in ((np.random.default_rng(9).normal(5000, 60, AGIPD1M.module_shape), 1), (4000.0, 2)):
        image = np.empty((AGIPD1M.cells, *AGIPD1M.module_shape), np.uint16)
        for frame in image:
            at = rng.integers(0, len(noise) - frame.size)
            piece = noise[at : at + frame.size].reshape(frame.shape)
            frame[...] = np.rint(level + factor * piece + rng.normal(0, 3))
        images.append(image)
    return images[0], images[1]


def measure() -> list[Row]:
    """Interleaved; the history is full."""
    trains = [train(seed) for seed in range(TRAINS)]
    gate, rng, every = FrameGate(AGIPD1M, Gate(), AGIPD1M.cells), np.random.default_rng(1), np.arange(AGIPD1M.cells)
    gate.judge(*trains[0], every, every)
    for series in gate.series.values():
        series.ring[...] = rng.normal(0, 3, series.ring.shape)
        series.ordered[:, :-1] = np.sort(series.ring, axis=1)
        series.count[...] = series.ring.shape[1]
    copies = [np.empty_like(image) for image in trains[0]]
    times = []
    for round_ in range(ROUNDS + 1):
        values, indicator = trains[round_ % TRAINS]
        begin = time.thread_time()
        assert gate.judge(values, indicator, every, every).accepted.all()
        judged = time.thread_time()
        for copy, image in zip(copies, (values, indicator)):
            np.copyto(copy, image)
        times.append((judged - begin, time.thread_time() - judged))
    ours, baseline = (1e3 * statistics.median(t) for t in zip(*times[1:]))
    with tempfile.TemporaryDirectory() as empty:
        run = subprocess.run(
            [sys.executable, "-c", COMPILES],
            env=os.environ | {"NUMBA_CACHE_DIR": empty},
            capture_output=True,
            text=True,
            check=True,
        )
    return [
        Row("F1, AGIPD train / its copy, ms", ours, baseline, None, at_most=True),
        Row("F1, AGIPD train / 8 ms", ours, 8.0, 1.0, at_most=True),
        Row("F1, cold compile / 1 s", float(run.stdout), 1.0, None, at_most=True),
    ]
