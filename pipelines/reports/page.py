"""The frame of a report, and its blocks. Texts become markup only here, and are escaped where they do.

A page carries its pictures in itself, runs no script, and is forbidden to fetch anything.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

_STYLE = Markup("""
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1f; background: #fff; margin: 0 auto;
  max-width: 64rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; border-top: 1px solid #ddd; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
.note { color: #55555c; } nav { font-size: .9rem; margin: 1rem 0; }
nav a { margin-right: .9rem; white-space: nowrap; }
a { color: #00518f; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; min-width: 50%; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #e4e4e4;
  vertical-align: top; overflow-wrap: normal; }
td:first-child { min-width: 6rem; } td.long { overflow-wrap: anywhere; min-width: 9rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
tr.own td { font-weight: 700; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr));
  gap: .8rem; margin: .8rem 0; }
.tile { border: 1px solid #ccc; border-radius: .4rem; padding: .6rem .9rem; }
.tile b { display: block; font-size: 1.9rem; line-height: 1.2; }
.warn { border-left: 4px solid #d55e00; padding: .3rem 1rem; background: #fff6ef; margin: .8rem 0; }
.fine { border-left: 4px solid #009e73; padding: .3rem 1rem; background: #f1faf6; margin: .8rem 0; }
img { max-width: 100%; height: auto; display: block; } figure { margin: 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1rem; margin: .8rem 0; }
.stills { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem; }
figcaption { font-size: .9rem; color: #55555c; }
pre, code { font: .85rem/1.45 ui-monospace, monospace; white-space: pre-wrap; }
pre { background: #f6f6f7; padding: .6rem .8rem; margin: .4rem 0; }
dt { font-weight: 700; } dd { margin: 0 0 .5rem; }
@media print { body { max-width: none; font-size: 10.5pt; padding: 0; } nav { display: none; }
  h2, h3 { break-after: avoid; } figure, tr, .tile, .warn, .fine { break-inside: avoid; }
  .wide { overflow: visible; } a { color: inherit; } }
""")

_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{head}
<nav aria-label="Sections">{links}</nav>
{body}
</main>
</body>
</html>
""")


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading of its own.

    Attributes:
        title: plain text.
        blocks: of the functions below, in order; a section without any is left out.
    """

    title: str
    blocks: Sequence[Markup]


def page(title: str, head: Sequence[Markup], sections: Sequence[Section]) -> str:
    """A whole page.

    Args:
        title: plain text.
        head: blocks below the title.
        sections: the rest, linked at the top.
    """
    shown = [section for section in sections if section.blocks]
    links = [Markup('<a href="#s{}">{}</a>').format(number, part.title) for number, part in enumerate(shown)]
    body = [
        Markup('<section id="s{}"><h2>{}</h2>\n{}</section>').format(n, part.title, join(part.blocks))
        for n, part in enumerate(shown)
    ]
    text = _PAGE.format(title=title, style=_STYLE, head=join(head), links=join(links), body=join(body))
    return str(text)


def join(blocks: Iterable[Markup]) -> Markup:
    return Markup("\n").join(blocks)


def heading(text: str) -> Markup:
    return Markup("<h3>{}</h3>").format(text)


def paragraph(text: str) -> Markup:
    return Markup("<p>{}</p>").format(text)


def note(text: str) -> Markup:
    """A paragraph of less weight."""
    return Markup('<p class="note">{}</p>').format(text)


def warning(text: str) -> Markup:
    """What a reader must not overlook."""
    return Markup('<p class="warn">{}</p>').format(text)


def good_news(text: str) -> Markup:
    return Markup('<p class="fine">{}</p>').format(text)


def code(text: str) -> Markup:
    return Markup("<pre>{}</pre>").format(text)


def details(summary: str, blocks: Sequence[Markup]) -> Markup:
    """Blocks that are shown when asked for."""
    return Markup("<details><summary>{}</summary>\n{}</details>").format(summary, join(blocks))


def tiles(rows: Sequence[tuple[str, str, str]]) -> Markup:
    """Large numbers beside each other: what, number, and what to compare it with."""
    made = [
        Markup('<div class="tile">{}<b>{}</b><span class="note">{}</span></div>').format(*row) for row in rows
    ]
    return Markup('<div class="tiles">{}</div>').format(join(made))


def facts(values: dict[str, Any]) -> Markup:
    """Names and values below each other; empty values are left out."""
    rows = [
        Markup('<tr><th scope="row">{}</th><td class="long">{}</td></tr>').format(name, text_of(value))
        for name, value in values.items()
        if value not in (None, "")
    ]
    return Markup('<div class="wide"><table>{}</table></div>').format(join(rows))


def table(rows: Sequence[dict[str, Any]], own: int = 0) -> Markup:
    """A row per dict; the columns are those of all rows in order of appearance.

    Args:
        rows: numbers are set to the right.
        own: so many rows at the top stand out.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    right = {name for name in columns if all(_is_number(row.get(name)) for row in rows)}
    decimals = {name: _decimals([row.get(name) for row in rows]) for name in right}
    head = [Markup('<th scope="col"{}>{}</th>').format(_align(name in right), name) for name in columns]
    body = []
    for place, row in enumerate(rows):
        cells = [_cell(row.get(name), decimals.get(name)) for name in columns]
        kind = Markup(' class="own"') if place < own else Markup()
        body.append(Markup("<tr{}>{}</tr>").format(kind, Markup().join(cells)))
    return Markup(
        '<div class="wide"><table><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>'
    ).format(Markup().join(head), join(body))


def bar(share: float) -> Markup:
    """A bar of the width of a share in a table."""
    percent = f"{100 * min(max(share, 0.0), 1.0):.0f}"
    return Markup(
        '<div style="width:8rem"><div style="width:{}%;background:#d55e00;height:.8rem"></div></div>'
    ).format(percent)


def picture(data: bytes, alt: str, caption: str = "") -> Markup:
    """A PNG, JPEG or SVG picture; `alt` says what it shows to people who do not see it."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg" if data.startswith(b"\xff\xd8") else "svg+xml"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup()
    return Markup('<figure><img src="{}" alt="{}">{}</figure>').format(source, alt, below)


def pictures(figures: Sequence[Markup]) -> Markup:
    """Figures beside each other, as many as fit."""
    return Markup('<div class="pictures">{}</div>').format(join(figures))


def stills(figures: Sequence[Markup]) -> Markup:
    """Small figures beside each other."""
    return Markup('<div class="stills">{}</div>').format(join(figures))


def glossary(terms: dict[str, str]) -> Markup:
    made = [Markup("<dt>{}</dt><dd>{}</dd>").format(*item) for item in terms.items()]
    return Markup("<dl>{}</dl>").format(join(made))


def text_of(value: Any) -> str | Markup:
    """A value as a cell shows it."""
    if value is None:
        return ""
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {text_of(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(text_of(item)) for item in value)
    return str(value)


def _cell(value: Any, decimals: int | None) -> Markup:
    """A cell; `decimals` of a column of numbers, None = texts."""
    if decimals is not None:
        shown = f"{value:.{decimals}f}" if isinstance(value, float) else text_of(value)
        return Markup('<td class="number">{}</td>').format(shown)
    long = Markup(' class="long"') if isinstance(value, str) and len(value) > 40 else Markup()
    return Markup("<td{}>{}</td>").format(long, text_of(value))


def _decimals(values: Sequence[Any]) -> int:
    """As many as tell the numbers of a column apart: three up to 1.5, then two, then one."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 4 if largest < 0.05 else 3 if largest <= 1.5 else 2 if largest < 1000 else 1


def _align(right: bool) -> Markup:
    return Markup(' class="number"') if right else Markup()


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
