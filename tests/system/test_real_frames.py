"""Real recordings, streamed by the real karabo-bridge server into the service: PSI's JUNGFRAU module, DIAD's camera K11."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from karabo_bridge.server import ServerInThread
from running import frames_seen, running

from rmm_stream.batch import Input, make_masks
from rmm_stream.config import parse
from rmm_stream.detectors import detector
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.mask import BadPixel
from rmm_stream.sources.frame_stack import inspect, locate
from rmm_stream.storage.mask_file import read_mask

pytestmark = pytest.mark.system

NOW = 1_700_000_000.0
TAIL = """
[publish]
updates = "tcp://127.0.0.1:*"
requests = "tcp://127.0.0.1:*"
[store]
directory = "{directory}"
mask_file = "{directory}/mask.h5"
[http]
port = 0
"""


def stream(toml: str, source: str, key: str, frames, directory: Path):
    """Send (exposure, raw frames) through a real server, and return the mask file that the service leaves behind.

    Frames of one exposure go out as trains of one frame each."""
    server = ServerInThread("tcp://127.0.0.1:*", sock="REP", maxlen=4)
    server.start()
    text = toml + f'[source]\nendpoint = "{server.endpoint}"\nsocket = "req"\nwhen_full = "block"\nname = "{source}"\n'
    text += f'image_key = "{key}"\ncell_key = ""\ngain_key = ""\naxes = "cell ss fs"\n[exposure]\nsource = "SAYS"\n'
    text += TAIL.format(directory=directory.as_posix())
    sent = 0
    try:
        with running(text) as live:
            for exposure, frame in frames:
                held = -1 if exposure.gain_stage is None else exposure.gain_stage
                name = source.format(module=detector("jungfrau05m").first_number)
                data = {
                    name: {key: frame[None]},
                    "SAYS": {"illumination.value": exposure.illumination.value, "gainStage.value": held},
                }
                stamp = {"timestamp": NOW + sent, "timestamp.tid": 1000 + sent}
                server.feed(data, {n: {"source": n, **stamp} for n in data}, timeout=60)
                sent += 1
            live.until(lambda status: frames_seen(status) == sent, "last frame")
            rejected = {number: dict(module.rejected) for number, module in live.service.status().modules.items()}
    finally:
        server.stop()
    return read_mask(directory / "mask.h5"), rejected


# ---- JUNGFRAU ---------------------------------------------------------------------------------------------------------

JUNGFRAU = """
[detector]
name = "jungfrau05m"
adu_per_photon = 508.0
[fit]
min_frames = 10
[features.lit]
every_train = 1
"""
DARKS = 200
PHOTON = 508  # ADU


def local_deviation(values: np.ndarray) -> np.ndarray:
    """How far a pixel is from the median of its 64 x 64 tile, in 1.4826 MAD of the tile. (512, 1024)."""
    tiles = values.reshape(8, 64, 16, 64)
    middle = np.median(tiles, axis=(1, 3), keepdims=True)
    spread = 1.4826 * np.median(np.abs(tiles - middle), axis=(1, 3), keepdims=True)
    return np.abs((tiles - middle) / spread).reshape(values.shape)


def bright_neighbours(bright: np.ndarray) -> np.ndarray:
    """How many of the eight neighbours of a pixel are bright. (ss, fs)."""
    around = np.pad(bright, 1).astype(int)
    rows, columns = bright.shape
    whole = sum(around[i : i + rows, j : j + columns] for i in (0, 1, 2) for j in (0, 1, 2))
    return whole - bright


@pytest.fixture(scope="module")
def jungfrau(shared_data):
    """What PSI recorded: pedestal and dark RMS, (512, 1024), and ten raw frames of a protein crystal."""
    folder = shared_data / "jungfrau_psi"
    pedestal = np.fromfile(folder / "mod5_pedeG0.bin", "<f4").reshape(512, 1024)
    rms = np.fromfile(folder / "mod5_pedeG0_RMS.bin", "<f4").reshape(512, 1024)
    raw = np.stack([np.fromfile(folder / f"mod5_raw{i}.bin", "<u2").reshape(512, 1024) for i in range(10)])
    return pedestal, rms, raw


@pytest.fixture(scope="module")
def judged(jungfrau, tmp_path_factory):
    """The mask of the module after drawn darks and the ten real frames, with defects injected into quiet pixels."""
    pedestal, rms, raw = jungfrau
    spec = detector("jungfrau05m")
    edge = spec.edge()
    quiet = (local_deviation(pedestal) < 5) & (local_deviation(rms) < 5) & ~edge
    photons = ((raw & 0x3FFF) - pedestal) / PHOTON
    bright = (photons > 6) | (raw >> 14 != 0)  # six photons where one is usual, or so many that the gain switched
    spot = np.stack([b & (bright_neighbours(b) >= 2) for b in bright])
    moving = spot.any(0) & ~spot.all(0) & quiet
    near = np.pad(spot.any(0), 2)
    near = np.any([near[i : i + 512, j : j + 1024] for i in range(5) for j in range(5)], axis=0)

    rng = np.random.default_rng(5)
    apart = np.zeros_like(quiet)
    apart[2::4, 2::4] = True
    places = np.argwhere(quiet & apart & ~near)
    chosen = rng.permutation(places)[: 6 * 150].reshape(6, 150, 2)
    names = ("offset", "noise", "dead", "wrong code", "stuck at the top", "hot under light")
    at = {name: tuple(part.T) for name, part in zip(names, chosen)}

    offset, noise = pedestal.copy(), rms.copy()
    # SNR of at least 10 in the map: pedestal and RMS spread over a tile by 47 and 1.1 ADU (median over the tiles)
    spread = 1.4826 * np.median(
        np.abs(pedestal - np.median(pedestal.reshape(8, 64, 16, 64), axis=(1, 3)).repeat(64, 0).repeat(64, 1))
    )
    offset[at["offset"]] += rng.uniform(15, 60, 150) * 3 * spread
    noise[at["noise"]] *= rng.uniform(4, 20, 150)
    noise[at["dead"]] = 0

    def frames():
        for _ in range(DARKS):
            values = offset + noise * rng.standard_normal(offset.shape, dtype=np.float32)
            word = np.rint(values).clip(0, 16383).astype(np.uint16)
            word[at["wrong code"]] |= 1 << 14
            word[at["stuck at the top"]] = 16383
            yield Exposure(Illumination.DARK, 0), word
        for frame in raw:
            word = frame.copy()
            hot = at["hot under light"]
            word[hot] = (word[hot] & 0xC000) | np.minimum((word[hot] & 0x3FFF) + 8 * PHOTON, 16383)
            word[at["stuck at the top"]] = 16383
            yield Exposure(Illumination.SAMPLE), word

    directory = tmp_path_factory.mktemp("jungfrau")
    mask, rejected = stream(JUNGFRAU, "SPB_IRDA_JF4M/DET/JNGFR{module:02d}:daqOutput", "data.adc", frames(), directory)
    assert rejected == {0: {}}
    return mask.masks[0], at, quiet, moving, edge


EXPECTED = {
    "offset": BadPixel.OFFSET,
    "noise": BadPixel.NOISE,
    "dead": BadPixel.NOISE,
    "wrong code": BadPixel.GAIN_LEVEL | BadPixel.NO_DATA,
    "stuck at the top": BadPixel.NOISE,
    "hot under light": BadPixel.LIT_SNR,
}


def test_every_kind_of_injected_defect_is_found(judged):
    mask, at, *_ = judged
    assert mask.judged[0, 0] == BadPixel.OFFSET | BadPixel.NOISE | BadPixel.GAIN_LEVEL | BadPixel.LIT_SNR
    for name, places in at.items():
        found = (mask.flags[0, 0][places] & np.uint8(EXPECTED[name]) != 0).mean()
        print(f"JUNGFRAU, {name}: {found:.1%} of {len(places[0])} found")
        assert found >= 0.995, name


def test_quiet_pixels_are_not_flagged(judged):
    mask, at, quiet, *_ = judged
    good = quiet.copy()
    for places in at.values():
        good[places] = False
    flagged = int((mask.flags[0, 0][good] != 0).sum())
    print(f"JUNGFRAU: {flagged} of {good.sum()} quiet pixels flagged, by any feature")
    assert flagged <= good.sum() / 100_000


def test_pixels_that_psi_rejected_and_constant_ones_are_flagged(judged, jungfrau):
    mask, _, _, _, edge = judged
    _, rms, raw = jungfrau
    dead = (rms == 0) & ~edge
    constant = (raw == raw[0]).all(0) & ~edge
    print(f"JUNGFRAU: {dead.sum()} pixels of RMS 0 and {constant.sum()} constant ones beside the edges")
    assert dead.sum() > 50
    assert constant.sum() > 15
    assert (mask.flags[0, 0][dead] != 0).all()
    assert (mask.flags[0, 0][constant] != 0).all()


def test_double_size_edge_pixels_carry_edge_alone(judged):
    mask, *_, edge = judged
    assert (mask.flags[0, 0][edge] == BadPixel.EDGE).all()
    assert not (mask.flags[0, 0][~edge] & np.uint8(BadPixel.EDGE)).any()


def test_no_moving_bragg_spot_is_flagged(judged):
    mask, _, _, moving, _ = judged
    lost = int((mask.flags[0, 0][moving] & np.uint8(BadPixel.LIT_SNR) != 0).sum())
    print(f"JUNGFRAU: {lost} of {moving.sum()} pixels of moving spots flagged")
    assert moving.sum() > 1000
    assert lost == 0


# ---- K11 --------------------------------------------------------------------------------------------------------------

K11 = """
[detector]
name = "k11"
modules = 1
module_shape = [22, 26]
asic_shape = [22, 26]
bits = 16
edge_width = 0
first_number = 1
[fit]
min_frames = 50
[features.lit]
every_train = 1
"""


@pytest.mark.parametrize(("dark", "flat"), [((50, 100), (0, 50)), ((3151, 3201), (3101, 3151))], ids=["early", "late"])
def test_camera_live_equals_batch_and_its_erratic_pixel_is_flagged(dark, flat, shared_data, tmp_path):
    path = shared_data / "camera_k11" / "k11-18014-imaging.h5"
    with h5py.File(path) as file:
        images = file["entry/detector/detector"][()]
    darks, flats = images[slice(*dark)], images[slice(*flat)]

    def frames():
        for frame in darks:
            yield Exposure(Illumination.DARK, 0), frame
        for frame in flats:
            yield Exposure(Illumination.FLAT, 0), frame

    live, rejected = stream(K11, "K11/CAM/{module}", "data.image", frames(), tmp_path)
    assert rejected == {0: {}}
    config = parse(K11)
    spec = config.detector.spec()
    inputs = []
    for (first, last), illumination in ((dark, Illumination.DARK), (flat, Illumination.FLAT)):
        place = locate(f"{path}:entry/detector/detector[{first}:{last}]")
        inputs.append(Input(inspect(place, spec, module=0, axes=None), Exposure(illumination, 0)))
    batch = make_masks(spec, config.settings, inputs, [0]).masks[0]
    np.testing.assert_array_equal(live.masks[0].flags, batch.flags, strict=True)
    np.testing.assert_array_equal(live.masks[0].judged, batch.judged, strict=True)
    erratic = np.unravel_index(darks.std(axis=0, ddof=1).argmax(), spec.module_shape)
    print(f"K11: erratic pixel {tuple(map(int, erratic))}, {int((batch.flags != 0).sum())} pixels flagged")
    assert batch.flags[0, 0][erratic] & BadPixel.NOISE
