"""MaskPolicy: decides which fits become changes, and remembers what was published. One owner; time is data."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..mask import BadPixel, MapChange, MapFit, MapKey, Mask
from .overlay import lay_over, overlay

NO_DATA = np.uint8(BadPixel.NO_DATA)


class MaskPolicy:
    """The published flags of some modules and cells. Mutable; one owner.

    overlays: per module (ss, fs) uint8 of overlay.overlay(); modules that lack get their edge pixels.
    """

    def __init__(self, spec: DetectorSpec, overlays: Mapping[int, NDArray] | None = None, cells: range | None = None):
        self.spec = spec
        self.cells = range(spec.cells) if cells is None else cells
        self.overlays = dict(overlays or {})
        self._edge = overlay(spec)
        self.published: dict[MapKey, MapChange] = {}
        self._fitted: dict[MapKey, MapChange] | None = None  # while pinned: what fits would have published

    @property
    def pinned(self) -> bool:
        return self._fitted is not None

    def judge(self, fit: MapFit) -> MapChange | None:
        """The change that a fit makes to what is published; None: nothing changed, nothing was judged, or it is pinned."""
        if self._fitted is None:
            return self._judge(fit)
        pinned, self.published = self.published, self._fitted
        self._judge(fit)
        self.published = pinned
        return None

    def pin(self, masks: Mapping[int, Mask]) -> list[MapChange]:
        """Publish the flags of `masks`, of this policy's cells by module, and keep to them until `release`."""
        if self._fitted is None:
            self._fitted = dict(self.published)
        return self._say(masks)

    def release(self) -> list[MapChange]:
        """End the pin: what the fits say is published again. A map without a fit keeps its flags."""
        fitted, self._fitted = self._fitted or {}, None
        changes = [replace(change, **_turned(self.published.get(key), change)) for key, change in fitted.items()]
        changes = [change for change in changes if not _same(self.published.get(change.key), change)]
        self.published |= {change.key: change for change in changes}
        return changes

    def restore(self, masks: Mapping[int, Mask]) -> list[MapChange]:
        """A stored version speaks until fits do."""
        return self._say(masks)

    def accept(self, where: Callable[[MapKey], bool]) -> list[MapChange]:
        """Nothing is held."""
        return []

    def reject(self, where: Callable[[MapKey], bool]) -> list[MapKey]:
        """Nothing is held."""
        return []

    def _say(self, masks: Mapping[int, Mask]) -> list[MapChange]:
        """Publish stored flags, under the overlay of today."""
        changes = []
        for module, mask in masks.items():
            above = self.overlays.get(module, self._edge)
            for stage, place in np.ndindex(mask.judged.shape):
                key = MapKey(module, stage, self.cells[place])
                before = self.published.get(key)
                if before is None and not mask.judged[stage, place]:
                    continue
                flags = lay_over(mask.flags[stage, place] & ~np.uint8(BadPixel.EDGE | BadPixel.USER), above)
                flags.flags.writeable = False
                judged, frames = BadPixel(int(mask.judged[stage, place])), int(mask.frames[stage, place])
                change = MapChange(key, flags, judged, frames, mask.train_id, 0.0, 0, 0)
                if not _same(before, change):
                    self.published[key] = replace(change, **_turned(before, change))
                    changes.append(self.published[key])
        return changes

    def _judge(self, fit: MapFit) -> MapChange | None:
        if not fit.judged:
            return None
        before = self.published.get(fit.key)
        fitted, judged = fit.flags, fit.judged
        if before is not None and (silent := before.judged & ~fit.judged):
            # a feature with too few frames to speak now has not taken back what it said
            fitted = fitted | before.flags & np.uint8(silent | BadPixel.NO_DATA)
            judged |= silent
        flags = lay_over(fitted, self.overlays.get(fit.key.module, self._edge))
        flags.flags.writeable = False
        if before is None:
            was_bad = lay_over(np.zeros_like(flags), self.overlays.get(fit.key.module, self._edge)) != 0
        else:
            if before.judged == judged and np.array_equal(before.flags, flags):
                return None
            was_bad = before.flags != 0
        bad = flags != 0
        change = MapChange(
            key=fit.key,
            flags=flags,
            judged=judged,
            frames=fit.frames,
            train_id=fit.train_id,
            timestamp=fit.timestamp,
            newly_bad=int((bad & ~was_bad).sum()),
            newly_good=int((was_bad & ~bad).sum()),
        )
        self.published[fit.key] = change
        return change

    def mask(self, module: int) -> Mask:
        """The published mask of a module. Maps that were never judged hold NO_DATA under the overlay."""
        shape = (len(self.spec.stages), len(self.cells))
        flags = np.empty((*shape, *self.spec.module_shape), np.uint8)
        flags[...] = lay_over(np.full(self.spec.module_shape, NO_DATA), self.overlays.get(module, self._edge))
        judged, frames, train_id = np.zeros(shape, np.uint8), np.zeros(shape, np.int64), 0
        for key, change in self.published.items():
            if key.module == module:
                at = key.gain_stage, key.cell - self.cells.start
                flags[at], judged[at], frames[at] = change.flags, change.judged, change.frames
                train_id = max(train_id, change.train_id)
        return Mask(module, flags, judged, frames, train_id)


def _same(before: MapChange | None, now: MapChange) -> bool:
    return before is not None and before.judged == now.judged and np.array_equal(before.flags, now.flags)


def _turned(before: MapChange | None, now: MapChange) -> dict[str, int]:
    """newly_bad and newly_good; where nothing was published yet, every bad pixel is new."""
    bad, was_bad = now.flags != 0, np.zeros_like(now.flags) if before is None else before.flags != 0
    return {"newly_bad": int((bad & (was_bad == 0)).sum()), "newly_good": int((~bad & (was_bad != 0)).sum())}
