"""Leave-one-dive-out: the pose network of the package before and after fine-tuning on other dives.

    python benchmarks/pose_labels.py --data ../shared/data/finediving_pose_sample --runs runs [--out FILE]

Of the 101 labelled frames of three dives one whole dive is held out at a time; the network learns the other
two, mixed with rendered divers, and is measured on the dive held out: upright, and with the box shown in
four turns of which the surest is kept. All settings were fixed before any held-out dive was looked at. The
same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import PoseTrainConfig
from pipelines.pose_labels import verbs
from pipelines.pose_labels.annotations import read_labels
from pipelines.pose_labels.measure import estimate, scores
from pipelines.pose_labels.views import Input
from pipelines.stages.pose import SHIPPED, PoseNetwork, find_pose_model, read_pose_config

DIVES = {"first": range(34), "second": range(34, 69), "third": range(69, 101)}
"""The sample's dives, by jumps of the image content (its README)."""


def write_groups(path: Path) -> Path:
    """CSV of the dive of each frame."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "group"])
        for dive, frames in DIVES.items():
            writer.writerows([f"finediv{frame:05d}.jpg", dive] for frame in frames)
    return path


def measure(labels: list, weights: list[tuple[np.ndarray, Path]], rotations: int) -> dict[str, Any]:
    """Pooled and per-dive measures; `weights` tells which rows each network is measured on."""
    shown = Input.of(read_pose_config(SHIPPED))
    keypoints, confidence = np.empty((len(labels), 16, 2)), np.empty((len(labels), 16))
    for rows, path in weights:
        network = PoseNetwork(find_pose_model(SHIPPED, path), "cpu")
        found = estimate(network, [labels[row] for row in rows], shown, rotations=rotations)
        keypoints[rows], confidence[rows] = found
    result: dict[str, Any] = {"pooled": scores(labels, keypoints, confidence)}
    for dive, frames in DIVES.items():
        rows = list(frames)
        result[dive] = scores([labels[row] for row in rows], keypoints[rows], confidence[rows])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder finediving_pose_sample")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="pose_labels", help="prefix of the three runs")
    parser.add_argument("--steps", type=int, default=PoseTrainConfig().steps)
    parser.add_argument("--render-share", type=float, default=PoseTrainConfig().render_share)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("pipelines").setLevel(logging.INFO)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    groups = write_groups(arguments.runs / f"{arguments.name}_groups.csv")
    annotations, images = arguments.data / "annotations_examples.json", arguments.data / "images"
    config = PoseTrainConfig(
        steps=arguments.steps, seed=arguments.seed, render_share=arguments.render_share, checkpoint_every=50
    )
    tuned = []
    for dive, frames in DIVES.items():
        name = f"{arguments.name}_without_{dive}"
        run = verbs.train(
            annotations, images, name, config, groups=groups, hold_out=(dive,), runs=arguments.runs
        )
        tuned.append((np.array(frames), Path(run["weights"])))
        print(json.dumps({dive: {key: run[key]["pck_0.2"] for key in ("before", "after")}}), flush=True)
    labels = read_labels(annotations, images, groups)
    shipped = [(np.arange(len(labels)), find_pose_model(SHIPPED, None).weights)]
    result = {
        "settings": config.model_dump(mode="json"),
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "before": {f"rotations_{n}": measure(labels, shipped, n) for n in (1, 4)},
        "after": {f"rotations_{n}": measure(labels, tuned, n) for n in (1, 4)},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
