"""How far a long command is: a bar on a terminal, a line now and then in a log. Always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

EVERY_S = 10.0


class Report:
    """`at(done, text)`: how much is done, and a word about it. Mutable; used by one thread."""

    def __init__(self, what: str, total: int, bar: Progress | None, every_s: float = EVERY_S):
        self._what, self._total, self._bar, self._every_s = what, total, bar, every_s
        self._task = None if bar is None else bar.add_task(what, total=total, text="")
        self._said = time.monotonic()

    def at(self, done: int, text: str = "") -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self._said >= self._every_s or done == self._total:
            self._said = now
            print(f"{self._what}: {done} of {self._total} {text}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int, every_s: float = EVERY_S) -> Iterator[Report]:
    """A Report on `total` steps of `what`. every_s: between two lines of a log."""
    if not sys.stderr.isatty():
        yield Report(what, total, None, every_s)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Report(what, total, bar)
