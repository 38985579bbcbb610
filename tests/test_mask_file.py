import errno
import os

import h5py
import numpy as np
import pytest

from rmm_stream.detectors import detector
from rmm_stream.errors import ConfigError, DataError
from rmm_stream.mask import BadPixel, Mask
from rmm_stream.storage.atomic import replace_file
from rmm_stream.storage.mask_file import Provenance, read_mask, write_mask

ORIGIN = Provenance(version=4, epoch="5f3c", generation=2, settings_digest="0123456789ab")


def make_mask(spec, rng, module=0, cells=None, train_id=77):
    shape = (len(spec.stages), spec.cells if cells is None else cells, *spec.module_shape)
    flags = np.where(rng.random(shape) < 0.02, rng.integers(1, 256, shape), 0).astype(np.uint8)
    judged = np.full(shape[:2], BadPixel.OFFSET | BadPixel.NOISE, np.uint8)
    judged[-1, -1] = 0
    return Mask(module, flags, judged, rng.integers(200, 300, shape[:2]), train_id, 4)


def test_a_mask_that_is_read_back_is_the_mask_that_was_written(tmp_path, tiny, rng):
    masks = [make_mask(tiny, rng, module, train_id=70 + module) for module in range(2)]
    write_mask(tmp_path / "mask.h5", tiny, masks, cells=range(3), provenance=ORIGIN)
    found = read_mask(tmp_path / "mask.h5")
    assert (found.detector, found.cells, found.stages) == ("tiny", (0, 1, 2), ("high", "low"))
    assert found.provenance.created.endswith("+00:00")
    assert found.provenance.generation == 2
    for written in masks:
        read = found.mask(written.module)
        for part in ("flags", "judged", "frames"):
            np.testing.assert_array_equal(getattr(read, part), getattr(written, part))
        assert (read.train_id, read.version) == (71, 4)
    with pytest.raises(ConfigError, match="no module 5; it has 0, 1"):
        found.mask(5)


def test_the_layout_is_the_promised_one(tmp_path, tiny, rng):
    masks = [make_mask(tiny, rng, module, cells=2) for module in range(2)]
    write_mask(tmp_path / "mask.h5", tiny, masks, cells=[1, 2], provenance=ORIGIN)
    with h5py.File(tmp_path / "mask.h5") as file:
        assert (file["mask"].dtype, file["mask"].shape) == (np.uint8, (2, 2, 2, 64, 32))
        assert (file["mask"].chunks, file["mask"].compression) == ((1, 1, 1, 64, 32), "gzip")
        assert (file["collapsed"].dtype, file["collapsed"].shape) == (np.uint8, (2, 64, 32))
        assert file["collapsed"].chunks is None
        assert (file["judged"].dtype, file["judged"].shape) == (np.uint8, (2, 2, 2))
        assert list(file["module"]) == [0, 1]
        assert list(file["cell"]) == [1, 2]
        assert list(file["gain_stage"]) == [0, 1]
        assert file.attrs["frames"] == sum(int(m.frames.sum()) for m in masks)
        assert file.attrs["polarity"] == "0 = good"
        assert {"detector", "version", "train_id", "epoch", "generation", "created", "settings_digest"} <= set(
            file.attrs
        )
        assert file.attrs["program_version"]
        assert file.attrs["schema"] == 1
        np.testing.assert_array_equal(file["collapsed"][1], masks[1].collapse())


def test_an_unjudged_map_takes_no_part_in_the_collapsed_mask(tmp_path, tiny):
    flags = np.zeros((2, 3, 64, 32), np.uint8)
    flags[0, 0, 5, 5] = BadPixel.NOISE
    flags[1, 1] = BadPixel.NO_DATA
    judged = np.zeros((2, 3), np.uint8)
    judged[0] = BadPixel.NOISE
    mask = Mask(0, flags, judged, np.zeros((2, 3), np.int64))
    write_mask(tmp_path / "mask.h5", tiny, [mask], cells=range(3), provenance=Provenance())
    with h5py.File(tmp_path / "mask.h5") as file:
        assert file["collapsed"][0, 5, 5] == BadPixel.NOISE
        assert np.count_nonzero(file["collapsed"]) == 1


def test_a_name_is_enough_where_no_more_is_known_of_the_detector(tmp_path, tiny, rng):
    write_mask(tmp_path / "mask.h5", "tiny", [make_mask(tiny, rng)], cells=range(3), provenance=ORIGIN)
    assert read_mask(tmp_path / "mask.h5").stages == ("0", "1")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, tiny, rng, monkeypatch):
    path = tmp_path / "mask.h5"
    write_mask(path, tiny, [make_mask(tiny, rng)], cells=range(3), provenance=ORIGIN)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_mask(path, tiny, [make_mask(tiny, rng)], cells=range(3), provenance=ORIGIN)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["mask.h5"]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    def interrupted():
        with replace_file(tmp_path / "file") as aside:
            aside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with replace_file(tmp_path / "link") as aside:
        aside.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize(
    ("shapes", "modules", "cells", "complaint"),
    [
        ([], [], 3, "no mask to write"),
        ([(2, 3, 64, 32), (2, 3, 32, 32)], [0, 1], 3, "one shape"),
        ([(2, 3, 64, 32)] * 2, [1, 1], 3, "different modules"),
        ([(2, 3, 64, 32)], [0], 2, "3 cells, their cell axis 2"),
    ],
)
def test_masks_that_do_not_fit_together_are_refused(tmp_path, tiny, shapes, modules, cells, complaint):
    masks = [
        Mask(m, np.zeros(s, np.uint8), np.zeros(s[:2], np.uint8), np.zeros(s[:2], int)) for s, m in zip(shapes, modules)
    ]
    with pytest.raises(DataError, match=complaint):
        write_mask(tmp_path / "mask.h5", tiny, masks, cells=range(cells), provenance=ORIGIN)
    assert os.listdir(tmp_path) == []


def damage_schema(file):
    file.attrs["schema"] = 9


def damage_judged(file):
    del file["judged"]
    file["judged"] = np.zeros((1, 2, 2), np.uint8)


def damage_type(file):
    del file["mask"]
    file["mask"] = np.zeros((1, 2, 3, 64, 32), np.float32)


def damage_axis(file):
    del file["cell"]


def damage_attribute(file):
    del file.attrs["epoch"]


def damage_everything(file):
    for name in list(file):
        del file[name]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damage_schema, "schema 9, this program reads 1: update"),
        (damage_judged, r"/judged is uint8 \(1, 2, 2\), expected integers \(1 x 2 x 3\)"),
        (damage_type, "/mask is float32"),
        (damage_axis, "/cell is missing"),
        (damage_attribute, "'epoch' is missing"),
        (damage_everything, "not a mask file"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, tiny, rng, damage, complaint):
    write_mask(tmp_path / "mask.h5", tiny, [make_mask(tiny, rng)], cells=range(3), provenance=ORIGIN)
    with h5py.File(tmp_path / "mask.h5", "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=complaint):
        read_mask(tmp_path / "mask.h5")


def test_a_truncated_or_missing_file_says_so(tmp_path, tiny, rng):
    path = tmp_path / "mask.h5"
    with pytest.raises(ConfigError, match="no such file"):
        read_mask(path)
    write_mask(path, tiny, [make_mask(tiny, rng)], cells=range(3), provenance=ORIGIN)
    os.truncate(path, 4000)
    with pytest.raises(DataError, match=r"not a readable HDF5 file .*truncated"):
        read_mask(path)


def test_the_biggest_detector_is_written_map_by_map(tmp_path):
    """16 cells of an AGIPD module: the file is compressed, and one map can be read without the others."""
    spec = detector("agipd1m")
    flags = np.zeros((3, 16, *spec.module_shape), np.uint8)
    flags[1, 7, 100, 50] = BadPixel.OFFSET
    mask = Mask(3, flags, np.ones((3, 16), np.uint8), np.zeros((3, 16), int))
    write_mask(tmp_path / "mask.h5", spec, [mask], cells=range(16), provenance=ORIGIN)
    assert os.path.getsize(tmp_path / "mask.h5") < flags.nbytes / 10
    with h5py.File(tmp_path / "mask.h5") as file:
        assert file["mask"][0, 1, 7, 100, 50] == BadPixel.OFFSET
