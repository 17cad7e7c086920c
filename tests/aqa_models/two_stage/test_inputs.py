from __future__ import annotations

import numpy as np
import pytest
import torch

from aqa_models.body_angles import CHANNELS, body_channels
from aqa_models.skeletons import flip_sides, skeleton
from aqa_models.two_stage.config import SequenceConfig
from aqa_models.two_stage.inputs import chosen_inputs, input_limbs, measure_scale, mirrored, standardised
from aqa_models.two_stage.pretext import LIMBS
from aqa_models.two_stage.sequence import Sequence, make_sequence

ANGLES, BOTH = SequenceConfig(inputs="angles"), SequenceConfig(inputs="both")


def person(frames: int = 30, moving: tuple[str, ...] = (), seed: int = 0) -> np.ndarray:
    """(T, 20, 3) metres: a standing c20 figure, every joint trembling; the limbs named move widely."""
    generator = np.random.default_rng(seed)
    body = skeleton("c20")
    xyz = np.zeros((20, 3))
    for name, place in {
        "pelvis": (0, 1.0, 0),
        "spine": (0.01, 1.25, 0.02),
        "shoulder_center": (0, 1.5, 0),
        "head": (0, 1.7, 0.05),
    }.items():
        xyz[body.index(name)] = place
    for side, sign in (("left", 1), ("right", -1)):
        for name, place in {
            "shoulder": (0.2, 1.45, 0),
            "elbow": (0.3, 1.2, 0.05),
            "wrist": (0.35, 1.0, 0.1),
            "hand": (0.36, 0.9, 0.12),
            "hip": (0.1, 0.95, 0),
            "knee": (0.12, 0.5, 0.05),
            "ankle": (0.13, 0.08, 0),
            "foot": (0.15, 0.02, 0.1),
        }.items():
            xyz[body.index(f"{side}_{name}")] = np.array(place) * (sign, 1, 1)
    motion = np.tile(xyz, (frames, 1, 1)) + generator.normal(size=(frames, 20, 3)) * 0.01
    for limb in moving:
        motion[:, list(body.limbs[limb])[1:]] += (
            generator.normal(size=(frames, len(body.limbs[limb]) - 1, 3)) * 0.1
        )
    return motion


def positions(xyz: np.ndarray) -> Sequence:
    return make_sequence(xyz, np.arange(len(xyz)) / 10, "c20", SequenceConfig())


def test_angles_are_those_of_the_keypoints():
    xyz = person(moving=("LA",))
    angles, _ = body_channels(xyz, "c20", 10.0)
    sequence = positions(xyz)
    # Resampling at the same rate takes means over three frames: compared on a body that does not move.
    still = np.tile(xyz.mean(axis=0), (30, 1, 1))
    found = chosen_inputs(positions(still), ANGLES)
    np.testing.assert_allclose(found.x, body_channels(still, "c20", 10.0)[0], atol=1e-4)
    assert found.observed.all()
    both = chosen_inputs(sequence, BOTH)
    assert both.x.shape == (30, 60 + 49)
    np.testing.assert_array_equal(both.x[:, :60], sequence.x)
    np.testing.assert_array_equal(both.x[:, 60:], chosen_inputs(sequence, ANGLES).x)
    assert chosen_inputs(sequence, SequenceConfig()) is sequence
    assert angles.shape == (30, 49)


def test_channels_of_joints_never_seen_are_zero_and_not_observed():
    xyz = person()
    xyz[:, skeleton("c20").index("left_elbow")] = np.nan
    found = chosen_inputs(positions(xyz), ANGLES)
    gone = [name for name, seen in zip(CHANNELS, found.observed, strict=True) if not seen]
    assert gone == [
        *("left_elbow", "left_shoulder_to_trunk", "left_shoulder_to_vertical"),
        *("left_arm_frontal", "left_arm_sagittal"),
    ]
    assert (found.x[:, ~found.observed] == 0).all()
    scale = measure_scale([found], [""])
    assert (standardised(found, "", scale).x[:, ~found.observed] == 0).all()


@pytest.mark.parametrize("config", [SequenceConfig(), ANGLES, BOTH])
def test_the_mirror_image_is_that_of_mirrored_keypoints(config):
    """The yaw of the frame and every sign: keypoints mirrored first must give the same columns."""
    xyz = person(moving=("LA", "RL"))
    ours = mirrored(chosen_inputs(positions(xyz), config), config)
    theirs = chosen_inputs(positions(flip_sides(xyz, "c20")), config)
    np.testing.assert_allclose(ours.x, theirs.x, atol=2e-4)
    assert not np.allclose(ours.x, chosen_inputs(positions(xyz), config).x, atol=0.05)


@pytest.mark.parametrize("limb", LIMBS)
def test_a_limb_that_moves_moves_its_own_channels_only(limb):
    """Hiding a limb hides all that its joints beyond the first decide, and nothing else."""
    still, moved = (chosen_inputs(positions(person(moving=limbs)), ANGLES) for limbs in ((), (limb,)))
    columns = input_limbs(ANGLES, 3)[LIMBS.index(limb)].numpy()
    excess = np.abs(moved.x - still.x).mean(axis=0)
    told = {name for name, value in zip(CHANNELS, excess, strict=True) if value > 0.02}
    if limb in ("LA", "RA"):
        assert told <= {name for name, mine in zip(CHANNELS, columns, strict=True) if mine}
        assert len(told) >= 8
    assert columns.sum() == (9 if limb in ("LA", "RA") else 10)


def test_limbs_of_both_kinds_of_columns_stand_side_by_side():
    both = input_limbs(BOTH, 3)
    torch.testing.assert_close(both[:, :60], input_limbs(SequenceConfig(), 3))
    torch.testing.assert_close(both[:, 60:], input_limbs(ANGLES, 3))


def test_every_action_type_has_its_own_centre_and_spread():
    generator = np.random.default_rng(0)
    values = {"Es1": (3.0, 2.0), "Es2": (-1.0, 0.5)}
    made = {
        name: Sequence(
            (centre + spread * generator.normal(size=(4000, 2))).astype(np.float32),
            np.ones(2, bool),
            1.0,
            np.ones((4000, 2), bool),
        )
        for name, (centre, spread) in values.items()
    }
    scale = measure_scale(list(made.values()), list(made))
    assert set(scale) == {"", "Es1", "Es2"}
    for name, (centre, spread) in values.items():
        np.testing.assert_allclose(scale[name]["centre"], centre, atol=0.1)
        np.testing.assert_allclose(scale[name]["spread"], spread, rtol=0.05)
        x = standardised(made[name], name, scale).x
        np.testing.assert_allclose((x.mean(axis=0), x.std(axis=0)), ((0, 0), (1, 1)), atol=0.05)
        assert np.abs(x).max() <= 5
    unknown = standardised(made["Es1"], "Es9", scale).x
    np.testing.assert_allclose(
        unknown.mean(axis=0), (3 - np.array(scale[""]["centre"])) / scale[""]["spread"], atol=0.05
    )
