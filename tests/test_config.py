"""The configuration: defaults, what is refused and how it is said, derived values, and the files that are shipped."""

from pathlib import Path

import pytest

from rmm_stream.config import Config, Detector, is_loopback, parse
from rmm_stream.errors import ConfigError
from rmm_stream.frames import Exposure, Illumination

HEAD = '[detector]\nname = "agipd1m"\n'
SHIPPED = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.toml"))


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as e:
        parse(text, "beam.toml")
    (said,) = e.value.args
    assert said.startswith("beam.toml: ")
    assert "\n" not in said, "one line"
    return said.removeprefix("beam.toml: ")


#: (section, lines, key and value as they must be named, what is allowed)
REFUSALS = [
    ("source", "hwm = 0", "source.hwm = 0", ">= 1"),
    ("source", "queue = 65", "source.queue = 65", "<= 64"),
    ("source", "max_message_mb = 0", "source.max_message_mb = 0", ">= 1"),
    ("source", 'hwm = "4"', "source.hwm = '4'", "`int`"),
    ("source", 'protocol = "http"', "source.protocol = 'http'", "'karabo', 'native'"),
    ("source", 'socket = "pub"', "source.socket = 'pub'", "'sub', 'pull', 'req'"),
    (
        "source",
        'endpoint = "localhost:5"',
        "source.endpoint = 'localhost:5'",
        "an endpoint is tcp://HOST:PORT or ipc://PATH",
    ),
    (
        "source",
        'endpoint = ["tcp://a:1", "b"]',
        "source.endpoint[1] = 'b'",
        "an endpoint is tcp://HOST:PORT or ipc://PATH",
    ),
    ("source", 'axes = "ss"', "source.axes = 'ss'", "with ss and fs"),
    ("source", 'axes = "ss fs ss"', "source.axes = 'ss fs ss'", "at most once"),
    ("source", 'axes = "ss fs x"', "source.axes = 'ss fs x'", "words from cell"),
    ("source", 'axes = ""', "source.axes = ''", "must name the axes"),
    ("source", 'gain_axes = "fs"', "source.gain_axes = 'fs'", "with ss and fs"),
    ("shards", "modules = [0, 16]", "shards.modules = 16", "0 to 15"),
    ("shards", "modules = [-1]", "shards.modules[0] = -1", ">= 0"),
    ("shards", "cells = [0, 352]", "shards.cells = [0, 352]", "0 to 351"),
    ("shards", "cells = [9, 3]", "shards.cells = [9, 3]", "first and last"),
    ("shards", "cells = [1, 2, 3]", "shards.cells = [1, 2, 3]", "length 2"),
    ("exposure", 'default = "bright"', "exposure.default = 'bright'", "'dark', 'flat', 'sample', 'unknown'"),
    ("exposure", "gain_stage = 3", "exposure.gain_stage = 3", "0 to 2"),
    ("gate", "cut = 0", "gate.cut = 0", "> 0"),
    ("gate", "cut = nan", "gate.cut = nan", "> 0"),
    ("gate", "history = 19", "gate.history = 19", ">= 20"),
    ("gate", "learn = 5000", "gate.learn = 5000", "<= 4096"),
    ("fit", "cut = 2.5", "fit.cut = 2.5", ">= 3"),
    ("fit", "cut = inf", "fit.cut = inf", "<= 100"),
    ("fit", "lambda_fit = 8.0", "fit.lambda_fit = 8.0", "2.5 to 5"),
    ("fit", "lambda_fit = 2.0", "fit.lambda_fit = 2.0", ">= 2.5"),
    ("fit", "clear_cut = 9.0", "fit.clear_cut = 9.0", "fit.cut = 8"),
    ("fit", "certain = 0.5", "fit.certain = 0.5", "below fit.structure = 0.5"),
    ("fit", "tile = [64, 14]", "fit.tile[1] = 14", ">= 15"),
    ("fit", "min_frames = 1", "fit.min_frames = 1", ">= 2"),
    ("fit", "news = 0", "fit.news = 0", "> 0"),
    ("fit", 'dither = "yes"', "fit.dither = 'yes'", "'auto', 'on', 'off'"),
    ("features.lit", "span_s = 0", "features.lit.span_s = 0", "> 0"),
    ("features.lit", "span_frames = 32769", "features.lit.span_frames = 32769", "<= 32768"),
    ("features.lit", "span_frames = 16\nbuckets = 9", "features.lit.span_frames = 16", "18 or more"),
    ("features.lit", "window = [14, 64]", "features.lit.window[0] = 14", ">= 15"),
    ("features.lit", "warm = 1", "features.lit.warm = 1", "`bool`"),
    ("features.lit_rate", "min_share = 1.5", "features.lit_rate.min_share = 1.5", "<= 1"),
    ("publish", 'updates = "tcp://0.0.0.0:5"', "publish.updates = 'tcp://0.0.0.0:5'", "publish.insecure = true"),
    ("publish", 'requests = "tcp://*:5"', "publish.requests = 'tcp://*:5'", "loopback"),
    ("publish", "heartbeat_s = 0", "publish.heartbeat_s = 0", ">= 0.05"),
    ("http", 'host = "0.0.0.0"', "http.host = '0.0.0.0'", "http.insecure = true"),
    ("http", "port = 65536", "http.port = 65536", "<= 65535"),
    ("simulate", 'karabo_version = "3"', "simulate.karabo_version = '3'", "'2.2', '1.0'"),
]


@pytest.mark.parametrize(("section", "lines", "names", "allows"), REFUSALS, ids=lambda v: v if "=" in str(v) else "")
def test_a_refusal_names_key_value_and_what_is_allowed(section, lines, names, allows):
    said = refused(f"{HEAD}[{section}]\n{lines}\n")
    found, _, allowed = said.partition(": ")
    assert found == names
    assert allows in allowed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "detector: missing"),
        ("[detector]\n", "detector.name: missing"),
        (HEAD + "[gate]\nkut = 8\n", "gate.kut: unknown key"),
        (HEAD + "[gates]\n", "gates: unknown key"),
        (HEAD + "[features.lid]\n", "features.lid: unknown key"),
        ("[detector\n", "not TOML"),
        ('[detector]\nname = "mine"\n', "lacks modules, module_shape, asic_shape"),
        ('[detector]\nname = "mine"\n', "agipd1m, epix10k2m, jungfrau4m"),
        ('[detector]\nname = "a b"\n', "detector.name = 'a b'"),
        (HEAD + "bits = 33\n", "detector.bits = 33: expected `int` <= 32"),
        (HEAD + 'gain = "analog"\n', "detector.gain = 'analog': allowed are 'none', 'code', 'analogue'"),
        (HEAD + "asic_shape = [64, 200]\n", "asic_shape [64, 200] does not fit in module_shape [512, 128] along fs"),
        (HEAD + "gain_thresholds = [1.0]\n", "gain_thresholds needs 2 values"),
        (HEAD + "edge_width = 32\n", "edge_width 32 leaves no pixel"),
    ],
)
def test_what_is_missing_unknown_or_contradictory_is_said_in_one_line(text, says):
    assert says in refused(text)


def test_defaults_are_those_of_the_paper():
    config = parse(HEAD)
    assert (config.fit.cut, config.fit.lambda_fit, config.fit.structure, config.fit.certain) == (8.0, 3.0, 0.5, 0.35)
    assert (config.fit.min_frames, config.fit.tile, config.gate.cut) == (200, (64, 64), 8.0)
    assert config.settings.fit == config.fit
    assert config.settings.gate == config.gate
    assert config.settings.features == config.features


def test_a_known_detector_may_be_changed_field_by_field():
    spec = parse('[detector]\nname = "jungfrau4m"\ncells = 16\nadu_per_photon = 508.0\n').detector.spec()
    assert (spec.cells, spec.adu_per_photon, spec.gain_codes, spec.packed) == (16, 508.0, (0, 1, 3), 2)


def test_a_detector_may_be_described():
    text = '[detector]\nname = "mine"\nmodules = 2\nmodule_shape = [64, 32]\nasic_shape = [32, 32]\nbits = 12\n'
    config = parse(text)
    assert config.detector.spec().module_shape == (64, 32)
    assert config.modules == (0, 1)
    assert list(config.cells) == [0]


def test_shards_select_modules_and_cells():
    config = parse(HEAD + "[shards]\nmodules = [3, 5]\ncells = [10, 20]\n")
    assert config.modules == (3, 5)
    assert config.cells == range(10, 21)


def test_one_endpoint_or_several():
    assert parse(HEAD).source.endpoints == ("tcp://127.0.0.1:4545",)
    assert parse(HEAD + '[source]\nendpoint = ["tcp://a:1", "ipc:///b"]\n').source.endpoints == (
        "tcp://a:1",
        "ipc:///b",
    )


def test_exposure_by_default_is_unknown():
    assert parse(HEAD).exposure.default_exposure == Exposure(Illumination.UNKNOWN)
    held = parse(HEAD + '[exposure]\ndefault = "dark"\ngain_stage = 2\n').exposure.default_exposure
    assert held == Exposure(Illumination.DARK, 2)


def test_strict_paper_allows_a_large_lambda_fit():
    assert parse(HEAD + "[fit]\nlambda_fit = 8.0\nstrict_paper = true\n").fit.lambda_fit == 8


def test_digest_changes_with_any_setting_of_the_service_and_not_with_order_or_the_simulator():
    digest = parse(HEAD).digest
    assert len(digest) == 12
    assert int(digest, 16) >= 0
    assert parse(HEAD + "[gate]\ncut = 8.0\n").digest == digest
    assert parse(HEAD + "[simulate]\nseed = 9\n").digest == digest
    assert (
        parse("[gate]\ncut = 7.0\nlearn = 32\n" + HEAD).digest == parse(HEAD + "[gate]\nlearn = 32\ncut = 7.0\n").digest
    )
    changed = {
        parse(HEAD + t).digest for t in ("[gate]\ncut = 7.0\n", "[store]\nlive_file = 'x'\n", "edge_width = 2\n")
    }
    assert len(changed | {digest}) == 4


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp://127.0.0.1:5", True), ("tcp://127.9.9.9:5", True), ("tcp://localhost:5", True), ("tcp://[::1]:5", True),
        ("ipc:///run/x", True), ("inproc://x", True), ("localhost", True), ("::1", True), ("127.0.0.1", True),
        ("tcp://*:5", False), ("tcp://0.0.0.0:5", False), ("tcp://10.0.0.1:5", False), ("tcp://host:5", False),
        ("tcp://127.0.0.1.example.org:5", False), ("tcp://[::]:5", False), ("", False), ("0.0.0.0", False),
    ],
)  # fmt: skip
def test_loopback_is_known_from_what_leaves_the_machine(address, local):
    assert is_loopback(address) == local


def test_an_open_address_may_be_wanted():
    text = '[publish]\nupdates = "tcp://0.0.0.0:5"\ninsecure = true\n[http]\nhost = "0.0.0.0"\ninsecure = true\n'
    assert isinstance(parse(HEAD + text), Config)


@pytest.mark.skipif(not SHIPPED, reason="no files in configs/")
def test_shipped_configurations_are_valid_and_show_defaults_where_they_say_so():
    for path in SHIPPED:
        config = parse(path.read_text(), path.name)
        assert config.detector.spec().modules >= 1
        assert config.fit == parse(HEAD).fit
        assert config.gate == parse(HEAD).gate


def test_a_detector_section_knows_every_field_of_a_spec():
    from dataclasses import fields

    from rmm_stream.detectors import DetectorSpec

    assert set(Detector.__struct_fields__) == {f.name for f in fields(DetectorSpec)}


@pytest.mark.parametrize(
    ("lines", "refusal"),
    [
        (
            '[source]\nendpoint = "tcp://127.0.0.1:notaport"',
            "source.endpoint = 'tcp://127.0.0.1:notaport': an endpoint is",
        ),
        ('[source]\nendpoint = "tcp://127.0.0.1"', "source.endpoint = 'tcp://127.0.0.1': an endpoint is"),
        ('[source]\nendpoint = "tcp://*:4545"', "source.endpoint = 'tcp://*:4545': an endpoint is"),
        ('[source]\nendpoint = "tcp://127.0.0.1:65536"', "source.endpoint = 'tcp://127.0.0.1:65536': an endpoint is"),
        ("[source]\nendpoint = []", "source.endpoint = []: expected `array` of length >= 1"),
        ('[source]\nendpoint = ["tcp://a:1", "tcp://a:1"]', "source.endpoint = ['tcp://a:1', 'tcp://a:1']: each once"),
        ('[source]\nimage_key = ""', "source.image_key = '': names the array"),
        ("[shards]\nmodules = []", "shards.modules = []: expected `array` of length >= 1"),
        ("[shards]\nmodules = [0, 0]", "shards.modules = [0, 0]: each module once"),
        ('[publish]\nupdates = "tcp://127.0.0.1:abc"', "publish.updates = 'tcp://127.0.0.1:abc': an endpoint is"),
        (
            '[publish]\nupdates = "tcp://127.0.0.1:5611"',
            "publish.requests = 'tcp://127.0.0.1:5611': the port is that of",
        ),
        ("[http]\nport = 5610", "http.port = 5610: the port is that of publish.updates"),
        ('[store]\nmask_file = "a"\nlive_file = "a"', "store.live_file = 'a': must not be store.mask_file"),
        (
            '[policy]\nstatic_mask = "a"\n[store]\nlive_file = "a"',
            "store.live_file = 'a': must not be policy.static_mask",
        ),
        ("[gate]\nlearn = 600", "gate.learn = 600: must not exceed gate.history = 512"),
    ],
)
def test_what_only_running_would_show_is_refused_beforehand(lines, refusal):
    with pytest.raises(ConfigError) as refused:
        parse(f'[detector]\nname = "agipd1m"\n{lines}\n', "a.toml")
    assert str(refused.value).startswith(f"a.toml: {refusal}")


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        (
            'name = "x"\nmodules = 1\nmodule_shape = [100000, 100000]\nasic_shape = [100, 100]',
            "detector.module_shape = ",
        ),
        ('name = "agipd1m"\nsaturation = 70000', "detector 'agipd1m': saturation 70000 lies beyond 14 bits"),
        (
            'name = "agipd1m"\nstages = ["a", "a", "b"]',
            "detector 'agipd1m': stages ['a', 'a', 'b'] must have different names",
        ),
        ('name = "jungfrau4m"\ngain_thresholds = [1.0, 2.0]', "detector 'jungfrau4m': gain_thresholds need gain"),
        ('name = "jungfrau4m"\nbits = 16', "detector 'jungfrau4m': 16 bits and 2 packed ones do not fit in uint16"),
    ],
)
def test_a_detector_that_contradicts_itself_is_refused(fields, refusal):
    with pytest.raises(ConfigError) as refused:
        parse(f"[detector]\n{fields}\n", "a.toml")
    assert str(refused.value).startswith(f"a.toml: {refusal}")
