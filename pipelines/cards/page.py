"""A page of HTML that carries its pictures in itself and is forbidden to fetch anything."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = (
    "body{font:15px/1.5 sans-serif;color:#222;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}"
    "table{border-collapse:collapse}th,td{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}"
    "th{border-bottom:1px solid #aaa}pre{overflow-x:auto;font-size:13px}"
    "figure{margin:1rem 0}img{max-width:100%}figcaption{color:#666}.bar{background:#c0504d;height:.9rem}"
)


def page(title: str, parts: list[str]) -> str:
    """A whole page.

    Args:
        title: plain text.
        parts: HTML of the functions of this package.
    """
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n<body><h1>{name}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def lines(texts: list[str]) -> str:
    """Lines of fixed-width text, as a terminal shows them."""
    return f"<pre>{html.escape(chr(10).join(texts))}</pre>"


def facts(values: dict[str, Any]) -> str:
    """Names and values below each other."""
    rows = [f"<tr><th>{html.escape(str(k))}</th><td>{_cell(v)}</td></tr>" for k, v in values.items()]
    return f"<table>{''.join(rows)}</table>"


def table(rows: list[dict[str, Any]]) -> str:
    """A row per dict; the columns are those of all rows in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = ["".join(f"<td>{_cell(row.get(name))}</td>" for name in columns) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{cells}</tr>' for cells in body)}</table>"


def picture(data: bytes, caption: str) -> str:
    """A PNG or JPEG picture with a line below it."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    text = base64.b64encode(data).decode()
    name = html.escape(caption)
    return (
        f'<figure><img alt="{name}" src="data:image/{kind};base64,{text}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def picture_of(path: Path, caption: str) -> list[str]:
    """A picture from a file, if the file is there."""
    return [picture(path.read_bytes(), caption)] if path.is_file() else []


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return html.escape(", ".join(f"{name} {count}" for name, count in value.items()))
    return html.escape(str(value))
