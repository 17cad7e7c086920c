"""What repair and smoothing in time do to poses: on rendered clips with their truth, and on real dives.

    python benchmarks/pose_repair.py [--data ../shared/data/finediving_pose_sample] [--runs runs] [--out FILE]

Rendered: clips that no network learned from, all frames (of dives those before the entry), the network of
the package. Real: the three labelled dives, the network of the package and, where `benchmarks/pose_labels.py`
has left its runs, the fine-tuned network that has not seen the dive. PCK of the 12 limb joints at 0.1 and
0.2 of the torso; jitter is the median of the second difference over time, in torso lengths.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pose_labels import DIVES

from pipelines.pose_labels.annotations import read_labels
from pipelines.pose_labels.measure import LIMBS, PELVIS, THORAX, estimate
from pipelines.pose_labels.repair import repair_clip
from pipelines.pose_labels.views import Input
from pipelines.rendered.dataset import render_dataset
from pipelines.rendered.measure_network import PoseNetwork as RenderNetwork
from pipelines.rendered.measure_network import read_video
from pipelines.rendered.network import WEIGHTS
from pipelines.stages.pose import SHIPPED, PoseNetwork, find_pose_model, read_pose_config

SEED = 888
FPS = 25.0
MODES = ("none", "repair", "smooth")
Clip = tuple[np.ndarray, np.ndarray, np.ndarray]  # truth (T, 16, 2), found (T, 16, 2), confidence (T, 16)


def rendered_clips(folder: Path) -> dict[str, list[Clip]]:
    """Found poses of held-out renders beside their truth."""
    import pyarrow.parquet as pq

    table = render_dataset(folder, exercises=8, subjects=4, dives=10, seed=SEED)
    truth = {row["clip_id"]: row for row in pq.read_table(folder / "truth.parquet").to_pylist()}
    network, clips = RenderNetwork(WEIGHTS), {"rendered exercises": [], "rendered dives": []}
    for clip in csv.DictReader(table.open(encoding="utf-8")):
        row, frames = truth[clip["clip_id"]], read_video(folder / clip["uri"])
        joints = np.array(row["joints"], np.float32).reshape(row["num_frames"], 16, 2)
        dive = bool(clip["transitions_s"])
        last = int(json.loads(clip["transitions_s"])[1] * row["fps"]) if dive else min(len(frames), 80)
        keypoints, confidence = network.estimate(frames[:last])
        kind = "rendered dives" if dive else "rendered exercises"
        clips[kind].append((joints[:last], keypoints, confidence))
    return clips


def real_dives(data: Path, weights: dict[str, Path]) -> list[Clip]:
    """Found poses of the labelled dives, each by its own weights, the surest of four turns."""
    labels = read_labels(data / "annotations_examples.json", data / "images")
    shown, clips = Input.of(read_pose_config(SHIPPED)), []
    for dive, frames in DIVES.items():
        chosen = [labels[frame] for frame in frames]
        network = PoseNetwork(find_pose_model(SHIPPED, weights[dive]), "cpu")
        keypoints, confidence = estimate(network, chosen, shown, rotations=4)
        clips.append((np.stack([label.joints for label in chosen]), keypoints, confidence))
    return clips


def measure(clips: list[Clip]) -> dict[str, dict[str, Any]]:
    """PCK, jitter and share of replaced values for each mode."""
    result = {}
    for mode in MODES:
        near, jitter, replaced = [], [], []
        for truth, found, confidence in clips:
            torso = np.linalg.norm(truth[:, THORAX] - truth[:, PELVIS], axis=-1)[:, None]
            points, changed = repair_clip(found, confidence, np.arange(len(found)) / FPS, mode)
            near.append((np.linalg.norm(points - truth, axis=-1) / torso)[:, LIMBS].ravel())
            second = np.linalg.norm(np.diff(points[:, LIMBS], 2, axis=0), axis=-1)
            jitter.append((second / np.median(torso)).ravel())
            replaced.append(changed[:, LIMBS].ravel())
        distance = np.concatenate(near)
        result[mode] = {
            "pck_0.1": round(float((distance < 0.1).mean()), 4),
            "pck_0.2": round(float((distance < 0.2).mean()), 4),
            "error_torso": round(float(distance.mean()), 4),
            "jitter": round(float(np.median(np.concatenate(jitter))), 4),
            "replaced": round(float(np.concatenate(replaced).mean()), 4),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, help="the folder finediving_pose_sample")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="pose_labels", help="prefix of the runs of pose_labels.py")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {kind: measure(clips) for kind, clips in rendered_clips(Path(folder)).items()}
    if arguments.data:
        result["real dives, package"] = measure(real_dives(arguments.data, dict.fromkeys(DIVES, WEIGHTS)))
        tuned = {
            dive: arguments.runs / f"{arguments.name}_without_{dive}" / "model" / "model.safetensors"
            for dive in DIVES
        }
        if all(path.is_file() for path in tuned.values()):
            result["real dives, fine-tuned on the others"] = measure(real_dives(arguments.data, tuned))
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
