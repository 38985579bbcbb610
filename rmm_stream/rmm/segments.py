"""The statistics that a maker holds, one segment per exposure, and what is derived from them: offsets and gain thresholds.

A segment is opened by the first frame of its exposure, resumed by alternation, and replaced as a whole: a replaced one
goes on speaking, cell by cell, until its successor has fit.min_frames. Knows no gates, routes or fits.
"""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..frames import Exposure, Illumination
from . import gain
from .common_mode import LevelledStats, asics
from .kernels.compiled import aligned
from .keys import INDICATORS, VALUES, DarkKey, LitKey
from .outliers import tiles
from .snr import SnrStats
from .stats import FloatStats, IntegerStats, Moments, PixelStats

#: Offsets are derived anew when a segment has grown by a tenth: their error falls with the root of it. Thresholds lie so many
#: sigmas from either stage that a segment has to double.
OFFSET_GROWTH, THRESHOLD_GROWTH = 1.1, 2.0


class Segments:
    """Dark statistics of values and indicators, and F6, of some modules and cells. Mutable; one owner.

    dark, lit: the open segments. old_dark, old_lit: replaced ones that still speak. excluded: per module (ss, fs) bool.
    parted: modules and stages whose dark frames go to a new segment on suspicion, until it is known whether they are like
    those of the old one.
    """

    def __init__(self, spec: DetectorSpec, settings: Settings, cells: range, excluded: dict[int, NDArray]):
        self.spec, self.settings, self.cells, self.excluded = spec, settings, cells, excluded
        self.dark: dict[DarkKey, PixelStats] = {}
        self.lit: dict[LitKey, SnrStats] = {}
        self.old_dark: dict[DarkKey, PixelStats] = {}
        self.old_lit: dict[LitKey, SnrStats] = {}
        self._derived: dict[tuple, tuple] = {}
        self.parted: set[tuple[int, int]] = set()
        self.levelled = settings.common_mode.removed_from(spec)

    @property
    def least(self) -> int:
        return self.settings.fit.min_frames

    # ---- writing ----

    def open_dark(self, key: DarkKey, dtype: np.dtype) -> PixelStats:
        """The open segment of a key, made now if there is none."""
        if key not in self.dark and key.quantity == VALUES and self.levelled:
            self.dark[key] = LevelledStats(len(self.cells), self.spec)
        elif key not in self.dark:
            shape = len(self.cells), self.spec.module_shape, dtype
            exact = key.quantity == INDICATORS or self.spec.exact
            self.dark[key] = IntegerStats(*shape, narrow=self.spec.narrow) if exact else FloatStats(*shape)
        return self.dark[key]

    def open_lit(self, key: LitKey) -> SnrStats:
        """The open segment of a key, made now if there is none."""
        if key not in self.lit:
            lit, fit = self.settings.features.lit, self.settings.fit
            self.lit[key] = SnrStats(
                len(self.cells), self.spec.module_shape, lit.buckets, lit.span_s, lit.span_frames,
                forgets=key.illumination is Illumination.SAMPLE, tiles=len(tiles(self.spec, lit.window or fit.tile)),
            )  # fmt: skip
        return self.lit[key]

    def restart_cell(self, module: int, stage: int, cell: int) -> None:
        """Forget what one cell has seen of one dark stage."""
        self._derived.clear()
        for quantity in (VALUES, INDICATORS):
            if (stats := self.dark.get(DarkKey(module, quantity, stage))) is not None:
                stats.restart(cell - self.cells.start)

    def restart(self, exposure: Exposure, module: int | None = None) -> None:
        """Replace the segments of one exposure; gain_stage None: of every stage; module None: of every module.

        One that does not speak yet is dropped."""
        dark = exposure.illumination is Illumination.DARK
        segments, old = (self.dark, self.old_dark) if dark else (self.lit, self.old_lit)
        self._derived.clear()
        if dark:
            self.parted = {
                (m, g) for m, g in self.parted if module not in (None, m) or exposure.gain_stage not in (None, g)
            }
        for key in list(segments):
            other = not dark and key.illumination is not exposure.illumination
            if other or exposure.gain_stage not in (None, key.gain_stage) or module not in (None, key.module):
                continue
            replaced = segments.pop(key)
            if (replaced.frames >= self.least).any():
                old[key] = replaced

    def part(self, module: int, stage: int) -> None:
        """Begin new dark segments on suspicion. The old ones take no more frames; they speak until the new ones do."""
        keys = [DarkKey(module, quantity, stage) for quantity in (VALUES, INDICATORS)]
        if not any(key in self.old_dark for key in keys):
            self.old_dark |= {key: self.dark.pop(key) for key in keys if key in self.dark}
            self.parted.add((module, stage))

    def rejoin(self, module: int, stage: int) -> None:
        """The suspicion was wrong: what came since part() belongs to the old segments."""
        keys = [DarkKey(module, quantity, stage) for quantity in (VALUES, INDICATORS)]
        for key in keys if (module, stage) in self.parted else ():
            if (old := self.old_dark.pop(key, None)) is not None:
                if key in self.dark:
                    old.merge(self.dark[key])
                self.dark[key] = old
                self._derived.clear()
        self.parted.discard((module, stage))

    def retire(self) -> None:
        """Drop the replaced segments whose successors speak for every cell for which they spoke.

        One that was parted from on suspicion stays until the suspicion is confirmed: rejoin() may want it back."""
        for segments, old in ((self.dark, self.old_dark), (self.lit, self.old_lit)):
            for key in list(old):
                if segments is self.dark and (key.module, key.gain_stage) in self.parted:
                    continue
                spoke = old[key].frames >= self.least
                if key in segments and (segments[key].frames[spoke] >= self.least).all():
                    del old[key]
                    self._derived.clear()

    def merge(self, other: "Segments") -> None:
        """Add what another has seen. Raises ConfigError, and changes nothing, where that cannot be done."""
        for key, stats in other.lit.items():
            if key in self.lit:
                self.lit[key].check_merge(stats)
        for mine, theirs in ((self.dark, other.dark), (self.lit, other.lit)):
            for key, stats in theirs.items():
                if key in mine:
                    mine[key].merge(stats)
                else:
                    mine[key] = deepcopy(stats)
        self._derived.clear()

    # ---- reading ----

    def _speaking(self, segments: dict, old: dict, key, cell: int):
        """The open segment, or the replaced one while the open one has too few frames of this cell; None: neither."""
        new, at = segments.get(key), cell - self.cells.start
        return old[key] if key in old and (new is None or new.frames[at] < self.least) else new

    def frames(self, key: DarkKey, cell: int) -> int:
        stats = self._speaking(self.dark, self.old_dark, key, cell)
        return 0 if stats is None else int(stats.frames[cell - self.cells.start])

    def moments(self, key: DarkKey, cell: int) -> tuple[Moments, int] | None:
        """(Moments, frames) of one cell; None where nothing was ever accumulated."""
        n = self.frames(key, cell)
        return (self._speaking(self.dark, self.old_dark, key, cell).moments(cell - self.cells.start), n) if n else None

    def lit_of(self, module: int, stage: int, cell: int) -> Iterator[tuple[Illumination, SnrStats]]:
        """F6 of one map, per illumination that was ever judged."""
        for key in sorted(
            {*self.lit, *self.old_lit}, key=lambda key: (key.module, key.illumination.value, key.gain_stage)
        ):
            if (key.module, key.gain_stage) == (module, stage):
                stats = self._speaking(self.lit, self.old_lit, key, cell)
                if stats.frames[cell - self.cells.start]:
                    yield key.illumination, stats

    def asic_noise(self, module: int, stage: int, cell: int) -> NDArray:
        """(ASICs,) ADU: dark noise of the median pixel of each, in one cell; nan where unknown."""
        of, key = asics(self.spec), DarkKey(module, VALUES, stage)
        if not self.frames(key, cell):
            return np.full(len(of), np.nan)
        sd = np.where(self.excluded[module], np.nan, self.moments(key, cell)[0].std())
        parts = (sd[of.part(asic)] for asic in range(len(of)))
        return np.array([np.median(part[k]) if (k := np.isfinite(part)).any() else np.nan for part in parts])

    def cuts(self, module: int, cell: int) -> tuple[NDArray, bool] | None:
        """Thresholds of the gain indicator of one cell, and whether it rises from stage to stage; None: unknown."""
        keys = self._indicators(module)
        return self._derive(("cuts", module, cell), keys, cell, lambda: self._cuts(keys, cell), THRESHOLD_GROWTH)

    def route(self, module: int, cell: int, held: int | None = None) -> gain.Route | None:
        """How the stages of one cell's pixels are told by their indicator; None: unknown. held: of a gain code."""
        if self.spec.gain == "code":
            return gain.code_route(self.spec, held)
        keys = self._indicators(module)

        def derive():
            enough = self._enough(keys, cell)
            if self.spec.gain_thresholds and not any(
                a is not None and b is not None for a, b in zip(enough, enough[1:])
            ):
                return gain.configured_route(self.spec, gain.rises(self.spec, enough))
            cuts = gain.thresholds(self.spec, enough)
            return None if cuts is None else gain.by_bands(None, gain.bands_of(cuts, gain.rises(self.spec, enough)))

        return self._derive(("route", module, cell), keys, cell, derive, THRESHOLD_GROWTH)

    def _indicators(self, module: int) -> list[DarkKey]:
        return [DarkKey(module, INDICATORS, stage) for stage in range(len(self.spec.stages))]

    def _enough(self, keys: list[DarkKey], cell: int) -> list[Moments | None]:
        """Moments of one cell, None where there are too few frames."""
        return [self.moments(key, cell)[0] if self.frames(key, cell) >= self.least else None for key in keys]

    def _cuts(self, keys: list[DarkKey], cell: int) -> tuple[NDArray, bool] | None:
        enough = self._enough(keys, cell)
        cuts = gain.thresholds(self.spec, enough)
        return None if cuts is None else (cuts, gain.rises(self.spec, enough))

    def offset(self, module: int, stage: int, cell: int) -> NDArray | None:
        """(ss, fs) float32 dark mean, nan where a pixel is excluded or has too few darks; None while the dark lacks."""
        excluded = self.excluded[module]
        if self.spec.calibrated or self.spec.counting:
            return self._derive(("offset", module), [], cell, lambda: np.where(excluded, np.nan, 0).astype(np.float32))
        key = DarkKey(module, VALUES, stage)
        if self.frames(key, cell) < self.least:
            return None

        def derive():
            known, _ = self.moments(key, cell)
            offset = aligned(self.spec.module_shape, np.float32)
            offset[...] = np.where((known.count >= self.least / 2) & ~excluded, known.mean, np.nan)
            return offset

        return self._derive(("offset", module, stage, cell), [key], cell, derive)

    def _derive(self, name: tuple, keys: list[DarkKey], cell: int, derive, growth: float = OFFSET_GROWTH):
        """What derive() makes of the darks of these keys, kept until other darks speak, or notably more of them."""
        darks = [self._speaking(self.dark, self.old_dark, key, cell) for key in keys]
        frames = [0 if stats is None else int(stats.frames[cell - self.cells.start]) for stats in darks]
        kept = self._derived.get(name)
        if kept is None or kept[0] != [id(stats) for stats in darks] or self._has_grown(kept[1], frames, growth):
            kept = self._derived[name] = ([id(stats) for stats in darks], frames, derive())
        return kept[2]

    def _has_grown(self, before: list[int], now: list[int], growth: float) -> bool:
        """Fewer than fit.min_frames say nothing."""
        return any(
            not old <= new <= growth * old and (old >= self.least or new >= self.least) for old, new in zip(before, now)
        )
