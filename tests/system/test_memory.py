"""`check` says what a configuration needs; a running service shows that it was right within 5 %."""

import json
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

pytestmark = pytest.mark.system

CELLS = 48
TOML = """
[detector]
name = "agipd1m"
cells = {cells}
[shards]
modules = [0]
[source]
endpoint = "{endpoint}"
socket = "pull"
when_full = "block"
hwm = 1
queue = 1
[exposure]
source = "SIM/EXPOSURE"
[fit]
min_frames = 4
[features.lit]
every_train = 1
span_frames = 16
[publish]
updates = "tcp://127.0.0.1:*"
requests = "tcp://127.0.0.1:*"
[store]
directory = "{directory}"
[http]
port = 0
[simulate]
dark_trains = 12
flat_trains = 24
"""
#: Parts that this run never brings: sample frames, lit frames in lower gain, 32,768 darks, a request to start afresh.
NEVER = (
    "F6, sample, high", "F6, medium", "F6, low", "wide sums", "offsets for F6, medium", "offsets for F6, low",
    "dark being replaced, per stage", "F6 being replaced, per stage",
)  # fmt: skip


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "rmm_stream.cli.main", *words]


def test_a_running_service_needs_what_check_said(tmp_path):
    config = tmp_path / "agipd.toml"
    config.write_text(TOML.format(cells=CELLS, endpoint=f"ipc://{tmp_path}/frames", directory=tmp_path.as_posix()))
    checked = subprocess.run(command("check", str(config), "--json"), capture_output=True, check=True, timeout=200)
    planned = sum(p["size"] for p in json.loads(checked.stdout)["memory"] if p["part"] not in NEVER)
    service = subprocess.Popen(command("run", str(config)), stderr=subprocess.PIPE, text=True)
    try:
        ready = next(line for line in service.stderr if "page at" in line)
        page = ready.split("page at ")[1].split()[0].rstrip(",")
        for first in ("1", "1001"):  # the second time darks wait for their block beside all that the first has left
            simulate = command("simulate", str(config), "--first-train", first)
            subprocess.run(simulate, capture_output=True, check=True, timeout=200)
        frames = 0.0
        while frames < 2 * CELLS * (3 * 12 + 24):
            with urllib.request.urlopen(page + "/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            frames = next(float(line.split()[-1]) for line in lines if line.startswith("rmm_stream_frames_total{"))
            time.sleep(0.1)
        with open(f"/proc/{service.pid}/statm") as counts:
            resident = int(counts.read().split()[1]) * 4096
    finally:
        service.send_signal(signal.SIGTERM)
        service.stderr.close()
        assert service.wait(timeout=60) == 0
    print(f"planned {planned / 1e6:,.0f} MB, resident {resident / 1e6:,.0f} MB")
    assert abs(resident / planned - 1) <= 0.05
