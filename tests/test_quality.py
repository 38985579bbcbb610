"""The quality benchmark: what its simulation says is true, its rules count what they claim, and it runs to the end."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image

from tests.bench.quality import __main__ as command
from tests.bench.quality import crystal, environment, offline, peaks, table
from tests.bench.quality.beam import ADU_PER_PHOTON, SATURATION, SPEC, Beam
from tests.bench.quality.cheetah import HotPixels
from tests.bench.quality.contenders import MEAN_STD, NO_MASK, OURS, TRUTH, Truth, contenders
from tests.bench.quality.defects import ALWAYS, GROUPS, NEVER, STRONG, TABLE, WEAK, Defects
from tests.bench.quality.picture import draw
from tests.bench.quality.race import race
from tests.bench.quality.rest import flagged, resting
from tests.bench.quality.score import Score
from tests.bench.quality.serial import COMMON_MODE, HIT_RATE, Frame, Run, batch

QUIET = Run(share=0.0, hit_rate=0.0)


# ---- the crystal -----------------------------------------------------------------------------------------------------


def test_spots_lie_on_a_reciprocal_lattice():
    """From the place of a spot and the Ewald sphere back to indices: whole numbers, but for the thickness of the points."""
    rng = np.random.default_rng(5)
    made = crystal.random_crystal(rng)
    np.testing.assert_allclose(made.rotation @ made.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(made.rotation) == pytest.approx(1)
    spots = crystal.diffract(made, SPEC.module_shape)
    assert len(spots.photons) > 50
    x = (spots.fs - crystal.CENTRE[1]) * crystal.PIXEL
    y = (spots.ss - crystal.CENTRE[0]) * crystal.PIXEL
    out = np.stack([x, y, np.full_like(x, crystal.DISTANCE)], 1)
    s = out / np.linalg.norm(out, axis=1, keepdims=True) / crystal.WAVELENGTH - [0, 0, 1 / crystal.WAVELENGTH]
    indices = s @ made.rotation * crystal.CELL
    assert np.abs(indices - spots.hkl).max() < 5 * crystal.WIDTH * max(crystal.CELL)
    assert np.median(np.abs(indices - spots.hkl)) < 0.06


def test_intensities_are_those_of_wilson_and_of_a_tetragonal_crystal():
    hkl, points, intensity = crystal.reflections()
    q2 = (points**2).sum(1)
    whole = intensity * np.exp(crystal.WILSON_B * q2 / 2)
    distinct = (hkl >= 0).all(1) & (hkl[:, 0] >= hkl[:, 1])
    assert whole[distinct].mean() == pytest.approx(1, abs=0.03)
    assert np.mean(whole[distinct] > 1) == pytest.approx(np.exp(-1), abs=0.02)  # acentric
    found = {tuple(i): v for i, v in zip(hkl.tolist(), intensity)}
    assert found[3, 7, 2] == found[7, 3, 2] == found[-3, 7, -2] == found[-7, -3, 2]


def test_painted_spots_keep_their_photons_and_are_a_pixel_or_two_wide():
    spots = crystal.Spots(
        np.array([50.2, 90.0]), np.array([60.7, 33.5]), np.array([100.0, 40.0]), np.zeros((2, 3), int)
    )
    light = crystal.paint(spots, SPEC.module_shape)
    assert light.sum() == pytest.approx(140)
    at = np.argwhere(light > 0)
    here = at[at[:, 0] < 70]
    weights = light[tuple(here.T)]
    assert np.average(here, axis=0, weights=weights) == pytest.approx([50.2, 60.7], abs=0.03)
    width = np.sqrt(np.average((here - [50.2, 60.7]) ** 2, axis=0, weights=weights))
    assert width == pytest.approx([crystal.SPOT] * 2, abs=0.05)


def test_a_quarter_of_the_frames_are_hits():
    run = Run()
    hits = [run.is_hit(number) for number in range(4000)]
    assert np.mean(hits) == pytest.approx(HIT_RATE, abs=4 * np.sqrt(HIT_RATE * (1 - HIT_RATE) / 4000))
    for number in range(12):
        frame = run.frame(number)
        assert frame.hit == hits[number] == (frame.spots is not None)
        assert (len(frame.spot_pixels) > 0) <= frame.hit


# ---- the module ------------------------------------------------------------------------------------------------------


def test_frames_follow_from_seed_and_number_alone():
    a, b = Run(frames=50), Run(frames=50)
    b.frame(7)
    b.dark(1)
    np.testing.assert_array_equal(a.frame(3).pixels, b.frame(3).pixels)
    np.testing.assert_array_equal(a.dark(3).pixels, b.dark(3).pixels)
    assert not np.array_equal(a.frame(3).pixels, a.frame(4).pixels)


def test_common_mode_shifts_whole_asics_from_frame_to_frame():
    darks = np.array([QUIET.dark(number).pixels for number in range(80)], float)
    each = (darks - darks.mean(0)).reshape(80, 6, 64, 4, 64).mean((2, 4))
    assert each.std() == pytest.approx(COMMON_MODE, rel=0.05)
    assert np.abs(np.corrcoef(each[:, 0, 0], each[:, 3, 2])[0, 1]) < 0.35


def test_light_has_the_mean_and_the_spread_of_photons():
    beam = Beam(ring=True, streak=False, stop=True)
    run = Run(share=0.0, hit_rate=0.0, beam=beam)
    frames = np.array([run.frame(number).pixels for number in range(150)]) - run.good.offset
    photons = frames.mean(0) / ADU_PER_PHOTON
    ring = (np.abs(beam.q - 1.95) < 0.05) & ~SPEC.edge()
    assert photons[ring].mean() == pytest.approx(beam.typical[ring].mean(), rel=0.06)
    behind = beam.passes < 0.05
    assert photons[behind].mean() < 0.2
    neighbours = (frames[:, 64:128, 128:190] - frames[:, 64:128, 129:191]) / np.sqrt(
        2
    )  # level and common mode drop out
    light = beam.typical[64:128, 128:190].mean()
    assert neighbours.std() == pytest.approx(np.sqrt(12.0**2 + ADU_PER_PHOTON**2 * light + 12.0**2), rel=0.05)


# ---- the truth -------------------------------------------------------------------------------------------------------


def test_planted_strengths_are_as_announced():
    run = Run()
    truth = run.defects.table
    weak, strong = truth[~truth["strong"]], truth[truth["strong"]]
    drawn = weak[~np.isin(weak["kind"], [b"cold", b"dying"])]  # those too dim to be strong count as weak
    assert (drawn["snr"] >= WEAK[0] * 0.99).all()
    assert (drawn["snr"] <= WEAK[1] + 0.01).all()
    assert (strong["snr"][(strong["when"] == b"start") & (strong["kind"] != b"pair")] >= STRONG[0] - 0.01).all()
    places = {(row["ss"], row["fs"]) for row in truth}
    assert len(places) == len(truth)
    assert not SPEC.edge()[truth["ss"], truth["fs"]].any()
    assert not run.beam.shadow[truth["ss"], truth["fs"]].any()
    onset = truth[truth["when"] == b"onset"]
    assert ((onset["begins"] > 400) & (onset["ends"] == NEVER)).all()
    recovery = truth[truth["when"] == b"recovery"]
    assert ((recovery["begins"] == ALWAYS) & (recovery["ends"] < 2000)).all()
    pairs = truth[truth["kind"] == b"pair"]
    assert (np.diff(pairs["fs"].reshape(-1, 2)) == 1).all()


def test_defects_read_as_they_were_planned():
    run = Run(frames=400)
    truth, at = run.defects.table, (run.defects.table["ss"], run.defects.table["fs"])
    darks = np.array([run.dark(number).pixels[at] for number in range(120)], float)
    dark_only = truth.copy()
    dark_only["magnitude"][run.defects.kinds["bright"]] = 0.0
    bare = dataclasses.replace(run, planted=Defects(dark_only, run.shape))  # else alike, photon by photon
    lit, plain = (np.array([r.frame(n).pixels[at] for n in range(250, 400)], float) for r in (run, bare))
    of = {
        kind: truth["kind"] == kind.encode()
        for kind in ["offset", "noise", "dead", "stuck", "hot", "cold", "flickering", "dying"]
    }
    good = run.good.offset[at]
    np.testing.assert_allclose((darks.mean(0) - good)[of["offset"]], truth["magnitude"][of["offset"]], atol=15)
    np.testing.assert_allclose(
        np.sqrt(darks.var(0)[of["noise"]] - COMMON_MODE**2), truth["magnitude"][of["noise"]], rtol=0.5
    )
    assert (np.ptp(darks[:, of["dead"]], axis=0) == 0).all()
    assert (np.ptp(lit[:, of["dead"] | of["stuck"]], axis=0) == 0).all()
    assert (darks[0, of["stuck"]] == np.rint(truth["magnitude"][of["stuck"]])).all()
    there = truth["ends"] == NEVER
    shift = lit - plain
    hot = of["hot"] & there & (truth["begins"] < 250)
    full = (plain + truth["magnitude"] < SATURATION).all(0)
    np.testing.assert_allclose(np.median(shift, 0)[hot & full], truth["magnitude"][hot & full], atol=1)
    assert (hot & full).sum() > 60
    gone = of["hot"] & (truth["ends"] <= 250)
    assert gone.any()
    assert (shift[:, gone] == 0).all()
    flickering = of["flickering"] & there & (truth["begins"] < 250)
    np.testing.assert_allclose((shift != 0).mean(0)[flickering], truth["share"][flickering], atol=0.2)
    dying = of["dying"] & there & (truth["begins"] < 250)
    assert (lit[:, dying].mean(0) - good[dying] < 12).all()
    expected = ADU_PER_PHOTON * run.beam.typical[at] * truth["magnitude"]
    np.testing.assert_allclose((lit.mean(0) - good)[of["cold"]], expected[of["cold"]], rtol=0.3, atol=20)


# ---- the rules -------------------------------------------------------------------------------------------------------


def test_cheetahs_rule_is_that_of_its_definition():
    rng = np.random.default_rng(3)
    frames = rng.normal(0, 60, (120, 4, 5))
    frames[30:, 1, 2] = -500.0
    rule, memory, every = HotPixels((4, 5), adc=100.0, frequency=0.9, memory=20, every=10), 20, 10
    for t, frame in enumerate(frames):
        decided = rule.feed(frame)
        assert decided == (t + 1 >= memory and (t + 1) % every == 0)
        if decided:
            share = (np.abs(frames[t + 1 - memory : t + 1]) > 100.0).mean(0)
            np.testing.assert_array_equal(rule.mask, share >= 0.9)
    assert rule.mask[1, 2]
    for frame in frames[:20]:
        rule.feed(frame)
    assert not rule.mask[1, 2], "cleared at a recalculation, too"


def truth_of(*rows: tuple) -> Defects:
    """kind, strong, when, ss, fs, begins, ends."""
    table = np.zeros(len(rows), TABLE)
    for out, row in zip(table, rows):
        for name, value in zip(TABLE.names, row):
            out[name] = value
    return Defects(table, SPEC.module_shape)


def test_a_score_counts_what_it_says():
    defects = truth_of(
        (b"hot", True, b"onset", 10, 10, 5, NEVER), (b"hot", True, b"recovery", 20, 20, ALWAYS, 8),
        (b"hot", False, b"start", 30, 30, ALWAYS, NEVER),
    )  # fmt: skip
    shadow = np.zeros(SPEC.module_shape, bool)
    shadow[40, 40] = True
    score = Score("x", defects, shadow, learn=2)
    masks = [SPEC.edge() for _ in range(20)]
    for number, mask in enumerate(masks):
        mask[10, 10] = number >= 9
        mask[20, 20] = number < 15
        mask[40, 40] = mask[41, 41] = number in (6, 7, 19)
    spots = np.ravel_multi_index(([10, 20, 41, 50], [10, 20, 41, 50]), SPEC.module_shape)
    for number, mask in enumerate(masks):
        score.follow(number, mask, spots if number in (6, 12) else spots[:0])
    assert score.found("onset", True) == (1, 1)
    assert score.found("start", False) == (0, 1)
    assert score.found("recovery", True, "hot") == (1, 1)
    assert score.delays().tolist() == [4]
    assert score.release_delays().tolist() == [7]
    assert score.released_of() == (1, 1)
    assert (score.false, score.false_shadow, score.false_most) == (1, 1, 1)
    # frame 6: of four spot pixels two are defective, one of the two good ones is masked; 12: one is defective, one still masked
    assert (score.spot_pixels, score.spot_pixels_lost, score.spot_pixels_waiting) == (2 + 3, 1, 1)
    assert score.found_over_time[4:10] == [1, 1, 1, 1, 0, 1]


def test_peaks_and_hits_are_counted_against_truth_and_reference():
    empty = truth_of()
    mine, reference = (Score(name, empty, np.zeros(SPEC.module_shape, bool), 0) for name in "ab")
    true = np.array([[10.0, 10], [30, 30]])
    near = np.array([[11.0, 10], [30, 30], [50, 50]])
    mine.note_peaks(0, True, near, true, 2.5)
    mine.note_peaks(1, True, near[:1], true, 2.5)
    mine.note_peaks(2, False, near, true[:0], 2.5)
    mine.note_peaks(3, False, near[:0], true[:0], 2.5)
    for number, hit in ((0, True), (1, True), (2, False), (3, False)):
        reference.note_peaks(number, hit, near[: 3 if hit else 0], true if hit else true[:0], 2.5)
    assert [row[3] for row in mine.peaks] == [1, 0, 3, 0]
    assert mine.false_peaks() == 1.0
    assert mine.false_hits(3) == 0.5
    assert mine.hits_lost(3, reference) == 1
    assert reference.false_hits(3) == 0.0


def test_a_bar_that_could_not_be_measured_is_not_met():
    assert not table.Bar("x", float("nan"), 1.0, True).met
    assert not table.Bar("x", 1.0, float("nan"), False).met
    assert table.Bar("x", 1.0, 1.0, True).met
    assert "not measured" in list(table.bar_lines([table.Bar("x", float("nan"), 1.0, True)]))[1]


# ---- all of it, small ------------------------------------------------------------------------------------------------


def test_a_small_race_ends_with_a_table_and_a_picture(tmp_path):
    run = Run(darks=210, frames=260, share=0.2)
    darks = offline.darks_of(run)
    rows = contenders(run, darks, with_library=False)
    outcome = race(run, darks, rows, None, learn=100)
    scores = outcome.scores
    assert scores[TRUTH].found("start", True)[0] == scores[TRUTH].found("start", True)[1]
    assert scores[TRUTH].false == scores[TRUTH].false_shadow == scores[TRUTH].spot_pixels_lost == 0
    assert scores[NO_MASK].found("start", True)[0] == 0
    assert scores[MEAN_STD].found("start", True)[0] < scores[OURS].found("start", True)[0]
    strong, planted = scores[OURS].found("start", True)
    assert strong > 0.8 * planted
    assert scores[OURS].false <= 5
    shown = [table.row_of(score, scores[TRUTH]) for score in scores.values()]
    assert len({len(line) for line in table.lines(shown)}) == 1
    missed = {bar.name for bar in table.bars(scores) if not bar.met}
    assert any("paper" in name for name in missed), "without the library those bars are not met"
    assert sum("0/" not in str(row[TRUTH])[:2] for row in table.by_kind(list(scores.values()))) > 10
    draw(run, outcome).save(tmp_path / "run.png")
    with Image.open(tmp_path / "run.png") as picture:
        assert picture.size[0] > 1000


def test_the_command_says_that_there_is_no_peak_finder(tmp_path, monkeypatch, capsys):
    def broken():
        raise environment.NoPeakFinder("no wheel")

    monkeypatch.setattr(command, "build", broken)
    words = ["quality", "--frames", "12", "--no-library", "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(command, "Run", lambda seed, frames: Run(seed, darks=20, frames=frames, share=0.1))
    assert command.main() == 1
    told = capsys.readouterr()
    assert "no peak finder" in told.err
    assert "no wheel" in told.err
    assert "not measured" in told.out
    facts = json.loads((tmp_path / "found.json").read_text())
    assert {"table", "kinds", "bars"} == set(facts)


def test_a_resting_crystal_keeps_its_spots_and_its_pixels():
    run, spots, distances = resting(1, 220)
    assert spots.sum() > 50
    assert set(distances.tolist()) == {1, 2, 3, 4}
    means = np.mean([run.frame(number).pixels - run.good.offset for number in range(20)], 0) / ADU_PER_PHOTON
    assert np.median(means[spots]) > 5
    short = dataclasses.replace(QUIET, darks=210, frames=230, beam=Beam(ring=False, streak=False, stop=True))
    ever, _ = flagged(short, learn=0)
    assert ever.sum() <= 2, "the shadow of the beam stop alone is no defect"


def test_the_real_peak_finder_finds_what_is_there_and_a_mask_takes_it_away():
    python = environment.python()
    if python is None:
        pytest.skip("needs psana's peak finder: python -m tests.bench.quality.environment")
    rng = np.random.default_rng(0)
    frame = rng.normal(120, 20, SPEC.module_shape).astype(np.float32)
    at = [(70, 90), (100, 200), (300, 30), (330, 220)]
    for ss, fs in at:
        frame[ss : ss + 2, fs : fs + 2] += 3000
    bad = np.zeros((2, *frame.shape), bool)
    bad[1, 100:102, 200:202] = True
    with peaks.PeakFinder(python, Beam()) as finder:
        free, masked = finder(frame, list(bad))
        again, _ = finder(frame, list(bad))
    np.testing.assert_allclose(sorted(free.tolist()), np.add(sorted(at), 0.5), atol=0.3)
    assert len(masked) == 3
    np.testing.assert_array_equal(free, again)


def test_truth_is_told_before_the_frame_in_which_it_begins():
    run = Run(frames=40, share=0.2)
    row = Truth(TRUTH, run)
    for number in range(40):
        np.testing.assert_array_equal(row.mask, SPEC.edge() | run.defects.mask(number))
        row.see(Frame(number, np.empty(0), False, None, np.empty(0, np.int64)), np.empty(0))


def test_batches_go_on_from_darks_to_sample():
    run = Run(darks=3, frames=2, share=0.0)
    trains = [batch(run.dark(n), 3).train_id[0] for n in range(3)] + [
        batch(run.frame(n), 3).train_id[0] for n in range(2)
    ]
    assert trains == [0, 1, 2, 3, 4]
    assert set(GROUPS) == {"offset", "noise", "dead", "stuck", "dim", "bright"}
