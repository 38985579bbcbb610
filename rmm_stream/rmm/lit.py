"""Lit frames on their way into the statistics: sampled, routed to their gain stage, judged by F6 one by one.

Knows nothing of fits, and not why frames are lit.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..frames import FrameBatch, Illumination
from ..mask import MapKey
from . import gain
from .background import FrameJudge, is_sampled
from .keys import LitKey
from .segments import Segments
from .snr import SnrStats


class LitFrames:
    """The lit path of one maker. Mutable; one owner.

    told: called with (map key, batch, index, its statistics) when a frame of a map has been judged."""

    def __init__(
        self,
        spec: DetectorSpec,
        settings: Settings,
        cells: range,
        segments: Segments,
        told: Callable[[MapKey, FrameBatch, int, SnrStats], None],
    ):
        self.spec, self.settings, self.cells, self.segments = spec, settings, cells, segments
        self._told = told
        self._judges: dict[Illumination, FrameJudge] = {}

    def feed(self, batch: FrameBatch, take: NDArray, every_train: int, rejected: Counter) -> int:
        """Judge those of the frames `take` that are sampled. Returns how many were; those that could not be are counted in
        `rejected`.

        every_train: one train in so many, and of a train one cell in so many, is judged."""
        take = take[is_sampled(batch.train_id[take], batch.cell[take], every_train)]
        accepted = 0
        for cell in np.unique(batch.cell[take]).tolist():
            accepted += self._feed_cell(batch, cell, take[batch.cell[take] == cell], rejected)
        return accepted

    def _feed_cell(self, batch: FrameBatch, cell: int, take: NDArray, rejected: Counter) -> int:
        route = self._route(batch, cell)
        if route is None:
            rejected["no_gain_thresholds"] += len(take)
            return 0
        judge = self._judge(batch.exposure.illumination)
        accepted, likely = 0, route.held or 0
        for t in take:
            frame, gains = batch.pixels[t], None if batch.gain is None else batch.gain[t]
            of_stage = judge.stages_of_tiles(
                frame, gains, route, self.segments.offset(batch.module, likely, cell), likely
            )
            seen = sorted(set(of_stage.tolist()) - {-1})
            likely = seen[0] if seen else likely
            done = False
            for stage in seen:
                offset = self.segments.offset(batch.module, stage, cell)
                if offset is None:
                    continue
                stats = self.segments.open_lit(LitKey(batch.module, batch.exposure.illumination, stage))
                judge(
                    frame, gains, route, offset, of_stage, stage, stats, cell - self.cells.start, batch.timestamp,
                )  # fmt: skip
                self._told(MapKey(batch.module, stage, cell), batch, t, stats)
                done = True
            accepted += done
            if not done:
                rejected["no_offset" if seen else "no_valid_pixel"] += 1
        return accepted

    def _judge(self, illumination: Illumination) -> FrameJudge:
        if illumination not in self._judges:
            self._judges[illumination] = FrameJudge(self.spec, self.settings, illumination)
        return self._judges[illumination]

    def _route(self, batch: FrameBatch, cell: int) -> gain.Route | None:
        """How the pixels of lit frames of one cell are routed; None where their stage cannot be known."""
        held, spec = batch.exposure.gain_stage, self.spec
        if spec.gain == "none" or (batch.gain is None and (held is not None or len(spec.stages) == 1)):
            return gain.Route(held or 0)
        if batch.gain is None:
            return None
        if spec.gain == "analogue" and (held is not None or len(spec.stages) == 1):
            return gain.Route(held or 0)
        return self.segments.route(batch.module, cell, held)
