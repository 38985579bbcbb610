"""What the table says of one contender: defects found and when, good pixels flagged, Bragg pixels lost, peaks.

Arrays in, numbers out. A frame is judged under the mask that was in force before it was seen.
"""

import numpy as np
from numpy.typing import NDArray

from .beam import SPEC
from .defects import ALWAYS, NEVER, Defects

PER = 10_000  # spot pixels
UNSET = -1


class Score:
    """One contender, followed frame by frame. Mutable.

    defects: the truth. shadow: (ss, fs) bool, pixels behind the beam stop; good, and counted apart. learn: frames after which
    peaks and the most false flags count."""

    def __init__(self, name: str, defects: Defects, shadow: NDArray, learn: int):
        self.name, self.defects, self.learn = name, defects, learn
        self.edge, never = SPEC.edge(), ~defects.ever()
        self.good, self.good_in_shadow = never & ~self.edge & ~shadow, never & ~self.edge & shadow
        n = len(defects.table)
        self.detected, self.released, self.bad_at_end = (np.full(n, UNSET) for _ in range(3))
        self.flagged_when_ended = np.zeros(n, bool)
        self.spot_pixels = self.spot_pixels_lost = self.spot_pixels_waiting = 0
        self.false, self.false_most, self.false_shadow = 0, 0, 0
        self.found_over_time: list[int] = []
        self.peaks: list[tuple[int, bool, int, int]] = []  # frame number, hit, peaks, false peaks
        self._last: NDArray | None = None

    def follow(self, number: int, mask: NDArray, spot_pixels: NDArray) -> None:
        """The mask in force for a frame. spot_pixels: flat places of the pixels of true spots."""
        table, at = self.defects.table, mask.reshape(-1)[self.defects.at]
        active = self.defects.active(number)
        self.detected[at & active & (self.detected == UNSET)] = number
        ended = table["ends"] == number
        self.flagged_when_ended[ended] = at[ended]
        self.released[~at & (table["ends"] <= number) & (self.released == UNSET)] = number
        self.bad_at_end = at
        self.found_over_time.append(int((at & active).sum()))
        if mask is not self._last:
            self.false = int((mask & self.good).sum())
            self.false_shadow = int((mask & self.good_in_shadow).sum())
            self._last = mask
        if number >= self.learn:
            self.false_most = max(self.false_most, self.false)
        if len(spot_pixels):
            good = ~self.edge.reshape(-1)[spot_pixels]
            good &= ~np.isin(spot_pixels, self.defects.at[active])
            lost = mask.reshape(-1)[spot_pixels] & good
            waiting = lost & np.isin(spot_pixels, self.defects.at)
            self.spot_pixels += int(good.sum())
            self.spot_pixels_waiting += int(waiting.sum())
            self.spot_pixels_lost += int(lost.sum() - waiting.sum())

    def note_peaks(self, number: int, hit: bool, peaks: NDArray, spots: NDArray, near: float) -> None:
        """Peaks found in a frame, (n, 2) ss and fs; spots: (m, 2), the true ones."""
        false = len(peaks)
        if len(peaks) and len(spots):
            away = np.hypot(*(peaks[:, None] - spots[None]).transpose(2, 0, 1)).min(1)
            false = int((away > near).sum())
        self.peaks.append((number, hit, len(peaks), false))

    # ---- what the table says -----------------------------------------------------------------------------------------

    def found(self, when: str, strong: bool, kind: str | None = None) -> tuple[int, int]:
        """(found, planted): those that are there to the end are found if masked at the end, others if they were ever."""
        chosen = self.chosen(when, strong, kind)
        found = self.detected != UNSET if when == "recovery" else self.bad_at_end
        return int((found & chosen).sum()), int(chosen.sum())

    def chosen(self, when: str, strong: bool, kind: str | None = None) -> NDArray:
        """(n,) bool: defects of one class."""
        table = self.defects.table
        chosen = (table["when"] == when.encode()) & (table["strong"] == strong)
        return chosen if kind is None else chosen & (table["kind"] == kind.encode())

    def delays(self) -> NDArray:
        """Frames from onset to the mask, of strong defects that begin during the run and were found; sorted."""
        begins = self.defects.table["begins"]
        chosen = (begins != ALWAYS) & self.defects.table["strong"] & (self.detected != UNSET)
        return np.sort((self.detected - begins)[chosen])

    def release_delays(self) -> NDArray:
        """Frames from recovery until no longer masked, of defects masked when they ended and released since; sorted."""
        ends = self.defects.table["ends"]
        chosen = (ends != NEVER) & self.flagged_when_ended & (self.released != UNSET)
        return np.sort((self.released - ends)[chosen])

    def released_of(self) -> tuple[int, int]:
        """(released, masked when they ended)."""
        return len(self.release_delays()), int(self.flagged_when_ended.sum())

    @property
    def bragg_lost(self) -> float:
        """Good pixels of true spots that were masked, of PER; never-defective ones."""
        return PER * self.spot_pixels_lost / self.spot_pixels if self.spot_pixels else float("nan")

    @property
    def bragg_waiting(self) -> float:
        """The same, of pixels that are good again, or not yet bad."""
        return PER * self.spot_pixels_waiting / self.spot_pixels if self.spot_pixels else float("nan")

    def false_peaks(self) -> float:
        """Peaks per judged frame that are no true spot; nan where no peak finder was asked."""
        return float(np.mean([row[3] for row in self.peaks])) if self.peaks else float("nan")

    def hits_called(self, least: int) -> NDArray:
        """(n, 2) bool: crystal in the beam, called a hit; of the judged frames."""
        return np.array([(hit, n >= least) for _, hit, n, _ in self.peaks], bool).reshape(-1, 2)

    def false_hits(self, least: int) -> float:
        """Share of the frames without a crystal that were called hits."""
        calls = self.hits_called(least)
        blank = calls[~calls[:, 0], 1]
        return float(blank.mean()) if len(blank) else float("nan")

    def hits_lost(self, least: int, reference: "Score") -> int:
        """Frames with a crystal that are called hits under the reference's mask, and not under this one."""
        mine, theirs = self.hits_called(least), reference.hits_called(least)
        return int((mine[:, 0] & theirs[:, 1] & ~mine[:, 1]).sum())
