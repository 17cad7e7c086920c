"""A csv that says which subjects train and which test, once per repeat -> the column `split` of the clips.

Columns: repeat (0, 1, ...), subject, part (train, val or test); a column group is allowed and not used.
Validation may be left out of the file: training then carves it from train. Splits are by subject only: a
repeat is a dictionary from subject to part, so nobody can be in two, and a file that says so is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.datasets.csv_text import read_csv
from pipelines.datasets.manifest import SPLITS, check_columns
from pipelines.datasets.problems import Problems, first_names
from pipelines.errors import ConfigError, DataError, StorageError

_COLUMNS = ("repeat", "subject", "part", "group")
Parts = dict[str, str]


def read_splits(path: Path, repeat: int) -> Parts:
    """Part of each subject in one repeat.

    Raises:
        DataError: absent column, unknown part, or a subject in two parts of a repeat.
        ConfigError: the file has no such repeat.
    """
    repeats = _read(path)
    if str(repeat) not in repeats:
        numbers = sorted(repeats, key=lambda text: (len(text), text))
        remedy = f"choose one of: {first_names(numbers, 20)}"
        raise ConfigError(path, f"there is no split number {repeat}", remedy)
    return repeats[str(repeat)]


def read_all_splits(path: Path) -> list[Parts]:
    """Part of each subject in every repeat, in the order of their numbers.

    Raises:
        DataError: as `read_splits`; or the repeats are not numbered 0, 1, ..., or one of them has nobody to
            train or nobody to test.
    """
    repeats = _read(path)
    if sorted(repeats) != sorted(map(str, range(len(repeats)))) or not repeats:
        cause = f"the repeats are numbered {first_names(repeats, 20) or 'not at all'}"
        raise DataError(path, cause, "number them 0, 1, 2, ...")
    found = [repeats[str(number)] for number in range(len(repeats))]
    for number, parts in enumerate(found):
        if absent := {"train", "test"} - set(parts.values()):
            cause = f"split number {number} has no subject in {' and '.join(sorted(absent))}"
            raise DataError(path, cause, "every split needs subjects to train and to test")
    return found


def _read(path: Path) -> dict[str, Parts]:
    problems = Problems(path)
    names, rows = read_csv(path, problems)
    for name in ("repeat", "subject", "part"):
        check_columns(names, _COLUMNS, name, path)
    found: dict[str, Parts] = {}
    lines: dict[tuple[str, str], int] = {}
    for line, cells in rows:
        row = dict(zip(names, cells, strict=True))
        subject, part = row["subject"], row["part"]
        before = found.setdefault(row["repeat"], {}).setdefault(subject, part)
        other = lines.setdefault((row["repeat"], subject), line)
        if part not in SPLITS:
            problems.add(f"line {line}", "train, val or test", "correct the cell", column="part", value=part)
        elif before != part:
            expected = f"every subject in one part, but line {other} says {before}"
            problems.add(f"line {line}", expected, "keep one of the rows", column="subject", value=subject)
    problems.raise_if_any()
    return found


def write_splits(path: Path, repeats: list[Parts], groups: Mapping[str, str]) -> None:
    """Write repeats as the csv that `read_splits` reads.

    Args:
        groups: group of each subject, for the column group.

    Raises:
        ConfigError: the file exists; splits that others were measured on are never overwritten.
        StorageError: the folder cannot be written.
    """
    lines = ["repeat,subject,group,part"]
    for number, parts in enumerate(repeats):
        lines += [f"{number},{subject},{groups.get(subject, '')},{part}" for subject, part in parts.items()]
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
    except FileExistsError:
        cause = "the file exists, and splits are never overwritten"
        raise ConfigError(path, cause, "choose another name, or delete it") from None
    except OSError as error:
        cause = f"cannot be written: {error.strerror}"
        raise StorageError(path, cause, "check path and permissions") from None


def k_folds(groups: Mapping[str, str], folds: int, seed: int) -> list[Parts]:
    """Every subject tests in one of the folds and trains in the others.

    Args:
        groups: group of each subject; each group is spread over the folds, to one subject's difference.
        folds: how many, at least 2.
        seed: of the order within a group.

    Raises:
        ConfigError: fewer subjects than folds, or fewer than 2 folds.
    """
    if not 2 <= folds <= len(groups):
        remedy = f"choose 2 to {len(groups)}, the number of subjects"
        raise ConfigError("folds", f"{folds} folds of {len(groups)} subjects", remedy)
    generator = np.random.default_rng(seed)
    order: list[str] = []
    for group in sorted(set(groups.values())):
        members = sorted(subject for subject, name in groups.items() if name == group)
        order += [members[index] for index in generator.permutation(len(members))]
    # Dealt one by one through all groups: fold sizes, and each group's share of them, differ by one at most.
    fold_of = {subject: position % folds for position, subject in enumerate(order)}
    return [
        {subject: "test" if fold_of[subject] == fold else "train" for subject in sorted(groups)}
        for fold in range(folds)
    ]


def leave_one_out(groups: Mapping[str, str]) -> list[Parts]:
    """One repeat per subject, in which only this subject tests."""
    if len(groups) < 2:
        raise ConfigError("leave-one-out", f"{len(groups)} subjects", "at least 2 are needed")
    return [
        {subject: "test" if subject == out else "train" for subject in sorted(groups)}
        for out in sorted(groups)
    ]


def check_published(path: Path, repeats: list[Parts], groups: Mapping[str, str]) -> list[str]:
    """Whether splits of others fit the subjects here; returns warnings.

    Raises:
        DataError: a split leaves nobody of these subjects to train or to test.
    """
    warnings = []
    for number, parts in enumerate(repeats):
        here = {part for subject, part in parts.items() if subject in groups}
        if not {"train", "test"} <= here:
            cause = f"split number {number} trains or tests nobody of the {len(groups)} subjects here"
            raise DataError(path, cause, "give the splits of this data set")
    named = {subject for parts in repeats for subject in parts}
    if spare := sorted(named - set(groups)):
        warnings.append(f"in the file, but without a scored clip here: {first_names(spare)}")
    for number, parts in enumerate(repeats):
        if without := sorted(set(groups) - set(parts)):
            warnings.append(f"split number {number} leaves out: {first_names(without)}")
    return warnings


def groups_of(clips: pa.Table) -> dict[str, str]:
    """Subject -> group (empty if none), of the subjects with a scored clip; of all if no clip has a score.

    Raises:
        DataError: no clip names its subject, a subject has two groups, or two data sets share a name.
    """
    rows = clips.select(["subject_id", "group", "score", "dataset"]).to_pylist()
    if any(row["score"] is not None for row in rows):
        rows = [row for row in rows if row["score"] is not None]
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        if not row["subject_id"]:
            continue
        this = row["group"] or "", row["dataset"] or ""
        before = found.setdefault(row["subject_id"], this)
        if before[1] != this[1]:
            cause = f"is in the data sets {before[1]!r} and {this[1]!r}"
            raise DataError(f"subject {row['subject_id']}", cause, "split a table of one data set")
        if before[0] != this[0]:
            cause = f"is in the groups {before[0]!r} and {this[0]!r}"
            raise DataError(f"subject {row['subject_id']}", cause, "give each subject one group")
    if not found:
        raise DataError("clips table", "no clip names its subject", "fill the column subject_id")
    return {subject: group for subject, (group, _) in found.items()}


def with_splits(clips: pa.Table, parts: Parts) -> tuple[pa.Table, list[str]]:
    """Clips with `split` by subject; subjects in no part stay without split and are named in the warnings.

    Raises:
        ConfigError: the clips have splits already.
    """
    if clips["split"].null_count < len(clips):
        remedy = "drop that column, or do not choose a split number"
        raise ConfigError("split", "the clips have splits already", remedy)
    subjects = clips["subject_id"].to_pylist()
    column = pa.array([parts.get(name or "") for name in subjects], type=pa.string())
    without = sorted({str(name) for name in subjects if name not in parts})
    index = clips.schema.get_field_index("split")
    warnings = [f"in no split: {first_names(without)}"] if without else []
    return clips.set_column(index, clips.schema.field(index), column), warnings
