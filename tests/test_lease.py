import json
import multiprocessing
import os
import stat

import pytest

from rmm_stream.errors import ConfigError, LeaseLost
from rmm_stream.storage import lease as lease_file
from rmm_stream.storage.lease import Lease

NAME = "m03-c000-175"


def test_each_start_takes_the_next_generation(tmp_path):
    assert [Lease.take(tmp_path / "state", NAME).generation for _ in range(3)] == [1, 2, 3]
    assert Lease.take(tmp_path / "state", "m04-c000-175").generation == 1


def test_the_owner_passes_the_check_until_it_is_replaced(tmp_path):
    first = Lease.take(tmp_path, NAME)
    first.check()
    second = Lease.take(tmp_path, NAME)
    with pytest.raises(LeaseLost, match="generation 2 now"):
        first.check()
    second.check()


def test_a_stranger_with_the_same_generation_is_not_the_owner(tmp_path):
    lease = Lease.take(tmp_path, NAME)
    lease.path.write_text(json.dumps({"generation": 1, "owner": "someone else"}))
    with pytest.raises(LeaseLost):
        lease.check()


DAMAGED = (
    b"",
    b"7",
    b"{",
    b"\xff\xfe",
    b"[" * 4000,
    b'{"generation": "7", "owner": ""}',
    b'{"generation": 0, "owner": ""}',
    b'{"generation": 9223372036854775807, "owner": ""}',
)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_lease_never_starts_again_from_one(tmp_path, content):
    lease = Lease.take(tmp_path, NAME)
    lease.path.write_bytes(content)
    with pytest.raises(ConfigError, match="does not hold a lease"):
        Lease.take(tmp_path, NAME)
    with pytest.raises(LeaseLost):
        lease.check()
    assert lease.path.read_bytes() == content


def test_a_removed_lease_is_lost(tmp_path):
    lease = Lease.take(tmp_path, NAME)
    lease.path.unlink()
    with pytest.raises(LeaseLost, match="gone"):
        lease.check()


def test_release_keeps_the_generation_and_ends_ownership(tmp_path):
    lease = Lease.take(tmp_path, NAME)
    lease.release()
    with pytest.raises(LeaseLost):
        lease.check()
    lease.release()
    assert Lease.take(tmp_path, NAME).generation == 2


def test_release_of_a_lost_lease_leaves_the_new_owner_alone(tmp_path):
    first = Lease.take(tmp_path, NAME)
    second = Lease.take(tmp_path, NAME)
    first.release()
    second.check()


def test_only_the_owner_of_the_account_can_read_it(tmp_path):
    lease = Lease.take(tmp_path, NAME)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {lease.path.name, f"{NAME}.lock"}


def test_the_generation_is_on_disk_before_it_is_used(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("replace"), replace(*names))[1])
    Lease.take(tmp_path, NAME)
    assert events == ["fsync", "replace", "fsync"]


def test_a_full_disk_leaves_the_old_lease(tmp_path, monkeypatch):
    lease = Lease.take(tmp_path, NAME)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        Lease.take(tmp_path, NAME)
    lease.check()


def test_a_hanging_holder_of_the_lock_is_an_error_and_not_a_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_file, "LOCK_S", 0.05)
    with (
        lease_file._locked(tmp_path / f"{NAME}.lease"),
        pytest.raises(ConfigError, match="hangs"),
    ):
        Lease.take(tmp_path, NAME)


def _take_many(directory, out):
    out.put([Lease.take(directory, NAME).generation for _ in range(20)])


def test_two_processes_never_get_the_same_generation(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    out = spawn.Queue()
    processes = [spawn.Process(target=_take_many, args=(tmp_path, out)) for _ in range(2)]
    for process in processes:
        process.start()
    taken = [out.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(each for process in taken for each in process) == list(range(1, 41))
