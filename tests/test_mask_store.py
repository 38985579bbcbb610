"""Versions on disk: what they say, that they never change, how the oldest go, and which was in force for a train."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from builders import TINY
from hypothesis import given
from hypothesis.extra.numpy import arrays

from rmm_stream.errors import ConfigError, DataError
from rmm_stream.mask import BadPixel, Mask
from rmm_stream.storage.atomic import replace_file
from rmm_stream.storage.comparison import bad_by_flag, turned, turned_pixels
from rmm_stream.storage.in_force import in_force
from rmm_stream.storage.journal import Journal, read_journal
from rmm_stream.storage.mask_file import Provenance
from rmm_stream.storage.mask_store import Making, MaskStore, find_store
from rmm_stream.storage.presence import Announcement, find

MAPS = (2, 3)  # stages, cells
OFFSET, NOISE = BadPixel.OFFSET, BadPixel.NOISE


def masks(bad=(), judged=OFFSET, modules=(0, 1)) -> list[Mask]:
    """bad: (module, ss, fs, flag), in stage 0 and cell 0."""
    flags = {module: np.zeros((*MAPS, *TINY.module_shape), np.uint8) for module in modules}
    for module, ss, fs, flag in bad:
        flags[module][0, 0, ss, fs] |= flag
    return [Mask(m, flags[m], np.full(MAPS, int(judged), np.uint8), np.full(MAPS, 10), 900, 0) for m in modules]


def add(store: MaskStore, bad=(), why="request", first=1, last=100, least=0, **more) -> int:
    provenance = Provenance(least, "abc", 7, "0123456789ab")
    return store.add(TINY, masks(bad, **more), range(3), provenance, Making(why, first, last, '{"fit": {}}'))


@pytest.fixture
def store(tmp_path) -> MaskStore:
    return MaskStore(tmp_path / "tiny")


def test_a_version_says_what_made_it_and_what_turned(store):
    assert add(store, [(0, 5, 5, OFFSET), (1, 6, 6, OFFSET | NOISE)]) == 1
    assert add(store, [(1, 6, 6, OFFSET), (1, 7, 7, NOISE)], "every_s", 101, 200) == 2
    first, second = store.version(1), store.version(2)
    assert (first.previous, first.made_by, first.first_train, first.last_train) == (0, "request", 1, 100)
    assert {name: n for name, n in first.newly_bad.items() if n} == {"OFFSET": 2, "NOISE": 1}
    assert (first.turned, second.turned) == ((2, 0), (1, 1))
    assert (second.number, second.previous, second.made_by) == (2, 1, "every_s")
    assert (second.newly_bad["NOISE"], second.newly_bad["OFFSET"]) == (1, 0)
    assert (second.newly_good["NOISE"], second.newly_good["OFFSET"]) == (1, 1)
    assert (second.bad["OFFSET"], second.bad["NOISE"]) == (1, 1)
    assert (second.epoch, second.generation, second.settings_digest, second.settings) == (
        "abc",
        7,
        "0123456789ab",
        '{"fit": {}}',
    )
    assert (second.modules, second.cells, second.shape) == ((0, 1), (0, 1, 2), (*MAPS, *TINY.module_shape))
    assert second.frames == 2 * 6 * 10
    assert store.read(2).provenance.version == 2
    assert store.read(2).stages == TINY.stages


@given(arrays(np.uint8, (4, 5)), arrays(np.uint8, (4, 5)))
def test_what_turned_is_what_a_loop_over_the_pixels_finds(before, after):
    found = turned(before, after)
    pairs = list(zip(before.ravel().tolist(), after.ravel().tolist()))
    assert found.bad == sum(a == 0 and b != 0 for a, b in pairs)
    assert found.good == sum(a != 0 and b == 0 for a, b in pairs)
    for flag in BadPixel:
        assert found.newly_bad[flag.name] == sum(bool(b & flag) and not a & flag for a, b in pairs)
        assert found.newly_good[flag.name] == sum(bool(a & flag) and not b & flag for a, b in pairs)
        assert bad_by_flag(after)[flag.name] == sum(bool(b & flag) for _, b in pairs)
    pixels = list(turned_pixels({3: before}, {3: after}))
    assert [(p.before, p.after) for p in pixels] == [(a, b) for a, b in pairs if a != b]
    assert all((before[p.ss, p.fs], after[p.ss, p.fs]) == (p.before, p.after) for p in pixels)


def test_numbers_only_grow_and_no_version_is_ever_replaced(store):
    assert add(store, least=17) == 17
    assert add(store) == 18
    store.path(17).unlink()
    assert add(store) == 19
    before = store.path(19).read_bytes()
    with pytest.raises(FileExistsError), replace_file(store.path(19), new=True) as aside:
        aside.write_bytes(b"another process")
    assert store.path(19).read_bytes() == before
    assert list(store.folder.glob(".*")) == []


def test_what_a_kill_left_half_written_is_no_version_and_goes_at_the_next_start(store):
    add(store)
    half = store.folder / ".000002.h5.12345678.tmp"
    half.write_bytes(b"half")
    assert store.numbers() == [1]
    store.prepare()
    assert not half.exists()
    assert add(store) == 2


def test_a_rollback_is_a_new_version_equal_to_the_old_one(store):
    add(store, [(0, 5, 5, OFFSET)])
    add(store, [(0, 6, 6, OFFSET)])
    made = store.again(store.version(1), store.read(1), Making("", 201, 300))
    assert made == 3
    version = store.version(3)
    assert (version.made_by, version.previous, version.turned) == ("rollback of 1", 2, (1, 1))
    assert (version.settings, version.first_train, version.last_train) == ('{"fit": {}}', 201, 300)
    assert all(np.array_equal(a.flags, b.flags) for a, b in zip(store.read(1).masks, store.read(3).masks))
    assert store.read(3).stages == TINY.stages


def test_the_oldest_versions_go_with_their_journals_and_the_pinned_one_stays(store):
    store.prepare()
    for number in range(6):
        Journal(store.journal(number)).append([{"after_train": number}])
        add(store)
    assert store.prune(10) == []
    assert store.journal(0).exists(), "nothing is removed before something has to be"
    store.pin(2)
    assert store.prune(3) == [1, 3]
    assert store.numbers() == [2, 4, 5, 6]
    assert sorted(int(path.stem) for path in store.folder.glob("*.jsonl")) == [2, 4, 5]


def test_a_pin_is_kept_until_it_is_released(store):
    assert store.pinned == 0
    add(store)
    store.pin(1)
    assert MaskStore(store.folder.parent).pinned == 1
    store.release()
    store.release()
    assert store.pinned == 0
    (store.folder / "pin.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        _ = store.pinned


def test_what_does_not_fit_says_why(store):
    add(store)
    version = store.version(1)
    assert version.misfit(TINY, (0, 1), range(3)) == ""
    assert version.misfit(TINY, (1,), range(3)) == "its modules: (0, 1); here: (1,)"
    assert version.misfit(TINY, (0, 1), range(1, 3)).startswith("its memory cells: (0, 1, 2)")


def test_damaged_and_missing_versions_are_told_apart(store):
    add(store)
    add(store)
    store.path(1).write_bytes(store.path(1).read_bytes()[:1000])
    for look in (store.version, store.read, store.collapsed):
        with pytest.raises(DataError, match=r"000001\.h5"):
            look(1)
        with pytest.raises(ConfigError, match="has no version 9; it has 2, from 1 to 2"):
            look(9)
    assert store.version(2).number == 2
    store.path(3).write_bytes(b"")
    assert add(store) == 4
    assert store.version(4).previous == 0, "where the newest cannot be read, it is compared with an all good mask"


def test_a_mask_file_that_is_no_version_is_refused(store, tmp_path):
    from rmm_stream.storage.mask_file import write_mask

    store.folder.mkdir(parents=True)
    write_mask(store.path(1), TINY, masks(), cells=range(3), provenance=Provenance(1))
    with pytest.raises(DataError, match="not a whole version"):
        store.version(1)


def test_a_disk_that_is_full_costs_nothing_that_is_there(store, monkeypatch):
    add(store)
    before = store.path(1).read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        add(store)
    monkeypatch.undo()
    assert store.numbers() == [1]
    assert store.path(1).read_bytes() == before
    assert list(store.folder.glob(".*")) == []
    assert add(store) == 2


# Where the store is ---------------------------------------------------------------------------------------------------


def test_a_store_is_found_in_a_state_directory_and_by_its_own_name(store, tmp_path):
    with pytest.raises(ConfigError, match="no versions here"):
        find_store(tmp_path)
    with pytest.raises(ConfigError, match="state directory of a service"):
        find_store(tmp_path / "nothing")
    add(store)
    assert find_store(tmp_path).folder == find_store(tmp_path / "tiny").folder == store.folder
    (tmp_path / "other" / "versions").mkdir(parents=True)
    with pytest.raises(ConfigError, match="several stores"):
        find_store(tmp_path)


# The journal ----------------------------------------------------------------------------------------------------------


def update(after: int, sequence: int = 1) -> dict:
    return {"after_train": after, "sequence": sequence}


def test_a_journal_tells_each_update_with_its_life(tmp_path):
    for epoch in ("abc", "def"):
        journal = Journal(tmp_path / "000001.jsonl")
        journal.append([{"epoch": epoch, "generation": len(epoch)}, update(5)])
        journal.append([update(6), {"lost": 3}])
        assert journal.lines == 4
    found = read_journal(tmp_path / "000001.jsonl")
    assert [(u["epoch"], u["after_train"]) for u in found.updates] == [("abc", 5), ("abc", 6), ("def", 5), ("def", 6)]
    assert (found.damaged, found.lost) == (0, 6)
    assert read_journal(tmp_path / "none.jsonl").updates == []


@pytest.mark.parametrize("torn", [b'{"after_tr', b'"x"\n', b"[1, 2]\n", b"\xff\xfe\n", b"{}\n"])
def test_a_torn_line_is_counted_and_what_follows_is_read(tmp_path, torn):
    path = tmp_path / "000001.jsonl"
    Journal(path).append([update(5)])
    with open(path, "ab") as file:
        file.write(torn)
    Journal(path).append([update(6)])
    found = read_journal(path)
    assert [u["after_train"] for u in found.updates] == [5, 6]
    assert found.damaged == 1


def test_records_are_written_all_or_none(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "000001.jsonl")
    journal.append([update(5)])
    write = os.write

    def full(file, data):
        if len(data) < 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:40])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        journal.append([update(6), update(7)])
    monkeypatch.undo()
    assert journal.lines == 1
    journal.append([update(8)])
    found = read_journal(journal.path)
    assert ([u["after_train"] for u in found.updates], found.damaged) == ([5, 8], 0)


# In force -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def told(store) -> MaskStore:
    """Updates after trains 10, 20 | version 1 at 25 | 30, 40 | version 2 at 45 | 50."""
    store.prepare()
    Journal(store.journal(0)).append([update(10), update(20)])
    add(store, last=25)
    Journal(store.journal(1)).append([update(30), update(40)])
    add(store, last=45)
    Journal(store.journal(2)).append([update(50)])
    return store


@pytest.mark.parametrize(
    ("train", "version", "updates"),
    [(11, 0, [10]), (20, 0, [10]), (21, 0, [10, 20]), (25, 0, [10, 20]), (26, 1, []), (31, 1, [30]), (45, 1, [30, 40]),
     (46, 2, []), (50, 2, []), (51, 2, [50]), (10**12, 2, [50])],
)  # fmt: skip
def test_in_force_is_what_left_before_the_train(told, train, version, updates):
    found = in_force(told, train)
    assert (found.version, [u["after_train"] for u in found.updates]) == (version, updates)
    assert found.later == (train <= 50)
    assert found.gone is None


def test_before_everything_nothing_was_in_force(told):
    with pytest.raises(ConfigError, match="nothing was in force for train 10"):
        in_force(told, 10)


def test_where_train_ids_begin_anew_the_latest_occasion_counts(told):
    Journal(told.journal(2)).append([update(1), update(35)])
    assert [u["after_train"] for u in in_force(told, 20).updates] == [50, 1]
    assert [u["after_train"] for u in in_force(told, 36).updates] == [50, 1, 35]


def test_versions_that_are_removed_are_named_where_they_may_have_been_it(told):
    told.path(1).unlink()
    told.journal(1).unlink()
    assert in_force(told, 30).gone == (1, 1)
    assert in_force(told, 46).gone is None


# Who runs on it -------------------------------------------------------------------------------------------------------


def test_a_service_is_found_while_it_lives(tmp_path):
    assert find(tmp_path) is None
    ours = Announcement(tmp_path, "tcp://127.0.0.1:5611", ["m00-c000-002"])
    found = find(tmp_path)
    assert (found.requests, found.shards, found.pid) == ("tcp://127.0.0.1:5611", ("m00-c000-002",), os.getpid())
    ours.withdraw()
    ours.withdraw()
    assert find(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_dead_service_says_nothing(tmp_path):
    (tmp_path / "service.json").write_text(json.dumps({"requests": "tcp://127.0.0.1:1", "shards": [], "pid": 1}))
    assert find(tmp_path) is None


def test_a_successor_takes_the_place_and_a_stranger_is_refused(tmp_path):
    old = Announcement(tmp_path, "tcp://127.0.0.1:1", ["m00-c000-002", "m01-c000-002"])
    with pytest.raises(ConfigError, match=r"keeps the versions of m00-c000-002, m01-c000-002"):
        Announcement(tmp_path, "tcp://127.0.0.1:2", ["m02-c000-002"])
    new = Announcement(tmp_path, "tcp://127.0.0.1:3", ["m01-c000-002"])
    old.withdraw()
    assert find(tmp_path).requests == "tcp://127.0.0.1:3"
    new.withdraw()
