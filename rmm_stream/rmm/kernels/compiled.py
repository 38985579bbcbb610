"""How kernels are compiled. Serial and without the interpreter lock: more speed means more workers, never parallel loops.

`fast` allows sums to be re-ordered, which vectorises them. It is a set, never True: True would remove isnan.
"""

from functools import partial

from numba import njit

exact = partial(njit, nogil=True, cache=True, error_model="numpy")
fast = partial(exact, fastmath={"contract", "afn", "arcp", "nsz", "reassoc"})
