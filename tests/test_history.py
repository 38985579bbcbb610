"""`rmm-stream history` on a store of files, and what it answers where something is not there."""

import json

import pytest
from test_mask_store import NOISE, OFFSET, add, update

from rmm_stream.cli.main import main
from rmm_stream.storage.journal import Journal
from rmm_stream.storage.mask_store import MaskStore


@pytest.fixture
def store(tmp_path) -> MaskStore:
    """Version 1, an update after train 30, versions 2 and 3."""
    store = MaskStore(tmp_path / "tiny")
    add(store, [(0, 5, 5, OFFSET), (1, 6, 6, OFFSET)], "exposure ended", 1, 25)
    where = {"module": 0, "gain_stage": 0, "cell": 2, "newly_bad": 4, "newly_good": 1}
    Journal(store.journal(1)).append([{"epoch": "abc", "generation": 7}, {**update(30), **where}])
    add(store, [(0, 5, 5, OFFSET | NOISE), (1, 7, 7, NOISE)], "request", 26, 45)
    add(store, [], "every_s", 46, 60)
    return store


@pytest.fixture
def run(store, capsys):
    """history STORE words -> (exit code, stdout lines, stderr)."""

    def run(*words, place=store.folder.parent.parent):
        code = main(["history", str(place), *map(str, words)])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


def test_list(run, store):
    code, lines, _ = run()
    assert code == 0
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert "exposure ended: trains 1 to 25, 120 frames; bad: offset 2; +2 -0 pixels (+2 offset)" in lines[0]
    assert (
        "request: trains 26 to 45, 120 frames; bad: offset 1, noise 2; +1 -1 pixels (+2 noise, -1 offset)" in lines[1]
    )
    assert "every_s: trains 46 to 60, 120 frames; bad: none; +0 -2 pixels (-1 offset, -2 noise)" in lines[2]
    store.pin(2)
    facts = [json.loads(line) for line in run("--json")[1]]
    assert [(f["number"], f["turned_bad"], f["turned_good"], f["pinned"]) for f in facts] == [
        (1, 2, 0, False), (2, 1, 1, True), (3, 0, 2, False),
    ]  # fmt: skip
    assert facts[1]["newly_bad"]["NOISE"] == 2
    assert facts[0]["settings"] == {"fit": {}}


def test_diff(run):
    code, lines, _ = run("diff", 1, 2)
    assert code == 0
    assert lines == [
        "module 0: +0 -0 pixels; got: noise 1; lost: none",
        "module 1: +1 -1 pixels; got: noise 1; lost: offset 1",
    ]
    assert run("diff", 2, 1)[1][1] == "module 1: +1 -1 pixels; got: offset 1; lost: noise 1"
    _, lines, _ = run("diff", 1, 2, "--pixels")
    assert lines[2:] == [
        "module 0 (5, 5): offset -> offset noise",
        "module 1 (6, 6): offset -> good",
        "module 1 (7, 7): good -> noise",
    ]
    facts = [json.loads(line) for line in run("diff", 0, 1, "--pixels", "--json")[1]]
    assert [(f["module"], f["turned_bad"]) for f in facts[:2]] == [(0, 1), (1, 1)]
    assert facts[2] == {"module": 0, "ss": 5, "fs": 5, "before": [], "after": ["OFFSET"]}
    assert all(line.endswith("+0 -0 pixels; got: none; lost: none") for line in run("diff", 2, 2)[1])


def test_at(run):
    code, lines, _ = run("at", 31)
    assert code == 0
    assert lines == [
        "train 31: version 1, and 1 updates after it",
        "  module 0 stage 0 cell 2: +4 -1, after train 30, sequence 1, epoch abc",
    ]
    assert run("at", 100)[1] == [
        "train 100: version 3, and 0 updates after it",
        "nothing was published since: later trains have the same mask",
    ]
    found = json.loads(run("at", 31, "--json")[1][0])
    assert (found["version"], found["later"], found["updates"][0]["sequence"]) == (1, True, 1)
    code, _, err = run("at", 25)
    assert code == 2
    assert "nothing was in force for train 25" in err


def test_rollback_and_release_without_a_service(run, store):
    assert run("release") == (0, ["nothing was pinned"], "")
    code, lines, _ = run("rollback", 1)
    assert code == 0
    assert lines == [
        "version 4 equals version 1: no service runs on this store; the next start puts it in force; "
        "fits change nothing until `release`"
    ]
    assert store.pinned == 4
    version = store.version(4)
    assert (version.made_by, version.first_train, version.last_train) == ("rollback of 1", 60, 60)
    assert json.loads(run("rollback", 2, "--json")[1][0]) == {"version": 5, "of": 2, "running": False}
    assert json.loads(run("release", "--json")[1][0]) == {"released": 5, "running": False}
    assert store.pinned == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("diff", 1, 9), "has no version 9; it has 3, from 1 to 3"),
        (("rollback", 9), "has no version 9"),
        (("rollback", 0), "has no version 0"),
        (("diff", 1), "required: B"),
        (("diff", 1, "x"), "'x' is not a number"),
        (("at", -1), "'-1' is not a number"),
        (("prune",), "invalid choice"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_2(run, store, words, why):
    code, lines, err = run(*words)
    assert (code, lines) == (2, [])
    assert why in err
    assert len(err.splitlines()) == 1
    assert store.numbers() == [1, 2, 3]


def test_no_store_is_exit_code_2(run, tmp_path):
    assert run(place=tmp_path / "nowhere")[0] == 2
    assert run(place=tmp_path / "tiny")[0] == 0


def test_a_damaged_version_is_told_after_the_others(run, store):
    store.path(2).write_bytes(b"damaged")
    code, lines, err = run()
    assert code == 1
    assert [line.split()[0] for line in lines] == ["1", "3"]
    assert "000002.h5" in err
    assert run("rollback", 2)[0] == 1
    assert store.pinned == 0


def test_versions_of_other_modules_are_not_compared(run, store):
    add(store, modules=(7,))
    code, _, err = run("diff", 1, 4)
    assert code == 2
    assert "not of the same modules" in err
