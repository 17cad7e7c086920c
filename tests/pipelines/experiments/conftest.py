from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ACTIONS = (1, 2)
SPLITS = {0: (0, 1, 6), 1: (2, 3, 7)}  # who tests


def _figure(joints: int, frames: int, amplitude: float, draws: np.random.Generator) -> np.ndarray:
    """(T, J, 3) metres: a still figure whose left arm waves as widely as `amplitude` says."""
    rest = np.random.default_rng(joints).normal(size=(joints, 3)) * 0.4
    xyz = np.tile(rest, (frames, 1, 1)) + draws.normal(size=(frames, joints, 3)) * 0.01
    xyz[:, 4:8, 1] += amplitude * np.sin(np.arange(frames) / 8)[:, None]
    return xyz.astype(np.float32)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder laid out as KIMORE's arrays (12 people, Es1 and Es2, two splits) and NW-UCLA's."""
    folder, draws = tmp_path_factory.mktemp("data"), np.random.default_rng(3)
    (folder / "kimore").mkdir()
    arrays, lines, splits = {}, ["sample,subject,group,exercise,TS"], ["repeat,subject,group,part"]
    for person in range(12):
        name, group = f"P{person}", "Expert" if person < 6 else "Stroke"
        for exercise in (1, 2):
            size = 0.2 + person / 12
            arrays[f"{name}_Es{exercise}"] = _figure(25, 40 + person, size, draws)
            lines.append(f"{name}_Es{exercise},{name},{group},{exercise},{10 + 30 * size:.1f}")
        for number, tested in SPLITS.items():
            splits.append(f"{number},{name},{group},{'test' if person in tested else 'train'}")
    np.savez(folder / "kimore" / "kimore_positions_f32.npz", allow_pickle=False, **arrays)
    (folder / "kimore" / "kimore_samples.csv").write_text("\n".join(lines) + "\n")
    (folder / "kimore" / "subject_splits.csv").write_text("\n".join(splits) + "\n")
    (folder / "nw_ucla").mkdir()
    views = {
        f"a{action:02d}_s{person:02d}_e00_v{view:02d}": _figure(20, 20, 0.3 * action, draws)
        for action in ACTIONS
        for person in range(1, 5)
        for view in (1, 2, 3)
    }
    np.savez(folder / "nw_ucla" / "nw_ucla_joints_f32.npz", allow_pickle=False, **views)
    return folder
