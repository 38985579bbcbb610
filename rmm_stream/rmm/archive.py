"""A MaskMaker as plain arrays by name, and back. The store and the checkpoint see these, never a maker."""

from dataclasses import asdict, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..detectors import DetectorSpec
from ..errors import DataError
from ..frames import Illumination
from ..mask import BadPixel, MapFit, MapKey
from .common_mode import LevelledStats
from .gate import FrameGate
from .keys import DarkKey, GateKey, LitKey, News
from .snr import SnrStats
from .stats import FloatStats, IntegerStats, PixelStats


def _text(value) -> NDArray:
    return np.frombuffer(msgspec.json.encode(value), np.uint8)


def pack(maker) -> dict[str, NDArray]:
    """Name -> array, all copies: "dark/0/value/2/s1" is s1 of the dark values of module 0 in stage 2."""
    state = {
        "spec": _text(asdict(maker.spec)),
        "settings": _text(maker.settings),
        "modules": np.array(maker.modules),
        "cells": np.array([maker.cells.start, maker.cells.stop]),
        "gated": np.array(maker.gated),
        "parted": np.array(sorted(maker.segments.parted), np.int64).reshape(-1, 2),
        "news": np.array(
            [[*key, n.frames, n.fitted_at, n.train_id, n.around] for key, n in maker.news.items()], np.int64
        ),
        "news_time": np.array([[n.timestamp, n.fitted_timestamp] for n in maker.news.values()]),
    }
    for m, excluded in maker.excluded.items():
        state[f"excluded/{m}"] = excluded
    held, parts = maker.segments, {}
    for name, dark, lit in (("", held.dark, held.lit), ("old_", held.old_dark, held.old_lit)):
        parts |= {f"{name}dark/{k.module}/{k.quantity}/{k.gain_stage}": v for k, v in dark.items()}
        parts |= {f"{name}lit/{k.module}/{k.illumination.value}/{k.gain_stage}": v for k, v in lit.items()}
    parts |= {f"gate/{k.module}/{k.gain_stage}": v for k, v in maker.darks.gates.items()}
    state |= {f"drift/{name}": array for name, array in maker.drift.state().items()}
    for prefix, part in parts.items():
        state |= {f"{prefix}/{name}": array.copy() for name, array in part.state().items()}
    if maker.light is not None:
        state |= {f"light/{name}": array.copy() for name, array in maker.light.state().items()}
    for key, fit in maker.flags.items():
        prefix = "fit/{}/{}/{}".format(*key)
        state |= {f"{prefix}/flags": fit.flags, f"{prefix}/doubtful": fit.doubtful}
        if fit.suspected is not None:
            state[f"{prefix}/suspected"] = fit.suspected
        state[f"{prefix}/judged"] = np.array([fit.judged, fit.frames, fit.train_id], np.int64)
        state[f"{prefix}/timestamp"] = np.array(fit.timestamp)
    return state


def _fit(key: MapKey, arrays: dict[str, NDArray]) -> MapFit:
    judged, frames, train_id = arrays["judged"].tolist()
    flags, doubtful, suspected = (arrays[n].copy() if n in arrays else None for n in ("flags", "doubtful", "suspected"))
    return MapFit(key, flags, doubtful, BadPixel(judged), frames, train_id, float(arrays["timestamp"]), suspected)


def _dark(arrays: dict[str, NDArray], maker) -> PixelStats:
    """Statistics of dark values or indicators, of a state."""
    if "datum" not in arrays:
        return (IntegerStats if "s1" in arrays else FloatStats).restore(arrays)
    stats = LevelledStats(len(maker.cells), maker.spec)
    stats.take_over(arrays)
    return stats


def unpack(state: dict[str, NDArray], kind):
    """The maker, of class `kind`, of a state. Raises DataError for what is not the state of a maker."""
    if lacking := {"spec", "settings", "modules", "cells", "gated", "parted", "news", "news_time"} - set(state):
        raise DataError(f"not the state of a MaskMaker: it lacks {', '.join(sorted(lacking))}")
    spec = msgspec.json.decode(state["spec"].tobytes(), type=DetectorSpec)
    settings = msgspec.json.decode(state["settings"].tobytes(), type=Settings)
    spec = replace(spec)  # runs its checks
    exclude = {int(name.split("/")[1]): a.astype(bool) for name, a in state.items() if name.startswith("excluded/")}
    maker = kind(
        spec, state["modules"].tolist(), range(*state["cells"].tolist()), settings, exclude, bool(state["gated"])
    )
    if maker.light is not None:
        own = {name.removeprefix("light/"): array for name, array in state.items() if name.startswith("light/")}
        maker.light.restore(own)
    parts: dict[tuple[str, ...], dict[str, NDArray]] = {}
    for name, array in state.items():
        words = name.split("/")
        if words[0] in ("dark", "lit", "old_dark", "old_lit", "gate", "fit"):
            n = 3 if words[0] == "gate" else 4
            parts.setdefault(tuple(words[:n]), {})["/".join(words[n:])] = array
    for (what, module, second, *third), arrays in parts.items():
        if what.endswith("dark"):
            getattr(maker.segments, what)[DarkKey(int(module), second, int(third[0]))] = _dark(arrays, maker)
        elif what.endswith("lit"):
            key = LitKey(int(module), Illumination(second), int(third[0]))
            getattr(maker.segments, what)[key] = SnrStats.restore(arrays)
        elif what == "gate":
            gate = FrameGate.restore(arrays, spec, settings.gate, len(maker.cells))
            maker.darks.gates[GateKey(int(module), int(second))] = gate
        else:
            key = MapKey(int(module), int(second), int(third[0]))
            maker.flags[key] = _fit(key, arrays)
    maker.segments.parted = set(map(tuple, state["parted"].tolist()))
    maker.drift.restore({n.removeprefix("drift/"): a for n, a in state.items() if n.startswith("drift/")})
    for row, (timestamp, fitted) in zip(state["news"].tolist(), state["news_time"].tolist()):
        *counts, around = row[3:]
        maker.folded[MapKey(*row[:3])] = News(*counts, timestamp, fitted, around)
    return maker
