"""Cheetah's in-run rule for hot pixels (cheetah-2017, `updateHotPixelBuffer`), written from its description: docs/method.md 12.

A pixel is hot if its value was beyond a fixed number of ADU in a fixed share of the last frames; flags are set and cleared.
"""

import numpy as np
from numpy.typing import NDArray


class HotPixels:
    """memory: frames in the ring. every: frames between two decisions. adc: ADU. frequency: share, at least."""

    def __init__(
        self, shape: tuple[int, int], adc: float = 10_000.0, frequency: float = 0.9, memory: int = 50, every: int = 50
    ):
        self.adc, self.frequency, self.every = adc, frequency, every
        self.ring = np.zeros((memory, *shape), bool)
        self.mask = np.zeros(shape, bool)
        self.seen = 0

    def feed(self, frame: NDArray) -> bool:
        """A frame, (ss, fs) ADU less the offset. Returns whether `mask`, a new array, was decided on anew."""
        self.ring[self.seen % len(self.ring)] = np.abs(frame) > self.adc
        self.seen += 1
        if self.seen < len(self.ring) or self.seen % self.every:
            return False
        self.mask = self.ring.mean(0) >= self.frequency
        return True
