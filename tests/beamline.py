"""A beamline in memory: a small detector, light through a sample, and a service's worker that follows it frame by frame.

One module, one memory cell. No sockets and no threads; time passes as frames do. What is published is kept, change by change.
"""

import queue

import numpy as np
from builders import NOW

from rmm_stream.config import parse
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.live.prepare import prepare
from rmm_stream.live.worker import Worker

SHAPE, ASIC = (128, 128), (64, 64)
NOISE, PER_PHOTON = 8.0, 10.0  # ADU
DARK, SAMPLE = Exposure(Illumination.DARK, 0), Exposure(Illumination.SAMPLE, 0)
TOML = """
[detector]
name = "small"
modules = 1
module_shape = [128, 128]
asic_shape = [64, 64]
bits = 14
[features.lit]
every_train = 1
[store]
directory = "{directory}"
"""
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)


def scattering(centre=(20.0, 40.0), photons=2.0):
    """(ss, fs) float32, photons: a ring of water, a jet streak across it, the shadow of a beamstop with a soft edge."""
    dy, dx = Y - centre[0], X - centre[1]
    radius = np.hypot(dy, dx)
    ring = 1 + 2 * np.exp(-0.5 * ((radius - 60) / 12) ** 2)
    streak = 3 * np.exp(-0.5 * (dx / 2.5) ** 2)
    return (photons * (ring + streak) / (1 + np.exp(-(radius - 12) / 2))).astype(np.float32)


class Beamline:
    """Mutable. `offset`, `noise`, `gain`: (ss, fs) ADU, ADU, and answer to light of the pixels; tests change them as they go.

    extra: called with the random generator, gives (ss, fs) ADU that one lit frame reads beside what it should; or None.
    """

    def __init__(self, directory, toml: str = "", seed: int = 1, every_s: float = 0.1):
        config = parse(TOML.format(directory=directory) + toml)
        parts = prepare(config).workers[0]
        self.published, self.now, self.train, self.every_s = [], NOW, 0, every_s
        self.policy, self.maker = parts.policy, parts.maker
        self.worker = Worker(
            parts.maker, parts.policy, parts.labeler, parts.status, self.published.append, queue.Queue(4),
            queue.SimpleQueue(), lambda: self.now, config.settings.features.lit,
        )  # fmt: skip
        self.rng = np.random.Generator(np.random.SFC64(seed))
        self.offset = self.rng.normal(2000, 12, SHAPE).astype(np.float32)
        self.noise = (NOISE * self.rng.normal(1, 0.05, SHAPE)).astype(np.float32)
        self.gain = self.rng.normal(1, 0.01, SHAPE).astype(np.float32)
        self.extra = lambda rng: None

    def read(self, photons) -> np.ndarray:
        """One frame, (ss, fs) uint16. photons: (ss, fs), expected; None: no light."""
        values = self.offset + self.noise * self.rng.standard_normal(SHAPE, dtype=np.float32)
        if photons is not None:
            values += PER_PHOTON * self.gain * self.rng.poisson(photons)
            if (more := self.extra(self.rng)) is not None:
                values += more
        return np.rint(values).clip(0, 16383).astype(np.uint16)

    def feed(self, pixels, exposure: Exposure) -> None:
        """Frames, (n, ss, fs), one train each, and what the worker does after each."""
        for frame in pixels:
            self.train += 1
            self.now += self.every_s
            self.worker.feed(
                [
                    FrameBatch(
                        module=0,
                        pixels=frame[None],
                        gain=None,
                        cell=np.zeros(1, np.uint16),
                        train_id=np.full(1, self.train, np.uint64),
                        complete=np.ones(1, bool),
                        timestamp=self.now,
                        exposure=exposure,
                        labelled_by="stream",
                    )
                ]
            )
            self.worker.step()

    def darks(self, n: int, exposure: Exposure = DARK) -> None:
        for _ in range(n):
            self.feed(self.read(None)[None], exposure)

    def lit(self, n: int, scene=None, brightness: float = 1.0, hits: float = 0.25) -> None:
        """n shots: the scene times an intensity that scatters by 20 %, and, in a part of them, Bragg spots."""
        scene = scattering() if scene is None else scene
        for _ in range(n):
            photons = scene * np.float32(brightness * max(0.2, self.rng.normal(1, 0.2)))
            if self.rng.random() < hits:
                self._add_spots(photons)
            self.feed(self.read(photons)[None], SAMPLE)

    def _add_spots(self, photons) -> None:
        for y, x in self.rng.uniform(3, SHAPE[0] - 4, (6, 2)):
            top, left = int(y) - 2, int(x) - 2
            here = np.s_[top : top + 5, left : left + 5]
            spot = np.exp(-0.5 * ((Y[here] - y) ** 2 + (X[here] - x) ** 2) / 0.8**2)
            photons[here] += self.rng.exponential(60) * spot

    @property
    def bad(self) -> set[tuple[int, int]]:
        """Pixels that are masked, beside the edges of ASICs."""
        flags = self.policy.mask(0).flags[0, 0] & 0xDF
        return set(map(tuple, np.argwhere(flags).tolist()))

    @property
    def status(self):
        return self.worker.status

    @property
    def alarms(self) -> str:
        return "\n".join(self.status.alarms)
