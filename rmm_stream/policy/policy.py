"""MaskPolicy: decides which fits become changes, and remembers what was published. One owner; time is data.

A fit goes through hysteresis, then the guard, then under the overlay. Each map has its own state; nothing here is a function
of time, only of the order of fits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..config import Policy
from ..detectors import DetectorSpec
from ..mask import FITTED, BadPixel, Held, MapChange, MapFit, MapKey, Mask
from .guard import NOTHING, Turned, jump, objection
from .hysteresis import NONE, Streaks, settle
from .overlay import lay_over, overlay

NO_DATA = np.uint8(BadPixel.NO_DATA)
ANALYSED = np.uint8(FITTED | BadPixel.NO_DATA)  # bits of a stored mask that are not today's overlay


@dataclass(slots=True)
class _Map:
    """What the policy remembers of one map. Mutable.

    published: None: nothing yet. held: the jump that waits. rejected: the present jump was dismissed.
    lately: what turned in the last fits.
    """

    published: MapChange | None = None
    streaks: Streaks = field(default=NONE)
    held: Held | None = None
    rejected: bool = False
    lately: Turned = field(default=NOTHING)


class MaskPolicy:
    """The published flags of some modules and cells. Mutable; one owner.

    overlays: per module (ss, fs) uint8 of overlay.overlay(); modules that lack get their edge pixels.
    While it is pinned everything goes on, and nothing is published until release().
    """

    def __init__(
        self,
        spec: DetectorSpec,
        overlays: Mapping[int, NDArray] | None = None,
        cells: range | None = None,
        settings: Policy = Policy(),
    ):
        self.spec, self.settings = spec, settings
        self.cells = range(spec.cells) if cells is None else cells
        self.overlays = dict(overlays or {})
        self._edge = overlay(spec)
        self._maps: dict[MapKey, _Map] = {}
        self._pins: dict[MapKey, MapChange] | None = None  # what is in force while it is pinned

    def judge(self, fit: MapFit) -> MapChange | Held | None:
        """What a fit makes of what is published; None: nothing changes. Held: a jump that waits; what was published stays."""
        said = self._judge(fit) if fit.judged else None
        return None if self.pinned and isinstance(said, MapChange) else said

    def _judge(self, fit: MapFit) -> MapChange | Held | None:
        state = self._maps.setdefault(fit.key, _Map())
        before = state.published
        if before is None:
            judged = familiar = fit.judged
            settled = fit.flags
        else:
            judged, familiar = fit.judged | before.judged, before.judged
            doubtful = fit.doubtful
            if before.judged & ~fit.judged:  # the feature that had no data may be one that is silent now
                doubtful = doubtful | before.flags & NO_DATA
            settled, state.streaks = settle(
                before.flags, fit.flags, doubtful, fit.judged, state.streaks, self.settings.set_after,
                self.settings.clear_after,
            )  # fmt: skip
        change = self._change(fit, settled, judged, before)
        if change is None:
            state.held, state.rejected, state.lately = None, False, state.lately.after(0, 0)
            return None
        analysed, published = self._above(fit.key.module) == 0, before and before.flags
        turned = None if before is None else jump(published, change.flags, familiar, analysed)
        why = objection(self.spec, self.settings, published, change.flags, turned, analysed, state.lately)
        if why:
            return self._hold(state, change, why)
        state.published, state.held, state.rejected = change, None, False
        if turned is not None:
            state.lately = state.lately.after(*(int(np.count_nonzero(places)) for places in turned))
        return change

    # ---- what the guard keeps back ----

    @property
    def held(self) -> dict[MapKey, Held]:
        """The maps that the guard keeps back, and why."""
        return {key: state.held for key, state in self._maps.items() if state.held is not None}

    @property
    def dismissed(self) -> list[MapKey]:
        """The maps of which a jump was rejected that is still there: they stay as they were."""
        return [key for key, state in self._maps.items() if state.rejected]

    def accept(self, where: Callable[[MapKey], bool] = lambda key: True) -> list[MapChange]:
        """An operator lets out what is held, of the maps for which `where` holds."""
        changes = []
        for key, state in self._maps.items():
            if state.held is not None and where(key):
                changes.append(self._let_out(state))
        return [] if self.pinned else changes

    def reject(self, where: Callable[[MapKey], bool] = lambda key: True) -> list[MapKey]:
        """An operator dismisses what is held: it is neither confirmed nor reported again until the jump has gone away."""
        keys = [key for key, state in self._maps.items() if state.held is not None and where(key)]
        for key in keys:
            self._maps[key].held, self._maps[key].rejected = None, True
        return keys

    def _hold(self, state: _Map, change: MapChange, why: str) -> MapChange | Held | None:
        if state.rejected:
            return None
        fits = 1 if state.held is None else state.held.fits + 1
        since = change.train_id if state.held is None else state.held.since_train
        state.held = Held(change, why, fits, since)
        if 0 < self.settings.confirm_fits <= fits:
            return self._let_out(state)
        return state.held

    def _let_out(self, state: _Map) -> MapChange:
        state.published, state.held, state.lately = state.held.proposed, None, NOTHING
        return state.published

    # ---- stored masks ----

    def restore(self, masks: Mapping[int, Mask]) -> list[MapChange]:
        """A stored mask, by module, of this policy's cells, speaks from now on, until fits do."""
        changes = self._as_stored(masks)
        for change in changes:
            self._maps[change.key] = _Map(change)
        return changes

    def pin(self, masks: Mapping[int, Mask]) -> list[MapChange]:
        """Put a stored mask in force, and keep what is in force now of other maps, whatever fits say, until release().

        A map of which nothing was published goes on from the stored one, as after restore(): a feature that is silent since a
        restart keeps its flags, and the guard knows what was before."""
        changes = self._as_stored(masks)
        for change in changes:
            if change.judged and self._maps.get(change.key, _Map()).published is None:
                self._maps[change.key] = _Map(change)
        self._pins = self.published | {change.key: change for change in changes}
        return changes

    def release(self) -> list[MapChange]:
        """Let fits speak again: at once what they have come to meanwhile. A map without a fit keeps its flags."""
        if self._pins is None:
            return []
        pins, self._pins, changes = self._pins, None, []
        for key, state in self._maps.items():
            if (fitted := state.published) is not None and not _same(pins.get(key), fitted):
                state.published = replace(fitted, **self._turned(key, pins.get(key), fitted.flags))
                changes.append(state.published)
        for key in pins.keys() - self.published.keys():
            self._maps[key] = _Map(pins[key])
        return changes

    @property
    def pinned(self) -> bool:
        return self._pins is not None

    def _as_stored(self, masks: Mapping[int, Mask]) -> list[MapChange]:
        """The changes that make the mask in force a stored one, under today's overlay."""
        changes = []
        in_force = self.published
        for module, mask in masks.items():
            for stage, at in np.ndindex(mask.judged.shape):
                key, judged = MapKey(module, stage, self.cells[at]), BadPixel(int(mask.judged[stage, at]))
                flags = mask.flags[stage, at] & ANALYSED
                fit = MapFit(key, flags, flags, judged, int(mask.frames[stage, at]), mask.train_id, 0.0)
                before = in_force.get(key)
                if (judged or before) and (change := self._change(fit, flags, judged, before)) is not None:
                    changes.append(change)
        return changes

    # ---- what is published ----

    @property
    def published(self) -> dict[MapKey, MapChange]:
        """The last change of each map that went out."""
        if self._pins is not None:
            return dict(self._pins)
        return {key: state.published for key, state in self._maps.items() if state.published is not None}

    def mask(self, module: int) -> Mask:
        """The published mask of a module. Maps that were never judged hold NO_DATA under the overlay."""
        shape = (len(self.spec.stages), len(self.cells))
        flags = np.empty((*shape, *self.spec.module_shape), np.uint8)
        flags[...] = lay_over(np.full(self.spec.module_shape, NO_DATA), self._above(module))
        judged, frames, train_id = np.zeros(shape, np.uint8), np.zeros(shape, np.int64), 0
        for key, change in self.published.items():
            if key.module == module:
                at = key.gain_stage, key.cell - self.cells.start
                flags[at], judged[at], frames[at] = change.flags, change.judged, change.frames
                train_id = max(train_id, change.train_id)
        return Mask(module, flags, judged, frames, train_id)

    def _above(self, module: int) -> NDArray:
        return self.overlays.get(module, self._edge)

    def _change(self, fit: MapFit, fitted: NDArray, judged: BadPixel, before: MapChange | None) -> MapChange | None:
        """What publishing these flags would change; None: nothing. fitted: (ss, fs) uint8, under the overlay."""
        if before is not None and fitted is before.flags and judged == before.judged:
            return None
        above = self._above(fit.key.module)
        flags = lay_over(fitted, above)
        if before is not None and judged == before.judged and np.array_equal(flags, before.flags):
            return None
        flags.flags.writeable = False
        return MapChange(
            key=fit.key,
            flags=flags,
            judged=judged,
            frames=fit.frames,
            train_id=fit.train_id,
            timestamp=fit.timestamp,
            **self._turned(fit.key, before, flags),
        )

    def _turned(self, key: MapKey, before: MapChange | None, flags: NDArray) -> dict[str, int]:
        was_bad, bad = (self._above(key.module) if before is None else before.flags) != 0, flags != 0
        return {
            "newly_bad": int(np.count_nonzero(bad & ~was_bad)),
            "newly_good": int(np.count_nonzero(was_bad & ~bad)),
        }


def _same(one: MapChange | None, other: MapChange) -> bool:
    return one is not None and one.judged == other.judged and np.array_equal(one.flags, other.flags)
