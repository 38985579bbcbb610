"""The receiver: one thread that takes messages from a source and hands them to the workers' queues. Owns the source.

What it drops because the worker is slow is counted, frame by frame; the statistics hold on fewer frames.
"""

import contextlib
import logging
import queue
import threading
from collections import Counter
from collections.abc import Sequence

from ..frames import FrameBatch
from .crew import Lane, frames_of
from .status import SourceStatus

log = logging.getLogger(__name__)

POLL_S = 0.1  # also how soon a stop is noticed
LAST_S = 10.0  # how long a blocked message still waits for its place after a stop


class Receiver:
    """A loop over `source.receive`.

    source: receive(timeout_s) -> list of FrameBatch, tally, connected, close(). lanes: a bounded queue of such lists for each
    worker.
    when_full: "drop-oldest" | "block". turns: of the loop; grows while the thread lives, whether frames come or not.
    """

    def __init__(self, source, lanes: Sequence[Lane], when_full: str, endpoint: str):
        self._source, self._lanes, self._endpoint = source, lanes, endpoint
        self._block = when_full == "block"
        self._dropped: Counter[tuple[int, str]] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self.turns = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end. Returns at once; `join` waits."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end. Returns whether it has. A thread that never started leaves the source to us."""
        if self._thread.ident is None:
            self._source.close()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def status(self) -> SourceStatus:
        """What came and what was lost, as of now. Any thread may ask."""
        tally = self._source.tally.snapshot()
        return SourceStatus(
            endpoint=self._endpoint,
            messages=tally.messages,
            nbytes=tally.nbytes,
            malformed=tally.malformed,
            rejected=tally.rejected + self._dropped,
            missed=tally.missed,
            series=tally.series,
            disconnects=tally.disconnects,
            resets=tally.resets,
            connected=self._source.connected,
        )

    def hand_on(self, batches: Sequence[FrameBatch]) -> None:
        """Put one message in the queue of each worker; if one is full, wait, or make room by dropping its oldest."""
        for lane in self._lanes:
            self._put(lane, batches)

    def _put(self, lane: Lane, batches: Sequence[FrameBatch]) -> None:
        waited = 0.0
        while True:
            try:
                lane.frames.put(batches, timeout=POLL_S if self._block else None, block=self._block)
                return
            except queue.Full:
                self.turns += 1
            if not self._block:
                with contextlib.suppress(queue.Empty):  # the worker was faster, and there is room now
                    self._drop(lane.frames.get_nowait(), lane.cells)
            elif self._stop.is_set():
                waited += POLL_S
                if waited > LAST_S:
                    self._drop(batches, lane.cells)
                    return

    def _drop(self, batches: Sequence[FrameBatch], cells: range) -> None:
        dropped = self._dropped.copy()
        for module, frames in frames_of(batches, cells).items():
            dropped[module, "queue_full"] += frames
        self._dropped = dropped  # replaced as a whole: another thread may be reading the old one

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                batches = self._source.receive(POLL_S)
                self.turns += 1
                if batches:
                    self.hand_on(batches)
        except Exception as e:
            self.error = e
            log.exception("the receiver failed", extra={"event": "failed"})
        finally:
            self._source.close()
