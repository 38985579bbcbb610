"""Who runs on a store: a small file with the endpoint of its requests, locked for as long as that service lives.

The lock and not a process id says whether it lives: a kill releases it, and ids are used again. Knows nothing of requests.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .atomic import replace_file

NAME = "service.json"


@dataclass(frozen=True, slots=True)
class Presence:
    """A living service. requests: endpoint of its ROUTER. shards: names of what it does. pid: for a person."""

    requests: str
    shards: tuple[str, ...]
    pid: int


class Announcement:
    """Our own presence on a store, until `withdraw`."""

    def __init__(self, directory: str | os.PathLike, requests: str, shards: Sequence[str]):
        """Takes the place of a service of the same shards: it has lost its leases.

        Raises ConfigError where a living service of other shards writes to this store, or the file cannot be written.
        """
        self.path = Path(directory) / NAME
        other = find(directory)
        if other is not None and not set(other.shards) & set(shards):
            raise ConfigError(
                f"{directory}: process {other.pid} keeps the versions of {', '.join(other.shards)} there; "
                "give this service a store.directory of its own"
            )
        self._file: int | None = None
        try:
            with replace_file(self.path) as aside:
                self._file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._file, fcntl.LOCK_EX)
                os.write(
                    self._file, json.dumps({"requests": requests, "shards": [*shards], "pid": os.getpid()}).encode()
                )
        except OSError as e:
            if self._file is not None:
                os.close(self._file)
            raise ConfigError(f"{self.path}: {e.strerror or e}; the state directory must be writable") from None

    def withdraw(self) -> None:
        """Say that nobody is there, unless another has taken our place. May be called twice."""
        if self._file is None:
            return
        try:
            if os.path.samestat(os.stat(self.path), os.fstat(self._file)):
                self.path.unlink()
        except OSError:  # gone, or not ours to remove: the lock goes with us anyway
            pass
        os.close(self._file)
        self._file = None


def find(directory: str | os.PathLike) -> Presence | None:
    """The service that lives on this store; None: there is none. Raises ConfigError for a file that says something else."""
    path = Path(directory) / NAME
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}; run this as the user of the service") from None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None  # its owner has died
    except BlockingIOError:
        pass
    finally:
        text = os.read(file, 1 << 16)
        os.close(file)
    try:
        found = json.loads(text)
        return Presence(str(found["requests"]), tuple(found["shards"]), int(found["pid"]))
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: does not say who runs here; remove it when no service runs on this store") from None
