"""The pages as a browser shows and prints them. Slow, and skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest

from pipelines import cli
from pipelines.report import report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not chromium.find(), reason="no Chromium here: apt-get install chromium"),
]
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    with chromium.browser() as found:
        yield found


def assert_in_order(browser: chromium.Browser, path: Path) -> None:
    """No complaint, nothing fetched, no sideways scrolling, every picture shown and told, and it prints."""
    for width in WIDTHS:
        seen = browser.look(path, width)
        assert seen.complaints == []
        assert seen.fetched == []
        assert seen.width <= width
        assert seen.overflowing == []
        assert (seen.missing_alt, seen.broken) == (0, 0)
        assert seen.screenshot.startswith(b"\x89PNG")
        assert seen.pdf.startswith(b"%PDF")


def test_the_browser_notices(browser, tmp_path) -> None:
    """Every complaint that the other tests rely on."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<!doctype html><meta name="viewport" content="width=device-width">'
        '<script>console.error("no")</script>'
        '<script>throw new Error("oh")</script><img src="data:image/png;base64,AAAA">'
        '<link rel="stylesheet" href="http://example.invalid/x.css"><div style="width:2000px">wide</div>'
    )
    seen = browser.look(bad, 390)
    assert any("no" in text for text in seen.complaints)
    assert any("Uncaught" in text for text in seen.complaints)
    assert seen.fetched == ["http://example.invalid/x.css"]
    assert seen.width >= 2000
    assert seen.overflowing == ["DIV wide"]
    assert (seen.missing_alt, seen.broken) == (1, 1)


@pytest.mark.parametrize("name", ["store", "pretrain", "expert"])
def test_pages_of_runs_and_stores(browser, made, tmp_path, name) -> None:
    report(getattr(made, name), tmp_path / "page.html")
    assert_in_order(browser, tmp_path / "page.html")


def test_a_page_of_hostile_and_long_names(browser, made, tmp_path) -> None:
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    evil = f"<script>document.title='taken'</script><img src=x onerror=alert(1)>{'long' * 60}"
    copy = shutil.copytree(made.expert, tmp_path / f"run-{'x' * 150}")
    rows = pq.read_table(copy / "predictions.parquet")
    renamed = [
        {**row, "clip_id": f"{evil}{row['clip_id']}", "subject_id": evil, "action_type": evil}
        for row in rows.to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(renamed, schema=rows.schema), copy / "predictions.parquet")
    report(copy, tmp_path / "page.html")
    assert_in_order(browser, tmp_path / "page.html")
    assert browser.ask("document.title").startswith("Two-stage expert: run-xxx")
    assert browser.ask("document.scripts.length") == 0


def test_a_page_of_a_sweep(browser, sweep, tmp_path) -> None:
    report(sweep.folder, tmp_path / "page.html")
    assert_in_order(browser, tmp_path / "page.html")


@pytest.mark.parametrize("name", ["store", "runs/expert"])
def test_pages_with_frames_of_videos(browser, trained, tmp_path, name) -> None:
    report(trained / name, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("data:image/jpeg") >= 4
    assert "The athletes of these clips are drawn by the program" in text
    assert_in_order(browser, tmp_path / "page.html")


def test_the_page_of_a_scored_exercise(browser, trained, tmp_path, capsys) -> None:
    video = next((trained / "data" / "videos").glob("*.mp4"))
    words = ["score", video, "--model", trained / "runs" / "expert", "--action-type", "Es1"]
    assert cli.main([*map(str, words), "--report", str(tmp_path / "page.html")]) == 0
    assert_in_order(browser, tmp_path / "page.html")


@pytest.mark.timeout(900)
def test_the_page_of_a_scored_dive(browser, diver, tmp_path, capsys) -> None:
    video = next((diver / "data" / "videos").glob("*.mp4"))
    words = ["score", video, "--model", diver / "runs" / "dives", "--action-type", "107B"]
    words += ["--difficulty", 3.0, "--report", tmp_path / "page.html"]
    assert cli.main([*map(str, words)]) == 0
    assert_in_order(browser, tmp_path / "page.html")
