"""Common mode: levels of ASICs, statistics without their shifts, and what that is good for."""

from dataclasses import replace

import laws
import makers
import naive
import numpy as np
import pytest
from builders import TINY, TINY_CALIBRATED, TINY_SHIFTING
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import DARK, DARK0, SETTINGS, assert_same_darks, bad, maker, part
from msgspec import structs

from rmm_stream.config import CommonMode, Settings, parse
from rmm_stream.detectors import detector
from rmm_stream.errors import ConfigError
from rmm_stream.mask import BadPixel, MapKey
from rmm_stream.rmm import common_mode
from rmm_stream.rmm.common_mode import EMPTY, MOVED, UNKNOWN, LevelledStats, asics
from rmm_stream.rmm.kernels import levels as kernel
from rmm_stream.rmm.kernels.blocks import BLOCK
from rmm_stream.rmm.keys import VALUES, DarkKey
from rmm_stream.rmm.stats import Block, flat

seeds = st.integers(0, 2**32 - 1)
TOP, BLANK = (1 << 14) - 1, 65535
SMALL = replace(TINY_SHIFTING, module_shape=(12, 11), asic_shape=(6, 5), cells=2, edge_width=0)  # a gap of one column
KEPT = structs.replace(SETTINGS, common_mode=CommonMode(remove="off"))


def shifting(n, seed=0, spec=TINY_SHIFTING, noise=3.0, shift=16.0, level=3000.0):
    """(n, ss, fs) float: offsets of pixels and ASICs, noise, and a shift of each ASIC in each frame."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(7)
    frames = level + fixed.normal(0, 40, spec.module_shape) + rng.normal(0, noise, (n, *spec.module_shape))
    for asic in range(len(asics(spec))):
        frames[:, *asics(spec).part(asic)] += 150 * asic + rng.normal(0, shift, (n, 1, 1))
    return frames


def whole(frames, spec=TINY_SHIFTING):
    return np.rint(frames).clip(0, TOP).astype(spec.dtype)


def batch(frames, exposure=DARK0, spec=TINY_SHIFTING, **fields):
    """Frames of cell 0."""
    made = makers.frames(spec, len(frames), exposure, cells=[0], **fields)
    made.pixels[...] = whole(frames, spec)
    return made


# ---- levels ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0, 5000), st.floats(0, 1), st.sampled_from([8, 10, 14]))
def test_frame_levels_like_its_twin(seed, spread, share, bits):
    """Also where most values are no data, or all the same."""
    rng, spec = np.random.default_rng(seed), replace(SMALL, bits=bits, packed=0, gain="none")
    frames = rng.normal(rng.uniform(0, 1 << bits), spread, (3, *spec.module_shape)).clip(0, (1 << bits) - 1)
    if bits > 8:
        frames[rng.random(frames.shape) < share] = 65535
    found = common_mode.levels(spec, frames.astype(spec.dtype), np.array([2, 0]))
    where = spec.asics(0), spec.asics(1)
    for level, frame in zip(found, frames.astype(spec.dtype)[[2, 0]]):
        expected = naive.frame_levels(frame, range(12), *where, 0, (1 << bits) - 1)
        assert level.tolist() == [UNKNOWN if e is None else e for e in expected]


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_level_frame_like_its_twin(seed):
    rng, of = np.random.default_rng(seed), asics(SMALL)
    wild = [0, 1, 5, TOP - 1, TOP, TOP + 1, 65535]
    frame = rng.choice([*wild, *rng.integers(0, TOP, 5)], SMALL.module_shape).astype(np.uint16)
    still = rng.choice([*wild[:5], EMPTY, MOVED], SMALL.module_shape).astype(np.uint16)
    lift = rng.integers(-40, 40, len(of)).astype(np.int32)
    lift[rng.random(len(of)) < 0.2] = UNKNOWN
    out, kept = np.empty_like(frame), still.copy()
    kernel.level_frame(common_mode.read_only(frame), of.down, of.across, lift, 1, TOP - 1, BLANK, kept, out)
    known = [None if d == UNKNOWN else d for d in lift.tolist()]
    expected = naive.level_frame(
        frame, of.down.tolist(), of.across.tolist(), known, 1, TOP - 1, BLANK, still, EMPTY, MOVED
    )
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(kept, expected[1])


def test_every_asic_has_rows_that_are_looked_at():
    for name, n in (("agipd1m", 16), ("epix10k2m", 4), ("jungfrau4m", 8)):
        of = asics(detector(name))
        assert len(of) == n
        assert (np.diff(of.first) > 0).all()
        assert of.first[-1] == len(of.rows)
    large = replace(TINY_CALIBRATED, module_shape=(4096, 4096), asic_shape=(4096, 4096))
    assert len(asics(large).rows) * 4096 == common_mode.MOST


@pytest.mark.parametrize(("share", "follows", "error"), [(0, 0.01, 0.38), (0.2, 0.12, 2.5)])
def test_a_level_follows_its_asic_whatever_a_fifth_of_the_pixels_does(share, follows, error):
    """To a quarter of an ADU beside the rounding, though offsets spread by 40 ADU; stuck pixels between the quarters stay
    behind, wild ones shake it."""
    rng = np.random.default_rng(1)
    frames, shift = shifting(60, shift=0), rng.normal(0, 16, (60, 2))
    for asic in range(2):
        frames[:, *asics(TINY_SHIFTING).part(asic)] += shift[:, asic, None, None]
    broken = rng.random(TINY_SHIFTING.module_shape) < share
    frames[:, broken] = rng.choice([0, 16000, 3000], broken.sum())
    wild = broken & (rng.random(broken.shape) < 0.5)
    frames[:, wild] = rng.uniform(0, 16000, (60, wild.sum()))
    found = common_mode.levels(TINY_SHIFTING, whole(frames), np.arange(60)).astype(float)
    assert np.array([np.polyfit(shift[:, a], found[:, a], 1)[0] for a in range(2)]) == pytest.approx(1, abs=follows)
    assert (found - shift).std(axis=0).max() < error


# ---- laws ------------------------------------------------------------------------------------------------------------------


def draw(seed, n=24):
    """Frames with all kinds of pixels, away from the ends of the range by more than the shifts."""
    rng = np.random.default_rng(seed)
    frames = whole(shifting(n, seed, SMALL, shift=20))
    frames[:, 2, 2] = 3000  # dead
    frames[:, 3, 3] = 16384 + 5  # no data
    frames[rng.random(frames.shape) < 0.02] = 40000
    frames[rng.integers(n), :6, :5] = 50000  # an ASIC without data
    return frames


def fresh():
    return LevelledStats(SMALL.cells, SMALL)


def feed(frames):
    """frames, (n, ss, fs), into cell 1, in blocks as the dark path makes them."""

    def into(stats, indices):
        levels = common_mode.levels(SMALL, frames, np.asarray(indices))
        for part_ in np.array_split(np.arange(len(indices)), -(-len(indices) // BLOCK)) if len(indices) else ():
            out = np.full((BLOCK, 1, *SMALL.module_shape), BLANK, np.uint16)
            for k, i in enumerate(part_):
                stats.take_level(frames[indices[i]], levels[i], 1, BLANK, out[k, 0])
            stacks = tuple(flat(frame) for frame in out)
            stats.add(Block(stacks, np.zeros((1, BLOCK), np.int64), np.array([1])), (0, TOP))
            stats.frames[1] += len(part_)

    return into


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_laws_of_integer_statistics_hold_to_the_bit(seed):
    rng, frames = np.random.default_rng(seed), draw(seed)
    into, order = feed(frames), rng.permutation(len(frames))
    laws.stream_is_batch(fresh, into, len(frames), sorted(rng.integers(0, len(frames), 3).tolist()), 1)
    laws.order_is_free(fresh, into, order, 1)
    laws.shards_are_whole(fresh, into, np.array_split(order, 3), 1)
    a, b, c = fresh(), fresh(), fresh()
    for stats, shard in zip((a, b, c), np.array_split(order, 3)):
        into(stats, shard)
    laws.merge_commutes(a, b, 1)
    laws.merge_associates(a, b, c, 1)
    laws.subtract_undoes_merge(a, b, 1)
    laws.empty_is_neutral(a, fresh(), 1)


def test_moments_like_their_twin():
    frames = draw(5)
    stats, levels = fresh(), common_mode.levels(SMALL, frames, np.arange(len(frames)))
    feed(frames)(stats, np.arange(len(frames)))
    found = stats.moments(1)
    for asic in range(len(asics(SMALL))):
        known = levels[:, asic] != UNKNOWN
        ss, fs = asics(SMALL).part(asic)
        for r in range(ss.start, ss.stop):
            for p in range(fs.start, fs.stop):
                data = known & (frames[:, r, p] <= TOP)
                # the level is that of all frames, also of those in which this pixel is no data
                n, mean, m2 = naive.triple((frames[data, r, p].astype(int) - levels[data, asic]).tolist())
                if n and len(set(frames[data, r, p])) == 1:
                    mean, m2 = float(frames[data, r, p][0]), 0.0
                elif n:
                    mean += levels[known, asic].sum() / known.sum()
                assert (found.count[r, p], found.m2[r, p]) == pytest.approx((n, m2), nan_ok=True, rel=1e-12)
                assert found.mean[r, p] == pytest.approx(mean, nan_ok=True, rel=1e-14)
    assert found.count[:, 5].max() == 0  # between the ASICs


def test_shards_with_other_first_frames_are_the_whole_and_keep_the_mean():
    """Makers, to the bit: their first frames lie 60 ADU apart, and the mean value is what it is without removal."""
    frames = shifting(64, 3)
    frames[0] += 60
    fed = batch(frames)
    one, plain = (maker(TINY_SHIFTING, gate=False, settings=s) for s in (SETTINGS, KEPT))
    one.feed(fed)
    plain.feed(fed)
    shards = [maker(TINY_SHIFTING, gate=False) for _ in range(3)]
    for k, shard in enumerate(shards):
        shard.feed(part(fed, np.arange(k, 64, 3)))
    for shard in (shards[2], shards[0]):
        shards[1].merge(shard)
    assert_same_darks(one, shards[1], cells=[0])
    means = (m.dark[DarkKey(0, VALUES, 0)].moments(0).mean for m in (one, plain))
    np.testing.assert_allclose(*means, atol=1e-9)


def test_values_that_leave_the_range_are_no_data_and_never_wrap():
    frames = shifting(60, 2)
    frames[:, 4, 4], frames[:, 5, 5], frames[:, 6, 6] = 2, TOP, TOP - 140
    frames[::2, 4, 4] = 1  # near 0: stays in the range, since there is headroom
    m = maker(TINY_SHIFTING, gate=False)
    m.feed(batch(frames))
    found = m.dark[DarkKey(0, VALUES, 0)].moments(0)
    assert found.count[4, 4] == 60
    assert 10 < found.std()[4, 4] < 25
    assert found.count[5, 5] == 0
    assert 0 < found.count[6, 6] < 60 or found.std()[6, 6] == 0
    ok = found.count > 0
    assert np.abs(found.mean[ok] - frames.mean(axis=0)[ok]).max() < 5


# ---- what it is good for ---------------------------------------------------------------------------------------------------


PLANTED = {
    (5, 5): "noisy", (40, 20): "noisy", (25, 25): "quiet", (60, 3): "quiet", (10, 20): "dead", (50, 9): "dead",
    (20, 12): "off",
}  # fmt: skip
FACTOR = {"noisy": 2.0, "quiet": 0.25}


def planted(n, shift):
    """Frames with pixels of twice and a quarter of the usual noise of 3 ADU, dead ones, and one that is off."""
    noise = np.full(TINY_SHIFTING.module_shape, 3.0)
    for at, kind in PLANTED.items():
        noise[at] *= FACTOR.get(kind, 1)
    frames = shifting(n, noise=noise, shift=shift)
    for at, kind in PLANTED.items():
        if kind == "dead":
            frames[:, *at] = np.rint(frames[0, *at])
        elif kind == "off":
            frames[:, *at] += 700
    return frames


@pytest.mark.parametrize("shift", [1.0, 3.0, 16.0])
def test_planted_defects_are_found_as_if_there_were_no_common_mode(shift):
    """Noise 3 ADU. A shift as large as the noise is the trap: a dead pixel that follows its ASIC's removal has just that."""
    still, moving = planted(200, 0), planted(200, shift)
    off = structs.replace(KEPT, fit=structs.replace(KEPT.fit, min_frames=100))
    on = structs.replace(off, common_mode=CommonMode())
    found = {}
    for name, frames, how in (("quiet", still, off), ("kept", moving, off), ("removed", moving, on)):
        m = maker(TINY_SHIFTING, settings=how, cells=range(1))
        m.feed(batch(frames))
        edge = TINY_SHIFTING.edge()
        found[name] = {at: flags for at, flags in bad(m).items() if not edge[at]}
    assert found["removed"] == found["quiet"]
    assert found["removed"].keys() == PLANTED.keys()
    assert found["removed"][10, 20] == found["removed"][5, 5] == BadPixel.NOISE
    if shift == 16:
        hidden = {at for at, kind in PLANTED.items() if kind in FACTOR}
        assert not found["kept"].keys() & hidden


def test_noise_without_common_mode_is_that_of_the_pixels():
    m = maker(TINY_SHIFTING, gate=False)
    m.feed(batch(shifting(400)))
    sd = m.dark[DarkKey(0, VALUES, 0)].moments(0).std()
    assert np.median(sd) == pytest.approx((9 + 2 / 12) ** 0.5, rel=0.02)  # noise, and two roundings


def test_pixels_in_another_stage_take_no_part():
    """Freely switching darks: the shift is known in the stage of the frame, where most of its pixels are."""
    fed = batch(shifting(64), DARK)
    fed.gain[::4, 7, 7] = 1
    m = maker(TINY_SHIFTING, gate=False)
    m.feed(fed)
    assert m.dark[DarkKey(0, VALUES, 0)].moments(0).count[7, 7] == 48
    low = m.dark.get(DarkKey(0, VALUES, 1))
    assert low is None or low.moments(0).count.max() == 0
    assert m.dark[DarkKey(0, "indicator", 1)].moments(0).count[7, 7] == 16


def test_f1_judges_the_frame_as_it_came():
    frames = shifting(80)
    frames[70] += 900
    m = maker(TINY_SHIFTING)
    assert m.feed(batch(frames)).rejected["gated"] == 1


def test_a_cell_that_starts_again_forgets_levels_too():
    frames = shifting(60)
    frames[3] += 900  # foreign, on trial
    m, twin = maker(TINY_SHIFTING), maker(TINY_SHIFTING)
    m.feed(batch(frames))
    seen = int(m.dark[DarkKey(0, VALUES, 0)].frames[0])
    assert 0 < seen < 60
    m.darks.end()
    twin.gated = twin.darks.gated = False
    twin.feed(batch(frames[60 - seen :]))
    assert_same_darks(m, twin, cells=[0])


# ---- settings --------------------------------------------------------------------------------------------------------------


def test_who_removes():
    on, off = CommonMode(remove="on"), CommonMode(remove="off")
    assert CommonMode().removed_from(detector("epix10k2m"))
    assert not off.removed_from(detector("epix10k2m"))
    assert not CommonMode().removed_from(TINY)
    assert on.removed_from(TINY)
    for spec in (TINY_CALIBRATED, replace(TINY, bits=16), replace(TINY, counting=True), replace(TINY, sentinels=(7,))):
        with pytest.raises(ConfigError, match=r"common_mode.remove: .* tiny.* is not one"):
            on.removed_from(spec)


def test_a_configuration_that_cannot_remove_is_refused():
    text = '[detector]\nname = "agipd1m"\nbits = 16\n[common_mode]\nremove = "on"\n'
    with pytest.raises(ConfigError, match=r"x.toml: common_mode.remove"):
        parse(text, "x.toml")
    assert Settings().common_mode.remove == "auto"


def test_analogue_gain_and_a_detector_that_is_told_to():
    """AGIPD-like, on by request: the same noise as without shifts."""
    how = structs.replace(SETTINGS, common_mode=CommonMode(remove="on"))
    fed = makers.frames(TINY, 60, DARK0)
    shifts = np.random.default_rng(4).integers(-40, 40, (len(fed), 2))
    plain, removed = maker(TINY, settings=KEPT), maker(TINY, settings=how)
    plain.feed(fed)
    moved = makers.frames(TINY, 60, DARK0)
    for asic in range(2):
        ss, fs = asics(TINY).part(asic)
        moved.pixels[:, ss, fs] += shifts[:, asic, None, None].astype(np.uint16)  # wraps to less
    removed.feed(moved)
    for cell in range(3):
        one, two = (m.dark[DarkKey(0, VALUES, 0)].moments(cell).std() for m in (plain, removed))
        np.testing.assert_allclose(np.median(two), np.median(one), rtol=0.02)
    assert removed.fit(MapKey(0, 0, 1)).flags.any() == plain.fit(MapKey(0, 0, 1)).flags.any()


def test_on_the_maps_of_a_real_module_noise_is_judged_as_if_nothing_had_shifted(shared_data):
    """Pedestal and rms of two ASICs of a JUNGFRAU module, shifted by five times their noise, as ePix10ka does: synthetic."""
    offset, rms = (
        np.fromfile(shared_data / "jungfrau_psi" / f"mod5_{name}.bin", "<f4").reshape(512, 1024)[:256, :512]
        for name in ("pedeG0", "pedeG0_RMS")
    )
    spec = replace(detector("jungfrau05m"), module_shape=(256, 512), remove_common_mode=True)
    rng = np.random.default_rng(11)
    quiet = np.argwhere((np.abs(rms - np.median(rms)) < 0.1 * np.median(rms)) & ~spec.edge())
    places = tuple(quiet[rng.choice(len(quiet), 60, replace=False)].T)
    noise = rms.copy()
    noise[places] *= 2.5
    found = {}
    for name, shift, remove in (("still", 0, "off"), ("kept", 5, "off"), ("removed", 5, "auto")):
        m, rng = maker(spec, settings=Settings(common_mode=CommonMode(remove=remove))), np.random.default_rng(12)
        for first in range(0, 240, 20):
            frames = offset + noise * rng.standard_normal((20, *offset.shape), np.float32)
            frames += np.repeat(shift * np.median(rms) * rng.standard_normal((20, 1, 2)), 256, axis=2).astype(
                np.float32
            )
            fed = makers.frames(spec, 0, DARK0)
            fields = {
                "pixels": whole(frames, spec),
                "gain": np.zeros(frames.shape, np.uint8),
                "cell": np.zeros(20, "u2"),
            }
            ids = np.arange(first, first + 20, dtype="u8")
            m.feed(replace(fed, **fields, train_id=ids, complete=np.ones(20, bool), timestamp=first / 10))
        found[name] = (m.fit(MapKey(0, 0, 0)).flags & np.uint8(BadPixel.NOISE) != 0) & ~spec.edge()
    still, kept, removed = found.values()
    assert still[places].mean() == removed[places].mean() == 1
    assert kept[places].mean() < 0.5
    assert (still != removed).sum() < 0.1 * still.sum(), "those near the cut"
    assert kept.sum() < 0.6 * still.sum()
