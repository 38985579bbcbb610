"""One line of the table."""

from typing import NamedTuple


class Row(NamedTuple):
    """ours, baseline: medians in the same unit. at_most: whether `bound` is the most or the least that ratio may be."""

    name: str
    ours: float
    baseline: float
    bound: float
    at_most: bool

    @property
    def ratio(self) -> float:
        return self.ours / self.baseline

    @property
    def met(self) -> bool:
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound

    @property
    def goal(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"
