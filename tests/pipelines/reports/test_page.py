from __future__ import annotations

import re

from markupsafe import Markup

from pipelines.reports import page
from pipelines.reports.page import Section

PNG = b"\x89PNG\r\n\x1a\nrest"
EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_texts_of_users_do_not_become_markup() -> None:
    blocks = [
        page.heading(EVIL),
        page.paragraph(EVIL),
        page.note(EVIL),
        page.warning(EVIL),
        page.good_news(EVIL),
        page.code(EVIL),
        page.details(EVIL, [page.paragraph(EVIL)]),
        page.tiles([(EVIL, EVIL, EVIL)]),
        page.facts({EVIL: EVIL, "list": [EVIL], "dict": {EVIL: EVIL}}),
        page.table([{EVIL: EVIL}]),
        page.picture(PNG, EVIL, EVIL),
        page.glossary({EVIL: EVIL}),
    ]
    text = page.page(EVIL, [page.paragraph(EVIL)], [Section(EVIL, blocks)])
    plain = text.replace(str(Markup.escape(EVIL)), "")
    assert len(text) - len(plain) == 27 * len(str(Markup.escape(EVIL)))
    assert "script" not in plain
    assert "onerror" not in plain


def test_a_page_carries_everything_and_may_fetch_nothing() -> None:
    text = page.page("p", [], [Section("a", [page.picture(PNG, "what it shows")]), Section("none", [])])
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", text)
    assert 'src="data:image/png;base64,' in text
    assert 'alt="what it shows"' in text
    assert 'href="#s0">a</a>' in text
    assert "none</h2>" not in text  # a section without blocks


def test_kinds_of_pictures_are_told_by_their_bytes() -> None:
    assert "image/jpeg" in page.picture(b"\xff\xd8\xff", "a")
    assert "image/svg+xml" in page.picture(b"<?xml ", "a")


def test_a_column_of_numbers_is_set_right_with_one_precision() -> None:
    text = str(page.table([{"name": "a", "x": 0.5, "n": 3}, {"name": "b", "x": 12.345, "n": None}]))
    assert '<td class="number">0.50</td><td class="number">3</td>' in text
    assert '<td class="number">12.35</td><td class="number"></td>' in text
    assert "<td>a</td>" in text


def test_empty_facts_are_left_out() -> None:
    text = str(page.facts({"none": None, "empty": "", "zero": 0, "yes": True, "few": (1, 2.5)}))
    assert "none" not in text
    assert "empty" not in text
    assert ">0</td>" in text
    assert ">yes</td>" in text
    assert ">1, 2.5</td>" in text
