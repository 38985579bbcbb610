"""Shards: names that are part of the wire, and splitting a range of cells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmm_stream.errors import ConfigError
from rmm_stream.shard import Shard

shards = st.builds(lambda m, a, n: Shard(m, a, a + n), st.integers(0, 200), st.integers(0, 2000), st.integers(0, 2000))


@given(shards)
def test_a_name_parses_to_its_shard(shard):
    assert Shard.parse(shard.name) == shard


def test_a_name_is_what_the_wire_says():
    assert Shard(3, 0, 175).name == "m03-c000-175"
    assert Shard(3, 0, 175).cells == range(176)


@pytest.mark.parametrize(
    "name",
    [
        "", "m03", "m03-c000", "m03-c000-175 ", "m03-c000-175\n", " m03-c000-175", "m3-c000-175", "m03-c0-175", "m003-c000-175",
        "m03-c176-175", "m-3-c000-175", "M03-c000-175", "m03-c000-175-", "m\u0660\u0663-c000-175", "m03-c000--1",
    ],
)  # fmt: skip
def test_what_no_shard_is_called_is_refused(name):
    with pytest.raises(ConfigError, match="m03-c000-175"):
        Shard.parse(name)


@given(shards, st.integers(-3, 50))
def test_parts_are_the_whole_and_nearly_equal(shard, parts):
    split = shard.split(parts)
    assert [c for s in split for c in s.cells] == list(shard.cells)
    assert len(split) == max(1, min(parts, len(shard.cells)))
    sizes = [len(s.cells) for s in split]
    assert max(sizes) - min(sizes) <= 1
    assert {s.module for s in split} == {shard.module}
