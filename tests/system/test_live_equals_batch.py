"""The same frames, through the real karabo-bridge server into the service, and from HDF5 files through batch.

The same accepted frames give the same n, mean and M2 bit for bit, the same dark flags byte for byte before policy, the
same window counts, and sums of SNR to 0.02 sigma.
"""

from collections.abc import Iterator
from dataclasses import replace

import h5py
import numpy as np
import pytest
from builders import NOW, SAYS_EXPOSURE, TINY, TINY_SECTION
from karabo_bridge.server import ServerInThread
from running import frames_seen, running

from rmm_stream.batch import Input, Job, accumulate
from rmm_stream.config import parse
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.mask import MapKey
from rmm_stream.rmm import MaskMaker
from rmm_stream.shard import Shard
from rmm_stream.sources.frame_stack import inspect, locate

pytestmark = pytest.mark.system

TRAINS = 40
EXPOSURES = (Exposure(Illumination.DARK, 0), Exposure(Illumination.DARK, 1), Exposure(Illumination.FLAT))

#: F6 starts cold: its counts are then the same in whatever order, and in how many processes, frames are judged.
TOML = (
    TINY_SECTION
    + """
[source]
endpoint = "{endpoint}"
socket = "{socket}"
name = "TINY/DET/{{module}}CH0:xtdf"
when_full = "block"
[exposure]
source = "{announcer}"
[gate]
learn = 20
[fit]
tile = [32, 32]
min_frames = 30
[features.lit]
every_train = 1
warm = false
[publish]
updates = "tcp://127.0.0.1:*"
requests = "tcp://127.0.0.1:*"
[store]
directory = "{directory}"
[http]
port = 0
"""
)


def trains() -> Iterator[tuple[Exposure, list[FrameBatch]]]:
    """Darks of both stages, then flats: one batch per module and train, with defects of every feature."""
    rng = np.random.default_rng(20221006)
    cells, shape = TINY.cells, TINY.module_shape
    offset = rng.normal(2000, 25, (2, TINY.modules, cells, *shape))
    noise = rng.normal(8, 0.5, offset.shape)
    offset[:, :, :, 5, 5] += 900
    noise[:, :, 1, 9, 9] = 90
    noise[:, :, :, 12, 20] = 0
    photons = np.full((TINY.modules, cells, *shape), 20.0)
    photons[0, :, 40, 7] = 60
    photons[1, 2, 50, 22] = 0
    level = rng.normal(0, 10, offset.shape) + np.array([4000, 7000])[:, None, None, None, None]
    level[:, 0, :, 20, 11] += 1200
    train_id = 10_000
    for exposure in EXPOSURES:
        stage = exposure.gain_stage or 0
        for _ in range(TRAINS):
            batches = []
            for module in range(TINY.modules):
                values = offset[stage, module] + noise[stage, module] * rng.standard_normal((cells, *shape))
                if exposure.illumination.lit:
                    values += 30 * rng.poisson(photons[module])
                gain = level[stage, module] + rng.normal(0, 12, (cells, *shape))
                order = rng.permutation(cells)
                batches.append(
                    FrameBatch(
                        module=module,
                        pixels=np.rint(values).clip(0, 16383).astype(np.uint16)[order],
                        gain=np.rint(gain).astype(np.uint16)[order],
                        cell=order.astype(np.uint16),
                        train_id=np.full(cells, train_id, np.uint64),
                        complete=np.ones(cells, bool),
                        timestamp=NOW + (train_id - 10_000) / 10,
                        exposure=exposure,
                    )
                )
            yield exposure, batches
            train_id += 1


def sources(batches: list[FrameBatch]) -> tuple[dict, dict]:
    """Data and metadata of one train, as ServerInThread.feed takes them."""
    data = {
        f"TINY/DET/{b.module}CH0:xtdf": {"image.data": b.pixels, "image.gain": b.gain, "image.cellId": b.cell}
        for b in batches
    }
    exposure = batches[0].exposure
    data[SAYS_EXPOSURE.source] = {
        SAYS_EXPOSURE.illumination_key: exposure.illumination.value,
        SAYS_EXPOSURE.gain_stage_key: -1 if exposure.gain_stage is None else exposure.gain_stage,
    }
    first = batches[0]
    stamp = {"timestamp": first.timestamp, "timestamp.tid": int(first.train_id[0])}
    return data, {name: {"source": name, **stamp} for name in data}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One HDF5 file per exposure, in EuXFEL's layout."""
    directory = tmp_path_factory.mktemp("recorded")
    runs: dict[Exposure, list[list[FrameBatch]]] = {exposure: [] for exposure in EXPOSURES}
    for exposure, batches in trains():
        runs[exposure].append(batches)
    paths = {}
    for number, (exposure, run) in enumerate(runs.items()):
        paths[exposure] = directory / f"run{number}.h5"
        with h5py.File(paths[exposure], "w") as file:
            for module in range(TINY.modules):
                mine = [batches[module] for batches in run]
                group = file.create_group(f"INSTRUMENT/TINY/DET/{module}CH0:xtdf/image")
                for name, field in (("data", "pixels"), ("gain", "gain"), ("cellId", "cell"), ("trainId", "train_id")):
                    group[name] = np.concatenate([getattr(b, field) for b in mine])
                group["timestamp"] = np.repeat([b.timestamp for b in mine], TINY.cells)
    return paths


def from_files(recorded, settings, module: int, spec):
    """The maker that batch makes of the files."""
    inputs = tuple(
        Input(
            inspect(locate(f"{path}:INSTRUMENT/TINY/DET/{module}CH0:xtdf/image/data"), spec, module=module, axes=None),
            e,
        )
        for e, path in recorded.items()
    )
    return accumulate(Job(spec, settings, inputs, Shard(module, 0, spec.cells - 1))).maker


@pytest.mark.parametrize(
    ("bound", "socket", "version"), [("REP", "req", "2.2"), ("PUSH", "pull", "2.2"), ("REP", "req", "1.0")]
)
def test_live_equals_batch(bound, socket, version, recorded, tmp_path):
    server = ServerInThread("tcp://127.0.0.1:*", sock=bound, maxlen=4, protocol_version=version)
    server.start()
    toml = TOML.format(
        endpoint=server.endpoint, socket=socket, announcer=SAYS_EXPOSURE.source, directory=tmp_path.as_posix()
    )
    fed = 0
    try:
        with running(toml) as live:
            for _, batches in trains():
                server.feed(*sources(batches), timeout=60)
                fed += sum(map(len, batches))
            live.until(lambda status: frames_seen(status) == fed, "last frame")
            live.halt()
            live.service.stop()
            maker = live.service._crew.workers[0]._maker
            status = live.service.status()
    finally:
        server.stop()
    assert {number: module.rejected for number, module in status.modules.items()} == {0: {}, 1: {}}
    config = parse(toml)
    settings, spec = config.settings, config.detector.spec()
    found = 0
    for module in range(spec.modules):
        batch = from_files(recorded, settings, module, spec)
        for key, theirs in batch.dark.items():
            for cell in range(spec.cells):
                for a, b in zip(maker.dark[key].moments(cell), theirs.moments(cell)):
                    np.testing.assert_array_equal(a, b, strict=True)
        for key, theirs in batch.lit.items():
            ours = maker.lit[key]
            for cell in range(spec.cells):
                now, then = float(ours.latest[cell]), float(theirs.latest[cell])
                for a, b in zip(ours.window(cell, now), theirs.window(cell, then)):
                    np.testing.assert_array_equal(a, b, strict=True)
                (mean, n), (their_mean, their_n) = ours.mean(cell, now), theirs.mean(cell, then)
                np.testing.assert_array_equal(n, their_n)
                assert np.nanmax(np.abs(mean - their_mean)) <= 0.02
        for stage in range(len(spec.stages)):
            for cell in range(spec.cells):
                key = MapKey(module, stage, cell)
                flags, their_flags = maker.fit(key).flags, batch.fit(key).flags
                np.testing.assert_array_equal(flags, their_flags, strict=True)
                found += int((flags != 0).sum())
    assert found > 30  # the planted defects; were nothing flagged, equality would say nothing


def test_two_shards_and_shuffled_batches_hold_the_same_moments(recorded, tmp_path):
    config = parse(TOML.format(endpoint="tcp://127.0.0.1:1", socket="req", announcer="", directory=tmp_path.as_posix()))
    spec, settings = config.detector.spec(), config.settings
    whole = from_files(recorded, settings, 0, spec)
    halves = [MaskMaker(spec, [0], None, settings) for _ in range(2)]
    darks = [batches[0] for exposure, batches in trains() if exposure.illumination is Illumination.DARK]
    for number in np.random.default_rng(1).permutation(len(darks)):
        order = np.random.default_rng(int(number)).permutation(spec.cells)
        batch = darks[number]
        arrays = {name: getattr(batch, name)[order] for name in ("pixels", "gain", "cell", "train_id", "complete")}
        halves[number % 2].feed(replace(batch, **arrays))
    halves[0].merge(halves[1])
    for key, stats in whole.dark.items():
        for cell in range(spec.cells):
            for a, b in zip(halves[0].dark[key].moments(cell), stats.moments(cell)):
                np.testing.assert_array_equal(a, b, strict=True)
