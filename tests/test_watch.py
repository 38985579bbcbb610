"""What `watch` prints of an update, and the mask it puts together from what a client holds."""

import json

import numpy as np
import pytest
from mask_traffic import LAYOUT, change, standing, update

from rmm_stream.cli import watch
from rmm_stream.cli.main import main
from rmm_stream.client.view import ShardView
from rmm_stream.mask import BadPixel
from rmm_stream.shard import Shard


def view(*changes) -> ShardView:
    updates = [update(n + 1, each) for n, each in enumerate(changes)]
    where = standing(len(updates))
    maps = {each.change.key: each for each in updates}
    return ShardView(Shard.parse(where.shard), "tiny", 1, "a", len(updates), 0, 77, where.layout, maps)


def test_an_update_is_one_line():
    text = watch.line(update(3, change(value=1, gain_stage=1, cell=0)), as_json=False)
    assert "module 0 stage 1 cell 0:" in text
    assert "offset 24" in text
    assert "\n" not in text


def test_an_update_as_json_names_flags_and_counts():
    found = json.loads(watch.line(update(3, change(value=1)), as_json=True))
    assert found["sequence"] == 3
    assert found["by_flag"] == {"OFFSET": 24}
    assert found["judged"] == ["OFFSET", "NOISE"]


def test_the_mask_has_what_is_judged_in_place_and_no_data_elsewhere():
    (mask,) = watch.assemble({"x": view(change(value=1, gain_stage=1, cell=0))})
    assert mask.flags.shape == tuple(LAYOUT)
    assert (mask.flags[1, 0] == 1).all()
    assert (mask.flags[0] == BadPixel.NO_DATA).all()
    assert mask.judged[1, 0] == 3
    assert np.count_nonzero(mask.judged) == 1
    assert mask.train_id == 77


class Client:
    """A MaskClient that falls silent and is interrupted."""

    def __init__(self):
        self.states = [False, True]
        self.age = float("inf")

    def on_update(self, callback):
        callback(update(1, change()))
        callback(update(2, change()))

    @property
    def stale(self):
        if not self.states:
            raise KeyboardInterrupt
        return self.states.pop(0)


@pytest.mark.parametrize("as_json", [False, True])
def test_following_prints_each_update_and_silence(as_json, capsys, monkeypatch):
    args = type("Args", (), {"json": as_json, "timeout": None})
    with pytest.raises(KeyboardInterrupt):
        watch._follow(Client(), args)
    lines = capsys.readouterr().out.splitlines()
    assert ("sequence" in lines[0]) if as_json else ("module 0" in lines[0])
    assert lines[-1] == ('{"stale": true, "age": null}' if as_json else "the publisher is silent: the mask may be old")


def test_output_without_once_is_wrong_usage(capsys):
    assert main(["watch", "tcp://127.0.0.1:9", "--output", "x.h5"]) == 2
    assert "--once" in capsys.readouterr().err


def test_a_mask_that_cannot_be_written_is_wrong_usage_before_anything_is_asked(capsys):
    assert main(["watch", "tcp://127.0.0.1:1", "--once", "--output", "/nope/mask.h5"]) == 2
    assert capsys.readouterr().err == "rmm-stream: /nope/mask.h5: there is no directory /nope; make it first\n"
