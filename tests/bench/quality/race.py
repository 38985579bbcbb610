"""All contenders over one run, frame by frame, each under the mask it has in force."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .contenders import Contender
from .offline import Darks
from .peaks import NEAR, PeakFinder
from .score import Score
from .serial import FOUND, Run

LEARN = 400  # sample frames; two hundred until F6 may speak, and as many again


class Outcome(NamedTuple):
    """scores, masks: by name; the masks, (ss, fs) bool, as they were at the end. shown: a late hit, ADU less the dark."""

    scores: dict[str, Score]
    masks: dict[str, NDArray]
    shown: NDArray


def race(
    run: Run,
    darks: Darks,
    rows: list[Contender],
    finder: PeakFinder | None,
    every: int = 8,
    learn: int = LEARN,
    tick=None,
) -> Outcome:
    """every: frames between two that the peak finder sees. tick: told the number of each frame."""
    scores = {row.name: Score(row.name, run.defects, run.beam.shadow, learn) for row in rows}
    shown = np.zeros(run.shape)
    for number in range(run.frames):
        frame = run.frame(number)
        calibrated = (frame.pixels - darks.mean).astype(np.float32)
        for row in rows:
            scores[row.name].follow(number, row.mask, frame.spot_pixels)
        if finder is not None and number >= learn and number % every == 0:
            spots = np.zeros((0, 2))
            if frame.hit:
                bright = frame.spots.some(frame.spots.photons > FOUND)
                spots = np.stack([bright.ss, bright.fs], 1)
            for row, peaks in zip(rows, finder(calibrated, [row.mask for row in rows])):
                scores[row.name].note_peaks(number, frame.hit, peaks, spots, NEAR)
        for row in rows:
            row.see(frame, calibrated)
        if frame.hit and len(frame.spot_pixels) > 200:
            shown = calibrated
        if tick is not None:
            tick(number)
    return Outcome(scores, {row.name: row.mask for row in rows}, shown)
