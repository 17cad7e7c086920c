"""Tiny annotation files in the layout of FineDiving and MTL-AQA."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

FORWARD, SOMERSAULT, ENTRY = 1, 22, 36


def labels(*runs: tuple[int, int]) -> np.ndarray:
    """`runs` of (label, frames)."""
    return np.concatenate([np.full(count, label) for label, count in runs])


def dive(number: str = "107b", score: float = 60.0, difficulty: float = 3.0, runs=None) -> list:
    """A record of the file for action quality assessment."""
    of_frame = labels(*(runs or ((FORWARD, 10), (SOMERSAULT, 20), (ENTRY, 30))))
    return [number, score, difficulty, np.array([9, 29]), of_frame]


def write_fine_diving(folder: Path, dives: dict | None = None, train=None, test=None, coarse=None) -> Path:
    """The files of FineDiving; by default two training dives and a test dive."""
    folder.mkdir(exist_ok=True)
    dives = (
        dives
        if dives is not None
        else {("01", 1): dive(), ("01", 2): dive(score=66.0), ("Cup_r1", 0): dive()}
    )
    keys = list(dives)
    judged = {
        key: {
            "action_type": "107b",
            "dive_score": value[1] if isinstance(value, list) else 0.0,
            "difficulty": 3.0,
            "judge_scores": [7.0, 7.0, 6.0],
        }
        for key, value in dives.items()
    }
    put(folder / "fine-grained_annotation_aqa.pkl", dives)
    put(folder / "train_split.pkl", keys[1:] if train is None else train)
    put(folder / "test_split.pkl", keys[:1] if test is None else test)
    put(folder / "FineDiving_coarse_annotation.pkl", judged if coarse is None else coarse)
    put(
        folder / "Sub_action_Types_Table.pkl", {1: "Forward", 22: "2 Soms.Tuck", 29: "0.5 Twist", 36: "Entry"}
    )
    return folder


def write_mtl_aqa(folder: Path, dives: dict | None = None) -> Path:
    """The files of MTL-AQA; by default a dive that FineDiving's default holds too, and one it does not."""
    folder.mkdir(exist_ok=True)
    record = {
        "difficulty": 3.0, "final_score": 60.0, "dive_number": "107B", "start_frame": 100, "end_frame": 150,
        "judge_scores": np.array([9.0, 7.0, 7.0, 6.0, 6.0, 7.0, 1.0]),
    }  # fmt: skip
    dives = dives if dives is not None else {(1, 1): record, (26, 4): record}
    put(folder / "final_annotations_dict_with_dive_number.pkl", dives)
    put(folder / "train_split_0.pkl", list(dives)[:1])
    put(folder / "test_split_0.pkl", list(dives)[1:])
    return folder


def put(path: Path, value: object) -> None:
    """Write a pickle as the data sets do."""
    path.write_bytes(pickle.dumps(value, protocol=3))
