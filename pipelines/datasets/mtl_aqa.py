"""MTL-AQA: 1412 dives of 15 videos with score, difficulty and seven judges.

Parmar & Morris, "What and How Well You Performed?", CVPR 2019. The folder holds the pickles as published with
CoRe (Yu et al., ICCV 2021):

    final_annotations_dict_with_dive_number.pkl     {(video, number): {final_score, difficulty, ...}}
    train_split_0.pkl test_split_0.pkl              lists of keys

MTL-AQA has no sub-actions. 1369 of its dives are in FineDiving as (video with two digits, number): given
FineDiving's folder, they take its labels and its cut of the video. The two splits are not aligned
(`dive_leaks.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from pipelines.datasets import fine_diving
from pipelines.datasets.dive_annotations import (
    RATE_HZ,
    Dive,
    Record,
    clip_rows,
    dive_report,
    read_records,
    read_splits,
)
from pipelines.datasets.problems import Problems, shorten

ANNOTATIONS = "final_annotations_dict_with_dive_number.pkl"
SPLITS = {"train": "train_split_0.pkl", "test": "test_split_0.pkl"}


def read_mtl_aqa(
    folder: Path, videos: Path | None = None, rate_hz: float = RATE_HZ, steps_from: Path | None = None
) -> tuple[pa.Table, dict]:
    """Read the annotations.

    Args:
        folder: of the pickles.
        videos: see `dive_annotations.clip_rows`.
        rate_hz: frames per second of the annotated frames.
        steps_from: FineDiving's folder; None = no dive has transitions.

    Returns:
        Clips, and a report with counts and audits.

    Raises:
        DataError: a file is absent or holds something else; every wrong value is named.
        SecurityError: a pickle that asks for more than plain values and arrays.
    """
    folder = Path(folder)
    dives = _read_dives(folder)
    splits = read_splits(folder, SPLITS, dives)
    names, warnings = {}, []
    if steps_from is not None:
        names = fine_diving.read_names(Path(steps_from))
        dives, warnings = _with_steps(dives, fine_diving.read_dives(Path(steps_from)))
    ordered = [
        (dives[key], splits.get(key)) for key in [*splits, *(key for key in dives if key not in splits)]
    ]
    clips, absent = clip_rows(ordered, dataset="mtl_aqa", names=names, videos=videos, rate_hz=rate_hz)
    report = dive_report("mtl_aqa", folder, ordered, absent)
    report["warnings"] += warnings
    return clips, report


def _read_dives(folder: Path) -> dict[tuple[int, int], Dive]:
    problems = Problems(folder / ANNOTATIONS)
    dives: dict[tuple[int, int], Dive] = {}
    for key, values in read_records(folder, ANNOTATIONS).items():
        record = Record(key, values, problems)
        video, index = key if isinstance(key, tuple) and len(key) == 2 else (None, None)
        if type(video) is not int or type(index) is not int or min(video, index) < 0:
            problems.add(f"key {shorten(key)}", "a dive such as (1, 35)", "restore the file")
            continue
        dives[video, index] = Dive(
            f"{video:02d}",
            index,
            action_type=record.text("dive_number").lower(),
            score=record.number("final_score"),
            difficulty=record.number("difficulty"),
            num_frames=record.span("start_frame", "end_frame"),
            judge_scores=record.numbers("judge_scores"),
            labels=None,
        )
    problems.raise_if_any()
    return dives


def _with_steps(
    dives: dict[tuple[int, int], Dive], known: dict[tuple[str, int], Dive]
) -> tuple[dict[tuple[int, int], Dive], list[str]]:
    """The dives with labels and length of those FineDiving holds with the same score."""
    stepped, without = {}, 0
    for key, dive in dives.items():
        twin = known.get((dive.competition, dive.index))
        if twin is not None and twin.score == dive.score:
            dive = replace(dive, labels=twin.labels, num_frames=twin.num_frames)
        without += dive.labels is None
        stepped[key] = dive
    return stepped, [f"dives that FineDiving does not hold, so without transitions: {without}"]
