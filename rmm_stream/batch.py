"""Run it once: masks from files, the same maker as live. One job is one module and a range of memory cells.

Knows only `concurrent.futures.Executor`: this thread, processes of one machine, or a cluster. F1 takes two passes over
the darks, as in the paper: all frames of a cell are judged against each other before any of them is accumulated.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from .config import Policy, Settings
from .detectors import DetectorSpec
from .errors import ConfigError
from .frames import Exposure, FrameBatch, Illumination
from .mask import Mask
from .policy import MaskPolicy
from .policy.overlay import overlay
from .rmm import MaskMaker, gain
from .rmm.background import is_sampled
from .rmm.gate import FrameMeans, outlying, quantities
from .rmm.keys import VALUES, DarkKey, LitKey
from .shard import Shard
from .sources.frame_stack import FrameStack
from .sources.hdf5 import frames

#: Memory cells of one job at most: bounds its memory (AGIPD: a tenth of a module), and a long run shows progress.
CELLS_PER_JOB = 32

#: Dark before lit, since F6 subtracts the offset.
ORDER = (Illumination.DARK, Illumination.FLAT, Illumination.SAMPLE)

#: No operator stands by to accept a jump, and a file has no mask before: what is wrong with it shows in its mask.
UNGUARDED = Policy(max_new=1.0, max_bad=1.0)

Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Input:
    """Frames in a file, and the conditions under which they were taken."""

    stack: FrameStack
    exposure: Exposure


@dataclass(frozen=True, slots=True)
class Job:
    """What one call needs; plain data, so that it can travel to another process.

    inputs: those that have frames of this module. static: (ss, fs) bool, True = bad, or None.
    """

    spec: DetectorSpec
    settings: Settings
    inputs: tuple[Input, ...]
    shard: Shard
    static: NDArray | None = None


class Accumulated(NamedTuple):
    """A maker that has seen all frames of a job, and what Done says of them."""

    maker: MaskMaker
    read: int
    accepted: int
    not_sampled: int
    rejected: Counter
    exposures: dict[Exposure, NDArray]
    moved: dict[tuple[int, int], str]


class Done(NamedTuple):
    """What came of a job. read: frames read, those of both passes; accepted, rejected: frames, by reason.

    not_sampled: lit frames passed over, since F6 runs on one train in features.lit.every_train.
    exposures: (2, cells) int64 each, frames given and frames that count towards fit.min_frames.
    moved: by module and stage, an ASIC that has moved while the darks were taken, in words.
    """

    mask: Mask
    read: int
    accepted: int
    not_sampled: int
    rejected: Counter
    exposures: dict[Exposure, NDArray]
    moved: dict[tuple[int, int], str]


class Made(NamedTuple):
    """Masks in the order of the modules; the others as in Done, of all modules and cells."""

    masks: list[Mask]
    accepted: int
    not_sampled: int
    rejected: Counter
    exposures: dict[Exposure, NDArray]
    moved: dict[tuple[int, int], str]


def make_masks(
    spec: DetectorSpec,
    settings: Settings,
    inputs: Sequence[Input],
    modules: Sequence[int],
    cells: range | None = None,
    executor: Executor | None = None,
    progress: Tick | None = None,
    *,
    static: Mapping[int, NDArray] | None = None,
    cells_per_job: int = CELLS_PER_JOB,
) -> Made:
    """The masks of some modules and a range of memory cells (None: all) from files.

    executor: runs the jobs; None: this thread. progress: called with the frames read so far, of `frames_to_read`; with an
    executor, after each job. static: per module (ss, fs) bool, pixels that are bad whatever they show.
    Raises ConfigError where a module has no input, DataError where a file cannot be read.
    """
    cells = range(spec.cells) if cells is None else cells
    jobs = list(_jobs(spec, settings, inputs, modules, cells, static or {}, cells_per_job))
    read = 0

    def tick(frames_read: int) -> None:
        nonlocal read
        read += frames_read
        if progress:
            progress(read)

    done = _run_here(jobs, tick) if executor is None else _run_on(executor, jobs, tick)
    masks = [_join([d.mask for job, d in zip(jobs, done) if job.shard.module == module]) for module in modules]
    every = dict.fromkeys(exposure for d in done for exposure in d.exposures)
    return Made(
        masks,
        sum(d.accepted for d in done),
        sum(d.not_sampled for d in done),
        sum((d.rejected for d in done), Counter()),
        {e: np.concatenate([d.exposures[e] for d in done if e in d.exposures], axis=1) for e in every},
        {key: words for d in reversed(done) for key, words in d.moved.items()},
    )


def frames_to_read(spec: DetectorSpec, inputs: Sequence[Input], modules: Sequence[int], cells: range) -> int:
    """How many frames make_masks will read, those of both passes; an estimate where only some cells are asked for."""
    frames = sum(_passes(given) * len(given.stack) for m in modules for given in inputs if given.stack.has(m))
    return frames * len(cells) // spec.cells


def run_job(job: Job, tick: Tick | None = None) -> Done:
    """The mask of one shard. tick: called with the number of frames just read."""
    maker, *counts = accumulate(job, tick)
    module = job.shard.module
    policy = MaskPolicy(job.spec, {module: overlay(job.spec, job.static)}, job.shard.cells, UNGUARDED)
    for fit in maker.fit_all():
        policy.judge(fit)
    return Done(policy.mask(module), *counts)


def accumulate(job: Job, tick: Tick | None = None) -> Accumulated:
    """Everything before the fits: both passes over the darks, then the lit frames."""
    shard = job.shard
    exclude = None if job.static is None else {shard.module: job.static}
    drift = structs.replace(job.settings.drift, replace="operator")  # every frame that was given counts
    settings = structs.replace(job.settings, drift=drift)
    maker = MaskMaker(job.spec, [shard.module], shard.cells, settings, exclude=exclude, gate=False)
    read, accepted, not_sampled, rejected, exposures = 0, 0, 0, Counter(), {}
    every = job.settings.features.lit.every_train

    def count(batches: Iterator[FrameBatch]) -> Iterator[FrameBatch]:
        nonlocal read
        for batch in batches:
            read += len(batch)
            yield batch
            if tick:
                tick(len(batch))

    for illumination in ORDER:
        for exposure in _exposures(job.inputs, illumination):
            inputs = [given for given in job.inputs if given.exposure == exposure]
            gated = _gated(job, inputs, count) if illumination is Illumination.DARK else {}
            rejected["gated"] += sum(int(out.sum()) for out in gated.values())
            seen, given = Counter(), Counter()
            for batch in count(_read(job, inputs)):
                fed = maker.feed(_without(batch, gated, seen))
                accepted += fed.accepted
                rejected += fed.rejected
                given.update(batch.cell.tolist())
                if illumination.lit:
                    not_sampled += int(np.count_nonzero(~is_sampled(batch.train_id, batch.cell, every)))
            maker.fold()
            exposures[exposure] = np.array(
                [(given[c], _counting(maker, exposure, shard.module, c)) for c in shard.cells]
            ).T
    moved = {key: maker.drift.words(moved) for key, moved in maker.drift.moved.items()}
    return Accumulated(maker, read, accepted, not_sampled, +rejected, exposures, moved)


def _counting(maker: MaskMaker, exposure: Exposure, module: int, cell: int) -> int:
    """Frames of a cell that count towards fit.min_frames; where pixels switch, in the stage that most frames are in."""
    stages = range(len(maker.spec.stages)) if exposure.gain_stage is None else (exposure.gain_stage,)
    if exposure.illumination is Illumination.DARK:
        return max(maker.segments.frames(DarkKey(module, VALUES, stage), cell) for stage in stages)
    at, found = cell - maker.cells.start, [maker.lit.get(LitKey(module, exposure.illumination, s)) for s in stages]
    return max((stats.frames_in_halves(at, float(stats.latest[at])) for stats in found if stats is not None), default=0)


def _jobs(spec, settings, inputs, modules, cells, static, cells_per_job) -> Iterator[Job]:
    for module in modules:
        mine = tuple(given for given in inputs if given.stack.has(module))
        if not mine or not 0 <= module < spec.modules:
            raise ConfigError(
                f"no input has frames of module {module} of {spec.name}: give one, or leave the module out"
            )
        whole = Shard(module, cells.start, cells.stop - 1)
        for shard in whole.split(ceil(len(cells) / cells_per_job)):
            yield Job(spec, settings, mine, shard, static.get(module))


def _run_here(jobs: Sequence[Job], tick: Tick) -> list[Done]:
    return [run_job(job, tick) for job in jobs]


def _run_on(executor: Executor, jobs: Sequence[Job], tick: Tick) -> list[Done]:
    futures = [executor.submit(run_job, job) for job in jobs]
    try:
        for future in as_completed(futures):
            tick(future.result().read)
    except BaseException:  # one failure ends the run; what has not begun need not begin
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]


def _exposures(inputs: Sequence[Input], illumination: Illumination) -> list[Exposure]:
    """Those with frames, in the order given, each once."""
    return list(dict.fromkeys(given.exposure for given in inputs if given.exposure.illumination is illumination))


def _passes(given: Input) -> int:
    return 2 if given.exposure.illumination is Illumination.DARK else 1


def _read(job: Job, inputs: Sequence[Input], indicator: bool = True) -> Iterator[FrameBatch]:
    for given in inputs:
        yield from frames(
            given.stack, job.spec, job.shard.module, given.exposure, cells=job.shard.cells, indicator=indicator
        )


def _gated(job: Job, inputs: Sequence[Input], count) -> dict[int, NDArray]:
    """F1, first pass: for each cell, (n,) bool in reading order, the frames of one exposure unlike others of their stage."""
    spec, settings, cells = job.spec, job.settings, job.shard.cells
    free = inputs[0].exposure.gain_stage is None and spec.gain == "code"
    judged = quantities(spec)
    if not all(given.stack.gain or "kind" in given.stack.axes for given in inputs):
        judged.pop("indicator", None)
    means: dict[int, list[FrameMeans]] = {}  # of each stage
    seen: list[
        tuple[NDArray, NDArray, NDArray]
    ] = []  # of each batch: cell and stage of its frames, (quantities, n) means
    for batch in count(_read(job, inputs, indicator=free or "indicator" in judged)):
        stages = np.zeros(len(batch), np.int64)
        if free and batch.gain is not None:
            where = gain.route(spec, batch.pixels, batch.gain, None, None, True)
            stages = np.array([gain.majority(frame, len(spec.stages)) for frame in where])
        at, found = batch.cell.astype(np.int64) - cells.start, np.empty((len(judged), len(batch)))
        for stage in np.unique(stages).tolist():
            here = np.flatnonzero(stages == stage)
            if stage not in means:
                means[stage] = [FrameMeans(kind, len(cells)) for kind in judged.values()]
            for q, images in enumerate((batch.pixels, batch.gain)[: len(judged)]):
                found[q, here] = means[stage][q].of(images, here, at[here])
        seen.append((batch.cell, stages, found))
    if not seen:
        return {}
    cell, stages, found = (np.concatenate(parts, axis=-1) for parts in zip(*seen))
    out = {}
    for c in np.unique(cell).tolist():
        mine = np.flatnonzero(cell == c)
        out[c] = np.zeros(len(mine), bool)
        for stage in np.unique(stages[mine]):
            here = stages[mine] == stage
            for kind, series in zip(judged.values(), found):
                out[c][here] |= outlying(series[mine[here]], settings.gate, kind, settings.fit)
    return out


def _without(batch: FrameBatch, gated: Mapping[int, NDArray], seen: Counter) -> FrameBatch:
    """The batch without its gated frames. seen: frames of each cell before this batch; moved on."""
    keep = np.ones(len(batch), bool)
    for cell in np.unique(batch.cell).tolist() if gated else ():
        here = np.flatnonzero(batch.cell == cell)
        keep[here] = ~gated[cell][seen[cell] : seen[cell] + len(here)]
        seen[cell] += len(here)
    return batch if keep.all() else batch.some(keep)


def _join(parts: Sequence[Mask]) -> Mask:
    """One mask of the shards of a module, in the order of their cells."""
    if len(parts) == 1:
        return parts[0]
    return Mask(
        module=parts[0].module,
        flags=np.concatenate([part.flags for part in parts], axis=1),
        judged=np.concatenate([part.judged for part in parts], axis=1),
        frames=np.concatenate([part.frames for part in parts], axis=1),
        train_id=max(part.train_id for part in parts),
    )
