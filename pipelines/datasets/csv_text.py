"""A strict reader for CSV: UTF-8, commas, one header, the same number of fields in every row.

It refuses what spreadsheets quietly turn into wrong columns (semicolons, UTF-16, decimal commas in
unquoted cells, NUL bytes, unclosed quotes) and names the line.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pipelines.datasets.problems import Problems, shorten
from pipelines.datasets.source_file import read_source
from pipelines.errors import DataError

MAX_BYTES = 64 * 2**20
MAX_ROWS = 1_000_000
MAX_FIELD = 4096
MAX_COLUMNS = 1000
MAX_COMMENTS = 1000
_SAVE_UTF8 = "save it as 'CSV UTF-8' with commas"

Row = tuple[int, list[str]]


def read_csv(path: Path, problems: Problems) -> tuple[list[str], Iterator[Row]]:
    """Header and rows of a CSV file.

    Rows before the header whose first cell starts with # are comments. Cells are stripped of surrounding
    blanks; empty rows are left out. Rows with a wrong number of fields, an over-long field or a control
    character go to `problems` and are left out.

    Returns:
        Column names, and an iterator of (line number in the file counted from 1, cells).

    Raises:
        DataError: not UTF-8, NUL byte, no header, duplicate column, other separator, unclosed quote
            (the last may come while iterating).
    """
    rows = _records(path, decode(path, read_source(path, MAX_BYTES)))
    for line, cells in islice(rows, MAX_COMMENTS):
        if cells and not cells[0].startswith("#") and any(cells):
            _check_header(path, line, cells)
            return cells, _checked(path, rows, cells, problems)
    raise DataError(
        path, "there is no header line", "start the file with a line of column names, e.g. uri,score"
    )


def decode(path: Path, data: bytes) -> str:
    """Text of UTF-8 bytes, with or without a byte-order mark.

    Raises:
        DataError: UTF-16, another encoding, or a NUL byte; names the line.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[:4].count(0) >= 2:
        raise DataError(path, "the text is UTF-16 or binary, not UTF-8", _SAVE_UTF8)
    if (nul := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise DataError(path, f"line {line} holds a NUL byte, so this is no clean text", _SAVE_UTF8)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        cause = f"line {line} holds the byte 0x{data[error.start]:02x}, which is not UTF-8 (Latin-1?)"
        raise DataError(path, cause, _SAVE_UTF8) from None


def _records(path: Path, text: str) -> Iterator[Row]:
    """Raw records with the number of the line they start on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            cause = f"the record that starts on line {start} cannot be read ({error})"
            remedy = "look for an unclosed quote or a field that is far too long"
            raise DataError(path, cause, remedy) from None
        if record is None:
            return
        yield start, [cell.strip() for cell in record]
        start = reader.line_num + 1


def _check_header(path: Path, line: int, names: list[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise DataError(
            path, f"line {line}: the header has {len(names):,} columns", "keep the columns needed"
        )
    if len(names) == 1:
        for mark, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if mark in names[0]:
                cause = f"line {line}: the columns are separated by {word}"
                raise DataError(path, cause, "save the table with commas (and decimal points)")
    for name in names:
        if len(name) > 100 or _control_character(name):
            raise DataError(
                path, f"line {line}: {shorten(name)} is no column name", "correct the header line"
            )
    if "" in names:
        cause = f"line {line}: column {names.index('') + 1} has no name"
        raise DataError(path, cause, "name the column or delete it")
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            path, f"line {line}: column {double[0]!r} appears twice", "keep one of the two columns"
        )


def _checked(path: Path, rows: Iterator[Row], names: list[str], problems: Problems) -> Iterator[Row]:
    width = len(names)
    for number, (line, cells) in enumerate(rows):
        if number >= MAX_ROWS:
            raise DataError(
                path, f"there are more than {MAX_ROWS:,} rows", "split the table, or give Parquet"
            )
        if not any(cells):
            continue
        where = f"line {line}"
        if len(cells) != width:
            problems.add(
                where, f"{width} fields as in the header, not {len(cells)}", "quote cells with commas"
            )
        elif (longest := max(map(len, cells))) > MAX_FIELD:
            problems.add(
                where, f"at most {MAX_FIELD} characters in a field, not {longest:,}", "shorten the field"
            )
        elif bad := next(
            (cell for name, cell in zip(names, cells, strict=True) if _refused(name, cell)), None
        ):
            problems.add(where, "text on one line without control characters", "remove them", value=bad)
        else:
            yield line, cells


def _refused(name: str, cell: str) -> bool:
    # A file may be called anything, so what a uri holds is the file system's business.
    return name != "uri" and _control_character(cell)


def _control_character(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs") for char in text)
