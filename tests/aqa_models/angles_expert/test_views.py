from __future__ import annotations

import numpy as np

from aqa_models.angles_expert.mirror import mirror
from aqa_models.angles_expert.views import (
    coordination,
    correlations,
    extremes,
    find_movement,
    posture,
    repetition_posture,
)
from aqa_models.body_angles import CHANNELS


def still(frames: int = 100) -> np.ndarray:
    return np.zeros((frames, 49), dtype=np.float32)


def nodding(amplitude: float = 1.0, frames: int = 400) -> np.ndarray:
    """Left knee and left hip bend together, the right elbow the other way; nothing else moves."""
    channels = still(frames)
    wave = amplitude * np.sin(np.arange(frames) / 20)
    for name, sign in (("left_knee", 1), ("left_hip", 1), ("right_elbow", -1)):
        channels[:, CHANNELS.index(name)] = sign * wave
    return channels


def test_posture_of_a_ramp():
    channels = still(101)
    channels[:, 0] = np.linspace(0, 1, 101)
    found = posture(channels, rate_hz=20.0)
    assert found.shape == (8 * 49 + 3 * 13,)
    quantiles, mean, start, reach = found[: 5 * 49 : 49], found[5 * 49], found[6 * 49], found[7 * 49]
    np.testing.assert_allclose(quantiles, [0.03, 0.25, 0.5, 0.75, 0.97], atol=1e-6)
    np.testing.assert_allclose([mean, start, reach], [0.5, 0.045, 0.94], atol=1e-6)


def test_sides_that_differ_and_go_together():
    channels = nodding()
    channels[:, CHANNELS.index("right_knee")] = 0.5 * channels[:, CHANNELS.index("left_knee")] + 3
    sides = posture(channels, 20.0)[8 * 49 :].reshape(3, 13)
    knee = 8
    assert CHANNELS[23 + knee] == "left_knee"
    np.testing.assert_allclose(sides[0, knee], 3, atol=0.05)
    np.testing.assert_allclose(sides[1, knee], 1, atol=0.05)
    np.testing.assert_allclose(sides[2, knee], 1, atol=1e-5)
    np.testing.assert_allclose(posture(mirror(channels), 20.0)[8 * 49 :], sides.ravel(), atol=1e-9)


def test_repetitions_of_known_reach():
    channels = still(120)
    knee, other = CHANNELS.index("left_knee"), CHANNELS.index("right_knee")
    for start, height in ((10, 1.0), (50, 2.0), (90, 4.0)):  # ramps of 21 frames, rests between
        channels[start : start + 21, knee] = np.linspace(0, height, 21)
    spans = [(10, 31), (50, 71), (90, 111)]
    found = repetition_posture(channels, spans, rate_hz=10.0)
    assert found.shape == (7 * 49 + 2 * 13 + 3,)
    low, high, reach, mean, start, widest, narrowest = found[: 7 * 49].reshape(7, 49)[:, knee]
    # The median repetition is the one of height 2; its start is the mean of two frames, 0 and 0.1.
    np.testing.assert_allclose([low, high, reach, mean], [0.06, 1.94, 1.88, 1.0], atol=1e-6)
    np.testing.assert_allclose([start, widest, narrowest], [0.05, 3.76, 0.94], atol=1e-6)
    sides = found[7 * 49 : -3].reshape(2, 13)
    np.testing.assert_allclose(sides[:, 8], [1.88, 1.0], atol=1e-6)
    np.testing.assert_allclose(found[-3:], [2.1, 0.0, 3.0], atol=1e-9)
    assert not found[: 7 * 49].reshape(7, 49)[:, other].any()
    turned = repetition_posture(mirror(channels), spans, 10.0)
    np.testing.assert_allclose(turned[7 * 49 :], found[7 * 49 :], atol=1e-9)


def test_correlations_are_numpys_and_zero_for_what_stands_still():
    values = np.random.default_rng(0).normal(size=(50, 49))
    np.testing.assert_allclose(correlations(values), np.corrcoef(values.T), atol=1e-12)
    values[:, 3] = 7
    assert (correlations(values)[3] == 0).all()
    assert coordination(values).shape == (49 * 48 // 2,)


def test_extremes_are_the_postures_at_both_ends_of_the_movement():
    movement = find_movement([nodding(), nodding(0.5)])
    ends = extremes(nodding(), movement).reshape(-1, 2, 49)
    knee, hip, elbow = (CHANNELS.index(name) for name in ("left_knee", "left_hip", "right_elbow"))
    # Of a sine, the furthest 15 % have a mean of sin(0.15 pi) / (0.15 pi) = 0.963.
    high, low = ends[:, 0], ends[:, 1]
    along = np.argmax(np.abs(high[:, knee]))
    assert abs(abs(high[along, knee]) - 0.963) < 0.01
    np.testing.assert_allclose(low[along, [knee, hip]], -high[along, [knee, hip]], atol=0.02)
    np.testing.assert_allclose(high[along, elbow], -high[along, knee], atol=1e-6)


def test_channels_never_seen_stay_out_of_the_movement():
    gappy = nodding()
    gappy[:, 5] = np.nan
    movement = find_movement([gappy, nodding()])
    for part in (movement.centre, movement.spread, movement.components):
        assert np.isfinite(part).all()
    missing = np.isnan(extremes(gappy, movement).reshape(-1, 49))
    assert missing[:, 5].all()
    assert not np.delete(missing, 5, axis=1).any()


def test_a_movement_points_the_same_way_whatever_sign_the_linear_algebra_gives(monkeypatch):
    first, decompose = find_movement([nodding()]), np.linalg.eigh

    def turned(matrix):
        values, directions = decompose(matrix)
        return values, -directions

    monkeypatch.setattr(np.linalg, "eigh", turned)
    np.testing.assert_array_equal(find_movement([nodding()]).components, first.components)


def test_a_movement_points_away_from_where_it_starts():
    risen = np.concatenate([np.zeros((10, 49)), nodding() + 1.0])
    movement = find_movement([risen])
    assert (risen[:5] - movement.centre).mean(axis=0) @ movement.components[0] < 0
