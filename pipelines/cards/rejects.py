"""How many clips were rejected, by code, with what a person can do about each."""

from __future__ import annotations

import html

from pipelines.errors import REJECT_CODES


def rejects(by_code: dict[str, int], clips: int) -> str:
    """Bars in HTML, the most frequent code first.

    Args:
        by_code: code of `REJECT_CODES` -> number of clips.
        clips: number of all clips.
    """
    if not by_code:
        return f"<p>None of {clips} clips was rejected.</p>"
    most = max(by_code.values())
    rows = [
        f"<tr><td>{html.escape(code)}</td><td>{count}</td>"
        f'<td style="width:12rem"><div class="bar" style="width:{100 * count / most:.0f}%"></div></td>'
        f"<td>{html.escape(REJECT_CODES.get(code, ''))}</td></tr>"
        for code, count in sorted(by_code.items(), key=lambda item: (-item[1], item[0]))
    ]
    head = f"<p>{sum(by_code.values())} of {clips} clips were rejected.</p>"
    return (
        f"{head}<table><tr><th>code</th><th>clips</th><th></th><th>meaning</th></tr>{''.join(rows)}</table>"
    )
