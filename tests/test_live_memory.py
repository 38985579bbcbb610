"""Allocator settings, and what a configuration is said to need beside the statistics."""

import resource
import subprocess
import sys

import numpy as np
from builders import TINY, make_batch

from rmm_stream.config import parse
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.live import memory
from rmm_stream.rmm import MaskMaker

AGIPD = parse('[detector]\nname = "agipd1m"\n[shards]\nmodules = [0]\n')


def test_an_agipd_module_train_is_92_megabytes():
    assert memory.message_bytes(AGIPD) == 352 * 512 * 128 * 2 * 2


def test_a_source_of_all_modules_sends_them_in_one_message():
    stacked = parse('[detector]\nname = "agipd1m"\n[source]\nname = "DET/APPEND"\naxes = "cell module ss fs"\n')
    assert memory.message_bytes(stacked) == 16 * memory.message_bytes(AGIPD)


def test_a_packed_gain_takes_no_room():
    assert memory.message_bytes(parse('[detector]\nname = "jungfrau05m"\n')) == 512 * 1024 * 2


def test_messages_in_memory_are_those_of_zeromq_of_the_queue_and_those_that_the_worker_holds():
    config = parse(
        '[detector]\nname = "agipd1m"\n[source]\nhwm = 3\nqueue = 2\nendpoint = ["tcp://127.0.0.1:1", "ipc://x"]\n'
    )
    assert memory.buffers(config) == 2 * (3 + 1) + 2 + 8 + 1, "a block waits, uncopied"
    wide = parse('[detector]\nname = "x"\nmodules = 1\nmodule_shape = [64, 64]\nasic_shape = [64, 64]\nbits = 16\n')
    assert memory.buffers(wide) == wide.source.hwm + 1 + wide.source.queue + 1


def test_the_plan_has_the_program_and_the_messages_beside_the_statistics():
    parts = {part.part: part for part in memory.plan(AGIPD)}
    assert parts["messages"].size == memory.message_bytes(AGIPD) * memory.buffers(AGIPD)
    assert 50e6 < parts["program"].size < 2e9
    statistics = sum(p.size for p in parts.values() if not p.on_top and p.part not in ("messages", "program"))
    assert 2.9e9 < statistics <= 3.7e9


def test_nothing_is_held_before_the_first_frame_and_12_bytes_a_pixel_after():
    maker = MaskMaker(TINY)
    assert {part: size for part, size in memory.held(maker).items() if part != "resident"} == {
        "dark_value": 0, "dark_indicator": 0, "flat": 0, "sample": 0,
    }  # fmt: skip
    maker.feed(make_batch(exposure=Exposure(Illumination.DARK, 0)))
    maker.fold()
    held = memory.held(maker)
    pixels = TINY.cells * TINY.module_shape[0] * TINY.module_shape[1]
    for quantity in ("dark_value", "dark_indicator"):
        assert 12 * pixels <= held[quantity] < 12.2 * pixels


def test_touching_is_bounded_by_the_machine(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 20 << 20)
    monkeypatch.setattr(memory, "PIECE", 3 << 20)
    assert memory.touch(4 << 20) == 4 << 20
    assert memory.touch(4000 << 20) == 10 << 20
    assert memory.touch(0) == 0


def test_what_any_run_needs_is_touched_at_the_start():
    at_start, pixels = memory.at_start(AGIPD), 512 * 128 * 352
    assert at_start == memory.message_bytes(AGIPD) * memory.buffers(AGIPD) + pixels * (3 * 2 * 12 + 61)


def test_a_tuned_process_keeps_what_it_frees():
    """In a process of its own: the settings cannot be taken back. The second round of buffers finds its pages mapped."""
    code = (
        "import resource, numpy as np\n"
        "from rmm_stream.live import memory\n"
        "tuned = memory.tune()\n"
        "memory.touch(32 << 20)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(8): np.ones(8 << 20, np.uint8)\n"
        "print(int(tuned), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    tuned, faults = map(
        int, subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split()
    )
    if tuned:
        assert faults < 8 * (8 << 20) / resource.getpagesize() / 10
    assert np.isfinite(faults)
