from __future__ import annotations

import re

from pipelines.cards.rejects import rejects


def test_codes_stand_in_order_of_their_number_with_what_to_do() -> None:
    text = rejects({"empty": 1, "missing": 4, "corrupt": 1}, clips=20)
    assert text.startswith("<p>6 of 20 clips were rejected.</p>")
    assert re.findall(r"<tr><td>(\w+)</td><td>(\d)</td>", text) == [
        ("missing", "4"),
        ("corrupt", "1"),
        ("empty", "1"),
    ]
    assert re.findall(r'class="bar" style="width:(\d+)%"', text) == ["100", "25", "25"]
    assert "check the uri" in text


def test_nothing_rejected_is_said() -> None:
    assert rejects({}, clips=3) == "<p>None of 3 clips was rejected.</p>"
