"""Changes, updates, heartbeats and snapshots of a small mask, for the tests of wire, client and publisher."""

import numpy as np

from rmm_stream.mask import BadPixel, MapChange, MapKey, MaskUpdate
from rmm_stream.shard import Shard
from rmm_stream.wire import masks as wire

LAYOUT = wire.Layout(stages=2, cells=3, ss=4, fs=6)
SHARD = Shard(0, 0, 2)
BEAT_S = 1.0


def change(value=1, module=0, gain_stage=0, cell=0, judged=3, shape=(4, 6), train_id=77) -> MapChange:
    flags = np.full(shape, value, np.uint8)
    flags.flags.writeable = False
    return MapChange(MapKey(module, gain_stage, cell), flags, BadPixel(judged), 300, train_id, 1.7e9, 5, 1)


def update(sequence=1, what=None, generation=1, epoch="a", shard=SHARD, detector="tiny", version=0) -> MaskUpdate:
    what = change(module=shard.module, cell=shard.first) if what is None else what
    return MaskUpdate(detector, shard.name, generation, epoch, sequence, version, "abc", what)


def standing(
    sequence=0, generation=1, epoch="a", shard=SHARD, detector="tiny", version=0, layout=LAYOUT
) -> wire.Standing:
    return wire.Standing(detector, shard.name, generation, epoch, sequence, version, 77, BEAT_S, layout)


def update_parts(it: MaskUpdate) -> list[bytes]:
    return [wire.mask_topic(it.detector, it.change.key.module), wire.encode_update(it)]


def beat_parts(it: wire.Standing, kind="beat", requests="tcp://127.0.0.1:5611") -> list[bytes]:
    return [wire.beat_topic(it.detector, it.shard), wire.encode_heartbeat(wire.Heartbeat(kind, it, requests))]


def snapshot(it: wire.Standing, maps=(), shards=()) -> bytes:
    packed = wire.pack_maps([wire.encode_update(each) for each in maps])
    return wire.encode_snapshot(it, list(shards) or [it.shard], packed)
