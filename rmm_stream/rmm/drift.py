"""Drift: how far the ASICs of a module have moved in the dark since the statistics of a stage began (docs/method.md 7).

Levels of ASICs come in, of all dark frames or of an even sample; out come how far each has moved, how fast it moves, how much
it shifts from frame to frame, and whether the evidence says that the segment describes the detector no longer. Knows neither
frames nor statistics; time is data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from .common_mode import UNKNOWN, asics

RECENT = 256  # measured trains that say where an ASIC is now, at most
QUICK = 4  # and the last ones among them, for a step
SCATTER = 64  # and how much they scatter
FIRST = 6  # a level is the mean of so many frames at least
LOOKS = 12  # while those that say where it is now are replaced
SURE = 5.0  # standard errors: less is not told from chance
BACK = 0.7  # of the limit: what has gone beyond it is beyond until it is back here
POINTS = 64  # of the course of a run
FEW = 8  # points; fewer have no slope


@dataclass(frozen=True, slots=True)
class Moved:
    """An ASIC that has moved beyond the limit, for as many frames as it takes to believe it.

    by: ADU since the segment began. noise: ADU, of its median pixel. since: data time, s, at which it was first seen."""

    module: int
    gain_stage: int
    asic: int
    by: float
    noise: float
    since: float


@dataclass(frozen=True, slots=True)
class ModuleDrift:
    """One module. asic_drift: (ASICs,) ADU since the segment began, of the stage that has moved furthest; nan: unknown.
    per_hour: ADU per hour, data time, over the run, of the ASIC that moves fastest. common_mode: ADU, rms of the shifts of
    ASICs from frame to frame."""

    asic_drift: tuple[float, ...] = ()
    per_hour: float = float("nan")
    common_mode: float = float("nan")


UNKNOWN_DRIFT = ModuleDrift()
SUSPECTED, CLEARED = "suspected", "cleared"


def worst(parts: Sequence[ModuleDrift]) -> ModuleDrift:
    """What several makers say of the memory cells that each has, as one: of each ASIC, the furthest and the fastest."""

    def furthest(values) -> float:
        return max((v for v in values if isfinite(v)), key=abs, default=float("nan"))

    of_asics = zip(*(part.asic_drift for part in parts if part.asic_drift))
    per_hour, common_mode = (furthest(getattr(p, name) for p in parts) for name in ("per_hour", "common_mode"))
    return ModuleDrift(tuple(map(furthest, of_asics)), per_hour, common_mode)


class Track:
    """One module and stage. Mutable. spacing: of a cell's frames one in so many is measured. confirm, least: frames of a cell.

    level: (cells, ASICs) sum, count and whether it is settled: the mean over the first `least` frames of the segment.
    """

    def __init__(self, cells: int, asics: int, spacing: int, least: int, confirm: int):
        self.spacing, self.least, self.confirm = spacing, least, confirm
        self.first = max(FIRST, least // spacing)
        self.total, self.n = np.zeros((2, cells, asics))
        self.settled = np.zeros(cells, bool)
        self.origin = np.full((cells, asics), np.nan)  # the first level of the run
        self.last = np.full((cells, asics), np.nan)
        self.recent = np.full(
            (RECENT, asics), np.nan
        )  # ADU above the level; a row is the median of the cells of a train
        self.width = np.ones(1)  # cells in a row
        self.steps = np.full(RECENT, np.nan)  # ADU^2, mean over ASICs, from one measured frame of a cell to the next
        self.counts = np.zeros(3, np.int64)  # rows of recent ever written; at the last look; of steps
        self.now = np.full(asics, np.nan)
        self.noise = np.full(asics, np.nan)  # of the segment when it was first looked at
        self.reach = np.zeros(asics)  # ADU: a train beyond it is looked at sooner
        self.beyond = np.zeros(asics, np.int64)  # frames of a cell
        self.since = np.full(asics, np.nan)
        self.course = np.full((POINTS, 1 + asics), np.nan)  # time; ADU since the start of the run
        self.pace = np.zeros(2)  # points known; s between two of them

    def note(self, cells: NDArray, levels: NDArray) -> None:
        """Take in measured frames of one train. cells: (k,) places, each once. levels: (k, ASICs) int32."""
        values = np.where(levels == UNKNOWN, np.nan, levels)
        known = np.isfinite(steps := values - self.last[cells])
        some = known.any(axis=1)
        if some.any():
            squares = np.where(known, steps, 0)[some] ** 2
            self._write(self.steps, 2, squares.sum(axis=1) / known[some].sum(axis=1))
        self.last[cells] = values
        settled = self.settled[cells]
        if settled.any():
            of = cells[settled]
            self._write(self.recent, 0, _median(values[settled] - self.level(of))[None])
            self.width[:] = len(of)
        if not settled.all():
            of, fresh = cells[~settled], values[~settled]
            self.total[of] += np.nan_to_num(fresh)
            self.n[of] += np.isfinite(fresh)
            self.settled[of] = self.n[of].max(axis=1) >= self.first
            start = of[self.settled[of] & np.isnan(self.origin[of]).all(axis=1)]
            self.origin[start] = self.level(start)

    def _write(self, ring: NDArray, at: int, rows: NDArray) -> None:
        rows = rows[-RECENT:]
        ring[(self.counts[at] + np.arange(len(rows))) % RECENT] = rows
        self.counts[at] += len(rows)

    def level(self, cells: NDArray) -> NDArray:
        """(k, ASICs) ADU, nan where unknown."""
        return np.where(self.n[cells] > 0, self.total[cells] / np.maximum(self.n[cells], 1), np.nan)

    @property
    def window(self) -> int:
        """Rows that say where an ASIC is now: those of `least` frames of a cell, at most RECENT."""
        return int(min(max(self.least / self._frames_of_row(), FIRST), RECENT))

    def _frames_of_row(self) -> float:
        """Of each cell."""
        return self.spacing * float(self.width[0]) / max(1, np.count_nonzero(self.settled))

    @property
    def due(self) -> bool:
        """Whether there is news worth a look."""
        window, (written, seen, _) = self.window, self.counts
        fresh = written - seen
        if written < min(window, 2 * QUICK) or fresh < max(1, window // LOOKS):
            return False
        odd = (np.abs(self.recent[(written - 1) % RECENT]) > self.reach).any()
        return bool(odd or fresh >= window // 4)

    def _last(self, n: int) -> NDArray:
        """(n, ASICs): the last n rows of recent, or as many as there are."""
        n = min(n, int(self.counts[0]))
        return self.recent[(self.counts[0] - 1 - np.arange(n)) % RECENT]

    def look(self, limit: float, noise: Callable[[int], NDArray], time: float) -> NDArray:
        """(m,) int64: the ASICs whose drift is confirmed. noise: of a cell's place, (ASICs,) ADU. time: s, of the last."""
        fresh, self.counts[1] = self.counts[0] - self.counts[1], self.counts[0]
        cells = np.flatnonzero(self.settled)
        if np.isnan(self.noise).all():
            self.noise[:] = noise(int(cells[len(cells) // 2]))
        rows = self._last(self.window)
        self.now[:] = _median(rows)
        every = self._last(SCATTER)
        steps = 1.4826 * _median(np.abs(np.diff(every, axis=0)))  # an ASIC that steps does so once
        sd = np.sqrt(np.square(steps) / 2 + 1 / 12) * (1 + 6 / len(every))  # few say badly how much they scatter
        of_level = 1 / np.maximum(self.n[cells].mean(axis=0), 1)  # cells of a train may move together
        reach = limit * self.noise * np.where(self.beyond > 0, BACK, 1)

        def least(n: int) -> NDArray:
            return np.maximum(reach, SURE * sd * np.sqrt(np.pi / 2 / n + of_level))

        self.reach[:] = least(QUICK)
        far = np.abs(self.now) > least(len(rows))  # false for nan
        far |= np.abs(_median(self._last(QUICK))) > self.reach
        self.since[far & (self.beyond == 0)] = time
        self.since[~far] = np.nan
        self.beyond[:] = np.where(far, self.beyond + max(1, round(fresh * self._frames_of_row())), 0)
        self._note_course(time, cells)
        return np.flatnonzero(self.beyond >= self.confirm)

    def _note_course(self, time: float, cells: NDArray) -> None:
        """One more point of the run, if it is time for one; when there is no room, every second one is dropped."""
        n = int(self.pace[0])
        if n and 0 <= time - self.course[n - 1, 0] < self.pace[1]:
            return
        if n == POINTS:
            n = POINTS // 2
            self.course[:n] = self.course[::2]
            self.course[n:] = np.nan
            self.pace[1] = max(2 * self.pace[1], (self.course[n - 1, 0] - self.course[0, 0]) / n)
        self.course[n, 0] = time
        self.course[n, 1:] = self.now + _median(self.level(cells) - self.origin[cells])
        self.pace[0] = n + 1

    def per_hour(self) -> NDArray:
        """(ASICs,) ADU per hour over the run: the median slope of all pairs of points (Theil and Sen); nan: too few."""
        points = self.course[: int(self.pace[0])]
        i, j = np.triu_indices(len(points), 1)
        lasted = points[j, 0] - points[i, 0]
        some = lasted > 0
        if len(points) < FEW or not some.any():
            return np.full(self.now.shape, np.nan)
        return 3600.0 * _median((points[j, 1:] - points[i, 1:])[some] / lasted[some, None])

    def common_mode(self) -> float:
        """ADU, rms shift of an ASIC from frame to frame; nan: unknown. Of differences, in which drift takes no part."""
        known = self.steps[: self.counts[2]]
        return float(np.sqrt(known.mean() / 2)) if len(known) else float("nan")

    def report(self) -> ModuleDrift:
        """What is known, as of the last look."""
        slopes = self.per_hour()
        slopes = slopes[np.isfinite(slopes)]
        fastest = float(slopes[np.abs(slopes).argmax()]) if len(slopes) else float("nan")
        return ModuleDrift(tuple(self.now.tolist()), fastest, self.common_mode())

    def begin(self, cell: int | slice = np.s_[:]) -> None:
        """The segment begins anew, of one cell or of all."""
        for a in (self.total, self.n, self.settled):
            a[cell] = 0
        if isinstance(cell, slice):
            self.counts[:2], self.beyond[:], self.reach[:] = 0, 0, 0
            for a in (self.recent, self.now, self.noise, self.since):
                a[...] = np.nan


_KEPT = (
    "total", "n", "settled", "origin", "last", "recent", "width", "steps", "counts", "now", "noise", "reach", "beyond", "since",
    "course", "pace",
)  # fmt: skip


def _median(rows: NDArray) -> NDArray:
    """Of each column, of what is known; nan where nothing is. rows: (n, k)."""
    n = len(rows)
    if not n:
        return np.full(rows.shape[1], np.nan)
    ordered = np.sort(rows, axis=0)  # nan comes last
    if not np.isnan(ordered[-1].sum()):
        return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    known = np.isfinite(rows).sum(axis=0)
    columns = np.arange(rows.shape[1])
    low, high = np.maximum(known - 1, 0) // 2, np.maximum(known, 1) // 2
    return np.where(known > 0, (ordered[low, columns] + ordered[np.where(known % 2, low, high), columns]) / 2, np.nan)


class Drift:
    """The drift of all modules and stages of one maker. Mutable; one owner.

    noise: of (module, stage, cell), (ASICs,) ADU, dark noise of the median pixel of each ASIC. spacing: of Track."""

    def __init__(
        self,
        spec: DetectorSpec,
        settings: Settings,
        cells: range,
        spacing: int,
        noise: Callable[[int, int, int], NDArray],
    ):
        self.spec, self.settings, self.cells, self.spacing, self._noise = spec, settings, cells, spacing, noise
        self.tracks: dict[tuple[int, int], Track] = {}
        self.moved: dict[tuple[int, int], Moved] = {}  # of each module and stage that has moved, and is not right again
        self._reports: dict[int, ModuleDrift] = {}
        self._news: dict[tuple[int, int], Moved | str] = {}

    def track(self, module: int, stage: int) -> Track:
        """The track of a module and stage, made now if there is none."""
        if (module, stage) not in self.tracks:
            least = self.settings.fit.min_frames
            confirm = self.settings.drift.confirm_frames or least
            self.tracks[module, stage] = Track(len(self.cells), len(asics(self.spec)), self.spacing, least, confirm)
        return self.tracks[module, stage]

    def note(self, module: int, stage: int, cells: NDArray, levels: NDArray, time: float) -> None:
        """Take in measured frames. cells: (k,) places. levels: (k, ASICs) int32 ADU. time: s."""
        track = self.track(module, stage)
        track.note(cells, levels)
        if not track.due:
            return
        before = track.beyond.any()
        found = track.look(self.settings.drift.limit, lambda at: self._noise(module, stage, self.cells[at]), time)
        self._reports.pop(module, None)
        if track.beyond.any() != before:
            self._news[module, stage] = CLEARED if before else SUSPECTED
        if not track.beyond.any():
            self.moved.pop((module, stage), None)
        if len(found):
            asic = int(found[np.abs(track.now[found]).argmax()])
            by, noise, since = (float(a[asic]) for a in (track.now, track.noise, track.since))
            self._news[module, stage] = Moved(module, stage, asic, by, noise, since)

    def news(self) -> dict[tuple[int, int], Moved | str]:
        """What has come up since the last call, by module and stage.

        SUSPECTED: an ASIC is beyond the limit. CLEARED: none is any more. Moved: it is confirmed, of the furthest."""
        found, self._news = self._news, {}
        return found

    def words(self, moved: Moved) -> str:
        """What has moved, for a person."""
        where = f"module {moved.module}, stage {self.spec.stages[moved.gain_stage]}: ASIC {moved.asic}"
        by = f"{moved.by:+.1f} ADU in the dark ({abs(moved.by) / moved.noise:.1f} of its noise)"
        return f"{where} has moved by {by}"

    @property
    def alarms(self) -> dict[tuple[int, int], str]:
        """By module and stage, what has moved and what becomes of it."""
        then = "its dark statistics have been started afresh"
        if self.settings.drift.replace == "operator":
            then = "its offsets are no longer right: rmm-stream expose ENDPOINT dark --new"
        said = {}
        for key, moved in self.moved.items():
            since = datetime.fromtimestamp(moved.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            said[key] = f"{self.words(moved)}, seen since {since}; {then}"
        return said

    def begin(self, module: int | None, stage: int | None, cell: int | None = None) -> None:
        """Segments begin anew, of a module or of all, of a stage or of all, of one cell's place or of all."""
        for (m, g), track in self.tracks.items():
            if module in (None, m) and stage in (None, g):
                track.begin(np.s_[:] if cell is None else cell)
                if cell is None:
                    self.moved.pop((m, g), None)
                    self._news.pop((m, g), None)
        self._reports.clear()

    def of_module(self, module: int) -> ModuleDrift:
        """What is known of a module, as of the last look."""
        if module not in self._reports:
            tracks = [track for (m, _), track in sorted(self.tracks.items()) if m == module]
            self._reports[module] = worst([track.report() for track in tracks])
        return self._reports[module]

    def merge(self, other: "Drift") -> None:
        """What another has seen of modules and stages of which we have seen nothing; of others ours stays."""
        for key, track in other.tracks.items():
            if key not in self.tracks:
                for name, array in _state(track).items():
                    getattr(self.track(*key), name)[...] = array

    def state(self) -> dict[str, NDArray]:
        """Everything that restore() needs, by module, stage and name."""
        return {f"{m}/{g}/{n}": a.copy() for (m, g), track in self.tracks.items() for n, a in _state(track).items()}

    def restore(self, state: dict[str, NDArray]) -> None:
        """Take over a state. The arrays are copied."""
        for name, array in state.items():
            module, stage, of = name.split("/")
            getattr(self.track(int(module), int(stage)), of)[...] = array


def _state(track: Track) -> dict[str, NDArray]:
    return {name: getattr(track, name) for name in _KEPT}
