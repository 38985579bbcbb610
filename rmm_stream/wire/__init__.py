"""Bytes to words and back, one file per protocol. Knows no sockets, threads or files."""

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config import Config
    from .decoder import Decoder

#: Each is called with (spec, source, exposure, modules).
DECODERS = {
    "karabo": "rmm_stream.wire.karabo:KaraboDecoder",
    "native": "rmm_stream.wire.native:NativeDecoder",
}


def make_decoder(config: "Config") -> "Decoder":
    """The decoder of `config.source.protocol`. Raises ConfigError where the source does not fit the detector."""
    protocol = config.source.protocol
    if protocol not in DECODERS:
        raise ConfigError(f"source.protocol = {protocol!r}: known are {', '.join(DECODERS)}")
    path, name = DECODERS[protocol].split(":")
    build = getattr(import_module(path), name)
    return build(config.detector.spec(), config.source, config.exposure, config.modules)
