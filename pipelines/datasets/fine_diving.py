"""FineDiving: 3000 competition dives with score, difficulty, judges and the sub-action of every frame.

Xu et al., "FineDiving: A Fine-grained Dataset for Procedure-aware Action Quality Assessment", CVPR 2022. The
folder holds the published pickles:

    fine-grained_annotation_aqa.pkl    {(competition, index): [dive number, score, difficulty, steps, labels]}
    train_split.pkl, test_split.pkl    lists of keys
    FineDiving_coarse_annotation.pkl   judges' scores; may be absent
    Sub_action_Types_Table.pkl         names of the sub-actions; may be absent

Steps begin where the labels change: the list of steps disagrees with the labels in ten dives. Dives keep the
order of the split files, train first. The divers are not named, so `subject_id` stays empty.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from pipelines.datasets.dive_annotations import (
    RATE_HZ,
    Dive,
    Key,
    Record,
    clip_rows,
    competition_key,
    dive_report,
    read_records,
    read_splits,
)
from pipelines.datasets.problems import Problems, first_names
from pipelines.datasets.splashes import with_splashes
from pipelines.errors import DataError

AQA = "fine-grained_annotation_aqa.pkl"
COARSE = "FineDiving_coarse_annotation.pkl"
TABLE = "Sub_action_Types_Table.pkl"
SPLITS = {"train": "train_split.pkl", "test": "test_split.pkl"}
_FIELDS = ("action_type", "dive_score", "difficulty", "steps_transit_frames", "frames_labels")


def read_fine_diving(
    folder: Path, videos: Path | None = None, rate_hz: float = RATE_HZ, splashes: Path | None = None
) -> tuple[pa.Table, dict]:
    """Read the annotations.

    Args:
        folder: of the pickles.
        videos: see `dive_annotations.clip_rows`.
        rate_hz: frames per second of the annotated frames.
        splashes: folder of splash masks, see `splashes.py`; None = `splash` stays empty.

    Returns:
        Clips, and a report with counts and audits.

    Raises:
        DataError: a file is absent or holds something else; every wrong value is named.
        SecurityError: a pickle that asks for more than plain values and arrays.
    """
    folder = Path(folder)
    dives = read_dives(folder)
    splits = read_splits(folder, SPLITS, dives)
    dives, warnings = _with_judges(folder, dives)
    if splashes is not None:
        found, told = with_splashes(dives.values(), splashes, rate_hz)
        dives, warnings = dict(zip(dives, found, strict=True)), warnings + told
    names = read_names(folder)
    if not names:
        warnings.append(f"there is no {TABLE}, so the sub-actions have no names")
    ordered = [
        (dives[key], splits.get(key)) for key in [*splits, *(key for key in dives if key not in splits)]
    ]
    clips, absent = clip_rows(ordered, dataset="fine_diving", names=names, videos=videos, rate_hz=rate_hz)
    report = dive_report("fine_diving", folder, ordered, absent)
    report["warnings"] += warnings
    return clips, report


def read_dives(folder: Path) -> dict[Key, Dive]:
    """Dives by (competition, number), without judges."""
    problems = Problems(Path(folder) / AQA)
    dives: dict[Key, Dive] = {}
    for key, values in read_records(Path(folder), AQA).items():
        named = dict(zip(_FIELDS, values, strict=False)) if isinstance(values, list) else values
        record = Record(key, named, problems)
        if (name := competition_key(key, problems)) is None:
            continue
        labels = record.labels("frames_labels")
        dives[name] = Dive(
            *name,
            action_type=record.text("action_type").lower(),
            score=record.number("dive_score"),
            difficulty=record.number("difficulty"),
            num_frames=len(labels),
            judge_scores=None,
            labels=labels,
        )
    problems.raise_if_any()
    return dives


def read_names(folder: Path) -> dict[int, str]:
    """Names of the sub-actions by label; empty if the folder does not hold them."""
    if not (folder / TABLE).exists():
        return {}
    names = read_records(folder, TABLE)
    if not all(type(label) is int and isinstance(name, str) for label, name in names.items()):
        raise DataError(folder / TABLE, "is no table of numbers and names", "restore the file")
    return names


def _with_judges(folder: Path, dives: dict[Key, Dive]) -> tuple[dict[Key, Dive], list[str]]:
    """The dives with the scores of the coarse file, and where that file says something else."""
    if not (folder / COARSE).exists():
        return dives, [f"there is no {COARSE}, so no judge's score is known"]
    problems = Problems(folder / COARSE)
    judged, other, without = dict(dives), [], []
    records = read_records(folder, COARSE)
    for key, dive in dives.items():
        if key not in records:
            without.append(dive.clip_id)
            continue
        record = Record(key, records[key], problems)
        judged[key] = replace(dive, judge_scores=record.numbers("judge_scores"))
        told = (record.text("action_type").lower(), record.number("dive_score"), record.number("difficulty"))
        if told != (dive.action_type, dive.score, dive.difficulty):
            other.append(dive.clip_id)
    problems.raise_if_any()
    warnings = [f"{COARSE} has another number, score or difficulty: {first_names(other)}"] if other else []
    return judged, warnings + ([f"{COARSE} lacks {first_names(without)}"] if without else [])
