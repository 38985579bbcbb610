"""The simulated detector: the same frames for the same seed, defects where and as strong as the truth says."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from rmm_stream.config import Features, Fit, Gate, Lit, Settings
from rmm_stream.detectors import DetectorSpec
from rmm_stream.errors import ConfigError, DataError
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.mask import BadPixel
from rmm_stream.rmm import MaskMaker
from rmm_stream.sources.plan import Plan, Segment, usual_plan
from rmm_stream.sources.portrait import RealMaps, recipe_for
from rmm_stream.sources.scene import KINDS, Planting
from rmm_stream.sources.simulated import SimulatedDetector
from rmm_stream.sources.truth import read_truth, write_truth

ANALOGUE = DetectorSpec(
    name="analogue",
    modules=2,
    module_shape=(128, 128),
    asic_shape=(64, 64),
    cells=2,
    stages=("high", "medium", "low"),
    bits=14,
    saturation=(1 << 14) - 1,
    gain="analogue",
)
CODED = replace(ANALOGUE, name="coded", cells=1, saturation=None, gain="code", gain_codes=(0, 1, 3), packed=2)
COUNTING = DetectorSpec(
    name="counting", modules=1, module_shape=(128, 128), asic_shape=(64, 64), bits=16, saturation=65535, counting=True
)
CALIBRATED = DetectorSpec(name="calibrated", modules=1, module_shape=(64, 64), asic_shape=(64, 64), bits=0)

#: A maker that speaks after 100 frames and judges every train: short runs will do.
QUICK = Settings(
    gate=Gate(learn=20), fit=Fit(min_frames=100), features=Features(lit=Lit(every_train=1, span_frames=512))
)
FLAT = Exposure(Illumination.FLAT)


def detector(spec=ANALOGUE, dark=120, flat=200, sample=0, **options) -> SimulatedDetector:
    options = {"settings": QUICK, "planting": Planting(per_map=30, onset_per_map=15)} | options
    return SimulatedDetector(spec, usual_plan(len(spec.stages), dark, flat, sample), **options)


def rows(table, kind):
    return table[table["kind"] == kind.encode()]


def values(batches, row):
    """All values of the pixel of a row, in order."""
    return np.array([b.pixels[row["cell"], row["ss"], row["fs"]] for b in batches])


# The same for the same seed --------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_frames_and_another_makes_others():
    def frames(seed):
        return list(detector(dark=2, flat=2, seed=seed))

    first, again, other = frames(1), frames(1), frames(2)
    assert len(first) == 3 * 2 + 2
    for a, b, c in zip(first, again, other):
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.gain, b.gain)
        assert not np.array_equal(a.pixels, c.pixels)


def test_a_module_a_range_of_cells_or_a_single_train_is_the_same_alone():
    both = detector(dark=2, flat=2, modules=(0, 1))
    alone = detector(dark=2, flat=2, modules=(1,))
    last = [batches[1] for batches in both.trains()][-1]
    assert np.array_equal(last.pixels, alone.train(1, 8, FLAT, 0.0).pixels)
    of_both = both.defects[(both.defects["module"] == 1)]
    assert np.array_equal(of_both["ss"], alone.defects["ss"])


def test_trains_carry_ids_cells_exposure_and_time():
    plan = usual_plan(3, 2, 1, 1, rate_hz=4.0, first_train=100)
    batches = list(SimulatedDetector(ANALOGUE, plan, start=50.0, planting=Planting(1)))
    assert [int(b.train_id[0]) for b in batches] == list(range(100, 108))
    assert [b.exposure.gain_stage for b in batches] == [0, 0, 1, 1, 2, 2, None, None]
    assert [b.exposure.illumination.value for b in batches[-3:]] == ["dark", "flat", "sample"]
    assert batches[4].timestamp == 51.0
    assert batches[0].cell.tolist() == [0, 1]
    assert batches[0].pixels.dtype == np.uint16
    assert batches[0].gain.shape == batches[0].pixels.shape == (2, 128, 128)


def test_a_plan_without_trains_is_refused():
    with pytest.raises(ConfigError, match="no train"):
        usual_plan(1, 0, 0, 0)
    with pytest.raises(ConfigError, match="at least one"):
        Segment(FLAT, 0)
    with pytest.raises(ConfigError, match="first train 0"):
        Plan((Segment(FLAT, 1),), first_train=0)


# Where defects are -----------------------------------------------------------------------------------------------------


def test_defects_lie_off_the_edges_one_per_map_and_are_all_marked():
    sim = detector()
    table, planted = sim.defects, sim.planted
    assert not sim.spec.edge()[table["ss"], table["fs"]].any()
    places = table[["module", "gain_stage", "cell", "ss", "fs"]]
    assert len(np.unique(places)) == len(table)
    assert planted.shape == (1, 3, 2, 128, 128)
    assert (planted[0, table["gain_stage"], table["cell"], table["ss"], table["fs"]] == 1).all()
    assert np.count_nonzero(planted) == len(table)


def test_every_kind_is_planted_in_every_map_where_it_can_show():
    table = detector().defects
    for kind in KINDS:
        here = rows(table, kind)
        maps = {(int(r["gain_stage"]), int(r["cell"])) for r in here}
        stages = (0,) if kind in ("hot", "cold", "flickering") else (0, 1, 2)
        assert maps == {(stage, cell) for stage in stages for cell in (0, 1)}, kind
    assert (rows(table, "hot")["onset_train"] > 0).sum() == 2 * 15
    assert (rows(table, "offset")["onset_train"] == 0).all()


def test_without_light_or_without_darks_only_what_can_show_is_planted():
    assert set(np.unique(detector(flat=0).defects["kind"])) == {k.encode() for k in KINDS[:6]}
    assert set(np.unique(detector(dark=0).defects["kind"])) == {b"hot", b"cold", b"flickering"}


# How strong they are ---------------------------------------------------------------------------------------------------


def tile_snr(feature, good):
    """A plain SNR: least-squares plane over the good pixels of each 64 x 64 tile, their sd as sigma."""
    out = np.empty_like(feature)
    y, x = np.mgrid[:64, :64]
    terms = np.stack([np.ones(4096), y.ravel(), x.ravel()], axis=1)
    for i in range(0, feature.shape[0], 64):
        for j in range(0, feature.shape[1], 64):
            at = np.s_[i : i + 64, j : j + 64]
            z, g = feature[at].ravel(), good[at].ravel()
            plane = terms @ np.linalg.lstsq(terms[g], z[g], rcond=None)[0]
            out[at] = ((z - plane) / (z - plane)[g].std()).reshape(64, 64)
    return out


@pytest.fixture(scope="module")
def stacks():
    """(detector, dark batches of stage 0, flat batches) of one module."""
    sim = detector(settings=replace_lit(window=200))
    batches = list(sim)
    dark = [b for b in batches if b.exposure == Exposure(Illumination.DARK, 0)]
    return sim, dark, [b for b in batches if b.exposure == FLAT]


def replace_lit(window):
    return Settings(fit=QUICK.fit, features=Features(lit=Lit(every_train=1, span_frames=window)))


@pytest.mark.parametrize(("kind", "tolerance"), [("offset", 0.06), ("noise", 0.12), ("gain_level", 0.06)])
def test_the_snr_of_a_dark_defect_is_what_plain_statistics_measure(stacks, kind, tolerance):
    sim, dark, _ = stacks
    array = {"offset": "pixels", "noise": "pixels", "gain_level": "gain"}[kind]
    for cell in range(2):
        stack = np.stack([getattr(b, array)[cell] for b in dark]).astype(np.float64)
        feature = stack.std(axis=0, ddof=1) if kind == "noise" else stack.mean(axis=0)
        here = rows(sim.defects, kind)
        here = here[(here["gain_stage"] == 0) & (here["cell"] == cell)]
        measured = np.abs(tile_snr(feature, sim.planted[0, 0, cell] == 0)[here["ss"], here["fs"]])
        error = measured - here["snr"]
        # A good pixel scatters by 1 about its model, and the defect's own feature by a share of itself.
        assert np.abs(error).max() < 4 + 4 * tolerance * here["snr"].max()
        assert abs(np.median(measured / here["snr"]) - 1) < tolerance


@pytest.mark.parametrize("kind", ["hot", "cold", "flickering"])
def test_the_snr_of_a_lit_defect_is_what_plain_statistics_measure(stacks, kind):
    sim, dark, flat = stacks
    good = sim.planted[0, 0, 0] == 0
    offset = np.mean([b.pixels[0] for b in dark], axis=0)
    snr = np.stack([tile_snr(b.pixels[0] - offset, good) for b in flat])
    n, beyond = len(snr), np.maximum((snr > 5).sum(axis=0), (snr < -5).sum(axis=0))
    share = np.where(beyond >= 0.02 * n, beyond, 0)  # over the binomial width 1/n of a tile without such frames
    measured = np.maximum(np.abs(tile_snr(snr.mean(axis=0), good)), share)
    here = rows(sim.defects, kind)
    here = here[here["cell"] == 0]
    assert len(here) == 45
    seen = measured[here["ss"], here["fs"]]
    strong = here["snr"] >= 10
    assert strong.sum() >= 30
    assert (seen[strong] > 8).all()
    assert abs(np.median(seen[strong] / here["snr"][strong]) - 1) < 0.08


@pytest.mark.parametrize("spec", [ANALOGUE, CODED, COUNTING], ids=lambda spec: spec.name)
def test_the_maker_finds_what_is_strong_and_leaves_the_good_alone(spec):
    sim = detector(spec)
    maker = MaskMaker(spec, [0], settings=QUICK)
    for batch in sim:
        maker.feed(batch)
    maker.fit_all()
    mask, table = maker.mask(0), sim.defects
    assert mask.judged.all()
    flags = mask.flags[table["gain_stage"], table["cell"], table["ss"], table["fs"]]
    strong = table["snr"] >= 10
    missed = table[strong & (flags & table["expected"] == 0)]
    assert strong.sum() > 300 if spec is not COUNTING else 100
    assert len(missed) <= 0.005 * strong.sum(), missed
    good = (sim.planted[0] == 0) & (mask.flags & BadPixel.EDGE == 0)
    assert np.count_nonzero(mask.flags[good]) == 0


# What a defect does ----------------------------------------------------------------------------------------------------


def test_dead_and_stuck_pixels_never_move_even_with_common_mode():
    sim = detector(dark=5, flat=5, recipe=recipe_for(ANALOGUE, common_mode=20.0))
    of_stage_0 = [b for b in sim if b.exposure.gain_stage in (0, None)]
    for kind in ("dead", "stuck"):
        for row in rows(sim.defects, kind)[:20]:
            if row["gain_stage"] == 0:
                assert len(np.unique(values(of_stage_0, row))) == 1
    stuck = rows(sim.defects, "stuck")[0]
    assert values(of_stage_0, stuck)[0] == (1 << 14) - 1
    good = tuple(np.argwhere(sim.planted[0, 0, 0] == 0)[0])
    assert len({int(b.pixels[0][good]) for b in of_stage_0}) > 1


def test_a_defect_with_an_onset_is_a_good_pixel_before_it():
    sim = detector(dark=1, flat=200)
    flat = [b for b in sim if b.exposure == FLAT]
    quiet = np.median(np.stack([b.pixels[0] for b in flat]), axis=0)
    for row in rows(sim.defects, "hot"):
        onset = int(row["onset_train"])
        if not onset or row["cell"]:
            continue
        assert 1 + 3 + 0.5 * 200 <= onset + 1 <= 1 + 3 + 0.56 * 200
        series = values(flat, row) - quiet[row["ss"], row["fs"]]
        late = np.array([int(b.train_id[0]) >= onset for b in flat])
        rise = series[late].mean() - series[~late].mean()
        assert abs(rise - row["magnitude"]) < 5 * 50 / np.sqrt(90)  # 50 ADU of light noise, 100 frames on each side


def test_flickering_pixels_are_high_in_the_share_of_frames_that_is_written_down():
    sim = detector(dark=1, flat=300)
    flat = np.stack([b.pixels[0] for b in sim if b.exposure == FLAT]).astype(float)
    for row in rows(sim.defects, "flickering"):
        if row["cell"] == 0 and row["onset_train"] == 0:
            series = flat[:, row["ss"], row["fs"]]
            high = (series > np.quantile(series, 0.25) + 0.5 * row["extra"]).mean()
            assert abs(high - row["magnitude"]) < 5 * np.sqrt(row["magnitude"] / 300) + 0.01


def test_photons_are_counted_one_by_one_where_they_are_few():
    recipe = recipe_for(COUNTING, flat_photons=0.5, intensity_spread=0.0)
    sim = detector(COUNTING, dark=1, flat=200, recipe=recipe, planting=Planting(per_map=0))
    flat = np.stack([b.pixels[0] for b in sim if b.exposure.illumination is Illumination.FLAT]).astype(float)
    mean, variance = flat.mean(), flat.var(axis=0).mean()
    assert 0.4 < mean < 0.5
    assert abs(variance / mean - 1) < 0.02


def test_a_sample_has_spots_that_move_and_switch_the_gain_of_their_pixels():
    sim = detector(
        dark=0, flat=0, sample=30, planting=Planting(per_map=0), recipe=recipe_for(ANALOGUE, switch_adu=800.0)
    )
    batches = list(sim)
    switched = [np.argwhere(b.gain > 6000) for b in batches]
    places = np.concatenate([p for p in switched if len(p)])
    assert sum(len(p) > 0 for p in switched) > 5
    assert len(np.unique(places, axis=0)) > 0.9 * len(places)
    frames = np.stack([b.pixels for b in batches])
    assert np.median(frames) < 4500


def test_calibrated_frames_are_floats_without_a_gain():
    batch = next(iter(detector(CALIBRATED, dark=0, flat=2)))
    assert batch.pixels.dtype == np.float32
    assert batch.gain is None


def test_common_mode_moves_whole_asics_from_frame_to_frame():
    sim = detector(dark=40, flat=0, recipe=recipe_for(ANALOGUE, common_mode=15.0), planting=Planting(per_map=0))
    stack = np.stack([b.pixels[0] for b in sim if b.exposure.gain_stage == 0]).astype(float)
    stack -= stack.mean(axis=0)
    means = stack.reshape(40, 2, 64, 2, 64).mean(axis=(2, 4))
    assert 10 < means.std() < 20
    assert abs(np.corrcoef(means[:, 0, 0], means[:, 1, 1])[0, 1]) < 0.5


# Measured maps ---------------------------------------------------------------------------------------------------------


def measured_maps(rng):
    offset = rng.normal(2000, 30, (3, 128, 128)).astype(np.float32)
    rms = rng.normal(10, 0.5, (3, 128, 128)).astype(np.float32)
    offset[:, 70, 70] = 0
    rms[:, 70, 70] = 0
    rms[:, 80, 80] = 90
    return RealMaps(offset, rms)


def test_darks_are_drawn_from_measured_maps_and_their_odd_pixels_are_neither_planted_nor_good(rng):
    maps = measured_maps(rng)
    sim = detector(CODED, dark=60, flat=0, real=maps)
    stack = np.stack([b.pixels[0] for b in sim if b.exposure.gain_stage == 0]).astype(float)
    good = sim.planted[0, 0, 0] == 0
    assert np.abs(stack.mean(axis=0) - maps.offset[0])[good].max() < 6 * 10 / np.sqrt(60) * 1.3
    assert np.median(stack.std(axis=0)[good]) == pytest.approx(10, rel=0.03)
    assert (stack[:, 70, 70] == 0).all()
    assert (sim.planted[0, :, 0, [70, 80], [70, 80]] == 2).all()
    assert not ((sim.defects["ss"] == 80) & (sim.defects["fs"] == 80)).any()


def test_measured_maps_of_another_shape_or_with_nan_are_refused(rng):
    maps = measured_maps(rng)
    with pytest.raises(DataError, match=r"offset map of shape \(64, 64\)"):
        detector(CODED, real=RealMaps(maps.offset[0, :64, :64], maps.rms))
    broken = maps.rms.copy()
    broken[0, 1, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        detector(CODED, real=RealMaps(maps.offset, broken))


# The truth -------------------------------------------------------------------------------------------------------------


def test_the_truth_file_holds_what_was_planted(tmp_path):
    sim = detector(modules=(0, 1))
    write_truth(tmp_path / "truth.h5", sim)
    truth = read_truth(tmp_path / "truth.h5")
    assert np.array_equal(truth.planted, sim.planted)
    assert truth.defects.tobytes() == sim.defects.tobytes()
    assert (truth.modules, truth.cells, truth.detector) == ((0, 1), (0, 1), "analogue")


#: Writes the truth where no file may grow beyond a page, which is how a full disk looks from inside, then without.
FULL_DISK = """
    import json, resource, sys
    from rmm_stream.detectors import DetectorSpec
    from rmm_stream.sources.plan import usual_plan
    from rmm_stream.sources.simulated import SimulatedDetector
    from rmm_stream.sources.truth import read_truth, write_truth

    spec = DetectorSpec("small", 1, (64, 64), (64, 64), bits=14)
    sim = SimulatedDetector(spec, usual_plan(1, 1, 1, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    told = []
    for _ in range(3):
        try:
            write_truth(sys.argv[1], sim)
        except OSError as e:
            told.append(e.strerror)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    write_truth(sys.argv[1], sim)
    print(json.dumps([told, read_truth(sys.argv[1]).detector]))
"""


def test_a_full_disk_is_an_error_that_the_program_survives(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "truth.h5")],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["File too large"] * 3, "small"]


def test_another_file_is_not_taken_for_the_truth(tmp_path):
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["mask"] = np.zeros(3)
    with pytest.raises(DataError, match="not a truth file"):
        read_truth(tmp_path / "mask.h5")
