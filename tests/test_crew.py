"""Several workers that share the memory cells of a module: what they do together is what one would have done."""

import queue
from dataclasses import replace

import numpy as np
import pytest
from builders import DARK, NOW, TINY, make_batch

from rmm_stream.config import Fit, Gate, Settings, parse
from rmm_stream.errors import ConfigError
from rmm_stream.exposure import ExposureLabeler
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.live.crew import Crew, frames_of, joined
from rmm_stream.live.prepare import prepare
from rmm_stream.live.receiver import Receiver
from rmm_stream.live.status import ModuleStatus, Status, assemble, describe
from rmm_stream.live.worker import Expose, Worker
from rmm_stream.policy import MaskPolicy
from rmm_stream.policy.overlay import overlay
from rmm_stream.rmm import MaskMaker
from rmm_stream.sources.tally import Tally

SETTINGS = Settings(gate=Gate(learn=20), fit=Fit(min_frames=24, tile=(32, 32)))


def crew(*cells: range) -> tuple[Crew, list]:
    published: list = []
    workers = []
    for some in cells:
        status = Status(
            "tiny", 2, some, {0: ModuleStatus(0, 2 * len(some))}, shard=f"cells {some}", overlay={0: overlay(TINY)},
            state="running",
        )  # fmt: skip
        workers.append(
            Worker(
                MaskMaker(TINY, [0], some, SETTINGS),
                MaskPolicy(TINY, {}, some),
                ExposureLabeler(DARK),
                status,
                published.append,
                queue.Queue(99),
                queue.SimpleQueue(),
                lambda: NOW + 1.0,
            )
        )
    return Crew(workers), published


def trains(n: int):
    for train in range(n):
        batch = make_batch(train_id=train, timestamp=NOW + 0.1 * train)
        batch.pixels[:, 20, 7] += 2000
        yield [batch]


def run(crew: Crew) -> None:
    for message in trains(30):
        for lane in crew.lanes:
            lane.frames.put(message)
    for worker in crew.workers:
        worker.finish()


def test_workers_that_share_the_cells_publish_what_one_worker_would():
    one, alone = crew(range(3))
    two, together = crew(range(1), range(1, 3))
    run(one)
    run(two)
    assert {change.key for change in together} == {change.key for change in alone}
    by_key = {change.key: change for change in alone}
    for change in together:
        np.testing.assert_array_equal(change.flags, by_key[change.key].flags)
        assert change.flags[20, 7]
        assert replace(change, flags=0) == replace(by_key[change.key], flags=0)
    np.testing.assert_array_equal(assemble(two.status, 0).flags, assemble(one.status, 0).flags)
    ours, whole = two.status.modules[0], one.status.modules[0]
    for name in ("maps", "frames", "accepted", "nbytes", "judged", "rejected", "train_id", "fed_at", "data_at"):
        assert getattr(ours, name) == getattr(whole, name), name
    assert sum(ours.fit_seconds.counts) == sum(whole.fit_seconds.counts)
    assert two.status.cells == range(3)
    assert describe(two.status, NOW, 30.0)["frames"] == 90


def test_all_workers_hear_a_request():
    both, _ = crew(range(1), range(1, 3))
    both.ask(Expose(Exposure(Illumination.FLAT)))
    assert both.waiting() == {"frames": 0, "requests": 1}
    for worker in both.workers:
        worker.step()
    assert [worker._labeler.requested for worker in both.workers] == [Exposure(Illumination.FLAT)] * 2


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("running", "running"), "running"),
        (("running", "stopping"), "running"),
        (("stopped", "stopping"), "stopping"),
        (("running", "failed"), "failed"),
    ],
)
def test_the_state_is_that_of_the_worker_that_is_worst_off(states, expected):
    both, _ = crew(range(1), range(1, 3))
    parts = [replace(w.status, state=s, reason=s * (s == "failed")) for w, s in zip(both.workers, states)]
    status = joined(parts)
    assert (status.state, status.reason) == (expected, "failed" * (expected == "failed"))
    assert joined(parts[:1]) is parts[0]


def test_what_a_slow_worker_drops_is_counted_of_its_own_cells():
    class Still:
        tally, connected = Tally(), True

        def close(self):
            pass

    both, _ = crew(range(1), range(1, 3))
    lanes = [lane._replace(frames=queue.Queue(1)) for lane in both.lanes]
    receiver = Receiver(Still(), lanes, "drop-oldest", "tcp://a:1")
    batches = list(trains(2))
    receiver.hand_on(batches[0])
    lanes[0].frames.get()
    receiver.hand_on(batches[1])
    assert receiver.status().rejected == {(0, "queue_full"): 2}
    assert frames_of(batches[0], range(0, 2)) == {0: 2}


def test_a_configuration_shares_its_cells_among_workers():
    text = '[detector]\nname = "agipd1m"\ncells = 10\n[shards]\nmodules = [0, 3]\ncells = [2, 8]\nworkers = {}\n'
    parts = prepare(parse(text.format(3)))
    assert [worker.maker.cells for worker in parts.workers] == [range(2, 4), range(4, 6), range(6, 9)]
    assert [shard.name for shard in parts.shards[:3]] == ["m00-c002-003", "m03-c002-003", "m00-c004-005"]
    assert {shard.module for shard in parts.shards} == {0, 3}
    with pytest.raises(ConfigError, match="at most one for each of 7 memory cells"):
        parse(text.format(8))
