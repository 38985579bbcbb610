"""python -m tests.bench.quality.environment: build the environment of the real peak finder, once. Prints where it is.

psana's peakfinder8 is one extension module; it is loaded alone, so that numpy is all it needs beside it: psana's other
dependencies (MPI, Kerberos) must be compiled on many machines and are never imported.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = ("psana==4.3.4", "numpy>=2,<3")
VARIABLE = "RMM_STREAM_PEAKFINDER"  # another place for the environment
TIMEOUT_S = 300.0
READY = "ready"


class NoPeakFinder(Exception):
    """Why there is no peak finder, in one line."""


def place() -> Path:
    """Where the environment is, or would be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(VARIABLE) or cache / "rmm-stream" / f"peakfinder-{PACKAGES[0].replace('==', '-')}")


def python() -> Path | None:
    """The interpreter of the environment; None where it was not built."""
    found = place()
    return found / "bin" / "python" if (found / READY).exists() else None


def build() -> Path:
    """The interpreter of the environment, built now unless it is there. Raises NoPeakFinder."""
    if (ready := python()) is not None:
        return ready
    where = place()
    try:
        where.mkdir(parents=True, exist_ok=True)
        venv.create(where, clear=True, with_pip=True)
        command = [
            where / "bin" / "python",
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            *PACKAGES,
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S, env=plain_variables())
    except subprocess.CalledProcessError as e:
        told = (e.stderr or b"").decode(errors="replace").strip().splitlines() or [str(e)]
        raise NoPeakFinder(f"pip could not install {', '.join(PACKAGES)} into {where}: {told[-1]}") from None
    except (OSError, subprocess.TimeoutExpired) as e:
        raise NoPeakFinder(f"no environment could be built in {where}: {e}") from None
    (where / READY).touch()
    return where / "bin" / "python"


def plain_variables() -> dict[str, str]:
    """The environment variables without those that would let our own packages in."""
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def main() -> int:
    try:
        print(build())
    except NoPeakFinder as e:
        print(f"no peak finder: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
