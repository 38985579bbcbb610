"""The service: wires the parts, starts them in the one right order, watches over them, stops them.

Its owner, the main thread, calls `start`, then `step` a few times a second, then `stop`. Masks on disk, lease and
watchdog are the main thread's; frames are the receiver's, maps the worker's, sockets the publisher's.
"""

import gc
import logging
import queue
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from msgspec import structs

from .. import __version__
from ..config import Config, Lit
from ..errors import ConfigError, LeaseLost, RmmError
from ..mask import MapChange, MaskUpdate
from ..publisher import Publisher
from ..sources.zmq import ZmqSource
from ..storage.lease import Lease
from ..storage.presence import Announcement
from . import memory
from .app import HttpServer
from .crew import Crew
from .files import MaskFiles
from .history import History
from .notify import notify
from .prepare import WorkerParts, prepare, state_directory
from .questions import Questions
from .receiver import LAST_S, Receiver
from .status import Status, health
from .worker import Worker

log = logging.getLogger(__name__)

TICK_S = 0.2
LEASE_S = 1.0  # how often the lease is read again
SILENT_S = 5.0  # a worker that has not turned for so long gets no heartbeat
# How long each part may take to stop; TimeoutStopSec of the systemd unit covers their sum.
RECEIVER_S = LAST_S + 10.0  # the message under way, and its place in the queue
LAST_FIT_S = 120.0  # what waits in the queue, and the last fit of all maps
FILES_S = 30.0  # live file and mask file; not enforced, a write cannot be taken back
CLOSE_S = 5.0  # for each of receiver, worker, http and publisher, when they are asked for the last time
STOPPING_S = RECEIVER_S + LAST_FIT_S + FILES_S + 4 * CLOSE_S
SAY_S = 60.0  # how often the log says how it goes


class ServiceFailed(RuntimeError):
    """A part of the service ended that should not have; its own error is the cause, and in the log."""


class Service:
    """One configuration, running.

    source: stands in for the sockets of the configuration. tune_memory: set the allocator of this process.
    """

    def __init__(self, config: Config, source=None, tune_memory: bool = False):
        """Raises ConfigError for what is wrong with the configuration or the files it names; opens nothing."""
        self.config = config
        self._parts = prepare(config)
        self._source, self._tune_memory = source, tune_memory
        self._leases: list[Lease] = []
        self._announcement: Announcement | None = None
        self._publisher: Publisher | None = None
        self._receiver: Receiver | None = None
        self._http: HttpServer | None = None
        self._crew = Crew([self._worker(parts) for parts in self._parts.workers])
        spec, place = self._parts.spec, state_directory(config) / self._parts.spec.name
        self._history = History(config, spec, place, self._crew.ask) if config.store.versions else None
        self._files = MaskFiles(config.store, spec, config.digest, history=self._history)
        self._questions = Questions(config, spec, self._crew, self._files, self._history)
        self._fed = (-1, -1)  # turns of worker and receiver at the last sign of life
        self._lease_at = self._said_at = 0.0
        self._said_frames = 0

    def _worker(self, parts: WorkerParts) -> Worker:
        return Worker(
            parts.maker, parts.policy, parts.labeler, parts.status, self._publish,
            queue.Queue(self.config.source.queue), queue.SimpleQueue(), lit=_lit(self.config),
        )  # fmt: skip

    # What others ask -------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """The present Status, complete. Any thread may ask."""
        status = self._crew.status
        version, publisher = self._files.version, self._publisher
        stored = {} if self._history is None else self._history.alarms
        alarms = (*status.alarms, *self._files.alarms.values(), *stored.values())
        return replace(
            status,
            modules={number: replace(module, version=version) for number, module in status.modules.items()},
            sources=() if self._receiver is None else (self._receiver.status(),),
            queues=self._crew.waiting(),
            requests_malformed={} if publisher is None else publisher.malformed,
            sequence=0 if publisher is None else publisher.counts.get("published", 0),
            alarms=alarms,
        )

    @property
    def url(self) -> str:
        return "" if self._http is None else self._http.url

    @property
    def updates_endpoint(self) -> str:
        return "" if self._publisher is None else self._publisher.updates_endpoint

    @property
    def requests_endpoint(self) -> str:
        return "" if self._publisher is None else self._publisher.requests_endpoint

    def _publish(self, change: MapChange) -> None:
        self._publisher.publish(change, self._files.version)

    def _alive(self) -> bool:
        """Whether the workers make progress; the last fit of all maps may take its time."""
        patience = max(SILENT_S, 3 * self.config.publish.heartbeat_s)
        return all(
            worker.status.state == "stopping" or (worker.status.state == "running" and worker.idle_s() < patience)
            for worker in self._crew.workers
        )

    def _on_update(self, update: MaskUpdate) -> None:
        """In the publisher's thread: an update has left."""
        if self._history is not None:
            self._history.note(update, self._crew.train(update.change.key))

    # Its life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything up to READY=1. Raises ConfigError where a port or directory is not to be had; then all is closed.

        The leases come last of what can fail: taking them ends another service of these shards, so whoever cannot
        serve must not. Only then is anything sent, under a generation that is on disk.
        """
        with ExitStack() as undo:
            undo.callback(self._close)
            if self._tune_memory:
                memory.tune()
                memory.touch(memory.at_start(self.config))
            self._http = HttpServer(self.config.http, self.status)
            spec = self._parts.spec
            layout = (len(spec.stages), spec.cells, *spec.module_shape)
            self._publisher = Publisher(
                self.config.publish, spec.name, layout, self._parts.shards, self.config.digest,
                self._questions.answer, self._alive, self._on_update,
            )  # fmt: skip
            self._publisher.bind()
            self._parts.workers[0].maker.warm_up()
            if self._tune_memory:
                gc.freeze()  # program and kernels stay for good: no later search for garbage goes through them
            settings = self.config.source
            source = self._source or ZmqSource(settings, self._parts.decoder, spec)
            self._receiver = Receiver(source, self._crew.lanes, settings.when_full, ", ".join(settings.endpoints))
            generation = self._take_leases()
            if self._history is not None:
                self._history.start(self._publisher.epoch, generation, self._files.written)
                self._announcement = Announcement(
                    self._history.store.folder.parent, self.requests_endpoint, [s.name for s in self._parts.shards]
                )
            self._publisher.start(generation)
            self._http.start()
            self._crew.start(generation, self._publisher.epoch, time.time())
            self._receiver.start()
            undo.pop_all()
        self._said_at = time.monotonic()
        log.info(
            "rmm-stream %s: %s %s from %s, masks at %s, requests at %s, page at %s",
            __version__, spec.name, self._crew.status.shard, ", ".join(settings.endpoints), self.updates_endpoint,
            self.requests_endpoint, self.url, extra={"event": "ready", "generation": generation},
        )  # fmt: skip
        notify("READY=1", "STATUS=waiting for frames")

    def step(self) -> None:
        """One turn of the main thread: files, lease, signs of life. Raises LeaseLost, ServiceFailed."""
        self._check_parts()
        now = time.monotonic()
        if now - self._lease_at >= LEASE_S:
            self._check_leases()
            self._lease_at = now
        commit = self._questions.commit_wanted()
        status = self.status()
        if self._history is not None:
            self._history.step(status, commit, self._check_leases)
        self._files.step(status, commit)
        self._publisher.progress(self._files.version, status.latest.train_id)
        self._sign_of_life(status, now)

    def stop(self) -> None:
        """Stop receiving, fold what waits, fit every map, publish, write the files, say bye.

        Takes at most STOPPING_S, as the service manager is told.
        Raises ServiceFailed where one of these went wrong, LeaseLost where the shard is another's.
        """
        extend = f"EXTEND_TIMEOUT_USEC={int(STOPPING_S * 1e6)}"  # a unit of the operator's own may say less
        notify("STOPPING=1", extend, "STATUS=fitting every map for the last time")
        try:
            self._receiver.stop()
            if not self._receiver.join(RECEIVER_S):
                raise ServiceFailed(f"the receiver did not stop within {RECEIVER_S:.0f} s")
            self._crew.stop()
            if not self._crew.join(LAST_FIT_S):
                raise ServiceFailed(f"the last fit took more than {LAST_FIT_S:.0f} s")
            self._check_parts()
            self._check_leases()
            self._finish_files()
        except LeaseLost:
            self._crew.abandon()
            raise
        finally:
            self._close()
        log.info("stopped", extra={"event": "stopped", "version": self._files.version})

    def _finish_files(self) -> None:
        """Write the last version and the files, and tell whoever hears the last heartbeat. Raises ServiceFailed."""
        if not self._publisher.settle(CLOSE_S):
            raise ServiceFailed(f"the publisher did not send what waits within {CLOSE_S:.0f} s")
        whole = self._history is None or self._history.finish(self.status(), self._check_leases)
        if not self._files.finish(self.status()) or not whole:
            raise ServiceFailed("; ".join(self.status().alarms))
        self._publisher.progress(self._files.version, self.status().latest.train_id)

    def abandon(self) -> None:
        """End at once, publishing and writing nothing more: the shard is another's, or a part has failed."""
        self._crew.abandon()
        self._close()

    def _close(self) -> None:
        """Close what is open, last opened first. Right after any part of `start`."""
        if self._receiver is not None:
            self._receiver.stop()
            self._receiver.join(CLOSE_S)
        self._crew.abandon()
        self._crew.join(CLOSE_S)
        if self._http is not None:
            self._http.stop()
        if self._publisher is not None:
            self._publisher.stop()
        if self._announcement is not None:
            self._announcement.withdraw()
        for lease in self._leases:
            try:
                lease.release()
            except (OSError, ConfigError) as e:  # nothing depends on it: the next owner takes it anyway
                log.warning("the lease was not given back: %s", e, extra={"event": "lease"})
        self._leases = []

    # Its parts -------------------------------------------------------------------------------------------------------

    def _take_leases(self) -> int:
        """Own every shard, and return the generation, which is one for all shards of this publisher.

        A shard that had fewer owners than another catches up: the number that went out must be on its disk.
        """
        directory = state_directory(self.config) / self._parts.spec.name
        leases = {shard.name: Lease.take(directory, shard.name) for shard in self._parts.shards}
        highest = max(lease.generation for lease in leases.values())
        for name in leases:
            while leases[name].generation < highest:
                leases[name] = Lease.take(directory, name)
        self._leases = list(leases.values())
        return highest

    def _check_leases(self) -> None:
        for lease in self._leases:
            lease.check()

    def _check_parts(self) -> None:
        """Raises ServiceFailed, from the error of the part that ended."""
        for name, error in (
            ("worker", self._crew.error),
            ("receiver", self._receiver.error),
            ("publisher", self._publisher.failure),
        ):
            if error is not None:
                raise ServiceFailed(f"the {name} failed: {type(error).__name__}: {error}") from error
        if not self._http.alive:
            raise ServiceFailed("the http thread ended")

    def _sign_of_life(self, status: Status, now: float) -> None:
        """Feed the watchdog, if and only if both loops have turned since the last time; say how it goes."""
        turns = (status.turns, self._receiver.turns)
        if all(new > old for new, old in zip(turns, self._fed)):
            self._fed = turns
            notify("WATCHDOG=1")
        if now - self._said_at >= SAY_S:
            rate = (status.frames - self._said_frames) / (now - self._said_at)
            self._said_at, self._said_frames = now, status.frames
            reason = health(status, time.time(), self.config.http.stall_s)
            text = f"{rate:.0f} frames per second, {status.sequence} updates, version {self._files.version}"
            text += f"; {reason}" if reason else ""
            notify(f"STATUS={text}")
            log.info(text, extra={"event": "progress"})


def _lit(config: Config) -> Lit:
    """Settings of F6 for the worker: where the sender waits, being late loses nothing."""
    lit = config.settings.features.lit
    return structs.replace(lit, when_late="keep") if config.source.when_full == "block" else lit


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code; raises ConfigError and LeaseLost, which have codes of their own."""
    service = Service(config, tune_memory=True)
    with stop_signals() as stop:
        service.start()
        try:
            while not stop.wait(TICK_S):
                service.step()
            service.stop()
            return 0
        except LeaseLost:
            service.abandon()
            raise
        except (ServiceFailed, RmmError, OSError) as e:
            log.critical("%s", e, extra={"event": "failed"})
            notify(f"STATUS=failed: {e}")
            service.abandon()
            return 1


@contextmanager
def stop_signals():
    """An Event that SIGTERM and SIGINT set. The second of a kind ends the process at once, as if nobody listened."""
    stop = threading.Event()

    def ask(number: int, frame) -> None:
        signal.signal(number, before[number])
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
