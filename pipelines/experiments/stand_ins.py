"""Drawn athletes in the place of data that are not at hand; their numbers say nothing about real people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.config import ExperimentConfig, ExtractConfig
from pipelines.datasets.recordings import Recordings
from pipelines.experiments.material import Material, class_material, made_splits, read_store, video_material

if TYPE_CHECKING:
    import pyarrow as pa

MARK = "STAND-IN: athletes drawn by the program, not data of the paper"
_CLASSES = {"healthy": (0.0, 0.12), "low": (0.25, 0.4), "moderate": (0.5, 0.65), "high": (0.8, 0.95)}
_RATE_HZ = 25.0


def videos(folder: Path, config: ExperimentConfig) -> Material:
    """Rendered exercises, as H.264, with poses of the shipped network and C3D features of random weights.

    Args:
        folder: receives the videos and a feature store; what is there is not made again.
        config: quick = 16 clips of 8 people instead of 40 of 20.
    """
    from pipelines.extract import extract
    from pipelines.rendered.dataset import render_dataset

    people, clips = (8, 16) if config.quick else (20, 40)
    manifest, store = folder / "clips.csv", folder / "store"
    if not manifest.is_file():
        render_dataset(folder, exercises=clips, subjects=people, dives=0, seed=config.seed)
    extract(manifest, store, ExtractConfig())
    # 64 frames are four windows of C3D, the fewest that the appearance stream reads.
    extract(manifest, store, ExtractConfig(kind="c3d_fc6", random_weights=True, sampling="uniform:64"))
    folds = "folds:2" if config.quick else "folds:4"
    title = f"Rendered exercises with video, C3D of random weights, {folds.partition(':')[2]} folds ({MARK})"
    tables = read_store(store)
    splits = made_splits(tables[0], folds, config.seed)
    return video_material("video_stand_in", title, tables, splits, config, pooled=True)


def infants(config: ExperimentConfig) -> Material:
    """Drawn adults who squat, in four groups by severity, as 2-D joints."""
    clips, poses = _drawn_groups(config.seed, per_group=5 if config.quick else 10)
    title = f"Four degrees of severity of a drawn squat ({MARK})"
    return class_material("infants_stand_in", title, clips, poses, config)


def _drawn_groups(seed: int, per_group: int) -> tuple[pa.Table, pa.Table]:
    from pipelines.rendered.body import pose_body
    from pipelines.rendered.exercises import Subject, perform

    found = Recordings("drawn", Path("drawn"), "mpii16", unit="px")
    for group, (low, high) in _CLASSES.items():
        for number in range(per_group):
            draws = np.random.default_rng([seed, list(_CLASSES).index(group), number])
            person = Subject.sample(draws, f"{group}_{number}", float(draws.uniform(low, high)))
            times = np.arange(int(draws.integers(100, 200))) / _RATE_HZ
            joints = pose_body(perform(draws, "Es5", person, times), person.shape).joints
            turn = draws.uniform(0.3, 0.7)  # seen from between the front and the side
            across = joints[..., 0] * np.cos(turn) + joints[..., 2] * np.sin(turn)
            picture = np.stack([across, -joints[..., 1]], axis=-1) * 120
            clip = {
                "clip_id": person.subject_id, "uri": f"drawn#{person.subject_id}", "action_type": "lying",
                "subject_id": person.subject_id, "group": group,
            }  # fmt: skip
            found.add(clip, picture, times, sha256="")
    clips, poses, _ = found.finish("drawn people")
    return clips, poses
