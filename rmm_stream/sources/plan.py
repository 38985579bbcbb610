"""What a simulated detector is told to do: one exposure after the other, so many trains each. Pure data."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ConfigError
from ..frames import Exposure, Illumination


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of trains under one exposure. UNKNOWN trains are dark, and the stream does not say so."""

    exposure: Exposure
    trains: int

    def __post_init__(self):
        if self.trains < 1:
            raise ConfigError(f"a segment of {self.trains} trains; a segment needs at least one, leave it out instead")


@dataclass(frozen=True, slots=True)
class Plan:
    """Segments in the order in which they are sent.

    rate_hz: trains per second. first_train: id of the first train, 1 or more; ids then grow by one.
    """

    segments: tuple[Segment, ...]
    rate_hz: float = 10.0
    first_train: int = 1

    def __post_init__(self):
        if not self.segments:
            raise ConfigError("the plan has no train: give a number of dark, flat or sample trains")
        if self.first_train < 1 or not self.rate_hz > 0:
            raise ConfigError(f"first train {self.first_train}, rate {self.rate_hz} Hz: both must be above 0")

    def __len__(self) -> int:
        return sum(segment.trains for segment in self.segments)

    def trains(self) -> Iterator[tuple[int, Exposure]]:
        """(train id, exposure) of every train."""
        train_id = self.first_train
        for segment in self.segments:
            for _ in range(segment.trains):
                yield train_id, segment.exposure
                train_id += 1

    def frames(self, exposure: Exposure) -> int:
        """Frames that each memory cell gets under one exposure."""
        return sum(segment.trains for segment in self.segments if segment.exposure == exposure)

    def dark_frames(self, stage: int) -> int:
        """Frames that each cell gets in the dark in one gain stage."""
        return self.frames(Exposure(Illumination.DARK, stage))

    def lit(self) -> tuple[Segment, int] | None:
        """The stretch of light on which lit defects are judged, and its first train id: the longest flat one, else the
        longest on a sample. None without light."""
        found, train_id = [], self.first_train
        for segment in self.segments:
            if segment.exposure.illumination.lit:
                flat = segment.exposure.illumination is Illumination.FLAT
                found.append((flat, segment.trains, -train_id, segment))
            train_id += segment.trains
        if not found:
            return None
        _, _, first, segment = max(found, key=lambda entry: entry[:3])
        return segment, -first


def usual_plan(
    stages: int, dark: int, flat: int, sample: int, rate_hz: float = 10.0, first_train: int = 1, held: bool = True
) -> Plan:
    """Darks in every gain stage, held one after the other, then flat field, then sample, both with free gain.

    dark: trains per stage. held: False for a detector of one fixed stage that announces no stage.
    """
    segments = [Segment(Exposure(Illumination.DARK, stage), dark) for stage in range(stages) if dark]
    lit = None if stages > 1 or not held else 0
    for illumination, trains in ((Illumination.FLAT, flat), (Illumination.SAMPLE, sample)):
        if trains:
            segments.append(Segment(Exposure(illumination, lit), trains))
    return Plan(tuple(segments), rate_hz, first_train)
