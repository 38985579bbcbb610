"""The demo's consumer: its peak rule, its own offset, and the clock that notes when a pixel was flagged."""

import numpy as np
from builders import TINY, make_batch

from rmm_stream.cli.peak_counter import above, count_groups
from rmm_stream.cli.peaks import FlagClock, Followed, Pedestal, load, save
from rmm_stream.mask import BadPixel, MapChange, MapKey, MaskUpdate


def test_peaks_stand_out_of_a_slope_and_noise_does_not(rng):
    frames = rng.normal(0, 5, (3, 128, 128)).astype(np.float32)
    frames += np.arange(128, dtype=np.float32)[:, None] * 2  # 256 ADU, 50 sigma, across the frame
    frames[1, 20, 20] += 45
    frames[1, 21, 21] += 45
    frames[1, 100, 64] += 45
    bright = above(frames, (64, 64))
    assert [count_groups(b) for b in bright] == [0, 2, 0]
    assert bright[1, 20, 20]
    assert bright[1, 21, 21]


def test_a_tile_in_which_many_pixels_are_hot_still_has_the_plane_of_the_others(rng):
    frames = rng.normal(100, 5, (1, 64, 64)).astype(np.float32)
    hot = rng.choice(4096, 400, replace=False)
    frames.reshape(-1)[hot] += 500
    assert np.array_equal(np.flatnonzero(above(frames, (64, 64))), np.sort(hot))


def test_a_tile_without_noise_has_no_peak():
    assert not above(np.zeros((1, 64, 64), np.float32), (64, 64)).any()


def test_touching_pixels_are_one_group_corners_included():
    image = np.zeros((6, 6), bool)
    image[[0, 1, 2], [0, 1, 0]] = True
    image[5, 5] = image[5, 3] = True
    assert count_groups(image) == 3
    assert count_groups(np.ones((6, 6), bool)) == 1
    assert count_groups(np.zeros((6, 6), bool)) == 0


def test_the_pedestal_is_the_mean_of_darks_and_speaks_when_every_cell_was_seen():
    pedestal = Pedestal(3, TINY.module_shape)
    darks = [make_batch(train_id=i, cell=[0, 1], n=2) for i in range(4)]
    for batch in darks:
        pedestal.add(batch)
    assert pedestal.subtract(make_batch(train_id=9)) is None
    lit = make_batch(train_id=9, cell=[1], n=1, offset=1500.0)
    expected = lit.pixels[0] - np.mean([b.pixels[1] for b in darks], axis=0)
    np.testing.assert_allclose(pedestal.subtract(lit)[0], expected, atol=1e-3)


def update(flags, judged=BadPixel.OFFSET, module=0):
    change = MapChange(MapKey(module, 1, 2), flags, judged, 200, 7, 1.0, 0, 0)
    return MaskUpdate("tiny", "m00-c000-002", 1, "e", 1, 0, "d", change)


def test_the_clock_notes_when_a_pixel_was_flagged_and_forgets_it_when_it_is_cleared():
    clock = FlagClock((2, 3, 4, 4), module=0)
    flags = np.zeros((4, 4), np.uint8)
    flags[0] = BadPixel.EDGE
    flags[2, 2] = BadPixel.LIT_SNR
    clock(update(flags, judged=BadPixel(0)))
    clock(update(flags, module=1))
    assert np.isnan(clock.flagged_at).all()
    clock(update(flags))
    first = clock.flagged_at[1, 2, 2, 2]
    assert np.isfinite(clock.flagged_at).sum() == 1
    flags[3, 3] = BadPixel.NOISE
    clock(update(flags))
    assert clock.flagged_at[1, 2, 2, 2] == first
    assert clock.flagged_at[1, 2, 3, 3] >= first
    clock(update(np.zeros((4, 4), np.uint8)))
    assert np.isnan(clock.flagged_at).all()


def test_what_was_followed_survives_the_file(tmp_path):
    seen = Followed(np.full((1, 1, 2, 2), np.nan), np.array([[1.0, 2.0]]), np.array([[1, 0, 5, 3]]))
    save(tmp_path / "peaks.npz", seen)
    back = load(tmp_path / "peaks.npz")
    assert np.isnan(back.flagged_at).all()
    assert (back.trains.tolist(), back.counts.tolist()) == ([[1.0, 2.0]], [[1, 0, 5, 3]])
    assert [p.name for p in tmp_path.iterdir()] == ["peaks.npz"]
