"""What a feature is: one quantity per pixel that is compared between pixels (section 3). Knows no statistics and no kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ...config import Settings
from ...detectors import DetectorSpec
from ...mask import BadPixel


class Needs(Enum):
    """What a feature looks at, of one map."""

    DARK_VALUE = auto()  # Moments of the dark values of its stage
    DARK_GAIN = auto()  # Moments of the dark gain indicator of its stage
    ALL_DARK_GAIN = auto()  # Moments of the dark gain indicator of every stage, in order
    LIT_MEAN = auto()  # LitCell of one illumination, with enough frames in its half-windows
    LIT_SHARE = auto()  # LitCell of one illumination, with enough frames in its time window
    LIT_RECENT = auto()  # the same, with enough frames in the last part of it


class LitCell(NamedTuple):
    """What F6 has of one map: mean SNR and frames behind it, and counts in the time window. All (ss, fs).

    recent: (judged, above, below) in the last part of the window, and recent_frames behind it; None: not asked for.
    mean_frames, share_frames: frames of the cell behind them. blind: (ss, fs) bool, pixels that were lit often enough and
    could never be judged. sample: the light came through a sample, so that what is bright may be signal."""

    mean: NDArray
    count: NDArray
    judged: NDArray
    above: NDArray
    below: NDArray
    mean_frames: int
    share_frames: int
    blind: NDArray
    sample: bool = False
    recent: tuple[NDArray, NDArray, NDArray] | None = None
    recent_frames: int = 0


def everywhere(spec: DetectorSpec) -> bool:
    return True


def no_floor(spec: DetectorSpec) -> float:
    """Maps over frames have none (docs/method.md 2.3)."""
    return 0.0


@dataclass(frozen=True, slots=True)
class FittedFeature:
    """A feature that is judged by a robust fit over the pixels of a tile.

    values(source): (ss, fs) float64, nan where a pixel has none. count(source): (ss, fs) frames behind each value.
    floor(spec): least sigma that is believed, in the unit of the values.
    least_scale(count, model): least sigma of some pixels, from the frames behind them and their model, or None.
    only(values, settings, to_stay): (ss, fs) bool, a further condition for being bad, or for staying so, or None.
    above_only: values below the model are never bad. spots: above means bright, so that on sample data what is shaped like a
    spot is signal. applies(spec): on this detector.
    """

    name: str
    flag: BadPixel
    needs: Needs
    values: Callable[[Any], NDArray]
    count: Callable[[Any], NDArray]
    floor: Callable[[DetectorSpec], float] = no_floor
    least_scale: Callable[[Any, NDArray], NDArray] | None = None
    only: Callable[[NDArray, Settings, bool], NDArray] | None = None
    above_only: bool = False
    spots: bool = False
    applies: Callable[[DetectorSpec], bool] = everywhere


@dataclass(frozen=True, slots=True)
class RuleFeature:
    """A feature that is judged by a rule, without a fit. bad(source, stage, cut): (ss, fs) bool.

    count(source): (ss, fs) frames behind each pixel."""

    name: str
    flag: BadPixel
    needs: Needs
    bad: Callable[[Any, int, float], NDArray]
    count: Callable[[Any], NDArray]
    applies: Callable[[DetectorSpec], bool] = everywhere


class FeatureMap(NamedTuple):
    """Why a pixel is, or is not, bad: x(i), robust mean, sigma and SNR, each (ss, fs) float64."""

    name: str
    flag: BadPixel
    values: NDArray
    model: NDArray
    scale: NDArray
    snr: NDArray
