"""The demo, with its three real processes; and what happens when one of them dies."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from rmm_stream.cli import demo
from rmm_stream.cli.children import ChildFailed, Children
from rmm_stream.cli.main import main
from rmm_stream.cli.peaks import load
from rmm_stream.cli.score import by_kind, false_peaks, found, good_pixels, onset_delays
from rmm_stream.config import build, parse
from rmm_stream.sources.truth import read_truth
from rmm_stream.storage.mask_file import read_mask

ROOT = Path(__file__).parents[1]


def test_a_tree_survives_toml(tmp_path):
    tree = demo.settings(tmp_path, 500)
    assert tomllib.loads(demo.toml(tree)) == tree


def test_the_demo_is_the_example_configuration_but_for_ports_and_places(tmp_path):
    example = parse((ROOT / "configs" / "demo.toml").read_text("utf-8"), "demo.toml")
    ours = parse(demo.toml(demo.settings(tmp_path, example.simulate.flat_trains)), "demo")
    for section in ("detector", "shards", "gate", "fit", "features", "policy", "exposure"):
        assert getattr(ours, section) == getattr(example, section), section
    for section, keys in (
        ("source", ("protocol", "socket", "when_full", "axes")),
        ("simulate", ("rate_hz", "dark_trains", "flat_trains", "sample_trains", "seed", "defects", "onset_defects")),
    ):
        for key in keys:
            assert getattr(getattr(ours, section), key) == getattr(getattr(example, section), key), (section, key)


def test_a_child_that_fails_is_named_with_the_end_of_its_log(tmp_path):
    with Children(tmp_path) as children:
        children.start("detector", "rmm_stream.cli.main", "simulate", "nowhere.toml")
        wait_for(lambda: not children.running("detector"))
        with pytest.raises(ChildFailed, match=r"detector ended with exit code 2; .*nowhere.toml"):
            children.finish("detector", 30.0)
        with pytest.raises(ChildFailed, match="exit code 2"):
            children.check()


def test_children_are_ended_when_the_demo_fails(tmp_path):
    def fail():
        with Children(tmp_path) as children:
            children.start("sleeper", "http.server", "--bind", "127.0.0.1", "0")
            processes.append(children._processes["sleeper"])
            raise KeyboardInterrupt

    processes = []
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert processes[0].returncode is not None


PARENT = """
import sys, time
from pathlib import Path
from rmm_stream.cli.children import Children
with Children(Path(sys.argv[1])) as children:
    children.start("sleeper", "http.server", "--bind", "127.0.0.1", "0")
    print(children._processes["sleeper"].pid, flush=True)
    time.sleep(600)
"""


def test_children_end_when_the_demo_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        child = int(parent.stdout.readline())
        wait_for(lambda: b"Serving" in (tmp_path / "sleeper.log").read_bytes())
    finally:
        parent.kill()
        parent.communicate()
    try:
        wait_for(lambda: ended(child))
    finally:
        if not ended(child):
            os.kill(child, signal.SIGKILL)


def ended(pid: int) -> bool:
    """Gone, or a zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_that_cannot_be_a_directory_is_wrong_usage(tmp_path, capsys, place):
    (tmp_path / "file").write_text("kept")
    assert main(["demo", "-o", str(tmp_path / place)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no directory can be made there" in error
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.system
def test_the_demo_finds_what_is_planted_and_ends_with_files_and_a_table(tmp_path, capsys, monkeypatch):
    quick_demo(monkeypatch)
    assert main(["demo", "--seconds", "1", "-o", str(tmp_path)]) == 0
    truth, stored = read_truth(tmp_path / "truth.h5"), read_mask(tmp_path / "mask.h5")
    masks, followed = {0: stored.masks[0]}, load(tmp_path / "peaks.npz")
    for score in by_kind(truth, found(truth, masks, stored.cells)):
        assert score.planted >= 100
        assert score.found >= 0.995 * score.planted, score
    good = good_pixels(truth, masks, stored.cells)
    assert good.good > 150_000
    assert good.flagged <= 1e-5 * good.good
    delays = np.concatenate(list(onset_delays(truth, 0, followed.flagged_at, followed.trains).values()))
    assert np.isfinite(delays).mean() > 0.98
    assert delays.min() > 0
    frames, before, after = false_peaks(followed.counts)
    assert frames > 0
    assert after < 0.1 * before
    assert (tmp_path / "mask.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "flickering" in printed
    assert "false peaks per frame" in printed
    assert "flagged: met" in " ".join(printed.split())


@pytest.mark.system
def test_a_demo_that_misses_a_bar_says_which_and_ends_with_1(tmp_path, capsys, monkeypatch):
    def deaf(*where):
        """The settings of a demo whose service cuts at 50 sigma."""
        return tree(*where) | {"fit": {"cut": 50.0}}

    quick_demo(monkeypatch)
    tree = demo.settings
    monkeypatch.setattr(demo, "settings", deaf)
    assert main(["demo", "--seconds", "1", "-o", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "flagged: MISSED" in " ".join(printed.out.split())
    last = printed.err.splitlines()[-1]
    assert last.startswith("rmm-stream: the demo missed a bar: ")
    assert "offset: " in last


def quick_demo(monkeypatch):
    """One cell, as fast as it goes, with enough defects of each kind to tell 99.5 % from less."""

    def crowded(*where):
        made = tree(*where)
        return made | {"simulate": made["simulate"] | {"defects": 120, "onset_defects": 90}}

    tree = demo.settings
    monkeypatch.setattr(demo, "CELLS", 1)
    monkeypatch.setattr(demo, "RATE_HZ", 200.0)
    monkeypatch.setattr(demo, "settings", crowded)


@pytest.mark.system
def test_a_process_that_dies_ends_the_demo_with_one_line_and_takes_the_others_with_it(tmp_path):
    log = tmp_path / "out"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "rmm_stream.cli.main", "demo", "-o", str(tmp_path)], stdout=out, stderr=out, cwd=ROOT
        )
    try:
        children = wait_for(lambda: len(found := children_of(process.pid)) == 3 and found)
        os.kill(children[0], signal.SIGKILL)
        assert process.wait(60) == 1
        assert b"was killed by signal 9" in log.read_bytes().splitlines()[-1]
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    finally:
        process.kill()
        process.wait()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, timeout_s: float = 60.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise TimeoutError


def test_the_status_of_a_service_that_is_not_there_is_empty(tmp_path):
    assert demo.status(build(demo.settings(tmp_path, 1))) == {}
