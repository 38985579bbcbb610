"""What an operator is told when frames are not what they are declared as, and what to do. Counts are the maker's."""

from ..frames import Exposure, Illumination
from ..rmm.light import Light

FROM = 20  # frames in a row: a dropped shot is no alarm


def light_alarms(light: Light | None, modules: list[int], exposure: Exposure) -> tuple[str, ...]:
    """A line for each module whose last frames deny the exposure that is declared."""
    if light is None:
        return ()
    return tuple(line for module in modules if (line := _alarm(light, module, exposure.illumination)))


def _alarm(light: Light, module: int, declared: Illumination) -> str:
    row = light.in_a_row(module, declared)
    if declared is Illumination.DARK and row.lit >= FROM:
        return (
            f"module {module}: {row.lit} frames with light while dark is declared, none of them used: is the shutter open? "
            f"If the darks themselves have changed: rmm-stream expose ENDPOINT dark --new"
        )
    if declared.lit and row.dark >= FROM:
        use = "taken as darks" if light.labels else "none of them used"
        return (
            f"module {module}: {row.dark} frames without light while {declared.value} is declared, {use}: beam trip, or "
            f"shutter closed? If light is only weak: rmm-stream expose ENDPOINT {declared.value} --new"
        )
    if row.doubtful >= FROM:
        return (
            f"module {module}: {row.doubtful} frames neither dark nor lit, none of them used: the light is nearly off, or the "
            f"darks have drifted; then close the shutter: rmm-stream expose ENDPOINT dark --new"
        )
    return ""
