from __future__ import annotations

import numpy as np
import pytest
import torch

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.pretext import adjust_pace, limb_columns, low_pass, make_batch, shuffle_segments

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


def test_limbs_without_their_roots():
    whole, short = limb_columns("c20", 3), limb_columns("c20", 3, with_root=False)
    assert np.flatnonzero(short[2].numpy()).tolist() == list(range(39, 48))  # knee, ankle, foot
    assert (whole & short).sum(dim=1).tolist() == [9] * 4


def batch(seed: int, crop: int = 0, lengths: tuple[int, ...] = (20, 50, 35), **settings):
    generator = np.random.default_rng(9)
    sequences = [generator.normal(size=(n, 45)).astype(np.float32) for n in lengths]
    observed = [np.ones(15, dtype=bool)] * (len(lengths) - 1) + [np.arange(15) < 14]
    draws = [np.random.default_rng([seed, k]) for k in range(len(lengths))]
    config = NonExpertConfig(**settings)
    limbs = limb_columns("c15", 3, config.mask_root_of_limb)
    return make_batch(sequences, observed, config, limbs, draws, crop), sequences


def test_inpainting_hides_one_limb_in_all_frames():
    made, _ = batch(0)
    assert made.slowed.shape == (3, 50, 45)
    for row in range(3):
        there = made.valid[row]
        assert (made.hidden[row, there] == limb_columns("c15", 3)[made.limb[row]]).all()
        assert not made.hidden[row, ~there].any()
    assert made.observed[2].tolist() == [True] * 42 + [False] * 3
    assert (made.counts == (made.valid[..., None] & made.observed[:, None])).all()
    assert made.valid.sum(dim=1).tolist() == [20, 50, 35]
    assert (made.order == -1).all()


def test_reconstruction_hides_everything():
    made, _ = batch(0, pretext="recon")
    assert (made.hidden == made.valid[..., None]).all()
    assert (made.counts == (made.valid[..., None] & made.observed[:, None])).all()


def test_motion_prediction_hides_and_counts_the_second_half_of_the_valid_frames():
    made, _ = batch(0, pretext="motion_pred", lengths=(20, 50, 35, 1))
    assert made.hidden[..., 0].sum(dim=1).tolist() == [10, 25, 17, 0]
    assert made.hidden[0, 40:].all()
    assert not made.hidden[0, :40].any()
    assert (made.counts == (made.hidden & made.observed[:, None])).all()


@pytest.mark.parametrize("pretext", ["order", "none"])
def test_without_a_decoder_nothing_is_hidden(pretext):
    made, _ = batch(0, pretext=pretext)
    assert not made.hidden.any()
    assert not made.counts.any()


def test_segments_by_hand():
    x = np.arange(7)[:, None]
    shuffled = shuffle_segments(x, np.array([2, 0, 1]))  # segments 0 1 2 | 3 4 | 5 6
    assert shuffled[:, 0].tolist() == [5, 6, 0, 1, 2, 3, 4]


def test_order_tells_which_segment_each_place_holds():
    made, sequences = batch(4, pretext="order", pace=False, lengths=(60, 25, 9))
    assert [sorted(row[row >= 0].tolist()) for row in made.order] == [
        list(range(25)),
        list(range(25)),
        list(range(9)),
    ]
    for row, x in enumerate(sequences):
        order = [k for k in made.order[row].tolist() if k >= 0]
        parts = np.array_split(
            made.slowed[row][made.valid[row]].numpy(),
            np.cumsum([len(np.array_split(x, len(order))[k]) for k in order])[:-1],
        )
        restored = np.concatenate([parts[order.index(k)] for k in range(len(order))])
        np.testing.assert_array_equal(restored, x)


def test_without_pace_the_sequence_stays_as_it_is():
    made, sequences = batch(0, pace=False)
    assert made.pace.tolist() == [0, 0, 0]
    for row, x in enumerate(sequences):
        np.testing.assert_array_equal(made.slowed[row][made.valid[row]], x)


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
    assert {int(limb) for b in seen for limb in b.limb} == set(range(4))


def test_low_pass_keeps_slow_and_stops_fast_waves():
    at = np.arange(200)
    waves = np.stack([np.ones(200), np.sin(np.pi * 0.1 * at), np.sin(np.pi * 0.6 * at)], axis=1)
    filtered = low_pass(waves, 0.3)
    np.testing.assert_allclose(filtered[:, 0], 1.0, atol=1e-12)
    np.testing.assert_allclose(filtered[20:-20, 1], waves[20:-20, 1], atol=0.01)
    assert np.abs(filtered[20:-20, 2]).max() < 0.01
    np.testing.assert_allclose(low_pass(np.ones((1, 2)), 0.3), 1.0)


def _power_by_pace(guard: str) -> tuple[np.ndarray, np.ndarray]:
    """Of white noise slowed down: power below and above 0.45 of the Nyquist frequency, for each pace."""
    generator = np.random.default_rng(0)
    noise = [generator.normal(size=(96, 45)).astype(np.float32) for _ in range(60)]
    config = NonExpertConfig(pretext="none", pace_guard=guard)
    draws = [np.random.default_rng(k) for k in range(60)]
    made = make_batch(noise, [np.ones(15, dtype=bool)] * 60, config, limb_columns("c15", 3), draws)
    power = torch.fft.rfft(made.slowed * torch.hann_window(96)[:, None], dim=1).abs().square().mean(dim=2)
    mean = torch.stack([power[made.pace == k].mean(dim=0) for k in range(5)]).numpy()
    return mean[:, 1:22].sum(axis=1), mean[:, 22:].sum(axis=1)


def test_only_the_low_pass_guard_takes_the_missing_high_frequencies_away():
    for guard in ("none", "shift"):
        low, high = _power_by_pace(guard)
        assert high[4] / low[4] > 2.5 * high[0] / low[0], guard  # pace 1 is sharper than pace 0.6
    low, high = _power_by_pace("low_pass")
    assert (high < 0.01 * low).all()
