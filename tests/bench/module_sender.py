"""A sender of one AGIPD module at full rate, apart from the service: python -m tests.bench.module_sender, see --help.

Trains are made before the first is sent, a few of each kind, and sent again and again under new ids: sending costs what a
bridge's would. From a given train on, more pixels are bad.
"""

import argparse
import time

import numpy as np

from rmm_stream.config import Source
from rmm_stream.sources.sender import FrameSender
from rmm_stream.wire import karabo_message
from rmm_stream.wire.axes import Axes

from .module_config import EXPOSURE, HIGH, NAME, SHAPE

KINDS = 6  # different trains of each sort: not a multiple or divisor of a block


def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 1, 1 << 22).astype(np.float32)


def make_trains(cells: int, lit: bool, late: bool, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(values, indicators), each (cells, ss, fs) uint16. late: with 40 more bad pixels in every cell."""
    rng, pool = np.random.default_rng(seed), noise(np.random.default_rng(seed + 1))
    fixed = np.random.default_rng(7)
    size = SHAPE[0] * SHAPE[1]
    offset = (4000 + 60 * noise(fixed)[: cells * size // 8]).repeat(8)[: cells * size].reshape(cells, size)
    indicator = 2000 + 100 * noise(fixed)[:size]
    bad = fixed.integers(0, size, (cells, 100))
    trains = []
    for _ in range(KINDS):
        values, gains = np.empty((2, cells, size), np.uint16)
        for cell in range(cells):
            at = rng.integers(0, len(pool) - size, 3)
            v = offset[cell] + 12 * pool[at[0] : at[0] + size]
            if lit:
                v += rng.gamma(4, 50) * (1 + 0.1 * pool[at[2] : at[2] + size])
            some = bad[cell] if late else bad[cell, :60]
            v[some] += 600
            values[cell] = v.clip(0, 16000)
            gains[cell] = indicator + 20 * pool[at[1] : at[1] + size]
        values[:, 77] = 16383  # saturated, always
        trains.append((values.reshape(cells, *SHAPE), gains.reshape(cells, *SHAPE)))
    assert max(gains.max() for _, gains in trains) < HIGH
    return trains


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("endpoint")
    parser.add_argument("--kind", choices=("pub", "push"), required=True)
    parser.add_argument("--axes", default="cell ss fs")
    parser.add_argument("--cells", type=int, default=352)
    parser.add_argument("--prelude", type=int, default=216, help="dark trains before those that count")
    parser.add_argument("--trains", type=int, default=600)
    parser.add_argument("--stretch", type=int, default=60, help="dark, then as many lit, and so on")
    parser.add_argument("--gain-stage", type=int, default=-1, help="in which darks are held; -1: they switch freely")
    parser.add_argument("--rate", type=float, default=10.0, help="trains per second; 0: as fast as they are taken")
    args = parser.parse_args()
    axes = Axes.parse(args.axes)
    made = {}
    for lit in (False, True):
        for late in (False, True):
            trains = make_trains(args.cells, lit, late, 100 + 10 * lit + late)
            made[lit, late] = [tuple(axes.join(a[None, None]) for a in train) for train in trains]
    source, cell = Source(name=NAME), np.arange(args.cells, dtype=np.uint16)
    name = NAME.format(module=0)
    with FrameSender(args.endpoint, args.kind) as sender:
        print("ready", sender.endpoint, flush=True)
        sender.wait()
        input()  # the other side says when
        due = time.monotonic()
        for number in range(args.prelude + args.trains):
            counted = number - args.prelude
            if counted == 0:
                print("counted", flush=True)
            lit, late = counted >= 0 and counted // args.stretch % 2 == 1, counted >= args.trains // 2
            values, gains = made[lit, late][number % KINDS]
            if args.rate:
                time.sleep(max(0.0, due - time.monotonic()))
                due += 1 / args.rate
            stamp = [karabo_message.stamp(of, number + 1, time.time()) for of in (name, EXPOSURE)]
            told = {"illumination.value": "flat" if lit else "dark", "gainStage.value": -1 if lit else args.gain_stage}
            arrays = {source.image_key: values, source.gain_key: gains, source.cell_key: cell}
            sender.send(karabo_message.write({name: arrays, EXPOSURE: told}, {name: stamp[0], EXPOSURE: stamp[1]}))
        print("sent", flush=True)


if __name__ == "__main__":
    main()
