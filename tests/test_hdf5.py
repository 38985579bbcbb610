import logging
import os
import pickle

import h5py
import numpy as np
import pytest

from rmm_stream.detectors import DetectorSpec, detector
from rmm_stream.errors import ConfigError, DataError
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.sources.frame_stack import LAYOUTS, Location, inspect, locate
from rmm_stream.sources.hdf5 import frames

N = 12
SHAPE = (8, 6)
DARK = Exposure(Illumination.DARK, 0)


@pytest.fixture
def camera():
    """One module, one cell, 8 x 6 pixels of 16 bits."""
    return DetectorSpec("camera", modules=1, module_shape=SHAPE, asic_shape=SHAPE)


@pytest.fixture
def many():
    """Three modules, four cells, an analogue gain indicator."""
    return DetectorSpec(
        "many", modules=3, module_shape=SHAPE, asic_shape=SHAPE, cells=4, stages=("a", "b"), gain="analogue"
    )


@pytest.fixture
def write(tmp_path):
    def write(name="run.h5", **datasets):
        with h5py.File(tmp_path / name, "w") as file:
            for path, data in datasets.items():
                file[path.replace("__", "/")] = data
        return str(tmp_path / name)

    return write


def raw(*shape):
    return np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint16).reshape(shape)


def all_frames(stack, spec, module=0, **options):
    """The batches of a stack joined: (pixels, gain, cell, train_id)."""
    batches = list(frames(stack, spec, module, DARK, **options))
    gain = None if batches[0].gain is None else np.concatenate([b.gain for b in batches])
    return (
        np.concatenate([b.pixels for b in batches]),
        gain,
        np.concatenate([b.cell for b in batches]),
        np.concatenate([b.train_id for b in batches]),
    )


# ---- what the operator writes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run.h5", Location("run.h5")),
        ("run.h5:/entry/data", Location("run.h5", "/entry/data")),
        ("run.h5:/entry/data[50:100]", Location("run.h5", "/entry/data", 50, 100)),
        ("run.h5[:-5]", Location("run.h5", "", None, -5)),
        (
            "d/run.h5:INSTRUMENT/X/DET/3CH0:xtdf/image/data",
            Location("d/run.h5", "INSTRUMENT/X/DET/3CH0:xtdf/image/data"),
        ),
    ],
)
def test_a_location_is_read_as_it_is_written(text, expected):
    assert locate(text) == expected
    assert str(expected) == text


def test_a_file_name_that_looks_like_a_slice_is_a_file_name(tmp_path):
    odd = tmp_path / "run:1[0:3]"
    odd.write_text("")
    assert locate(str(odd)) == Location(str(odd))
    with pytest.raises(ConfigError, match="names no file"):
        locate(":/entry/data")


@pytest.mark.parametrize("typo", ["[a:b]", "[50]", "[50-100]", "[0:100:2]", "[50:100", "[]"])
@pytest.mark.parametrize("name", ["run.h5", "run.h5:/entry/data", "run*.h5"])
def test_a_range_with_a_typo_is_not_taken_for_a_part_of_the_name(name, typo):
    with pytest.raises(ConfigError) as error:
        locate(name + typo)
    assert str(error.value).startswith(f"{name}{typo}: the range {typo} is not of the form [first:last]")


def test_a_file_whose_name_ends_in_brackets_is_found_all_the_same(write):
    path = write("run[2]")
    assert locate(path) == Location(path)


# ---- finding the frames --------------------------------------------------------------------------------------------


def test_the_one_dataset_of_the_right_shape_is_found(write, camera):
    path = write(
        entry__detector__data=raw(N, *SHAPE), entry__other=raw(N, 4, 4), entry__mask=raw(N, *SHAPE).astype("u4")
    )
    stack = inspect(Location(path), camera)
    assert (stack.dataset, stack.axes, len(stack)) == ("/entry/detector/data", ("cell", "ss", "fs"), N)


def test_a_gain_dataset_beside_the_data_is_not_taken_for_it(write, many):
    path = write(image__data=raw(N, 3, *SHAPE), image__gain=raw(N, 3, *SHAPE), image__cellId=np.zeros(N, "u2"))
    assert inspect(Location(path), many).dataset == "/image/data"


def test_several_datasets_that_fit_are_listed(write, camera):
    path = write(a=raw(N, *SHAPE), b=raw(N, *SHAPE))
    with pytest.raises(ConfigError, match=r"several datasets .* /a, /b; name one, FILE:PATH"):
        inspect(Location(path), camera)
    assert inspect(Location(path, "b"), camera).dataset == "/b"


def test_where_nothing_fits_the_message_says_what_is_there(write, camera):
    path = write(entry__frames=raw(N, 5, 5))
    with pytest.raises(ConfigError, match=r"no dataset holds frames of 8 x 6 \(camera\); it has /entry/frames uint16"):
        inspect(Location(path), camera)
    with pytest.raises(ConfigError, match=r"has no dataset data; it has /entry/frames"):
        inspect(Location(path, "data"), camera)
    with pytest.raises(ConfigError, match=r"/entry/frames is \(12, 5, 5\), camera needs \(frames, 8, 6\)"):
        inspect(Location(path, "/entry/frames"), camera)
    with pytest.raises(ConfigError, match="no images at all"):
        inspect(Location(write("empty.h5", x=1)), camera)


@pytest.mark.parametrize(
    ("dtype", "found"), [("i4", "int32"), ("f4", "float32"), ("u1", "uint8"), ("u4", "uint32"), ("i2", "int16")]
)
def test_another_type_is_refused_with_both_named(write, camera, dtype, found):
    path = write(data=np.zeros((N, *SHAPE), dtype))
    with pytest.raises(ConfigError, match=rf"run.h5:/data is {found}, camera has uint16 \(bits = 16\)"):
        inspect(Location(path), camera)


def test_calibrated_floats_are_read_where_the_detector_is_calibrated(write):
    spec = DetectorSpec("floats", modules=1, module_shape=SHAPE, asic_shape=SHAPE, bits=0)
    data = np.random.default_rng(1).normal(size=(N, *SHAPE)).astype(np.float32)
    path = write(data=data, image=raw(N, *SHAPE))
    np.testing.assert_array_equal(all_frames(inspect(Location(path), spec), spec)[0], data)


@pytest.mark.parametrize("cut", [np.s_[2:7], np.s_[-4:], np.s_[:3], np.s_[5:12]])
def test_a_slice_selects_frames_and_their_companions(write, camera, cut):
    data, train = raw(N, *SHAPE), np.arange(1000, 1000 + N, dtype=np.uint64)
    path = write(data=data, trainId=train)
    pixels, gain, cell, train_id = all_frames(inspect(Location(path, "", cut.start, cut.stop), camera), camera)
    np.testing.assert_array_equal(pixels, data[cut])
    np.testing.assert_array_equal(train_id, train[cut])
    assert gain is None
    assert not cell.any()


@pytest.mark.parametrize(("first", "last"), [(5, 5), (0, 13), (12, None), (7, 3)])
def test_a_slice_of_frames_that_are_not_there_is_refused(write, camera, first, last):
    path = write(data=raw(N, *SHAPE))
    with pytest.raises(ConfigError, match=r"selects no frames or too many; .*run.h5:/data has 12"):
        inspect(Location(path, "data", first, last), camera)


# ---- layouts -------------------------------------------------------------------------------------------------------


def test_value_and_indicator_of_one_array_come_apart(write, many):
    data = raw(N, 2, *SHAPE)
    path = write(**{"INSTRUMENT__X__DET__2CH0:xtdf__image__data": data}, cellId=np.zeros((N, 1), "u2"))
    stack = inspect(Location(path), many)
    assert stack.axes == ("cell", "kind", "ss", "fs")
    assert stack.module == 2
    assert stack.has(2)
    assert not stack.has(0)
    pixels, gain, *_ = all_frames(stack, many, 2)
    np.testing.assert_array_equal(pixels, data[:, 0])
    np.testing.assert_array_equal(gain, data[:, 1])
    assert pixels.flags.c_contiguous
    assert gain.flags.c_contiguous


def test_a_stack_of_all_modules_gives_each_its_own(write, many):
    data, gain = raw(N, 3, *SHAPE), raw(N, 3, *SHAPE)[::-1]
    path = write(data=data, gain=gain, cellId=np.arange(N, dtype="u2") % 4)
    stack = inspect(Location(path), many)
    assert stack.module is None
    for module in range(3):
        pixels, indicator, *_ = all_frames(stack, many, module)
        np.testing.assert_array_equal(pixels, data[:, module])
        np.testing.assert_array_equal(indicator, gain[:, module])


def test_all_modules_with_both_kinds(write, many):
    data = raw(N, 3, 2, *SHAPE)
    stack = inspect(Location(write(data=data, cellId=np.zeros(N, "u2"))), many)
    pixels, indicator, *_ = all_frames(stack, many, 1)
    np.testing.assert_array_equal(pixels, data[:, 1, 0])
    np.testing.assert_array_equal(indicator, data[:, 1, 1])


def test_a_needless_axis_of_length_one_is_dropped(write, camera):
    data = raw(N, 1, *SHAPE)
    pixels, *_ = all_frames(inspect(Location(write(data=data)), camera), camera)
    np.testing.assert_array_equal(pixels, data[:, 0])


def test_axes_that_the_shape_does_not_tell_must_be_told(write, tiny):
    data = raw(N, 2, *tiny.module_shape)
    path = write(data=data, cellId=np.zeros(N, "u2"))
    with pytest.raises(ConfigError, match="say which axes these are, 'cell kind ss fs' or 'cell module ss fs'"):
        inspect(Location(path), tiny)
    kinds = inspect(Location(path), tiny, module=1, axes="cell kind ss fs")
    np.testing.assert_array_equal(all_frames(kinds, tiny, 1)[1], data[:, 1])
    modules = inspect(Location(path), tiny, axes="cell module ss fs")
    np.testing.assert_array_equal(all_frames(modules, tiny, 1)[0], data[:, 1])
    with pytest.raises(ConfigError, match=LAYOUTS[0]):
        inspect(Location(path, "data"), tiny, axes="fs ss cell")


def test_packed_words_are_split(write):
    spec = DetectorSpec(
        "packed",
        modules=1,
        module_shape=SHAPE,
        asic_shape=SHAPE,
        stages=("G0", "G1", "G2"),
        bits=14,
        gain="code",
        gain_codes=(0, 1, 3),
        packed=2,
    )
    words = (raw(N, *SHAPE) * 977).astype(np.uint16)
    pixels, gain, *_ = all_frames(inspect(Location(write(data=words)), spec), spec)
    np.testing.assert_array_equal(pixels, words & 0x3FFF)
    np.testing.assert_array_equal(gain, words >> 14)


def test_big_endian_files_are_read(write, camera):
    data = raw(N, *SHAPE)
    pixels, *_ = all_frames(inspect(Location(write(data=data.astype(">u2"))), camera), camera)
    assert pixels.dtype == np.dtype(np.uint16)
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, data)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("INSTRUMENT/SPB_IRDA_JF4M/DET/JNGFR08:daqOutput/data/adc", 7),
        ("INSTRUMENT/X/DET/JNGFR01:daqOutput/data/adc", 0),
    ],
)
def test_external_numbers_of_modules_become_ours(tmp_path, path, number):
    spec = detector("jungfrau4m")
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file.create_dataset(path, (2, 1, *spec.module_shape), "u2", chunks=(1, 1, *spec.module_shape))
    assert inspect(Location(str(tmp_path / "run.h5")), spec).module == number


def test_a_module_that_nothing_tells_must_be_told(write, many):
    path = write(data=raw(N, *SHAPE), cellId=np.zeros(N, "u2"))
    with pytest.raises(ConfigError, match="one module of 3 and does not tell which: say --module"):
        inspect(Location(path), many)
    assert inspect(Location(path), many, module=1).module == 1
    with pytest.raises(ConfigError, match="module 5; many has modules 0 to 2"):
        inspect(Location(path), many, module=5)


# ---- companions ----------------------------------------------------------------------------------------------------


def test_companions_are_found_in_the_group_or_above(write, camera):
    path = write(
        entry__instrument__detector__data=raw(N, *SHAPE),
        entry__trainId=np.arange(N, dtype="u8") + 7,
        entry__timestamp=np.arange(N) * 0.1 + 5,
        trainId=np.zeros(N + 1, "u8"),
    )
    stack = inspect(Location(path), camera)
    assert (stack.train, stack.time, stack.cell, stack.gain) == ("/entry/trainId", "/entry/timestamp", "", "")
    batches = list(frames(stack, camera, 0, DARK, piece_bytes=5 * 96))
    assert [b.timestamp for b in batches] == pytest.approx([5.0, 5.5, 6.0])
    assert batches[1].train_id[0] == 12
    assert all(b.exposure == DARK and b.labelled_by == "operator" and b.complete.all() for b in batches)


def test_without_train_ids_frames_are_numbered_by_their_place(write, camera):
    _, _, _, train_id = all_frames(inspect(Location(write(data=raw(N, *SHAPE)), "", 4, 9), camera), camera)
    assert train_id.tolist() == [4, 5, 6, 7, 8]


def test_memory_cells_come_from_the_file_and_never_from_the_place(write, many):
    with pytest.raises(DataError, match="many has 4 memory cells, and no cellId or memoryCell beside it"):
        inspect(Location(write(data=raw(N, 3, *SHAPE))), many)


def test_frames_of_insane_cells_are_left_out_and_said(write, many, caplog):
    cell = np.array([0, 1, 2, 3] * 3, "u2")
    cell[5] = 999
    stack = inspect(Location(write(data=raw(N, 3, *SHAPE), cellId=cell)), many)
    assert "1 of 12 frames left out, of cells beyond 3" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
    assert all_frames(stack, many)[2].tolist() == [0, 1, 2, 3, 0, 2, 3, 0, 1, 2, 3]
    path = write("other.h5", data=raw(N, 3, *SHAPE), cellId=np.full(N, 9, "u2"))
    with pytest.raises(DataError, match="has no cell below 4"):
        inspect(Location(path), many)


def test_an_indicator_of_another_shape_or_type_is_refused(write, many):
    path = write(data=raw(N, 3, *SHAPE), gain=np.zeros((N, 3, *SHAPE), "u1"), cellId=np.zeros(N, "u2"))
    with pytest.raises(DataError, match=r"/gain is uint8 .* the analogue gain indicator of /data is uint16"):
        inspect(Location(path, "data"), many)


# ---- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 96, 97, 5 * 96, 1 << 20])
def test_pieces_join_to_the_whole(write, many, piece):
    data, cell = raw(N, 3, *SHAPE), np.array([0, 1, 2, 3] * 3, "u2")
    stack = inspect(Location(write(data=data, cellId=cell)), many)
    batches = list(frames(stack, many, 1, cells=range(1, 3), piece_bytes=piece))
    assert all(b.pixels.nbytes <= max(piece, 96) for b in batches)
    wanted = (cell == 1) | (cell == 2)
    np.testing.assert_array_equal(np.concatenate([b.pixels for b in batches]), data[wanted, 1])
    assert np.concatenate([b.cell for b in batches]).tolist() == cell[wanted].tolist()


def test_shards_of_cells_share_the_frames_out(write, many, rng):
    data, cell = raw(N, 3, *SHAPE), rng.permutation(np.array([0, 1, 2, 3] * 3, "u2"))
    stack = inspect(Location(write(data=data, cellId=cell)), many)
    parts = [all_frames(stack, many, cells=cells) for cells in (range(1), range(1, 4))]
    assert sum(len(p[0]) for p in parts) == N
    assert {*parts[0][2].tolist()} == {0}
    assert list(frames(stack, many, 0, cells=range(0))) == []


def test_the_indicator_may_stay_on_disk(write, many):
    stack = inspect(Location(write(data=raw(N, 3, 2, *SHAPE), cellId=np.zeros(N, "u2"))), many)
    assert all_frames(stack, many, indicator=False)[1] is None


def test_a_stack_travels_to_another_process(write, camera):
    stack = inspect(Location(write(data=raw(N, *SHAPE))), camera)
    again = pickle.loads(pickle.dumps(stack))
    np.testing.assert_array_equal(all_frames(again, camera)[0], raw(N, *SHAPE))


def test_a_truncated_or_foreign_file_says_what_to_do(tmp_path, write, camera):
    path = write(data=raw(N, *SHAPE))
    os.truncate(path, 2100)
    with pytest.raises(DataError, match=r"run\.h5: an HDF5 file that is damaged or cut short; copy it again"):
        inspect(Location(path), camera)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ConfigError, match=r"text\.h5: not an HDF5 file; name one"):
        inspect(Location(str(tmp_path / "text.h5")), camera)
    with pytest.raises(ConfigError, match="Is a directory; name a file"):
        inspect(Location(str(tmp_path)), camera)
    with pytest.raises(ConfigError, match="no such file"):
        inspect(Location(str(tmp_path / "absent.h5")), camera)


def test_damaged_frames_are_named(tmp_path, camera):
    path = tmp_path / "run.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", data=raw(N, *SHAPE), chunks=(4, *SHAPE), fletcher32=True)
        place = data.id.get_chunk_info(1).byte_offset
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 16)
    stack = inspect(Location(str(path)), camera)
    found = []
    with pytest.raises(DataError, match=r"frames 4 to 7 cannot be read .* leave them out: \[0:4\] and \[8:12\]"):
        found.extend(frames(stack, camera, 0, piece_bytes=4 * 96))
    assert len(found) == 1


def test_a_virtual_dataset_without_its_files_is_not_read_as_zeros(tmp_path, camera):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["data"] = raw(N, *SHAPE)
    layout = h5py.VirtualLayout((N, *SHAPE), "u2")
    layout[:] = h5py.VirtualSource("part.h5", "data", (N, *SHAPE))
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    location = Location(str(tmp_path / "run.h5"))
    np.testing.assert_array_equal(all_frames(inspect(location, camera), camera)[0], raw(N, *SHAPE))
    (tmp_path / "part.h5").unlink()
    with pytest.raises(DataError, match=r"virtual dataset; 1 files of it are missing: copy part\.h5"):
        inspect(location, camera)


def test_a_missing_compression_filter_is_named(write, camera, monkeypatch):
    path = write()
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=raw(N, *SHAPE), compression="gzip")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(ConfigError, match=r"filter 1 .* not installed: install its plugin and set HDF5_PLUGIN_PATH"):
        inspect(Location(path), camera)


def test_a_soft_link_is_followed(tmp_path, camera):
    """CXI files reach the frames by a link."""
    with h5py.File(tmp_path / "run.cxi", "w") as file:
        file["entry_1/instrument_1/detector_1/data"] = raw(N, *SHAPE)
        file["entry_1/trainId"] = np.arange(N, dtype="u8") + 50
        file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
    path = str(tmp_path / "run.cxi")
    for stack in (inspect(Location(path), camera), inspect(Location(path, "entry_1/data_1/data"), camera)):
        assert all_frames(stack, camera)[3].tolist() == list(range(50, 50 + N))


def test_the_recorded_camera_is_read(shared_data):
    spec = DetectorSpec("k11", modules=1, module_shape=(22, 26), asic_shape=(22, 26), edge_width=0)
    path = str(shared_data / "camera_k11" / "k11-18014-imaging.h5")
    stack = inspect(locate(path + "[50:100]"), spec)
    pixels, *_ = all_frames(stack, spec)
    assert pixels.shape == (50, 22, 26)
    assert np.median(pixels.std(axis=0, ddof=1)) == pytest.approx(2.2, abs=0.05)
