"""What operators ask over ROUTER: checked, answered, and handed on to whoever does it.

Called in the publisher's thread, so it never waits: an answer says that a request is passed on, not that it is done.
"""

import threading

from ..config import Config
from ..detectors import DetectorSpec
from ..errors import ConfigError
from ..frames import Exposure, Illumination
from ..publisher import Request
from ..wire import requests as asked
from .crew import Crew
from .files import MaskFiles, any_judged
from .history import History
from .requests import Accept, Expose, Place, Reject


class Questions:
    """history: None where no versions are kept."""

    def __init__(self, config: Config, spec: DetectorSpec, crew: Crew, files: MaskFiles, history: History | None):
        self._config, self._spec = config, spec
        self._crew, self._files, self._history = crew, files, history
        self._commit = threading.Event()

    def commit_wanted(self) -> bool:
        """Whether a version was asked for since the last time. For the main thread."""
        wanted = self._commit.is_set()
        self._commit.clear()
        return wanted

    def answer(self, request: Request) -> dict:
        """Hand a request on, and say so. Raises ConfigError for one that makes no sense here."""
        match request:
            case asked.CommitRequest():
                return self._on_commit()
            case asked.RollbackRequest():
                return self._on_rollback(request.version)
            case asked.ReleaseRequest():
                pinned = self._crew.status.pinned
                self._needed_history().ask(0)
                return {"version": pinned}
            case asked.AcceptRequest():
                return self._on_held(Accept(*request))
            case asked.RejectRequest():
                return self._on_held(Reject(*request))
        self._check_stage(request.gain_stage)
        exposure = Exposure(Illumination(request.illumination), request.gain_stage)
        self._crew.ask(Expose(exposure, request.new, request.override))
        return {"illumination": request.illumination, "gain_stage": request.gain_stage}

    def _on_commit(self) -> dict:
        mask_file = self._config.store.mask_file
        if self._history is None and not mask_file:
            raise ConfigError(
                "store.versions is false and no store.mask_file is configured, so there is nowhere to write the mask to"
            )
        if not any_judged(self._crew.status):
            raise ConfigError("nothing is judged yet, so what is stored stays as it is; ask again after the first fits")
        self._commit.set()
        version = self._files.version + 1 if self._history is None else self._history.expected()
        return {"version": version, **({"mask_file": mask_file} if mask_file else {})}

    def _on_rollback(self, number: int) -> dict:
        if number == 0:
            raise ConfigError("versions are numbered from 1")
        history = self._needed_history()
        history.ask(number)
        return {"version": history.version + 1, "of": number}

    def _on_held(self, request: Accept | Reject) -> dict:
        self._check_place(request)
        status = self._crew.status
        self._crew.ask(request)
        return {"held": sum(m.held for m in status.modules.values() if request.module in (None, m.module))}

    def _needed_history(self) -> History:
        if self._history is None:
            raise ConfigError("store.versions is false: no versions are kept, so there is nothing to go back to")
        return self._history

    def _check_place(self, place: Place) -> None:
        status = self._crew.status
        self._check_stage(place.gain_stage)
        if place.module is not None and place.module not in status.modules:
            raise ConfigError(f"module {place.module}; this service does {', '.join(map(str, status.modules))}")
        if place.cell is not None and place.cell not in status.cells:
            raise ConfigError(f"cell {place.cell}; this service does {status.cells[0]} to {status.cells[-1]}")

    def _check_stage(self, stage: int | None) -> None:
        stages = len(self._spec.stages)
        if stage is not None and stage >= stages:
            raise ConfigError(f"gain stage {stage}; {self._spec.name} has 0 to {stages - 1}")
