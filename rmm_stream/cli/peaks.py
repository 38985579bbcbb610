"""The demo's consumer: follows the masks, counts peaks with and without them, and notes when each pixel was flagged.

A process of its own, `python -m rmm_stream.cli.peaks CONFIG.toml --tap ENDPOINT -o FILE.npz`, until SIGTERM. It knows
what any hit-finder knows: frames and masks, never what was planted.
"""

import argparse
import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..client import MaskClient
from ..config import Config
from ..errors import RmmError
from ..frames import FrameBatch, Illumination
from ..mask import BadPixel, MaskUpdate
from ..sources.zmq import ZmqSource
from ..wire import make_decoder
from .configuration import read
from .peak_counter import above, count_groups
from .simulate import stopping

PEDESTAL_FRAMES = 100  # dark frames per cell of which the consumer makes its own offset
BACKLOG = 2  # trains: an older one that waits is left out, so that the counts keep up with the stream


@dataclass(frozen=True, slots=True)
class Followed:
    """What the consumer saw. flagged_at: (stages, cells, ss, fs) float64, Unix time at which the pixel was last flagged
    by the mask, nan where it is not. trains: (n, 2) float64, train id and the sender's time of each train that came by.
    counts: (m, 4) int64, train id, cell, peaks without and with the mask."""

    flagged_at: NDArray
    trains: NDArray
    counts: NDArray


class FlagClock:
    """Notes when pixels become flagged. Mutable: called in the client's thread, read when that has ended."""

    def __init__(self, shape: tuple[int, ...], module: int):
        self.flagged_at = np.full(shape, np.nan)
        self._module = module

    def __call__(self, update: MaskUpdate) -> None:
        now, change = time.time(), update.change
        if change.key.module != self._module:
            return
        bad = change.flags & np.uint8(~BadPixel.EDGE & 0xFF) != 0
        bad &= bool(change.judged)
        at = self.flagged_at[change.key.gain_stage, change.key.cell]
        at[bad & np.isnan(at)] = now
        at[~bad] = np.nan


class Pedestal:
    """The consumer's own offset: the plain mean of dark frames in the most sensitive stage. Mutable."""

    def __init__(self, cells: int, shape: tuple[int, int]):
        self._sum = np.zeros((cells, *shape))
        self._frames = np.zeros(cells, np.int64)

    def add(self, batch: FrameBatch) -> None:
        for frame, cell in zip(batch.pixels, batch.cell):
            if self._frames[cell] < PEDESTAL_FRAMES:
                self._sum[cell] += frame
                self._frames[cell] += 1

    def subtract(self, batch: FrameBatch) -> NDArray | None:
        """(n, ss, fs) float32; None while a cell of the batch was not seen in the dark."""
        frames = self._frames[batch.cell]
        if not frames.all():
            return None
        return (batch.pixels - self._sum[batch.cell] / frames[:, None, None]).astype(np.float32)


def follow(config: Config, module: int, stop: threading.Event) -> Followed:
    """Follow the frames at `config.source` and the masks at `config.publish.updates` until `stop` is set."""
    spec = config.detector.spec()
    tile = tuple(min(64, side) for side in spec.asic_shape)
    clock = FlagClock((len(spec.stages), spec.cells, *spec.module_shape), module)
    pedestal = Pedestal(spec.cells, spec.module_shape)
    trains: list[tuple[int, float]] = []
    counts: list[tuple[int, int, int, int]] = []
    waiting: deque[FrameBatch] = deque(maxlen=BACKLOG)
    decoder = make_decoder(config)
    with MaskClient(config.publish.updates, detector=spec.name, modules=[module]) as masks:
        masks.on_update(clock)
        with ZmqSource(config.source, decoder, spec) as source:
            while not stop.is_set():
                for batch in source.receive(0.0 if waiting else 0.2):
                    trains.append((int(batch.train_id[0]), batch.timestamp))
                    if batch.exposure and batch.exposure.illumination is Illumination.DARK:
                        if batch.exposure.gain_stage == 0:
                            pedestal.add(batch)
                    elif batch.exposure:
                        waiting.append(batch)
                if waiting:
                    counts += _count(waiting.popleft(), pedestal, masks, tile)
    return Followed(
        clock.flagged_at, np.array(trains, np.float64).reshape(-1, 2), np.array(counts, np.int64).reshape(-1, 4)
    )


def _count(batch: FrameBatch, pedestal: Pedestal, masks: MaskClient, tile: tuple[int, int]) -> list[tuple]:
    """(train id, cell, peaks without the mask, peaks with it) of each frame of a lit batch."""
    frames = pedestal.subtract(batch)
    if frames is None:
        return []
    rows = []
    for bright, cell, train_id in zip(above(frames, tile), batch.cell, batch.train_id):
        try:
            flags = masks.flags(batch.module, 0, int(cell))
            judged = masks.judged(batch.module)[0, cell]
        except LookupError:  # the service has not spoken yet
            return rows
        good = flags == 0 if judged else True
        rows.append((int(train_id), int(cell), count_groups(bright), count_groups(bright & good)))
    return rows


def save(path: Path, followed: Followed) -> None:
    """Replace the file by what was seen; the reader never sees half of it."""
    aside = path.with_suffix(".part.npz")
    np.savez(aside, flagged_at=followed.flagged_at, trains=followed.trains, counts=followed.counts)
    os.replace(aside, path)


def load(path: Path) -> Followed:
    """The opposite of `save`. Raises OSError where there is no such file."""
    with np.load(path, allow_pickle=False) as file:
        return Followed(file["flagged_at"], file["trains"], file["counts"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rmm_stream.cli.peaks", description=__doc__)
    parser.add_argument("config", metavar="CONFIG.toml", help="of the service: how frames are written, where masks are")
    parser.add_argument("--tap", metavar="ENDPOINT", required=True, help="PUB socket with the frames")
    parser.add_argument("--module", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        config = read(args.config)
        source = msgspec.structs.replace(config.source, endpoint=args.tap, socket="sub")
        with stopping() as stop:
            followed = follow(msgspec.structs.replace(config, source=source), args.module, stop)
        save(args.output, followed)
    except (RmmError, OSError) as e:
        print("peaks:", e, file=sys.stderr)
        return 1
    print(f"{len(followed.trains)} trains seen, peaks counted in {len(followed.counts)} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
