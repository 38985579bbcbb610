"""Telling dark frames from lit ones, one AGIPD frame at a time, against F6 judging a frame. CPU of this thread, us.

"declared lit": frames that look lit, which their values alone show; "no light": those that look dark, of which everything is
measured. "declared dark": what the classifier costs beside F1, which shares its means with it.
"""

import numpy as np

from rmm_stream.config import Gate
from rmm_stream.detectors.agipd import AGIPD1M
from rmm_stream.rmm.dark_look import DARK, LEARN, LIT, DarkLook
from rmm_stream.rmm.gate import FrameGate

from .f6 import PASSES, interleaved, judged, lit_frames
from .gate import train
from .row import Row

CELLS = 88  # of a train F6 judges a quarter


def measure() -> list[Row]:
    rng, every = np.random.default_rng(0), np.arange(CELLS)
    darks = [tuple(image[:CELLS] for image in train(seed)) for seed in range(3)]
    gate, look = FrameGate(AGIPD1M, Gate(), CELLS), DarkLook(AGIPD1M, 512, 8.0, 0, CELLS)
    for number in range(LEARN):
        values, indicator = darks[number % len(darks)]
        look.learn_and_judge(gate, values, every, every, gate.measure(values, indicator, every, every))
    look.sigma[:, :2] = 3.0  # three trains in turn have none
    values, indicator = darks[1]
    lit = (values + rng.normal(300, 20, values.shape)).astype(np.uint16)
    means = gate.measure(values, indicator, every, every)
    codes = look.judge(gate, lit, indicator, every, every), look.judge(gate, values, indicator, every, every)
    assert [set(c.tolist()) for c in codes] == [{LIT}, {DARK}]
    f6_frames, offset = lit_frames(rng)
    f6, _ = judged(f6_frames, offset, rng, warm=True)
    times = interleaved(
        {
            "lit": (lambda: look.judge(gate, lit, indicator, every, every), CELLS),
            "none": (lambda: look.judge(gate, values, indicator, every, every), CELLS),
            "vet": (lambda: look.learn_and_judge(gate, values, every, every, means), CELLS),
            "F1": (lambda: gate.judge(values, indicator, every, every), CELLS),
            "F6": (f6, PASSES * len(f6_frames)),
        }
    )
    us = {name: 1e6 * time for name, time in times.items()}
    return [
        Row("declared lit, us : F6", us["lit"], us["F6"], 0.15, at_most=True),
        Row("declared lit, no light, us : F6", us["none"], us["F6"], None, at_most=True),
        Row("declared dark, us : F1", us["vet"], us["F1"], 1.0, at_most=True),
    ]
