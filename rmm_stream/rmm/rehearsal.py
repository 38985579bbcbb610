"""Runs a small maker through every path of its detector, so that every kernel is compiled before the first frame.

The frames are read-only, as those that sockets give; whoever calls a kernel passes all frames so, for it to have one signature.
"""

import gc
from contextlib import contextmanager

import numpy as np
from msgspec import structs

from ..config import Settings
from ..frames import Exposure, FrameBatch, Illumination
from .kernels.compiled import load_without_blas
from .outliers import BINNED_FROM, fit_1d

FRAMES = 24  # enough for every fit over frames to be tried


@contextmanager
def no_collection():
    """No search for garbage meanwhile: compiling and loading kernels leaves next to none, and takes a sixth less."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def hurried(settings: Settings) -> Settings:
    """The same settings, but maps speak after a rehearsal's frames, and F6 judges all of them."""
    lit = structs.replace(settings.features.lit, every_train=1)
    return structs.replace(
        settings,
        fit=structs.replace(settings.fit, min_frames=FRAMES),
        features=structs.replace(settings.features, lit=lit),
    )


@no_collection()
def rehearse(maker) -> None:
    """Feed darks of every stage, then flat and sample frames, and fit. maker: an empty MaskMaker; spoilt afterwards."""
    load_without_blas()
    spec, rng = maker.spec, np.random.default_rng(0)
    if not spec.exact:  # F1 fits the values of a frame, which may be more than a rehearsal has
        fit_1d(rng.normal(100, 5, BINNED_FROM))
    gain_type = np.uint8 if spec.packed else np.uint16
    for train, exposure in enumerate(_exposures(len(spec.stages))):
        pixels = rng.normal(100, 5, (FRAMES, *spec.module_shape)).astype(spec.dtype)
        pixels.flags.writeable = False
        gain = None
        if spec.gain != "none":
            levels = spec.gain_codes if spec.gain == "code" else [4000 + 2000 * s for s in range(len(spec.stages))]
            gain = np.full(pixels.shape, levels[exposure.gain_stage or 0], gain_type)
            if exposure.gain_stage is None:
                gain[FRAMES // 2 :, 0, 0] = levels[-1]  # a pixel switches, after blocks in which none has
            gain.flags.writeable = False
        ids = np.arange(train * FRAMES, (train + 1) * FRAMES, dtype=np.uint64)
        maker.feed(
            FrameBatch(
                module=0,
                pixels=pixels,
                gain=gain,
                cell=np.zeros(FRAMES, np.uint16),
                train_id=ids,
                complete=np.ones(FRAMES, bool),
                timestamp=float(train),
                exposure=exposure,
                labelled_by="config",
            )
        )
    maker.fit_all()


def _exposures(stages: int) -> list[Exposure]:
    """Held darks first: they say how freely switching pixels are told apart."""
    held = [Exposure(Illumination.DARK, stage) for stage in range(stages)]
    return [
        *held,
        *(Exposure(illumination) for illumination in (Illumination.DARK, Illumination.FLAT, Illumination.SAMPLE)),
    ]
