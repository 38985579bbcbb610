"""What a dark frame looks like, cell by cell, and whether another one looks so (docs/method.md 7.1). Not in the paper.

It is learnt from declared darks alone, never from frames that the classifier itself calls dark: it cannot follow its own
mistakes. Knows no exposures, voices or trains.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from . import gain
from .gate import FIT, FrameGate, FrameMeans, _data, quantities, rows, subset
from .kernels.compiled import read_only
from .kernels.light import bright_shares
from .kernels.robust import MIN_VALUES
from .outliers import fit_1d

#: What a frame looks like. SILENT: that cannot be told.
SILENT, DARK, DOUBTFUL, LIT = -1, 0, 1, 2
#: From so many cuts on a frame is lit. The band between is as wide as the dark one above its middle, so that it has at least
#: as many lit frames as look dark, while frames are the rarer the darker they are.
LIT_FROM = 2.0
#: A pixel stands out beyond so many sigma of the differences between two dark frames, within an ASIC; pixels within so many
#: of those over the frame say by how much their ASIC has shifted.
STANDS_OUT, FAR = 5.0, 10.0
LEARN = 128  # darks of a cell: of so many sigma is never below 0.74 of the truth in 20,000 trials; of 64 now and then a quarter
SPREADS = 5  # frames whose median tells these sigmas; the first of all is the base itself
REFIT = 16  # frames of a cell after which level and scale are taken anew


class DarkLook:
    """The look of the darks of one (module, stage). Mutable; one owner.

    Of each frame are measured: the robust means that F1 judges, of the values and an analogue gain indicator, ADU, and the
    share of pixels that stand out: with a few photons in the frame most pixels have none, and no robust mean moves.
    """

    def __init__(self, spec: DetectorSpec, history: int, cut: float, stage: int, cells: int):
        kinds = quantities(spec)
        self.spec, self.rows, self.names = spec, rows(spec), (*kinds, "bright")
        self.cut, self.rising = cut, stage == 0  # JUNGFRAU reads lower under light in stages 1 and 2
        self.floors = [kind.sigma_floor for kind in kinds.values()]
        self.columns = np.array(spec.asics(1))
        self.pixels = len(self.rows) * int((self.columns[:, 1] - self.columns[:, 0]).sum())
        self.ring = np.full((cells, max(history, LEARN), len(self.names)), np.nan)  # of the last darks
        self.count = np.zeros(cells, np.int64)
        self.spread = np.full((cells, SPREADS, 2), np.nan)  # sigma of differences, ADU: over the frame, within ASICs
        self.level, self.sigma = (np.full((cells, len(self.names)), np.nan) for _ in range(2))
        self._twins: tuple[FrameGate | None, dict[str, FrameMeans]] = (None, {})

    @property
    def known(self) -> NDArray:
        """(cells,) bool: where enough darks have been seen."""
        return np.isfinite(self.sigma[:, [0, -1]]).all(axis=1)

    # ---- declared darks ----

    def learn_and_judge(
        self, gate: FrameGate, frames: NDArray, take: NDArray, cell: NDArray, means: dict[str, NDArray]
    ) -> NDArray:
        """(k,) int8: how declared darks look; those that look dark, or cannot be told yet, are learnt from.

        means: of gate.measure(). The frames of a cell are judged as if they had come one by one."""
        found, codes = np.full((len(take), len(self.names)), np.nan), np.full(len(take), SILENT, np.int8)
        for column, name in enumerate(self.names[:-1]):
            if name in means:
                found[:, column] = means[name]
        base = gate.series["values"].means
        for now in one_of_each_cell(cell):
            self._measure_spread(base, frames, take[now], cell[now])
            found[now, -1] = self._shares(base, frames, take[now], cell[now], found[now, 0])
            codes[now] = self._codes(found[now], cell[now])
            self._learn(found[now], cell[now], (codes[now] == DARK) | (codes[now] == SILENT))
        return codes

    def _measure_spread(self, base: FrameMeans, frames: NDArray, take: NDArray, cell: NDArray) -> None:
        for k in np.flatnonzero(np.isnan(self.spread[cell, -1, 0])):
            t, c = take[k], cell[k]
            if not base.based[c]:
                continue
            between = subset(frames[t], self.spec) - _data(base.base[c], self.spec)
            whole = fit_1d(between, FIT, self.spec.sigma_floor).sigma
            pieces = [between[:, first:last] for first, last in self.columns]
            within = [piece - _median_of_rows(piece) for piece in pieces]
            within = fit_1d(np.concatenate(within, axis=1), FIT, self.spec.sigma_floor).sigma
            if whole > 0 and within > 0:
                self.spread[c, np.argmax(np.isnan(self.spread[c, :, 0]))] = whole, within

    def _learn(self, found: NDArray, cell: NDArray, wanted: NDArray) -> None:
        at = cell[wanted]
        self.ring[at, self.count[at] % self.ring.shape[1]] = found[wanted]
        self.count[at] += 1
        seen = self.count[at]
        for c in at[(seen == LEARN) | ((seen > LEARN) & ((seen + at) % REFIT == 0))]:
            for q in range(len(self.names)):
                fit = fit_1d(self.ring[c, :, q], FIT, self.floors[q] if q < len(self.floors) else 0.0)
                mean, sigma = fit.mean, fit.sigma
                if q == len(self.floors):
                    mean, sigma = self._share_of_darks(self.ring[c, :, q])
                self.level[c, q], self.sigma[c, q] = mean, sigma

    def _share_of_darks(self, shares: NDArray) -> tuple[float, float]:
        """Robust mean and scale of shares: at least that of counting (decision 5), and 19 of 20 within twice of it.

        Where whole ASICs shift from frame to frame most shares are 0, and now and then one is far from it."""
        known = shares[np.isfinite(shares)]
        if len(known) < MIN_VALUES:
            return np.nan, np.nan
        fit = fit_1d(known, FIT)
        p = fit.mean if np.isfinite(fit.mean) else float(np.median(known))
        least = max(sqrt((p + 1 / self.pixels) * (1 - p) / self.pixels), (float(np.quantile(known, 0.95)) - p) / 2)
        return p, max(fit.sigma, least) if np.isfinite(fit.sigma) else least

    # ---- any frame ----

    def judge(
        self, gate: FrameGate, frames: NDArray, indicator: NDArray | None, take: NDArray, cell: NDArray
    ) -> NDArray:
        """(k,) int8: how some frames look. What their values do not show to be lit is looked at further.

        frames, indicator: (n, ss, fs). take, cell: (k,) int64."""
        codes, known = np.full(len(take), SILENT, np.int8), self.known[cell]
        if not known.any():
            return codes
        means, (take, cell) = self._means_of(gate), (take[known], cell[known])
        found = np.full((len(take), len(self.names)), np.nan)
        found[:, 0] = means["values"].of(frames, take, cell)
        first = self._codes(found, cell, hasty=True)
        further = np.flatnonzero((first != LIT) & (first != SILENT))
        if len(further):
            t, c = take[further], cell[further]
            if indicator is not None and "indicator" in means:
                found[further, 1] = means["indicator"].of(indicator, t, c)
            found[further, -1] = self._shares(means["values"], frames, t, c, found[further, 0])
            first[further] = self._codes(found[further], c)
        codes[known] = first
        return codes

    def _means_of(self, gate: FrameGate) -> dict[str, FrameMeans]:
        """The base frames of F1, looked at from the level of light."""
        if self._twins[0] is not gate:
            self._twins = gate, {name: series.means.twin() for name, series in gate.series.items()}
        return self._twins[1]

    def _shares(self, base: FrameMeans, frames: NDArray, take: NDArray, cell: NDArray, middle: NDArray) -> NDArray:
        """(k,) float64: share of the pixels that stand out; nan where that cannot be told."""
        whole, within = np.median(self.spread[cell], axis=1).T  # nan until all are known
        around = np.stack([middle, FAR * whole, STANDS_OUT * within], axis=1).astype(np.float32)
        shares = np.full(len(take), np.nan)
        some = np.flatnonzero(np.isfinite(around).all(axis=1))
        if not len(some):
            return shares
        where, lines, bases, out = take[some], self.rows, base.base, np.empty(len(some))
        if self.spec.sentinels:  # amid the data they would be values like others
            frames, bases = (_data(a, self.spec).astype(np.float32) for a in (frames[where][:, lines], bases))
            where, lines = np.arange(len(some)), np.arange(len(lines))
        bright_shares(
            read_only(frames), where, cell[some], lines, self.columns, bases, around[some],
            np.float32(gain.data_range(self.spec).most), out,
        )  # fmt: skip
        shares[some] = out
        return shares

    def _codes(self, found: NDArray, cell: NDArray, hasty: bool = False) -> NDArray:
        """(k,) int8 of what was measured, (k, quantities). hasty: of the values alone, the others being unknown."""
        reach = (found - self.level[cell]) / self.sigma[cell]
        values, others = reach[:, 0], np.abs(reach[:, 1:])
        up = np.fmax(values if self.rising else np.abs(values), np.fmax.reduce(others, axis=1))
        far = np.fmax(np.abs(values), np.fmax.reduce(others, axis=1))
        codes = np.where(far <= self.cut, DARK, np.where(up > LIT_FROM * self.cut, LIT, DOUBTFUL))
        unknown = ~self.known[cell] | np.isnan(values)
        if not hasty:
            unknown |= np.isnan(reach[:, -1])  # it may be a few photons
        return np.where(unknown, SILENT, codes).astype(np.int8)

    # ---- keeping ----

    def state(self) -> dict[str, NDArray]:
        return {name: getattr(self, name) for name in ("ring", "count", "spread", "level", "sigma")}


def _median_of_rows(piece: NDArray) -> NDArray:
    """(r, 1): median of the data in each row; 0 where there is none, which changes nothing."""
    middle = np.zeros((len(piece), 1))
    some = np.isfinite(piece).any(axis=1)
    middle[some] = np.nanmedian(piece[some], axis=1, keepdims=True)
    return middle


def one_of_each_cell(cell: NDArray) -> list[NDArray]:
    """Indices of frames in turns: the first frame of each cell, then the second of each, ... cell: (k,) int64."""
    order = np.argsort(cell, kind="stable")
    first = np.r_[True, cell[order][1:] != cell[order][:-1]] if len(cell) else np.empty(0, bool)
    starts = np.flatnonzero(first)
    turn = np.empty(len(cell), np.int64)
    turn[order] = np.arange(len(cell)) - np.repeat(starts, np.diff(np.r_[starts, len(cell)]))
    return [np.flatnonzero(turn == t) for t in range(int(turn.max(initial=-1)) + 1)]
