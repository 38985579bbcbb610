"""What planted defects are, and everything their strengths are computed from: the kinds, the table, the scene.

Knows the portrait of the good detector and the plan; chooses no pixel and draws no frame.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..mask import BadPixel
from . import snr
from .plan import Plan
from .portrait import PATTERN, RealMaps, Recipe, Scales, generator, real_scales

#: The first five and gain_separation show in the dark; hot, cold and flickering under light only.
DARK_KINDS = ("offset", "noise", "dead", "gain_level", "stuck")
LIT_KINDS = ("hot", "cold", "flickering")
KINDS = (*DARK_KINDS, "gain_separation", *LIT_KINDS)

#: magnitude: offset, hot: ADU added. noise: sd, ADU. dead: 0, it always reads its own
#: offset. stuck: the value it always reads, ADU. gain_level: ADU added,
#: or the code it always reads. gain_separation: sd of the indicator, ADU, or share of frames that read the neighbour's
#: code; 0 in the row of the pair's other stage. cold: response to light, 0 to 0.5 of a good pixel's. flickering: share
#: of frames. extra: flickering: ADU added in those frames.
TABLE = np.dtype(
    [
        ("kind", "S16"),
        ("module", "<u2"),
        ("gain_stage", "u1"),
        ("cell", "<u2"),
        ("ss", "<u2"),
        ("fs", "<u2"),
        ("magnitude", "<f4"),
        ("extra", "<f4"),
        ("snr", "<f4"),  # |SNR| of the strongest feature; inf where a rule decides without a sigma
        ("onset_train", "<u8"),  # 0: from the start
        ("expected", "u1"),  # BadPixel bits, any of which counts as found
    ]
)

EXPECTED = {
    "offset": BadPixel.OFFSET,
    "noise": BadPixel.NOISE,
    "dead": BadPixel.NOISE,
    "gain_level": BadPixel.GAIN_LEVEL,
    "gain_separation": BadPixel.GAIN_SEPARATION,
    "stuck": BadPixel.NO_DATA | BadPixel.OFFSET | BadPixel.NOISE,
    "hot": BadPixel.LIT_SNR,
    "cold": BadPixel.LIT_SNR,
    "flickering": BadPixel.LIT_SNR,
}


@dataclass(frozen=True, slots=True)
class Planting:
    """How many defects, and how strong.

    per_map: of each kind in each map where it can show. onset_per_map: of each lit kind, beginning during the run.
    weakest, strongest: |SNR| between which the strengths are spread evenly on a logarithmic scale; those below the cut
    are there to be ambiguous, not to be found. onset: between which parts of the lit stretch defects begin.
    """

    per_map: int = 50
    onset_per_map: int = 0
    weakest: float = 5.0
    strongest: float = 100.0
    onset: tuple[float, float] = (0.5, 0.55)
    kinds: tuple[str, ...] = KINDS


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything the strengths of defects are computed from."""

    spec: DetectorSpec
    recipe: Recipe
    plan: Plan
    judged: snr.Judging
    planting: Planting
    seed: int
    real: RealMaps | None = None

    @property
    def code(self) -> bool:
        return self.spec.gain == "code"

    @property
    def top(self) -> int:
        """The largest value that the detector can read."""
        return (1 << self.spec.bits) - 1

    def scales(self, stage: int) -> tuple[Scales, NDArray | None]:
        """Spread of good pixels in a stage, and the pixels quiet enough to plant on; None: all."""
        if self.real is not None:
            return real_scales(self.spec, self.real, stage)
        recipe = self.recipe
        return Scales(recipe.offset_spread, recipe.noise[stage], recipe.noise_spread), None


def scene(
    spec: DetectorSpec,
    recipe: Recipe,
    plan: Plan,
    planting: Planting,
    seed: int,
    real: RealMaps | None = None,
    settings: Settings | None = None,
) -> Scene:
    """A Scene judged by a maker with `settings`; None: the defaults."""
    return Scene(spec, recipe, plan, snr.judging(spec, recipe, plan, settings or Settings()), planting, seed, real)


def high(scene: Scene, flickers: NDArray, module: int, train_id: int) -> NDArray:
    """Which of a module's flickering pixels read high in a train, (n,) bool; the same for the truth and for the frames.

    flickers: that module's flickering rows of the table, all of them, in the order of the table.
    """
    draw = generator(scene.seed, module, train_id, 0, PATTERN).random(len(flickers), dtype=np.float32)
    return (draw < flickers["magnitude"]) & (flickers["onset_train"] <= train_id)
