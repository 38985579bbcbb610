"""The text of a TOML file -> Config, or one ConfigError line: file, key, value found, what is allowed.

Opens nothing: no file, no socket.
"""

import ipaddress
import tomllib
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from ..errors import ConfigError
from .sections import AXES, Config


def parse(text: str, name: str = "configuration") -> Config:
    """The Config of a TOML text. Raises ConfigError with one line: file, key, value found, what is allowed."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{name}: not TOML: {e}") from None
    return build(tree, name)


def build(tree: dict, name: str = "configuration") -> Config:
    """The Config of what a TOML file holds. Raises ConfigError like `parse`."""
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as e:
        raise ConfigError(f"{name}: {_explain(str(e), tree)}") from None
    try:
        _check(config)
    except ConfigError as e:
        raise ConfigError(f"{name}: {e}") from None
    return config


ENDPOINTS = ("source.endpoint", "publish.updates", "publish.requests", "simulate.tap")
MAX_PIXELS = 1 << 26  # of one map, and
MAX_MASK = 1 << 31  # of all maps of a module: what the wire of the mask carries


def _explain(complaint: str, tree: dict) -> str:
    """ "Expected `int` >= 1 - at `$.source.hwm`" -> "source.hwm = 0: expected `int` >= 1"."""
    text, _, path = complaint.partition(" - at `$.")
    path = path.rstrip("`")
    if text.startswith("Object contains unknown field"):
        field = text.split("`")[1]
        return f"{path + '.' if path else ''}{field}: unknown key; see configs/ for the known ones"
    if text.startswith("Object missing required field"):
        field = text.split("`")[1]
        return f"{path + '.' if path else ''}{field}: missing"
    value = tree
    for key in filter(None, path.replace("[", ".[").split(".")):
        if isinstance(value, list) and key.startswith("["):
            index = key.strip("[]")
            value = value[int(index)] if index.isdigit() and int(index) < len(value) else value
        elif isinstance(value, dict):
            value = value.get(key, value)
    if "matching regex" in text and path.split("[")[0] in ENDPOINTS:
        text = "an endpoint is tcp://HOST:PORT or ipc://PATH"
    if text.startswith("Invalid enum value"):
        text = f"allowed are {', '.join(map(repr, _choices(path)))}"
    return f"{path} = {value!r}: {text[0].lower()}{text[1:]}"


def _choices(path: str) -> list:
    """What a key with a closed set of values may be."""
    kinds = [Config]
    for key in path.split("."):
        kinds = [kind for k in kinds if isinstance(k, type) for kind in _parts(get_type_hints(k)[key])]
    return [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]


def _parts(kind) -> tuple:
    """The members of a union, else the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _refuse(condition: bool, key: str, value, allowed: str) -> None:
    if condition:
        raise ConfigError(f"{key} = {value!r}: {allowed}")


def is_loopback(address: str) -> bool:
    """Whether an endpoint or host stays on this machine."""
    if address.startswith(("ipc://", "inproc://")):
        return True
    host = address.removeprefix("tcp://")
    host = (host.rpartition(":")[0] if address.startswith("tcp://") else host).strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(config: Config) -> None:
    """The rules that join two keys."""
    spec = config.detector.spec()
    fit, lit = config.fit, config.features.lit
    _refuse(
        fit.lambda_fit > 5 and not fit.strict_paper,
        "fit.lambda_fit",
        fit.lambda_fit,
        "allowed are 2.5 to 5; it is the inlier rule, not fit.cut (fit.strict_paper = true allows more)",
    )
    _refuse(fit.clear_cut > fit.cut, "fit.clear_cut", fit.clear_cut, f"must not exceed fit.cut = {fit.cut}")
    gate = config.gate
    _refuse(gate.learn > gate.history, "gate.learn", gate.learn, f"must not exceed gate.history = {gate.history}")
    _refuse(fit.certain >= fit.structure, "fit.certain", fit.certain, f"must be below fit.structure = {fit.structure}")
    _refuse(
        lit.span_frames < 2 * lit.buckets,
        "features.lit.span_frames",
        lit.span_frames,
        f"needs two frames per bucket, {2 * lit.buckets} or more",
    )
    config.common_mode.removed_from(spec)
    pixels = spec.module_shape[0] * spec.module_shape[1]
    _refuse(
        pixels > MAX_PIXELS or pixels * spec.cells * len(spec.stages) > MAX_MASK,
        "detector.module_shape",
        list(spec.module_shape),
        f"at most {MAX_PIXELS} pixels, and {MAX_MASK} with all cells and stages; describe a large detector as modules",
    )
    modules = config.shards.modules or ()
    _refuse(len(set(modules)) < len(modules), "shards.modules", list(modules), "each module once")
    for module in modules:
        _refuse(module >= spec.modules, "shards.modules", module, f"{spec.name} has modules 0 to {spec.modules - 1}")
    if config.shards.cells:
        first, last = config.shards.cells
        _refuse(
            first > last or last >= spec.cells,
            "shards.cells",
            list(config.shards.cells),
            f"first and last cell, {spec.name} has 0 to {spec.cells - 1}",
        )
    _refuse(
        config.shards.workers > len(config.cells),
        "shards.workers",
        config.shards.workers,
        f"at most one for each of {len(config.cells)} memory cells",
    )
    stage = config.exposure.gain_stage
    _refuse(
        stage is not None and stage >= len(spec.stages),
        "exposure.gain_stage",
        stage,
        f"{spec.name} has stages 0 to {len(spec.stages) - 1}",
    )
    for key in ("axes", "gain_axes"):
        words = getattr(config.source, key).split()
        _refuse(
            bool(words) and (len(set(words)) != len(words) or not {"ss", "fs"} <= set(words) <= set(AXES)),
            f"source.{key}",
            getattr(config.source, key),
            f"words from {', '.join(AXES)}, each at most once, with ss and fs",
        )
    _refuse(not config.source.axes.split(), "source.axes", config.source.axes, "must name the axes of the image array")
    source = config.source
    _refuse(len(set(source.endpoints)) < len(source.endpoints), "source.endpoint", list(source.endpoints), "each once")
    _refuse(
        not source.image_key and source.protocol == "karabo", "source.image_key", "", "names the array of the image"
    )
    taken: dict[int, str] = {}
    for key, address in (
        *(("source.endpoint", endpoint) for endpoint in source.endpoints),
        ("publish.updates", config.publish.updates),
        ("publish.requests", config.publish.requests),
    ):
        if address.startswith("ipc://"):
            continue
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        named = bool(host) and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535
        if key == "source.endpoint":
            _refuse(
                not named or host == "*", key, address, "an endpoint is tcp://HOST:PORT, port 1 to 65535, or ipc://PATH"
            )
        elif port != "*":
            _refuse(not named, key, address, "an endpoint is tcp://HOST:PORT, port 1 to 65535 or *, or ipc://PATH")
            _refuse(int(port) in taken, key, address, f"the port is that of {taken.get(int(port))}")
            taken[int(port)] = key
    http = config.http.port
    _refuse(http in taken, "http.port", http, f"the port is that of {taken.get(http)}")
    files = {"store.mask_file": config.store.mask_file, "store.live_file": config.store.live_file}
    same = files["store.mask_file"] and files["store.mask_file"] == files["store.live_file"]
    _refuse(bool(same), "store.live_file", config.store.live_file, "must not be store.mask_file")
    for key, path in files.items():
        _refuse(path in config.policy.static_masks, key, path, "must not be policy.static_mask")
    for key, address, insecure in (
        ("publish.updates", config.publish.updates, config.publish.insecure),
        ("publish.requests", config.publish.requests, config.publish.insecure),
        ("http.host", config.http.host, config.http.insecure),
    ):
        section = key.split(".")[0]
        _refuse(
            not is_loopback(address) and not insecure,
            key,
            address,
            f"leaves this machine without encryption; use a loopback address, or set {section}.insecure = true",
        )
