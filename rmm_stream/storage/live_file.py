"""The live file: the collapsed mask alone, for programs that open their mask anew for every image (CrystFEL).

Contiguous, uncompressed, of one shape and type for a whole run; replaced by rename, since writing in place breaks
such readers (masks are re-opened hundreds of times a second). Knows nothing of when it is written.
"""

import os
from collections.abc import Sequence

import numpy as np

from ..detectors import DetectorSpec
from ..mask import Mask
from .mask_file import Provenance, checked, contiguous, replace_hdf5, stamp


def write_live(
    path: str | os.PathLike,
    detector: DetectorSpec | str,
    masks: Sequence[Mask],
    *,
    provenance: Provenance,
) -> None:
    """Replace the live file: /collapsed, (modules, ss, fs) uint8, 0 = good, and the attributes of a mask file.

    masks: one per module, the same modules in the same order at every call; attribute `modules` names them.
    Raises DataError where the masks do not fit together, OSError where the file cannot be written.
    """
    masks = checked(masks)
    name = detector.name if isinstance(detector, DetectorSpec) else detector
    with replace_hdf5(path) as file:
        collapsed = contiguous(file, "collapsed", (len(masks), *masks[0].flags.shape[2:]))
        for i, mask in enumerate(masks):
            collapsed[i] = mask.collapse()
        file.attrs["modules"] = np.array([m.module for m in masks], "u2")
        stamp(file, name, masks, provenance)
