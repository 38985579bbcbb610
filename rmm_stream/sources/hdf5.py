"""Frames from HDF5 files, read in pieces, so that memory stays bounded whatever the file holds.

Where they lie is a FrameStack, found by `frame_stack.inspect`. Knows nothing of statistics, nor what frames are for.
"""

from collections.abc import Iterator

import h5py
import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..errors import DataError
from ..frames import Exposure, FrameBatch
from .frame_stack import FrameStack, column, open_frames

PIECE_BYTES = 32 << 20  # pixels of one read; 256 frames of an AGIPD module


def frames(
    stack: FrameStack,
    spec: DetectorSpec,
    module: int,
    exposure: Exposure | None = None,
    *,
    cells: range | None = None,
    indicator: bool = True,
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[FrameBatch]:
    """The frames of one module and a range of memory cells (None: all), in the order of the file.

    indicator: False leaves the gain indicator on disk, where it comes apart: FrameBatch.gain is None then.
    Batches hold at most `piece_bytes` of pixels, at least one frame. train_id: the frame's place in the dataset where
    the file has none. timestamp: of the first frame of the batch; 0 where the file has none.
    Raises DataError where the file cannot be read or changed since `inspect`.
    """
    with open_frames(stack.path) as file:
        data = file[stack.dataset]
        cell = column(file, stack, stack.cell, np.zeros(len(stack)))
        train = column(file, stack, stack.train, np.arange(stack.first, stack.last)).astype(np.uint64)
        time = column(file, stack, stack.time, np.zeros(len(stack))).astype(np.float64)
        cells = range(spec.cells) if cells is None else cells
        wanted = np.flatnonzero((cell >= cells.start) & (cell < cells.stop))
        step = _step(data, spec, piece_bytes)
        for start in range(0, len(wanted), step):
            some = wanted[start : start + step]
            pixels, gain = _pixels(file, stack, spec, module, stack.first + some, indicator)
            yield FrameBatch(
                module=module,
                pixels=pixels,
                gain=gain,
                cell=cell[some].astype(np.uint16),
                train_id=train[some],
                complete=np.ones(len(some), bool),
                timestamp=float(time[some[0]]),
                exposure=exposure,
                labelled_by="operator" if exposure else "",
            )


def _step(data: h5py.Dataset, spec: DetectorSpec, piece_bytes: int) -> int:
    """Frames of one read: at least 1, and whole HDF5 chunks where several fit, since a chunk is unpacked as a whole."""
    step = max(1, piece_bytes // (int(np.prod(spec.module_shape)) * data.dtype.itemsize))
    chunk = data.chunks[0] if data.chunks else 1
    return step - step % chunk if step > chunk else step


def _pixels(
    file: h5py.File, stack: FrameStack, spec: DetectorSpec, module: int, places: NDArray, indicator: bool
) -> tuple[NDArray, NDArray | None]:
    """(n, ss, fs) values, and indicators or None, of the frames at these places of the dataset, ascending."""
    try:
        data = file[stack.dataset]
        pixels, gain = spec.split_raw(_read(data, stack.axes, module, 0, places).astype(spec.dtype, copy=False))
        if "kind" in stack.axes and indicator:
            gain = _read(data, stack.axes, module, 1, places).astype(spec.dtype, copy=False)
        elif stack.gain and indicator:
            gain = _read(file[stack.gain], stack.axes, module, 0, places)
            gain = gain.astype(gain.dtype.newbyteorder("="), copy=False)
    except (OSError, KeyError, ValueError) as e:
        a, b = int(places[0]), int(places[-1]) + 1
        advice = f"copy the file again, or leave them out: [{stack.first}:{a}] and [{b}:{stack.last}]"
        raise DataError(f"{stack}: frames {a} to {b - 1} cannot be read ({e}); {advice}") from None
    return pixels, gain


def _read(data: h5py.Dataset, axes: tuple[str, ...], module: int, kind: int, places: NDArray) -> NDArray:
    """(n, ss, fs): one read per unbroken run of places; a range of cells is one run per train."""
    place = {"module": module if "module" in axes and data.shape[axes.index("module")] > 1 else 0, "kind": kind}
    rest = tuple(place.get(word, slice(None)) for word in axes[1:])
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    parts = [data[(slice(int(run[0]), int(run[-1]) + 1), *rest)] for run in runs]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
