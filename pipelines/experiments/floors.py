"""What any model must beat, on the same splits: guesses that have learned next to nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np

from aqa_models.angles_expert.trees import fit_trees
from aqa_models.skeletons import map_keypoints, skeleton
from pipelines.experiments.material import HEALTHY
from pipelines.motion import Motion

_SKELETON = "c15"
_SIDED = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def simple_statistics(motion: Motion) -> np.ndarray:
    """Mean, deviation, 5-95 % range and mean speed of 13 joints about the pelvis, and the log length.

    157 numbers of 3-D poses; the unit of length is the trunk. Joints that are never seen give zeros.
    """
    body = skeleton(_SKELETON)
    names = ["head", *(f"{side}_{joint}" for side in ("left", "right") for joint in _SIDED)]
    xyz = map_keypoints(motion.keypoints.astype(float), motion.skeleton, _SKELETON)
    root, top = xyz[:, body.index("pelvis")], xyz[:, body.index("shoulder_center")]
    scale = np.nanmedian(np.linalg.norm(top - root, axis=1))
    part = (xyz[:, [body.index(name) for name in names]] - root[:, None]) / scale
    part = np.nan_to_num(part.reshape(len(part), -1))
    spread = np.quantile(part, 0.95, axis=0) - np.quantile(part, 0.05, axis=0)
    speed = np.abs(np.diff(part, axis=0)).mean(axis=0) if len(part) > 1 else np.zeros(part.shape[1])
    return np.concatenate([part.mean(axis=0), part.std(axis=0), spread, speed, [np.log(len(part))]])


def camera_setup(motion: Motion) -> np.ndarray:
    """Where ankles and pelvis are before the camera, and one ankle from the other: 9 numbers of 3-D poses."""
    body = skeleton(_SKELETON)
    xyz = map_keypoints(motion.keypoints.astype(float), motion.skeleton, _SKELETON)
    left, right, pelvis = (xyz[:, body.index(j)] for j in ("left_ankle", "right_ankle", "pelvis"))
    parts = ((left + right) / 2, pelvis, left - right)
    return np.nan_to_num(np.concatenate([np.nanmedian(part, axis=0) for part in parts]))


def guess_scores(name: str, train: list[Motion], test: list[Motion], seed: int) -> np.ndarray:
    """(N,) scores of the test clips of one exercise.

    Args:
        name: floor_median, floor_trees (200 extremely randomised trees on `simple_statistics`), floor_group
            (mean score of patients and of the healthy) or floor_setup (such trees on `camera_setup`).
        train, test: scored clips.
        seed: of the trees.
    """
    score = np.array([motion.score for motion in train], dtype=float)
    if name == "floor_median":
        return np.full(len(test), np.median(score))
    if name == "floor_group":
        well = np.array([motion.group in HEALTHY for motion in train])
        means = {
            flag: score[well == flag].mean() if (well == flag).any() else score.mean()
            for flag in (True, False)
        }
        return np.array([means[motion.group in HEALTHY] for motion in test])
    read = {"floor_trees": simple_statistics, "floor_setup": camera_setup}[name]
    known, asked = (np.stack([read(motion) for motion in motions]) for motions in (train, test))
    trees = fit_trees(known, score, trees=200, tried=max(1, known.shape[1] // 3), leaf=2, seed=[seed])
    return trees.predict(asked)


def guess_classes(train: list[Motion], test: list[Motion]) -> list[str]:
    """The most frequent group of the training clips, for each test clip."""
    return [Counter(motion.group for motion in train).most_common(1)[0][0]] * len(test)
