"""Eq. (2) over a map: which pixels are too far from normal. Decides nothing else: what is far is given."""

import numpy as np

from .compiled import exact


@exact
def mark(snr, asked, staying, cut, clear_cut, both_sides, flag, flags, doubtful):
    """Set a flag where snr is beyond a cut: in flags beyond cut, in doubtful beyond clear_cut. nan is not.

    snr: (px,) float64. asked, staying: (px,) bool, pixels that may be flagged, and that may stay so. both_sides: whether low is
    far, too. flag: uint8.
    flags, doubtful: (px,) uint8, changed.
    """
    none = np.uint8(0)
    for i in range(snr.size):
        far = abs(snr[i]) if both_sides else snr[i]
        flags[i] |= flag if asked[i] & (far > cut) else none
        doubtful[i] |= flag if staying[i] & (far > clear_cut) else none
