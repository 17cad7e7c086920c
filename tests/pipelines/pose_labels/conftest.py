"""Rendered divers, labelled by their truth in the JSON that people label in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.pose_labels.annotations import Label, write_labels
from pipelines.rendered.poses import DIVING
from pipelines.rendered.train_network import render_poses


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with labels.json, groups.csv (dives a, b) and images/: eight frames of two rendered divers."""
    folder = tmp_path_factory.mktemp("labelled")
    images = folder / "images"
    images.mkdir()
    labels, rows = [], ["image,group"]
    for group, seed in (("a", 901), ("b", 902)):
        frames, joints = render_poses(seed, 4, kinds=DIVING)
        for number, (frame, xy) in enumerate(zip(frames, joints.astype(np.float64), strict=True)):
            path = images / f"{group}{number}.png"
            cv2.imwrite(str(path), frame[..., ::-1])
            low, high = xy.min(axis=0), xy.max(axis=0)
            side = float((high - low).max()) * 1.25
            labels.append(Label(path, xy, np.ones(16, bool), 0.5 * (low + high), side, group))
            rows.append(f"{path.name},{group}")
    write_labels(folder / "labels.json", labels)
    (folder / "groups.csv").write_text("\n".join(rows) + "\n")
    return folder
