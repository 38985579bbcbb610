"""The native frame protocol: what is encoded is decoded; everything else is refused with the right reason."""

import re
from dataclasses import replace
from pathlib import Path

import hostile
import msgpack
import numpy as np
import pytest
from builders import DARK, NOW, TINY, TINY_CALIBRATED, TINY_PACKED, assert_same_batch, make_batch, native_message
from hypothesis import given, settings
from hypothesis import strategies as st
from test_karabo import mutate

from rmm_stream.config import ExposureSettings, Source, parse
from rmm_stream.errors import ProtocolError
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.wire import make_decoder
from rmm_stream.wire.decoder import REASONS
from rmm_stream.wire.karabo import KaraboDecoder
from rmm_stream.wire.native import NativeDecoder, encode

#: Values of msgpack that hold no others.
ATOMS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary()


def decoder(spec=TINY, modules=(0, 1)):
    return NativeDecoder(spec, Source(), ExposureSettings(), modules)


@pytest.mark.parametrize("spec", [TINY, TINY_PACKED, TINY_CALIBRATED], ids=lambda spec: spec.name)
@pytest.mark.parametrize("exposure", [None, DARK, Exposure(Illumination.SAMPLE)])
def test_what_is_encoded_is_decoded(spec, exposure):
    batch = make_batch(spec, 1, n=5, exposure=exposure)
    found = decoder(spec).decode(encode(batch, spec.name))
    assert not found.rejected
    assert_same_batch(found.batches[0], batch)


def test_frames_of_many_trains_and_incomplete_ones_travel_too():
    batch = replace(
        make_batch(),
        train_id=np.array([5, 6, 2**63 - 1], np.uint64),
        complete=np.array([True, False, True]),
    )
    assert_same_batch(decoder().decode(encode(batch, "tiny")).batches[0], batch)


def test_pixels_are_copied_neither_out_nor_in():
    batch = make_batch()
    parts = encode(batch, "tiny")
    (found,) = decoder().decode(parts).batches
    assert np.shares_memory(found.pixels, batch.pixels)
    assert np.shares_memory(found.gain, batch.gain)
    assert not found.pixels.flags.writeable


def test_other_processes_modules_are_ignored():
    found = decoder(modules=[1]).decode(native_message(make_batch(module=0)))
    assert found == ([], {}, ())


def test_unknown_header_keys_are_skipped():
    parts = native_message()
    parts[0] = msgpack.packb(msgpack.unpackb(parts[0]) | {"temperature": [1, {"K": 250}]})
    assert_same_batch(decoder().decode(parts).batches[0], make_batch())


def test_a_time_more_than_an_hour_ahead_of_the_arrival_is_refused_and_any_past_is_not():
    parts = native_message(make_batch(timestamp=NOW + 3601))
    with pytest.raises(ProtocolError, match="compare the clocks") as refused:
        decoder().decode(parts, NOW)
    assert refused.value.reason == "time"
    for arrival in (None, NOW + 100, NOW + 20 * 365 * 86400):
        assert decoder().decode(parts, arrival).batches[0].timestamp == NOW + 3601


def test_calibrated_frames_without_a_finite_pixel_are_refused():
    batch = make_batch(TINY_CALIBRATED)
    batch.pixels[1] = np.nan
    found = decoder(TINY_CALIBRATED).decode(encode(batch, "tinycal"))
    assert found.rejected == {(0, "not_finite"): 1}
    np.testing.assert_array_equal(found.batches[0].cell, [0, 2])


@pytest.mark.parametrize("case", hostile.anything() + hostile.native(), ids=lambda case: case.name)
def test_hostile_messages_are_refused_with_their_reason(case):
    assert case.reason in REASONS
    if case.whole:
        with pytest.raises(ProtocolError) as refused:
            decoder().decode(case.parts, NOW)
        assert refused.value.reason == case.reason
        assert len(str(refused.value)) < 1000
    else:
        assert case.reason in {reason for _, reason in decoder().decode(case.parts, NOW).rejected}


GOOD = native_message(make_batch(exposure=DARK))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_mutated_messages_give_frames_or_a_protocol_error(data):
    found = hostile.decode_or_refuse(decoder(), mutate(data, GOOD))
    for batch in found.batches if found else ():
        n = len(batch)
        assert batch.pixels.shape == (n, 64, 32)
        assert batch.gain is None or batch.gain.shape == (n, 64, 32)
        assert batch.cell.shape == batch.train_id.shape == batch.complete.shape == (n,)
        assert n > 0
        assert batch.cell.max() < 3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    key=st.sampled_from(sorted(msgpack.unpackb(GOOD[0]))),
    value=ATOMS | st.lists(ATOMS | st.lists(ATOMS, max_size=2), max_size=4),
)
def test_any_value_in_any_header_field_is_survived(key, value):
    header = msgpack.packb(msgpack.unpackb(GOOD[0]) | {key: value})
    found = hostile.decode_or_refuse(decoder(), [header, *GOOD[1:]])
    assert found is None or found.batches or found.rejected


@pytest.mark.parametrize(("protocol", "expected"), [("karabo", KaraboDecoder), ("native", NativeDecoder)])
def test_the_configuration_chooses_the_decoder(protocol, expected):
    made = make_decoder(
        parse(f'[detector]\nname = "agipd1m"\n[source]\nprotocol = "{protocol}"\n[shards]\nmodules = [3]')
    )
    assert type(made) is expected
    assert made.modules == {3}


def documented_header() -> bytes:
    """The bytes of the example in docs/wire-frames.md: keys and values from its two columns, without the comments."""
    page = (Path(__file__).parents[1] / "docs" / "wire-frames.md").read_text()
    example = page.split("```")[1]
    found = re.findall(r"(?:(?<=\s)|^)((?:[0-9a-f]{2} )*[0-9a-f]{2})(?=\s|$)", example, re.MULTILINE)
    return bytes.fromhex(" ".join(found))


def test_the_documented_bytes_are_what_is_written_and_read():
    batch = replace(make_batch(n=2, cell=[0, 1], exposure=DARK), gain=None)
    header, pixels = native_message(batch)
    assert header == documented_header()
    assert_same_batch(decoder().decode([documented_header(), pixels]).batches[0], batch)
