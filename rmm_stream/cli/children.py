"""The processes that the demo starts: each with its log file, all ended when the demo ends, however it ends.

Each holds the end of a pipe to the demo, which closes even where the demo is killed (`tethered`).
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from ..errors import RmmError

GRACE_S = 10.0  # between asking a process to stop and killing it
TAIL = 5  # lines of a log that are shown when its process fails

#: Three processes share few cores: libraries shall not each start a thread per core.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class ChildFailed(RmmError):
    """A process of the demo ended that should not have."""


class Children:
    """Processes by name. Mutable; one owner. Use in a `with` statement."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._processes: dict[str, subprocess.Popen] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Start `python -m arguments`; what it prints goes to its log."""
        with self.log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "rmm_stream.cli.tethered", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is for the demo, which ends them in the right order
            )

    def log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def check(self) -> None:
        """Raises ChildFailed for a process that ended with an error."""
        for name, process in self._processes.items():
            if process.poll() not in (None, 0):
                raise ChildFailed(self._obituary(name))

    def running(self, name: str) -> bool:
        return self._processes[name].poll() is None

    def finish(self, name: str, timeout_s: float) -> None:
        """Ask a process to stop and wait for it. Raises ChildFailed where it does not, or with an error."""
        process = self._processes[name]
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"{name} did not stop within {timeout_s:g} s; see {self.log(name)}") from None
        if process.returncode:
            raise ChildFailed(self._obituary(name))

    def _obituary(self, name: str) -> str:
        lines = self.log(name).read_text("utf-8", "replace").strip().splitlines()
        code = self._processes[name].returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{name} {how}; {self.log(name)} ends with: {' | '.join(lines[-TAIL:]) or 'nothing'}"

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_) -> None:
        left = [process for process in self._processes.values() if process.poll() is None]
        for process in left:
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in left:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in self._processes.values():
            process.stdin.close()  # not before: it asks the process to stop
