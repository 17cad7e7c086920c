from __future__ import annotations

import numpy as np
import pytest

from aqa_models.two_stage.pretext import adjust_pace, limb_columns, make_batch

PACES = (0.6, 0.7, 0.8, 0.9, 1.0)


def ramp(frames: int) -> np.ndarray:
    return np.arange(frames, dtype=np.float32)[:, None].repeat(2, axis=1)


def test_pace_by_hand():
    slowed = adjust_pace(ramp(11), 0.6, start=0.0)
    np.testing.assert_allclose(slowed[:, 0], np.linspace(0, 5, 11), atol=1e-6)
    np.testing.assert_allclose(adjust_pace(ramp(11), 0.6, start=1.0)[:, 0], np.linspace(5, 10, 11), atol=1e-5)
    np.testing.assert_array_equal(adjust_pace(ramp(11), 1.0, start=0.3), ramp(11))


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("frames", [1, 2, 3, 10, 57])
def test_pace_keeps_length_and_stays_inside(pace, frames):
    slowed = adjust_pace(ramp(frames), pace, start=0.7, shift=0.5)
    assert slowed.shape == (frames, 2)
    assert slowed.dtype == np.float32
    assert slowed.min() >= 0
    assert slowed.max() <= frames - 1
    assert (np.diff(slowed[:, 0]) >= 0).all()


def test_a_slower_pace_moves_less_per_frame():
    speeds = [np.diff(adjust_pace(ramp(100), p, 0.5)[:, 0]).mean() for p in PACES]
    assert speeds == sorted(speeds)
    assert speeds[0] == pytest.approx(0.6, abs=0.01)


def test_normal_pace_passes_the_interpolator_too():
    noise = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    shifted = adjust_pace(noise, 1.0, 0.0, shift=0.5)
    assert shifted.std() < 0.95 * noise.std()


def test_pace_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"pace must be in \(0, 1\], got 1.2"):
        adjust_pace(ramp(5), 1.2, 0.0)


def test_limb_columns_are_shoulder_to_hand():
    columns = limb_columns("c20", 3)
    assert columns.shape == (4, 60)
    assert np.flatnonzero(columns[0].numpy()).tolist() == list(range(12, 24))  # joints 4 to 7
    assert columns.sum(dim=1).tolist() == [12] * 4


def batch(seed: int, crop: int = 0):
    generator = np.random.default_rng(9)
    sequences = [generator.normal(size=(n, 45)).astype(np.float32) for n in (20, 50, 35)]
    observed = [np.ones(15, dtype=bool)] * 2 + [np.arange(15) < 14]
    draws = [np.random.default_rng([seed, k]) for k in range(3)]
    return make_batch(sequences, observed, PACES, limb_columns("c15", 3), draws, crop), sequences


def test_batch_masks_one_limb_in_all_frames():
    made, _ = batch(0)
    assert made.slowed.shape == (3, 50, 45)
    for row in range(3):
        gone = made.hidden[row]
        assert gone.sum() == 9
        assert (made.masked[row][:, gone] == 0).all()
        assert (made.masked[row][:, ~gone] == made.slowed[row][:, ~gone]).all()
    assert made.target[2].tolist() == [True] * 42 + [False] * 3
    assert made.valid.sum(dim=1).tolist() == [20, 50, 35]


def test_batch_is_a_function_of_its_generators():
    first, second, other = batch(1)[0], batch(1)[0], batch(2)[0]
    assert (first.slowed == second.slowed).all()
    assert not (first.slowed == other.slowed).all()


def test_crops_bound_the_length():
    made, _ = batch(0, crop=30)
    assert made.valid.sum(dim=1).tolist() == [20, 30, 30]


def test_every_pace_and_limb_is_drawn():
    seen = [batch(seed)[0] for seed in range(40)]
    assert {int(p) for b in seen for p in b.pace} == set(range(5))
    assert len({tuple(row.tolist()) for b in seen for row in b.hidden}) == 4
