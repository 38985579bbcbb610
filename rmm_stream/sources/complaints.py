"""Log lines that cannot flood: the first of a kind in full, then at most one a minute with the number in between."""

import logging
import time
from collections.abc import Callable

INTERVAL = 60.0  # s


class Complaints:
    """Mutable; one thread. The kinds must be a closed set, such as reasons."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic):
        self._log, self._clock = log, clock
        self._last: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    def say(self, kind: str, text: str, *, level: int = logging.WARNING, exc_info: bool = False) -> None:
        """Log `text`, or only count it where its kind was logged less than INTERVAL ago."""
        now = self._clock()
        if kind in self._last and now - self._last[kind] < INTERVAL:
            self._silent[kind] = self._silent.get(kind, 0) + 1
            return
        self._last[kind] = now
        more = self._silent.pop(kind, 0)
        since = f" ({more} more of the kind {kind} since the last line)" if more else ""
        self._log.log(level, "%s%s", text, since, exc_info=exc_info, extra={"event": kind})
