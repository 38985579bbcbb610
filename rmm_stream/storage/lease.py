"""The generation of a shard: taken from disk under a lock, increased, made durable, then used; re-read, and refused.

A process that was frozen and replaced goes on when it is thawed. It learns here that it is no longer the owner, and
clients learn it from its lower generation. Knows nothing of what the owner does.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, LeaseLost
from .atomic import replace_file

LOCK_S = 5.0  # the lock is held for milliseconds; whoever holds it longer hangs
HIGHEST = 2**63 - 1  # on the wire


@dataclass(frozen=True, slots=True)
class Lease:
    """Ownership of one shard by one process, once. generation: 1 at the first start, one more at each later one."""

    path: Path
    shard: str
    generation: int
    owner: str

    @classmethod
    def take(cls, directory: str | os.PathLike, shard: str) -> "Lease":
        """Become the owner; whoever owned the shard before loses it. On return the new generation is on disk.

        Raises ConfigError where the directory cannot be written, another process hangs on the lock, or the file does
        not hold a lease: starting again from 1 would be refused by every client, so a person has to look.
        """
        path = Path(directory) / f"{shard}.lease"
        owner = os.urandom(8).hex()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path):
                generation = (_read(path)["generation"] if path.exists() else 0) + 1
                _write(path, {"generation": generation, "owner": owner, **_who()})
        except OSError as e:
            raise ConfigError(f"lease {path}: {e.strerror or e}; the state directory must be writable") from None
        return cls(path, shard, generation, owner)

    def check(self) -> None:
        """Raises LeaseLost if another process has taken the shard, or the file is gone. Reads the disk each time."""
        try:
            found = _read(self.path)
        except FileNotFoundError:
            raise LeaseLost(f"lease {self.path} is gone; ours was generation {self.generation}") from None
        except ConfigError as e:
            raise LeaseLost(str(e)) from None
        if (found["generation"], found["owner"]) != (self.generation, self.owner):
            by = f"{found.get('host', '?')}, process {found.get('pid', '?')}"
            raise LeaseLost(
                f"shard {self.shard} has generation {found['generation']} now, taken by {by}; ours is {self.generation}"
            )

    def release(self) -> None:
        """Give the shard up, where it is still ours. The generation stays on disk, and `check` fails from now on."""
        with _locked(self.path):
            try:
                self.check()
            except LeaseLost:
                return  # it is not ours to give
            _write(self.path, {"generation": self.generation, "owner": "", **_who()})


def _who() -> dict:
    """For the person who reads the file."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _read(path: Path) -> dict:
    """Raises ConfigError for anything but a lease, FileNotFoundError where there is none."""
    try:
        found = json.loads(path.read_bytes()[:1024])
        generation, owner = found["generation"], found["owner"]
        if type(generation) is not int or not 0 < generation < HIGHEST or type(owner) is not str:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(
            f"{path} does not hold a lease; put the last generation that clients saw there, as "
            '{"generation": 7, "owner": ""}, or remove the file and restart every client'
        ) from None
    return found


def _write(path: Path, lease: dict) -> None:
    with replace_file(path) as aside:
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "w") as out:
            json.dump(lease, out)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes of this directory. The lock file stays: removing it would let two in."""
    file = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(f"{path}: a process hangs while it holds the lock; find it and end it") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(file)
