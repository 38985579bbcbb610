"""F6, frame by frame (section 3.3.1): SNR of each pixel of a lit frame in its window, into the sums of SnrStats."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..frames import Illumination
from . import gain
from .kernels import planes, windows
from .kernels.compiled import read_only
from .outliers import Stack, consistency, tiles
from .snr import SnrStats

_NEVER, _WHEN_NEEDED, _ALWAYS = 0, 1, 2  # is the fit dithered?
COLD_EVERY = 64  # frames of a cell: a plane that went wrong does not live on
DITHER_BELOW = 1.5  # counts; below it the ties of an integer frame pull sigma down (docs/method.md 2.3)


@lru_cache
def dither(shape: tuple[int, int]) -> NDArray:
    """(ss, fs) float32 in (-0.5, 0.5): reproducible, a hash of the pixel index. Breaks ties of integers in the fit only.

    Read-only; kept, since a hash of a whole module costs more than the judgement of a frame."""
    x = np.arange(shape[0] * shape[1], dtype=np.uint64) + np.uint64(1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64 (Steele et al. 2014)
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    found = ((x >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)).reshape(shape)
    found.flags.writeable = False
    return found


def is_sampled(train_id: NDArray, cell: NDArray, every: int) -> NDArray:
    """(n,) bool: frames on which F6 runs: of each train one in `every` of its cells, of each cell one train in `every`.

    Both evenly, whatever the step between train ids. train_id, cell: (n,)."""
    if every == 1:
        return np.ones(len(train_id), bool)
    hashed = train_id.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)
    return (hashed + cell.astype(np.uint64)) % np.uint64(every) == 0


class FrameJudge:
    """Judges frames of one exposure; holds what is the same for all of them, and scratch. Mutable; one owner."""

    def __init__(self, spec: DetectorSpec, settings: Settings, illumination: Illumination):
        fit, lit = settings.fit, settings.features.lit
        self.spec, self.settings, self.warm = spec, settings, lit.warm
        where = tiles(spec, lit.window or fit.tile)
        self.stack, n = Stack(where, fit, planes.NEARLY_AT_REST), len(where)
        self.width, self.columns = spec.module_shape[1], int(self.stack.layout.shape[1])
        self.consistency, self.sigma_floor = consistency(fit.lambda_fit), float(spec.sigma_floor)
        self.floors, self.photon_floors = np.full((2, n), self.sigma_floor)
        self.untold = np.full(n, windows.UNTOLD)
        self.adu_per_photon = 0.0 if spec.counting or spec.adu_per_photon is None else float(spec.adu_per_photon)
        when = {"off": _NEVER, "on": _ALWAYS, "auto": _ALWAYS if spec.counting else _WHEN_NEEDED}[fit.dither]
        self.use_dither = _NEVER if spec.calibrated else when
        # With crystals in the beam one Bragg peak would shift the plain mean of its pixels by several sigma
        self.clip = np.float32(lit.clip if illumination is Illumination.SAMPLE else np.inf)
        self.snr_cut = np.float32(settings.features.lit_rate.snr)
        self.range = gain.data_range(spec)
        self.plain = len(self.range.inner) == 0 and spec.dtype != np.uint32  # frames are read as they came
        self.in_tiles = np.zeros(spec.module_shape, bool)
        for top, bottom, left, right in where:
            self.in_tiles[top:bottom, left:right] = True
        self._last: tuple = (None, None, None, ())
        self._bands: tuple = ()
        self._loaded = _NOTHING
        self._dither: NDArray | None = None

    def stages_of_tiles(
        self, frame: NDArray, gains: NDArray | None, route: gain.Route, offset: NDArray | None = None, likely: int = 0
    ) -> NDArray:
        """(tiles,) int64: the stage in which most valid pixels of each tile are, -1 where none is valid.

        frame, gains: (ss, fs), of the detector's type, and uint8 or uint16. offset: of the likely stage, as __call__ has it,
        so that values are loaded while pixels are counted: where the stage is the likely one, that is all there is to do. Not
        for the first frame of all, so that a rehearsal has gone either way."""
        of_stage = self.untold.copy()
        first, flat = self._last[0] is None, self._flat(frame, gains, route)
        if offset is not None and not first and not self._load(flat, offset, of_stage, likely):
            self._loaded = (flat, offset, likely)
            return of_stage
        stages = (0, len(self.spec.stages)) if route.held is None else (route.held, route.held + 1)
        pixels, gain_, bands, _, least, most = flat
        windows.majority_stages(
            pixels, gain_, bands, least, most, self.width, self.stack.layout.tiles, np.array(stages), of_stage
        )
        return of_stage

    def _load(self, flat: tuple, offset: NDArray, of_stage: NDArray, stage: int) -> bool:
        """Load the tiles of a stage. Returns whether that of a tile is untold."""
        stack = self.stack
        self._loaded = _NOTHING
        return windows.load_tiles(
            *flat, offset.ravel(), self.width, stack.layout.tiles, of_stage, stage, self.columns,
            stack.z, stack.usable, stack.wanted,
        )  # fmt: skip

    def __call__(
        self, frame: NDArray, gains: NDArray | None, route: gain.Route, offset: NDArray, of_stage: NDArray, stage: int,
        stats: SnrStats, cell: int, timestamp: float,
    ) -> int:  # fmt: skip
        """Add the SNR of one frame to the sums of one cell and stage, in the tiles of that stage. Returns how many.

        offset: (ss, fs) float32, nan where unknown or excluded. of_stage: of stages_of_tiles(). cell: index into stats."""
        stack = self.stack
        before = stats.frames.item(cell)
        if before == 0:
            stats.expect(cell, np.isfinite(offset) & self.in_tiles)
        half, bucket = stats.open(cell, timestamp)
        flat = self._flat(frame, gains, route)
        if not (self._loaded[0] is flat and self._loaded[1] is offset and self._loaded[2] == stage):
            self._load(flat, offset, of_stage, stage)
        self._loaded = _NOTHING
        warm = self.warm and (before + 1) % COLD_EVERY > 0
        fits, dithered = (stats.planes[cell], stats.sigmas[cell], stats.nearest[cell]), None
        if self.use_dither == _ALWAYS:
            stack.fit(stack.z + self._dither_of_tiles(), *fits, warm)
        elif stack.fit(stack.z, *fits, warm) < DITHER_BELOW and self.use_dither == _WHEN_NEEDED:
            dithered = self._fit_dithered(fits)
        floors = self.floors
        if self.adu_per_photon > 0 and stage == 0:
            floors = self.photon_floors
            windows.photon_floors(stack.z, stack.wanted, self.adu_per_photon, self.sigma_floor, floors)
        done = windows.add_snr(
            stack.z, stack.wanted, fits[0], fits[1], self.consistency, floors, self.columns, stack.y, stack.x,
            self.clip, self.snr_cut, self.width, stack.layout.tiles, half, bucket, cell, *stats.flat(),
        )  # fmt: skip
        if dithered is not None:
            fits[1][dithered] = np.nan  # the next frame is fitted without dither first, and starts cold
        return done

    def _fit_dithered(self, fits) -> NDArray:
        """Fit the tiles again whose sigma is too low to be fitted without dither. Returns which: (tiles,) bool."""
        wanted = self.stack.wanted.copy()
        again = (wanted > 0) & (fits[1] < DITHER_BELOW)
        self.stack.wanted[:] = again
        self.stack.fit(self.stack.z + self._dither_of_tiles(), *fits)
        self.stack.wanted[:] = wanted
        return again

    def _dither_of_tiles(self) -> NDArray:
        """dither(), as the stack has its tiles."""
        if self._dither is None:
            whole, it = dither(self.spec.module_shape), self.stack.layout
            self._dither = np.zeros((len(it.tiles), *it.shape), np.float32)
            for out, (top, bottom, left, right) in zip(self._dither, it.tiles):
                out[: bottom - top, : right - left] = whole[top:bottom, left:right]
            self._dither = self._dither.reshape(len(it.tiles), -1)
        return self._dither

    def _flat(self, frame: NDArray, gains: NDArray | None, route: gain.Route) -> tuple:
        """(frame, gain, bands, rows, least, most) as kernels want them: flat, and read-only, as what comes from a socket is."""
        if self._last[0] is frame and self._last[1] is gains and self._last[2] is route:
            return self._last[3]
        pixels = frame if self.plain else gain.clean(self.range, frame)
        if self._last[2] is not route or (gains is None) != (self._last[1] is None):
            routed = gains is not None and route.bands is not None
            self._bands = (
                read_only(route.bands.reshape(len(route.bands), 2, -1)) if routed else _NO_BANDS,
                read_only(route.rows) if routed else _NO_BANDS,
                pixels.dtype.type(self.range.least if self.plain else -np.inf),
                pixels.dtype.type(self.range.most if self.plain else np.inf),
            )
        routed = self._bands[0] is not _NO_BANDS
        flat = read_only(pixels.ravel()), read_only(gains.ravel()) if routed else _NO_GAIN, *self._bands
        self._last = (frame, gains, route, flat)
        return flat


_NOTHING = (None, None, -1)
_NO_GAIN, _NO_BANDS = read_only(np.empty(0, np.uint16)), read_only(np.empty((1, 2, 0), np.uint16))
