from __future__ import annotations

from collections import Counter

from test_run import plain

from pipelines.reports import page
from pipelines.reports.extraction import extraction_page
from pipelines.reports.quality import rejects
from pipelines.store import open_store


def test_the_page_of_a_store_counts_clips_and_rows(made) -> None:
    told = plain(extraction_page(made.store))
    assert "waves 28 14 28 16 4 8 0" in told  # clips, subjects, with a score, train, val, test, none
    assert "None of 28 rows is rejected" in told
    assert "made by test" in told
    assert "No example frames" in told


def test_rejects_say_what_can_be_done() -> None:
    told = plain(str(page.join(rejects(Counter({"missing": 3, "empty": 1}), 10))))
    assert "4 of 10 rows are rejected" in told
    assert told.index("the file does not exist; check the uri") < told.index("the file has zero bytes")


def test_what_extractions_cost_is_kept_beside_the_table(made, tmp_path) -> None:
    store = open_store(tmp_path / "s", create=True)
    key = store.create_poses({"a": 1}).path.name
    assert store.extractions("poses", key) == []
    store.note_extraction("poses", key, {"clips": 7, "decode_s": 1.5, "network_s": 6.0, "seconds": 4.0})
    with (tmp_path / "s" / "poses" / f"{key}.extractions.jsonl").open("a") as file:
        file.write('{"clips": 8')  # cut off by a kill
    assert [told["clips"] for told in store.extractions("poses", key)] == [7]
    told = plain(extraction_page(tmp_path / "s"))
    assert "decoding, worker s" in told
    assert "1.50" in told
    assert store.keys("poses") == [key]
