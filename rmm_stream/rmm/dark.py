"""Dark frames on their way into the statistics: gated by F1, held as they were received, folded in blocks.

A frame is not copied: its batch is held until every memory cell in it has a block of eight frames. The first block of a cell
is shorter, by a different number of frames in each eighth of the cells, so that with every train an eighth of the cells is
folded, and their maps have news to be fitted: the work of a module is even, and no map waits for the others.
Knows nothing of fits.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..frames import FrameBatch
from ..mask import MapKey
from . import gain
from .drift import Drift
from .gate import FrameGate
from .kernels import blocks, routing
from .kernels.blocks import BLOCK
from .kernels.compiled import read_only
from .keys import INDICATORS, VALUES, DarkKey, GateKey
from .levelling import Levelling
from .light import CLASSIFIER, Light
from .segments import Segments
from .stats import INDICATOR, VALUE, Block, flat

_NOTHING, _UNKNOWN = -1, -2  # for a stage: no pixel is valid, nothing tells


class Waiting(NamedTuple):
    """A frame that waits for its block. stage: in which most of its pixels are. turn: the call of feed() that brought it."""

    batch: FrameBatch
    frame: int
    stage: int
    turn: int


class Group(NamedTuple):
    """Frames that can be in one block: of one module, held in one stage or none, with the same kind of indicator or none."""

    module: int
    held: int | None
    gain: np.dtype | None


class DarkFrames:
    """The dark path of one maker. Mutable; one owner.

    told: called with (map key, frames, batch, index) when so many frames of a map have been folded, of which the last is named.
    gated: False leaves F1 to the caller. drift: is told the levels of ASICs, and which cells begin anew. modules: how many
    take turns. light: who refuses darks that look lit; None: nobody.
    """

    def __init__(
        self,
        spec: DetectorSpec,
        settings: Settings,
        cells: range,
        segments: Segments,
        told: Callable[[MapKey, int, FrameBatch, int], None],
        gated: bool,
        drift: Drift,
        modules: int = 1,
        light: Light | None = None,
    ):
        self.spec, self.settings, self.cells, self.segments = spec, settings, cells, segments
        self.gated, self.light = gated, light
        self.gates: dict[GateKey, FrameGate] = {}
        self._told, self._levelling = told, Levelling(spec, cells, segments, drift)
        least, most, inner = gain.data_range(spec) if spec.exact else (0, 0, ())
        top = np.iinfo(spec.dtype).max if spec.exact else 0
        # a place without a frame needs a value that is no data
        self._blocks = spec.narrow and not len(inner) and most < top
        self._limits = least, most
        self._whole = (least, most) == (
            0,
            (1 << spec.bits) - 1,
        ) and spec.packed  # the word has no room for other values
        self._waiting: dict[Group, dict[int, list[Waiting]]] = {}  # by cell
        self._turn, self._modules = 0, modules
        self._begun: dict[Group, set[int]] = {}  # cells whose first block has been folded
        self._mixed: set[tuple[int, int]] = set()  # modules and cells whose last free block had several stages
        self._routes: dict[tuple[int, int], gain.Route] = {}  # of modules and cells
        self._blank: dict[np.dtype, NDArray] = {}
        self._marks: NDArray | None = None  # room of _mark()

    # ---- one batch ----

    def feed(self, batch: FrameBatch, take: NDArray, rejected: Counter) -> int:
        """Take in the frames `take` of a batch. Returns how many passed; the others are counted in `rejected`."""
        held = batch.exposure.gain_stage
        if held is None and (self.spec.gain == "none" or len(self.spec.stages) == 1):
            held = 0
        if held is None and batch.gain is None:
            rejected["no_gain_thresholds"] += len(take)
            return 0
        stages = self._stages(batch, take, held)
        unknown = stages == _UNKNOWN
        rejected["no_gain_thresholds"] += int(unknown.sum())
        rejected["no_valid_pixel"] += int((stages == _NOTHING).sum())
        accepted = stages >= 0
        take, stages = take[accepted], stages[accepted]
        if self.gated:
            passed = self._pass_gates(batch, take, stages, rejected)
            take, stages = take[passed], stages[passed]
        if not self._blocks:
            self._add_at_once(batch, take, stages, held)
            return len(take)
        group = Group(batch.module, held, None if batch.gain is None else batch.gain.dtype)
        waiting, begun = self._waiting.setdefault(group, {}), self._begun.setdefault(group, set())
        for frame, cell, stage in zip(take.tolist(), batch.cell[take].tolist(), stages.tolist()):
            waiting.setdefault(cell, []).append(Waiting(batch, frame, stage, self._turn))
        self._turn += 1
        full = [cell for cell, frames in waiting.items() if len(frames) >= self._first(cell, begun)]
        while full:
            self._fold(group, {cell: self._take(waiting, cell, self._first(cell, begun)) for cell in full})
            begun.update(full)
            full = [cell for cell in full if len(waiting.get(cell, ())) >= BLOCK]
        self._fold_old()
        return len(take)

    def _fold_old(self) -> None:
        """Fold what has waited for a block's time without its block, of cells that come rarely: what is held is bounded."""
        for group, waiting in self._waiting.items():
            old = [
                cell
                for cell, frames in waiting.items()
                if frames and self._turn - frames[0].turn > BLOCK * self._modules
            ]
            if old:
                self._fold(group, {cell: self._take(waiting, cell, BLOCK) for cell in old})

    def _first(self, cell: int, begun: set[int]) -> int:
        """Frames of the next block of a cell."""
        return BLOCK if cell in begun else 1 + BLOCK * (cell - self.cells.start) // len(self.cells)

    @staticmethod
    def _take(waiting: dict[int, list[Waiting]], cell: int, n: int) -> list[Waiting]:
        frames = waiting.pop(cell)
        if len(frames) > n:
            waiting[cell] = frames[n:]
        return frames[:n]

    def _stages(self, batch: FrameBatch, take: NDArray, held: int | None) -> NDArray:
        """(k,) int64: the stage in which most valid pixels of each frame are; _NOTHING, _UNKNOWN."""
        if not self._blocks:
            return np.array([self._stage_of(batch, frame, held) for frame in take.tolist()], np.int64)
        if held is not None and self.spec.gain != "code":
            return np.where(gain.any_valid(self.spec, batch.pixels, take), held, _NOTHING)
        stages, limits = [], tuple(map(np.uint16, self._limits))
        pixels, gains = read_only(batch.pixels), read_only(batch.gain)
        for frame, cell in zip(take.tolist(), batch.cell[take].tolist()):
            if (route := self._route(batch.module, cell)) is None:
                stages.append(_UNKNOWN)
            else:  # in a held stage others have no valid value
                bands = route.bands if held is None else route.bands[held : held + 1]
                stages.append(gain.majority_of(limits, pixels[frame], gains[frame], bands))
        stages = np.array(stages, np.int64)
        return np.where((stages >= 0) & (held is not None), held or 0, stages)

    def _stage_of(self, batch: FrameBatch, frame: int, held: int | None) -> int:
        where = self._where(batch, np.array([frame]), held)
        return _UNKNOWN if where is None else gain.majority(where[0], len(self.spec.stages))

    def _where(self, batch: FrameBatch, take: NDArray, held: int | None) -> NDArray | None:
        """The stage of every pixel of some frames of one cell; None where nothing tells."""
        cuts, rising = None, True
        if held is None and self.spec.gain == "analogue":
            known = self.segments.cuts(batch.module, int(batch.cell[take[0]]))
            if known is None:
                return None
            cuts, rising = known
        gains = None if batch.gain is None else batch.gain[take]
        return gain.route(self.spec, batch.pixels[take], gains, held, cuts, rising)

    # ---- F1 ----

    def _pass_gates(self, batch: FrameBatch, take: NDArray, stages: NDArray, rejected: Counter) -> NDArray:
        """(k,) bool: the frames that F1 lets through. A failed trial takes what that cell has seen with it.

        Frames that look lit are kept from F1 too: a long stretch of them would become its idea of a dark."""
        passed = np.zeros(len(take), bool)
        cells = batch.cell[take].astype(np.int64) - self.cells.start
        for stage in np.unique(stages).tolist():
            here = np.flatnonzero(stages == stage)
            gate = self.gate(batch.module, stage)
            means = gate.measure(batch.pixels, batch.gain, take[here], cells[here])
            if self.light is not None and batch.labelled_by != CLASSIFIER:
                dark = self.light.vet(gate, stage, batch, take[here], cells[here], means, rejected)
                here, means = here[dark], {name: found[dark] for name, found in means.items()}
            judged = gate.judge_means(means, cells[here])
            rejected["gated"] += int((~judged.accepted).sum())
            passed[here] = judged.accepted
            for cell in (judged.failed + self.cells.start).tolist():
                self._forget(batch.module, stage, cell)
        return passed

    def gate(self, module: int, stage: int) -> FrameGate:
        """The gate of a stage, made now if there is none."""
        key = GateKey(module, stage)
        if key not in self.gates:
            self.gates[key] = FrameGate(self.spec, self.settings.gate, len(self.cells))
        return self.gates[key]

    def _forget(self, module: int, stage: int, cell: int) -> None:
        for group, waiting in self._waiting.items():
            if group.module == module and cell in waiting:
                waiting[cell] = [held for held in waiting[cell] if held.stage != stage]
        self.segments.restart_cell(module, stage, cell)
        self._levelling.begin(module, stage, cell)

    def drop_gates(self, gain_stage: int | None) -> None:
        """Let F1 learn anew, of one stage or of all."""
        self.gates = {key: gate for key, gate in self.gates.items() if gain_stage not in (None, key.gain_stage)}

    # ---- folding ----

    def fold(self, module: int | None = None) -> None:
        """Fold what waits, of one module or of all. The next blocks begin anew."""
        for group in [group for group in self._waiting if module in (None, group.module)]:
            waiting = self._waiting.pop(group)
            while waiting := {cell: frames for cell, frames in waiting.items() if frames}:
                self._fold(group, {cell: self._take(waiting, cell, BLOCK) for cell in list(waiting)})
            self._begun.pop(group)

    def end(self, module: int | None = None) -> None:
        """Fold what waits: other darks follow, or light. The next stretch of darks is routed by what is known then."""
        self.fold(module)
        self._mixed = {known for known in self._mixed if module not in (None, known[0])}
        self._routes = {known: route for known, route in self._routes.items() if module not in (None, known[0])}

    def _fold(self, group: Group, frames: dict[int, list[Waiting]]) -> None:
        """Fold at most a block of frames of each of some cells. Cells whose frames lie in the same batches go together."""
        together: dict[tuple[int, ...], list[int]] = {}
        for cell, held in frames.items():
            alone = cell if self.segments.levelled else -1
            together.setdefault((alone, *(id(h.batch) for h in held)), []).append(cell)
        for cells in together.values():
            batches = [h.batch for h in frames[cells[0]]]
            rows = np.zeros((len(cells), BLOCK), np.int64)
            rows[:, : len(batches)] = [[h.frame for h in frames[cell]] for cell in cells]
            at = np.array(cells, np.int64) - self.cells.start
            if self.segments.levelled:
                pixels = self._levelling.block(group.module, cells[0], frames[cells[0]])
            else:
                self._levelling.watch(group.module, {cell: frames[cell][-1] for cell in cells}, len(batches))
                pixels = Block(self._fill([b.pixels for b in batches]), rows, at)
            gains = None
            if self.spec.gain != "none" and group.gain is not None:
                gains = Block(self._fill([b.gain for b in batches]), rows, at)
            self._add(group, pixels, gains, [frames[cell] for cell in cells])
        quantities = (VALUES,) if group.gain is None else (VALUES, INDICATORS)
        for cell, held in frames.items():
            for stage, n in Counter(h.stage for h in held).items():
                for quantity in quantities:
                    if (stats := self.segments.dark.get(DarkKey(group.module, quantity, stage))) is not None:
                        stats.frames[cell - self.cells.start] += n
                self._told(MapKey(group.module, stage, cell), n, held[-1].batch, held[-1].frame)

    def _fill(self, stacks: list[NDArray]) -> tuple[NDArray, ...]:
        """Eight stacks; where there are fewer, the rest is a frame without a value that counts."""
        dtype = stacks[0].dtype
        if dtype not in self._blank:
            self._blank[dtype] = np.full((1, *self.spec.module_shape), np.iinfo(dtype).max, dtype)
        return tuple(flat(stack) for stack in stacks) + (flat(self._blank[dtype]),) * (BLOCK - len(stacks))

    def _add(self, group: Group, pixels: Block, gains: Block | None, held: list[list[Waiting]]) -> None:
        module, stage, _ = group
        if stage is None:
            self._add_free(module, pixels, gains, held)
            return
        if self.spec.gain == "code" and gains is not None:  # a value is valid where its code agrees
            bands = self._route(module, 0).bands[stage : stage + 1].reshape(1, 2, -1)
            for k, frames in enumerate(held):
                marks, _ = self._mark(gains, k, bands, len(frames))
                self._open(module, VALUES, stage, pixels).add_marked(pixels, k, marks[0], self._limits)
        else:
            whole = self._whole and len(held[0]) == BLOCK and not self.segments.levelled
            limits = None if whole else self._limits
            self._open(module, VALUES, stage, pixels).add(pixels, limits)
        if gains is not None:
            self._open(module, INDICATORS, stage, gains).add(gains, _gain_limits(gains))

    def _add_free(self, module: int, pixels: Block, gains: Block, held: list[list[Waiting]]) -> None:
        """Blocks of which each pixel has a stage of its own. Mostly a cell has but one, which is tried first."""
        limits, placed = _gain_limits(gains), {}
        for k, frames in enumerate(held):
            cell = int(pixels.cells[k]) + self.cells.start
            route, stage = self._route(module, cell), frames[0].stage
            bands = route.bands.reshape(len(route.bands), 2, -1)
            if (module, cell) not in self._mixed:
                of_stage = self._open(module, INDICATORS, stage, gains)
                if len(frames) == BLOCK and of_stage.add_if_placed(
                    gains, k, bands[stage], route.rows[stage], limits[1]
                ):
                    placed.setdefault(stage, []).append(k)
                    continue
                if len(frames) < BLOCK and _all_in(gains, k, len(frames), bands[stage]):
                    placed.setdefault(stage, []).append(k)
                    of_stage.add(Block(gains.stacks, gains.rows[k : k + 1], gains.cells[k : k + 1]), limits)
                    continue
                self._mixed.add((module, cell))
            marks, some = self._mark(gains, k, bands, len(frames))
            for stage in np.flatnonzero(some).tolist():
                own = marks[stage]
                self._open(module, INDICATORS, stage, gains).add_marked(gains, k, own, limits)
                if self.segments.levelled:  # the shift is known in the stage of the frame alone
                    own = own & np.uint8(sum(1 << f for f, h in enumerate(frames) if h.stage == stage))
                self._open(module, VALUES, stage, pixels).add_marked(pixels, k, own, self._limits)
        for stage, of in placed.items():
            whole = Block(pixels.stacks, pixels.rows[of], pixels.cells[of])
            self._open(module, VALUES, stage, pixels).add(whole, self._limits)

    def _route(self, module: int, cell: int) -> gain.Route | None:
        """How indicators of one cell tell stages, as long as frames of one exposure follow each other; None: unknown."""
        route = self._routes.get((module, cell))
        if route is None and (known := self.segments.route(module, cell)) is not None:
            route = self._routes[module, cell] = gain.Route(None, read_only(known.bands), read_only(known.rows))
        return route

    def _mark(self, gains: Block, k: int, bands: NDArray, n: int) -> tuple[NDArray, NDArray]:
        """Which indicators of the n frames of the k-th cell lie in each band, and whether any does. Until the next.

        bands: (stages, 2, px) uint16. Returns (stages, px) uint8, a bit a frame; (stages,) bool."""
        if self._marks is None:
            self._marks = np.empty((len(self.spec.stages), bands.shape[2]), np.uint8)
        marks, some = self._marks[: len(bands)], np.empty(len(bands), bool)
        blocks.mark_bands(gains.stacks, gains.rows[k], n, bands, marks, some)
        return marks, some

    def _open(self, module: int, quantity: str, stage: int, block: Block):
        dtype = block.stacks[0].dtype
        if quantity == INDICATORS:  # one stream may send them as uint8 now, as uint16 then
            dtype = np.dtype(np.uint8 if self.spec.packed else np.uint16)
        return self.segments.open_dark(DarkKey(module, quantity, stage), dtype)

    def _add_at_once(self, batch: FrameBatch, take: NDArray, stages: NDArray, held: int | None) -> None:
        """Add frames whose values are too wide for blocks, or floats."""
        for cell in np.unique(batch.cell[take]).tolist():
            here = batch.cell[take] == cell
            frames, of = take[here], stages[here]
            where = self._where(batch, frames, held)
            each = np.arange(len(frames))
            for stage in gain.present(where, each, len(self.spec.stages)):
                for quantity, stack, care in ((VALUES, batch.pixels, VALUE), (INDICATORS, batch.gain, INDICATOR)):
                    if stack is None or (quantity == INDICATORS and self.spec.gain == "none"):
                        continue
                    if quantity == VALUES and (mine := np.flatnonzero(of == stage)).size:
                        last = Waiting(batch, int(frames[mine[-1]]), int(stage), 0)
                        self._levelling.watch(batch.module, {cell: last}, len(mine))
                    stats = self.segments.open_dark(DarkKey(batch.module, quantity, int(stage)), stack.dtype)
                    stats.update(stack[frames], each, where, int(stage), cell - self.cells.start, care)
                    stats.frames[cell - self.cells.start] += int((of == stage).sum())
            for frame, stage in zip(frames.tolist(), of.tolist()):
                self._told(MapKey(batch.module, stage, cell), 1, batch, frame)


def _all_in(gains: Block, k: int, frames: int, band: NDArray) -> bool:
    """Whether the indicators of the first frames of the k-th cell all lie in a band, (2, px) uint16."""
    zero, top = (gains.stacks[0].dtype.type(v) for v in (0, np.iinfo(gains.stacks[0].dtype).max))
    bands = band[None, :, None]  # of one row, and one stage
    rows = (stack[row : row + 1] for stack, row in zip(gains.stacks[:frames], gains.rows[k]))
    return all(routing.most_in_bands(g, g, bands, zero, top, 1)[1] == g.size for g in rows)


def _gain_limits(gains: Block) -> tuple[int, int]:
    """The indicators that count: those of a narrow ADC, or codes."""
    return 0, min(gain.GAIN_MOST, np.iinfo(gains.stacks[0].dtype).max - 1)
