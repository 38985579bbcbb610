"""`rmm-stream simulate`: what it sends is what a receiver with the same configuration reads; the truth comes first."""

import threading
import time
from itertools import product

import numpy as np
import pytest

from rmm_stream.cli.demo import free_ports, toml
from rmm_stream.cli.main import main
from rmm_stream.cli.simulate import make_detector
from rmm_stream.config import build
from rmm_stream.sources.truth import read_truth
from rmm_stream.sources.zmq import ZmqSource
from rmm_stream.wire import make_decoder

DESCRIBED = {
    "name": "small",
    "modules": 2,
    "module_shape": [64, 32],
    "asic_shape": [32, 32],
    "cells": 3,
    "stages": ["high", "low"],
    "bits": 14,
    "gain": "analogue",
}


def tree(**source):
    endpoint = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    return {
        "detector": DESCRIBED,
        "source": {"endpoint": endpoint, "socket": "pull", "name": "SMALL/DET/{module}CH0:xtdf"} | source,
        "exposure": {"source": "SIM/EXPOSURE"},
        "simulate": {
            "rate_hz": 1000.0, "dark_trains": 2, "flat_trains": 2, "sample_trains": 1, "defects": 3, "onset_defects": 1,
        },
    }  # fmt: skip


def receive(config, wanted):
    """A thread that collects `wanted` batches, and the list it fills."""
    batches = []
    source = ZmqSource(config.source, make_decoder(config), config.detector.spec())

    def collect():
        deadline = time.monotonic() + 30
        while len(batches) < wanted and time.monotonic() < deadline:
            batches.extend(source.receive(0.2))
        source.close()

    thread = threading.Thread(target=collect)
    thread.start()
    return thread, batches


SOURCES = [
    {"protocol": "karabo", "socket": "pull"},
    {"protocol": "karabo", "socket": "req", "axes": "fs ss cell"},
    {"protocol": "karabo", "socket": "sub", "axes": "cell kind ss fs"},
    {"protocol": "karabo", "socket": "pull", "name": "SMALL/STACKED", "axes": "cell module ss fs"},
]


@pytest.mark.parametrize(
    ("version", "source"),
    [*product(("2.2", "1.0"), SOURCES), ("2.2", {"protocol": "native", "socket": "pull"})],
    ids=lambda value: value if isinstance(value, str) else " ".join(value.values()),
)
def test_a_receiver_reads_the_frames_of_the_detector(tmp_path, capsys, source, version):
    described = tree(**source)
    file = tmp_path / "small.toml"
    file.write_text(toml(described))
    config = build(described)
    options = ["--karabo-version", version, "--truth", str(tmp_path / "truth.h5"), "--wait-s", "20"]
    lossless = source["socket"] != "sub"
    thread, batches = receive(config, 2 * 7 if lossless else 2)
    try:
        assert main(["simulate", str(file), *options]) == 0
    finally:
        thread.join(30)
    assert len(batches) == 2 * 7 if lossless else batches
    assert "7 trains sent" in capsys.readouterr().out
    detector = make_detector(config)
    for batch in batches:
        expected = detector.train(batch.module, int(batch.train_id[0]), batch.exposure, 0.0)
        assert np.array_equal(batch.pixels, expected.pixels)
        assert np.array_equal(batch.gain, expected.gain)
        assert batch.cell.tolist() == [0, 1, 2]
        assert abs(batch.timestamp - time.time()) < 60
    if lossless:
        assert [b.exposure.gain_stage for b in batches if b.module == 0] == [0, 0, 1, 1, None, None, None]
    assert np.array_equal(read_truth(tmp_path / "truth.h5").planted, detector.planted)


def test_options_alone_describe_a_detector_and_nobody_there_is_said_in_one_line(capsys):
    endpoint = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    command = ["simulate", "--detector", "jungfrau4m", "--endpoint", endpoint, "--socket", "push", "--dark-trains", "1"]
    assert main([*command, "--flat-trains", "0", "--defects", "2", "--wait-s", "0.1"]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"rmm-stream: no consumer at {endpoint} within 0.1 s; is the service running?\n"
    assert printed.out.startswith("jungfrau4m: 3 trains, push on tcp://127.0.0.1:")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "name a CONFIG.toml, or a detector with --detector"),
        (["--detector", "agipd1m", "--rate", "-1"], "simulate.rate_hz = -1.0"),
        (["--detector", "agipd1m", "--modules", "16"], "agipd1m has modules 0 to 15"),
        (["--detector", "agipd1m", "--cells", "353"], "agipd1m has 0 to 351"),
        (
            ["--detector", "agipd1m", "--cells", "1", "--dark-trains", "0", "--flat-trains", "0"],
            "the plan has no train",
        ),
        (["--detector", "agipd1m", "--axes", "cell ss"], "source.axes"),
        (["nowhere.toml"], "nowhere.toml"),
    ],
)
def test_what_is_wrong_is_said_before_anything_opens(capsys, options, complaint):
    assert main(["simulate", *options]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("truth", "said"),
    [("/nope/x.h5", "there is no directory /nope"), ("{file}", "is the configuration, which would be")],
)
def test_a_truth_that_cannot_be_written_is_wrong_usage(tmp_path, capsys, truth, said):
    file = tmp_path / "small.toml"
    file.write_text(toml(tree()))
    before = file.read_bytes()
    assert main(["simulate", str(file), "--truth", truth.format(file=file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert file.read_bytes() == before
