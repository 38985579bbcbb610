"""karabo-bridge: every legal layout is read right, everything else is refused with the right reason."""

import struct
import tracemalloc
from dataclasses import replace

import hostile
import msgpack
import numpy as np
import pytest
from builders import (
    DARK,
    NOW,
    SAYS_EXPOSURE,
    TINY,
    TINY_CALIBRATED,
    TINY_PACKED,
    TINY_SOURCE,
    assert_same_batch,
    karabo_message,
    make_batch,
    make_train,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from karabo_bridge.serializer import deserialize, serialize
from msgspec.structs import replace as having

from rmm_stream.config import ExposureSettings, Source
from rmm_stream.errors import ConfigError, ProtocolError
from rmm_stream.frames import Exposure, Illumination
from rmm_stream.wire.decoder import NO_MODULE, REASONS
from rmm_stream.wire.karabo import KaraboDecoder, encode
from rmm_stream.wire.karabo_message import stamp, write

VERSIONS = ("2.2", "1.0")
STACKED = Source(name="TINY/DET/STACKED:xtdf", axes="cell module ss fs")

#: Values of msgpack that hold no others.
ATOMS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary()


def decoder(spec=TINY, source=TINY_SOURCE, exposure=ExposureSettings(), modules=None):
    return KaraboDecoder(spec, source, exposure, range(spec.modules) if modules is None else modules)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "source",
    [
        TINY_SOURCE,
        having(TINY_SOURCE, axes="fs ss cell"),
        having(TINY_SOURCE, axes="ss fs cell"),
        having(TINY_SOURCE, axes="cell fs ss"),
        having(TINY_SOURCE, axes="fs cell ss"),
        having(TINY_SOURCE, axes="ss cell fs", gain_axes="fs ss cell"),
        having(TINY_SOURCE, axes="cell kind ss fs", gain_key=""),
        having(TINY_SOURCE, name="TINY/DET/{module:02d}", cell_key=""),
        STACKED,
        having(STACKED, axes="module fs ss cell"),
        having(STACKED, axes="module cell kind ss fs"),
    ],
    ids=lambda source: source.axes + source.gain_axes,
)
def test_every_layout_becomes_cell_ss_fs(source, version):
    train = make_train()
    found = decoder(source=source).decode(karabo_message(train, source=source, version=version))
    assert not found.rejected
    assert len(found.batches) == 2
    for batch, expected in zip(found.batches, train):
        assert_same_batch(batch, expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_serialiser_is_understood(version):
    train = make_train(train_id=1234)
    sources, metadata = {}, {}
    for batch in train:
        name = TINY_SOURCE.name.format(module=batch.module)
        sources[name] = {
            "image.data": np.asfortranarray(batch.pixels),
            "image.gain": batch.gain,
            "image.cellId": batch.cell[:, None],
            "image.trainId": batch.train_id,
            "image.passport": ["a", "b"],
            "header.pulseCount": np.uint64(3),
        }
        metadata[name] = stamp(name, 1234, NOW)
    found = decoder().decode(serialize(sources, metadata, protocol_version=version))
    for batch, expected in zip(found.batches, train):
        assert_same_batch(batch, expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_deserialiser_understands_the_encoder(version):
    train = make_train(exposure=DARK)
    data, metadata = deserialize(encode(train, TINY, TINY_SOURCE, SAYS_EXPOSURE, version))
    assert sorted(data) == ["TINY/DET/0CH0:xtdf", "TINY/DET/1CH0:xtdf", "TINY/EXP/STATE"]
    for batch in train:
        name = TINY_SOURCE.name.format(module=batch.module)
        np.testing.assert_array_equal(data[name]["image.data"], batch.pixels)
        np.testing.assert_array_equal(data[name]["image.gain"], batch.gain)
        np.testing.assert_array_equal(data[name]["image.cellId"], batch.cell)
        assert metadata[name] == {
            "source": name,
            "timestamp": NOW,
            "timestamp.tid": 1000,
            "timestamp.sec": "1700000000",
            "timestamp.frac": "250000000000000000",
        }
    assert data["TINY/EXP/STATE"]["illumination.value"] == "dark"
    assert data["TINY/EXP/STATE"]["gainStage.value"] == 0


def test_the_encoder_writes_the_bytes_of_the_real_serialiser():
    train = make_train()
    ours = [bytes(part) for part in encode(train, TINY, TINY_SOURCE)]
    data, metadata = deserialize(ours)
    assert ours == [bytes(part) for part in serialize(data, metadata)]


@pytest.mark.parametrize("version", VERSIONS)
def test_gain_code_in_the_word_is_split_and_modules_are_numbered_from_one(version):
    source = Source(name="TINY/DET/JNGFR{module:02d}:daqOutput", image_key="data.adc", cell_key="", axes="ss fs")
    train = make_train(TINY_PACKED)
    train[1].gain[0, :8] = 3
    message = karabo_message(train, TINY_PACKED, source, version=version)
    assert any(b"JNGFR02" in part for part in message)
    assert not any(b"JNGFR00" in part for part in message)
    found = decoder(TINY_PACKED, source).decode(message)
    for batch, expected in zip(found.batches, train):
        assert_same_batch(batch, expected)


def test_a_detector_without_cells_may_send_many_frames_and_no_cell_ids():
    source = Source(name="TINY/DET/{module}", cell_key="image.cellId")
    batch = make_batch(TINY_PACKED, n=5)
    parts = karabo_message([batch], TINY_PACKED, having(source, cell_key=""))
    (found,) = decoder(TINY_PACKED, source).decode(parts).batches
    np.testing.assert_array_equal(found.cell, np.zeros(5))


def test_a_gain_array_of_one_frame_does_not_serve_many():
    source = Source(name="TINY/DET/{module}", cell_key="", gain_axes="ss fs")
    spec = replace(TINY_PACKED, packed=0)
    batch = make_batch(spec, n=5)
    name = "TINY/DET/1"
    values = {"image.data": batch.pixels, "image.gain": batch.gain[0]}
    with pytest.raises(ProtocolError, match="5 frames") as refused:
        decoder(spec, source).decode(write({name: values}, {name: stamp(name, 1, NOW)}))
    assert refused.value.reason == "shape"


def test_the_source_of_a_detector_of_one_module_needs_no_number():
    spec = replace(TINY, modules=1)
    source = having(TINY_SOURCE, name="TINY/DET/ONLY")
    found = decoder(spec, source).decode(karabo_message([make_batch()], spec, source))
    assert_same_batch(found.batches[0], make_batch())


def test_where_the_stream_has_no_cell_ids_frames_are_numbered():
    source = having(TINY_SOURCE, cell_key="")
    parts = karabo_message([make_batch(cell=[2, 0, 1])], source=source)
    (found,) = decoder(source=source).decode(parts).batches
    np.testing.assert_array_equal(found.cell, [0, 1, 2])


def test_cell_ids_are_taken_from_the_stream_not_from_the_place_in_the_train():
    (found,) = decoder().decode(karabo_message([make_batch(cell=[2, 0, 1])])).batches
    np.testing.assert_array_equal(found.cell, [2, 0, 1])


def test_frames_that_fit_are_not_copied():
    parts = encode([make_batch()], TINY, TINY_SOURCE)
    (found,) = decoder().decode(parts).batches
    sent = [np.frombuffer(part, np.uint8) for part in parts]
    assert any(np.shares_memory(found.pixels, part) for part in sent)
    assert any(np.shares_memory(found.gain, part) for part in sent)


def test_what_is_handed_on_cannot_be_written_to():
    for axes in ("cell ss fs", "fs ss cell"):
        source = having(TINY_SOURCE, axes=axes)
        (found,) = decoder(source=source).decode(karabo_message([make_batch()], source=source)).batches
        for array in (found.pixels, found.gain, found.cell, found.train_id, found.complete):
            assert not array.flags.writeable


def test_calibrated_frames_without_a_finite_pixel_are_refused():
    batch = make_batch(TINY_CALIBRATED)
    batch.pixels[1] = np.nan
    batch.pixels[2] = np.inf
    batch.pixels[2, 63, 31] = 1.0
    found = decoder(TINY_CALIBRATED).decode(karabo_message([batch], TINY_CALIBRATED))
    assert found.rejected == {(0, "not_finite"): 1}
    assert_same_batch(found.batches[0], replace_frames(batch, [0, 2]))


def replace_frames(batch, keep):
    names = ("pixels", "cell", "train_id", "complete")
    gain = None if batch.gain is None else batch.gain[keep]
    return replace(batch, gain=gain, **{name: getattr(batch, name)[keep] for name in names})


def test_frames_of_unknown_cells_do_not_take_the_others_with_them():
    batch = make_batch()
    parts = hostile.karabo_train(cellId=np.array([0, 999, 2], np.uint16))
    found = decoder().decode(parts)
    assert found.rejected == {(0, "cell_range"): 1}
    assert_same_batch(found.batches[0], replace_frames(batch, [0, 2]))


def test_one_bad_module_does_not_take_the_others_with_it():
    (case,) = [case for case in hostile.karabo_2_2() if case.name == "one module of two is cut"]
    found = decoder().decode(case.parts)
    assert found.rejected == {(0, "truncated"): 1}
    assert [fault.reason for fault in found.faults] == ["truncated"]
    assert_same_batch(found.batches[0], make_batch(module=1))


def test_other_processes_modules_are_ignored_and_foreign_sources_are_counted():
    parts = karabo_message() + [
        bytes(part) for part in write({"XGM/A": {"x": 1.5}, "XGM/B": {}}, {"XGM/A": {}, "XGM/B": {"odd": [{}]}})
    ]
    found = decoder(modules=[1]).decode(parts)
    assert [batch.module for batch in found.batches] == [1]
    assert found.rejected == {(NO_MODULE, "unknown_source"): 2}
    assert "XGM/A" in str(found.faults[0])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("exposure", [DARK, Exposure(Illumination.FLAT), Exposure(Illumination.UNKNOWN)])
def test_the_stream_announces_the_exposure(exposure, version):
    train = make_train(exposure=exposure)
    found = decoder(exposure=SAYS_EXPOSURE).decode(karabo_message(train, exposure=SAYS_EXPOSURE, version=version))
    assert not found.rejected
    assert [(batch.exposure, batch.labelled_by) for batch in found.batches] == [(exposure, "stream")] * 2


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"illumination.value": "moonlight"}, "mistyped"),
        ({"illumination.value": 3}, "mistyped"),
        ({"illumination.value": ["dark"]}, "mistyped"),
        ({"illumination.value": np.zeros(4)}, "mistyped"),
        ({"illumination.value": "dark", "gainStage.value": 2}, "mistyped"),
        ({"illumination.value": "dark", "gainStage.value": True}, "mistyped"),
        ({"illumination.value": "dark", "gainStage.value": "high"}, "mistyped"),
        ({"gainStage.value": 0}, "missing"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_announcement_that_cannot_be_read_is_counted_and_costs_no_frame(values, reason, version):
    sources, metadata = hostile.sources_of()
    sources[SAYS_EXPOSURE.source], metadata[SAYS_EXPOSURE.source] = values, {}
    found = decoder(exposure=SAYS_EXPOSURE).decode(write(sources, metadata, version))
    assert found.rejected == {(NO_MODULE, reason): 1}
    assert [batch.exposure for batch in found.batches] == [None]
    assert found.faults[0].reason == reason


@pytest.mark.parametrize(("stage", "expected"), [(-1, None), (None, None), (np.int32(1), 1), (np.array([1]), 1)])
def test_a_negative_or_absent_stage_means_that_pixels_switch(stage, expected):
    values = {"illumination.value": "sample"} | ({} if stage is None else {"gainStage.value": stage})
    for version in VERSIONS:
        sources, metadata = hostile.sources_of()
        sources[SAYS_EXPOSURE.source], metadata[SAYS_EXPOSURE.source] = values, {}
        parts = serialize(sources, metadata, protocol_version=version)
        (batch,) = decoder(exposure=SAYS_EXPOSURE).decode(parts).batches
        assert batch.exposure == Exposure(Illumination.SAMPLE, expected)


def test_time_comes_from_the_float_then_from_seconds_then_from_the_arrival():
    def time(received=None, **changes):
        return decoder().decode(hostile.karabo_train(**changes), received).batches[0].timestamp

    assert time() == NOW
    assert time(timestamp=None, sec="1600000000", frac="500000000000000000") == 1_600_000_000.5
    assert time(timestamp=None, sec="1600000000", frac=None) == 1_600_000_000.0
    assert time(1_500_000_000.0, timestamp=None, sec=None) == 1_500_000_000.0
    with pytest.raises(ProtocolError) as refused:
        time(timestamp=None, sec=None)
    assert refused.value.reason == "time"


@pytest.mark.parametrize(
    "late", [{"timestamp": NOW + 3601}, {"timestamp": None, "sec": str(int(NOW) + 3602)}], ids=["float", "seconds"]
)
def test_a_time_more_than_an_hour_ahead_of_the_arrival_is_refused_and_says_whose_clock(late):
    parts = hostile.karabo_train(**late)
    with pytest.raises(ProtocolError, match="compare the clocks") as refused:
        decoder().decode(parts, NOW)
    assert refused.value.reason == "time"
    assert decoder().decode(parts).batches, "the arrival is not known"
    assert decoder().decode(parts, NOW + 100).batches


def test_a_recording_of_any_age_is_taken():
    (batch,) = decoder().decode(hostile.karabo_train(), NOW + 20 * 365 * 86400).batches
    assert batch.timestamp == NOW


def test_without_a_train_id_in_the_metadata_that_of_the_frames_is_taken():
    ids = np.array([7, 7, 8], np.uint64)
    (found,) = decoder().decode(hostile.karabo_train(tid=None, trainId=ids)).batches
    np.testing.assert_array_equal(found.train_id, ids)
    (found,) = decoder().decode(hostile.karabo_train(tid=None, trainId=ids[:1])).batches
    np.testing.assert_array_equal(found.train_id, [7, 7, 7])


@pytest.mark.parametrize("case", hostile.anything() + hostile.karabo_2_2() + hostile.karabo_1_0(), ids=lambda c: c.name)
def test_hostile_messages_are_refused_with_their_reason(case):
    assert case.reason in REASONS
    if case.whole:
        with pytest.raises(ProtocolError) as refused:
            decoder().decode(case.parts, NOW)
        assert refused.value.reason == case.reason
        assert len(str(refused.value)) < 1000
    else:
        assert case.reason in {reason for _, reason in decoder().decode(case.parts, NOW).rejected}


@pytest.mark.parametrize("container", [b"\x90", b"\x80"], ids=["lists", "maps"])
def test_a_1_0_message_of_empty_containers_does_not_use_up_the_memory(container):
    message = hostile.many_empty(container, 500)  # 2 MiB, which would become more than 130 MiB
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="entries in maps and lists"):
            decoder().decode([message], NOW)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_refused_shape_says_what_to_correct():
    with pytest.raises(ProtocolError, match=r"\[3, 32, 64\].*cell any, ss 64, fs 32.*source\.axes"):
        decoder().decode(hostile.karabo_train(data=np.zeros((3, 32, 64), np.uint16)))


@pytest.mark.parametrize(
    ("spec", "source", "said"),
    [
        (TINY, having(TINY_SOURCE, name="TINY/DET"), "source.name"),
        (TINY, having(TINY_SOURCE, name="TINY/{channel}"), "source.name"),
        (TINY, having(TINY_SOURCE, name="TINY/{module.real}"), "source.name"),
        (TINY, having(TINY_SOURCE, name="TINY/{module"), "source.name"),
        (TINY, having(TINY_SOURCE, name="TINY/{module:s}"), "source.name"),
        (TINY, having(TINY_SOURCE, name="TINY/{}"), "source.name"),
        (TINY, having(STACKED, name=TINY_SOURCE.name), "source.axes"),
        (TINY, having(STACKED, gain_axes="cell ss fs"), "source.name"),
        (TINY, having(TINY_SOURCE, axes="ss fs", cell_key=""), "source.cell_key"),
    ],
)
def test_a_source_that_contradicts_the_detector_is_a_config_error(spec, source, said):
    with pytest.raises(ConfigError, match=said):
        decoder(spec, source)


GOOD = {version: karabo_message(exposure=SAYS_EXPOSURE, version=version) for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_mutated_messages_give_frames_or_a_protocol_error(version, data):
    found = hostile.decode_or_refuse(decoder(exposure=SAYS_EXPOSURE), mutate(data, GOOD[version]))
    for batch in found.batches if found else ():
        n = len(batch)
        assert batch.module in (0, 1)
        assert batch.pixels.shape == batch.gain.shape == (n, 64, 32)
        assert n > 0
        assert batch.cell.shape == batch.train_id.shape == batch.complete.shape == (n,)
        assert batch.pixels.dtype == np.uint16
        assert batch.cell.max() < 3


def mutate(data, parts):
    """One to three small accidents to a message, mostly in the first bytes of a part, where the meaning is."""
    parts = [bytearray(part) for part in parts]
    for _ in range(data.draw(st.integers(1, 3))):
        if not parts:
            break
        place = data.draw(st.integers(0, len(parts) - 1))
        part = parts[place]
        kind = data.draw(st.sampled_from(["byte", "byte", "byte", "cut", "insert", "drop", "twice", "swap", "huge"]))
        at = data.draw(st.integers(0, min(len(part), 400)))
        if kind == "byte" and at < len(part):
            part[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del part[at:]
        elif kind == "insert":
            part[at:at] = data.draw(st.binary(max_size=8))
        elif kind == "drop":
            del parts[place]
        elif kind == "twice":
            parts.insert(place, part)
        elif kind == "swap":
            other = data.draw(st.integers(0, len(parts) - 1))
            parts[place], parts[other] = parts[other], parts[place]
        elif kind == "huge":
            part[at : at + 5] = struct.pack(">BI", data.draw(st.sampled_from([0xDD, 0xDF, 0xC6, 0xDB])), 0xFFFFFFFF)
    return [bytes(part) for part in parts]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    value=ATOMS
    | st.lists(ATOMS, max_size=3)
    | st.dictionaries(st.text(max_size=3), ATOMS | st.lists(ATOMS), max_size=3),
    key=st.sampled_from(
        [
            "image.data",
            "image.gain",
            "image.cellId",
            "image.trainId",
            "metadata",
            "timestamp.tid",
            "timestamp",
            "timestamp.sec",
            "timestamp.frac",
            "b:nd",
            "b:type",
            "b:kind",
            "b:shape",
            "b:data",
        ]
    ),
)
def test_any_value_in_any_place_of_a_1_0_message_is_survived(key, value):
    tree = msgpack.unpackb(GOOD["1.0"][0])
    source = tree[hostile.NAME]
    if key.startswith("b:"):
        source["image.data"][key[2:].encode()] = value
    elif key.startswith("timestamp"):
        source["metadata"][key] = value
    else:
        source[key] = value
    found = decoder(exposure=SAYS_EXPOSURE).decode([msgpack.packb(tree)], NOW)
    assert found.batches[-1].module == 1
    assert {reason for _, reason in found.rejected} <= set(REASONS)
