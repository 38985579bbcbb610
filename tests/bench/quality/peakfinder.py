"""The child: psana's peakfinder8 (Barty et al. 2014) on frames from stdin, in an environment of its own; imports no other file.

A question is the length of an npz, 8 bytes, and the npz: frame (ss, fs) float32 and masks (n, ss, fs) bool, True bad. The
answer is the same with peaks (m, 3) float32: which mask, ss, fs. The first question is the set-up: radius, asic (2,), numbers.
"""

import importlib.util
import io
import sys
import sysconfig
from pathlib import Path

import numpy as np

MOST = 2000  # peaks per frame


def load():
    """The extension module alone, without the package around it."""
    (file,) = Path(sysconfig.get_path("platlib"), "psana").glob("peakfinder8.*.so")
    spec = importlib.util.spec_from_file_location("peakfinder8", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.peakfinder_8


def read(pipe):
    """The next npz, or None at the end."""
    length = pipe.read(8)
    return None if len(length) < 8 else np.load(io.BytesIO(pipe.read(int.from_bytes(length, "little"))))


def write(pipe, **arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    pipe.write(file.tell().to_bytes(8, "little") + file.getvalue())
    pipe.flush()


def main():
    find, inlet, outlet = load(), sys.stdin.buffer, sys.stdout.buffer
    setup = read(inlet)
    radius, (asic_ss, asic_fs) = setup["radius"], setup["asic"].tolist()
    asics = radius.shape[1] // asic_fs, radius.shape[0] // asic_ss
    adc, snr, least, most, reach = setup["numbers"].tolist()
    write(outlet, ready=np.array(1))
    while (asked := read(inlet)) is not None:
        rows = []
        for i, bad in enumerate(asked["masks"]):
            found = find(
                MOST, asked["frame"], (~bad).astype(np.int8), radius, asic_fs, asic_ss, *asics,
                adc, snr, int(least), int(most), int(reach),
            )  # fmt: skip
            rows += [(i, ss, fs) for fs, ss in zip(found[0], found[1])]
        write(outlet, peaks=np.array(rows, np.float32).reshape(-1, 3))


if __name__ == "__main__":
    main()
