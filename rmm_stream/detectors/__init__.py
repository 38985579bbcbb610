"""The detectors that have a name. A new one is a file with one DetectorSpec and a line in this table."""

from importlib import import_module

from ..errors import ConfigError
from .spec import DetectorSpec

DETECTORS = {
    "agipd1m": "rmm_stream.detectors.agipd:AGIPD1M",
    "epix10k2m": "rmm_stream.detectors.epix10k:EPIX10K2M",
    "jungfrau4m": "rmm_stream.detectors.jungfrau:JUNGFRAU4M",
    "jungfrau05m": "rmm_stream.detectors.jungfrau:JUNGFRAU05M",
}


def detector(name: str) -> DetectorSpec:
    """The spec of a name. Raises ConfigError, listing the known names."""
    if name not in DETECTORS:
        raise ConfigError(
            f"unknown detector {name!r}; known: {', '.join(DETECTORS)}, or a [detector] section that describes it"
        )
    path, attribute = DETECTORS[name].split(":")
    return getattr(import_module(path), attribute)


__all__ = ["DETECTORS", "DetectorSpec", "detector"]
