"""A verb's result as a person or a program reads it: aligned text, or one JSON document."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a verb hands to the command line.

    Args:
        document: dicts, lists and scalars; None = print nothing.
        exit_code: 0 unless the result itself is bad news.
        text: for people, where the document as a table would read worse.
    """

    document: Any
    exit_code: int = 0
    text: str = ""

    def as_json(self) -> str:
        return to_json(self.document)

    def as_text(self) -> str:
        return self.text or to_text(self.document)


def to_json(document: Any) -> str:
    """One JSON document; numbers that are not finite become null, paths become text."""
    return json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, str | int):
        return value
    return _plain(value.item()) if hasattr(value, "item") else str(value)  # NumPy scalars know their value


def to_text(document: Any, indent: str = "") -> str:
    """A result for people: a list of rows as a table, a dict as aligned names and values."""
    if isinstance(document, list) and document and all(isinstance(row, dict) for row in document):
        return _table(document, indent)
    if not isinstance(document, dict):
        return indent + _cell(document)
    width = max((len(str(key)) for key in document), default=0)
    lines = []
    for key, value in document.items():
        nested = isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict))
        if nested and value:
            lines += [f"{indent}{key}", to_text(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key!s:<{width}}  {_cell(value)}".rstrip())
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]], indent: str) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        indent + "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    return str(value)
