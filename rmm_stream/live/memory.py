"""Allocator settings for large messages, and what a configuration needs, part by part.

With default settings the allocator returns each train to the system and takes page faults for the next: that alone loses
frames. Call `tune` and `touch` before the first socket opens; `plan` is what `check` prints.
"""

import ctypes

import numpy as np

from ..config import Config
from ..rmm.kernels.blocks import BLOCK
from ..rmm.memory import Part
from ..rmm.memory import plan as plan_maker

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
GIB = 1 << 30
PROGRAM = "program"
PAGE = 4096
PIECE = 1 << 28  # bytes, below the size that the allocator would take from the system and give back each time


def tune() -> bool:
    """Keep freed buffers in the process, in one arena: mallopt. Returns False, quietly, where there is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_THRESHOLD, GIB), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1))
    done = [mallopt(key, value) for key, value in settings]  # all of them, also when one is refused
    return all(done)


def touch(nbytes: int) -> int:
    """Allocate and free so many bytes, writing to each page, so that trains and statistics find them mapped.

    The first write to a page costs more than all that is done with it later: statistics that come with the first lit train
    would cost the trains behind it. Never more than half of what the machine has left. Returns the bytes touched.
    """
    nbytes = min(nbytes, available_memory() // 2)
    held = []
    while nbytes > 0:
        piece = np.empty(min(nbytes, PIECE), np.uint8)
        piece[::PAGE] = 0
        held.append(piece)
        nbytes -= piece.nbytes
    return sum(piece.nbytes for piece in held)


def machine_memory(entry: str = "MemTotal") -> int:
    """Bytes of memory that the machine has; 8 GiB where it does not say."""
    try:
        with open("/proc/meminfo") as info:
            return int(next(line for line in info if line.startswith(entry)).split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return 8 * GIB


def available_memory() -> int:
    """Bytes of memory that the machine has left."""
    return machine_memory("MemAvailable")


def message_bytes(config: Config) -> int:
    """Bytes of one message as configured: every memory cell of one module, with its indicator.

    A source without "{module}" in its name stacks all modules of the detector into one message.
    """
    spec = config.detector.spec()
    frame = spec.module_shape[0] * spec.module_shape[1] * spec.dtype.itemsize
    planes = 2 if spec.gain == "analogue" or (spec.gain == "code" and not spec.packed) else 1
    modules = 1 if "{module}" in config.source.name or config.source.protocol == "native" else spec.modules
    return frame * planes * spec.cells * modules


def buffers(config: Config) -> int:
    """Messages that may be in memory at once: ZeroMQ's, the queue's, the receiver's, and the worker's, which holds blocks."""
    worker = BLOCK + 1 if config.detector.spec().narrow else 1
    return len(config.source.endpoints) * (config.source.hwm + 1) + config.source.queue + worker


def plan(config: Config) -> list[Part]:
    """What the whole service will need: the program, the messages in flight, and the parts of the maker."""
    spec = config.detector.spec()
    in_flight = Part("messages", f"start: {buffers(config)} in flight", message_bytes(config) * buffers(config), False)
    program = Part(PROGRAM, "start, kernels compiled", resident(), False)
    return [program, in_flight, *plan_maker(spec, len(config.modules), len(config.cells), config.settings)]


def at_start(config: Config) -> int:
    """Bytes of the messages in flight and of the statistics of darks and flats: what any run needs."""
    return sum(part.size for part in plan(config) if not part.on_top and part.part != PROGRAM)


def resident() -> int:
    """Bytes of memory that this process occupies; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as counts:
            return int(counts.read().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0


def held(maker) -> dict[str, int]:
    """Bytes that the statistics of a MaskMaker occupy at this moment, by kind."""
    parts = {"dark_value": 0, "dark_indicator": 0, "flat": 0, "sample": 0}
    for key, stats in maker.segments.dark.items():  # as they are, without what waits to be folded
        parts[f"dark_{key.quantity}"] += _arrays(stats)
    for key, stats in maker.lit.items():
        parts[key.illumination.value] += _arrays(stats)
    return {**parts, "resident": resident()}


def _arrays(stats) -> int:
    """Bytes of all arrays that some statistics hold, in attributes and in tables of them."""
    values = [*vars(stats).values()]
    values += [inner for value in values if isinstance(value, dict) for inner in value.values()]
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))
