"""F1, section 3.2.1: refuses dark frames whose robust mean is unlike that of the others. A verdict on frames; it has no bit.

A frame's robust mean is taken of its differences from one base frame of the same cell and stage, so that the spread of
offsets over pixels and ASICs takes no part in it. Live, a frame is judged on arrival against the last `history` frames,
rejected ones included, or a real step would lock the gate for good. Batch judges all frames against each other.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..config import Fit, Gate
from ..detectors import DetectorSpec
from .outliers import fit_1d

#: Of a large frame every 17th pixel is taken: about one in 16, and not the same columns in every row.
STRIDE = 17
WHOLE_BELOW = 4096


def subset(frame: NDArray, spec: DetectorSpec) -> NDArray:
    """The pixels of a frame on which F1 looks, float64, nan where a value is not data. Any shape in, one dimension out."""
    flat = frame.reshape(-1)
    values = (flat[STRIDE // 2 :: STRIDE] if flat.size > WHOLE_BELOW else flat).astype(np.float64)
    bad = np.isin(values, spec.sentinels)
    if spec.saturation is not None:
        bad |= values >= spec.saturation
    return np.where(bad | ~np.isfinite(values), np.nan, values)


def serves_as_base(values: NDArray) -> bool:
    """Whether enough of a frame's subset() is data for others to be compared with it."""
    return 2 * int(np.isfinite(values).sum()) >= len(values)


def frame_mean(frame: NDArray, base: NDArray, spec: DetectorSpec) -> float:
    """Robust mean of a frame above its base, ADU. frame: (ss, fs). base: subset() of the base frame. nan if unfit."""
    return fit_1d(subset(frame, spec) - base, floor=spec.sigma_floor).mean


def outlying(means: NDArray, gate: Gate, spec: DetectorSpec, fit: Fit = Fit()) -> NDArray:
    """(n,) bool: frames to be left out, by eq. (2). Frames that cannot be judged are kept. means: (n,) of frame_mean()."""
    judged = fit_1d(means, fit, spec.sigma_floor)
    if np.isnan(judged.sigma):
        return np.zeros(len(means), bool)
    return np.abs(means - judged.mean) > gate.cut * judged.sigma  # false for nan


def of_indicator(spec: DetectorSpec) -> DetectorSpec:
    """How F1 looks at an analogue gain indicator: every value of it is data."""
    return replace(spec, saturation=None, sentinels=(), counting=False)


class Series:
    """Robust means of one quantity of the frames of one (module, stage, cell), each judged against the last ones. Mutable.

    The first `learn` frames are let through on trial: when the last of them comes, all are judged against each other.
    """

    def __init__(self, spec: DetectorSpec, gate: Gate):
        self.spec, self.gate = spec, gate
        self.base: NDArray | None = None
        self.means = np.full(gate.history, np.nan)
        self.seen = 0

    def accepts(self, frame: NDArray) -> bool:
        """Whether a frame, (ss, fs), is like the others. Remembers it either way."""
        if self.base is None and serves_as_base(first := subset(frame, self.spec)):
            self.base = first
        mean = np.nan if self.base is None else frame_mean(frame, self.base, self.spec)
        known = self.means[: min(self.seen, len(self.means))]
        good = self.seen < self.gate.learn or not outlying(np.append(known, mean), self.gate, self.spec)[-1]
        self.means[self.seen % len(self.means)] = mean
        self.seen += 1
        return good

    def trial_failed(self) -> bool:
        """True once, when the trial ends and one of the frames let through proves foreign."""
        return self.seen == self.gate.learn and bool(outlying(self.means[: self.seen], self.gate, self.spec).any())

    def state(self) -> dict[str, NDArray]:
        base = np.empty(0) if self.base is None else self.base
        return {"base": base, "means": self.means, "seen": np.array(self.seen)}

    def restore(self, state: dict[str, NDArray]) -> None:
        """Take over a state. The arrays are copied."""
        self.base = state["base"].copy() if state["base"].size else None
        n = min(len(self.means), len(state["means"]))
        self.means[:n] = state["means"][:n]
        self.seen = int(state["seen"])


class FrameGate:
    """The gate of one (module, stage, cell): over the values and, where it is analogue, over the gain indicator.

    One frame with a foreign indicator would widen the bands of F4 for every pixel. Mutable; one owner.
    """

    def __init__(self, spec: DetectorSpec, gate: Gate):
        self.values = Series(spec, gate)
        self.indicator = Series(of_indicator(spec), gate) if spec.gain == "analogue" else None

    def accepts(self, frame: NDArray, indicator: NDArray | None = None) -> bool:
        """Whether a frame, (ss, fs), and its gain indicator are like the others. Remembers them either way."""
        good = self.values.accepts(frame)
        if self.indicator is not None and indicator is not None:
            good &= self.indicator.accepts(indicator)
        return good

    @property
    def on_trial(self) -> bool:
        """Whether frames have been let through that are not judged yet."""
        return 0 < self.values.seen < self.values.gate.learn

    def trial_failed(self) -> bool:
        """True once, when the trial ends and one of the frames let through proves foreign: forget them and begin again."""
        failed = [series.trial_failed() for series in (self.values, self.indicator) if series is not None]
        return any(failed)

    def state(self) -> dict[str, NDArray]:
        parts = {"values": self.values} | ({"indicator": self.indicator} if self.indicator is not None else {})
        return {f"{name}/{key}": array for name, series in parts.items() for key, array in series.state().items()}

    @classmethod
    def restore(cls, state: dict[str, NDArray], spec: DetectorSpec, gate: Gate) -> "FrameGate":
        restored = cls(spec, gate)
        for name in ("values", "indicator"):
            if (series := getattr(restored, name)) is not None:
                series.restore({key: state[f"{name}/{key}"] for key in ("base", "means", "seen")})
        return restored
