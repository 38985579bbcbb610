"""Run a module as `python -m` does, and end when standard input closes: `python -m rmm_stream.cli.tethered MODULE ...`.

The process that holds the other end of the pipe may be killed; what it started then stops as on SIGTERM.
"""

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Raises what the module raises."""
    threading.Thread(target=_follow, args=(sys.stdin.fileno(),), daemon=True, name="tether").start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _follow(pipe: int) -> None:
    """To the main thread, which alone handles signals, so that it wakes from whatever it waits for."""
    while os.read(pipe, 4096):
        pass
    signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)


if __name__ == "__main__":
    main()
