"""Which exposure a batch belongs to (dark, flat, sample; held gain stage), and who said so.

The first voice that speaks decides: stream, operator, configuration. A request with `override` goes before the stream.
UNKNOWN is a verdict like the others: such frames are counted and fed to nothing. These voices speak of a whole batch; what
single frames look like is asked after them, by rmm/light.py, and only where the configuration wants it. Knows no protocol,
clock or log.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from .frames import Exposure, FrameBatch, Illumination


class Verdict(NamedTuple):
    """An exposure, and the voice that named it: a key of VOICES."""

    exposure: Exposure
    who: str


class Contradiction(NamedTuple):
    """The stream and the operator say different things; one of them has to be told."""

    stream: Exposure
    operator: Exposure
    decided: str


UNKNOWN = Exposure(Illumination.UNKNOWN)


def in_words(exposure: Exposure) -> str:
    """For a person, such as "dark, stage 0"; without a stage each pixel switches by itself."""
    held = "" if exposure.gain_stage is None else f", stage {exposure.gain_stage}"
    return f"{exposure.illumination.value}{held}"


class ExposureLabeler:
    """Mutable; owned by the thread that feeds the maker, which passes operators' requests on to it."""

    def __init__(self, default: Exposure = UNKNOWN):
        self.default = default
        self.requested: Exposure | None = None
        self.lit = (
            default if default.illumination.lit else None
        )  # the last word of operator or configuration that was lit
        self.override = False
        self.contradictions = 0  # batches about which stream and operator differed; only grows
        self.contradiction: Contradiction | None = None  # of the last batch; None: they agree, or one is silent
        self._last: Verdict | None = None

    def operator(self, exposure: Exposure | None, override: bool = False) -> None:
        """An operator's request, in force from the next batch on; None takes it back.

        override: goes before what the stream says.
        """
        self.requested = exposure
        if exposure is not None and exposure.illumination.lit:
            self.lit = exposure
        self.override = override and exposure is not None
        self._last = self.contradiction = None

    def label(self, batch: FrameBatch) -> FrameBatch:
        """The batch with `exposure` and `labelled_by`. The stream's own label is read from the batch."""
        said = {who: voice(self, batch) for who, voice in VOICES.items()}
        order = ["operator", *said] if self.override else said
        verdict = next(Verdict(said[who], who) for who in order if said[who] is not None)
        stream, operator = said["stream"], said["operator"]
        self.contradiction = None
        if stream is not None and operator is not None and stream != operator:
            self.contradictions += 1
            self.contradiction = Contradiction(stream, operator, verdict.who)
        self._last = verdict
        if (batch.exposure, batch.labelled_by) == verdict:
            return batch
        return replace(batch, exposure=verdict.exposure, labelled_by=verdict.who)

    @property
    def current(self) -> Verdict:
        """What the last batch was labelled as; before one comes, or after a request, what a silent stream would get."""
        if self._last is not None:
            return self._last
        return Verdict(self.default, "config") if self.requested is None else Verdict(self.requested, "operator")


def _stream(labeler: ExposureLabeler, batch: FrameBatch) -> Exposure | None:
    return batch.exposure if batch.labelled_by == "stream" else None


def _operator(labeler: ExposureLabeler, batch: FrameBatch) -> Exposure | None:
    return labeler.requested


def _config(labeler: ExposureLabeler, batch: FrameBatch) -> Exposure | None:
    return labeler.default


#: In order of precedence; the last one always speaks. A voice answers None where it has nothing to say.
VOICES: dict[str, Callable[[ExposureLabeler, FrameBatch], Exposure | None]] = {
    "stream": _stream,
    "operator": _operator,
    "config": _config,
}
