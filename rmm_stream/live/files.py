"""The files of a running service: when the live file and the mask file are written, and with which version.

Where versions are kept, the mask file is a copy of the newest one; else it is written, and numbered, here. A mask of which
nothing is judged replaces no file: a restart keeps the masks of the life before until it knows better.
Called by one thread, never by the worker: a slow disk delays a file, not a frame. A disk that fails is an alarm and is
tried again; publication goes on.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace

from ..config import Store
from ..detectors import DetectorSpec
from ..errors import ConfigError, DataError
from ..mask import Mask
from ..sources.complaints import Complaints
from ..storage.atomic import replace_file
from ..storage.live_file import write_live
from ..storage.mask_file import Provenance, read_mask, write_mask
from .history import History
from .status import Status, assemble

log = logging.getLogger(__name__)

LIVE_S = 1.0  # least time between two live files
MASK_S = 30.0  # least time between two mask files that nobody asked for
RETRY_S = 10.0  # after a failure


def any_judged(status: Status) -> bool:
    """Whether any map has a verdict."""
    return any(change.judged for maps in status.changes.values() for change in maps.values())


class MaskFiles:
    """Mutable; one owner. written: version of the mask file, 0 where there is none; goes on from what is on disk."""

    def __init__(
        self,
        store: Store,
        spec: DetectorSpec,
        settings_digest: str,
        clock: Callable[[], float] = time.monotonic,
        history: History | None = None,
    ):
        """history: of the same service, where versions are kept."""
        self._store, self._spec, self._digest, self._clock = store, spec, settings_digest, clock
        self._complaints, self._history = Complaints(log, clock), history
        self._live_serial = -1  # where there is no live file yet, one is written at the start: a reader finds it
        self._live_after = self._mask_after = -float("inf")
        self._ended = 0
        self._kept: set[str] = set()  # files that the log has spoken of
        self.written = self._found()
        self.alarms: dict[str, str] = {}

    @property
    def version(self) -> int:
        """The newest stored version; 0: none."""
        return self.written if self._history is None else self._history.version

    def step(self, status: Status, commit: bool = False) -> None:
        """Write what is due. commit: the mask file is asked for, and its time has come."""
        now = self._clock()
        serial = sum(module.serial for module in status.modules.values())
        if self._store.live_file and serial != self._live_serial and now >= self._live_after:
            done = self._attempt("live_file", self.write_live, status)
            self._live_after = now + (LIVE_S if done else RETRY_S)
            self._live_serial = serial if done else self._live_serial
        if self._history is not None:
            if self._store.mask_file and self.written != self.version and now >= self._mask_after:
                self._mask_after = now + (0 if self._attempt("mask_file", self.copy_version, status) else RETRY_S)
            return
        ended = status.exposures_ended != self._ended and now >= self._mask_after
        if self._store.mask_file and (commit or ended):
            done = self._attempt("mask_file", self.write_mask, status)
            self._mask_after = now + (MASK_S if done else RETRY_S)
            self._ended = status.exposures_ended if done else -1  # -1: try again

    def finish(self, status: Status) -> bool:
        """Write both for the last time, where there is anything to say. Returns whether that went well."""
        live = not self._store.live_file or self._attempt("live_file", self.write_live, status)
        write = self.write_mask if self._history is None else self.copy_version
        mask = not self._store.mask_file or self._attempt("mask_file", write, status)
        return live and mask

    def write_live(self, status: Status) -> None:
        """Replace the live file. Raises OSError."""
        write_live(self._store.live_file, self._spec, self._masks(status), provenance=self._provenance(status))

    def write_mask(self, status: Status) -> None:
        """Replace the mask file by the next version. Raises OSError."""
        provenance = replace(self._provenance(status), version=self.written + 1)
        write_mask(self._store.mask_file, self._spec, self._masks(status), cells=status.cells, provenance=provenance)
        self.written += 1
        log.info("mask written to %s", self._store.mask_file, extra={"event": "mask", "version": self.written})

    def copy_version(self, status: Status) -> None:
        """Make the mask file equal to the newest version, where it is not. Raises OSError."""
        if self.written != self.version:
            with replace_file(self._store.mask_file) as aside:
                shutil.copyfile(self._history.store.path(self.version), aside)
            self.written = self.version

    def _attempt(self, key: str, write: Callable[[Status], None], status: Status) -> bool:
        """Write one file, unless that would cost a good one. Returns whether nothing is left to do."""
        if not any_judged(status) and os.path.exists(getattr(self._store, key)):
            if key not in self._kept:
                self._kept.add(key)
                log.info("store.%s is kept as found while no map is judged", key, extra={"event": "mask"})
            return True
        try:
            write(status)
        except OSError as e:
            why = " ".join((e.strerror or str(e)).split())
            self.alarms[key] = f"store.{key} cannot be written: {why}; trying again"
            self._complaints.say(key, self.alarms[key], level=logging.ERROR)
            return False
        self.alarms.pop(key, None)
        return True

    def _masks(self, status: Status) -> list[Mask]:
        return [assemble(status, module) for module in status.overlay]

    def _provenance(self, status: Status) -> Provenance:
        return Provenance(self.version, status.epoch, status.generation, self._digest)

    def _found(self) -> int:
        """The version of the mask file of an earlier life; 0 where there is none, or none that can be read."""
        if not self._store.mask_file:
            return 0
        try:
            return read_mask(self._store.mask_file).provenance.version
        except DataError as e:
            log.warning("versions start again from 1: %s", e, extra={"event": "mask"})
        except ConfigError:  # there is none yet
            return 0
        return 0
