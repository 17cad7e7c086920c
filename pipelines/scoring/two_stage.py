"""The two-stage expert on one video, and what each part of the motion adds to the score."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import ConfigError
from pipelines.evaluate import predict
from pipelines.motion import Motion, load_motions
from pipelines.scoring import motion_explanation
from pipelines.scoring.controls import controls_of
from pipelines.scoring.explanation import Explanation
from pipelines.scoring.extraction import Recording
from pipelines.scoring.inpainting import find_pretrained
from pipelines.scoring.refusal import Refused
from pipelines.scoring.training import Training
from pipelines.scoring.verdict import Part, Verdict

if TYPE_CHECKING:
    from aqa_models.two_stage.members import Members

PARTS = 4
"""Equal parts of the time; 2 to the power of this many variants of the motion are scored."""

BASE = "the model's score of the same person standing still in the mean posture of this video"


def action_of(description: dict[str, Any], asked: str) -> str:
    """The action type to score as.

    Raises:
        ConfigError: the model knows several and none was asked for, or not the one asked for.
    """
    known = sorted(description["targets"])
    if not asked and len(known) == 1:
        return known[0]
    if asked not in known:
        cause = f"{asked!r} is not known to this model" if asked else "this model knows several action types"
        raise ConfigError("--action-type", cause, f"give one of: {', '.join(known)}")
    return asked


def score(
    recording: Recording, tensors: dict[str, Any], description: dict[str, Any], model: Members | None = None
) -> Verdict:
    """Scores a video as `aqa evaluate` scores a clip.

    Args:
        recording: its clip names the action type.
        tensors: weights of an expert bundle.
        description: its config.json.
        model: what `load_members` made of both, to be used again.

    Raises:
        Refused: the poses are not of the kind the model reads.
    """
    family = f"features/{description['feature_kind']}"
    features = recording.rows.get(family) if description["feature_kind"] else None
    motion = load_motions(recording.clip, recording.rows["poses"], features)[0]
    found = motion.keypoints.shape[2]
    if found != description["num_coordinates"]:
        cause = f"shows {found}-D poses, and the model learned from {description['num_coordinates']}-D ones"
        remedy = "train an expert on poses of videos: `aqa extract`, then `aqa train expert`"
        raise Refused("other_poses", recording.clip["uri"][0].as_py(), cause, remedy)
    shown = np.array([[bool(code >> part & 1) for part in range(PARTS)] for code in range(2**PARTS)])
    bounds = np.linspace(motion.time_s[0], motion.time_s[-1], PARTS + 1)
    # The whole motion alone: in a batch with others it could be padded, and differ in the last bits.
    whole = float(predict([motion], tensors, description, model)[0])
    stilled = [_stilled(motion, bounds, some) for some in shown[:-1]]
    values = predict(stilled, tensors, description, model)
    deltas = shapley(np.append(values, whole))
    parts = tuple(
        Part(f"part {number + 1} of {PARTS}", float(bounds[number]), float(bounds[number + 1]), float(delta))
        for number, delta in enumerate(deltas)
    )
    return Verdict(whole, float(values[0]), BASE, parts, motion.action_type)


def explain(
    recording: Recording, description: dict[str, Any], training: Training, model: Path
) -> Explanation:
    """Which repetitions and joints deviate from the control group, and how slow the movement is."""
    pose = recording.pose()
    motion = load_motions(recording.clip, recording.rows["poses"])[0]
    pretrained, no_network = find_pretrained(model)
    controls = controls_of(description, training, pretrained, motion.action_type, motion.clip_id)
    return motion_explanation.explain(motion, controls, pretrained, no_network, pose["confidence"])


def shapley(values: np.ndarray) -> np.ndarray:
    """What each of P parts adds, averaged over all orders in which the parts could be added.

    Shapley (1953), A value for n-person games; the shares add up to values[-1] - values[0].

    Args:
        values: (2 ** P,) worth of every choice of parts; bit p of the index says whether part p is in it.

    Returns:
        (P,) in the unit of the values.

    Raises:
        ValueError: the number of values is no power of two.
    """
    count = len(values).bit_length() - 1
    if len(values) != 2**count:
        raise ValueError(f"need a worth for every choice of parts, got {len(values)}")
    shares = np.zeros(count)
    for code in range(len(values)):
        size = code.bit_count()
        for part in range(count):
            if not code >> part & 1:
                weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                shares[part] += weight * (values[code | 1 << part] - values[code])
    return shares


def _stilled(motion: Motion, bounds: np.ndarray, shown: np.ndarray) -> Motion:
    """The motion with the mean posture in all parts that are not shown."""
    place = np.clip(np.searchsorted(bounds, motion.time_s, side="right") - 1, 0, len(shown) - 1)
    keypoints = motion.keypoints.copy()
    seen = np.isfinite(keypoints)
    mean = np.where(seen, keypoints, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    hidden = ~shown[place]
    keypoints[hidden] = np.where(seen[hidden], mean, np.nan)
    return replace(motion, keypoints=keypoints)
