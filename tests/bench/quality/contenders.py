"""The contenders: each has a mask in force, which it may change after it has seen a frame. All mask the ASIC edges.

Causal: the mask of a frame was made without it. Knows no truth, but for the row of reference.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import structs
from numpy.typing import NDArray

from rmm_stream.config import Features, Lit, Settings
from rmm_stream.mask import MapChange
from rmm_stream.policy import MaskPolicy
from rmm_stream.rmm import MaskMaker

from .beam import SPEC
from .cheetah import HotPixels
from .offline import Darks, nonrobust, paper, record
from .serial import Frame, Run, batch

PEAK_ADC = 300.0  # ADU, of the peak finder too: what an operator would set


class Contender(Protocol):
    """mask: (ss, fs) bool, True bad, in force now; another array when it changes."""

    name: str
    mask: NDArray

    def see(self, frame: Frame, calibrated: NDArray) -> None:
        """A sample frame, as read and less the dark mean, (ss, fs) float32, after its mask was judged."""


class Fixed:
    """A mask that comes into force after the frame of number `since`, and stays."""

    def __init__(self, name: str, bad: NDArray | None = None, since: int = 0):
        self.name, self.bad, self.since = name, bad, since
        self.mask = SPEC.edge()

    def see(self, frame: Frame, calibrated: NDArray) -> None:
        if self.bad is not None and frame.number == self.since:
            self.mask = SPEC.edge() | self.bad


class Cheetah:
    """HotPixels on frames less the dark mean."""

    def __init__(self, name: str, adc: float):
        self.name, self.rule, self.mask = name, HotPixels(SPEC.module_shape, adc), SPEC.edge()

    def see(self, frame: Frame, calibrated: NDArray) -> None:
        if self.rule.feed(calibrated):
            self.mask = SPEC.edge() | self.rule.mask


class Ours:
    """The maker and the policy, as a worker drives them: fed frame by frame, fitted when there is news, published flags."""

    def __init__(self, name: str, run: Run, settings: Settings = Settings()):
        lit: Lit = structs.replace(settings.features.lit, every_train=1)
        features: Features = structs.replace(settings.features, lit=lit)
        self.name, self.darks = name, run.darks
        self.maker = MaskMaker(SPEC, settings=structs.replace(settings, features=features))
        self.policy = MaskPolicy(SPEC)
        self.mask, self.fits = SPEC.edge(), 0
        for number in range(run.darks):
            self.maker.feed(batch(run.dark(number), run.darks))
        self._publish()

    def see(self, frame: Frame, calibrated: NDArray) -> None:
        self.maker.feed(batch(frame, self.darks))
        self._publish()

    def _publish(self) -> None:
        for fit in self.maker.fit_due(4):
            self.fits += 1
            if isinstance(change := self.policy.judge(fit), MapChange):  # not held by the guard
                self.mask = change.flags != 0


class Truth:
    """The reference: exactly the pixels that are defective in the frame to come."""

    def __init__(self, name: str, run: Run):
        self.name, self.run = name, run
        self.mask = SPEC.edge() | run.defects.mask(0)
        table = run.defects.table
        self.turns = set(table["begins"].tolist()) | set(table["ends"].tolist())

    def see(self, frame: Frame, calibrated: NDArray) -> None:
        if frame.number + 1 in self.turns:
            self.mask = SPEC.edge() | self.run.defects.mask(frame.number + 1)


NO_MASK, MEAN_STD = "no mask", "mean +- 8 std"
CHEETAH, CHEETAH_SCALED = "Cheetah, 10 000 ADU", f"Cheetah, {PEAK_ADC:g} ADU"
OFFLINE, OFFLINE_HITS = "paper, offline", "paper, offline, with hits"
OURS, OURS_NARROW, TRUTH = "ours, live", "ours, 16 x 16 windows", "true mask"
NARROW = Settings(features=Features(lit=Lit(window=(16, 16))))  # for backgrounds that curve within 64 pixels


def contenders(run: Run, darks: Darks, with_library: bool = True, say: Callable = print) -> list[Contender]:
    """All of them, in the order of the table. with_library: the paper's procedure too, which takes a minute or two."""
    blank = record(run, darks, blank=True)
    rows: list[Contender] = [
        Fixed(NO_MASK),
        Fixed(MEAN_STD, nonrobust(darks, blank), blank.last),
        Cheetah(CHEETAH, 10_000.0),
        Cheetah(CHEETAH_SCALED, PEAK_ADC),
    ]
    if with_library:
        say("the paper's procedure offline, with the authors' library")
        rows.append(Fixed(OFFLINE, paper(darks, blank), blank.last))
        any_frame = record(run, darks, blank=False)
        rows.append(Fixed(OFFLINE_HITS, paper(darks, any_frame), any_frame.last))
    return [*rows, Ours(OURS, run), Ours(OURS_NARROW, run, NARROW), Truth(TRUTH, run)]
