"""Addresses of statistics inside a maker, and what has happened to a map since its last fit."""

from dataclasses import dataclass
from typing import NamedTuple

from ..frames import Illumination

VALUES, INDICATORS = "value", "indicator"


class DarkKey(NamedTuple):
    """Dark statistics of one module and stage: of the values, or of the gain indicator."""

    module: int
    quantity: str  # VALUES or INDICATORS
    gain_stage: int


class GateKey(NamedTuple):
    """The frame gate of one module and stage."""

    module: int
    gain_stage: int


class LitKey(NamedTuple):
    """F6 statistics of one module, illumination and stage."""

    module: int
    illumination: Illumination
    gain_stage: int


@dataclass(slots=True)
class News:
    """Frames that touched a map, those its last fit had seen, the last train, and data times, s. Mutable.

    around: dark frames of the adjacent gain stages since the last fit: F4 compares their indicators with the map's own.
    urgent: a pixel stands out that the last fit has not seen to.
    """

    frames: int = 0
    fitted_at: int = 0
    train_id: int = 0
    timestamp: float = 0.0
    fitted_timestamp: float = float("-inf")
    around: int = 0
    urgent: bool = False

    @property
    def fresh(self) -> int:
        """Frames that the next fit will see and the last one had not."""
        return max(self.frames - self.fitted_at, self.around)
