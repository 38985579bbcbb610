"""How kernels are compiled: what LLVM is told of their arguments."""

import re

import numpy as np

from rmm_stream.rmm.kernels import compiled


def double_into(x, out):
    for i in range(out.size):
        out[i] = np.float32(2) * x[i]


def test_llvm_knows_that_arrays_of_a_kernel_share_no_memory():
    """A flag inside numba: should it lose its meaning, each loop asks whether arrays overlap, and kernels slow down."""
    kernel = compiled.fast(cache=False)(double_into)
    x, out = np.arange(64, dtype=np.float32), np.empty(64, np.float32)
    kernel(x, out)
    assert (out == 2 * x).all()
    (llvm,) = kernel.inspect_llvm().values()
    head = next(line for line in llvm.splitlines() if line.startswith("define"))
    said_of_data = re.findall(r"ptr ([^%]*)%arg\.(?:x|out)\.4", head)
    assert len(said_of_data) == 2
    assert all("noalias" in said for said in said_of_data)
