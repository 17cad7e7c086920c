"""What the encoder reads: joint positions, body-frame angles, or both, and which columns are whose limb."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from aqa_models.body_angles import CHANNELS, body_channels
from aqa_models.skeletons import skeleton
from aqa_models.two_stage.config import SequenceConfig
from aqa_models.two_stage.pretext import LIMBS, limb_columns
from aqa_models.two_stage.sequence import Sequence

_LIMITS = 5.0  # deviations; a joint the sensor lost may be anywhere

# Which limb moves a channel, by the words of its name; a distance between both sides belongs to both limbs.
_ARM = ("elbow", "shoulder_to_trunk", "shoulder_to_vertical", "arm_frontal", "arm_sagittal", "wrist")
_LEG = ("knee", "hip", "thigh_to_vertical")
_BOTH = {
    "wrist_distance": ("LA", "RA"),
    "ankle_distance": ("LL", "RL"),
    "knee_distance": ("LL", "RL"),
    "knees_per_ankles": ("LL", "RL"),
    "knees_yaw": ("LL", "RL"),
    "knees_tilt": ("LL", "RL"),
}


def chosen_inputs(sequence: Sequence, config: SequenceConfig) -> Sequence:
    """The sequence with the columns that `config.inputs` asks for.

    Args:
        sequence: joint positions of `config.skeleton`, (n, J * 3) in x.
        config: inputs, skeleton and rate.

    Returns:
        xyz: the sequence itself. angles: x (n, 49), observed (49,); channels of joints never seen are 0.
        both: positions, then angles, x (n, J * 3 + 49) and observed of the same length.

    Raises:
        ValueError: positions are two-dimensional, or the joints that fix the body's frame are never seen.
    """
    if config.inputs == "xyz":
        return sequence
    joints = len(skeleton(config.skeleton).joints)
    xyz = sequence.x.reshape(len(sequence.x), joints, -1)
    # Angles know neither origin nor unit, so the centred and scaled positions serve as well as metres.
    seen = np.where(sequence.observed[:, None], xyz, np.nan)
    angles, _ = body_channels(seen, config.skeleton, config.rate_hz)
    known = np.isfinite(angles).all(axis=0)
    angles = np.where(known, angles, 0.0).astype(np.float32)
    if config.inputs == "angles":
        return replace(sequence, x=angles, observed=known)
    observed = np.concatenate([np.repeat(sequence.observed, xyz.shape[2]), known])
    return replace(sequence, x=np.concatenate([sequence.x, angles], axis=1), observed=observed)


def input_limbs(config: SequenceConfig, num_coordinates: int, with_root: bool = True) -> Tensor:
    """(4, F) bool: the input columns of the limbs LA, RA, LL, RL; masking a limb hides them.

    Args:
        config: skeleton and inputs.
        num_coordinates: C of the keypoints.
        with_root: positions of shoulder and hip belong to the limb; their angles always do.
    """
    positions = limb_columns(config.skeleton, num_coordinates, with_root)
    if config.inputs == "xyz":
        return positions
    angles = torch.tensor([[limb in _limbs_of(channel) for channel in CHANNELS] for limb in LIMBS])
    return angles if config.inputs == "angles" else torch.cat([positions, angles], dim=1)


def _limbs_of(channel: str) -> tuple[str, ...]:
    side, _, name = channel.partition("_")
    if side not in ("left", "right"):
        return _BOTH.get(channel, ())
    letter = side[0].upper()
    if name.startswith(_ARM):
        return (f"{letter}A",)
    return (f"{letter}L",) if name.startswith(_LEG) else ()


def mirrored(sequence: Sequence, config: SequenceConfig) -> Sequence:
    """The same motion done by the mirror image: left and right change places, sideways is negated.

    Args:
        sequence: of `chosen_inputs`, not standardised.
        config: skeleton and inputs.
    """
    body = skeleton(config.skeleton)
    orders, signs = [], []
    if config.inputs != "angles":
        num = sequence.x.shape[1] - (len(CHANNELS) if config.inputs == "both" else 0)
        columns = np.arange(num).reshape(len(body.joints), -1)
        sign = np.ones(columns.shape)
        sign[:, 0] = -1
        orders.append(columns[body.flip_order].ravel())
        signs.append(sign.ravel())
    if config.inputs != "xyz":
        begin = sequence.x.shape[1] - len(CHANNELS)
        orders.append(begin + np.array([CHANNELS.index(_other_side(name)) for name in CHANNELS]))
        signs.append(np.array([-1.0 if name in _SIDEWAYS else 1.0 for name in CHANNELS]))
    order, sign = np.concatenate(orders), np.concatenate(signs).astype(np.float32)
    observed = np.repeat(sequence.observed, len(order) // len(sequence.observed))[order]
    return replace(sequence, x=sequence.x[:, order] * sign, observed=observed)


# Channels that point to the person's left; mirroring negates them.
_SIDEWAYS = (
    *("trunk_left", "shoulders_yaw", "shoulders_tilt", "hips_yaw", "hips_tilt", "knees_yaw", "knees_tilt"),
    *("twist", "head_left", "pelvis_x", "upper_spine_x"),
)


def _other_side(channel: str) -> str:
    side, _, name = channel.partition("_")
    return {"left": f"right_{name}", "right": f"left_{name}"}.get(side, channel)


def measure_scale(sequences: list[Sequence], actions: list[str]) -> dict[str, dict[str, list[float]]]:
    """Centre and spread of every input column over some sequences, for each action type and "" for all.

    Median, and the distance from the 10 to the 90 % quantile in deviations of a normal distribution: single
    lost joints move neither. Exercises differ more from one another than people do within one, so
    each is measured alone; "" serves those not among them.

    Args:
        sequences: of the training clips, at least one.
        actions: action type of each.
    """
    scale = {}
    for action in ["", *sorted(set(actions) - {""})]:
        chosen = [item.x for item, name in zip(sequences, actions, strict=True) if action in ("", name)]
        low, centre, high = np.quantile(np.concatenate(chosen), [0.1, 0.5, 0.9], axis=0)
        spread = np.maximum((high - low) / 2.563, _SMALLEST)
        scale[action] = {"centre": centre.tolist(), "spread": spread.tolist()}
    return scale


_SMALLEST = 0.03  # radians or trunk lengths; less is the sensor's noise


def standardised(sequence: Sequence, action: str, scale: dict[str, dict[str, list[float]]]) -> Sequence:
    """The sequence in deviations from the centre of its action type, cut at 5; unseen columns stay 0."""
    told = scale.get(action, scale[""])
    centre, spread = (np.array(told[name], np.float32) for name in ("centre", "spread"))
    x = np.clip((sequence.x - centre) / spread, -_LIMITS, _LIMITS)
    observed = np.repeat(sequence.observed, x.shape[1] // len(sequence.observed))
    return replace(sequence, x=np.where(observed, x, 0.0).astype(np.float32))
