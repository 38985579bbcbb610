"""The truth file: what was planted, as HDF5, complete before the first frame is sent.

Datasets: `/defects`, a table with one row per defect and map (columns: `scene.TABLE`); `/planted`, u1 (modules, stages,
cells, ss, fs), 0 where a pixel is good; `/module`, `/cell`: ids of its axes. Knows nothing of masks.
"""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .simulated import SimulatedDetector


@dataclass(frozen=True, slots=True)
class Truth:
    """What was planted. defects: rows of `scene.TABLE`. planted: (modules, stages, cells, ss, fs) uint8, 0 good."""

    detector: str
    defects: NDArray
    planted: NDArray
    modules: tuple[int, ...]
    cells: tuple[int, ...]


def write_truth(path: str | os.PathLike, detector: SimulatedDetector) -> None:
    """Write the truth file. Raises OSError. To replace one under a reader's eyes, write aside and rename."""
    plan = [
        {"illumination": s.exposure.illumination.value, "gain_stage": s.exposure.gain_stage, "trains": s.trains}
        for s in detector.plan.segments
    ]
    image = io.BytesIO()  # HDF5 itself must never meet a full disk: it could not let go of the file, see storage
    with h5py.File(image, "w") as file:
        file["defects"] = detector.defects
        file.create_dataset("planted", data=detector.planted, compression="gzip", compression_opts=1, shuffle=True)
        file["module"] = np.array(detector.modules, np.uint16)
        file["cell"] = np.array(detector.cells, np.uint16)
        file.attrs["detector"] = detector.spec.name
        file.attrs["seed"] = detector.seed
        file.attrs["first_train"] = detector.plan.first_train
        file.attrs["plan"] = json.dumps(plan)
    Path(path).write_bytes(image.getbuffer())


def read_truth(path: str | os.PathLike) -> Truth:
    """The contents of a truth file. Raises DataError for another kind of file, OSError where there is none."""
    with h5py.File(path) as file:
        lacking = [name for name in ("defects", "planted", "module", "cell") if name not in file]
        if lacking:
            raise DataError(f"{path}: not a truth file, it has no {', '.join(lacking)}; `simulate --truth` writes one")
        return Truth(
            str(file.attrs["detector"]),
            file["defects"][:],
            file["planted"][:],
            tuple(int(m) for m in file["module"]),
            tuple(int(c) for c in file["cell"]),
        )
