"""sd_notify, against a socket that stands in for the service manager."""

import re
import socket
from pathlib import Path

import pytest

from rmm_stream.live.notify import notify
from rmm_stream.live.service import STOPPING_S

UNIT = Path(__file__).parents[1] / "systemd" / "rmm-stream@.service"


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    address = str(tmp_path / "notify") if request.param == "path" else f"\0rmm-stream-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        yield server


def test_lines_arrive_as_one_datagram(manager):
    assert notify("READY=1", "STATUS=waiting for frames")
    assert manager.recv(4096) == b"READY=1\nSTATUS=waiting for frames"


def test_without_a_manager_nothing_happens(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


def test_a_manager_that_is_gone_is_no_reason_to_die(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify("WATCHDOG=1")


def test_the_unit_gives_the_service_the_time_that_it_allows_itself_to_stop():
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text("utf-8"), re.MULTILINE)
    assert STOPPING_S <= int(seconds) <= 1.2 * STOPPING_S
