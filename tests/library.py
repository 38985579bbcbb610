"""The authors' library, RobustGaussianFittingLibrary 0.2.5, as oracle: always in a process of its own, with a timeout.

It leaks, may crash and may never return, so each batch of fits is one process. Our results are never computed
here, and the library is imported nowhere else.
"""

import importlib.util
import io
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

NAME = "RobustGaussianFittingLibrary"
TIMEOUT_S = 120.0
MANY_TIES = 5000  # values; beyond it equal residuals make the library's sort quadratic


def require_library() -> None:
    """Skip the test, in one line, where the library is not installed."""
    if importlib.util.find_spec(NAME) is None:
        pytest.skip(f"needs the authors' library as oracle: pip install {NAME}==0.2.5")


def fit_values(vectors: Sequence[NDArray], lambda_fit: float = 3.0) -> NDArray:
    """(n, 2) float64: robust mean and sigma_raw of each vector, started from its median."""
    lengths = np.array([len(v) for v in vectors], np.int64)
    return _ask("values", np.concatenate(vectors), lengths, lambda_fit)


def fit_maps(maps: NDArray, tile: tuple[int, int], use: NDArray | None = None, lambda_fit: float = 3.0) -> NDArray:
    """(2, n, ss, fs) float64: plane and sigma_raw at every pixel of n maps, tile by tile.

    maps: (n, ss, fs), finite, sides multiples of the tile's. use: (n, ss, fs) bool, False where a pixel takes no part.
    """
    assert np.isfinite(maps).all(), "one nan makes the library return 0: mask by `use`"
    assert all(side % t == 0 for side, t in zip(maps.shape[1:], tile)), "the library would shift the last tile"
    return _ask("maps", maps, np.array(tile), lambda_fit, *(() if use is None else (use,)))


def _ask(question: str, *arrays) -> NDArray:
    """The answer of one child process. Arrays go in and come out as one npz on stdin and stdout."""
    asked = io.BytesIO()
    np.savez(asked, *(np.asarray(a) for a in arrays))
    child = subprocess.run(
        [sys.executable, __file__, question],
        input=asked.getvalue(),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if child.returncode:
        pytest.fail(f"{NAME} ended with {child.returncode}: {child.stderr.decode(errors='replace')[-500:]}")
    return np.load(io.BytesIO(child.stdout), allow_pickle=False)["answer"].astype(np.float64)


def _values(library, values, lengths, lambda_fit):
    answer = []
    for x in np.split(values.astype(np.float32), np.cumsum(lengths)[:-1]):
        start = float(np.median(x)) or 1e-3  # a start of 0 is taken for "no start"
        answer.append(library.fitValue(x, modelValueInit=start, MSSE_LAMBDA=float(lambda_fit)))
    return np.array(answer)


def _maps(library, maps, tile, lambda_fit, use=None):
    # the order of winX and winY matters only where a tile is not square, and no test needs that
    return library.fitBackgroundTensor(
        maps.astype(np.float32),
        None if use is None else use.astype(np.int8),
        winX=int(tile[0]),
        winY=int(tile[1]),
        certainRatio=0.35,
        MSSE_LAMBDA=float(lambda_fit),
        numStrides=0,
    )


def main() -> None:
    """The child: one question, one answer."""
    import RobustGaussianFittingLibrary as library

    asked = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    answer = {"values": _values, "maps": _maps}[sys.argv[1]](library, *(asked[name] for name in asked.files))
    reply = io.BytesIO()
    np.savez(reply, answer=answer)
    sys.stdout.buffer.write(reply.getvalue())


if __name__ == "__main__":
    main()
