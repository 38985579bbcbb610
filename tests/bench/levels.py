"""Levels of ASICs: what watching them costs a dark train that is not corrected, and what removing their shifts costs. CPU, us.

A module of AGIPD and one of JUNGFRAU are watched, in one frame of a cell out of 16 or, of many cells, 32; one of ePix10ka is
levelled.
"""

import numpy as np

from rmm_stream.config import CommonMode, Settings
from rmm_stream.detectors import DetectorSpec, detector
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.rmm import MaskMaker, common_mode
from rmm_stream.rmm.levelling import spacing

from .interleaved import medians
from .row import Row

CELLS = 64  # of AGIPD
EXPOSURE = Exposure(Illumination.DARK, 0)


class Trains:
    """The dark path of a maker: a train of n frames at each call, three in turn, so that none is in a cache."""

    def __init__(self, spec: DetectorSpec, n: int, settings: Settings = Settings()):
        rng = np.random.default_rng(0)
        self.maker, self.batches, self.turn = MaskMaker(spec, settings=settings), [], 0
        self.now = 0.0  # s
        for _ in range(3):
            pixels = rng.normal(5000, 60, (n, *spec.module_shape)).astype(np.uint16)
            gain = (
                np.full(pixels.shape, 4000, np.uint16) if spec.gain == "analogue" else np.zeros(pixels.shape, np.uint8)
            )
            for a in (pixels, gain):
                a.flags.writeable = False
            cells, every = (np.arange(n) % min(CELLS, spec.cells)).astype(np.uint16), np.ones(n, bool)
            self.batches.append(FrameBatch(0, pixels, gain, cells, np.arange(n, dtype="u8"), every, 0.0, EXPOSURE))

    def __call__(self) -> None:
        for _ in range(3):
            self.turn += 1
            self.maker.feed(self.batches[self.turn % 3])

    def watch(self) -> None:
        """What is done of as many frames as a call feeds, if all were looked at."""
        for batch in self.batches:
            self.now += 0.1
            levels = common_mode.levels(self.maker.spec, batch.pixels, np.arange(len(batch)))
            for cells in np.split(np.arange(len(batch)), range(CELLS, len(batch), CELLS)):
                at = batch.cell[cells].astype(np.int64)
                for part in [cells] if len(set(at.tolist())) == len(at) else [[i] for i in cells]:
                    self.maker.drift.note(0, 0, batch.cell[part].astype(np.int64), levels[part], self.now)


def measure() -> list[Row]:
    rows, off = [], Settings(common_mode=CommonMode(remove="off"))
    for name, n in (("agipd1m", CELLS), ("jungfrau4m", 8)):
        trains = Trains(detector(name), n)
        frames = 1e-6 * 3 * n  # of a call; us a frame
        seconds = medians({"feed": trains, "watch": trains.watch})
        watched = seconds["watch"] / spacing(trains.maker.segments)
        rows.append(
            Row(
                f"watched, {name} / unwatched",
                watched / frames,
                (seconds["feed"] - watched) / frames,
                0.03,
                at_most=True,
            )
        )
    epix = detector("epix10k2m")
    levelled, plain = Trains(epix, 16), Trains(epix, 16, off)
    seconds = medians({"levelled": levelled, "plain": plain})
    frames = 1e-6 * 3 * 16
    return [
        *rows,
        Row("ePix10ka, removed / not", seconds["levelled"] / frames, seconds["plain"] / frames, None, at_most=True),
    ]
