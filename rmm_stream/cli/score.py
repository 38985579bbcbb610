"""What the demo's table says: planted against found, good pixels flagged, delays, false peaks. Arrays in, numbers out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..mask import BadPixel, Mask
from ..sources.truth import Truth

STRONG = 10.0  # |SNR| from which a planted defect has to be found; the cut is 8
FOUND_BAR = 0.995  # of the strong defects of each kind, at least
FALSE_BAR = 1e-5  # of the good pixels, at most
SETTLED = 0.2  # false peaks are compared over this last part of the lit frames


@dataclass(frozen=True, slots=True)
class KindScore:
    """One kind of defect, counted over maps. planted: those of SNR >= STRONG; weak: the others, not to be found."""

    kind: str
    planted: int
    found: int
    weak: int
    weak_found: int

    @property
    def share(self) -> float:
        """Found of planted, nan where none was planted."""
        return self.found / self.planted if self.planted else float("nan")


@dataclass(frozen=True, slots=True)
class GoodScore:
    """Good pixels of judged maps, summed over maps: how many there are, how many are flagged."""

    good: int
    flagged: int


def found(truth: Truth, masks: dict[int, Mask], cells: tuple[int, ...]) -> NDArray:
    """(defects,) bool: the map of the defect is judged and carries one of the flags expected for its kind.

    masks: by module. cells: memory cell of each place on the cell axis of the masks.
    """
    out = np.zeros(len(truth.defects), bool)
    place = {cell: i for i, cell in enumerate(cells)}
    for i, row in enumerate(truth.defects):
        mask = masks[int(row["module"])]
        at = (row["gain_stage"], place[int(row["cell"])])
        out[i] = mask.judged[at] and mask.flags[(*at, row["ss"], row["fs"])] & row["expected"]
    return out


def by_kind(truth: Truth, was_found: NDArray) -> list[KindScore]:
    """A score per kind, in the order in which kinds are planted first."""
    kinds, first = np.unique(truth.defects["kind"], return_index=True)
    scores = []
    for kind in kinds[np.argsort(first)]:
        of_kind = truth.defects["kind"] == kind
        strong = of_kind & (truth.defects["snr"] >= STRONG)
        weak = of_kind & ~strong
        scores.append(
            KindScore(
                kind.decode(),
                int(strong.sum()),
                int((strong & was_found).sum()),
                int(weak.sum()),
                int((weak & was_found).sum()),
            )
        )
    return scores


def good_pixels(truth: Truth, masks: dict[int, Mask], cells: tuple[int, ...]) -> GoodScore:
    """Every pixel of every judged map that is neither planted nor EDGE; flagged is any flag at all."""
    good = flagged = 0
    places = [cells.index(cell) for cell in truth.cells]
    for i, module in enumerate(truth.modules):
        mask = masks[module]
        flags = mask.flags[:, places]
        there = (truth.planted[i] == 0) & (flags & np.uint8(BadPixel.EDGE) == 0)
        there &= mask.judged[:, places, None, None] != 0
        good += int(there.sum())
        flagged += int(np.count_nonzero(flags[there]))
    return GoodScore(good, flagged)


def missed_bars(scores: list[KindScore], good: GoodScore) -> list[str]:
    """What falls short of the bars, one line each; [] where all are met. Nothing to count is short of them, too."""
    missed = [
        f"{s.kind.replace('_', ' ')}: {s.found:,} of {s.planted:,} found, {100 * s.share:.2f} %; "
        f"the bar is {100 * FOUND_BAR:g} %"
        for s in scores
        if s.planted and s.share < FOUND_BAR
    ]
    if not sum(s.planted for s in scores):
        missed.append(f"no defect of SNR >= {STRONG:g} was planted")
    if not good.good or good.flagged > FALSE_BAR * good.good:
        missed.append(
            f"good pixels: {good.flagged:,} of {good.good:,} flagged; the bar is one in {round(1 / FALSE_BAR):,}"
        )
    return missed


def onset_delays(truth: Truth, module: int, flagged_at: NDArray, trains: NDArray) -> dict[str, NDArray]:
    """Seconds from the first train with a defect to the consumer's mask, by kind, sorted; inf where it never came.

    For strong defects that begin during the run. A negative delay is a flag that came by mistake before the defect.

    flagged_at: (stages, cells, ss, fs), Unix time, nan where not flagged.
    trains: (n, 2), train id and the sender's time; times of trains that are not in it are interpolated.
    """
    rows = truth.defects
    rows = rows[(rows["module"] == module) & (rows["onset_train"] > 0) & (rows["snr"] >= STRONG)]
    if not len(trains):
        return {}
    order = np.argsort(trains[:, 0])
    began = np.interp(rows["onset_train"], trains[order, 0], trains[order, 1])
    delay = flagged_at[rows["gain_stage"], rows["cell"], rows["ss"], rows["fs"]] - began
    delay[np.isnan(delay)] = np.inf
    return {kind.decode(): np.sort(delay[rows["kind"] == kind]) for kind in np.unique(rows["kind"])}


def false_peaks(counts: NDArray) -> tuple[int, float, float]:
    """(frames, peaks per frame without the mask, with it) over the last part of the lit frames.

    counts: (m, 4), train id, cell, peaks without and with the mask; a flat field has no true ones.
    """
    if not len(counts):
        return 0, float("nan"), float("nan")
    trains = np.unique(counts[:, 0])
    last = counts[counts[:, 0] >= trains[int((1 - SETTLED) * (len(trains) - 1))]]
    return len(last), float(last[:, 2].mean()), float(last[:, 3].mean())
