"""When the files of a service are written, with which version, and what a full disk does."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from example_status import running, with_module

from rmm_stream.config import Store
from rmm_stream.detectors import DetectorSpec
from rmm_stream.live import files as files_file
from rmm_stream.live.files import LIVE_S, MASK_S, RETRY_S, MaskFiles
from rmm_stream.live.status import collapsed
from rmm_stream.storage.mask_file import read_mask

SPEC = DetectorSpec("tiny", 4, (1, 3), (1, 3), cells=6, stages=("a", "b"), edge_width=0)


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def files(tmp_path, now):
    store = Store(mask_file=str(tmp_path / "mask.h5"), live_file=str(tmp_path / "live.h5"))
    return MaskFiles(store, SPEC, "digest", clock=lambda: now[0])


def test_the_live_file_is_there_before_the_first_fit(files, tmp_path):
    files.step(running(changes={}))
    assert (tmp_path / "live.h5").exists()
    assert not (tmp_path / "mask.h5").exists()


def test_a_mask_of_which_nothing_is_judged_replaces_no_file(files, tmp_path, now, caplog):
    caplog.set_level("INFO")
    names = ("live.h5", "mask.h5")
    assert files.finish(running())
    good = [(tmp_path / name).read_bytes() for name in names]
    again = MaskFiles(files._store, SPEC, "digest", clock=lambda: now[0])
    caplog.clear()
    for turn in range(3):
        again.step(running(changes={}, exposures_ended=turn), commit=True)
        now[0] += MASK_S
    assert again.finish(running(changes={}))
    assert [(tmp_path / name).read_bytes() for name in names] == good
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"store.{key} is kept as found while no map is judged" for key in ("live_file", "mask_file")
    ]
    again.step(with_module(serial=5), commit=True)
    assert read_mask(tmp_path / "mask.h5").provenance.version == 2
    assert (tmp_path / "live.h5").read_bytes() != good[0]


def test_the_live_file_follows_changes_but_not_too_often(files, tmp_path, now, monkeypatch):
    written = []
    monkeypatch.setattr(files, "write_live", lambda status: written.append(status.modules[3].serial))
    files.step(with_module(serial=1))
    files.step(with_module(serial=1))
    files.step(with_module(serial=2))
    assert written == [1]
    now[0] += LIVE_S
    files.step(with_module(serial=3))
    now[0] += LIVE_S
    files.step(with_module(serial=3))
    assert written == [1, 3]


def test_the_mask_file_is_written_when_an_exposure_ends_and_not_at_every_alternation(files, now):
    files.step(running(exposures_ended=0))
    assert files.version == 0
    files.step(running(exposures_ended=1))
    files.step(running(exposures_ended=2))
    assert files.version == 1
    now[0] += MASK_S
    files.step(running(exposures_ended=2))
    files.step(running(exposures_ended=2))
    assert files.version == 2


def test_a_commit_is_written_at_once(files):
    files.step(running(), commit=True)
    files.step(running(), commit=True)
    assert files.version == 2


def test_versions_go_on_after_a_restart(files, tmp_path):
    assert files.finish(running(epoch="abc", generation=7))
    found = read_mask(tmp_path / "mask.h5")
    assert (found.provenance.version, found.provenance.generation, found.provenance.epoch) == (1, 7, "abc")
    assert found.provenance.settings_digest == "digest"
    assert found.cells == (4, 5)
    assert np.array_equal(found.mask(3).collapse(), collapsed(running(), 3))
    again = MaskFiles(Store(mask_file=str(tmp_path / "mask.h5")), SPEC, "digest")
    assert again.version == 1
    assert again.finish(running())
    assert read_mask(tmp_path / "mask.h5").provenance.version == 2


#: Writes five times where no file may grow beyond a page, which is how a full disk looks from inside, then without.
FULL_DISK = """
    import json, os, resource, sys
    import numpy as np
    from rmm_stream.config import Store
    from rmm_stream.detectors import DetectorSpec
    from rmm_stream.live.files import RETRY_S, MaskFiles
    from rmm_stream.live.status import ModuleStatus, Status

    folder, now = sys.argv[1], [0.0]
    spec = DetectorSpec("tiny", 4, (128, 128), (64, 64), cells=2, stages=("a", "b"))
    noise = np.random.default_rng(1).integers(0, 256, spec.module_shape, np.uint8)
    modules = {3: ModuleStatus(3, maps=4, serial=1)}
    status = Status("tiny", 2, range(2), modules, state="running", overlay={3: noise})
    store = Store(mask_file=folder + "/mask.h5", live_file=folder + "/live.h5")
    files = MaskFiles(store, spec, "digest", clock=lambda: now[0])
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    for turn in range(6):
        if turn == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        files.step(status, commit=True)
        print(json.dumps([files.alarms, files.version, sorted(os.listdir(folder))]), flush=True)
        now[0] += RETRY_S
"""


def test_a_disk_that_is_full_for_a_while_costs_alarms_and_nothing_else(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    turns = [json.loads(line) for line in done.stdout.splitlines()]
    why = os.strerror(errno.EFBIG)
    failed = {key: f"store.{key} cannot be written: {why}; trying again" for key in ("live_file", "mask_file")}
    assert turns[:5] == [[failed, 0, []]] * 5
    assert turns[5:] == [[{}, 1, ["live.h5", "mask.h5"]]]
    assert read_mask(tmp_path / "mask.h5").provenance.version == 1


def test_after_a_failure_the_mask_file_waits_before_it_is_tried_again(files, now, monkeypatch):
    def full(*args, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files_file, "write_mask", full)
    files.step(running(exposures_ended=1))
    assert files.alarms["mask_file"] == "store.mask_file cannot be written: No space left on device; trying again"
    assert files.version == 0
    monkeypatch.undo()
    files.step(running(exposures_ended=1))
    assert files.version == 0, "not at once"
    now[0] += RETRY_S
    files.step(running(exposures_ended=1))
    assert files.version == 1
    assert files.alarms == {}


def test_a_last_mask_that_cannot_be_written_is_told(files, monkeypatch, caplog):
    monkeypatch.setattr(
        files_file, "write_mask", lambda *a, **k: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    assert files.finish(running()) is False


def test_without_names_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = MaskFiles(Store(), SPEC, "digest")
    files.step(running(exposures_ended=1), commit=True)
    assert files.finish(running())
    assert list(tmp_path.iterdir()) == []
    assert files.version == 0


def test_a_damaged_mask_file_does_not_keep_the_service_from_starting(tmp_path, caplog):
    path = tmp_path / "mask.h5"
    path.write_bytes(b"not HDF5")
    assert MaskFiles(Store(mask_file=str(path)), SPEC, "digest").version == 0
    assert "versions start again" in caplog.text
