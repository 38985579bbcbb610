"""Versions of a running service: committed, put in force again, released, and there before the first frame of the next life."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from builders import TINY, karabo_message, make_batch
from running import WAIT_S, running
from test_service import FRAMES as FEWEST
from test_service import fed, process, pusher, wait_for, write_config

from rmm_stream.cli.main import main
from rmm_stream.client import MaskClient, ask
from rmm_stream.errors import ConfigError, ProtocolError
from rmm_stream.mask import BadPixel
from rmm_stream.storage.journal import read_journal
from rmm_stream.storage.mask_file import read_mask
from rmm_stream.storage.mask_store import MaskStore
from rmm_stream.storage.presence import Announcement, find
from rmm_stream.wire.masks import AcceptRequest, CommitRequest, RejectRequest, ReleaseRequest, RollbackRequest

pytestmark = pytest.mark.system

FRAMES = 2 * FEWEST  # a last fit that comes too early for the last few frames has enough of them
FIRST, SECOND, THIRD = (20, 7), (30, 9), (50, 20)  # pixels


def send(socket, start: int, *bad) -> None:
    """Darks of both modules, where these pixels read 2000 ADU too high."""
    for train in range(start, start + FRAMES):
        batches = [make_batch(TINY, module, train_id=train) for module in range(2)]
        for batch in batches:
            for pixel in bad:
                batch.pixels[:, *pixel] += 2000
        socket.send_multipart(karabo_message(batches))


def shows(client: MaskClient, *bad) -> bool:
    """Whether exactly these pixels are bad in both modules."""
    if not set(client.modules) >= {0, 1}:
        return False
    wanted = np.zeros(TINY.module_shape, bool)
    for pixel in bad:
        wanted[pixel] = True
    return all(np.array_equal(client.bad(module, ignore=BadPixel.EDGE), wanted) for module in range(2))


def afresh(service, socket, start: int, *bad) -> None:
    """A new series of darks of which every map is fitted."""
    running = service.service
    before = running.status().modules[0].fit_seconds
    assert main(["expose", running.requests_endpoint, "dark", "--gain-stage", "0", "--new"]) == 0
    send(socket, start, *bad)
    service.until(lambda s: s.modules[0].train_id == start + FRAMES - 1, "last train")
    service.until(lambda s: sum(s.modules[0].fit_seconds.counts) >= sum(before.counts) + 3, "fits of all maps")


def life(tmp_path: Path, start: int, *bad) -> None:
    """A service that sees one series of darks, and stops."""
    with fed(tmp_path) as (socket, service):
        afresh(service, socket, start, *bad)


def commit(service) -> int:
    """Ask for a version, and wait until it is there."""
    number = ask(service.service.requests_endpoint, CommitRequest(), WAIT_S)["version"]
    service.until(lambda s: s.modules[0].version == number, f"version {number}")
    return number


def test_rollback_pins_an_older_mask_and_release_brings_the_new_one_back(tmp_path, capsys):
    store = MaskStore(tmp_path / "tiny")
    with fed(tmp_path) as (socket, service), MaskClient(service.service.updates_endpoint) as client:
        afresh(service, socket, 1000, FIRST)
        service.until(lambda s: shows(client, FIRST), "first mask")
        assert commit(service) == 1
        assert commit(service) == 1, "nothing has changed"
        assert store.numbers() == [1]
        afresh(service, socket, 2000, SECOND)
        service.until(lambda s: shows(client, SECOND), "second mask")
        assert commit(service) == 2
        capsys.readouterr()

        assert main(["history", str(tmp_path), "rollback", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"version": 3, "of": 1, "running": True}
        service.until(lambda s: shows(client, FIRST) and s.pinned == 3, "older mask")
        assert service.metric("mask_pinned") == 1
        assert json.loads(service.get("/api/status")[1])["pinned"] == 3
        assert "Pinned to version 3" in service.get("/")[1]

        afresh(service, socket, 3000, THIRD)
        assert shows(client, FIRST), "fits change nothing"
        assert commit(service) == 3

        assert main(["history", str(tmp_path), "release"]) == 0
        service.until(lambda s: shows(client, THIRD) and not s.pinned, "what the fits say")
        assert service.metric("mask_pinned") == 0
    assert store.numbers() == [1, 2, 3, 4]
    versions = [store.version(number) for number in store.numbers()]
    assert [version.made_by for version in versions] == ["request", "request", "rollback of 1", "exit"]
    assert [(v.first_train, v.last_train) for v in versions] == [(1000, 1047), (1048, 2047), (2048, 2047), (2048, 3047)]
    assert [v.turned for v in versions[1:]] == [(2, 2)] * 3  # one pixel for another, in both modules
    assert [v.newly_bad["OFFSET"] for v in versions[1:]] == [2, 2, 2]
    assert read_mask(tmp_path / "mask.h5").provenance.version == 4
    for mask, again in zip(store.read(1).masks, store.read(3).masks):
        assert np.array_equal(mask.flags, again.flags)
        assert np.array_equal(mask.judged, again.judged)
    in_force(tmp_path, capsys)


def in_force(tmp_path: Path, capsys) -> None:
    """Afterwards: what was in force for trains of each of the three series."""
    capsys.readouterr()
    found = {}
    for train in (1, 2000, 3000, 9000):
        code = main(["history", str(tmp_path), "at", str(train), "--json"])
        found[train] = (code, json.loads(out)) if (out := capsys.readouterr().out) else (code, None)
    assert found[1] == (2, None), "nothing was in force before the first map"
    assert (found[2000][1]["version"], found[2000][1]["updates"]) == (1, [])
    # the pin of version 3 is in its journal; it says once more what the version holds
    assert found[3000][1]["version"] == 3
    assert {(u["newly_bad"], u["newly_good"]) for u in found[3000][1]["updates"]} == {(1, 1)}
    assert (found[9000][1]["version"], found[9000][1]["later"]) == (4, False)


def test_the_mask_of_the_last_life_is_there_before_the_first_frame(tmp_path):
    life(tmp_path, 1000, FIRST)
    with fed(tmp_path) as (socket, service), MaskClient(service.service.updates_endpoint) as client:
        client.wait(WAIT_S)
        assert shows(client, FIRST)
        assert client.version == 1
        assert service.service.status().frames == 0
        assert service.service.status().pinned == 0
        afresh(service, socket, 2000, SECOND)
        service.until(lambda s: shows(client, SECOND), "what the fits say")
    assert [update["after_train"] for update in read_journal(MaskStore(tmp_path / "tiny").journal(1)).updates][:6] == [
        1047
    ] * 6


def test_a_restart_without_frames_writes_no_version(tmp_path):
    life(tmp_path, 1000, FIRST)
    for _ in range(2):
        with fed(tmp_path) as (_, service):
            service.until(lambda s: s.modules[1].judged == 3, "restored maps")
    assert MaskStore(tmp_path / "tiny").numbers() == [1]


def test_a_pin_outlives_a_restart_also_one_that_was_made_while_nobody_ran(tmp_path, capsys):
    life(tmp_path, 1000, FIRST)
    life(tmp_path, 2000, SECOND)
    assert main(["history", str(tmp_path / "tiny"), "rollback", "1"]) == 0
    assert "no service runs" in capsys.readouterr().out
    for start in (3000, 4000):
        with fed(tmp_path) as (socket, service), MaskClient(service.service.updates_endpoint) as client:
            service.until(lambda s: s.pinned == 3, "pin")
            afresh(service, socket, start, THIRD)
            client.wait(WAIT_S)
            assert shows(client, FIRST)
    assert MaskStore(tmp_path / "tiny").numbers() == [1, 2, 3]
    assert main(["history", str(tmp_path), "release"]) == 0
    with fed(tmp_path) as (socket, service), MaskClient(service.service.updates_endpoint) as client:
        afresh(service, socket, 5000, THIRD)
        service.until(lambda s: shows(client, THIRD), "what the fits say")


def test_two_workers_pin_and_release_together(tmp_path):
    with pusher() as (socket, endpoint):
        text = write_config(tmp_path, endpoint).read_text().replace("[source]", "[shards]\nworkers = 2\n[source]")
        with running(text) as service, MaskClient(service.service.updates_endpoint) as client:
            afresh(service, socket, 1000, FIRST)
            service.until(lambda s: shows(client, FIRST), "first mask")
            assert commit(service) == 1
            afresh(service, socket, 2000, SECOND)
            service.until(lambda s: shows(client, SECOND), "second mask")
            requests = service.service.requests_endpoint
            assert ask(requests, RollbackRequest(1), WAIT_S) == {"version": 2, "of": 1}
            service.until(lambda s: shows(client, FIRST) and s.pinned == 2, "older mask")
            assert ask(requests, ReleaseRequest(), WAIT_S) == {"version": 2}
            service.until(lambda s: shows(client, SECOND) and s.pinned == 0, "newer mask")


def test_requests_that_make_no_sense_are_refused_in_words(tmp_path):
    with fed(tmp_path) as (_, service):
        requests = service.service.requests_endpoint
        for request, words in (
            (RollbackRequest(7), "there is no version 7; the store has none"),
            (RollbackRequest(0), "numbered from 1"),
            (AcceptRequest(module=2), "module 2; this service does 0, 1"),
            (RejectRequest(cell=3), "cell 3; this service does 0 to 2"),
            (AcceptRequest(gain_stage=2), "gain stage 2; tiny has 0 to 1"),
        ):
            with pytest.raises(ProtocolError, match=words):
                ask(requests, request, WAIT_S)
        assert ask(requests, ReleaseRequest(), WAIT_S) == {"version": 0}
        assert main(["accept", requests]) == 0
        assert main(["reject", requests, "--module", "1", "--gain-stage", "0", "--cell", "2"]) == 0


def test_without_versions_there_is_nothing_to_go_back_to(tmp_path):
    with fed(tmp_path, versions=False) as (_, service), pytest.raises(ProtocolError, match=r"store\.versions is false"):
        ask(service.service.requests_endpoint, RollbackRequest(1), WAIT_S)
    assert not (tmp_path / "tiny" / "versions").exists()


def test_a_version_of_another_part_of_the_detector_is_an_alarm_and_not_used(tmp_path):
    life(tmp_path, 1000, FIRST)
    path = write_config(tmp_path, "tcp://127.0.0.1:1")
    with running(path.read_text().replace("[source]", "[shards]\nmodules = [1]\n[source]")) as service:
        service.until(lambda s: s.alarms, "alarm")
        (alarm,) = service.service.status().alarms
        assert "version 1 in" in alarm
        assert "is not used: its modules: (0, 1); here: (1,)" in alarm
        assert not service.service.status().changes
    assert MaskStore(tmp_path / "tiny").numbers() == [1]


def test_a_store_belongs_to_one_living_service(tmp_path):
    (tmp_path / "tiny").mkdir()
    other = Announcement(tmp_path / "tiny", "tcp://127.0.0.1:9", ["m07-c000-002"])
    with pytest.raises(ConfigError, match="keeps the versions of m07-c000-002 there"), fed(tmp_path):
        pass
    other.withdraw()
    with fed(tmp_path) as (_, service):
        assert find(tmp_path / "tiny").requests == service.service.requests_endpoint
    assert find(tmp_path / "tiny") is None
    assert not (tmp_path / "tiny" / "service.json").exists()


def test_after_a_kill_the_store_is_whole_and_nobody_is_taken_to_run(tmp_path, capsys):
    store = MaskStore(tmp_path / "tiny")
    with pusher() as (socket, endpoint):
        path = write_config(tmp_path, endpoint)
        path.write_text(path.read_text().replace("[store]", "[store]\nevery_s = 0.001"))
        with process(path) as child:
            for n, pixel in enumerate((FIRST, SECOND, THIRD), 1):
                send(socket, 1000 * n, pixel)
                wait_for(store.path(n))
                assert main(["expose", find(tmp_path / "tiny").requests, "dark", "--gain-stage", "0", "--new"]) == 0
            os.kill(child.pid, signal.SIGKILL)
            child.wait(WAIT_S)
    numbers = store.numbers()
    assert numbers == list(range(1, len(numbers) + 1))
    for number in numbers:
        assert len(store.read(number).masks) == 2
        assert read_journal(store.journal(number)).damaged == 0
    assert (tmp_path / "tiny" / "service.json").exists()
    assert find(tmp_path / "tiny") is None
    capsys.readouterr()
    assert main(["history", str(tmp_path), "--json"]) == 0
    assert [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()] == numbers
    with fed(tmp_path) as (_, service):
        service.until(lambda s: s.modules[0].judged, "restored maps")
        assert service.service.status().modules[0].version == numbers[-1]
