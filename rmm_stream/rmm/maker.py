"""MaskMaker: frames in, flags out. It gates, routes and accumulates what arrives, and fits the maps with most news.

Owns all statistics of its modules and cells; one owner, one thread. Time is data: the timestamps of the batches.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import detectors
from ..config import Settings
from ..detectors import DetectorSpec
from ..errors import ConfigError, DataError
from ..frames import Exposure, FrameBatch, Illumination
from ..mask import BadPixel, MapFit, MapKey, Mask
from . import archive, background, rehearsal
from .dark import DarkFrames
from .drift import CLEARED, SUSPECTED, Drift, Moved
from .features import FeatureMap, LitCell
from .gate import FrameGate
from .keys import INDICATORS, VALUES, DarkKey, GateKey, LitKey, News
from .levelling import spacing
from .light import CLASSIFIER, Light, Part, Words
from .lit import LitFrames
from .outliers import tiles
from .segments import Segments
from .snr import SnrStats
from .stats import PixelStats
from .verdict import Evidence, Verdict, judge_map

#: Judged frames of a cell between two looks for pixels that stand out; and in how many of a bucket they must, in cuts.
LOOK, SURE = 16, 1.25
#: What a gain indicator may be made of.
INDICATOR_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


class Fed(NamedTuple):
    """What became of the frames of a batch: how many were accumulated, and how many were not, by reason."""

    accepted: int
    rejected: Counter


class MaskMaker:
    """The robust mask maker over some modules and cells of one detector.

    detector: a name or a DetectorSpec. modules: those whose frames are accumulated; others are a DataError.
    cells: range of memory cells, None for all; frames of other cells are passed over. exclude: per module (ss, fs) bool,
    pixels that take no part in any fit beside the edge pixels (static and user masks). gate: False leaves F1, and whether
    frames are what they are declared as, to the caller.
    """

    def __init__(
        self,
        detector: str | DetectorSpec,
        modules: Sequence[int] = (0,),
        cells: range | None = None,
        settings: Settings = Settings(),
        exclude: dict[int, NDArray] | None = None,
        gate: bool = True,
    ):
        self.spec = detectors.detector(detector) if isinstance(detector, str) else detector
        self.modules = tuple(modules)
        self.cells = range(self.spec.cells) if cells is None else cells
        if self.cells.step != 1 or not self.cells or self.cells.stop > self.spec.cells:
            raise ConfigError(f"cells {self.cells}: expected a range of step 1 within 0 to {self.spec.cells - 1}")
        if (
            not self.modules
            or len(set(self.modules)) < len(self.modules)
            or not set(self.modules) <= set(range(self.spec.modules))
        ):
            raise ConfigError(f"modules {list(self.modules)}: expected some of 0 to {self.spec.modules - 1}, each once")
        self.settings = settings
        self.every_train = settings.features.lit.every_train  # F6 judges one in so many; may be set at any time
        self.gated = gate
        self.light = Light(self.spec, settings, self.cells) if gate and settings.light.classify != "off" else None
        self.words = Words()  # what the voices leave to the classifier; may be set at any time
        self.relabelled: Counter[Illumination] = (
            Counter()
        )  # frames of the last batch, by what the classifier called them
        self.excluded = {m: self.spec.edge() | (exclude or {}).get(m, False) for m in self.modules}
        self.segments = Segments(self.spec, settings, self.cells, self.excluded)
        self.folded: dict[MapKey, News] = {}  # of the frames that the statistics hold
        self.drift = Drift(self.spec, settings, self.cells, spacing(self.segments), self.segments.asic_noise)
        self.darks = DarkFrames(
            self.spec,
            settings,
            self.cells,
            self.segments,
            self._tell_dark,
            gate,
            self.drift,
            len(self.modules),
            self.light,
        )
        self.lits = LitFrames(self.spec, settings, self.cells, self.segments, self._tell_lit)
        self.flags: dict[MapKey, MapFit] = {}
        self._exposures: dict[int, Exposure] = {}  # of the last batch of each module

    @property
    def dark(self) -> dict[DarkKey, PixelStats]:
        """The open segments of dark values and indicators, with every frame that was fed."""
        self.fold()
        return self.segments.dark

    @property
    def news(self) -> dict[MapKey, News]:
        """What has happened to each map since its last fit, with every frame that was fed."""
        self.fold()
        return self.folded

    @property
    def gates(self) -> dict[GateKey, FrameGate]:
        """F1 of the dark frames."""
        return self.darks.gates

    @property
    def lit(self) -> dict[LitKey, SnrStats]:
        """The open segments of F6."""
        return self.segments.lit

    # ---- feeding ------------------------------------------------------------------------------------------------------

    def feed(self, batch: FrameBatch) -> Fed:
        """Accumulate a batch whose exposure is known. Raises DataError for frames of another detector or module.

        Dark frames are held, uncopied, until there is a block of them (dark.py): do not write to what was fed."""
        self.relabelled = Counter()
        self._check(batch)
        rejected: Counter = Counter()
        mine = (batch.cell >= self.cells.start) & (batch.cell < self.cells.stop)
        rejected["incomplete"] = int((mine & ~batch.complete).sum())
        take = np.flatnonzero(mine & batch.complete)
        exposure = batch.exposure
        if self._exposures.get(batch.module) not in (None, exposure):
            self.darks.end(batch.module)
        self._exposures[batch.module] = exposure
        parts = [Part(batch, take)]
        if self.light is not None and self.light.has_a_say(exposure):
            if not self.light.labels:  # of lit frames only those that F6 will judge
                take = take[background.is_sampled(batch.train_id[take], batch.cell[take], self.every_train)]
            parts = self.light.sort(batch, take, self.darks.gates, self.words, rejected)
        accepted = sum(self._feed_part(part, rejected) for part in parts if len(part.take))
        for key, news in self.drift.news().items():
            self._follow(key, news)
        self.segments.retire()
        return Fed(accepted, +rejected)

    def _feed_part(self, part: Part, rejected: Counter) -> int:
        illumination = part.batch.exposure.illumination
        if part.batch.labelled_by == CLASSIFIER:
            self.relabelled[illumination] += len(part.take)
        if illumination is Illumination.UNKNOWN:
            rejected["unknown_exposure"] += len(part.take)
            return 0
        if illumination is Illumination.DARK:
            return self.darks.feed(*part, rejected)
        return self.lits.feed(*part, self.every_train, rejected)

    def _follow(self, key: tuple[int, int], news: Moved | str) -> None:
        """An ASIC of a module and stage seems to have moved, or not after all, or has: then they have new segments."""
        replaces = self.settings.drift.replace == "auto"
        if news == SUSPECTED and replaces:
            self.segments.part(*key)
        elif news == CLEARED:
            self.segments.rejoin(*key)
        elif isinstance(news, Moved):
            if replaces and key not in self.segments.parted:
                self.segments.restart(Exposure(Illumination.DARK, key[1]), key[0])
            if replaces:
                self.segments.parted.discard(key)
                self.drift.begin(*key)
            self.drift.moved[key] = news

    def _check(self, batch: FrameBatch) -> None:
        if batch.module not in self.modules:
            raise DataError(f"frames of module {batch.module}; this maker has {', '.join(map(str, self.modules))}")
        if batch.pixels.shape[1:] != self.spec.module_shape:
            raise DataError(f"frames of {batch.pixels.shape[1:]} pixels; {self.spec.name} has {self.spec.module_shape}")
        if batch.pixels.dtype != self.spec.dtype:
            raise DataError(f"frames of {batch.pixels.dtype}; {self.spec.name} has {self.spec.dtype}")
        if (g := batch.gain) is not None and (g.shape != batch.pixels.shape or g.dtype not in INDICATOR_TYPES):
            raise DataError(f"a gain indicator of {g.dtype} {g.shape}; expected uint8 or uint16 {batch.pixels.shape}")
        if {len(batch.cell), len(batch.train_id), len(batch.complete)} != {len(batch)}:
            raise DataError(f"cell, train_id and complete must have one entry for each of {len(batch)} frames")
        if batch.exposure is None:
            raise DataError("frames without an exposure; an ExposureLabeler must speak first")

    def _tell_dark(self, key: MapKey, frames: int, batch: FrameBatch, last: int) -> None:
        """Dark frames of one stage are news for the maps of the adjacent ones too: F4 compares their indicators."""
        self._tell(key, batch, last, frames)
        self._tell_around(*key, frames)

    def _tell_lit(self, key: MapKey, batch: FrameBatch, last: int, stats: SnrStats) -> None:
        """A pixel that begins to stand out in every frame has enough evidence long before a map has enough news."""
        self._tell(key, batch, last)
        at = key.cell - self.cells.start
        if stats.frames[at] % LOOK == 0 and (fit := self.flags.get(key)) is not None:
            unseen = (
                (fit.flags == 0) & ~(False if fit.suspected is None else fit.suspected) & ~self.excluded[key.module]
            )
            self.folded[key].urgent |= bool((stats.often_above(at, SURE * self.settings.fit.cut) & unseen).any())

    def _tell(self, key: MapKey, batch: FrameBatch, last: int, frames: int = 1) -> None:
        news = self.folded.setdefault(key, News())
        news.frames += frames
        news.train_id, news.timestamp = int(batch.train_id[last]), batch.timestamp

    def _tell_around(self, module: int, stage: int, cell: int, frames: int = 1) -> None:
        if self.spec.gain != "none":
            for other in (stage - 1, stage + 1):
                if (news := self.folded.get(MapKey(module, other, cell))) is not None:
                    news.around += frames

    def restart(self, exposure: Exposure) -> None:
        """Start the statistics of one exposure afresh; gain_stage None: of every stage.

        What they have said stays said until the new ones have fit.min_frames."""
        self.darks.end()
        self.segments.restart(exposure)
        if exposure.illumination is Illumination.DARK:
            self.darks.drop_gates(exposure.gain_stage)
            self.drift.begin(None, exposure.gain_stage)
        if self.light is not None:
            self.light.restart(exposure)

    # ---- fitting ------------------------------------------------------------------------------------------------------

    def fold(self) -> None:
        """Fold the frames that wait for their block."""
        self.darks.fold()
        self.segments.retire()

    def due(self, since: float = -np.inf) -> list[MapKey]:
        """The maps with enough news for a fit, most news first; of equal news those first that were never fitted.

        Of what has been folded: a worker fits these while frames wait for their block. since: data time, s; only maps whose
        last frame is not older."""
        due = []
        fit, span = self.settings.fit, self.settings.features.lit.span_frames
        for key, news in self.folded.items():
            fresh = news.fresh
            window = max(1, min(news.frames, span))
            if (fresh < max(1, fit.news * window) and not news.urgent) or news.timestamp < since:
                continue
            waited = not 0 <= news.timestamp - news.fitted_timestamp < fit.every_s  # time may step back
            if waited and self._may_speak(key):
                due.append((-fresh / window - news.urgent, news.fitted_at > 0, key))
        return [key for _, _, key in sorted(due)]

    def fit_due(self, limit: int) -> list[MapFit]:
        """Fit at most `limit` maps: of those with enough news, the ones with most of it. [] when nothing is due."""
        self.fold()
        return [self.refresh(key) for key in self.due()[:limit]]

    def fit_all(self) -> list[MapFit]:
        """Fit every map that has news and enough frames."""
        return [self.refresh(key) for key, news in sorted(self.news.items()) if news.fresh and self._may_speak(key)]

    def fit(self, key: MapKey) -> MapFit:
        """Fit one map now, whatever it has."""
        self.fold()
        return self.refresh(key)

    def refresh(self, key: MapKey) -> MapFit:
        """Fit one map to what the statistics hold; frames that are held wait for their block."""
        verdict = self._verdict(key)
        news = self.folded.setdefault(key, News())
        news.fitted_at, news.fitted_timestamp, news.around = news.frames, news.timestamp, 0
        news.urgent = False
        fit = MapFit(
            key, verdict.flags, verdict.doubtful, verdict.judged, self._frames(key), news.train_id, news.timestamp,
            verdict.suspected,
        )  # fmt: skip
        self.flags[key] = fit
        return fit

    def mask(self, module: int) -> Mask:
        """The flags of the last fits of a module, without policy; NO_DATA, beside EDGE, where a map was never judged."""
        shape = (len(self.spec.stages), len(self.cells))
        excluded = self.spec.edge()
        flags = np.empty((*shape, *self.spec.module_shape), np.uint8)
        above = np.where(excluded, np.uint8(BadPixel.EDGE), np.uint8(0))
        above[self.excluded[module] & ~excluded] = np.uint8(BadPixel.USER)
        flags[...] = np.where(above != 0, above, np.uint8(BadPixel.NO_DATA))
        judged, frames, train_id = np.zeros(shape, np.uint8), np.zeros(shape, np.int64), 0
        for key, fit in self.flags.items():
            if key.module == module and fit.judged:
                at = key.gain_stage, key.cell - self.cells.start
                flags[at] = np.where(above != 0, above, fit.flags)
                judged[at], frames[at] = fit.judged, fit.frames
                train_id = max(train_id, fit.train_id)
        return Mask(module, flags, judged, frames, train_id)

    def explain(self, key: MapKey, ss: int, fs: int) -> list[FeatureMap]:
        """Why is this pixel bad? One FeatureMap per feature that spoke, of (1, 1) pixels."""
        self.fold()
        here = np.s_[ss : ss + 1, fs : fs + 1]
        return [FeatureMap(m.name, m.flag, *(a[here] for a in m[2:])) for m in self._verdict(key, whole=True).maps]

    def _verdict(self, key: MapKey, whole: bool = False) -> Verdict:
        module, stage, cell = key
        indicators = [self.segments.moments(DarkKey(module, INDICATORS, s), cell) for s in range(len(self.spec.stages))]
        dark = self.segments.moments(DarkKey(module, VALUES, stage), cell)
        lit = [self._lit_cell(*found, cell) for found in self.segments.lit_of(module, stage, cell)]
        return judge_map(self.spec, self.settings, Evidence(stage, dark, indicators, lit, self.excluded[module]), whole)

    def _lit_cell(self, illumination: Illumination, stats: SnrStats, cell: int) -> LitCell:
        """What F6 has of a cell, at the time of its last frame: what was seen last stays until frames replace it."""
        at = cell - self.cells.start
        now = float(stats.latest[at])
        mean, count = stats.mean(at, now)
        window = stats.window(at, now)
        least = self.settings.fit.min_frames
        tried = stats.tried_in_halves(at, now)
        blind = np.zeros(self.spec.module_shape, bool)
        lit = self.settings.features.lit
        for (top, bottom, left, right), n in zip(tiles(self.spec, lit.window or self.settings.fit.tile), tried):
            here = np.s_[top:bottom, left:right]
            if n >= least:  # a pixel that may be in another stage is not blind, a tile that was never fitted is
                one_stage = self.spec.gain == "none" or len(self.spec.stages) == 1
                blind[here] = count[here] < least / 2 if one_stage else not count[here].any()
        frames = stats.frames_in_halves(at, now), stats.frames_in_window(at, now)
        return LitCell(
            mean, count, *window, *frames, blind, illumination is Illumination.SAMPLE, *stats.recent(at, now)
        )

    def _frames(self, key: MapKey) -> int:
        """Frames behind a map, dark and lit."""
        at = key.cell - self.cells.start
        lit = sum(int(stats.frames[at]) for _, stats in self.segments.lit_of(*key))
        return self.segments.frames(DarkKey(key.module, VALUES, key.gain_stage), key.cell) + lit

    def _may_speak(self, key: MapKey) -> bool:
        """Whether any statistics of a map have reached fit.min_frames."""
        at, least = key.cell - self.cells.start, self.settings.fit.min_frames
        return self.segments.frames(DarkKey(key.module, VALUES, key.gain_stage), key.cell) >= least or any(
            stats.frames[at] >= least for _, stats in self.segments.lit_of(*key)
        )

    # ---- joining, keeping ---------------------------------------------------------------------------------------------

    def merge(self, other: "MaskMaker") -> None:
        """Add what another maker has seen. Raises ConfigError, and changes nothing, where that would not be the whole."""
        if other is self:
            raise ConfigError("a maker cannot be merged with itself: every frame would count twice")
        for what in ("spec", "modules", "cells", "settings", "gated"):
            if getattr(self, what) != getattr(other, what):
                raise ConfigError(f"only makers of the same {what} can be merged")
        if any((self.excluded[m] != other.excluded[m]).any() for m in self.modules):
            raise ConfigError("only makers that leave out the same pixels can be merged")
        if any(gate.on_trial for maker in (self, other) for gate in maker.darks.gates.values()):
            raise ConfigError(f"frames are on trial: feed {self.settings.gate.learn} of each dark exposure, then merge")
        for maker in (self, other):
            maker.darks.end()
        self.segments.merge(other.segments)
        self.drift.merge(other.drift)
        for key, news in other.folded.items():
            ours = self.folded.setdefault(key, News())
            ours.frames += news.frames
            ours.train_id, ours.timestamp = max(ours.train_id, news.train_id), max(ours.timestamp, news.timestamp)
        for key in other.dark:
            for cell in self.cells:
                self._tell_around(key.module, key.gain_stage, cell)

    def state(self) -> dict[str, NDArray]:
        """Everything that restore() needs, as plain arrays by name."""
        self.fold()
        return archive.pack(self)

    @staticmethod
    def restore(state: dict[str, NDArray]) -> "MaskMaker":
        """The maker of a state."""
        return archive.unpack(state, MaskMaker)

    def warm_up(self) -> None:
        """Compile every kernel that this detector needs, before the first frame."""
        side = tuple(min(side, asic) for side, asic in zip(self.settings.fit.tile, self.spec.asic_shape))
        small = replace(self.spec, modules=1, cells=1, module_shape=side, asic_shape=side, edge_width=0)
        rehearsal.rehearse(MaskMaker(small, settings=rehearsal.hurried(self.settings)))
