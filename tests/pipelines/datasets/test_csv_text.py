"""The strict CSV reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.datasets.csv_text import MAX_FIELD, read_csv
from pipelines.datasets.problems import Problems
from pipelines.errors import DataError


def read(tmp_path: Path, data: bytes | str):
    path = tmp_path / "a.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    problems = Problems(path)
    header, rows = read_csv(path, problems)
    listed = list(rows)
    problems.raise_if_any()
    return header, listed


def test_line_numbers_are_those_of_the_file(tmp_path: Path):
    text = '# comment\n"# quoted, comment"\n\na,b\n1,"two, three"\n\n,\n4, x \n'
    header, rows = read(tmp_path, text)
    assert header == ["a", "b"]
    assert rows == [(5, ["1", "two, three"]), (8, ["4", "x"])]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_mark(tmp_path: Path, end: str, mark: bytes):
    assert read(tmp_path, mark + end.join(["a,b", "1,ü", ""]).encode()) == (["a", "b"], [(2, ["1", "ü"])])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\n1\n".encode("utf-16"), "the text is UTF-16 or binary, not UTF-8"),
        ("a\n1\n".encode("utf-16-le"), "the text is UTF-16 or binary, not UTF-8"),
        ("a\n1\nJosé\n".encode("latin-1"), r"line 3 holds the byte 0xe9, which is not UTF-8 \(Latin-1\?\)"),
        (b"a,b\n1,nul\0inside\n", "line 2 holds a NUL byte"),
        (b"a;b\n1;2\n", "line 1: the columns are separated by semicolons"),
        (b"a\tb\n1\t2\n", "line 1: the columns are separated by tabs"),
        (b"a,b,a\n1,2,3\n", "line 1: column 'a' appears twice"),
        (b"a,,b\n1,2,3\n", "line 1: column 2 has no name"),
        (b"a,b\n1,\"open\n2,3\n", "the record that starts on line 2 cannot be read .*unexpected end of data"),
        (b"a,b\n1,\"x\"y\n", "the record that starts on line 2 cannot be read"),
        (b"a,b\n1," + b"9" * 200_000 + b"\n", "line 2 cannot be read .*field larger than field limit"),
        (b"\n\n# only comments\n", "there is no header line"),
        (b"," * 5000 + b"x\n", "line 1: the header has 5,001 columns"),
        (b"a\x1bb,c\n", r"line 1: 'a\\x1bb' is no column name"),
    ],
)  # fmt: skip
def test_faults_of_the_whole_file(tmp_path: Path, data: bytes, message: str):
    with pytest.raises(DataError, match=message):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1", "line 2: expected 2 fields as in the header, not 1; quote cells with commas"),
        ("1,2,3", "line 2: expected 2 fields as in the header, not 3"),
        ("1," + "x" * (MAX_FIELD + 1), "line 2: expected at most 4096 characters in a field, not 4,097"),
        ('1,"two\nlines"', r"line 2: found 'two\\nlines', expected text on one line"),
        ("1,\x1b[31mred", r"found '\\x1b\[31mred', expected text on one line without control characters"),
    ],
)
def test_faults_of_a_row(tmp_path: Path, row: str, message: str):
    with pytest.raises(DataError, match=message):
        read(tmp_path, f"a,b\n{row}\n")


def test_problems_are_counted_beyond_those_shown(tmp_path: Path):
    with pytest.raises(DataError, match=r"(?s)25 problems\n.*line 2: .*line 21: .*and 5 more") as caught:
        read(tmp_path, "a,b\n" + "1\n" * 25)
    assert "line 22" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_lines_count_on_after_a_cell_of_two_lines(tmp_path: Path):
    with pytest.raises(DataError, match=r"2 problems\n  line 2: found .*\n  line 4: expected 2 fields"):
        read(tmp_path, 'a,b\n1,"two\nlines"\n3\n')
