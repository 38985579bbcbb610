"""How many lit frames F6 judges when time is short: the named policies of `features.lit.when_late`.

Whoever drops the frames at the end of a train has a mask of its first cells only; whoever drops whole trains has one of the
trains that came when nothing happened. "thin" judges fewer frames, evenly over trains and memory cells.
"""

from collections.abc import Callable

THINNEST = 64  # times the configured step between judged trains
PATIENCE = 4  # messages between two changes: what was changed shows in the queue only then


class Thin:
    """Doubles the step while three quarters of the queue are full; halves it when nobody has waited for a while."""

    def __init__(self):
        self.factor = 1
        self._calm = self._since = PATIENCE

    def step(self, every_train: int, waiting: int, room: int) -> int:
        """Of how many trains one is judged, after a message. waiting: messages in the queue, of `room` at most."""
        self._since += 1
        self._calm = 0 if waiting else self._calm + 1
        if 4 * waiting >= 3 * room and self._since > PATIENCE:
            self.factor, self._since = min(2 * self.factor, THINNEST), 0
        elif min(self._calm, self._since) >= PATIENCE and self.factor > 1:
            self.factor, self._since = self.factor // 2, 0
        return every_train * self.factor


class Keep:
    """Never thins: what the worker cannot do in time is lost from the queue, or slows the sender."""

    def step(self, every_train: int, waiting: int, room: int) -> int:
        return every_train


POLICIES: dict[str, Callable] = {"thin": Thin, "keep": Keep}
