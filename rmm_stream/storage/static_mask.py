"""The static mask: known bad pixels from an HDF5 file of the facility, or of ours. Non-zero is bad.

Knows nothing of other polarities or bits; a file in another convention is converted before.
"""

import os
from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from ..detectors import DetectorSpec
from ..errors import ConfigError, DataError
from .mask_file import open_hdf5


def read_static_mask(path: str | os.PathLike, spec: DetectorSpec) -> dict[int, NDArray]:
    """Per module (ss, fs) bool, True = bad, from /collapsed or else /mask of an HDF5 file.

    Accepted shapes: (ss, fs) of a detector of one module; (modules, ss, fs); (modules, stages, cells, ss, fs), where a
    pixel that is bad in any stage or cell is bad. /module names the modules of the first axis, else it has all of them.
    Raises ConfigError where there is no such file or dataset, DataError where it is not of this detector.
    """
    with open_hdf5(path) as file:
        data = next((file[name] for name in ("collapsed", "mask") if isinstance(file.get(name), h5py.Dataset)), None)
        if data is None:
            raise ConfigError(f"{path}: no dataset /collapsed or /mask; a static mask has one, non-zero = bad")
        shape = data.shape if data.ndim != 2 else (1, *data.shape)
        modules = file["module"][()].reshape(-1).tolist() if "module" in file else list(range(spec.modules))
        fits = len(shape) in (3, 5) and shape[-2:] == spec.module_shape and shape[0] == len(modules)
        if not fits or data.dtype.kind not in "biu" or not set(modules) <= set(range(spec.modules)):
            wanted = (spec.modules, *spec.module_shape)
            raise DataError(f"{path}: {data.name} is {data.dtype} {data.shape}; {spec.name} needs integers {wanted}")
        bad = [np.asarray(data[i] if data.ndim != 2 else data[()]) != 0 for i in range(len(modules))]
    return {int(module): one.reshape(-1, *spec.module_shape).any(axis=0) for module, one in zip(modules, bad)}


def read_static_masks(paths: Sequence[str], spec: DetectorSpec) -> dict[int, NDArray]:
    """As read_static_mask(), bad where any of several files says so: the facility's and the operator's own; {} of none.

    Raises ConfigError, which names policy.static_mask."""
    joined: dict[int, NDArray] = {}
    for path in paths:
        try:
            found = read_static_mask(path, spec)
        except (ConfigError, DataError) as e:
            raise ConfigError(f"policy.static_mask = {path!r}: {e}") from None
        for module, bad in found.items():
            joined[module] = joined[module] | bad if module in joined else bad
    return joined
