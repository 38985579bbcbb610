"""The guard: a jump that is too large to be of the detector's pixels alone is held, with a reason for the operator.

A beam that has moved, a dark with light in it, or a power supply that hums, turns thousands of pixels at once. A hit-finder
that lost a third of its detector for that would switch the mask off. Sees fitted bits only: overlays are nobody's jump.

What turns thousands of pixels turns the strong ones first: a jump is what turns within several fits in a row. Pixels without
data are no jump: that they cannot be judged has to be known at once.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Policy
from ..detectors import DetectorSpec
from ..mask import BadPixel

NO_DATA = np.uint8(BadPixel.NO_DATA)
AT_ONCE = 10  # fits; what turns within them counts as one jump


class Turned(NamedTuple):
    """How many pixels of a map turned bad, and good, in each of its last fits that were let out; the newest last."""

    bad: tuple[int, ...] = ()
    good: tuple[int, ...] = ()

    def after(self, bad: int, good: int) -> "Turned":
        """With one fit more."""
        return Turned((*self.bad, bad)[1 - AT_ONCE :], (*self.good, good)[1 - AT_ONCE :])


NOTHING = Turned()


class Jump(NamedTuple):
    """Pixels that one fit would turn, (ss, fs) bool each."""

    bad: NDArray
    good: NDArray


def jump(before: NDArray, after: NDArray, familiar: BadPixel, analysed: NDArray) -> Jump:
    """What counts of the difference between two maps of flags, (ss, fs) uint8.

    familiar: features that had spoken before; what one says for the first time is no jump, nor is NO_DATA. analysed: (ss, fs)
    bool, pixels that are not masked by geometry or by hand.
    """
    was_bad = before != 0
    return Jump((after & np.uint8(familiar) != 0) & ~was_bad & analysed, was_bad & (after == 0) & analysed)


def objection(
    spec: DetectorSpec,
    limits: Policy,
    before: NDArray | None,
    after: NDArray,
    turned: Jump | None,
    analysed: NDArray,
    lately: Turned = NOTHING,
) -> str:
    """ "" where a map may go out, else why not, in one line.

    before: (ss, fs) uint8 flags as published, None where there are none yet, when only `max_bad` limits. after: as they would
    be. turned: of jump(); None with before. analysed: as there. lately: what turned in the fits before this one.
    """
    pixels = int(analysed.sum())
    for word, places in () if turned is None else turned._asdict().items():
        n, earlier = int(np.count_nonzero(places)), sum(getattr(lately, word))
        if n and n + earlier > limits.max_new * pixels:
            since = f" beside {earlier:,} in the fits before" if earlier else ""
            return (
                f"{n:,} of {pixels:,} pixels would turn {word} at once{since} ({_percent(n + earlier, pixels)}; "
                f"policy.max_new = {limits.max_new:g}){_where(spec, places)}"
                f"{_why(after if word == 'bad' else before, places)}"
            )
    bad, most = _flagged(after, analysed), limits.max_bad * pixels
    n = int(np.count_nonzero(bad))
    if n > most and (before is None or np.count_nonzero(_flagged(before, analysed)) <= most):
        return (
            f"{n:,} of {pixels:,} pixels would be bad ({_percent(n, pixels)}; policy.max_bad = {limits.max_bad:g})"
            f"{_where(spec, bad)}{_why(after, bad)}"
        )
    return ""


def _flagged(flags: NDArray, analysed: NDArray) -> NDArray:
    """(ss, fs) bool: pixels that a feature calls bad."""
    return (flags & ~NO_DATA != 0) & analysed


def _percent(n: int, of: int) -> str:
    return f"{100 * n / of:.1f} %"


def _where(spec: DetectorSpec, turned: NDArray) -> str:
    """The ASICs that most of these pixels are in, where one can name them: a cause on one ASIC is another than a moved beam."""
    each = {
        (top, left): int(np.count_nonzero(turned[top:bottom, left:right]))
        for top, bottom in spec.asics(0)
        for left, right in spec.asics(1)
    }
    most = sorted(each, key=each.get, reverse=True)
    if len(most) == 1:
        return ""
    share = 0.9 * sum(each.values())
    if each[most[0]] >= share:
        top, left = most[0]
        return f", nearly all on the ASIC that begins at ss {top}, fs {left}"
    return f", on {sum(n > 0 for n in each.values())} of {len(each)} ASICs"


def _why(flags: NDArray, turned: NDArray) -> str:
    """The bits behind it, most frequent first."""
    of = {bit.name: int(np.count_nonzero(flags[turned] & np.uint8(bit))) for bit in BadPixel}
    named = sorted((name for name, n in of.items() if n), key=of.get, reverse=True)
    return ": " + ", ".join(f"{name} {of[name]:,}" for name in named)
