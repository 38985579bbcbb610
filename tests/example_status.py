"""A small, healthy Status to start from: module 3, stages 0 and 1, cells 4 and 5, one map judged. At t = 100 s."""

from dataclasses import replace

import numpy as np

from rmm_stream.live.status import ModuleStatus, Status
from rmm_stream.mask import BadPixel, MapChange, MapKey

EDGE, OFFSET, NOISE, NO_DATA = (int(BadPixel[name]) for name in ("EDGE", "OFFSET", "NOISE", "NO_DATA"))
OVERLAY = np.array([[EDGE, 0, 0]], np.uint8)


def change(key: MapKey, flags: list[int], judged: BadPixel = BadPixel.OFFSET) -> MapChange:
    return MapChange(key, np.array([flags], np.uint8), judged, 200, 77, 1e9, 1, 0)


def running(**fields) -> Status:
    """Two stages, cells 4 and 5, module 3; healthy at t = 100 s."""
    module = ModuleStatus(3, maps=4, frames=10, accepted=9, fed_at=99.0, judged=1, serial=1)
    key = MapKey(3, 1, 5)
    status = Status(
        "tiny",
        stages=2,
        cells=range(4, 6),
        modules={3: module},
        state="running",
        started_at=50.0,
        turned_at=99.5,
        changes={3: {key: change(key, [EDGE, OFFSET, 0])}},
        overlay={3: OVERLAY},
    )
    return replace(status, **fields)


def with_module(**fields) -> Status:
    status = running()
    return replace(status, modules={3: replace(status.modules[3], **fields)})
