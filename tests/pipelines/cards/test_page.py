from __future__ import annotations

import base64
import re

from pipelines.cards import page

PNG = b"\x89PNG\r\n\x1a\nrest"


def test_a_page_is_one_file_that_may_fetch_nothing() -> None:
    text = page.page("extract", [page.paragraph("done"), page.picture(PNG, "a picture")])
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|//|url\(|@import|<script|<link|<iframe", text.replace(_encoded(PNG), ""))
    assert f'src="data:image/png;base64,{_encoded(PNG)}"' in text


def test_texts_of_users_do_not_become_html() -> None:
    evil = "<script>alert(1)</script>"
    parts = [
        page.heading(evil),
        page.paragraph(evil),
        page.lines([evil]),
        page.facts({evil: evil, "dict": {evil: 1}}),
        page.table([{evil: evil}]),
        page.picture(PNG, f'"{evil}'),
    ]
    text = page.page(evil, parts)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 2 + 3 + 3 + 2 + 2


def test_a_table_has_the_columns_of_all_rows() -> None:
    assert page.table([{"a": 1}, {"b": 0.123456, "a": None}]) == (
        "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td></td></tr>"
        "<tr><td></td><td>0.1235</td></tr></table>"
    )


def test_a_picture_that_is_not_there_is_left_out(tmp_path) -> None:
    file = tmp_path / "x.png"
    assert page.picture_of(file, "losses") == []
    file.write_bytes(PNG)
    assert page.picture_of(file, "losses") == [page.picture(PNG, "losses")]


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
