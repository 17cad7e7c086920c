"""A user's table of clips (CSV or Parquet) -> the clips table of `pipelines.schema.CLIPS`."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from pipelines.datasets.csv_text import MAX_ROWS, read_csv
from pipelines.datasets.parquet_table import MAX_BYTES, read_parquet
from pipelines.datasets.problems import Problems
from pipelines.datasets.source_file import check_source
from pipelines.errors import DataError
from pipelines.schema import CLIPS

SPLITS = ("train", "val", "test")
_BOX = ("box_x1_px", "box_y1_px", "box_x2_px", "box_y2_px")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_OTHER_NAMES = {
    "video": "uri", "path": "uri", "file": "uri", "filename": "uri", "url": "uri", "id": "clip_id",
    "name": "clip_id", "label": "score", "patient": "subject_id", "athlete": "subject_id",
    "diagnosis": "group", "exercise": "action_type", "action": "action_type", "bbox": "box_x1_px",
}  # fmt: skip

Columns = dict[str, list]


class _BadCell(ValueError):
    """One cell is wrong; args: what was expected, what to do."""


def read_manifest(path: Path) -> pa.Table:
    """Read a user's manifest.

    Args:
        path: CSV (UTF-8, commas) or Parquet; the suffix decides, without a known one the content.

    Returns:
        A table with the columns of CLIPS, one row per clip, in the order of the file. Defaults: `clip_id` is
        the stem of the file name, with a short hash of uri and range where stems repeat; a relative
        `uri` is taken from the manifest's folder and made absolute; empty cells are null.

    Raises:
        DataError: anything wrong in the table, all problems in one error, each with its row.
        SecurityError: a pickle, or a file that would fill the memory.
    """
    return read_manifest_lines(path)[0]


def read_manifest_lines(path: Path) -> tuple[pa.Table, list[str]]:
    """As `read_manifest`, and for each clip where it stands in the file ("line 5" or "row 4")."""
    path = Path(path)
    problems = Problems(path)
    if _is_parquet(path):
        names, rows = _read_parquet(path)
        word = "row"
    else:
        names, rows = read_csv(path, problems)
        word = "line"
    columns, lines = parse_clips(names, rows, problems, required="uri", word=word)
    columns["clip_id"] = _default_ids(columns)
    check_clips(columns, lines, problems)
    problems.raise_if_any()
    columns["uri"] = [absolute_uri(uri, path.parent) for uri in columns["uri"]]
    if not lines:
        raise DataError(path, "there are no clips below the header", "add one row per clip")
    return clips_table(columns), lines


def clips_table(columns: Columns) -> pa.Table:
    """Columns of Python values -> a table with the schema CLIPS; absent columns are null."""
    rows = len(columns["clip_id"])
    arrays = [pa.array(columns.get(field.name, [None] * rows), type=field.type) for field in CLIPS]
    return pa.Table.from_arrays(arrays, schema=CLIPS)


def parse_clips(
    names: Sequence[str], rows: Iterable[tuple[int, list]], problems: Problems, *, required: str, word: str
) -> tuple[Columns, list[str]]:
    """Cells -> typed columns; bad cells go to `problems` and become null.

    Args:
        names: column names of the file.
        rows: line or row number, and cells (text, or the values of a Parquet file).
        required: the column that may not be empty.
        word: "line" or "row", as rows are named in errors.

    Returns:
        The columns of CLIPS as lists, and for each clip where it stands in the file.

    Raises:
        DataError: unknown column, or the required one is absent.
    """
    check_columns(names, CLIPS.names, required, problems.path)
    parsers = [_parser(CLIPS.field(name).type) for name in names]
    columns: Columns = {name: [] for name in CLIPS.names}
    absent = [name for name in CLIPS.names if name not in set(names)]
    lines: list[str] = []
    for number, cells in rows:
        where = f"{word} {number}"
        lines.append(where)
        for name, parse, cell in zip(names, parsers, cells, strict=True):
            try:
                value = None if cell is None or cell == "" else parse(cell)
                if value is None and name == required:
                    raise _BadCell("a value in every row", "fill the cell or delete the row")
            except _BadCell as bad:
                value = None
                problems.add(where, *bad.args, column=name, value=cell)
            columns[name].append(value)
        for name in absent:
            columns[name].append(None)
    return columns, lines


def check_columns(names: Sequence[str], known: Sequence[str], required: str, path: Path) -> None:
    """Refuse unknown columns, naming the nearest known one, and the absence of the required one."""
    for name in names:
        if name not in known:
            plain = name.lower().replace(" ", "_").replace("-", "_")
            near = [plain] if plain in known else difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
            near = near or [other for key, other in _OTHER_NAMES.items() if key == plain and other in known]
            hint = (
                f"did you mean {near[0]!r}? Rename the column, or delete it" if near else "delete the column"
            )
            raise DataError(path, f"unknown column {name!r}; known: {', '.join(known)}", hint)
    if required not in names:
        raise DataError(path, f"the column {required!r} is absent", f"add it; found: {', '.join(names)}")


def check_clips(columns: Columns, lines: list[str], problems: Problems) -> None:
    """What one cell alone cannot show: order of times, boxes, unique names, subjects within one split."""
    first_row: dict[str, str] = {}
    split_of: dict[str, tuple[str, str]] = {}
    told: set[str] = set()
    for index, where in enumerate(lines):
        row = {name: values[index] for name, values in columns.items()}
        _check_row(row, where, problems)
        clip_id, subject, split = row["clip_id"], row["subject_id"], row["split"]
        if clip_id is not None and first_row.setdefault(clip_id, where) != where:
            expected = f"a clip_id used once, but {first_row[clip_id]} has it too"
            problems.add(where, expected, "give every clip its own name", column="clip_id", value=clip_id)
        if subject is not None and split is not None and subject not in told:
            before, other = split_of.setdefault(subject, (split, where))
            if before != split:
                told.add(subject)
                expected = f"every subject in one split, but {subject} is in {before!r} on {other}"
                problems.add(
                    where, expected, "move all clips of a subject together", column="split", value=split
                )


def _check_row(row: dict, where: str, problems: Problems) -> None:
    if row["clip_id"] is None and row["uri"] is not None:
        problems.add(where, "the name of a file", "correct the cell", column="uri", value=row["uri"])
    elif set("/\\") & set(row["clip_id"] or ""):
        expected, remedy = "a name, not a path", "write _ instead of / and \\"
        problems.add(where, expected, remedy, column="clip_id", value=row["clip_id"])
    start, end, transitions = row["start_s"], row["end_s"], row["transitions_s"] or []
    for name in ("start_s", "end_s"):
        if (time := row[name]) is not None and time < 0:
            remedy = "count from the start of the file"
            problems.add(where, "a time of 0 or more", remedy, column=name, value=time)
    if end is not None and end <= (start or 0):
        expected = f"end_s above start_s ({start or 0:g})"
        problems.add(where, expected, "swap or correct the times", column="end_s", value=end)
    low, high = start or 0.0, math.inf if end is None else end
    if any(later <= earlier for earlier, later in pairwise(transitions)):
        expected, remedy = "times that increase", "sort or correct the times"
        problems.add(where, expected, remedy, column="transitions_s", value=transitions)
    elif transitions and (transitions[0] < low or transitions[-1] > high):
        expected = f"times within the clip ({low:g} to {high:g} s)"
        remedy = "count from the start of the file, not of the clip"
        problems.add(where, expected, remedy, column="transitions_s", value=transitions)
    procedures = row["procedures"]
    if (
        procedures is not None
        and len(procedures) != len(transitions) + 1
        and row["transitions_s"] is not None
    ):
        expected, remedy = (
            f"{len(transitions) + 1} names for {len(transitions)} transitions",
            "name every step",
        )
        problems.add(where, expected, remedy, column="procedures", value=procedures)
    if row["splash"] is not None and row["splash"] < 0:
        expected, remedy = "a splash of 0 or more", "correct the cell, or leave it empty if not known"
        problems.add(where, expected, remedy, column="splash", value=row["splash"])
    split = row["split"]
    if split is not None and split not in SPLITS:
        problems.add(where, "train, val or test", "correct or empty the cell", column="split", value=split)
    box = [row[name] for name in _BOX]
    if any(edge is not None for edge in box) and None in box:
        missing = _BOX[box.index(None)]
        problems.add(where, "all four edges of the box or none", "fill or empty the others", column=missing)
    elif None not in box and not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
        expected = "0 <= x1 < x2 and 0 <= y1 < y2 in pixels of the upright frame"
        problems.add(where, expected, "swap or correct the edges", column="box_x1_px", value=box)


def absolute_uri(uri: str | None, folder: Path) -> str | None:
    """A relative path made absolute from `folder`; addresses such as s3://... stay as they are."""
    if uri is None or "://" in uri:
        return uri
    return os.path.normpath(os.path.join(os.path.abspath(folder), uri))


def _default_ids(columns: Columns) -> list[str | None]:
    stems = [_stem(uri or "") for uri in columns["uri"]]
    given = columns["clip_id"]
    used = Counter(stem if clip_id is None else clip_id for clip_id, stem in zip(given, stems, strict=True))
    ids = []
    for index, stem in enumerate(stems):
        name = given[index]
        if name is None and stem:
            text = "|".join(repr(columns[key][index]) for key in ("uri", "start_s", "end_s"))
            name = stem if used[stem] == 1 else f"{stem}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        ids.append(name)
    return ids


def _stem(uri: str) -> str:
    """Name of the file without suffix; empty where the uri names no file."""
    stem = posixpath.splitext(posixpath.basename(uri.rstrip("/")))[0]
    stem = "".join("_" if unicodedata.category(char) in ("Cc", "Cs") else char for char in stem)
    return "" if stem in (".", "..") else unicodedata.normalize("NFC", stem)


def _parser(kind: pa.DataType):
    if pa.types.is_list(kind):
        return _parse_texts if pa.types.is_string(kind.value_type) else _parse_numbers
    return _parse_number if pa.types.is_floating(kind) else _parse_text


def _parse_text(cell: object) -> str:
    if isinstance(cell, bool) or not isinstance(cell, (str, int)):
        raise _BadCell("text", "store the column as text")
    return unicodedata.normalize("NFC", str(cell))


def _parse_number(cell: object) -> float:
    if isinstance(cell, str):
        if _DECIMAL_COMMA.fullmatch(cell):
            raise _BadCell("a decimal point", f"write {cell.replace(',', '.')}")
        if len(cell) > 40 or not _NUMBER.fullmatch(cell):
            raise _BadCell("a number such as 85.5", "correct the cell, or leave it empty if not known")
        cell = float(cell)
    elif isinstance(cell, bool) or not isinstance(cell, (int, float)):
        raise _BadCell("a number", "store the column as numbers")
    if not -1e300 < cell < 1e300:  # false for NaN and both infinities
        raise _BadCell("a finite number", "correct the cell, or leave it empty if not known")
    return float(cell)


def _parse_numbers(cell: object) -> list[float]:
    if isinstance(cell, list):
        items: list = cell
    elif isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        items = [item.strip() for item in cell[1:-1].split(",")] if cell[1:-1].strip() else []
    elif isinstance(cell, str) and "," not in cell:
        items = re.split(r"[\s;]+", cell.strip("; "))
    else:
        raise _BadCell(
            "a list such as [7.5, 8, 8.5] or 7.5 8 8.5", "separate the numbers with spaces, not commas"
        )
    return [_parse_number("" if item is None else item) for item in items]


def _parse_texts(cell: object) -> list[str]:
    items = cell
    if isinstance(cell, str) and cell.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):  # else it stays text and is refused below
            items = json.loads(cell)
    elif isinstance(cell, str):
        items = [item.strip() for item in cell.split(";")]
    if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
        raise _BadCell("names such as Forward; 1.5 Soms.Pike; Entry", "separate the names with semicolons")
    return [_parse_text(item) for item in items]


def _is_parquet(path: Path) -> bool:
    suffix = path.suffix.lower()
    check_source(path, MAX_BYTES)
    if suffix in (".parquet", ".csv"):
        return suffix == ".parquet"
    if suffix in (".xlsx", ".xls", ".ods", ".json", ".jsonl", ".npz", ".npy", ".mat", ".h5", ".tsv"):
        remedy = "save the table as CSV (UTF-8, commas) or Parquet"
        raise DataError(path, f"a manifest is CSV or Parquet, not {suffix}", remedy)
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def _read_parquet(path: Path) -> tuple[list[str], Iterable[tuple[int, list]]]:
    """Column names, and an iterator over (row number from 1, values)."""
    table = read_parquet(path, MAX_ROWS)
    names = table.column_names
    if len(set(names)) != len(names):
        raise DataError(path, "a column appears twice", "keep one of the two columns")
    return names, _parquet_rows(path, table)


def _parquet_rows(path: Path, table: pa.Table) -> Iterable[tuple[int, list]]:
    number = 0
    try:
        for batch in table.to_batches(max_chunksize=4096):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield number, list(row)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        cause = f"row {number + 1} or one soon after it cannot be read ({str(error)[:200]})"
        raise DataError(path, cause, "write the table again, or give CSV") from None
