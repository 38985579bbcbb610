"""What a source has received and what it has lost: counters that only grow, read by status and metrics."""

from collections import Counter
from dataclasses import dataclass, field, fields, replace


@dataclass(slots=True)
class Tally:
    """Mutable: the receiver counts, any thread may take a snapshot.

    messages, nbytes: received, good or bad. malformed: messages refused whole, by reason.
    frames: handed on, by module. rejected: frames (or sources, see Decoded) refused, by (module or NO_MODULE, reason).
    missed: frames that never came, by module, as many per train as the train before the gap had; missed_trains: trains.
    series: new series of train ids, by module: restarts of the sender. disconnects: connections lost.
    resets: sockets made anew, because no reply came (REQ) or ZeroMQ had given the connection up.
    """

    messages: int = 0
    nbytes: int = 0
    frames: Counter[int] = field(default_factory=Counter)
    missed: Counter[int] = field(default_factory=Counter)
    missed_trains: Counter[int] = field(default_factory=Counter)
    series: Counter[int] = field(default_factory=Counter)
    rejected: Counter[tuple[int, str]] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    disconnects: int = 0
    resets: int = 0

    def snapshot(self) -> "Tally":
        """A copy that no longer changes. Each counter is copied in one step of the interpreter; no lock is needed."""
        counters = (f.name for f in fields(self) if isinstance(getattr(self, f.name), Counter))
        return replace(self, **{name: getattr(self, name).copy() for name in counters})
