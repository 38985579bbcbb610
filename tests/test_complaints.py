"""A flood of faults is a few log lines."""

import logging

import pytest

from rmm_stream.sources.complaints import INTERVAL, Complaints


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def complaints(clock, caplog):
    caplog.set_level(logging.DEBUG)
    return Complaints(logging.getLogger("rmm_stream.test"), clock)


def test_the_first_of_each_kind_is_logged_in_full_at_once(complaints, caplog):
    complaints.say("shape", "array of shape [1]")
    complaints.say("time", "year 3000", level=logging.INFO)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "array of shape [1]"),
        ("INFO", "year 3000"),
    ]
    assert [r.event for r in caplog.records] == ["shape", "time"]


def test_the_others_of_a_minute_are_a_number_in_the_next_line(complaints, caplog, clock):
    for n in range(1001):
        clock.now = n * 0.05
        complaints.say("shape", f"number {n}")
    assert len(caplog.records) == 1
    clock.now = INTERVAL
    complaints.say("shape", "again")
    clock.now = 2 * INTERVAL
    complaints.say("shape", "and again")
    assert [r.getMessage() for r in caplog.records[1:]] == [
        "again (1000 more of the kind shape since the last line)",
        "and again",
    ]


def test_a_percent_sign_from_a_peer_is_only_a_percent_sign(complaints, caplog):
    complaints.say("shape", "100 %s %d")
    assert caplog.records[0].getMessage() == "100 %s %d"
