"""How kernels are compiled, and where the compiled ones are kept.

Serial and without the interpreter lock: more speed means more workers, never parallel loops. `fast` allows sums to be
re-ordered, which vectorises them. It is a set, never True: True would remove isnan.
"""

import hashlib
import math
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import numba
import numpy as np
from numba.core.compiler import Compiler
from numba.extending import register_jitable
from numpy.typing import DTypeLike, NDArray

#: numba notices a change of the file that defines a kernel, but not of the kernels that it calls in other files: it would
#: go on with the old ones. So each state of this folder has a place of its own.
FINGERPRINT = hashlib.sha256(b"".join(f.read_bytes() for f in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[
    :12
]


def cache_directory() -> Path:
    """Where compiled kernels are kept: $NUMBA_CACHE_DIR, else $CACHE_DIRECTORY of systemd, else the user's cache."""
    given = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    place = given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rmm-stream")
    return Path(place, FINGERPRINT)


numba.config.CACHE_DIR = str(cache_directory())


class Apart(Compiler):
    """Compiles a kernel of which LLVM may know that no array it writes shares memory with another of its arguments.

    Otherwise it asks before every loop, which with a tile's rows of 64 pixels takes a seventh of F6."""

    def define_pipelines(self):
        self.state.flags.noalias = True
        return super().define_pipelines()


#: No kernel allocates, so that none has to count references to arrays, nor has a door for C: a sixth of compiling it.
exact = partial(
    numba.njit, nogil=True, cache=True, error_model="numpy", no_cfunc_wrapper=True, _nrt=False, pipeline_class=Apart
)
#: A small function that kernels share, compiled with the first of them and not for Python, which is half the cost of a
#: small one. Python runs it as it stands.
shared = register_jitable(nogil=True, error_model="numpy", no_cfunc_wrapper=True, _nrt=False)
#: Becomes part of its callers: compiled with each of them, and not once more for itself.
inlined = partial(exact, inline="always")
fast = partial(exact, fastmath={"contract", "afn", "arcp", "nsz", "reassoc"})
no_nan = partial(exact, fastmath={"contract", "afn", "arcp", "nsz", "reassoc", "nnan"})  # only where none can be


def load_without_blas() -> None:
    """Let numba load what it knows of numpy, but not scipy.linalg, which it imports only to see whether there is a BLAS.

    That import costs more than loading all kernels. Whoever calls BLAS in a kernel of their own still can: numba looks again
    then."""
    if "scipy.linalg" in sys.modules:
        return
    sys.modules["scipy.linalg"] = None  # Python's sign for what cannot be imported
    try:
        import_module("numba.np.arraymath")
    finally:
        del sys.modules["scipy.linalg"]


def read_only(a: NDArray) -> NDArray:
    """The same array, as those that sockets give: numba compiles one signature for it, wherever it comes from."""
    if not a.flags.writeable:
        return a
    view = a.view()
    view.setflags(write=False)
    return view


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """An array, uninitialised, that begins with a line of the cache (64 bytes), so that no vector of it lies in two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + 63, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + size].view(dtype).reshape(shape)
