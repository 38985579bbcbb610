"""What a client holds of a mask, immutable, and the arrays it makes of it. Knows no sockets and no order of trust."""

from math import inf
from typing import NamedTuple

import numpy as np

from ..mask import BadPixel, MapKey, MaskUpdate
from ..shard import Shard
from ..wire.masks import Layout

_BLOCK = 32  # maps whose OR is kept: after one update 2 MiB are read anew, not the 66 MiB of an AGIPD module


class ShardView(NamedTuple):
    """One published state of one shard. generation -1: announced by a heartbeat, its snapshot is not in yet.

    maps: latest update of each map; treat as read-only.
    """

    shard: Shard
    detector: str
    generation: int
    epoch: str
    sequence: int
    version: int
    train_id: int
    layout: Layout
    maps: dict[MapKey, MaskUpdate]


class View(NamedTuple):
    """The state of all shards at one moment. stale: names of shards; since: when each was last known to be the newest."""

    shards: dict[str, ShardView]
    stale: frozenset[str]
    since: dict[str, float]

    def age(self, now: float) -> float:
        """Seconds since the whole mask was last known to be current; inf before the first snapshot is complete."""
        return max((now - self.since.get(name, -inf) for name in self.shards), default=inf)

    def of_module(self, module: int) -> list[ShardView]:
        """Shards of a module that agree on its axes, those of the newest generation where they do not.

        Raises LookupError where nothing was heard of the module.
        """
        views = [view for view in self.shards.values() if view.shard.module == module]
        if not views:
            heard = sorted({view.shard.module for view in self.shards.values()})
            raise LookupError(
                f"nothing heard of module {module}; heard: {', '.join(map(str, heard)) or 'no module'}. "
                "Call wait() first, and check the endpoint and `modules`"
            )
        layout = max(views, key=lambda view: view.generation).layout
        return [view for view in views if view.layout == layout]


def flags(view: View, module: int, gain_stage: int, cell: int | None = None) -> np.ndarray:
    """(cells, ss, fs) uint8, or (ss, fs) for one cell; read-only. NO_DATA in maps that are absent or not yet judged.

    Raises LookupError for a module not heard of, a stage or a cell that the detector does not have.
    """
    shards = view.of_module(module)
    layout = shards[0].layout
    for name, index, size in (("gain_stage", gain_stage, layout.stages), ("cell", cell or 0, layout.cells)):
        if not 0 <= index < size:
            raise LookupError(f"{name} {index}; module {module} has 0 to {size - 1}")
    if cell is None:
        out = np.full(layout[1:], np.uint8(BadPixel.NO_DATA))
        for shard in shards:
            for key, update in shard.maps.items():
                if key.gain_stage == gain_stage:
                    out[key.cell] = _map_flags(update)
    else:
        key = MapKey(module, gain_stage, cell)
        update = next((shard.maps[key] for shard in shards if key in shard.maps), None)
        out = _map_flags(update) if update else np.full(layout[2:], np.uint8(BadPixel.NO_DATA))
    out.flags.writeable = False
    return out


def _map_flags(update: MaskUpdate) -> np.ndarray:
    change = update.change
    return change.flags if change.judged else change.flags | np.uint8(BadPixel.NO_DATA)


def judged(view: View, module: int) -> np.ndarray:
    """(stages, cells) uint8, features decided per map; 0: none yet. Raises LookupError as `flags` does."""
    shards = view.of_module(module)
    out = np.zeros(shards[0].layout[:2], np.uint8)
    for shard in shards:
        for key, update in shard.maps.items():
            out[key.gain_stage, key.cell] = int(update.change.judged)
    return out


class Collapsed:
    """OR over the judged maps of each module, kept from call to call; made anew only where maps have changed.

    Threads may share it: entries are replaced as a whole, and at worst the same work is done twice.
    """

    def __init__(self):
        self._modules: dict[int, tuple] = {}
        self._blocks: dict[tuple[int, int, int], tuple] = {}

    def bad(self, view: View, module: int, ignore: int = 0) -> np.ndarray:
        """(ss, fs) bool, read-only, True is bad. Bad everywhere while no map of the module is judged.

        Raises LookupError as `flags` does.
        """
        shards = view.of_module(module)
        known = self._modules.get(module)
        if not known or not _same(known[0], [shard.maps for shard in shards]):
            known = self._modules[module] = ([shard.maps for shard in shards], self._collapse(module, shards), {})
        _, collapsed, answers = known
        answer = answers.get(int(ignore))
        if answer is None:
            answer = collapsed & np.uint8(~int(ignore) & 0xFF) != 0
            answer.flags.writeable = False
            answers[int(ignore)] = answer
        return answer

    def _collapse(self, module: int, shards: list[ShardView]) -> np.ndarray:
        layout = shards[0].layout
        updates = [update for shard in shards for update in shard.maps.values()]
        speaking: dict[tuple[int, int, int], list] = {}
        for update in updates:
            if update.change.judged:
                key = update.change.key
                speaking.setdefault((module, key.gain_stage, key.cell // _BLOCK), []).append(update.change)
        out = np.zeros(layout[2:], np.uint8)
        for block, changes in speaking.items():
            known = self._blocks.get(block)
            if not known or not _same(known[0], changes):
                known = (changes, np.bitwise_or.reduce([change.flags for change in changes]))
                self._blocks[block] = known
            out |= known[1]
        if not speaking:
            # As mask.collapse: geometry and the operator are known before the first fit, the rest is NO_DATA.
            for update in updates:
                out |= update.change.flags & np.uint8(BadPixel.EDGE | BadPixel.USER)
            out |= np.uint8(BadPixel.NO_DATA)
        return out


def _same(these: list, those: list) -> bool:
    return len(these) == len(those) and all(a is b for a, b in zip(these, those))
