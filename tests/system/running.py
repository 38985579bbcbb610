"""A service in this process, with its main loop in a thread; so that a test may look at its statistics afterwards."""

import contextlib
import threading
import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from rmm_stream.config import Config, parse
from rmm_stream.live.service import Service

WAIT_S = 60.0  # how long a test waits for what should take a moment; never a measure of speed


class Running:
    """A service that turns until it is halted. Raises what its start raises."""

    def __init__(self, config: Config):
        self.service = Service(config)
        self.service.start()
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()

    def _turn(self) -> None:
        while not self._stop.wait(0.02) and self.error is None:
            try:
                self.service.step()
            except Exception as e:
                self.error = e

    def halt(self) -> None:
        self._stop.set()
        self._thread.join()

    def until(self, true, what: str) -> None:
        """Wait until `true(status)`; what: for the message of the test that waited in vain."""
        deadline = time.monotonic() + WAIT_S
        while not true(self.service.status()):
            if self.error is not None:
                raise self.error
            assert time.monotonic() < deadline, f"no {what} within {WAIT_S} s: {self.service.status()}"
            time.sleep(0.01)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.service.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Sum over the samples of a metric that carry these labels."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [s for family in families for s in family.samples if s.name == f"rmm_stream_{name}"]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())


@contextlib.contextmanager
def running(toml: str):
    """A service of a configuration, stopped properly, unless the test has ended it itself."""
    service = Running(parse(toml))
    try:
        yield service
    finally:
        service.halt()
        if service.error is None and service.service.status().state in ("running", "starting"):
            service.service.stop()
        else:
            service.service.abandon()


def frames_seen(status) -> int:
    """Frames that the worker has taken, accepted or not."""
    return sum(module.frames for module in status.modules.values())
