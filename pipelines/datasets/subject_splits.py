"""A csv that says which subjects train and which test, once per repeat -> the column `split` of the clips.

Columns: repeat (0, 1, ...), subject, part (train, val or test); a column group is allowed and not used.
Validation may be left out of the file: training then carves it from train.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipelines.datasets.csv_text import read_csv
from pipelines.datasets.manifest import SPLITS, check_columns
from pipelines.datasets.problems import Problems, first_names
from pipelines.errors import ConfigError

_COLUMNS = ("repeat", "subject", "part", "group")


def read_splits(path: Path, repeat: int) -> dict[str, str]:
    """Part of each subject in one repeat.

    Raises:
        DataError: absent column, unknown part, or a subject in two parts of a repeat.
        ConfigError: the file has no such repeat.
    """
    problems = Problems(path)
    names, rows = read_csv(path, problems)
    for name in ("repeat", "subject", "part"):
        check_columns(names, _COLUMNS, name, path)
    parts: dict[tuple[str, str], tuple[str, int]] = {}
    for line, cells in rows:
        row = dict(zip(names, cells, strict=True))
        key, part = (row["repeat"], row["subject"]), row["part"]
        before, other = parts.setdefault(key, (part, line))
        if part not in SPLITS:
            problems.add(f"line {line}", "train, val or test", "correct the cell", column="part", value=part)
        elif before != part:
            expected = f"every subject in one part, but line {other} says {before}"
            problems.add(f"line {line}", expected, "keep one of the rows", column="subject", value=key[1])
    problems.raise_if_any()
    chosen = {subject: part for (number, subject), (part, _) in parts.items() if number == str(repeat)}
    if not chosen:
        numbers = sorted({number for number, _ in parts}, key=lambda text: (len(text), text))
        remedy = f"choose one of: {first_names(numbers, 20)}"
        raise ConfigError(path, f"there is no split number {repeat}", remedy)
    return chosen


def with_splits(clips: pa.Table, parts: dict[str, str]) -> tuple[pa.Table, list[str]]:
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
