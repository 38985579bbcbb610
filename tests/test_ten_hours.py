"""Ten hours of a beamtime, compressed: the mask changes where a defect changed, and nowhere else.

Every 1.5 s of ten hours there is a shot, so that the windows hold 400 of them (600 s). Intensity drifts and trips, the jet and
the ring move, the offsets of ASICs drift with the temperature, one shot in a hundred is dark, a quarter are hits.
"""

import numpy as np
from beamline import SAMPLE, SHAPE, Beamline, scattering

EVERY_S = 1.5
SHOTS = 24_000  # ten hours
WINDOW = 400  # shots of 600 s
#: Pixels that begin to be bad at a shot, and are well again at another; strength in ADU, share of the shots.
HOT = {(20, 90): (3_000, 9_000, 120, 1.0), (75, 20): (8_000, 24_000, 60, 1.0), (110, 70): (15_000, 20_000, 90, 1.0)}
FLICKERING = {(40, 110): (5_000, 12_000, 300, 0.1), (90, 90): (14_000, 24_000, 300, 0.3)}
PLANNED = HOT | FLICKERING
STATIONARY = {(10, 10): 400.0, (100, 30): -350.0}  # ADU of offset


def weather(shot: int, rng):
    """The scene of a shot, and how bright it is; None: no beam."""
    hour = shot * EVERY_S / 3600
    if 4.0 < hour < 4.2 or 7.5 < hour < 7.52:
        return None, 0.0
    centre = (20 + 3 * np.sin(hour) + (25 if hour > 6 else 0), 40 + 2 * np.cos(2 * hour))
    return scattering(centre), (1 + 0.3 * np.sin(0.7 * hour)) * (2.0 if 2.5 < hour < 3 else 1.0) * max(
        0.2, rng.normal(1, 0.2)
    )


def test_the_mask_changes_only_where_a_defect_changed(tmp_path):
    b = Beamline(tmp_path, '[exposure]\nclassify = "label"', seed=7, every_s=EVERY_S)
    for place, shift in STATIONARY.items():
        b.offset[place] += shift
    cold, warming = b.offset.copy(), np.zeros(SHAPE, np.float32)
    warming[:64, :64], warming[:64, 64:], warming[64:, :64], warming[64:, 64:] = 6, -4, 5, 2  # ADU in ten hours
    shot = 0

    def extra(rng):
        more = np.zeros(SHAPE, np.float32)
        for place, (begins, ends, adu, share) in PLANNED.items():
            if begins <= shot < ends and (share == 1 or rng.random() < share):
                more[place] = adu
        return more

    b.extra = extra
    b.darks(300)
    turned: dict[tuple[int, int], list[int]] = {}
    before = b.bad
    while shot < SHOTS:
        b.offset = cold + warming * np.float32(shot / SHOTS)
        scene, brightness = weather(shot, b.rng)
        if scene is None or b.rng.random() < 0.01:
            b.feed(b.read(None)[None], SAMPLE)
        else:
            b.lit(1, scene, brightness)
        shot += 1
        if (now := b.bad) != before:
            for place in now ^ before:
                turned.setdefault(place, []).append(shot)
            before = now
    assert set(turned) == set(PLANNED), "no pixel beside those of the plan ever turned"
    for place, (begins, ends, *_) in PLANNED.items():
        first, *rest = turned[place]
        assert begins < first <= begins + 300
        if ends < SHOTS:
            (last,) = rest
            assert ends < last <= ends + 2 * WINDOW
        else:
            assert rest == []
    assert before == {*STATIONARY, *(place for place, (_, ends, *_) in PLANNED.items() if ends == SHOTS)}
