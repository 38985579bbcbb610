"""Planting: which pixels get a defect, and painting the dark ones into the maps of the detector.

No map (module, gain stage, cell) has two defects on one pixel, and none lies on an edge pixel. Knows the strengths only
as a table of functions; draws no frame and writes no file.
"""

import numpy as np
from numpy.typing import NDArray

from .portrait import PLACES, Scales, StageMaps, generator
from .scene import DARK_KINDS, EXPECTED, LIT_KINDS, TABLE, Scene
from .strengths import STRENGTH, count_flickers


def kinds_of(scene: Scene, stage: int) -> tuple[str, ...]:
    """The kinds that can show in a stage, as far as detector and plan go, gain_separation apart."""
    spec, stretch = scene.spec, scene.judged.lit > 0 and stage == 0
    if not scene.judged.dark[stage]:
        dark = ()
    elif spec.counting:
        dark = ("offset", "noise", "stuck")
    else:
        dark = tuple(
            kind
            for kind in DARK_KINDS
            if not (kind == "gain_level" and spec.gain == "none") and not (kind == "stuck" and spec.calibrated)
        )
    return tuple(kind for kind in (*dark, *(LIT_KINDS if stretch else ())) if kind in scene.planting.kinds)


def plant(scene: Scene, modules: tuple[int, ...], cells: range) -> NDArray:
    """The table of all defects, TABLE, ordered by module, cell and stage."""
    free = ~scene.spec.edge()
    scales = []
    for stage in range(len(scene.spec.stages)):
        these, quiet = scene.scales(stage)
        scales.append(these)
        free = free if quiet is None else free & quiet
    places = np.flatnonzero(free)
    rows = [_plant_cell(scene, scales, module, cell, places) for module in modules for cell in cells]
    table = np.concatenate(rows) if rows else np.empty(0, TABLE)
    return count_flickers(scene, scales, table)


def _plant_cell(scene: Scene, scales: list[Scales], module: int, cell: int, places: NDArray) -> NDArray:
    spec, planting = scene.spec, scene.planting
    stages, n = range(len(spec.stages)), planting.per_map
    rng = generator(scene.seed, module, 0, cell, PLACES)
    places = rng.permutation(places)
    rows = []

    def add(kind: str, stage: int, where: NDArray, onset: bool = False) -> None:
        block = np.zeros(len(where), TABLE)
        block["kind"], block["module"], block["gain_stage"], block["cell"] = kind, module, stage, cell
        block["ss"], block["fs"] = np.unravel_index(where, spec.module_shape)
        block["expected"] = EXPECTED[kind]
        if onset:
            a, b = planting.onset
            length = scene.judged.last - scene.judged.first + 1
            block["onset_train"] = scene.judged.first + (rng.uniform(a, b, len(where)) * length).astype(np.uint64)
        rows.append(block)
        STRENGTH[kind](scene, scales[stage], block, rng)

    # Kinds that touch the maps of other stages too take a pixel in all stages.
    if len(stages) > 1 and spec.gain != "none" and "gain_separation" in planting.kinds and all(scene.judged.dark):
        where, places = places[:n], places[n:]
        widened = rng.random(len(where)) < 0.5
        for stage, chosen in ((0, where[widened]), (len(stages) - 1, where[~widened])):
            add("gain_separation", stage, chosen)
            other = rows[-1].copy()
            other["gain_stage"], other["magnitude"] = (1 if stage == 0 else stage - 1), 0
            rows.append(other)
    if scene.code:
        for stage in stages:
            if "gain_level" in kinds_of(scene, stage):
                where, places = places[:n], places[n:]
                add("gain_level", stage, where)
    for stage in stages:
        here = rng.permutation(places)
        for kind in kinds_of(scene, stage):
            if kind == "gain_level" and scene.code:
                continue
            where, here = here[:n], here[n:]
            add(kind, stage, where)
            if kind in LIT_KINDS and planting.onset_per_map:
                where, here = here[: planting.onset_per_map], here[planting.onset_per_map :]
                add(kind, stage, where, onset=True)
    return np.concatenate(rows) if rows else np.empty(0, TABLE)


def paint(scene: Scene, maps: StageMaps, rows: NDArray, first_cell: int) -> None:
    """Paint the dark defects of one module and stage into its maps, in place. Lit kinds change nothing in the dark."""
    at = (rows["cell"] - np.uint16(first_cell), rows["ss"], rows["fs"])

    def where(kind: str) -> tuple:
        chosen = rows["kind"] == kind.encode()
        return tuple(index[chosen] for index in at), rows["magnitude"][chosen]

    place, magnitude = where("offset")
    maps.offset[place] += magnitude
    place, magnitude = where("noise")
    maps.noise[place] = magnitude
    if maps.level is None:
        return
    place, magnitude = where("gain_level")
    if scene.code:
        maps.level[place] = magnitude
    else:
        maps.level[place] += magnitude
        place, magnitude = where("gain_separation")
        wide = magnitude > 0  # the row of the pair's other stage has 0
        maps.level_noise[tuple(index[wide] for index in place)] = magnitude[wide]


def marks(scene: Scene, table: NDArray, modules: tuple[int, ...], cells: range) -> NDArray:
    """(modules, stages, cells, ss, fs) uint8: 0 good, 1 a defect may show in this map, 2 odd in the measured maps.

    F4 puts its flag on both stages of a failing pair: both are marked. A wrong code may fail with any other stage.
    """
    stages = range(len(scene.spec.stages))
    out = np.zeros((len(modules), len(stages), len(cells), *scene.spec.module_shape), np.uint8)
    for stage in stages:
        _, quiet = scene.scales(stage)
        if quiet is not None:
            out[:, stage][..., ~quiet] = 2
    module = np.searchsorted(np.sort(modules), table["module"])
    module = np.argsort(modules)[module]
    at = (table["cell"].astype(np.int64) - cells[0], table["ss"], table["fs"])
    out[(module, table["gain_stage"], *at)] = 1
    if scene.code:
        wrong = table["kind"] == b"gain_level"
        for stage in stages:
            out[(module[wrong], stage, *(index[wrong] for index in at))] = 1
    return out
