"""F1, section 3.2.1: refuses dark frames whose robust mean is unlike that of the others. A verdict on frames; it has no bit.

A frame's robust mean is taken of its differences from one base frame of the same cell and stage, so that the spread of
offsets over pixels and ASICs takes no part in it. Live, a frame is judged on arrival against the last `history` frames,
rejected ones included, or a real step would lock the gate for good. Batch judges all frames against each other.
"""

import copy
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Fit, Gate
from ..detectors import DetectorSpec
from .kernels import frame_gate
from .kernels.compiled import read_only
from .outliers import consistency, fit_1d

#: Of a large frame one row in 16 is taken, in runs of as many pixels as memory likes to give at a time.
ONE_ROW_IN = 16
RUN = 512  # pixels
WHOLE_BELOW = 4096  # pixels

FIT = Fit()


@lru_cache
def rows(spec: DetectorSpec) -> NDArray:
    """(r,) int64: the rows of a frame on which F1 looks: runs, evenly spread over every row of ASICs; of a small frame all."""
    height, width = spec.module_shape
    if height * width <= WHOLE_BELOW:
        return np.arange(height)
    taken = []
    for first, last in spec.asics(0):
        n = max(1, (last - first) // ONE_ROW_IN)
        run = min(n, -(-RUN // width))
        runs = n // run
        for i in range(runs):
            start = first + (2 * i + 1) * (last - first) // (2 * runs) - run // 2
            taken += range(start, start + run)
    return np.array(taken)


def subset(frame: NDArray, spec: DetectorSpec) -> NDArray:
    """The pixels of a frame, (ss, fs), on which F1 looks: (r, fs) float64, nan where a value is not data."""
    return _data(frame[rows(spec)], spec)


def _data(raw: NDArray, spec: DetectorSpec) -> NDArray:
    values = raw.astype(np.float64)
    bad = np.isin(values, spec.sentinels)
    if spec.saturation is not None:
        bad |= values >= spec.saturation
    return np.where(bad | ~np.isfinite(values), np.nan, values)


def serves_as_base(values: NDArray) -> bool:
    """Whether enough of a frame's subset() is data for others to be compared with it."""
    return 2 * int(np.isfinite(values).sum()) >= values.size


def frame_mean(frame: NDArray, base: NDArray, spec: DetectorSpec) -> float:
    """Robust mean of a frame above its base, ADU. frame: (ss, fs). base: subset() of the base frame. nan if unfit."""
    return fit_1d(subset(frame, spec) - base, FIT).mean


def outlying(means: NDArray, gate: Gate, spec: DetectorSpec, fit: Fit = FIT) -> NDArray:
    """(n,) bool: frames to be left out, by eq. (2). Frames that cannot be judged are kept. means: (n,) of frame_mean()."""
    judged = fit_1d(means, fit, spec.sigma_floor)
    if np.isnan(judged.sigma):
        return np.zeros(len(means), bool)
    return np.abs(means - judged.mean) > gate.cut * judged.sigma  # false for nan


def of_indicator(spec: DetectorSpec) -> DetectorSpec:
    """How F1 looks at an analogue gain indicator: every value of it is data."""
    return replace(spec, saturation=None, sentinels=(), counting=False, bits=16, packed=0)


def quantities(spec: DetectorSpec) -> dict[str, DetectorSpec]:
    """What F1 judges of a frame: its values and, where it is analogue, its gain indicator."""
    return {"values": spec} | ({"indicator": of_indicator(spec)} if spec.gain == "analogue" else {})


class FrameMeans:
    """Robust means of frames of one quantity of one (module, stage), above the base frame of their cell. Mutable.

    A base frame is kept as it came: what is not data in it is told by its values.
    """

    def __init__(self, spec: DetectorSpec, cells: int):
        self.spec, self.rows = spec, rows(spec)
        self.base = np.zeros((cells, len(self.rows), spec.module_shape[1]), spec.dtype)
        self.based = np.zeros(cells, bool)
        self.saturation = 1 << 16 if spec.saturation is None else spec.saturation
        # a sentinel counts as saturated, which some value has to be
        self.counts = spec.exact and (not spec.sentinels or self.saturation <= np.iinfo(spec.dtype).max)
        self.last = np.zeros(cells, np.int64)  # ADU; where differences are looked for first. Changes no result

    def of(self, frames: NDArray, take: NDArray, cell: NDArray) -> NDArray:
        """(k,) float64, ADU; nan where it cannot be told. frames: (n, ss, fs). take, cell: (k,) int64.

        A cell without a base frame takes the first that serves: of which half is data."""
        known = self.based[cell]
        for i in np.flatnonzero(~known):
            if not self.based[cell[i]] and serves_as_base(subset(frames[take[i]], self.spec)):
                self.base[cell[i]], self.based[cell[i]] = frames[take[i]][self.rows], True
            known[i] = self.based[cell[i]]
        means = np.full(len(take), np.nan)
        means[known] = (self._counted if self.counts else self._fitted)(frames, take[known], cell[known])
        return means

    def twin(self) -> "FrameMeans":
        """The same base frames, for frames at another level: each looks first where its own last one was."""
        other = copy.copy(self)
        other.last = self.last.copy()
        return other

    def _counted(self, frames: NDArray, take: NDArray, cell: NDArray) -> NDArray:
        """Of integers of at most 16 bits."""
        frames, base = read_only(np.ascontiguousarray(frames, self.spec.dtype)), self.base
        if self.spec.sentinels:
            frames, base = (
                np.where(np.isin(a, self.spec.sentinels), self.saturation, a).astype(a.dtype) for a in (frames, base)
            )
        means, left = np.full(len(take), np.inf), np.arange(len(take))
        for reach in (frame_gate.NARROW, frame_gate.WIDE):
            found, of = np.empty(len(left)), cell[left]
            room = np.empty(2 * reach + 2 + base[0].size, np.int32)
            frame_gate.frame_means(
                read_only(frames), take[left], of, self.rows, self.saturation, base, self.last[of], reach,
                _fit_rule(FIT), room, found,
            )  # fmt: skip
            means[left] = found
            left = left[np.isinf(found)]
            if not len(left):
                break
        means[left] = np.nan
        known = np.isfinite(means)
        self.last[cell[known]] = np.rint(means[known])
        return means

    def _fitted(self, frames: NDArray, take: NDArray, cell: NDArray) -> NDArray:
        """Of any values."""
        return np.array(
            [frame_mean(frames[t], _data(self.base[c], self.spec), self.spec) for t, c in zip(take, cell)], np.float64
        )


def _fit_rule(fit: Fit) -> tuple[float, float, float]:
    return float(fit.structure), float(fit.certain), float(fit.lambda_fit)


class Series:
    """Robust means of one quantity of the frames of one (module, stage), each judged against the last ones of its cell.

    Mutable. The first `learn` frames of a cell are let through on trial: when the last of them comes, all are judged.
    """

    def __init__(self, spec: DetectorSpec, gate: Gate, cells: int):
        self.means, self.learn = FrameMeans(spec, cells), gate.learn
        self.count = np.zeros((cells, 2), np.int64)  # frames seen; means known
        self.ring = np.full((cells, gate.history), np.nan)
        self.ordered = np.full((cells, gate.history + 1), np.nan)
        self.rule = (*_fit_rule(FIT), consistency(FIT.lambda_fit), float(spec.sigma_floor), float(gate.cut))

    def judge(self, means: NDArray, cell: NDArray) -> NDArray:
        """(k,) int8: 1 where a frame is like the others, 0 where not, -1 where the trial ends, and a frame of it is foreign.

        means: (k,) float64, ADU, nan where unknown."""
        verdict = np.empty(len(means), np.int8)
        room = np.empty(3 * self.ordered.shape[1] + 2)
        frame_gate.verdicts(means, cell, self.rule, self.learn, self.count, self.ring, self.ordered, room, verdict)
        return verdict

    def state(self) -> dict[str, NDArray]:
        own = {"count": self.count, "ring": self.ring, "ordered": self.ordered}
        return own | {"base": self.means.base, "based": self.means.based}

    def restore(self, state: dict[str, NDArray]) -> None:
        """Take over a state. The arrays are copied."""
        for name, array in self.state().items():
            array[...] = state[name]


class Judged(NamedTuple):
    """accepted: (k,) bool. failed: (m,) int64, cells whose trial has ended, with a frame let through that proved foreign.

    Frames of such a cell up to the end of its trial are not accepted; those let through before this call are to be forgotten.
    """

    accepted: NDArray
    failed: NDArray


class FrameGate:
    """The gate of one (module, stage), over all its memory cells. Mutable; one owner.

    It judges values and, where it is analogue, the gain indicator, since one frame with a foreign indicator would widen the
    bands of F4 for every pixel. The frames of a cell are judged as if they had come one by one.
    """

    def __init__(self, spec: DetectorSpec, gate: Gate, cells: int):
        self.learn = gate.learn
        self.series = {name: Series(kind, gate, cells) for name, kind in quantities(spec).items()}

    def judge(self, frames: NDArray, indicator: NDArray | None, take: NDArray, cell: NDArray) -> Judged:
        """Judge some frames of a batch in their order, and remember them.

        frames, indicator: (n, ss, fs). take: (k,) int64, which of them. cell: (k,) int64, the place of each one's cell.
        """
        return self.judge_means(self.measure(frames, indicator, take, cell), cell)

    def measure(self, frames: NDArray, indicator: NDArray | None, take: NDArray, cell: NDArray) -> dict[str, NDArray]:
        """(k,) float64 robust means of some frames, ADU, by what is judged of them; see judge()."""
        images = {"values": frames, "indicator": indicator}
        return {
            name: series.means.of(images[name], take, cell)
            for name, series in self.series.items()
            if images[name] is not None
        }

    def judge_means(self, means: dict[str, NDArray], cell: NDArray) -> Judged:
        """Judge frames by what measure() found, in their order, and remember them."""
        accepted, ends = np.ones(len(cell), bool), np.zeros(len(cell), bool)
        for name, found in means.items():
            verdict = self.series[name].judge(found, cell)
            accepted &= verdict != 0
            ends |= verdict < 0
        for end in np.flatnonzero(ends):
            accepted[: end + 1] &= cell[: end + 1] != cell[end]
        return Judged(accepted, np.unique(cell[ends]))

    @property
    def on_trial(self) -> bool:
        """Whether frames have been let through that are not judged yet."""
        seen = self.series["values"].count[:, 0]
        return bool(((seen > 0) & (seen < self.learn)).any())

    def state(self) -> dict[str, NDArray]:
        return {f"{name}/{key}": array for name, series in self.series.items() for key, array in series.state().items()}

    @classmethod
    def restore(cls, state: dict[str, NDArray], spec: DetectorSpec, gate: Gate, cells: int) -> "FrameGate":
        restored = cls(spec, gate, cells)
        for name, series in restored.series.items():
            series.restore({key: state[f"{name}/{key}"] for key in series.state()})
        return restored
