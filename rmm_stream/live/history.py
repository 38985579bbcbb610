"""The history of a running service: when a version is written, what is put in force at the start, at a rollback and after it.

Called by the main thread, never by the worker: a slow disk delays a version, not a frame. A disk that fails is an alarm and
is tried again; publication goes on, and earlier versions are not touched.
"""

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..config import Config
from ..detectors import DetectorSpec
from ..errors import ConfigError, DataError, RmmError
from ..mask import MapChange, MapKey, MaskUpdate
from ..sources.complaints import Complaints
from ..storage.journal import Journal, read_journal
from ..storage.mask_file import MaskFile, Provenance
from ..storage.mask_store import Making, MaskStore, Version
from .published import MOST_RECORDS, Flags, Published
from .requests import Pin, Release, Restore
from .status import Status, assemble

log = logging.getLogger(__name__)

ENDED_S = 30.0  # least time between two versions because an exposure ended
RETRY_S = 10.0  # after a failure
LONGEST_JOURNAL = 100_000  # updates; a version is due then
HIGHEST_TRAIN = 2**64 - 1
LOOK_BACK = 100  # versions that are looked at for one that fits


class History:
    """Mutable; the main thread's, except what says so. version: the newest stored one, 0: none."""

    def __init__(
        self,
        config: Config,
        spec: DetectorSpec,
        directory: Path,
        tell: Callable[[Pin | Restore | Release], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        """directory: of the detector, in the state directory. tell: hands a request to every worker. Opens nothing."""
        self._config, self._settings = config.store, config.json
        self._spec, self._modules, self._cells, self._digest = spec, config.modules, config.cells, config.digest
        self.store = MaskStore(directory)
        self._tell, self._clock = tell, clock
        self._published = Published()
        self._complaints = Complaints(log, clock)
        self._requests: queue.SimpleQueue[int] = queue.SimpleQueue()  # version to put in force; 0: release
        self._journal = Journal(self.store.journal(0))
        self._unwritten: list[dict] = []  # records that the disk has not taken yet
        self._lost = 0  # and those for which there was no room
        self._life: dict = {}  # which life of the service the updates belong to
        self._first = self._last = 0  # trains: see Version
        self._ended = 0  # exposures that had ended at the last look
        self._wanted = ""  # why a version is to be written at once
        self._written, self._ended_at = clock(), -float("inf")
        self._retry = {"version": -float("inf"), "journal": -float("inf")}
        self._owed: tuple[Version, MaskFile] | None = None  # whose rollback is in force and not written yet
        self._pinning = 0  # version that not every worker has yet
        self._numbers: frozenset[int] = frozenset()
        self.version = 0
        self.alarms: dict[str, str] = {}

    # For the publisher's thread ---------------------------------------------------------------------------------------

    def note(self, update: MaskUpdate, train: int) -> None:
        """An update has left. train: of the latest frames then; 0: there were none yet."""
        self._published.note(update, train or self._last, time.time())

    def expected(self) -> int:
        """The number that the present mask has, or will have once it is committed."""
        return self.version + (self._published.different or self._owed is not None)

    def ask(self, number: int) -> None:
        """Put a version in force soon; 0: release. Raises ConfigError where there is none of that number."""
        if number and number not in self._numbers:
            numbers = sorted(self._numbers)
            known = f"{len(numbers)}, from {numbers[0]} to {numbers[-1]}" if numbers else "none"
            raise ConfigError(f"there is no version {number}; the store has {known}")
        self._requests.put(number)

    # Its life ---------------------------------------------------------------------------------------------------------

    def start(self, epoch: str, generation: int, least: int) -> None:
        """Once the shard is ours: find the versions, and let the last one speak. least: version number known elsewhere.

        Raises ConfigError where the store cannot be used.
        """
        self.store.prepare()
        self._life = {"epoch": epoch, "generation": generation}
        numbers = self.store.numbers()
        self._numbers = frozenset(numbers)
        newest = max(numbers, default=0)
        self.version = max(newest, least)
        self._last = self._last_train(newest)
        self._journal = Journal(self.store.journal(newest))
        try:
            pinned = self.store.pinned
        except DataError as e:
            pinned = 0
            self._alarm("pin", str(e))
        for number in (*[pinned][: bool(pinned)], *numbers[: -LOOK_BACK - 1 : -1]):
            found = self._fitting("restore", number)
            if found is not None:
                self._speak(found[1], number, pinned=number == pinned)
                return

    def step(self, status: Status, commit: bool, check: Callable[[], None]) -> None:
        """Write what is due. commit: somebody asked for a version. check: raises where the shard is not ours any more."""
        if commit:
            self._wanted = "request"
        while not self._requests.empty():
            self._answer(self._requests.get(), status, check)
        if self._owed:
            self._write_rollback(status, check)
        self._write_journal()
        if self._pinning and status.pinned == self._pinning:
            self._pinning = 0
        if not self._owed and not self._pinning and (why := self._due(status)):
            self._write(status, why, check)

    def finish(self, status: Status, check: Callable[[], None]) -> bool:
        """The last version, where it differs from the one before. Returns whether all is written."""
        self._retry = dict.fromkeys(self._retry, -float("inf"))
        if self._owed:
            self._write_rollback(status, check)
        self._write_journal()
        if not self._owed and self._published.different:
            self._write(status, "exit", check)
        if status.latest.train_id:
            self._unwritten.append({"seen": status.latest.train_id})  # what was in force until then was in force
            self._write_journal()
        return not self.alarms.keys() & {"versions", "journal"}

    # When -------------------------------------------------------------------------------------------------------------

    def _due(self, status: Status) -> str:
        """Why a version is to be written now; "": it is not."""
        now = self._clock()
        ended = status.exposures_ended != self._ended and now - self._ended_at >= ENDED_S
        if ended:
            self._ended, self._ended_at = status.exposures_ended, now
        if not self._published.different:
            self._wanted = ""
            return ""
        if ended and not self._wanted:
            self._wanted = "exposure ended"
        if now < self._retry["version"]:
            return ""
        if self._wanted:
            return self._wanted
        if now - self._written >= self._config.every_s:
            return "every_s"
        return "journal full" if self._journal.lines >= LONGEST_JOURNAL else ""

    # Writing ----------------------------------------------------------------------------------------------------------

    def _write(self, status: Status, why: str, check: Callable[[], None]) -> None:
        maps = self._published.maps()
        if not any(change.judged for change in maps.values()):
            return
        check()
        changes: dict[int, dict[MapKey, MapChange]] = {module: {} for module in self._modules}
        for key, change in maps.items():
            changes[key.module][key] = change
        masks = [assemble(replace(status, changes=changes), module) for module in self._modules]
        life = Provenance(self.version + 1, self._life["epoch"], self._life["generation"], self._digest)
        stored = {key: Flags(change.flags, int(change.judged)) for key, change in maps.items()}
        self._attempt(
            lambda: self.store.add(self._spec, masks, self._cells, life, self._making(why, status)), why, status, stored
        )

    def _write_rollback(self, status: Status, check: Callable[[], None]) -> None:
        """Write the version that is in force since a rollback, and let a restart know of it."""
        if self._clock() < self._retry["version"]:
            return
        check()
        (old, found), making = self._owed, self._making("", status)
        write = lambda: self.store.again(old, found, making, **self._life, least=self.version + 1)  # noqa: E731
        if not self._attempt(write, f"rollback of {old.number}", status, _flags(found)):
            return
        self._owed = None
        try:
            self.store.pin(self.version)
            self.alarms.pop("pin", None)
        except OSError as e:
            self._alarm("pin", f"{self.store.folder}: after a restart fits speak again: {_reason(e)}")

    def _attempt(self, write: Callable[[], int], why: str, status: Status, stored: dict[MapKey, Flags]) -> bool:
        """Write one version; after a failure say so, and try again later."""
        now = self._clock()
        try:
            number = write()
        except OSError as e:
            self._retry["version"] = now + RETRY_S
            self._alarm("versions", f"{self.store.folder}: no version can be written: {_reason(e)}; trying again")
            return False
        self.alarms.pop("versions", None)
        self.alarms.pop("restore", None)
        self._published.store(stored)
        self.version, self._numbers = number, self._numbers | {number}
        self._written, self._wanted = now, ""
        self._last = status.latest.train_id or self._last
        self._first = min(self._last + 1, HIGHEST_TRAIN)  # a corrupt id may be any
        self._journal = Journal(self.store.journal(number))
        log.info("version %d is written: %s", number, why, extra={"event": "version", "version": number})
        try:
            self._numbers -= frozenset(self.store.prune(self._config.keep))
            self.alarms.pop("prune", None)
        except (OSError, DataError) as e:
            self._alarm("prune", f"{self.store.folder}: old versions stay: {e}")
        return True

    def _making(self, why: str, status: Status) -> Making:
        last = status.latest.train_id or self._last
        came = [module.first_train for module in status.modules.values() if module.frames]
        return Making(why, self._first or min(came, default=last), last, self._settings)

    def _write_journal(self) -> None:
        """Write down what was published. What a failing disk does not take is kept, up to a bound, and counted beyond."""
        records, lost = self._published.take()
        room = MOST_RECORDS - len(self._unwritten)
        self._lost += lost + max(0, len(records) - room)
        self._unwritten += records[:room]
        if not self._unwritten or self._clock() < self._retry["journal"]:
            return
        head = [] if self._journal.lines else [{**self._life, "time": round(time.time(), 3)}]
        tail = [{"lost": self._lost}] if self._lost else []
        try:
            self._journal.append(head + self._unwritten + tail)
        except OSError as e:
            self._retry["journal"] = self._clock() + RETRY_S
            self._alarm("journal", f"{self._journal.path}: cannot be written: {_reason(e)}; trying again")
            return
        self._unwritten, self._lost = [], 0
        self.alarms.pop("journal", None)

    # What is put in force ---------------------------------------------------------------------------------------------

    def _answer(self, number: int, status: Status, check: Callable[[], None]) -> None:
        if number == 0:
            try:
                self.store.release()
            except OSError as e:
                self._alarm("pin", f"{self.store.folder}: the pin will be back after a restart: {_reason(e)}")
            else:
                self.alarms.pop("pin", None)
            self._owed, self._pinning = None, 0
            self._tell(Release())
            return
        found = self._fitting("rollback", number)
        if found is not None:
            self._write_journal()
            self._owed, self._retry["version"] = found, -float("inf")
            self._write_rollback(status, check)
            self._speak(found[1], self.version + (self._owed is not None), pinned=True)

    def _speak(self, found: MaskFile, number: int, pinned: bool) -> None:
        """Put the masks of a version in force. number: that it goes by."""
        self._published.store(_flags(found))
        kind = Pin if pinned else Restore
        self._pinning = number if pinned else 0
        self._tell(kind(number, found.masks, self._cells))

    def _fitting(self, alarm: str, number: int) -> tuple[Version, MaskFile] | None:
        """A version of this part of the detector, whole; None: it is not, and an alarm says why."""
        try:
            version = self.store.version(number)
            if not (why := version.misfit(self._spec, self._modules, self._cells)):
                found = self.store.read(number)
                self.alarms.pop("rollback", None)
                return version, found
        except RmmError as e:
            why = str(e)
        if alarm == "rollback" or alarm not in self.alarms:  # of many at a start, the newest
            self._alarm(alarm, f"version {number} in {self.store.folder} is not used: {why}")
        return None

    def _alarm(self, key: str, text: str) -> None:
        self.alarms[key] = text
        self._complaints.say(key, text, level=logging.ERROR)

    def _last_train(self, newest: int) -> int:
        """The last train that the store has heard of; 0: none."""
        lines = read_journal(self.store.journal(newest))
        if lines.seen or lines.updates:
            return lines.seen or lines.updates[-1]["after_train"]
        try:
            return self.store.version(newest).last_train if newest else 0
        except DataError:
            return 0


def _flags(found: MaskFile) -> dict[MapKey, Flags]:
    """Every map of a version."""
    return {
        MapKey(mask.module, stage, cell): Flags(mask.flags[stage, place], int(mask.judged[stage, place]))
        for mask in found.masks
        for stage in range(mask.judged.shape[0])
        for place, cell in enumerate(found.cells)
    }


def _reason(e: OSError) -> str:
    return " ".join((e.strerror or str(e)).split())
