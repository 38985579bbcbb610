"""Interleaved timing: every candidate runs once per round, CPU time of this thread, medians over rounds."""

import statistics
import time
from collections.abc import Callable, Mapping

ROUNDS = 9


def medians(candidates: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each candidate, after one call that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for counted in range(rounds + 1):
        for name, call in candidates.items():
            begin = time.thread_time()
            call()
            if counted:
                times[name].append(time.thread_time() - begin)
    return {name: statistics.median(t) for name, t in times.items()}
