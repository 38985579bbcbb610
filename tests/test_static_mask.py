import h5py
import numpy as np
import pytest

from rmm_stream.detectors import DetectorSpec
from rmm_stream.errors import ConfigError, DataError
from rmm_stream.mask import BadPixel, Mask
from rmm_stream.storage.mask_file import Provenance, write_mask
from rmm_stream.storage.static_mask import read_static_mask, read_static_masks


def store(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
    return path


def test_non_zero_is_bad(tmp_path, tiny):
    mask = np.zeros((2, 64, 32), np.int32)
    mask[1, 3, 4], mask[1, 5, 6] = 1, -7
    found = read_static_mask(store(tmp_path / "mask.h5", mask=mask), tiny)
    assert sorted(found) == [0, 1]
    assert not found[0].any()
    assert np.argwhere(found[1]).tolist() == [[3, 4], [5, 6]]


def test_a_pixel_bad_in_any_stage_or_cell_is_bad(tmp_path, tiny):
    mask = np.zeros((2, 2, 3, 64, 32), np.uint8)
    mask[0, 1, 2, 7, 8] = BadPixel.NOISE
    found = read_static_mask(store(tmp_path / "mask.h5", mask=mask), tiny)
    assert np.argwhere(found[0]).tolist() == [[7, 8]]


def test_one_module_needs_no_axis_for_it(tmp_path):
    spec = DetectorSpec("camera", modules=1, module_shape=(8, 6), asic_shape=(8, 6))
    found = read_static_mask(store(tmp_path / "mask.h5", collapsed=np.eye(8, 6, dtype=bool)), spec)
    np.testing.assert_array_equal(found[0], np.eye(8, 6, dtype=bool))


def test_a_mask_file_of_ours_of_some_modules_is_one(tmp_path, tiny):
    """Its collapsed mask counts: a map that was never judged does not make the whole module bad."""
    flags = np.zeros((2, 3, 64, 32), np.uint8)
    flags[0, 0, 9, 9], flags[1, 1] = BadPixel.OFFSET, BadPixel.NO_DATA
    judged = np.array([[1, 1, 1], [1, 0, 1]], np.uint8)
    mask = Mask(1, flags, judged, np.zeros((2, 3), int))
    write_mask(tmp_path / "mask.h5", tiny, [mask], cells=range(3), provenance=Provenance())
    found = read_static_mask(tmp_path / "mask.h5", tiny)
    assert list(found) == [1]
    assert np.argwhere(found[1]).tolist() == [[9, 9]]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (np.zeros((64, 32), np.uint8), r"uint8 \(64, 32\)"),
        (np.zeros((2, 32, 64), np.uint8), r"uint8 \(2, 32, 64\)"),
        (np.zeros((3, 64, 32), np.uint8), r"uint8 \(3, 64, 32\)"),
        (np.zeros((2, 64, 32), np.float32), "float32"),
    ],
)
def test_a_mask_of_another_detector_is_refused(tmp_path, tiny, data, found):
    with pytest.raises(DataError, match=rf"/mask is {found}.*; tiny needs integers \(2, 64, 32\)"):
        read_static_mask(store(tmp_path / "mask.h5", mask=data), tiny)


def test_a_file_without_a_mask_is_refused(tmp_path, tiny):
    with pytest.raises(ConfigError, match="no dataset /collapsed or /mask"):
        read_static_mask(store(tmp_path / "mask.h5", other=np.zeros(3)), tiny)
    with pytest.raises(ConfigError, match="no such file"):
        read_static_mask(tmp_path / "absent.h5", tiny)


def test_of_several_files_a_pixel_is_bad_in_any(tmp_path, tiny):
    one, two = (np.zeros((2, 1, 1, *tiny.module_shape), np.uint8) for _ in range(2))
    one[0, ..., 3, 3], two[0, ..., 4, 4], two[1, ..., 5, 5] = 1, 1, 1
    paths = [str(store(tmp_path / f"{n}.h5", mask=mask)) for n, mask in enumerate((one, two))]
    found = read_static_masks(paths, tiny)
    assert [np.argwhere(found[module]).tolist() for module in (0, 1)] == [[[3, 3], [4, 4]], [[5, 5]]]
    assert read_static_masks([], tiny) == {}
    with pytest.raises(ConfigError, match=r"policy\.static_mask = 'nowhere\.h5'"):
        read_static_masks([*paths, "nowhere.h5"], tiny)
