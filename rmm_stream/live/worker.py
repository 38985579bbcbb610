"""The worker: sole owner of a labeler, a maker and a policy. Feed one message, fit what is due, judge, repeat.

One owner: no locks, no copies, no torn reads. It opens no socket and no file; what leaves goes through `publish` and
through `status`, an immutable Status that is replaced as a whole.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..config import Lit
from ..errors import DataError
from ..exposure import in_words
from ..frames import FrameBatch, Illumination
from ..mask import Held, MapChange, MapFit, MapKey
from ..rmm.light import CLASSIFIER, Words
from ..sources.complaints import Complaints
from .light_alarms import light_alarms
from .memory import held
from .requests import Accept, Expose, Pin, Reject, Release, Request, Restore
from .sampling import POLICIES
from .status import NOBODY_SAYS, ModuleStatus, Status

log = logging.getLogger(__name__)

BUSY_S = 0.03  # spent on fits after a message: under a third of a train at 10 Hz
IDLE_S = 0.5  # spent on fits in a turn without one; bounds how long a turn lasts, for the watchdog
RECENT_S = (
    0.25  # of data time. After a message only maps that have just changed are fitted; others when they change again
)
PAUSE_S = 1.0  # without frames, after which those that wait for their block are folded as they are
MEMORY_S = 5.0  # how often the maker is asked what it holds


def select(batch: FrameBatch, cells: range) -> FrameBatch:
    """The frames of the batch whose memory cell is in `cells`; the batch itself, uncopied, where all are."""
    mine = (batch.cell >= cells.start) & (batch.cell < cells.stop)
    if mine.all():
        return batch
    places = np.flatnonzero(mine)
    run = len(places) and places[-1] - places[0] + 1 == len(places)
    chosen = slice(int(places[0]), int(places[-1]) + 1) if run else places  # neighbours are a view, not a copy
    return batch.some(chosen)


class Worker:
    """A loop over `step`; its thread is made by `start`. Tests call `step` themselves.

    frames: queue of messages, each a sequence of FrameBatch. requests: queue of Request. publish: takes a MapChange.
    clock: s, Unix. lit: how often F6 judges, and what to do when that takes too long.
    """

    def __init__(
        self,
        maker,
        policy,
        labeler,
        status: Status,
        publish: Callable[[MapChange], None],
        frames: queue.Queue,
        requests: queue.Queue,
        clock: Callable[[], float] = time.time,
        lit: Lit = Lit(),
    ):
        self._maker, self._policy, self._labeler = maker, policy, labeler
        self._every_train, self._sampling = lit.every_train, POLICIES[lit.when_late]()
        self._publish, self._clock = publish, clock
        self.frames, self.requests = frames, requests
        self._modules: dict[int, ModuleStatus] = dict(status.modules)
        self._changes = {module: dict(status.changes.get(module, {})) for module in self._modules}
        self._suspected: dict[MapKey, int] = {}  # pixels held back by the last fit of each map
        self._complaints = Complaints(log)
        self._alarms: dict[str, str] = {}  # by what they are about
        self._denied: tuple[str, ...] = ()  # alarms about frames that are not what they are declared as
        self._drifted: dict[tuple[int, int], str] = {}  # alarms of modules and stages, as they stand
        self._memory_at = -MEMORY_S
        self._pinned = 0  # the version
        self._news = False
        self._paused = True  # nothing waits for its block
        self._data_at = 0.0  # data time of the latest frames, s
        self._turned = self._fed = time.monotonic()
        self._abandoned = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self.status = status
        self.error: BaseException | None = None

    # One turn ---------------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.0) -> bool:
        """Requests, then one message if it comes within timeout_s, then fits. Returns whether anything was done."""
        try:
            message = self.frames.get(timeout=timeout_s) if timeout_s else self.frames.get_nowait()
        except queue.Empty:
            message = None
        asked = self._answer()  # after the wait: what was asked for before a frame came is in force for that frame
        if message is not None:
            self.feed(message)
        elif not self._paused and time.monotonic() - self._fed > PAUSE_S:
            self._maker.fold()
            self._paused = self._news = True
        fitted = self._fit_some(busy=message is not None)
        self._report()
        return asked or message is not None or fitted > 0

    def feed(self, batches: Sequence[FrameBatch]) -> None:
        """Give the frames of one message that are ours to the statistics. Others are another worker's, not an error."""
        self._maker.every_train = self._sampling.step(self._every_train, self.frames.qsize(), self.frames.maxsize)
        self._maker.words = Words(self._labeler.lit, relabel=not self._labeler.override)
        self._fed, self._paused = time.monotonic(), False
        for batch in batches:
            module = self._modules.get(batch.module)
            if module is None:
                continue
            mine = select(batch, self.status.cells)
            if not len(mine):
                continue
            labelled = self._labeler.label(mine)
            try:
                accepted, rejected = self._maker.feed(labelled)
            except DataError as e:  # the detector's fault: survive it, the next good train counts
                accepted, rejected = 0, {"shape": len(mine)}
                self._complaints.say("refused", f"frames refused: {e}")
            relabelled = self._maker.relabelled
            labels = {(labelled.exposure.illumination.value, labelled.labelled_by): len(mine) - relabelled.total()}
            labels |= {(illumination.value, CLASSIFIER): n for illumination, n in relabelled.items()}
            light = self._maker.light
            self._news, self._data_at = True, batch.timestamp
            now = self._clock()
            self._modules[batch.module] = replace(
                module,
                frames=module.frames + len(mine),
                accepted=module.accepted + accepted,
                rejected=_added(module.rejected, rejected),
                labelled=_added(module.labelled, labels),
                light="" if light is None else light.in_words(batch.module, labelled.exposure),
                nbytes=module.nbytes + mine.pixels.nbytes + (0 if mine.gain is None else mine.gain.nbytes),
                first_train=module.first_train if module.frames else int(mine.train_id[0]),
                train_id=int(mine.train_id[-1]),  # not the highest: one corrupt id would stay for good
                fed_at=now,
                data_at=batch.timestamp,
                frame_age=module.frame_age.add(max(0.0, now - batch.timestamp)),
            )
            self._note_drift()
            self._expose(labelled, used=accepted > 0)

    def finish(self) -> None:
        """Fold what waits, fit every map that can be, publish. The last act."""
        self._answer()
        while True:
            try:
                self.feed(self.frames.get_nowait())
            except queue.Empty:
                break
        started = self._clock()
        fits = self._maker.fit_all()
        self._judge(fits, (self._clock() - started) / max(1, len(fits)))
        self._report()

    # Its parts --------------------------------------------------------------------------------------------------------

    def _answer(self) -> bool:
        """Do what was asked for. Returns whether anything was."""
        asked = False
        while True:
            try:
                request = self.requests.get_nowait()
            except queue.Empty:
                return asked
            asked = True
            self._do(request)

    def _do(self, request: Request) -> None:
        """One request. What it changes is out before the next frame counts."""
        said, changes = "", []
        match request:
            case Expose():
                self._labeler.operator(None if request.withdrawn else request.exposure, request.override)
                if request.new and not request.withdrawn:
                    self._maker.restart(request.exposure)
            case Pin():
                changes = self._policy.pin(request.masks_of(self.status.cells))
                self._pinned = request.version
            case Release():
                changes, self._pinned = self._policy.release(), 0
            case Restore():
                changes = self._policy.restore(request.masks_of(self.status.cells))
            case Accept():
                changes = self._policy.accept(request.holds)
            case Reject():
                said = f"{len(self._policy.reject(request.holds))} maps dismissed, "
        for change in changes:
            self._let_out(change)
        self._modules = {number: self._note_held(module) for number, module in self._modules.items()}
        if not isinstance(request, Expose):
            said = f": {said}{len(changes)} maps published"
        voice = "the store" if isinstance(request, Restore) else "the operator"
        log.info("%s says: %s%s", voice, request, said, extra={"event": type(request).__name__.lower()})

    def _fit_some(self, busy: bool) -> int:
        """Fit the maps with most news within the budget. Returns how many. busy: a message came, and the next is on its way.

        Each train changes an eighth of the maps. Those with most news are fitted at once, so that a change is out soon after
        the frames that made it; one for which the time does not suffice has more news when it changes again."""
        begun, fitted = self._clock(), 0
        if not self._news:
            return 0
        due = self._maker.due(self._data_at - RECENT_S) if busy else self._maker.due()
        self._news = busy  # while busy, others may be due; nothing due stays so until frames come
        for key in due:
            started = self._clock()
            fit = self._maker.refresh(key)
            now = self._clock()
            self._judge([fit], now - started)
            fitted += 1
            if not 0 <= now - begun < (BUSY_S if busy or not self.frames.empty() else IDLE_S):
                self._news = True
                break
        return fitted

    def _judge(self, fits: Sequence[MapFit], seconds: float) -> None:
        for fit in fits:
            module = self._modules[fit.key.module]
            judged = self._policy.judge(fit)
            change = judged if isinstance(judged, MapChange) else None
            if module.held or isinstance(judged, Held) or f"dismissed {module.module}" in self._alarms:
                module = self._note_held(module)
            before = self._suspected.get(fit.key, 0)
            now = self._suspected[fit.key] = 0 if fit.suspected is None else int(np.count_nonzero(fit.suspected))
            self._modules[fit.key.module] = replace(
                module, fit_seconds=module.fit_seconds.add(seconds), suspected=module.suspected + now - before
            )
            if change is not None:
                self._let_out(change)

    def _let_out(self, change: MapChange) -> None:
        """Publish one change, and note it."""
        self._publish(change)
        number = change.key.module
        self._changes[number][change.key] = change
        self._modules[number] = replace(
            self._modules[number],
            changed=change.newly_bad + change.newly_good,
            serial=self._modules[number].serial + 1,
            published_at=self._clock(),
        )

    def _note_held(self, module: ModuleStatus) -> ModuleStatus:
        """How many maps of a module the guard keeps back, and the alarm that says why."""
        held = [jump for key, jump in self._policy.held.items() if key.module == module.module]
        about = f"held {module.module}"
        if held:
            self._alarms[about] = in_words_held(module.module, held)
            self._complaints.say(about, self._alarms[about])
        elif self._alarms.pop(about, None):
            log.info("module %d: no map is held any more", module.module, extra={"event": "held"})
        self._alarms.pop(f"dismissed {module.module}", None)
        if dismissed := sum(key.module == module.module for key in self._policy.dismissed):
            self._alarms[f"dismissed {module.module}"] = (
                f"module {module.module}: a jump of {dismissed} maps was rejected and is still there; nothing of these maps is "
                f"published until it has gone away"
            )
        return replace(module, held=len(held))

    def _note_drift(self) -> None:
        """Say once of each module and stage that it has moved; the alarm stands until it is right again."""
        alarms = self._maker.drift.alarms
        for key in alarms.keys() - self._drifted.keys():
            log.warning("%s", alarms[key], extra={"event": "drift"})
        self._drifted = alarms

    def _expose(self, batch: FrameBatch, used: bool) -> None:
        """Note the exposure in force; the end of one is a moment to write the mask. used: whether any frame was."""
        ended = self.status.exposures_ended + (self.status.exposure not in (None, batch.exposure))
        contradiction = self._labeler.contradiction
        self._alarms.pop("exposure", None)
        if contradiction is not None:
            stream, operator, decided = contradiction
            said = f"the stream says {in_words(stream)}; the operator says {in_words(operator)}"
            self._alarms["exposure"] = f"{said}; in force is the word of the {decided}"
            self._complaints.say("contradiction", self._alarms["exposure"])
        elif batch.exposure.illumination is Illumination.UNKNOWN and not used:
            self._alarms["exposure"] = NOBODY_SAYS
            self._complaints.say("unknown_exposure", NOBODY_SAYS)
        self._denied = light_alarms(self._maker.light, list(self._modules), batch.exposure)
        for alarm in self._denied:
            self._complaints.say("light", alarm)
        self.status = replace(
            self.status,
            exposure=batch.exposure,
            labelled_by=batch.labelled_by,
            exposures_ended=ended,
            contradictions=self._labeler.contradictions,
        )

    def _report(self) -> None:
        """Replace the status as a whole."""
        now, self._turned = self._clock(), time.monotonic()
        changes = self.status.changes
        for module, status in self._modules.items():
            if status.serial != self.status.modules[module].serial:
                changes = {**changes, module: dict(self._changes[module])}
                judged = sum(bool(change.judged) for change in changes[module].values())
                self._modules[module] = status = replace(status, judged=judged)
            drift = self._maker.drift.of_module(module)
            if drift is not status.drift:
                self._modules[module] = replace(status, drift=drift)
        memory = self.status.memory
        if not 0 <= now - self._memory_at < MEMORY_S:
            self._memory_at, memory = now, held(self._maker)
        self.status = replace(
            self.status,
            modules=dict(self._modules),
            changes=changes,
            memory=memory,
            alarms=(*self._alarms.values(), *self._denied, *self._drifted.values()),
            every_train=self._maker.every_train,
            pinned=self._pinned if self._policy.pinned else 0,
            turns=self.status.turns + 1,
            turned_at=now,
        )

    # Its thread -------------------------------------------------------------------------------------------------------

    def train(self, module: int) -> int:
        """The train of the latest frames of a module; 0: none yet. Any thread may ask."""
        return self._modules[module].train_id

    def idle_s(self) -> float:
        """Seconds since the loop last turned, whatever happens to the system's clock. Any thread may ask."""
        return time.monotonic() - self._turned

    def start(self) -> None:
        self.status = replace(self.status, state="running", turned_at=self._clock())
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to finish: fold, fit, publish, end. Returns at once; `join` waits."""
        self._stop.set()

    def abandon(self) -> None:
        """Ask the thread to end at once, publishing nothing more: the shard is another's."""
        self._publish = lambda change: None
        self._abandoned = True
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end. Returns whether it has."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.step(timeout_s=0.1)
            if not self._abandoned:
                self.status = replace(self.status, state="stopping")
                self.finish()
            self.status = replace(self.status, state="stopped")
        except Exception as e:
            self.error = e
            self.status = replace(self.status, state="failed", reason=f"{type(e).__name__}: {e}")
            log.exception("the worker failed", extra={"event": "failed"})


def in_words_held(module: int, held: Sequence[Held]) -> str:
    """For a person: what the guard keeps back of a module, why, and what to do."""
    first = min(held, key=lambda jump: (jump.since_train, jump.key))
    others = f" and {len(held) - 1} more maps" if len(held) > 1 else ""
    return (
        f"module {module}, gain stage {first.key.gain_stage}, cell {first.key.cell}{others}: held since train "
        f"{first.since_train}, the last mask stays: {first.reason}. Look for the cause, then rmm-stream accept, or reject"
    )


def _added(counts: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
    return dict(Counter(counts) + Counter(more)) if more else counts
