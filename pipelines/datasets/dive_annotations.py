"""Annotated dives of FineDiving and MTL-AQA: reading their pickles, and rows of the clips table made of them.

A dive is named by its competition and its number in it, the clip COMPETITION_NUMBER (`01_35`), as the pose
files of FineDiving name it too. One file or folder of pictures holds one dive, its first frame is frame 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.datasets.problems import Problems, first_names, shorten
from pipelines.errors import DataError
from pipelines.formats.safe_pickle import read_pickle
from pipelines.schema import CLIPS, empty_row

RATE_HZ = 25.0
MAX_BYTES = 64 * 2**20  # of one annotation file; the largest published one has 3.5 MB
MAX_FRAMES = 100_000
FEW = 10  # exemplars that the protocol wants of a dive's own number
_TOLERANCE = 0.06  # points; published scores are rounded
_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")
_WHICH = "give the folder of the published annotation files, as they are"

Key = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Dive:
    """One annotated dive.

    Attributes:
        competition: name of the competition, or number of the video with two digits.
        index: number of the dive in it.
        action_type: dive number in lower case, `407c`.
        score: of the dive, in points.
        difficulty: degree of difficulty.
        num_frames: T, at the rate of the annotation.
        judge_scores: 3 or 5 that counted, or all 7; None if not known.
        labels: (T,) sub-action of each frame; None if not annotated.
        splash: share of the picture x seconds; None if not known.
    """

    competition: str
    index: int
    action_type: str
    score: float
    difficulty: float
    num_frames: int
    judge_scores: tuple[float, ...] | None
    labels: np.ndarray | None
    splash: float | None = None

    @property
    def clip_id(self) -> str:
        """Name of the clip."""
        return f"{self.competition}_{self.index}"


def read_records(folder: Path, name: str) -> dict:
    """The dictionary of one annotation file.

    Raises:
        DataError: no such folder or file, or something else in it.
        SecurityError: a pickle that asks for more than plain values and arrays.
    """
    values = _read(folder, name)
    if not isinstance(values, dict) or not values:
        raise DataError(folder / name, f"holds a {type(values).__name__}, not a dictionary of dives", _WHICH)
    return values


def read_splits(folder: Path, names: dict[str, str], known: Iterable[tuple]) -> dict[tuple, str]:
    """Split of each dive, in the order of the files.

    Args:
        folder: of the files.
        names: file of each split, {"train": "train_split.pkl", ...}.
        known: keys of the annotated dives.

    Raises:
        DataError: not a list of keys, a dive without annotation, or one listed twice.
    """
    known, splits = set(known), {}
    for split, name in names.items():
        keys = _read(folder, name)
        if not isinstance(keys, list) or not keys:
            raise DataError(folder / name, f"holds a {type(keys).__name__}, not a list of dives", _WHICH)
        problems = Problems(folder / name)
        for position, key in enumerate(keys):
            where = f"entry {position}"
            if not isinstance(key, tuple) or not all(type(part) in (str, int) for part in key):
                problems.add(where, "a dive such as ('01', 35)", "restore the file", value=key)
            elif key not in known:
                problems.add(where, "an annotated dive", "give files of one release", value=key)
            elif key in splits:
                expected = f"each dive once, but it is in {splits[key]} already"
                problems.add(where, expected, "keep one of the two", value=key)
            else:
                splits[key] = split
        problems.raise_if_any()
    return splits


def _read(folder: Path, name: str) -> Any:
    if not folder.is_dir():
        raise DataError(folder, "there is no such folder", _WHICH)
    if not (folder / name).exists():
        raise DataError(folder, f"the folder holds no {name}", _WHICH)
    return read_pickle(folder / name, MAX_BYTES)


class Record:
    """Values of one dive's record; what does not fit goes to the problems and becomes a harmless value.

    Args:
        key: of the dive, for messages.
        values: of the record by name.
        problems: of the file.
    """

    def __init__(self, key: object, values: object, problems: Problems):
        self.where, self.problems = f"dive {shorten(key)}", problems
        self.values = values if isinstance(values, dict) else {}
        if not isinstance(values, dict):
            problems.add(self.where, "a record of named values", "restore the file", value=values)

    def _bad(self, name: str, expected: str) -> None:
        value = self.values.get(name)
        self.problems.add(self.where, expected, "restore the file", column=name, value=value)

    def text(self, name: str) -> str:
        """A short printable text."""
        value = self.values.get(name)
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
        self._bad(name, "a text")
        return ""

    def number(self, name: str) -> float:
        """A finite number of 0 or more."""
        value = self.values.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
            return float(value)
        self._bad(name, "a number of 0 or more")
        return 0.0

    def numbers(self, name: str) -> tuple[float, ...]:
        """One to eleven judges' scores."""
        value = self.values.get(name)
        value = value.tolist() if isinstance(value, np.ndarray) else value
        given = value if isinstance(value, list) and len(value) <= 11 else []
        if given and all(type(item) in (int, float) and math.isfinite(item) for item in given):
            return tuple(float(item) for item in given)
        self._bad(name, "1 to 11 numbers")
        return ()

    def labels(self, name: str) -> np.ndarray:
        """(T,) int64."""
        value = self.values.get(name)
        whole = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu"
        if whole and 0 < len(value) <= MAX_FRAMES:  # type: ignore[arg-type]
            return np.asarray(value, dtype=np.int64)
        self._bad(name, f"one whole number per frame, 1 to {MAX_FRAMES:,} frames")
        return np.zeros(1, dtype=np.int64)

    def span(self, first: str, last: str) -> int:
        """Frames after `first` up to and with `last`."""
        start, end = self.values.get(first), self.values.get(last)
        if type(start) is int and type(end) is int and 0 < end - start <= MAX_FRAMES:
            return end - start
        self._bad(last, f"a frame after {first}, at most {MAX_FRAMES:,} later")
        return 1


def competition_key(key: object, problems: Problems) -> Key | None:
    """(competition, number) of a FineDiving key; None, and a problem, if it is none."""
    named = isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str) and type(key[1]) is int
    if named and _NAME.fullmatch(key[0]) and key[0] not in (".", "..") and key[1] >= 0:  # type: ignore[index]
        return key  # type: ignore[return-value]
    problems.add(f"key {shorten(key)}", "a dive such as ('01', 35)", "restore the file")
    return None


def clip_rows(
    dives: list[tuple[Dive, str | None]],
    *,
    dataset: str,
    names: dict[int, str],
    videos: Path | None,
    rate_hz: float,
) -> tuple[pa.Table, list[str]]:
    """Rows of the clips table.

    Args:
        dives: with the split of each.
        dataset: name of the data set.
        names: of the sub-actions by label; empty = `procedures` stays empty.
        videos: folder that holds COMPETITION/NUMBER/ (pictures) or COMPETITION/NUMBER.mp4; None = the uri is
            COMPETITION/NUMBER.
        rate_hz: frames per second.

    Returns:
        Clips, and the files that are not there.

    Raises:
        DataError: `videos` is no folder, or a label has no name.
    """
    if videos is not None and not videos.is_dir():
        raise DataError(
            videos, "there is no such folder", "give the folder that holds COMPETITION/NUMBER.mp4"
        )
    rows, absent = [], []
    for dive, split in dives:
        uri = f"{dive.competition}/{dive.index}"
        if videos is not None:
            media = (videos / uri).absolute()
            video = media.with_name(f"{media.name}.mp4")
            uri = str(media if media.is_dir() or not video.exists() else video)
            absent += [] if media.is_dir() or video.exists() else [uri]
        starts, labels = step_starts(dive.labels)
        unnamed = [label for label in labels if label not in names]
        if names and unnamed:
            cause = f"sub-action {unnamed[0]} of clip {dive.clip_id} has no name in the table of sub-actions"
            raise DataError(dataset, cause, "give files of one release")
        rows.append(
            empty_row(
                CLIPS,
                clip_id=dive.clip_id,
                uri=uri,
                end_s=dive.num_frames / rate_hz,  # a folder may hold more pictures than were annotated
                dataset=dataset,
                action_type=dive.action_type,
                score=dive.score,
                difficulty=dive.difficulty,
                judge_scores=dive.judge_scores,
                transitions_s=[start / rate_hz for start in starts] if dive.labels is not None else None,
                procedures=[names[label] for label in labels] if names and labels else None,
                splash=dive.splash,
                split=split,
            )
        )
    return pa.Table.from_pylist(rows, schema=CLIPS), absent


def step_starts(labels: np.ndarray | None) -> tuple[list[int], list[int]]:
    """First frame of every sub-action but the first, and the label of each sub-action."""
    if labels is None:
        return [], []
    starts = np.flatnonzero(np.diff(labels)) + 1
    return starts.tolist(), labels[[0, *starts]].tolist()


def official_score(judge_scores: Iterable[float], difficulty: float) -> float | None:
    """Points by the rules: middle three of 7 judges, 0.6 x all of 5 (synchronised), all of 3; x difficulty.

    None for a panel of another size.
    """
    awards = sorted(judge_scores)
    if len(awards) == 7:
        return sum(awards[2:5]) * difficulty
    factor = {5: 0.6, 3: 1.0}.get(len(awards))
    return None if factor is None else factor * sum(awards) * difficulty


def dive_report(kind: str, folder: Path, dives: list[tuple[Dive, str | None]], absent: list[str]) -> dict:
    """Counts and audits: steps, panels whose scores do not give the score, types with few training dives."""
    panels: Counter[int] = Counter()
    wrong: dict[int, list[str]] = {}
    for dive, _ in dives:
        if dive.judge_scores is not None:
            panels[len(dive.judge_scores)] += 1
            points = official_score(dive.judge_scores, dive.difficulty)
            if points is None or abs(points - dive.score) > _TOLERANCE + 1e-9:
                wrong.setdefault(len(dive.judge_scores), []).append(dive.clip_id)
    training = Counter({dive.action_type: 0 for dive, _ in dives})
    training.update(dive.action_type for dive, split in dives if split == "train")
    few = {name: count for name, count in sorted(training.items()) if count < FEW}
    warnings = [
        f"the scores of {size} judges do not give the score by the rules: {len(clips)} of {panels[size]} "
        f"dives ({first_names(clips, 3)})"
        for size, clips in sorted(wrong.items())
    ]
    if few:
        warnings.append(f"dive numbers with fewer than {FEW} training dives: {len(few)} ({first_names(few)})")
    if loose := [dive.clip_id for dive, split in dives if split is None]:
        warnings.append(f"dives in no split: {len(loose)} ({first_names(loose, 3)})")
    steps = Counter(len(step_starts(dive.labels)[1]) for dive, _ in dives if dive.labels is not None)
    return {
        "kind": kind,
        "source": str(folder.absolute()),
        "dives": len(dives),
        "steps": {str(count): dives_of for count, dives_of in sorted(steps.items())},
        "frames": {
            "mean": float(np.mean([dive.num_frames for dive, _ in dives])),
            "below_96": sum(dive.num_frames < 96 for dive, _ in dives),
        },
        "judges": {
            str(size): {"dives": count, "not_by_the_rules": wrong.get(size, [])}
            for size, count in sorted(panels.items())
        },
        "few_training_dives": few,
        "missing_files": {
            "count": len(absent),
            "first": [{"where": "dive", "uri": uri} for uri in absent[:10]],
        },
        "warnings": warnings,
    }
