"""Which mask was in force for a train: a version, and the updates that were published after it and before that train.

By the service's own clock: an update is in force for every train after the latest one that the service had seen when the
update left. What a consumer really used lags behind by its own delay. Knows nothing of the stream.
"""

from dataclasses import dataclass

from ..errors import ConfigError
from .journal import read_journal
from .mask_store import MaskStore


@dataclass(frozen=True, slots=True)
class InForce:
    """version: 0: before the first one. updates: of the journal of that version, in order; each replaces one whole map.

    later: whether anything at all was published afterwards. damaged, lost: lines of that journal which cannot be read, and
    updates which could not be written down. gone: versions after this one that are removed, so that they may have been it.
    """

    train: int
    version: int
    updates: tuple[dict, ...]
    later: bool
    damaged: int
    lost: int
    gone: tuple[int, int] | None = None


def in_force(store: MaskStore, train: int) -> InForce:
    """What was published before `train`. Where train ids began anew, the latest occasion counts.

    Raises ConfigError where the store begins later, DataError for a version that cannot be read.
    """
    numbers = store.numbers()
    for place in range(len(numbers), -1, -1):
        number = numbers[place - 1] if place else 0
        lines = read_journal(store.journal(number))
        before = [n for n, update in enumerate(lines.updates, 1) if update["after_train"] < train]
        count = before[-1] if before else 0
        if count or (number and store.version(number).last_train < train):
            following = numbers[place] if place < len(numbers) else None
            gone = following is not None and count == len(lines.updates) and following > number + 1
            return InForce(
                train=train,
                version=number,
                updates=tuple(lines.updates[:count]),
                later=count < len(lines.updates) or following is not None,
                damaged=lines.damaged,
                lost=lines.lost,
                gone=(number + 1, following - 1) if gone else None,
            )
    raise ConfigError(f"nothing was in force for train {train} as far as {store.folder} reaches")
