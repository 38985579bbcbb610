"""The tables and the bars. Numbers in, text out."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .contenders import OFFLINE, OURS, TRUTH
from .peaks import HIT
from .score import Score

KINDS = ("offset", "noise", "dead", "stuck", "hot", "pair", "cold", "flickering", "dying")


class Bar(NamedTuple):
    """One goal. ours, limit: compared as `at_most` says; nan in either: not measured, which is not met."""

    name: str
    ours: float
    limit: float
    at_most: bool

    @property
    def met(self) -> bool:
        return self.ours <= self.limit if self.at_most else self.ours >= self.limit


def row_of(score: Score, reference: Score) -> dict[str, object]:
    """One line of the table, column by column."""
    delays, releases = score.delays(), score.release_delays()
    lost = score.hits_lost(HIT, reference) if score.peaks else float("nan")
    return {
        "contender": score.name,
        "strong": "{}/{}".format(*score.found("start", True)),
        "weak": "{}/{}".format(*score.found("start", False)),
        "onset": "{}/{}".format(*score.found("onset", True)),
        "false": score.false,
        "most": score.false_most,
        "shadow": score.false_shadow,
        "delay": _median_and_longest(delays),
        "released": "{}/{}".format(*score.released_of()),
        "release": _median_and_longest(releases),
        "Bragg lost": f"{score.bragg_lost:.2f}",
        "waiting": f"{score.bragg_waiting:.2f}",
        "false peaks": f"{score.false_peaks():.2f}",
        "false hits": f"{100 * score.false_hits(HIT):.1f} %",
        "hits lost": str(lost),
    }


def _median_and_longest(delays: NDArray) -> str:
    return f"{np.median(delays):.0f}, {delays[-1]}" if len(delays) else "-"


def by_kind(scores: list[Score]) -> list[dict[str, object]]:
    """Found of planted, kind by kind, a column per contender."""
    rows = []
    for when in ("start", "onset", "recovery"):
        for strong in (True, False):
            for kind in KINDS:
                if scores[0].found(when, strong, kind)[1]:
                    row = {"defects": f"{kind}, {when}{'' if strong else ', weak'}"}
                    row |= {score.name: "{}/{}".format(*score.found(when, strong, kind)) for score in scores}
                    rows.append(row)
    return rows


def lines(rows: list[dict[str, object]]) -> Iterator[str]:
    """Rows with the same keys as aligned text."""
    cells = [[str(key) for key in rows[0]], *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        first, *others = (text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths)))
        yield "  ".join([first, *others])


def bars(scores: dict[str, Score]) -> list[Bar]:
    """What ours has to reach. Those that compare with the paper's procedure are not measured without the library."""
    ours, truth = scores[OURS], scores[TRUTH]
    offline = scores.get(OFFLINE)
    nan = float("nan")

    def share(score: Score | None, strong: bool, when: str = "start") -> float:
        if score is None:
            return nan
        found, planted = score.found(when, strong)
        return found / planted

    released, flagged = ours.released_of()
    most_false = truth.false_hits(HIT) + 0.01
    return [
        Bar("stationary, strong: share found, at least as the paper's", share(ours, True), share(offline, True), False),
        Bar("stationary, weak: share found, at least as the paper's", share(ours, False), share(offline, False), False),
        Bar(
            "good pixels flagged at the end, at most as the paper's",
            ours.false,
            offline.false if offline else nan,
            True,
        ),
        Bar("the same behind the beam stop", ours.false_shadow, offline.false_shadow if offline else nan, True),
        Bar("Bragg pixels lost, of 10,000", ours.bragg_lost, 1.0, True),
        Bar("onset: share found", share(ours, True, "onset"), 0.99, False),
        Bar("recovered: share released", released / flagged if flagged else nan, 0.99, False),
        Bar("false hits, at most 1 % above the true mask", ours.false_hits(HIT), most_false, True),
        Bar("true hits lost", ours.hits_lost(HIT, truth) if ours.peaks else nan, 0, True),
    ]


def bar_lines(found: list[Bar]) -> Iterator[str]:
    rows = [
        {
            "bar": bar.name,
            "ours": f"{bar.ours:.4g}",
            "goal": f"{'<=' if bar.at_most else '>='} {bar.limit:.4g}",
            "": "" if bar.met else "not measured" if np.isnan(bar.ours) or np.isnan(bar.limit) else "MISSED",
        }
        for bar in found
    ]
    yield from lines(rows)
