"""The journal of a version: one JSON line for each update that was published after it, until the next version.

Append-only. A kill leaves at most a torn last line, which readers count and skip. Knows nothing of masks.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple


class Lines(NamedTuple):
    """What a journal holds. damaged: lines that cannot be read. lost: updates that could not be written down.

    seen: the last train that a service had seen when it stopped; 0: it did not say."""

    updates: list[dict]
    damaged: int = 0
    lost: int = 0
    seen: int = 0


class Journal:
    """One file to append to. Mutable; one owner. lines: how many this owner has written."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.lines = 0

    def append(self, records: Sequence[dict]) -> None:
        """Write the records, all or none. Raises OSError."""
        data = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records).encode()
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":  # torn by a kill; what follows must not join it
                data = b"\n" + data
            try:
                while data:
                    data = data[os.write(file, data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, size)
                raise
        finally:
            os.close(file)
        self.lines += len(records)


def read_journal(path: str | os.PathLike) -> Lines:
    """Every update in its order, with the epoch and generation of the life that it belongs to. No file: no updates."""
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        return Lines([])
    return _parse(text.splitlines())


def _parse(lines: Iterable[bytes]) -> Lines:
    updates, damaged, lost, seen, life = [], 0, 0, 0, {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            damaged += 1
            continue
        if not isinstance(record, dict):
            damaged += 1
        elif "epoch" in record:
            life = record
        elif isinstance(record.get("lost"), int):
            lost += record["lost"]
        elif isinstance(record.get("seen"), int):
            seen = record["seen"]
        elif isinstance(record.get("after_train"), int):
            updates.append({**record, "epoch": life.get("epoch", ""), "generation": life.get("generation", 0)})
        else:
            damaged += 1
    return Lines(updates, damaged, lost, seen)
