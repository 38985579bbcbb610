"""A real peak finder, peakfinder8 of psana, asked over pipes: which peaks it finds in a frame under each of several masks.

Its numbers are chosen with the true mask alone, before any contender is looked at.
"""

import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .beam import Beam
from .contenders import PEAK_ADC
from .environment import plain_variables
from .peakfinder import read, write

#: ADU, signal over noise, least and most pixels of a peak, radius of its background. One pixel: "Bragg peaks, which may be as
#: small as one pixel", section 1 of the paper.
NUMBERS = (PEAK_ADC, 7.0, 1, 30, 4)
HIT = 10  # peaks, from which on a frame is called a hit
NEAR = 2.5  # pixels between a peak and a true spot


class PeakFinder:
    """python: of the environment. Use as a context manager."""

    def __init__(self, python: Path, beam: Beam):
        child = Path(__file__).with_name("peakfinder.py")
        self.child = subprocess.Popen(
            [python, child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plain_variables()
        )
        self._ask(radius=beam.radius, asic=np.array(beam.spec.asic_shape), numbers=np.array(NUMBERS, np.float64))

    def __enter__(self) -> "PeakFinder":
        return self

    def __exit__(self, *_) -> None:
        self.child.stdin.close()
        self.child.wait(30)
        self.child.stdout.close()

    def __call__(self, frame: NDArray, masks: list[NDArray]) -> list[NDArray]:
        """For each mask, (n, 2) float32: ss and fs of the peaks. frame: (ss, fs) float32. masks: (ss, fs) bool, True bad."""
        peaks = self._ask(frame=frame.astype(np.float32), masks=np.array(masks))["peaks"]
        return [peaks[peaks[:, 0] == i, 1:] for i in range(len(masks))]

    def _ask(self, **arrays):
        write(self.child.stdin, **arrays)
        answer = read(self.child.stdout)
        if answer is None:
            raise RuntimeError(f"the peak finder ended with {self.child.wait(30)}; its own words are above")
        return answer
