"""The command line: whose fault an exit code says it was, one line each, nothing opened before the configuration holds."""

import json
import logging
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import h5py
import pytest
import zmq

from rmm_stream.cli import logs
from rmm_stream.cli import main as cli
from rmm_stream.cli.logs import JsonLines, PlainText
from rmm_stream.config import parse
from rmm_stream.errors import ConfigError, DataError, LeaseLost, ProtocolError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(monkeypatch):
    """A function: make `rmm-stream probe` do that."""

    def make(run):
        module = ModuleType("probe")
        module.add_parser = lambda subparsers: subparsers.add_parser("probe").add_argument("--number", type=int)
        module.run = run
        monkeypatch.setitem(sys.modules, "probe", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", ("probe", "for a test"))

    return make


def raising(error):
    def run(args):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("fit.cut = 1: too low"), 2),
        (LeaseLost("m00-c000-000 belongs to process 7 now"), 3),
        (DataError("frames.h5: no such dataset"), 1),
        (ProtocolError("schema", "schema 9"), 1),
        (OSError(28, "No space left on device"), 1),
        (TimeoutError("nothing heard"), 1),
        (KeyError("oops"), 1),
    ],
)
def test_an_error_is_one_line_and_its_exit_code_says_whose_it_was(command, capsys, error, code):
    command(raising(error))
    assert cli.main(["probe"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("rmm-stream: ")


def test_an_unexpected_error_shows_where_when_asked(command, capsys):
    command(raising(KeyError("oops")))
    assert cli.main(["--traceback", "probe"]) == 1
    assert "in run" in capsys.readouterr().err


def test_the_commands_own_exit_code_is_passed_on(command):
    command(lambda args: args.number)
    assert cli.main(["probe", "--number", "3"]) == 3


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["probe", "--number", "x"], ["probe", "--nonsense"]])
def test_wrong_usage_is_2_and_one_line(command, capsys, argv):
    command(lambda args: 0)
    assert cli.main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["watch", "tcp://h:1", "--timeout", "nan"], "--timeout: 'nan' is not a duration: expected seconds"),
        (["watch", "tcp://h:1", "--timeout", "inf"], "'inf' is not a duration"),
        (["expose", "tcp://h:1", "dark", "--timeout=-1"], "'-1' is not a duration"),
        (["expose", "tcp://h:1", "dark", "--gain-stage", "high"], "--gain-stage: 'high' is not the number of a gain"),
        (["expose", "tcp://h:1", "dark", "--gain-stage", "8"], "expected 0 to 7"),
        (["simulate", "--detector", "agipd1m", "--wait-s", "nan"], "--wait-s: 'nan' is not a duration"),
        (["simulate", "--detector", "agipd1m", "--report-s", "nan"], "--report-s: 'nan' is not a duration"),
        (["demo", "--seconds", "nan"], "--seconds: 'nan' is not a duration"),
        (["demo", "--seconds", "long"], "--seconds: 'long' is not a duration"),
    ],
)
def test_a_wrong_value_of_an_option_is_said_under_the_name_of_its_command(capsys, argv, said):
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"rmm-stream {argv[0]}: argument ")
    assert error.endswith(f"; see rmm-stream {argv[0]} --help\n")
    assert said in error


def test_the_help_of_expose_says_how_to_take_it_back(capsys):
    assert cli.main(["expose", "--help"]) == 0
    assert "`unknown` without --override takes back what was said here" in " ".join(capsys.readouterr().out.split())


def test_help_lists_every_command_and_loads_none(capsys):
    before = set(sys.modules)
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)
    assert not {"rmm_stream.cli.demo", "numba"} & (set(sys.modules) - before)


def test_ctrl_c_is_not_an_error_message(command, capsys):
    command(raising(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == ""


# Configurations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_a_shipped_configuration_is_valid(path):
    parse(path.read_text("utf-8"), path.name)


@pytest.mark.parametrize("name", ["agipd1m", "epix10k2m", "jungfrau4m"])
def test_a_shipped_configuration_shows_defaults_as_they_are_and_says_what_each_line_asks(name):
    path = ROOT / "configs" / f"{name}.toml"
    text = path.read_text("utf-8")
    tree = tomllib.loads(text)
    chosen = {"detector", "shards"}
    minimal = parse(f'[detector]\nname = "{name}"')
    full = parse(text)
    shown = {"gate", "fit", "common_mode", "drift", "features", "policy", "publish", "store", "http", "exposure"}
    for section in shown:
        assert getattr(full, section) == getattr(minimal, section), section
    assert set(tree) - chosen <= {"source", *shown}
    settings = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    assert all("#" in line for line in settings)


# Logging --------------------------------------------------------------------------------------------------------------


def record(level=logging.WARNING, **extra) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "rmm_stream.x", "levelno": level, "levelname": "WARNING", "msg": "bad", **extra}
    )


def test_the_journal_gets_one_json_object_per_line():
    line = JsonLines().format(record(event="refused", detector_module=3, msg="two\nlines"))
    assert "\n" not in line
    found = json.loads(line)
    assert found["level"] == "warning"
    assert found["event"] == "refused"
    assert found["module"] == 3


def test_pythons_word_for_a_file_is_not_taken_for_a_module():
    made = logging.getLogger("x").makeRecord("x", logging.INFO, "/a/files.py", 1, "hello", (), None)
    assert "module" not in json.loads(JsonLines().format(made))
    assert PlainText().format(made).endswith("hello")


def test_a_terminal_gets_the_facts_behind_the_message():
    assert PlainText().format(record(event="refused", detector_module=3)).endswith("bad (module 3)")


# Check ----------------------------------------------------------------------------------------------------------------

TINY_TOML = """
[detector]
name = "tiny"
modules = 2
module_shape = [64, 32]
asic_shape = [32, 32]
cells = 3
[fit]
tile = [32, 32]
"""


@pytest.fixture
def config_file(tmp_path):
    def write(text: str = "") -> str:
        path = tmp_path / "tiny.toml"
        path.write_text(TINY_TOML + text)
        return str(path)

    return write


def test_check_prints_the_memory_part_by_part(config_file, capsys):
    assert cli.main(["check", config_file()]) == 0
    text = capsys.readouterr().out
    assert "tiny: modules 0 to 1, cells 0 to 2, stages high" in text
    assert "dark values, high" in text
    assert "messages" in text


def test_check_as_json(config_file, capsys):
    assert cli.main(["check", "--json", config_file()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == sum(row["size"] for row in found["memory"] if not row["on_top"])
    assert found["bytes_at_most"] == sum(row["size"] for row in found["memory"])
    assert len(found["digest"]) == 12


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cut = 2.0\n", "fit.cut = 2.0: expected `float` >= 3.0"),
        ("lambda_fit = 8\n", "fit.lambda_fit = 8.0: allowed are 2.5 to 5"),
        ("cats = 8\n", "fit.cats: unknown key"),
        ("[source]\nqueue = 0\n", "source.queue = 0: expected `int` >= 1"),
        ('[source]\nendpoint = "127.0.0.1:4545"\n', "source.endpoint"),
        ("[shards]\nmodules = [2]\n", "shards.modules = 2: tiny has modules 0 to 1"),
        ('[policy]\nstatic_mask = "nowhere.h5"\n', "policy.static_mask = 'nowhere.h5': nowhere.h5: no such file"),
        ('[store]\nmask_file = "no/such/place/mask.h5"\n', "store.mask_file = 'no/such/place/mask.h5'"),
        ('[http]\nhost = "0.0.0.0"\n', "http.host = '0.0.0.0'"),
        ("[broken\n", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_opens(command, text, said, config_file, capsys, monkeypatch):
    def opened(*args, **keywords):
        raise AssertionError("a socket was opened for a wrong configuration")

    monkeypatch.setattr(zmq.Context, "socket", opened)
    monkeypatch.setattr(socket.socket, "bind", opened)
    monkeypatch.setattr(socket.socket, "connect", opened)
    monkeypatch.setattr(logs, "setup", lambda level: None)  # it would outlive the test
    path = config_file(text)
    assert cli.main([command, path]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"rmm-stream: {path}: ")
    assert said in error


def test_a_missing_configuration_is_wrong_usage(capsys):
    assert cli.main(["check", "nowhere.toml"]) == 2
    assert "nowhere.toml: No such file" in capsys.readouterr().err


def test_a_static_mask_of_another_detector_is_refused(config_file, tmp_path, capsys):
    path = tmp_path / "static.h5"
    with h5py.File(path, "w") as file:
        file["mask"] = [[[0, 1], [0, 0]]]
    assert cli.main(["check", config_file(f'[policy]\nstatic_mask = "{path}"\n')]) == 2
    assert "policy.static_mask" in capsys.readouterr().err


# systemd --------------------------------------------------------------------------------------------------------------


def test_the_unit_is_valid_and_well_confined(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    text = (ROOT / "systemd" / "rmm-stream@.service").read_text("utf-8")
    unit = tmp_path / "rmm-stream@agipd-m00.service"
    unit.write_text(text.replace("/opt/rmm-stream/bin/rmm-stream", shutil.which("true")))
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    if "Failed to" in found.stderr and "bus" in found.stderr:
        pytest.skip("systemd-analyze does not work here")
    assert found.returncode == 0, found.stderr
    assert "Unknown" not in found.stderr
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", str(unit)]
    found = subprocess.run(security, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-500:] + found.stderr
