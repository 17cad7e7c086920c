"""KIMORE's ClinicalAssessment_<subject>.xlsx: clinical scores of one subject, read without trusting the file.

An xlsx file is a zip of XML. Before openpyxl sees it: sizes and compression ratios are bounded, member names
are checked, and every XML part is parsed once by defusedxml with document types forbidden (so entity
expansion and external entities end here). Macros, links to other workbooks and embedded objects are
refused, not ignored. Only stored values are read, never formulas.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import ParseError

from pipelines.datasets.problems import shorten
from pipelines.datasets.source_file import read_source
from pipelines.errors import DataError, SecurityError

MAX_BYTES = 4 * 2**20
MAX_MEMBERS = 200
MAX_MEMBER_BYTES = 8 * 2**20
MAX_RATIO = 200
_MAX_ROWS, _MAX_COLUMNS = 64, 64
_ACTIVE = re.compile(
    r"vbaproject|macrosheets|externallinks|embeddings|activex|oleobject|connections\.xml", re.I
)
_HEADER = re.compile(r"clinical\s+(TS|PO|CF)\s+Ex\s*#?\s*([1-5])", re.I)
_REMEDY = "open it in a spreadsheet program and save it again as .xlsx with values only"
# What openpyxl raises on workbooks that are not what they should be.
_OPENPYXL_ERRORS = (
    KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, OSError, EOFError,
    zipfile.BadZipFile, zlib.error, ParseError, NotImplementedError, RecursionError,
)  # fmt: skip

Scores = dict[int, float]


@dataclass(frozen=True)
class ClinicalSheet:
    """Scores of one subject by exercise 1..5; an absent key was an empty cell.

    Attributes:
        subject: the cell Subject ID.
        total: clinical total score, 0 to 50 points.
        primary: primary outcomes, 0 to 15.
        control: control factors, 0 to 35; total = primary + control.
    """

    subject: str
    total: Scores
    primary: Scores
    control: Scores


def read_clinical_sheet(path: Path) -> ClinicalSheet:
    """Read the first sheet: row 1 column names, row 2 the subject.

    Raises:
        DataError: no readable workbook, an absent column, a cell that is no finite number.
        SecurityError: document type or entities, macros, external links, compression bomb, password.
    """
    data = read_source(path, MAX_BYTES)
    _check_container(path, data)
    rows = _rows(path, data)
    header = [str(cell).strip() if cell is not None else "" for cell in (rows[0] if rows else [])]
    if not header or header[0].lower() != "subject id":
        remedy = "the first row must hold Subject ID, clinical TS Ex#1 ... clinical CF Ex#5"
        raise DataError(
            path, f"the first cell is {shorten(header[0] if header else '')}, not 'Subject ID'", remedy
        )
    people = [row for row in rows[1:] if any(cell is not None for cell in row)]
    if len(people) != 1:
        raise DataError(path, f"{len(people)} rows of scores below the header", "keep the row of one subject")
    scores: dict[str, Scores] = {"TS": {}, "PO": {}, "CF": {}}
    found = set()
    for column, name in enumerate(header):
        if match := _HEADER.fullmatch(name):
            kind, exercise = match[1].upper(), int(match[2])
            found.add((kind, exercise))
            value = _score(path, people[0][column] if column < len(people[0]) else None, name)
            if value is not None:
                scores[kind][exercise] = value
    if absent := [
        f"clinical {kind} Ex#{k}" for kind in scores for k in range(1, 6) if (kind, k) not in found
    ]:
        raise DataError(path, f"column {absent[0]!r} is absent", "restore the sheet's 15 score columns")
    return ClinicalSheet(str(people[0][0] or "").strip(), scores["TS"], scores["PO"], scores["CF"])


def _score(path: Path, cell: object, name: str) -> float | None:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    if isinstance(cell, bool) or not isinstance(cell, (int, float)) or not math.isfinite(cell):
        cause = f"column {name!r} holds {shorten(cell)}, not a finite number"
        raise DataError(path, cause, "write the score with a decimal point, or empty the cell")
    return float(cell)


def _check_container(path: Path, data: bytes) -> None:
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    if data.startswith(b"\xd0\xcf\x11\xe0"):
        cause = "this is a legacy .xls or a workbook with a password"
        raise SecurityError(path, cause, "save it as .xlsx without a password")
    part = ""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_members(path, archive.infolist())
            for part in archive.namelist():
                if part.lower().endswith((".xml", ".rels", ".vml")):
                    root = fromstring(archive.read(part), forbid_dtd=True)
                    _check_links(path, part, root)
    except DefusedXmlException:
        cause = f"{part} declares a document type or entities, which can read files or fill the memory"
        raise SecurityError(path, cause, _REMEDY) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(path, f"this is no readable .xlsx workbook ({error})", _REMEDY) from None
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(path, f"{part} is no readable XML ({error})", _REMEDY) from None


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(members) > MAX_MEMBERS:
        raise SecurityError(path, f"the workbook has {len(members)} parts", _REMEDY)
    if len(set(names)) != len(names):
        raise SecurityError(path, "a part of the workbook is stored twice", _REMEDY)
    for member in members:
        name = member.filename
        if ".." in name.split("/") or name.startswith("/") or "\\" in name:
            raise SecurityError(path, f"the part {shorten(name)} points outside of the workbook", _REMEDY)
        if _ACTIVE.search(name):
            cause = f"the workbook holds macros, external links or embedded objects ({shorten(name)})"
            raise SecurityError(path, cause, _REMEDY)
        if member.file_size > MAX_MEMBER_BYTES or member.file_size > MAX_RATIO * max(
            member.compress_size, 512
        ):
            cause = f"{shorten(name)} expands from {member.compress_size:,} to {member.file_size:,} bytes"
            raise SecurityError(path, cause, _REMEDY)
    if sum(member.file_size for member in members) > 4 * MAX_MEMBER_BYTES:
        raise SecurityError(path, "the parts of the workbook expand to too many bytes", _REMEDY)


def _check_links(path: Path, part: str, root) -> None:
    if not part.endswith(".rels"):
        return
    for relation in root.iter():
        if relation.get("TargetMode", "").lower() == "external" and "hyperlink" not in relation.get(
            "Type", ""
        ):
            cause = f"{part} links to {shorten(relation.get('Target', ''))} outside of the workbook"
            raise SecurityError(path, cause, _REMEDY)


def _rows(path: Path, data: bytes) -> list[tuple]:
    import openpyxl

    if not openpyxl.DEFUSEDXML:
        cause = "openpyxl runs without defusedxml"
        raise SecurityError(path, cause, "install defusedxml and unset OPENPYXL_DEFUSEDXML")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles; only values are read
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
            sheet = book.worksheets[0]
            return list(sheet.iter_rows(min_row=1, max_row=_MAX_ROWS, max_col=_MAX_COLUMNS, values_only=True))
    except _OPENPYXL_ERRORS as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise DataError(path, f"this is no readable .xlsx workbook ({reason})", _REMEDY) from None
