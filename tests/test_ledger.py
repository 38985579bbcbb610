"""Train accounting: gaps once, no frame twice, no late frame, and restarts that are not losses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_stream.sources.ledger import MEMORY, PATIENCE, PAUSE, TrainLedger

CELLS = 3


def enter(ledger, train, cells=(0, 1, 2), module=0):
    ids = np.broadcast_to(np.asarray(train, np.uint64), len(cells))
    return ledger.enter(module, ids, np.asarray(cells, np.uint16))


def entered(ledger, *trains, **keywords):
    return [enter(ledger, train, **keywords) for train in trains]


@pytest.fixture
def ledger():
    return TrainLedger(step=1, cells=CELLS)


def test_a_late_start_is_no_loss(ledger):
    entry = enter(ledger, 123_456)
    assert entry.fresh.all()
    assert entry[1:] == (0, 0, 0, 0, False)


def test_a_gap_is_counted_once_in_trains_and_frames(ledger):
    entries = entered(ledger, 10, 14, 15)
    assert [(entry.missed, entry.missed_frames) for entry in entries] == [(0, 0), (3, 9), (0, 0)]


@pytest.mark.parametrize(
    ("step", "train", "missed"), [(10, 20, 0), (10, 30, 1), (10, 29, 1), (10, 11, 0), (3, 100, 29)]
)
def test_gaps_are_counted_in_steps(step, train, missed):
    ledger = TrainLedger(step, CELLS)
    enter(ledger, 10)
    assert enter(ledger, train).missed == missed


def test_missed_frames_are_as_many_as_the_train_before_the_gap_had(ledger):
    enter(ledger, 1)
    enter(ledger, 2, cells=[0])
    enter(ledger, 2, cells=[1])
    assert enter(ledger, 5).missed_frames == 4
    one = TrainLedger()
    enter(one, 1, cells=[0] * 16)
    assert enter(one, 3, cells=[0] * 16).missed_frames == 16


def test_the_same_frames_again_are_duplicates(ledger):
    for train in (1, 2, 3):
        enter(ledger, train)
    for train in (3, 2):
        again = enter(ledger, train)
        assert not again.fresh.any()
        assert (again.duplicate, again.reordered) == (3, 0)
    assert enter(ledger, 4).fresh.all()


def test_a_train_may_come_in_several_messages_with_different_cells(ledger):
    assert enter(ledger, 1, cells=[0]).fresh.all()
    assert enter(ledger, 1, cells=[2]).fresh.all()
    third = enter(ledger, 1, cells=[0, 1, 2])
    np.testing.assert_array_equal(third.fresh, [False, True, False])
    assert third.duplicate == 2


def test_a_cell_twice_in_one_message_counts_once(ledger):
    entry = enter(ledger, 1, cells=[2, 0, 2, 0])
    np.testing.assert_array_equal(entry.fresh, [True, True, False, False])
    assert entry.duplicate == 2


def test_without_cells_many_frames_of_one_message_are_different_frames():
    ledger = TrainLedger(cells=1)
    assert enter(ledger, 1, cells=[0, 0, 0]).fresh.all()
    again = enter(ledger, 1, cells=[0])
    assert not again.fresh.any()
    assert again.duplicate == 1


def test_an_older_train_that_was_never_seen_is_reordered_and_stays_missed(ledger):
    enter(ledger, 1)
    assert enter(ledger, 3).missed == 1
    late = enter(ledger, 2)
    assert not late.fresh.any()
    assert (late.duplicate, late.reordered, late.missed) == (0, 3, 0)
    assert enter(ledger, 4).missed == 0


def test_of_an_older_train_known_cells_are_duplicate_and_others_reordered(ledger):
    enter(ledger, 1, cells=[0, 1])
    enter(ledger, 2)
    late = enter(ledger, 1, cells=[1, 2])
    assert (late.duplicate, late.reordered) == (1, 1)


def test_a_large_jump_backwards_is_a_new_series(ledger):
    enter(ledger, 1_000_000)
    entry = enter(ledger, 1_000_000 - MEMORY - 1)
    assert entry.new_series
    assert entry.fresh.all()
    assert entry.missed == 0
    assert enter(ledger, 1_000_000 - MEMORY + 1).missed == 1


def test_an_insane_id_is_no_loss_and_the_next_good_train_counts(ledger):
    enter(ledger, 1000)
    insane = enter(ledger, 2**63 - 1)
    assert (insane.missed, insane.new_series) == (0, True)
    good = enter(ledger, 1001)
    assert good.fresh.all()
    assert (good.missed, good.new_series) == (0, True)


def test_the_longest_gap_that_is_still_a_loss(ledger):
    enter(ledger, 0)
    assert enter(ledger, PAUSE).missed == PAUSE - 1
    assert enter(ledger, 2 * PAUSE + 1).new_series


def test_a_source_that_restarts_close_by_is_believed_after_some_trains(ledger):
    entered(ledger, *range(100, 130))
    entries = entered(ledger, *range(100, 140))
    assert [entry.new_series for entry in entries] == [n == PATIENCE - 1 for n in range(40)]
    assert sum(entry.duplicate for entry in entries) == 3 * (PATIENCE - 1)
    assert all(entry.fresh.all() for entry in entries[PATIENCE - 1 :])


def test_a_second_feed_that_lags_behind_is_no_restart(ledger):
    entered(ledger, *range(100, 103))
    for train in range(103, 203):
        assert enter(ledger, train).fresh.all()
        lagging = enter(ledger, train - 3)
        assert not lagging.new_series
        assert lagging.duplicate == 3


def test_modules_have_their_own_books(ledger):
    enter(ledger, 10, module=0)
    enter(ledger, 20, module=1)
    assert enter(ledger, 11, module=0).missed == 0
    assert enter(ledger, 22, module=1).missed == 1


def test_a_batch_of_many_trains():
    ledger = TrainLedger(cells=1)
    entry = ledger.enter(0, np.array([5, 6, 6, 9, 8, 10], np.uint64), np.zeros(6, np.uint16))
    np.testing.assert_array_equal(entry.fresh, [True, True, True, True, False, True])
    assert (entry.missed, entry.missed_frames, entry.reordered, entry.duplicate) == (2, 4, 1, 0)


def test_an_empty_batch_changes_nothing(ledger):
    assert enter(ledger, 1, cells=[])[1:] == (0, 0, 0, 0, False)
    assert enter(ledger, 9)[1:] == (0, 0, 0, 0, False)


def test_ids_may_cross_2_to_the_63():
    ledger = TrainLedger(cells=1)
    enter(ledger, 2**63 - 1, cells=[0])
    assert enter(ledger, 2**63 + 1, cells=[0]).missed == 1


def test_memory_is_bounded(ledger):
    entered(ledger, *range(10 * MEMORY))
    (series,) = ledger._series.values()
    assert len(series.seen) == MEMORY


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 90), st.lists(st.integers(0, 2), max_size=4)), max_size=40))
def test_every_frame_is_fresh_duplicate_or_reordered_and_fresh_once_per_series(batches):
    ledger = TrainLedger(cells=CELLS)
    accepted = set()
    for train, cells in batches:
        entry = enter(ledger, train, cells=cells)
        assert np.count_nonzero(entry.fresh) + entry.duplicate + entry.reordered == len(cells)
        if entry.new_series:
            accepted.clear()
        for cell, fresh in zip(cells, entry.fresh):
            if fresh:
                assert (train, cell) not in accepted
                accepted.add((train, cell))
