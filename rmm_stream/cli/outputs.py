"""Files that a command will write: that they can be written, and are none of those that it reads. Writes nothing."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError


def check_writable(path: str | os.PathLike) -> None:
    """Better now than after an hour. Raises ConfigError."""
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a directory; name a file")
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"{path}: there is no directory {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{path}: {folder} is not writable")


def check_apart(path: str | os.PathLike, others: Iterable[tuple[str, str | os.PathLike]]) -> None:
    """Raises ConfigError where a file to write is one of the others, under any name. others: what each is, and where."""
    for what, other in others:
        if _same(path, other):
            raise ConfigError(f"{path} is {what}, which would be overwritten: name another file")


def _same(a: str | os.PathLike, b: str | os.PathLike) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:  # one of them does not exist yet
        return Path(a).resolve() == Path(b).resolve()
