"""A pixel that goes bad after a long quiet run reaches the hit-finder within 300 judged frames; one that recovers is released.

Real sockets from the sender to the MaskClient. Delays are counted in frames, by the trains that updates name: the speed of
the machine takes no part.
"""

import threading

import numpy as np
import pytest
import zmq
from builders import NOW
from running import running

from rmm_stream.cli.demo import free_ports
from rmm_stream.client import MaskClient
from rmm_stream.frames import Exposure, FrameBatch, Illumination
from rmm_stream.wire import native

pytestmark = pytest.mark.system

SHAPE = (64, 64)
DARKS, QUIET, ON, OFF = 400, 50_000, 400, 1800
DARK, SAMPLE = Exposure(Illumination.DARK, 0), Exposure(Illumination.SAMPLE, 0)
NOISE, LIGHT = 10.0, 20.0  # ADU; what a good pixel reads above its offset, and how it scatters
STEADY = [(ss, 14) for ss in range(5, 60, 4)]  # read 3 sigma high in every frame
FLICKERING = [(ss, 44) for ss in range(5, 60, 4)]  # read 12 sigma high in one frame of ten
BEGINS = DARKS + QUIET
TOML = """
[detector]
name = "quiet"
modules = 1
module_shape = [64, 64]
asic_shape = [64, 64]
bits = 14
[source]
protocol = "native"
endpoint = "{endpoint}"
socket = "pull"
when_full = "block"
[features.lit]
every_train = 1
[publish]
updates = "tcp://127.0.0.1:*"
requests = "tcp://127.0.0.1:*"
[store]
directory = "{directory}"
[http]
port = 0
"""


def frames(first: int, n: int, exposure: Exposure, offset, rng, bad: bool):
    """n frames of one memory cell, one train each, from train `first` on."""
    values = offset + NOISE * rng.standard_normal((n, *SHAPE), dtype=np.float32)
    if exposure is SAMPLE:
        values += LIGHT * rng.uniform(0.8, 1.2, (n, 1, 1)).astype(np.float32)
    if bad:
        ss, fs = np.array(STEADY).T
        values[:, ss, fs] += 3 * NOISE
        ss, fs = np.array(FLICKERING).T
        values[:, ss, fs] += 12 * NOISE * (rng.random((n, len(ss))) < 0.1)
    pixels = np.rint(values).astype(np.uint16)
    for k in range(n):
        yield FrameBatch(
            module=0,
            pixels=pixels[k : k + 1],
            gain=None,
            cell=np.zeros(1, np.uint16),
            train_id=np.full(1, first + k, np.uint64),
            complete=np.ones(1, bool),
            timestamp=NOW + (first + k) / 100,  # 1,024 frames are past before 600 s are
            exposure=exposure,
        )


def run():
    rng = np.random.Generator(np.random.SFC64(20221128))
    offset = rng.normal(2000, 12, SHAPE).astype(np.float32)
    at = 1
    for n, exposure, bad in ((DARKS, DARK, False), (QUIET, SAMPLE, False), (ON, SAMPLE, True), (OFF, SAMPLE, False)):
        for done in range(0, n, 100):
            yield from frames(at + done, min(100, n - done), exposure, offset, rng, bad)
        at += n


def send(endpoint: str) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.sndhwm, socket.linger = 20, 60_000
        socket.bind(endpoint)
        for batch in run():
            socket.send_multipart(native.encode(batch, "quiet"))


def test_onset_after_a_long_quiet_run_and_release(tmp_path):
    endpoint = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    turned: dict[tuple[int, int], list[int]] = {}  # trains behind the updates that turned a pixel, by pixel
    before = np.zeros(SHAPE, bool)

    def note(update):
        nonlocal before
        bad = update.change.flags != 0
        if bad.shape == before.shape:
            for place in np.argwhere(bad != before).tolist():
                turned.setdefault(tuple(place), []).append(update.change.train_id)
            before = bad

    with (
        running(TOML.format(endpoint=endpoint, directory=tmp_path)) as service,
        MaskClient(service.service.updates_endpoint) as masks,
    ):
        masks.on_update(note)
        sender = threading.Thread(target=send, args=(endpoint,))
        sender.start()
        masks.wait(timeout=60)
        sender.join()
        last = DARKS + QUIET + ON + OFF
        service.until(lambda status: status.modules[0].train_id >= last, "last frame")
        service.until(lambda status: status.queues["frames"] == 0, "empty queue")
    assert service.service.status().modules[0].frames == last, "no frame was lost"

    edge = {place for place in turned if set(place) & {0, 63}}
    planted = {*STEADY, *FLICKERING}
    assert set(turned) - edge == planted, "nothing but the planted pixels ever changed"
    for kind in (STEADY, FLICKERING):
        delays = sorted(turned[place][0] - BEGINS for place in kind)
        print(f"found after {delays[len(delays) // 2]} judged frames (median), {delays[-1]} (longest)")
        assert delays[0] > 0
        assert delays[-1] <= 300
        releases = sorted(turned[place][-1] - (BEGINS + ON) for place in kind)
        print(f"released after {releases[len(releases) // 2]} (median), {releases[-1]} (longest)")
        assert [turned[place] for place in kind if len(turned[place]) != 2] == [], "each is set once and cleared once"
        assert releases[-1] <= 2 * 1024
