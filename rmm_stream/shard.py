"""A shard: one module and a range of memory cells, the part of the detector that one worker owns."""

import re
from dataclasses import dataclass

from .errors import ConfigError

_NAME = re.compile(r"m(\d+)-c(\d+)-(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """Cells `first` to `last`, both included, of one module. Its name, "m03-c000-175", is part of the wire."""

    module: int
    first: int
    last: int

    @property
    def cells(self) -> range:
        return range(self.first, self.last + 1)

    @property
    def name(self) -> str:
        return f"m{self.module:02d}-c{self.first:03d}-{self.last:03d}"

    @classmethod
    def parse(cls, name: str) -> "Shard":
        """The shard of a name. Raises ConfigError for anything that `name` does not print."""
        found = _NAME.fullmatch(name)
        shard = cls(*map(int, found.groups())) if found else None
        if shard is None or shard.first > shard.last or shard.name != name:
            raise ConfigError(f"shard {name!r} is not of the form m03-c000-175 (module, first cell, last cell)")
        return shard

    def split(self, parts: int) -> list["Shard"]:
        """`parts` shards of nearly equal cell ranges; fewer where there are fewer cells."""
        n = len(self.cells)
        parts = max(1, min(parts, n))
        borders = [self.first + n * i // parts for i in range(parts + 1)]
        return [Shard(self.module, a, b - 1) for a, b in zip(borders, borders[1:])]
