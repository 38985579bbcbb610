"""MaskPolicy: decides which fits become changes, and remembers what was published. One owner; time is data."""

from collections.abc import Mapping

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

    def judge(self, fit: MapFit) -> MapChange | None:
        """The change that a fit makes to what is published; None: nothing changed, or nothing was judged."""
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
