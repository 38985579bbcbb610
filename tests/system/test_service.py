"""The whole service over real sockets: frames in, masks out; what must not stop it, and what must."""

import contextlib
import json
import os
import re
import signal
import socket as sockets
import subprocess
import sys
import threading
import time
from pathlib import Path

import hostile
import numpy as np
import pytest
import zmq
from builders import TINY, TINY_SECTION, karabo_message, make_batch, native_message
from karabo_bridge.server import ServerInThread
from running import WAIT_S, running

from rmm_stream.cli.main import main
from rmm_stream.client import MaskClient, ask
from rmm_stream.config import parse
from rmm_stream.errors import ConfigError, LeaseLost, ProtocolError
from rmm_stream.live.service import STOPPING_S, Service, ServiceFailed
from rmm_stream.mask import BadPixel
from rmm_stream.storage.lease import Lease
from rmm_stream.storage.mask_file import read_mask
from rmm_stream.wire.masks import CommitRequest

pytestmark = pytest.mark.system

FRAMES = 24

TINY_TOML = (
    TINY_SECTION
    + """
[source]
protocol = "{protocol}"
endpoint = "{endpoint}"
socket = "{socket}"
name = "TINY/DET/{{module}}CH0:xtdf"
when_full = "block"
max_message_mb = {limit}
[exposure]
default = "dark"
gain_stage = 0
[gate]
learn = 20
[fit]
tile = [32, 32]
min_frames = 24
[publish]
updates = "tcp://127.0.0.1:*"
requests = "tcp://127.0.0.1:*"
heartbeat_s = 0.1
[store]
directory = "{directory}"
mask_file = "{directory}/mask.h5"
live_file = "{directory}/live.h5"
[http]
port = 0
"""
)


def write_config(directory: Path, endpoint: str, protocol="karabo", socket="pull", limit=64) -> Path:
    path = directory / "tiny.toml"
    path.write_text(
        TINY_TOML.format(directory=directory, endpoint=endpoint, protocol=protocol, socket=socket, limit=limit)
    )
    return path


@contextlib.contextmanager
def pusher():
    """(socket, endpoint) of a PUSH socket."""
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.linger = 0
    socket.sndtimeo = int(WAIT_S * 1000)
    try:
        yield socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"
    finally:
        context.destroy(linger=0)


@contextlib.contextmanager
def fed(directory: Path, versions=True, **source):
    """(socket, service): a service that reads from a PUSH socket."""
    with pusher() as (socket, endpoint):
        text = write_config(directory, endpoint, **source).read_text()
        with running(text if versions else text.replace("[store]", "[store]\nversions = false")) as service:
            yield socket, service


def defective_train(train: int) -> list:
    """Both modules of one train; pixel (20, 7) reads 2000 ADU too high."""
    batches = [make_batch(TINY, module, train_id=train, timestamp=time.time()) for module in range(2)]
    for batch in batches:
        batch.pixels[:, 20, 7] += 2000
    return batches


def send_darks(socket: zmq.Socket, trains=range(FRAMES)) -> None:
    for train in trains:
        socket.send_multipart(karabo_message(defective_train(train)))


def test_from_frames_to_a_client_to_files(tmp_path):
    with pusher() as (socket, endpoint):
        path = write_config(tmp_path, endpoint)
        with running(path.read_text()) as service, MaskClient(service.service.updates_endpoint) as client:
            code, reason = service.get("/healthz")
            assert code == 503
            assert "no frame yet" in reason
            send_darks(socket)
            service.until(lambda s: all(m.judged == 3 for m in s.modules.values()), "judged map")
            client.wait(WAIT_S)
            for module in range(2):
                bad = client.bad(module, ignore=BadPixel.EDGE)
                assert bad[20, 7]
                assert bad.sum() == 1
            assert service.get("/healthz") == (200, "ok\n")
            assert service.metric("frames_total") == 2 * 3 * FRAMES
            assert service.metric("bad_pixels", module="1", reason="OFFSET") == 1
            service.until(lambda s: (tmp_path / "live.h5").exists(), "live file")
    found = read_mask(tmp_path / "mask.h5")
    assert found.provenance.version == 1
    assert [mask.flags[0, 0, 20, 7] & BadPixel.OFFSET for mask in found.masks] == [1, 1]
    assert found.mask(0).judged[0].all()
    assert not found.mask(0).judged[1].any()


def test_a_real_karabo_bridge_server_feeds_it(tmp_path):
    with (
        ServerInThread("tcp://127.0.0.1:*", sock="REP") as server,
        running(write_config(tmp_path, server.endpoint, socket="req").read_text()) as service,
    ):
        for train in range(FRAMES):
            batches = defective_train(train)
            names = [f"TINY/DET/{batch.module}CH0:xtdf" for batch in batches]
            data = [{"image.data": b.pixels, "image.gain": b.gain, "image.cellId": b.cell} for b in batches]
            stamps = [{"source": n, "timestamp": b.timestamp, "timestamp.tid": train} for n, b in zip(names, batches)]
            server.feed(dict(zip(names, data)), dict(zip(names, stamps)))
        service.until(lambda s: all(m.judged == 3 for m in s.modules.values()), "judged map")
        assert service.metric("bad_pixels", module="0", reason="OFFSET") == 1


@pytest.mark.parametrize("protocol", ["karabo", "native"])
def test_hostile_messages_are_counted_by_reason_and_the_next_good_train_counts(tmp_path, protocol):
    cases = hostile.karabo_2_2() if protocol == "karabo" else hostile.native()
    cases = [case for case in cases if case.parts]  # a message without parts cannot be sent
    expected: dict[tuple[bool, str], int] = {}
    for case in cases:
        expected[case.whole, case.reason] = expected.get((case.whole, case.reason), 0) + 1
    with fed(tmp_path, protocol=protocol) as (socket, service):
        for case in cases:
            socket.send_multipart(case.parts)
        good = make_batch(TINY, train_id=5000, timestamp=time.time())
        socket.send_multipart(karabo_message([good]) if protocol == "karabo" else native_message(good))
        service.until(lambda s: s.sources and s.sources[0].messages == len(cases) + 1, "last message")
        service.until(lambda s: s.modules[0].train_id == 5000, "good train")
        assert service.service.status().state == "running"
        for (whole, reason), count in expected.items():
            if whole:
                assert service.metric("messages_malformed_total", socket="frames", reason=reason) == count, reason
            else:
                assert service.metric("frames_rejected_total", reason=reason) >= count, reason
        assert service.metric("messages_malformed_total", socket="frames") == sum(c.whole for c in cases)


def test_oversized_parts_and_a_duplicate_do_not_stop_the_stream(tmp_path):
    with fed(tmp_path, limit=1) as (socket, service):
        send_darks(socket, range(2))
        send_darks(socket, [1])
        service.until(lambda s: s.sources[0].rejected.get((1, "duplicate")) == 3, "duplicate")
        socket.send_multipart([b"x" * (2 << 20), b""])  # beyond max_message_mb: counted
        service.until(lambda s: s.sources[0].malformed.get("oversized") == 1, "oversized")
        assert service.metric("messages_malformed_total", socket="frames", reason="oversized") == 1
        socket.send_multipart([b"x" * ((2 << 20) + 1), b""])  # beyond twice that: ZeroMQ drops the connection
        deadline = time.monotonic() + WAIT_S
        train = 2
        while service.service.status().modules[0].train_id < 2:
            assert time.monotonic() < deadline, "no good train after an oversized one"
            send_darks(socket, [train])
            train += 1
            time.sleep(0.05)
        assert service.metric("frames_rejected_total", module="0", reason="duplicate") == 3
        assert service.metric("source_disconnects_total", socket="frames") >= 1


def test_a_corrupt_train_id_is_forgotten_with_the_next_train_of_any_module(tmp_path):
    with fed(tmp_path) as (socket, service), MaskClient(service.service.updates_endpoint) as client:
        for module, train in ((1, 2**63 - 1), (0, 5)):
            socket.send_multipart(karabo_message([defective_train(train)[module]]))
            service.until(lambda s, train=train: client.train_id == train, f"heartbeat of train {train}")


def test_an_operator_says_what_the_detector_sees(tmp_path, capsys):
    with fed(tmp_path) as (socket, service):
        send_darks(socket, [0])
        service.until(lambda s: s.modules[0].frames == 3, "train")
        assert service.service.status().labelled_by == "config"
        requests = service.service.requests_endpoint
        assert main(["expose", requests, "dark", "--gain-stage", "1", "--new", "--override"]) == 0
        assert "statistics start afresh" in capsys.readouterr().out
        send_darks(socket, [1])
        service.until(lambda s: s.modules[0].frames == 6, "train")
        status = service.service.status()
        assert (status.labelled_by, status.exposure.gain_stage) == ("operator", 1)
        assert main(["expose", requests, "dark", "--gain-stage", "2"]) == 1
        assert "tiny has 0 to 1" in capsys.readouterr().err


def test_watch_saves_the_present_mask(tmp_path, capsys):
    saved = tmp_path / "saved.h5"
    with fed(tmp_path) as (socket, service):
        updates = service.service.updates_endpoint
        assert main(["watch", updates, "--once", "--timeout", "0.5"]) == 1
        assert "judged" in capsys.readouterr().err
        send_darks(socket)
        service.until(lambda s: all(m.judged == 3 for m in s.modules.values()), "judged map")
        assert main(["watch", updates, "--once", "--json", "--output", str(saved), "--timeout", str(WAIT_S)]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["by_flag"]["OFFSET"] for line in lines] == [1, 1]
    with_service = read_mask(tmp_path / "mask.h5")
    for module in range(2):
        live, at_end = read_mask(saved).mask(module), with_service.mask(module)
        assert np.array_equal(live.judged, at_end.judged)
        assert np.array_equal(live.flags[0], at_end.flags[0])


def test_a_lost_lease_stops_it_at_once(tmp_path):
    with fed(tmp_path) as (_, service):
        Lease.take(tmp_path / "tiny", "m00-c000-002")
        with pytest.raises(LeaseLost):
            service.until(lambda s: False, "end")
    assert not (tmp_path / "mask.h5").exists()


def test_a_worker_that_fails_is_noticed_and_the_status_says_why(tmp_path, monkeypatch, caplog):
    with fed(tmp_path) as (socket, service):

        def fail(batch):
            raise ValueError("a fault of ours")

        monkeypatch.setattr(service.service._parts.workers[0].maker, "feed", fail)
        send_darks(socket, [0])
        with pytest.raises(ServiceFailed, match="the worker failed: ValueError: a fault of ours"):
            service.until(lambda s: False, "failure")
        assert service.get("/healthz") == (503, "failed: ValueError: a fault of ours\n")


def test_every_start_is_a_new_generation_and_versions_go_on(tmp_path):
    with pusher() as (_, endpoint):
        path = write_config(tmp_path, endpoint)
        generations, epochs = [], []
        for _ in range(2):
            with running(path.read_text()) as service:
                generations.append(service.service.status().generation)
                epochs.append(service.service.status().epoch)
    assert generations == [1, 2]
    assert epochs[0] != epochs[1]


def test_without_versions_a_restart_keeps_the_files_until_something_is_judged_and_then_versions_go_on(tmp_path):
    names = ("live.h5", "mask.h5")
    with fed(tmp_path, versions=False) as (socket, service):
        send_darks(socket)
        service.until(lambda s: all(m.judged == 3 for m in s.modules.values()), "judged map")
    good = [(tmp_path / name).read_bytes() for name in names]
    with fed(tmp_path, versions=False) as (_, service):
        with pytest.raises(ProtocolError, match="nothing is judged yet"):
            ask(service.service.requests_endpoint, CommitRequest(), WAIT_S)
        service.until(lambda s: s.turns > 1, "turn")
    assert [(tmp_path / name).read_bytes() for name in names] == good
    with fed(tmp_path, versions=False) as (socket, service):
        send_darks(socket)
        service.until(lambda s: all(m.judged == 3 for m in s.modules.values()), "judged map")
        assert ask(service.service.requests_endpoint, CommitRequest(), WAIT_S)["version"] == 2
    assert read_mask(tmp_path / "mask.h5").provenance.version >= 2


def test_shards_that_had_fewer_owners_catch_up(tmp_path):
    for _ in range(3):
        Lease.take(tmp_path / "tiny", "m01-c000-002")
    with fed(tmp_path) as (_, service):
        assert service.service.status().generation == 4
        assert Lease.take(tmp_path / "tiny", "m00-c000-002").generation == 5
        with pytest.raises(LeaseLost):
            service.until(lambda s: False, "end")


@pytest.mark.parametrize("port", ["publish.updates", "publish.requests", "http.port"])
def test_whoever_finds_a_port_taken_leaves_nothing_behind_and_the_first_service_alone(tmp_path, port):
    with pusher() as (_, endpoint), running(write_config(tmp_path, endpoint).read_text()) as first:
        text = (tmp_path / "tiny.toml").read_text()
        changes = {
            "publish.updates": ('updates = "tcp://127.0.0.1:*"', f'updates = "{first.service.updates_endpoint}"'),
            "publish.requests": ('requests = "tcp://127.0.0.1:*"', f'requests = "{first.service.requests_endpoint}"'),
            "http.port": ("port = 0", f"port = {first.service.url.rsplit(':', 1)[1]}"),
        }
        assert changes[port][0] in text
        before = threading.active_count()
        with pytest.raises(ConfigError, match=re.escape(port)):
            Service(parse(text.replace(*changes[port]))).start()
        assert threading.active_count() == before
        first.service._check_leases()
    assert Lease.take(tmp_path / "tiny", "m00-c000-002").generation == 2


# As a process ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(path: Path, **environment: str):
    """`rmm-stream run`, its stderr a pipe."""
    command = [sys.executable, "-m", "rmm_stream.cli.main", "run", str(path)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.02)


def test_sigterm_ends_it_with_the_mask_on_disk_and_systemd_is_told(tmp_path):
    manager = sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(WAIT_S)
    with manager, pusher() as (socket, endpoint):
        path = write_config(tmp_path, endpoint)
        with process(path, NOTIFY_SOCKET=str(tmp_path / "notify"), JOURNAL_STREAM="8:1") as child:
            assert manager.recv(4096).startswith(b"READY=1")
            send_darks(socket)
            seen = set()
            while b"WATCHDOG=1" not in seen:
                seen.add(manager.recv(4096))
            wait_for(tmp_path / "live.h5")
            child.send_signal(signal.SIGTERM)
            _, errors = child.communicate(timeout=WAIT_S)
            assert child.returncode == 0, errors
            while not (last := manager.recv(4096)).startswith(b"STOPPING=1"):
                pass
    assert f"EXTEND_TIMEOUT_USEC={STOPPING_S * 1e6:.0f}" in last.decode().splitlines()
    assert [json.loads(line)["event"] for line in errors.splitlines() if "ready" in line] == ["ready"]
    assert read_mask(tmp_path / "mask.h5").provenance.generation == 1


def test_a_replaced_process_ends_with_3(tmp_path):
    with pusher() as (_, endpoint), process(write_config(tmp_path, endpoint)) as child:
        wait_for(tmp_path / "live.h5")
        Lease.take(tmp_path / "tiny", "m01-c000-002")
        _, errors = child.communicate(timeout=WAIT_S)
        assert child.returncode == 3, errors
    assert "m01-c000-002 has generation 2 now" in errors.splitlines()[-1]
