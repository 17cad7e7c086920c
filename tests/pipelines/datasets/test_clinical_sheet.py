"""KIMORE's score sheet, from honest and from hostile workbooks."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.datasets.clinical_sheet import read_clinical_sheet
from pipelines.errors import AqaError, DataError, SecurityError

HEADER = ["Subject ID", *(f"clinical {kind} Ex#{k}" for kind in ("TS", "PO", "CF") for k in range(1, 6))]
ROW = ["B_ID1", 41, 16, 26.5, 23, None, 15, 5, 9, 4, None, 26, 11, 17.5, 19, None]
REUSED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def book(path: Path, *rows: list) -> Path:
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    workbook.save(path)
    return path


def with_part(path: Path, name: str, data: bytes, **options: object) -> Path:
    """The workbook with one part added or replaced."""
    with zipfile.ZipFile(path) as old:
        parts = {part: old.read(part) for part in old.namelist()}
    parts[name] = data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part, content in parts.items():
            new.writestr(part, content)
    return path


def test_scores_by_exercise(tmp_path: Path):
    sheet = read_clinical_sheet(book(tmp_path / "a.xlsx", HEADER, ROW))
    assert sheet.subject == "B_ID1"
    assert sheet.total == {1: 41.0, 2: 16.0, 3: 26.5, 4: 23.0}
    assert sheet.primary == {1: 15.0, 2: 5.0, 3: 9.0, 4: 4.0}
    assert sheet.control == {1: 26.0, 2: 11.0, 3: 17.5, 4: 19.0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["Name"], ROW], "the first cell is 'Name', not 'Subject ID'"),
        ([HEADER], "0 rows of scores below the header"),
        ([HEADER, ROW, ROW], "2 rows of scores below the header"),
        ([HEADER[:-1], ROW], "column 'clinical CF Ex#5' is absent"),
        (
            [HEADER, [*ROW[:1], "forty", *ROW[2:]]],
            "column 'clinical TS Ex#1' holds 'forty', not a finite number",
        ),
        (
            [HEADER, [*ROW[:1], "41,5", *ROW[2:]]],
            "column 'clinical TS Ex#1' holds '41,5', not a finite number",
        ),
        ([HEADER, [*ROW[:1], True, *ROW[2:]]], "column 'clinical TS Ex#1' holds True, not a finite number"),
    ],
)
def test_wrong_sheets_are_named(tmp_path: Path, rows: list, message: str):
    with pytest.raises(DataError, match=message):
        read_clinical_sheet(book(tmp_path / "a.xlsx", *rows))


def test_formulas_are_not_computed(tmp_path: Path):
    row = [*ROW[:1], "=40+1", *ROW[2:]]
    assert 1 not in read_clinical_sheet(book(tmp_path / "a.xlsx", HEADER, row)).total


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("xl/vbaProject.bin", b"x", "macros, external links or embedded objects .'xl/vbaProject.bin'"),
        ("xl/externalLinks/externalLink1.xml", b"<a/>", "macros, external links or embedded objects"),
        ("xl/embeddings/oleObject1.bin", b"x", "macros, external links or embedded objects"),
        ("../evil.xml", b"<a/>", "the part '../evil.xml' points outside of the workbook"),
        ("xl/zeros.xml", b"<a>" + b" " * 2_000_000 + b"</a>", "expands from .* to 2,000,007 bytes"),
        (
            "xl/a.xml",
            b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
            "xl/a.xml declares a document type or entities",
        ),
        ("xl/a.xml", "<!DOCTYPE a><a/>".encode("utf-16"), "xl/a.xml declares a document type or entities"),
        (
            "xl/worksheets/_rels/sheet1.xml.rels",
            b'<R><Relationship Type="x/image" Target="http://example.org/" TargetMode="External"/></R>',
            "links to 'http://example.org/' outside of the workbook",
        ),
    ],
)
def test_active_content_is_refused(tmp_path: Path, name: str, data: bytes, message: str):
    with pytest.raises(SecurityError, match=message):
        read_clinical_sheet(with_part(book(tmp_path / "a.xlsx", HEADER, ROW), name, data))


def test_broken_legacy_and_protected_workbooks(tmp_path: Path):
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500))
    with pytest.raises(SecurityError, match=r"a legacy \.xls or a workbook with a password"):
        read_clinical_sheet(path)
    path.write_bytes(b"plain text")
    with pytest.raises(DataError, match=r"this is no readable \.xlsx workbook"):
        read_clinical_sheet(path)
    with pytest.raises(DataError, match=r"xl/workbook\.xml is no readable XML"):
        read_clinical_sheet(with_part(book(path, HEADER, ROW), "xl/workbook.xml", b"<unclosed>"))
    with pytest.raises(DataError, match=r"this is no readable \.xlsx workbook \(IndexError"):
        read_clinical_sheet(with_part(book(path, HEADER, ROW), "xl/workbook.xml", b"<empty/>"))


def test_many_parts_and_big_files(tmp_path: Path):
    path = book(tmp_path / "a.xlsx", HEADER, ROW)
    with zipfile.ZipFile(path, "a") as archive:
        for index in range(300):
            archive.writestr(f"xl/part{index}.txt", b"")
    with pytest.raises(SecurityError, match=r"the workbook has 3\d\d parts"):
        read_clinical_sheet(path)
    path.write_bytes(b"PK" + bytes(5_000_000))
    with pytest.raises(SecurityError, match="5,000,002 bytes; at most 4,194,304"):
        read_clinical_sheet(path)


def test_defusedxml_must_be_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openpyxl, "DEFUSEDXML", False)
    with pytest.raises(SecurityError, match="openpyxl runs without defusedxml"):
        read_clinical_sheet(book(tmp_path / "a.xlsx", HEADER, ROW))


@REUSED
@given(data=st.data())
def test_damaged_workbooks_raise_only_our_errors(tmp_path: Path, data: st.DataObject):
    """Damage inside the XML parts, so that it reaches openpyxl, and in the zip around them.

    Places are drawn from a fixed range: the workbook holds the time of day, so its length varies.
    """
    path = book(tmp_path / "a.xlsx", HEADER, ROW)
    with zipfile.ZipFile(path) as archive:
        parts = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    part = parts[data.draw(st.sampled_from(sorted(parts)))]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 2**16)) % (len(part) + 1)
        noise = data.draw(st.sampled_from([b"", b"-1", b"A", b"999999999999", b'"', b"x", b"1e400", b"<c/>"]))
        part[place : place + data.draw(st.integers(0, 6))] = noise
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, bytes(content))
    content = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, 2**16)) % len(content)] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with contextlib.suppress(AqaError):
        read_clinical_sheet(path)


@pytest.mark.data
@pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
def test_a_genuine_layout_sheet():
    root = Path(os.environ["AQA_TEST_DATA"]) / "kimore/official_layout_sample/GPP/BackPain/B_ID1/Es1/Label"
    sheet = read_clinical_sheet(root / "ClinicalAssessment_B_ID1.xlsx")
    assert (sheet.subject, sheet.total) == ("B_ID1", {1: 41.0, 2: 16.0, 3: 26.0, 4: 23.0, 5: 22.0})
