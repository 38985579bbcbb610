"""From a configuration to the parts of a service. Reads the files that it names; opens no socket, writes nothing.

All that can be wrong with a configuration is found here, so that `check` and `run` refuse the same ones.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from ..config import Config
from ..detectors import DetectorSpec
from ..errors import ConfigError
from ..exposure import ExposureLabeler
from ..policy import MaskPolicy
from ..policy.overlay import overlay
from ..rmm import MaskMaker
from ..shard import Shard
from ..storage.static_mask import read_static_masks
from ..wire import make_decoder
from ..wire.decoder import Decoder
from .status import ModuleStatus, Status


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What one worker owns, and what it starts from."""

    labeler: ExposureLabeler
    maker: MaskMaker
    policy: MaskPolicy
    status: Status


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service starts from. shards: of all workers."""

    spec: DetectorSpec
    shards: tuple[Shard, ...]
    decoder: Decoder
    workers: tuple[WorkerParts, ...]


def prepare(config: Config) -> Parts:
    """Raises ConfigError: a file that is not there or does not fit, a source that does not fit the detector."""
    spec, modules, cells = config.detector.spec(), config.modules, config.cells
    check_places(config)
    static = read_static_masks(config.policy.static_masks, spec)
    overlays = {module: overlay(spec, static.get(module)) for module in modules}
    parts = Shard(modules[0], cells[0], cells[-1]).split(config.shards.workers)
    workers = tuple(_worker(config, spec, part.cells, static, overlays) for part in parts)
    shards = tuple(Shard(module, part.first, part.last) for part in parts for module in modules)
    return Parts(spec, shards, make_decoder(config), workers)


def _worker(
    config: Config, spec: DetectorSpec, cells: range, static: dict[int, NDArray], overlays: dict[int, NDArray]
) -> WorkerParts:
    """overlays: (ss, fs) uint8 EDGE | USER by module."""
    modules, maps = config.modules, len(spec.stages) * len(cells)
    names = [Shard(module, cells[0], cells[-1]).name for module in modules]
    return WorkerParts(
        labeler=ExposureLabeler(config.exposure.default_exposure),
        maker=MaskMaker(spec, modules, cells, config.settings, {m: static[m] for m in modules if m in static}),
        policy=MaskPolicy(spec, overlays, cells, config.policy),
        status=Status(
            detector=spec.name,
            stages=len(spec.stages),
            cells=cells,
            modules={module: ModuleStatus(module, maps) for module in modules},
            shard=names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}",
            overlay=overlays,
        ),
    )


def check_places(config: Config) -> None:
    """Raises ConfigError where a file that the service shall write has no directory to be written in."""
    for key in ("mask_file", "live_file"):
        path = getattr(config.store, key)
        if path and not os.access(Path(path).absolute().parent, os.W_OK | os.X_OK):
            where = Path(path).absolute().parent
            problem = "may not be written to" if where.is_dir() else "does not exist"
            raise ConfigError(f"store.{key} = {path!r}: the directory {where} {problem}")
        if path and Path(path).is_dir():
            raise ConfigError(f"store.{key} = {path!r}: is a directory; name a file in it")
    state = state_directory(config)
    if state.exists() and not state.is_dir():
        raise ConfigError(f"store.directory = {str(state)!r}: is not a directory")


def state_directory(config: Config) -> Path:
    """Where the lease lives: store.directory, else $STATE_DIRECTORY, else ./state."""
    named = config.store.directory or os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "state"
    return Path(named)
