"""When a service writes a version, and what a full disk costs: from memory to a folder, with a clock of the test's own."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
from builders import TINY_SECTION

from rmm_stream.config import parse
from rmm_stream.errors import ConfigError, LeaseLost
from rmm_stream.live import history as history_file
from rmm_stream.live.history import ENDED_S, RETRY_S, History
from rmm_stream.live.prepare import prepare
from rmm_stream.live.published import Published
from rmm_stream.live.requests import Pin, Release, Restore
from rmm_stream.mask import BadPixel, MapChange, MapKey, MaskUpdate
from rmm_stream.policy import MaskPolicy
from rmm_stream.storage import journal as journal_file
from rmm_stream.storage import mask_file
from rmm_stream.storage.journal import read_journal
from rmm_stream.storage.mask_store import MaskStore

CONFIG = TINY_SECTION + "[source]\nname = 'TINY/DET/{module}CH0:xtdf'\n[store]\nevery_s = 300\nkeep = 3\n"
OURS = lambda: None  # noqa: E731  the lease is ours


class Life:
    """One life of a service on a folder. What it tells the workers is in `told`."""

    def __init__(self, folder, now, text=CONFIG):
        config = parse(text)
        parts = prepare(config)
        self.told, self.sequence, self.spec = [], 0, parts.spec
        self.status = parts.workers[0].status
        self.history = History(config, parts.spec, folder, self.told.append, lambda: now[0])
        self.history.start("abc", 7, 0)

    def publish(self, *bad, key=MapKey(0, 0, 0), train=10) -> None:
        flags = np.zeros(self.spec.module_shape, np.uint8)
        for place in bad:
            flags[place] = BadPixel.OFFSET
        self.sequence += 1
        change = MapChange(key, flags, BadPixel.OFFSET, 200, train, 5.0, len(bad), 0)
        shard = f"m{key.module:02d}-c000-002"
        self.history.note(MaskUpdate("tiny", shard, 7, "abc", self.sequence, self.history.version, "d", change), train)

    def step(self, commit=False, check=OURS, **status) -> None:
        self.status = replace(self.status, **status)
        self.history.step(self.status, commit, check)

    @property
    def versions(self) -> list[str]:
        store = self.history.store
        return [store.version(number).made_by for number in store.numbers()]


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tiny"


@pytest.fixture
def life(folder, now) -> Life:
    return Life(folder, now)


def test_nothing_is_written_while_nothing_changes(life, now):
    for _ in range(3):
        life.step(commit=True, exposures_ended=life.status.exposures_ended + 1)
        now[0] += 1000
    assert life.history.finish(life.status, OURS)
    assert list(life.history.store.folder.iterdir()) == []
    life.publish((5, 5))
    life.step(commit=True)
    life.publish((5, 5))
    now[0] += 1000
    life.step(commit=True)
    assert life.history.expected() == 1
    assert life.history.finish(life.status, OURS)
    assert life.versions == ["request"]


def test_a_version_comes_when_asked_for_when_an_exposure_ends_and_now_and_then(life, now):
    life.publish((5, 5))
    life.step()
    assert life.versions == []
    life.step(exposures_ended=1)
    life.publish((6, 6))
    life.step(exposures_ended=2)
    assert life.versions == ["exposure ended"], "not at every alternation"
    now[0] += ENDED_S
    life.step()
    assert life.versions == ["exposure ended"] * 2
    life.publish((7, 7))
    assert life.history.expected() == 3
    life.step(commit=True)
    life.publish((8, 8))
    now[0] += 299
    life.step()
    assert life.versions[-1] == "request"
    now[0] += 1
    life.step()
    life.publish()
    assert life.history.finish(life.status, OURS)
    assert life.versions == ["request", "every_s", "exit"], "store.keep = 3"
    assert life.history.store.numbers() == [3, 4, 5]


def test_a_long_journal_makes_a_version_due(life, monkeypatch):
    monkeypatch.setattr(history_file, "LONGEST_JOURNAL", 4)
    for n in range(3):
        life.publish((5, n))
        life.step()
    assert life.versions == ["journal full"]


def test_each_update_is_in_the_journal_of_the_version_before_it(life):
    life.publish((5, 5), train=10)
    life.publish((6, 6), key=MapKey(1, 1, 2), train=11)
    life.step(commit=True)
    life.publish((7, 7), train=12)
    life.step()
    before, after = (read_journal(life.history.store.journal(number)).updates for number in (0, 1))
    assert [(u["after_train"], u["module"], u["sequence"], u["version"]) for u in before] == [
        (10, 0, 1, 0),
        (11, 1, 2, 0),
    ]
    assert [(u["after_train"], u["cell"], u["sequence"], u["version"]) for u in after] == [(12, 0, 3, 1)]
    assert {(u["epoch"], u["generation"]) for u in before + after} == {("abc", 7)}


def test_a_version_holds_what_was_published_not_what_the_status_says(life):
    life.publish((5, 5))
    life.step(commit=True)
    mask = life.history.store.read(1).mask(0)
    assert (mask.flags[0, 0, 5, 5], mask.judged[0, 0], mask.judged[0, 1]) == (BadPixel.OFFSET, BadPixel.OFFSET, 0)
    assert mask.flags[0, 1, 5, 5] == BadPixel.NO_DATA


def test_a_corrupt_train_id_keeps_no_version_from_being_written(life):
    for n in range(2):
        module = replace(life.status.modules[0], train_id=2**64 - 1, first_train=2**64 - 1, frames=1, fed_at=5.0)
        life.publish((5, n), train=2**64 - 1)
        life.step(commit=True, modules={**life.status.modules, 0: module})
    assert [life.history.store.version(number).last_train for number in (1, 2)] == [2**64 - 1] * 2


def test_no_version_is_written_for_a_shard_that_is_anothers(life):
    def lost():
        raise LeaseLost("generation 8")

    life.publish((5, 5))
    with pytest.raises(LeaseLost):
        life.step(commit=True, check=lost)
    assert life.versions == []


# At the start, at a rollback ------------------------------------------------------------------------------------------


def test_the_last_version_speaks_at_the_next_start(life, folder, now):
    life.publish((5, 5), train=70)
    life.step(commit=True)
    (said,) = Life(folder, now).told
    assert type(said) is Restore
    assert said.version == 1
    assert said.masks_of(range(1, 3))[0].judged.shape == (2, 2)
    assert said.masks_of(range(3))[0].flags[0, 0, 5, 5] == BadPixel.OFFSET


def test_a_restored_mask_that_is_published_again_is_no_change(life, folder, now):
    life.publish((5, 5), train=70)
    life.step(commit=True)
    again = Life(folder, now)
    again.publish((5, 5), train=0)
    assert again.history.expected() == 1
    again.step(commit=True)
    assert again.versions == ["request"]
    (restored,) = read_journal(again.history.store.journal(1)).updates
    assert restored["after_train"] == 0, "no frame had come in the life before either"


def test_a_version_of_another_layout_is_passed_over_for_one_that_fits(life, folder, now, caplog):
    life.publish((5, 5))
    life.step(commit=True)
    part = Life(folder, now, CONFIG + "[shards]\nmodules = [1]\n")
    assert part.told == []
    assert "version 1 in" in part.history.alarms["restore"]
    assert "its modules: (0, 1); here: (1,)" in caplog.text
    part.publish((6, 6), key=MapKey(1, 0, 0))
    part.step(commit=True)
    assert part.history.alarms == {}
    whole = Life(folder, now)
    assert [request.version for request in whole.told] == [1]
    assert "version 2 in" in whole.history.alarms["restore"]
    whole.publish((7, 7))
    whole.step(commit=True)
    assert whole.history.version == 3


def test_a_rollback_is_written_and_then_told_and_outlives_the_service(life, folder, now):
    life.publish((5, 5))
    life.step(commit=True)
    life.publish((6, 6))
    life.step(commit=True)
    life.history.ask(1)
    life.step()
    (pin,) = life.told
    assert (type(pin), pin.version) == (Pin, 3)
    assert life.versions[-1] == "rollback of 1"
    assert life.history.store.pinned == 3
    life.publish((7, 7))
    life.step(commit=True)
    assert life.history.store.numbers() == [1, 2, 3], "not before every worker has the pin"
    life.publish((5, 5))
    life.step(commit=True, pinned=3)
    assert life.history.store.numbers() == [1, 2, 3], "it says what the version holds"
    (again,) = Life(folder, now).told
    assert (type(again), again.version) == (Pin, 3)
    life.history.ask(0)
    life.step()
    assert type(life.told[-1]) is Release
    assert type(Life(folder, now).told[0]) is Restore


def test_a_rollback_to_what_is_not_there_or_damaged_changes_nothing(life):
    with pytest.raises(ConfigError, match="there is no version 4; the store has none"):
        life.history.ask(4)
    life.publish((5, 5))
    life.step(commit=True)
    life.history.store.path(1).write_bytes(b"damaged")
    life.history.ask(1)
    life.step()
    assert life.told == []
    assert "version 1 in" in life.history.alarms["rollback"]
    assert life.history.store.pinned == 0


def test_what_the_policy_pins_is_what_the_version_holds(life):
    life.publish((5, 5))
    life.step(commit=True)
    life.history.ask(1)
    life.step()
    policy = MaskPolicy(life.spec)
    (change,) = policy.pin(life.told[0].masks_of(range(3)))
    assert change.key == MapKey(0, 0, 0)
    assert change.flags[5, 5] == BadPixel.OFFSET


# A full disk ----------------------------------------------------------------------------------------------------------


def full(*args, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_an_alarm_and_the_version_comes_later(life, now, monkeypatch):
    life.publish((5, 5))
    life.step(commit=True)
    kept = life.history.store.path(1).read_bytes()
    monkeypatch.setattr(mask_file, "replace_file", full)
    life.publish((6, 6))
    life.step(commit=True)
    assert "no version can be written: No space left on device; trying again" in life.history.alarms["versions"]
    assert life.history.version == 1
    assert not life.history.finish(life.status, OURS)
    monkeypatch.undo()
    life.step()
    assert life.versions == ["request"], "not at once"
    now[0] += RETRY_S
    life.step()
    assert life.versions == ["request", "request"]
    assert life.history.alarms == {}
    assert life.history.store.path(1).read_bytes() == kept


def test_a_rollback_is_in_force_although_it_cannot_be_written_yet(life, now, monkeypatch):
    life.publish((5, 5))
    life.step(commit=True)
    life.publish((6, 6))
    monkeypatch.setattr(mask_file, "replace_file", full)
    life.history.ask(1)
    life.step()
    assert [(type(request), request.version) for request in life.told] == [(Pin, 2)]
    assert life.history.expected() == 2
    life.step(commit=True, pinned=2)
    assert life.versions == ["request"]
    monkeypatch.undo()
    now[0] += RETRY_S
    life.step()
    assert life.versions == ["request", "rollback of 1"]
    assert life.history.store.pinned == 2
    assert life.history.alarms == {}


def test_a_journal_that_cannot_be_written_is_kept_and_what_is_too_much_is_counted(life, now, monkeypatch):
    monkeypatch.setattr(history_file, "MOST_RECORDS", 5)
    monkeypatch.setattr(journal_file.os, "open", full)
    for n in range(8):
        life.publish((5, n), train=n + 1)
        life.step()
    assert "cannot be written: No space left on device" in life.history.alarms["journal"]
    monkeypatch.undo()
    life.step()
    now[0] += RETRY_S
    life.step()
    assert life.history.alarms == {}
    found = read_journal(life.history.store.journal(0))
    assert [u["after_train"] for u in found.updates] == [1, 2, 3, 4, 5]
    assert found.lost == 3


def test_what_nobody_takes_is_bounded_and_the_latest_maps_are_known_all_the_same(life, monkeypatch):
    monkeypatch.setattr("rmm_stream.live.published.MOST_RECORDS", 3)
    for n in range(7):
        life.publish((5, n))
    records, lost = life.history._published.take()
    assert (len(records), lost) == (3, 4)
    (change,) = life.history._published.maps().values()
    assert change.flags[5, 6] == BadPixel.OFFSET
    assert life.history._published.take() == ([], 0)
    assert not Published().different


def test_a_store_that_cannot_be_made_is_the_operators_error(tmp_path, now):
    (tmp_path / "tiny").write_text("a file")
    with pytest.raises(ConfigError, match="must be writable"):
        Life(tmp_path / "tiny", now)
    assert MaskStore(tmp_path / "tiny").numbers() == []
