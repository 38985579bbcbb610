"""Light: which frames are dark, and which are lit, whatever they were declared as (docs/method.md 7.1). Not in the paper.

Three modes of `exposure.classify`: "off"; "check": a frame that denies what it is declared as is used for nothing; "label":
dark frames within light, and lit ones among unknown, are also used as what they are. Where light cannot be told from dark
nothing is said. Knows no statistics but its own.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..frames import Exposure, FrameBatch, Illumination
from . import gain
from .dark_look import DARK, DOUBTFUL, LIT, SILENT, DarkLook, one_of_each_cell
from .gate import FrameGate
from .kernels.compiled import read_only
from .keys import GateKey

CLASSIFIER = "classifier"  # FrameBatch.labelled_by
LEAST_LIT = 20  # frames that must have been seen lit before any is said to be dark
ONE_IN = 20  # at most one frame in so many is doubtful, or the light is too weak to be told from dark
REMEMBERED = 4096  # frames that this is judged by
STRETCH = 8  # frames of a cell that look alike in a row
ILLUMINATIONS = tuple(Illumination)


class Words(NamedTuple):
    """What the voices leave to the classifier. lit: what lit frames are taken for that nobody declared; None: for nothing.

    relabel: False where an operator's override is in force, which goes before what frames look like."""

    lit: Exposure | None = None
    relabel: bool = True


class InARow(NamedTuple):
    """Frames that looked so, one batch after the other, while one illumination was declared."""

    declared: Illumination
    dark: int = 0
    doubtful: int = 0
    lit: int = 0

    def after(self, codes: NDArray) -> "InARow":
        """With the frames of one batch more. One lit frame in it ends the dark row, and a dark one the lit."""
        dark, doubtful, lit = (int((codes == code).sum()) for code in (DARK, DOUBTFUL, LIT))
        return InARow(
            self.declared,
            0 if lit else self.dark + dark,
            self.doubtful + doubtful if doubtful >= dark + lit else 0,
            0 if dark else self.lit + lit,
        )


class Part(NamedTuple):
    """Frames of a batch that are used alike. take: (k,) int64, which of them, in their order."""

    batch: FrameBatch
    take: NDArray


class Seen:
    """How the last frames of one exposure looked, and what may be concluded. Mutable.

    While frames are the rarer the darker they are, at most as many lit ones look dark as are doubtful."""

    def __init__(self, dark: int = 0, doubtful: int = 0, lit: int = 0):
        self.dark, self.doubtful, self.lit = dark, doubtful, lit

    def note(self, dark: int, doubtful: int, lit: int) -> None:
        """So many frames more."""
        self.dark = min(self.dark + dark, REMEMBERED)  # a long night is no evidence of what light looks like
        self.doubtful, self.lit = self.doubtful + doubtful, self.lit + lit
        while self.doubtful + self.lit > REMEMBERED:
            self.doubtful, self.lit = self.doubtful // 2, self.lit // 2

    @property
    def told(self) -> bool:
        """Whether light is told from dark: a frame that looks dark is not used as a lit one."""
        return self.lit >= LEAST_LIT and ONE_IN * self.doubtful <= self.lit

    @property
    def surely_dark(self) -> bool:
        """Whether of those that look dark at most one in ONE_IN is lit."""
        return self.told and ONE_IN * self.doubtful <= self.dark


class Guard:
    """Marks the first frames of each cell of one module after its light went on or off. Mutable.

    Only after a stretch: single dark frames within light, and lit ones within dark, are no transitions. The frame before a
    change has been used when the change shows; about it the level alone decides."""

    def __init__(self, frames: int, cells: int):
        self.frames = frames
        self.look = np.full(cells, SILENT, np.int64)
        self.run, self.left = np.zeros((2, cells), np.int64)  # frames that look so in a row; frames still to be marked

    def transition(self, cell: NDArray, codes: NDArray) -> NDArray:
        """(k,) bool: frames not to be used. cell: (k,) int64. codes: (k,) int8, of dark_look.py."""
        guarded = np.zeros(len(codes), bool)
        plain = np.flatnonzero((codes == DARK) | (codes == LIT))
        for turn in one_of_each_cell(cell[plain]) if self.frames else ():
            now = plain[turn]
            at, looks = cell[now], codes[now]
            turned = (self.look[at] != looks) & (self.look[at] != SILENT)
            self.left[at[turned & (self.run[at] >= STRETCH)]] = self.frames
            self.run[at] = np.where(self.look[at] == looks, self.run[at] + 1, 1)
            self.look[at] = looks
            guarded[now] = self.left[at] > 0
            self.left[at] = np.maximum(self.left[at] - 1, 0)
        return guarded


class Light:
    """What one maker knows of light and dark. Mutable; one owner."""

    def __init__(self, spec: DetectorSpec, settings: Settings, cells: range):
        self.spec, self.cells, self.history = spec, cells, settings.gate.history
        self.cut, self.labels = settings.light.dark_cut, settings.light.classify == "label"
        given = settings.light.guard_frames
        self.guard_frames = given if given is not None else 0 if self.labels else 1
        self.looks: dict[GateKey, DarkLook] = {}
        self.seen: dict[tuple[int, Illumination], Seen] = {}
        self.guards: dict[int, Guard] = {}
        self._rows: dict[int, InARow] = {}

    def _look(self, key: GateKey) -> DarkLook:
        if key not in self.looks:
            self.looks[key] = DarkLook(self.spec, self.history, self.cut, key.gain_stage, len(self.cells))
        return self.looks[key]

    def _guard(self, module: int) -> Guard:
        if module not in self.guards:
            self.guards[module] = Guard(self.guard_frames, len(self.cells))
        return self.guards[module]

    def in_a_row(self, module: int, declared: Illumination) -> InARow:
        """How the last frames of a module looked; nothing, where another illumination was declared."""
        row = self._rows.get(module, InARow(declared))
        return row if row.declared is declared else InARow(declared)

    # ---- frames declared dark ----

    def vet(
        self, gate: FrameGate, stage: int, batch: FrameBatch, take: NDArray, cell: NDArray, means: dict[str, NDArray],
        rejected: Counter,
    ) -> NDArray:  # fmt: skip
        """(k,) bool: which frames declared dark may be darks; others are counted in `rejected`. means: of gate.measure()."""
        codes = self._look(GateKey(batch.module, stage)).learn_and_judge(gate, batch.pixels, take, cell, means)
        guarded = self._guard(batch.module).transition(cell, codes)
        lit, doubtful = codes == LIT, codes == DOUBTFUL
        self._rows[batch.module] = self.in_a_row(batch.module, batch.exposure.illumination).after(codes)
        rejected["light"] += int(lit.sum())
        rejected["doubtful"] += int(doubtful.sum())
        rejected["transition"] += int((guarded & ~lit).sum())
        return ~(guarded | lit | doubtful)

    # ---- frames declared lit, or unknown ----

    def has_a_say(self, exposure: Exposure) -> bool:
        """Whether sort() may change what is done with frames of an exposure; those declared dark go through vet()."""
        illumination = exposure.illumination
        return illumination.lit or (illumination is Illumination.UNKNOWN and self.labels)

    def sort(
        self, batch: FrameBatch, take: NDArray, gates: Mapping[GateKey, FrameGate], words: Words, rejected: Counter
    ) -> list[Part]:
        """What some frames of a batch are used as, as declared or not. Those used as nothing are counted in `rejected`.

        take: (k,) int64. gates: F1 of the darks, whose base frames they are compared with."""
        unknown = batch.exposure.illumination is Illumination.UNKNOWN
        lit_as = words.lit if unknown else batch.exposure
        held = (lit_as or batch.exposure).gain_stage
        codes = self._codes(batch, take, held, gates)
        seen = self.seen.setdefault((batch.module, batch.exposure.illumination), Seen())
        seen.note(*(int((codes == code).sum()) for code in (DARK, DOUBTFUL, LIT)))
        if not seen.told:
            codes[:] = SILENT
        self._rows[batch.module] = self.in_a_row(batch.module, batch.exposure.illumination).after(codes)
        guarded = self._guard(batch.module).transition(batch.cell[take].astype(np.int64) - self.cells.start, codes)
        dark, doubtful = (codes == DARK) & ~guarded, codes == DOUBTFUL
        as_dark = dark & (self.labels and words.relabel and seen.surely_dark)
        rejected["transition"] += int(guarded.sum())
        rejected["doubtful"] += int(doubtful.sum())
        rest = ~(guarded | doubtful | as_dark)
        as_lit = rest & (codes == LIT) & (unknown and self.labels and words.relabel and lit_as is not None)
        if not unknown:
            rejected["no_light"] += int((rest & dark).sum())
            rest &= ~dark
        parts = [Part(batch, take[rest & ~as_lit])]
        if as_lit.any():
            parts.append(Part(replace(batch, exposure=lit_as, labelled_by=CLASSIFIER), take[as_lit]))
        if as_dark.any():
            exposure = Exposure(Illumination.DARK, held)
            parts.append(_few(Part(replace(batch, exposure=exposure, labelled_by=CLASSIFIER), take[as_dark])))
        return [part for part in parts if len(part.take)]

    def _codes(self, batch: FrameBatch, take: NDArray, held: int | None, gates: Mapping[GateKey, FrameGate]) -> NDArray:
        """(k,) int8: how each frame looks beside the darks of its cell and stage."""
        codes, stages = np.full(len(take), SILENT, np.int8), self._stages(batch, take, held)
        cell = batch.cell[take].astype(np.int64) - self.cells.start
        for stage in np.unique(stages).tolist():
            key, here = GateKey(batch.module, stage), np.flatnonzero(stages == stage)
            if key in self.looks and key in gates:
                codes[here] = self.looks[key].judge(gates[key], batch.pixels, batch.gain, take[here], cell[here])
        return codes

    def _stages(self, batch: FrameBatch, take: NDArray, held: int | None) -> NDArray:
        """(k,) int64: the stage whose darks each frame is compared with: the held one; else that of most gain codes.

        In the dark an analogue detector that switches freely is in its most sensitive stage: a frame that is not is lit."""
        if held is not None or self.spec.gain != "code" or batch.gain is None:
            return np.full(len(take), held or 0, np.int64)
        if not self.spec.narrow:
            where = gain.route(self.spec, batch.pixels[take], batch.gain[take], None, None, True)
            return np.array([gain.majority(frame, len(self.spec.stages)) for frame in where], np.int64)
        pixels, gains = read_only(batch.pixels), read_only(batch.gain)
        bands = read_only(gain.code_route(self.spec, None).bands)
        limits = tuple(map(np.uint16, gain.data_range(self.spec)[:2]))
        return np.array([gain.majority_of(limits, pixels[t], gains[t], bands) for t in take], np.int64)

    def in_words(self, module: int, exposure: Exposure) -> str:
        """For a person: what frames of an exposure are told by now."""
        if not any(key.module == module and look.known.any() for key, look in self.looks.items()):
            return "no darks known yet"
        if exposure.illumination is Illumination.DARK:
            return "lit frames are told"
        seen = self.seen.get((module, exposure.illumination), Seen())
        if seen.lit < LEAST_LIT:
            return "no light seen yet"
        return "dark frames are told" if seen.told else "light too weak to be told from dark"

    # ---- beginning anew, keeping ----

    def restart(self, exposure: Exposure) -> None:
        """Learn anew what the darks of a stage (None: of all) look like, or what light of an exposure does."""
        dark, self._rows = exposure.illumination is Illumination.DARK, {}
        if dark:
            stage = exposure.gain_stage
            self.looks = {key: look for key, look in self.looks.items() if stage not in (None, key.gain_stage)}
            self.guards = {}
        forgotten = (exposure.illumination, Illumination.UNKNOWN)
        self.seen = {key: seen for key, seen in self.seen.items() if not dark and key[1] not in forgotten}

    def state(self) -> dict[str, NDArray]:
        """Plain arrays by name: "0/1/level" is that of module 0 in stage 1."""
        looks = {f"{k.module}/{k.gain_stage}/{n}": a for k, look in self.looks.items() for n, a in look.state().items()}
        seen = [(m, ILLUMINATIONS.index(i), s.dark, s.doubtful, s.lit) for (m, i), s in self.seen.items()]
        guards = {f"guard/{m}": np.stack([g.look, g.run, g.left]) for m, g in self.guards.items()}
        return looks | guards | {"seen": np.array(seen, np.int64).reshape(-1, 5)}

    def restore(self, state: dict[str, NDArray]) -> None:
        """Take over a state. The arrays are copied."""
        for module, illumination, *counts in state["seen"].tolist():
            self.seen[module, ILLUMINATIONS[illumination]] = Seen(*counts)
        for name, array in state.items():
            first, _, rest = name.partition("/")
            if first == "guard":
                guard = self._guard(int(rest))
                guard.look[:], guard.run[:], guard.left[:] = array
            elif rest:
                stage, quantity = rest.split("/")
                getattr(self._look(GateKey(int(first), int(stage))), quantity)[...] = array


def _few(part: Part) -> Part:
    """The same frames; few of many are copied, since darks wait for their block and would keep the whole batch."""
    if 4 * len(part.take) >= len(part.batch):
        return part
    return Part(part.batch.some(part.take), np.arange(len(part.take)))
