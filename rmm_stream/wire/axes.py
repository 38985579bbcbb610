"""The order of an array's axes, named by the configuration: "fs ss cell" -> (cell, ss, fs), C-contiguous, and back.

Nothing is ever guessed from a shape (LPD modules are square); a shape that contradicts the names is refused.
"""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..errors import ProtocolError

#: Length of the axis "kind" of a raw AGIPD file: analogue value, gain indicator.
KINDS = 2
ORDER = ("module", "kind", "cell", "ss", "fs")


@dataclass(frozen=True, slots=True)
class Axes:
    """The words of one array, outermost first; from config `source.axes`."""

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Axes":
        return cls(tuple(text.split()))

    def __contains__(self, word: str) -> bool:
        return word in self.words

    def __str__(self) -> str:
        return " ".join(self.words)

    def check(self, shape: tuple[int, ...], spec: DetectorSpec) -> None:
        """Raises ProtocolError("shape") where the array contradicts the detector; "cell" may have any length."""
        ss, fs = spec.module_shape
        sides = {"module": spec.modules, "kind": KINDS, "ss": ss, "fs": fs}
        expected = [sides.get(word) for word in self.words]
        if len(shape) != len(expected) or any(e not in (None, s) for s, e in zip(shape, expected)):
            wanted = ", ".join(f"{w} {'any' if e is None else e}" for w, e in zip(self.words, expected))
            raise ProtocolError(
                "shape",
                f"array of shape {list(shape)}, but the configured axes of {spec.name} are ({wanted}); "
                "correct source.axes, or the detector's description",
            )

    def count(self, shape: tuple[int, ...]) -> int:
        """Frames of a module in an array of this shape, which has been checked; 1 without an axis "cell"."""
        return shape[self.words.index("cell")] if "cell" in self.words else 1

    def frames(self, array: NDArray, module: int, kind: int = 0) -> NDArray:
        """(n, ss, fs), C-contiguous, of one module; a view where the order fits. The shape has been checked."""
        index = {"module": module, "kind": kind}
        picked = array[tuple(index.get(word, slice(None)) for word in self.words)]
        words = [word for word in self.words if word not in index]
        if "cell" not in words:
            picked, words = picked[None], ["cell", *words]
        if words[-1] == "cell":
            return _gather_rows(picked, words)
        return np.ascontiguousarray(picked.transpose([words.index(w) for w in ("cell", "ss", "fs")]))

    def join(self, frames: NDArray) -> NDArray:
        """The inverse, for simulators: (module, kind, n, ss, fs) -> an array in this order, C-contiguous.

        Axes that the order lacks have length 1 in `frames`.
        """
        lacking = tuple(i for i, word in enumerate(ORDER) if word not in self.words)
        present = [word for word in ORDER if word in self.words]
        return np.ascontiguousarray(frames.squeeze(lacking).transpose([present.index(w) for w in self.words]))


def _gather_rows(picked: NDArray, words: list[str]) -> NDArray:
    """(n, ss, fs) from an array whose fastest axis is the cell, the order of the online calibration.

    A few rows at a time through a block that fits in the cache: 15 ms for an AGIPD module of 352 cells, where numpy's own
    transposed copy needs 74 ms, too long beside a train every 100 ms. numpy turns words one by one, but splits many at once,
    so two cells are turned as one word of both.
    """
    lines = picked.transpose([words.index(word) for word in ("fs", "ss", "cell")])
    fs, ss, n = lines.shape
    out = np.empty((n, ss, fs), picked.dtype)
    if n % 2 or lines.strides[-1] != lines.itemsize or lines.itemsize not in _PAIR:
        for row in range(ss):
            out[:, row] = np.ascontiguousarray(lines[:, row]).T
        return out
    pair = _PAIR[lines.itemsize]
    pairs, halves = lines.view(pair), out.view(f"u{lines.itemsize}").reshape(n // 2, 2, ss, fs)
    for row in range(0, ss, ROWS):
        block = np.ascontiguousarray(pairs[:, row : row + ROWS])
        turned = block.T.copy()
        halves[:, LOW, row : row + ROWS] = turned  # narrowed: the low half stays
        turned >>= 8 * lines.itemsize
        halves[:, 1 - LOW, row : row + ROWS] = turned
    return out


#: Rows that are turned at a time: of an AGIPD module 360 KB, half of a core's second cache.
ROWS = 4
_PAIR = {1: np.dtype(np.uint16), 2: np.dtype(np.uint32), 4: np.dtype(np.uint64)}
LOW = 0 if sys.byteorder == "little" else 1  # of two cells side by side, which is the low half of their word
