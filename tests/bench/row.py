"""One line of the table."""

from typing import NamedTuple


class Row(NamedTuple):
    """ours, baseline: medians in the same unit. at_most: whether `bound` is the most or the least that ratio may be.

    bound None: no bar, the ratio explains another row."""

    name: str
    ours: float
    baseline: float
    bound: float | None
    at_most: bool

    @property
    def ratio(self) -> float:
        return self.ours / self.baseline

    @property
    def met(self) -> bool:
        if self.bound is None:
            return True
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound

    @property
    def goal(self) -> str:
        return "" if self.bound is None else f"{'<=' if self.at_most else '>='} {self.bound:g}"
