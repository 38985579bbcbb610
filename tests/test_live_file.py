import itertools
import os
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest

from rmm_stream.errors import DataError
from rmm_stream.mask import BadPixel, Mask
from rmm_stream.storage.live_file import write_live
from rmm_stream.storage.mask_file import Provenance


def make_masks(spec, fill):
    flags = np.full((2, 3, *spec.module_shape), fill, np.uint8)
    judged = np.ones((2, 3), np.uint8)
    return [Mask(m, flags, judged, np.zeros((2, 3), int), train_id=fill, version=fill) for m in range(2)]


def test_it_holds_the_collapsed_mask_and_the_attributes_only(tmp_path, tiny):
    masks = make_masks(tiny, BadPixel.NOISE)
    write_live(tmp_path / "live.h5", tiny, masks, provenance=Provenance(version=8, epoch="ab", generation=1))
    with h5py.File(tmp_path / "live.h5") as file:
        assert list(file) == ["collapsed"]
        collapsed = file["collapsed"]
        assert (collapsed.shape, collapsed.dtype) == ((2, 64, 32), np.uint8)
        assert (collapsed.chunks, collapsed.compression) == (None, None)
        assert (collapsed[()] == BadPixel.NOISE).all()
        assert list(file.attrs["modules"]) == [0, 1]
        assert (file.attrs["version"], file.attrs["epoch"], file.attrs["detector"]) == (8, "ab", "tiny")
        assert file.attrs["polarity"] == "0 = good"


def test_a_mask_without_any_fit_does_not_look_good(tmp_path, tiny):
    masks = [Mask(0, np.zeros((2, 3, 64, 32), np.uint8), np.zeros((2, 3), np.uint8), np.zeros((2, 3), int))]
    write_live(tmp_path / "live.h5", tiny, masks, provenance=Provenance())
    with h5py.File(tmp_path / "live.h5") as file:
        assert (file["collapsed"][()] == BadPixel.NO_DATA).all()


def test_no_mask_at_all_is_refused(tmp_path, tiny):
    with pytest.raises(DataError, match="no mask to write"):
        write_live(tmp_path / "live.h5", tiny, [], provenance=Provenance())
    assert os.listdir(tmp_path) == []


READER = """
    import sys
    import h5py
    print("ready", flush=True)
    reads, seen = 0, set()
    while reads < 300 or len(seen) < 10:
        with h5py.File(sys.argv[1], "r") as file:  # opened anew for each image, as CrystFEL does
            mask = file["collapsed"][()]
            assert mask.shape == (2, 64, 32) and mask.min() == mask.max() == file.attrs["train_id"], mask
        reads += 1
        seen.add(int(mask[0, 0, 0]))
"""


def test_a_reader_that_opens_it_anew_for_every_image_never_sees_a_broken_file(tmp_path, tiny):
    path = tmp_path / "live.h5"
    write_live(path, tiny, make_masks(tiny, 1), provenance=Provenance())
    command = [sys.executable, "-c", textwrap.dedent(READER), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "ready\n"
        for fill in itertools.cycle(range(2, 256)):
            write_live(path, tiny, make_masks(tiny, fill), provenance=Provenance())
            if reader.poll() is not None:
                break
        assert reader.returncode == 0, reader.stderr.read()
    assert os.listdir(tmp_path) == ["live.h5"]
