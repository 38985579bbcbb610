"""What may be asked of a service: a struct for each request, and the table of their fields. Knows no bytes and no sockets."""

from typing import NamedTuple

#: Requests that have a name and no server yet.
RESERVED = ("user", "explain")


class SnapshotRequest(NamedTuple):
    """shard: name of one shard; "" for the first that the publisher has."""

    shard: str


class ExposeRequest(NamedTuple):
    """What the detector sees from now on. gain_stage: None where each pixel switches by itself.

    illumination: "dark" | "flat" | "sample" | "unknown". new: drop the statistics of that exposure first.
    override: goes before what the stream announces; a message without the key means False.
    """

    illumination: str
    gain_stage: int | None = None
    new: bool = False
    override: bool = False


class CommitRequest(NamedTuple):
    """Write the mask to the store as a version."""


class RollbackRequest(NamedTuple):
    """Put a stored version in force and keep to it, whatever fits say, until it is released."""

    version: int


class ReleaseRequest(NamedTuple):
    """Let fits be published again after a rollback."""


class AcceptRequest(NamedTuple):
    """Publish held maps after all. None: every module, every gain stage, every memory cell."""

    module: int | None = None
    gain_stage: int | None = None
    cell: int | None = None


class RejectRequest(NamedTuple):
    """Dismiss what held maps say; what is published stays. None: every module, every gain stage, every memory cell."""

    module: int | None = None
    gain_stage: int | None = None
    cell: int | None = None


#: What an operator may ask for.
Request = ExposeRequest | CommitRequest | RollbackRequest | ReleaseRequest | AcceptRequest | RejectRequest


ILLUMINATIONS = ("dark", "flat", "sample", "unknown")  # of frames.Illumination, which this file need not import

_WHERE = ("module", "gain_stage", "cell")

#: kind: (fields, fields that may be nil or absent, struct)
REQUESTS = {
    "snapshot": (("shard",), (), SnapshotRequest),
    "expose": (("illumination", "new"), ("gain_stage", "override"), ExposeRequest),
    "commit": ((), (), CommitRequest),
    "rollback": (("version",), (), RollbackRequest),
    "release": ((), (), ReleaseRequest),
    "accept": ((), _WHERE, AcceptRequest),
    "reject": ((), _WHERE, RejectRequest),
}
