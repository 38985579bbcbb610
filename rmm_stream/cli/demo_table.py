"""The table at the end of the demo: planted, found, false, delays and peaks, printed with rich."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ..sources.truth import read_truth
from ..storage.mask_file import MaskFile
from .peaks import Followed
from .score import FALSE_BAR, FOUND_BAR, STRONG, by_kind, false_peaks, found, good_pixels, missed_bars, onset_delays


def print_table(truth_file: Path, stored: MaskFile, followed: Followed, console: Console | None = None) -> list[str]:
    """Compare the mask with the truth, and print. Returns the bars that were missed.

    Raises DataError where the truth file is none.
    """
    truth, console = read_truth(truth_file), console or Console()
    masks = {mask.module: mask for mask in stored.masks}
    scores = by_kind(truth, found(truth, masks, stored.cells))
    delays = onset_delays(truth, truth.modules[0], followed.flagged_at, followed.trains)
    table = Table(title="Planted defects, counted over maps (gain stage and memory cell)")
    table.add_column("kind")
    for column in (f"planted, SNR >= {STRONG:g}", "found", "share", "median delay", "longest"):
        table.add_column(column, justify="right")
    for s in scores:
        delay = delays.get(s.kind)
        table.add_row(s.kind.replace("_", " "), f"{s.planted:,}", f"{s.found:,}", _percent(s.share), *_span(delay))
    planted, hits = sum(s.planted for s in scores), sum(s.found for s in scores)
    table.add_section()
    everything = np.concatenate([*delays.values(), []])
    table.add_row("together", f"{planted:,}", f"{hits:,}", _percent(hits / max(planted, 1)), *_span(everything))
    console.print(table)
    good, (frames, before, after) = good_pixels(truth, masks, stored.cells), false_peaks(followed.counts)
    weak, weak_found = sum(s.weak for s in scores), sum(s.weak_found for s in scores)
    console.print(f"good pixels flagged: {good.flagged:,} of {good.good:,}, over all maps")
    console.print(f"weaker defects (SNR < {STRONG:g}, cut at 8): {weak_found:,} of {weak:,} found")
    late = everything[np.isfinite(everything)]
    console.print(
        f"onset of a defect to the consumer's mask: median {_seconds(late, np.median)}, longest {_seconds(late, np.max)} "
        f"({len(late):,} of {len(everything):,} that began during the run)"
    )
    console.print(f"false peaks per frame: {before:.1f} without the mask, {after:.2f} with it ({frames:,} frames)")
    bars = (
        f"at least {100 * FOUND_BAR:g} % of each kind found, at most one good pixel in {round(1 / FALSE_BAR):,} flagged"
    )
    missed = missed_bars(scores, good)
    console.print(f"{bars}: {'MISSED' if missed else 'met'}")
    for line in missed:
        console.print(f"  {line}")
    return missed


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.2f} %"


def _span(delay) -> tuple[str, str]:
    """Median and longest of what arrived at all."""
    if delay is None or not np.isfinite(delay).any():
        return "", ""
    came = delay[np.isfinite(delay)]
    return _seconds(came, np.median), _seconds(came, np.max)


def _seconds(delays, of) -> str:
    return f"{of(delays):.2f} s" if len(delays) else "-"
