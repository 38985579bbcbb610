import json
import os
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import h5py
import numpy as np
import pytest
from builders import TINY_SECTION

from rmm_stream.batch import Input, Job, accumulate, frames_to_read, make_masks
from rmm_stream.cli.main import main
from rmm_stream.config import Features, Fit, Lit, Settings
from rmm_stream.errors import ConfigError, DataError
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.mask import BadPixel
from rmm_stream.rmm import MaskMaker
from rmm_stream.shard import Shard
from rmm_stream.sources.frame_stack import Location, inspect
from rmm_stream.sources.hdf5 import frames
from rmm_stream.storage.mask_file import read_mask

SETTINGS = Settings(fit=Fit(min_frames=24), features=Features(lit=Lit(every_train=1)))
FRAMES = 36  # per cell
HIGH_OFFSET, NOISY, HIGH_LEVEL, DIM = (10, 10), (40, 20), (20, 8), (50, 12)

TINY_TOML = (
    TINY_SECTION
    + """

[fit]
min_frames = 24

[features.lit]
every_train = 1
"""
)


def draw(spec, rng, offset, level, photons=0.0):
    """(n, modules, 2, ss, fs) uint16: value and indicator of FRAMES frames of each cell, one defect of each kind."""
    shape = (FRAMES * spec.cells, spec.modules, *spec.module_shape)
    noise = np.full(spec.module_shape, 6.0)
    noise[NOISY] = 40
    value = rng.normal(offset, noise, shape)
    value[:, 0, *HIGH_OFFSET] += 100
    response = np.ones(spec.module_shape)
    response[DIM] = 0.2
    value += rng.poisson(photons, shape) * 8 * response if photons else 0
    indicator = rng.normal(level, 8, shape)
    indicator[:, 1, *HIGH_LEVEL] += 200
    return np.rint(np.stack([value, indicator], axis=2)).astype(np.uint16)


@pytest.fixture
def run(tmp_path, tiny, rng):
    """Files of darks of both stages and of flats: (FRAMES * cells) frames of both modules each."""
    for name, offset, level, photons in (("high", 4000, 5000, 0), ("low", 3000, 7000, 0), ("flat", 4000, 5000, 20.0)):
        data = draw(tiny, rng, offset, level, photons)
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["image/data"] = data
            file["image/cellId"] = np.tile(np.arange(tiny.cells, dtype="u2"), FRAMES)
            file["image/trainId"] = np.repeat(np.arange(1000, 1000 + FRAMES, dtype="u8"), tiny.cells)
    (tmp_path / "tiny.toml").write_text(TINY_TOML)
    return tmp_path


@pytest.fixture
def inputs(run, tiny):
    def given(name, illumination, stage):
        return Input(inspect(Location(str(run / f"{name}.h5")), tiny), Exposure(illumination, stage))

    return [  # lit before dark, to show that the order in which they are given does not matter
        given("flat", Illumination.FLAT, 0),
        given("high", Illumination.DARK, 0),
        given("low", Illumination.DARK, 1),
    ]


def same(masks, others):
    return len(masks) == len(others) and all(
        a.module == b.module
        and a.flags.tobytes() == b.flags.tobytes()
        and a.judged.tobytes() == b.judged.tobytes()
        and np.array_equal(a.frames, b.frames)
        and a.train_id == b.train_id
        for a, b in zip(masks, others)
    )


def test_planted_defects_are_found_and_good_pixels_are_not_flagged(tiny, inputs):
    made = make_masks(tiny, SETTINGS, inputs, [0, 1])
    first, second = made.masks
    assert (first.flags[:, :, *HIGH_OFFSET] == BadPixel.OFFSET).all()
    assert (first.flags[:, :, *NOISY] & BadPixel.NOISE).all()
    assert (second.flags[:, :, *HIGH_LEVEL] & BadPixel.GAIN_LEVEL).all()
    assert (first.flags[0, :, *DIM] == BadPixel.LIT_SNR).all()
    assert (first.flags[1, :, *DIM] == 0).all()
    for mask in made.masks:
        planted = np.zeros(tiny.module_shape, bool)
        planted[tuple(zip(HIGH_OFFSET, NOISY, HIGH_LEVEL, DIM))] = True
        good = ~planted & ~tiny.edge()
        assert not mask.flags[:, :, good].any()
        assert (mask.flags[:, :, tiny.edge()] == BadPixel.EDGE).all()
        assert (mask.judged[0] & BadPixel.LIT_SNR).all()
        assert mask.train_id == 1000 + FRAMES - 1
    assert made.accepted == 3 * 2 * 3 * FRAMES
    assert not made.rejected


def test_statistics_and_masks_are_those_of_a_maker_that_is_fed_live(tiny, inputs):
    """The same frames in messages of another size; the gate, on, lets all of them through."""
    live = MaskMaker(tiny, [1], settings=SETTINGS)
    for given in (inputs[1], inputs[2], inputs[0]):
        for batch in frames(given.stack, tiny, 1, given.exposure, piece_bytes=12 << 12):
            assert not live.feed(batch).rejected
    live.fit_all()
    batch = accumulate(Job(tiny, SETTINGS, tuple(inputs), Shard(1, 0, 2))).maker
    assert batch.dark.keys() == live.dark.keys()
    assert len(batch.dark) == 4
    for key, stats in batch.dark.items():
        for cell in range(tiny.cells):
            for ours, theirs in zip(stats.moments(cell), live.dark[key].moments(cell)):
                assert ours.tobytes() == theirs.tobytes()
    assert batch.lit.keys() == live.lit.keys()
    for key, stats in batch.lit.items():
        for cell in range(tiny.cells):
            for ours, theirs in zip(stats.window(cell, 0.0), live.lit[key].window(cell, 0.0)):
                np.testing.assert_array_equal(ours, theirs)
    mask, made = live.mask(1), make_masks(tiny, SETTINGS, inputs, [1]).masks[0]
    np.testing.assert_array_equal(mask.flags, made.flags)
    np.testing.assert_array_equal(mask.judged, made.judged)
    np.testing.assert_array_equal(mask.frames, made.frames)


def test_foreign_darks_are_left_out_by_the_first_pass(run, tiny, inputs):
    """F1 judges all frames of a cell against each other: even the first ones, which live lets through on trial."""
    before = make_masks(tiny, SETTINGS, inputs, [0]).masks[0]
    with h5py.File(run / "high.h5", "r+") as file:
        file["image/data"][:3, 0, 0] += 500  # one train of three cells, in module 0 alone
        file["image/data"][60:63, 0, 0] += 500  # another, which will be in the second of two parts
    flat, high, low = inputs
    parts = [replace(high, stack=replace(high.stack, first=a, last=b)) for a, b in ((0, 54), (54, len(high.stack)))]
    made = make_masks(tiny, SETTINGS, [flat, *parts, low], [0, 1])
    assert made.rejected == {"gated": 6}
    assert made.masks[0].frames[0].tolist() == [n - 2 for n in before.frames[0].tolist()]
    np.testing.assert_array_equal(made.masks[0].flags, before.flags)


@pytest.mark.parametrize("cells_per_job", [1, 2])
def test_shards_join_to_the_whole(tiny, inputs, cells_per_job):
    whole = make_masks(tiny, SETTINGS, inputs, [0, 1])
    parts = make_masks(tiny, SETTINGS, inputs, [0, 1], cells_per_job=cells_per_job)
    assert same(whole.masks, parts.masks)
    assert whole.accepted == parts.accepted


def test_any_executor_gives_the_same_bytes(tiny, inputs):
    alone = make_masks(tiny, SETTINGS, inputs, [0, 1], cells_per_job=2).masks
    with ThreadPoolExecutor(2) as threads:
        assert same(alone, make_masks(tiny, SETTINGS, inputs, [0, 1], executor=threads, cells_per_job=2).masks)
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        assert same(alone, make_masks(tiny, SETTINGS, inputs, [0, 1], executor=processes, cells_per_job=2).masks)


def test_a_range_of_cells_is_the_same_part_of_the_whole(tiny, inputs):
    whole = make_masks(tiny, SETTINGS, inputs, [0]).masks[0]
    part = make_masks(tiny, SETTINGS, inputs, [0], range(1, 3)).masks[0]
    np.testing.assert_array_equal(part.flags, whole.flags[:, 1:])


def test_a_static_mask_takes_no_part_in_fits_and_is_user(tiny, inputs):
    static = np.zeros(tiny.module_shape, bool)
    static[5:9, 5:9] = True
    mask = make_masks(tiny, SETTINGS, inputs, [0], static={0: static}).masks[0]
    assert (mask.flags[:, :, 5:9, 5:9] == BadPixel.USER).all()
    assert not mask.flags[:, :, 9, 5:9].any()
    static[1:31, 1:21] = True  # two thirds of a tile: too few pixels are left to say what is normal there
    mask = make_masks(tiny, SETTINGS, inputs, [0], static={0: static}).masks[0]
    assert (mask.flags[:, :, 1:31, 22:31] == BadPixel.NO_DATA).all()
    assert not mask.flags[:, :, 33:40, 1:31].any()


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_progress_grows_to_all_frames_of_both_passes(tiny, inputs, executor):
    seen = []
    pool = executor(1) if executor else None
    make_masks(tiny, SETTINGS, inputs, [0, 1], None, pool, seen.append, cells_per_job=2)
    if pool:
        pool.shutdown()
    total = 2 * 5 * 3 * FRAMES  # modules x (two darks twice, a flat once) x cells
    assert seen == sorted(seen)
    assert seen[-1] == total == frames_to_read(tiny, inputs, [0, 1], range(3))
    assert len(seen) > 3


def test_a_module_without_frames_is_refused(tiny, inputs):
    with pytest.raises(ConfigError, match="no input has frames of module 7"):
        make_masks(tiny, SETTINGS, inputs, [7])


def test_a_file_that_is_damaged_meanwhile_ends_the_run(run, tiny, inputs):
    os.truncate(run / "low.h5", 4096)
    with ThreadPoolExecutor(1) as pool, pytest.raises(DataError, match="low"):
        make_masks(tiny, SETTINGS, inputs, [0], executor=pool, cells_per_job=1)


# ---- the command ---------------------------------------------------------------------------------------------------


def command(run, *more):
    darks = ["--dark", f"high={run}/high.h5", f"1={run}/low.h5"]
    return main(["batch", f"{run}/tiny.toml", *darks, "--flat", f"high={run}/flat.h5", "-o", f"{run}/mask.h5", *more])


def test_the_command_writes_what_the_function_makes(run, tiny, inputs, capsys):
    assert command(run, "--json", "--jobs", "1", "--plot", f"{run}/mask.png") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["frames"] == {"accepted": 3 * 2 * 3 * FRAMES, "not_sampled": 0, "rejected": {}}
    assert found["features"]["offset"] == 12
    assert found["features"]["lit_snr"] == 6
    assert found["maps"] == {"judged": 12, "all": 12}
    assert found["reasons"]["gain_level"] == 1
    assert found["reasons"]["edge"] == 2 * int(tiny.edge().sum())
    file = read_mask(run / "mask.h5")
    assert same(file.masks, make_masks(tiny, SETTINGS, inputs, [0, 1]).masks)
    assert file.provenance.settings_digest == found["settings_digest"]
    assert (run / "mask.png").read_bytes().startswith(b"\x89PNG")


def test_two_processes_write_the_same_mask_as_one(run, capsys):
    contents = []
    for jobs in ("1", "2"):
        assert command(run, "--jobs", jobs) == 0
        with h5py.File(run / "mask.h5") as file:
            contents.append({name: data[()].tobytes() for name, data in file.items()})
    assert contents[0] == contents[1]
    assert "12 of 12 judged" in capsys.readouterr().out


def test_one_module_of_a_file_pattern(run, capsys):
    dark = ["--dark", f"0={run}/hi*.h5", "--module", "1", "--jobs", "1"]
    assert main(["batch", f"{run}/tiny.toml", *dark, "-o", f"{run}/m.h5"]) == 0
    assert "module 1, cells 0 to 2" in capsys.readouterr().out
    file = read_mask(run / "m.h5")
    assert [mask.module for mask in file.masks] == [1]
    assert (file.masks[0].judged[1] == 0).all()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--dark", "{run}/high.h5"], 2, "which detector?"),
        (["--detector", "agipd2m", "--dark", "{run}/high.h5"], 2, "not a known detector (agipd1m, "),
        (["{run}/tiny.toml"], 2, "give --dark FILE, --flat FILE or --sample FILE"),
        (["{run}/tiny.toml", "--dark", "absent.h5"], 2, "absent.h5: no such file"),
        (["{run}/tiny.toml", "--dark", "absent*.h5"], 2, "absent*.h5: no file matches"),
        (["{run}/tiny.toml", "--dark", "mid={run}/high.h5"], 2, "gain stage 'mid': tiny has high or 0, low or 1"),
        (["{run}/tiny.toml", "--dark", "high={run}/tiny.toml"], 2, "tiny.toml: not an HDF5 file"),
        (
            ["{run}/tiny.toml", "--dark", "high={run}/high.h5[a:b]"],
            2,
            "the range [a:b] is not of the form [first:last]",
        ),
        (["{run}/tiny.toml", "--dark", "high={run}/high.h5:image/cellId"], 2, "tiny needs (frames, 64, 32)"),
        (["{run}/tiny.toml", "--dark", "high={run}/high.h5[0:30]"], 1, "no map has the 24 frames that it needs"),
        (["{run}/tiny.toml", "--dark", "high={run}/high.h5", "--module", "2"], 2, "tiny has modules 0 to 1"),
        (["{run}/tiny.toml", "--dark", "high={run}/high.h5", "--jobs", "0"], 2, "--jobs 0: 1 or more"),
        (["{run}/tiny.toml", "--dark", "x.h5", "--scheduler", "tcp://h:1"], 2, "rmm-stream[cluster]"),
        (["{run}/tiny.toml", "--dark", "high={run}/high.h5", "--plot", "/no/such/a.png"], 2, "no directory /no/such"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(run, capsys, words, code, line):
    assert main(["batch", "-o", f"{run}/out.h5", "--jobs", "1", *(word.format(run=run) for word in words)]) == code
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("frames: ")]  # the progress
    assert len(said) == 1
    assert line in said[0]
    assert not (run / "out.h5").exists()


def test_without_a_configuration_every_flat_frame_is_judged(tmp_path, rng):
    """205 flats reach min_frames = 200 only if F6 passes over none."""
    (tmp_path / "cam.toml").write_text(
        '[detector]\nname = "cam"\nmodules = 1\nmodule_shape = [32, 32]\nasic_shape = [32, 32]\nbits = 12\n'
    )
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["data"] = rng.normal(3000, 8, (250, 32, 32)).astype(np.uint16)
    given = ["--dark", f"{tmp_path}/run.h5", "--flat", f"{tmp_path}/run.h5[:205]", "--jobs", "1"]
    assert main(["batch", "--detector", f"{tmp_path}/cam.toml", *given, "-o", f"{tmp_path}/mask.h5"]) == 0
    mask = read_mask(tmp_path / "mask.h5").masks[0]
    assert mask.judged[0, 0] & BadPixel.LIT_SNR
    assert mask.frames[0, 0] == 250 + 205


CAM_TOML = """
[detector]
name = "cam"
modules = 1
module_shape = [32, 32]
asic_shape = [32, 32]
bits = 12
[fit]
min_frames = 40
"""


@pytest.fixture
def cam(tmp_path, rng):
    """A function: `rmm-stream batch ARGUMENTS -o mask.h5` with cam.toml, to which it adds `more`, and 60 frames."""
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["data"] = rng.normal(3000, 8, (60, 32, 32)).astype(np.uint16)

    def batch(*arguments, more="", output="mask.h5"):
        (tmp_path / "cam.toml").write_text(CAM_TOML + more)
        words = (str(word).format(dir=tmp_path) for word in arguments)
        return main(["batch", *words, "-o", f"{tmp_path}/{output}", "--jobs", "1"])

    return batch


BOTH = ("--dark", "{dir}/run.h5", "--flat", "{dir}/run.h5[:50]")


def warnings(text):
    return [line for line in text.splitlines() if " WARNING " in line]


@pytest.mark.parametrize("given", [("{dir}/cam.toml",), ("--detector", "{dir}/cam.toml")])
def test_a_configuration_that_does_not_say_how_many_trains_has_all_of_them_judged(cam, tmp_path, capsys, given):
    """As does one given as --detector, which is obeyed as a whole: 60 frames do not reach the usual min_frames."""
    assert cam(*given, *BOTH, "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["frames"] == {"accepted": 110, "not_sampled": 0, "rejected": {}}
    assert found["features"]["lit_snr"] == 1
    assert not warnings(printed.err)


def test_a_configuration_that_says_how_many_trains_is_obeyed_and_the_rest_is_counted(cam, capsys):
    assert cam("{dir}/cam.toml", *BOTH, more="[features.lit]\nevery_train = 4\n") == 0
    printed = capsys.readouterr()
    used = read_counts(printed.out)
    assert used["not sampled"] + used["accepted"] == 110
    assert used["not sampled"] > 20
    assert "judged: offset in 1, noise in 1\n" in printed.out
    (line,) = warnings(printed.err)
    assert "flat, stage high: too few frames in 1 of 1 maps" in line
    assert f"(50 given, {50 - used['not sampled']} used, fit.min_frames needs 40)" in line


def read_counts(text):
    return {word: int(n) for n, word in re.findall(r"(\d+) (accepted|not sampled)", text)}


def test_darks_that_do_not_suffice_are_said(run, capsys):
    """24 are needed of each cell: the darks of the second stage, cut, give 10."""
    darks = ["--dark", f"high={run}/high.h5", f"low={run}/low.h5[:30]"]
    assert main(["batch", f"{run}/tiny.toml", *darks, "-o", f"{run}/mask.h5", "--jobs", "1"]) == 0
    (line,) = warnings(capsys.readouterr().err)
    assert "dark, stage low: too few frames in 6 of 6 maps" in line
    assert "(10 given, 10 used, fit.min_frames needs 24)" in line


@pytest.mark.parametrize(
    ("output", "plot", "said"),
    [
        ("run.h5", None, "run.h5 is an input"),
        ("link.h5", None, "link.h5 is an input"),
        ("cam.toml", None, "cam.toml is the configuration"),
        ("static.h5", None, "static.h5 is the static mask"),
        ("mask.h5", "./mask.h5", "mask.h5 is the mask file"),
        ("mask.h5", "run.h5", "run.h5 is an input"),
    ],
)
@pytest.mark.parametrize("given", [("{dir}/cam.toml",), ("--detector", "{dir}/cam.toml")])
def test_nothing_that_is_read_is_overwritten(cam, tmp_path, capsys, given, output, plot, said):
    with h5py.File(tmp_path / "static.h5", "w") as file:
        file["mask"] = np.zeros((32, 32), bool)
    (tmp_path / "link.h5").symlink_to("run.h5")
    before = (tmp_path / "run.h5").read_bytes(), (tmp_path / "static.h5").read_bytes()
    more = f'[policy]\nstatic_mask = "{tmp_path}/static.h5"\n'
    plots = ["--plot", f"{tmp_path}/{plot}"] if plot else []
    if given[0] == "--detector":
        said = said.replace("the configuration", "the detector's description")
    assert cam(*given, "--dark", "{dir}/run.h5[:50]", *plots, more=more, output=output) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{said}, which would be overwritten" in error
    assert before == ((tmp_path / "run.h5").read_bytes(), (tmp_path / "static.h5").read_bytes())
    assert (tmp_path / "cam.toml").read_text() == CAM_TOML + more
    assert not (tmp_path / "mask.h5").exists()


def test_a_file_behind_a_virtual_dataset_is_not_overwritten(cam, tmp_path, capsys):
    layout = h5py.VirtualLayout((60, 32, 32), "u2")
    layout[:] = h5py.VirtualSource("run.h5", "data", (60, 32, 32))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    assert cam("{dir}/cam.toml", "--dark", "{dir}/all.h5") == 0
    capsys.readouterr()
    before = (tmp_path / "run.h5").read_bytes()
    assert cam("{dir}/cam.toml", "--dark", "{dir}/all.h5", output="run.h5") == 2
    assert "run.h5 is an input, which would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "run.h5").read_bytes() == before


def test_a_free_running_dark_without_thresholds_is_counted_and_explained(run, capsys):
    assert main(["batch", f"{run}/tiny.toml", "--dark", f"{run}/high.h5", "-o", f"{run}/out.h5", "--jobs", "1"]) == 1
    assert "no_gain_thresholds" in capsys.readouterr().err


def test_the_erratic_pixel_of_the_recorded_camera_is_flagged_early_and_late(shared_data, tmp_path):
    """K11, DIAD: the only real dark stacks; fifty frames each, an hour apart."""
    (tmp_path / "k11.toml").write_text(
        '[detector]\nname = "k11"\nmodules = 1\nmodule_shape = [22, 26]\nasic_shape = [22, 26]\nbits = 16\n'
        "edge_width = 0\n[fit]\nmin_frames = 50\n[features.lit]\nevery_train = 1\n"
    )
    path = shared_data / "camera_k11" / "k11-18014-imaging.h5"
    found = []
    for dark, flat in (("[50:100]", "[0:50]"), ("[3151:3201]", "[3101:3151]")):
        out = ["--flat", f"{path}{flat}", "-o", f"{tmp_path}/mask.h5", "--jobs", "1"]
        assert main(["batch", f"{tmp_path}/k11.toml", "--dark", f"{path}{dark}", *out]) == 0
        with h5py.File(path) as file:
            first, last = map(int, dark.strip("[]").split(":"))
            sd = file["entry/detector/detector"][first:last].std(axis=0, ddof=1)
        mask = read_mask(tmp_path / "mask.h5").masks[0]
        assert mask.flags[0, 0][np.unravel_index(sd.argmax(), sd.shape)] & BadPixel.NOISE
        assert mask.judged[0, 0] & BadPixel.LIT_SNR
        noisy = mask.flags[0, 0] & BadPixel.NOISE != 0
        assert 5 <= noisy.sum() <= 30
        found.append(noisy)
    assert (found[0] & found[1]).sum() >= 5


def test_darks_of_two_states_are_all_used_and_it_is_said(tmp_path, rng, capsys):
    """The second half of the darks lies 30 ADU higher in one ASIC: batch leaves nothing out, and warns."""
    n = 240
    data = np.rint(rng.normal(4000, 3, (n, 1, 64, 64))).astype(np.uint16)
    data[n // 2 :, :, :32, 32:] += np.uint16(30)
    with h5py.File(tmp_path / "dark.h5", "w") as file:
        file["entry/data/data"] = data[:, 0]
    (tmp_path / "quad.toml").write_text(
        '[detector]\nname = "quad"\nmodules = 1\nmodule_shape = [64, 64]\nasic_shape = [32, 32]\nbits = 14\n'
        '[fit]\nmin_frames = 24\n[common_mode]\nremove = "on"\n'
    )
    given = ["--dark", str(tmp_path / "dark.h5"), "--output", str(tmp_path / "mask.h5")]
    assert main(["batch", str(tmp_path / "quad.toml"), *given, "--json"]) == 0
    (line,) = warnings(capsys.readouterr().err)
    assert "module 0, stage high: ASIC 1 has moved by +30" in line
    assert line.endswith("its darks show two states of the detector; give those of one")
    (mask,) = read_mask(tmp_path / "mask.h5").masks
    assert mask.frames.tolist() == [[n]]
