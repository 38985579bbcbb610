"""Errors, divided by whose fault they are. A bare exception from this package is ours."""


class RmmError(Exception):
    """Base of all errors that name a culprit."""


class ConfigError(RmmError):
    """The operator's: a setting, a file name, a missing extra. Exit code 2, before anything opens."""


class ProtocolError(RmmError):
    """The peer's: bytes that are not what the protocol allows. Counted by `reason` and survived.

    reason: one of `wire.decoder.REASONS`, a metric label, so the set is closed.
    """

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


class DataError(RmmError):
    """The detector's or the file's: well-formed input that contradicts the detector's description."""


class LeaseLost(RmmError):
    """Another process owns this shard now. Stop publishing at once; exit code 3, no restart."""
