"""The pages as a browser shows and prints them. Slow, and skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest

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


@pytest.fixture(scope="module")
def filmed(tmp_path_factory) -> Path:
    """Rendered exercises in data/, their poses in store/, and an expert that learned from them in runs/."""
    import pyarrow as pa

    from pipelines import demo, evaluate, train
    from pipelines.config import Config, EvaluateConfig, ExpertTrainConfig
    from pipelines.datasets.manifest import read_manifest
    from pipelines.kinds import find_work_of
    from pipelines.rendered.dataset import render_dataset
    from pipelines.scoring.extraction import Extractor
    from pipelines.scoring.settings import works_of
    from pipelines.store import open_store

    folder = tmp_path_factory.mktemp("filmed")
    clips = read_manifest(render_dataset(folder / "data", exercises=16, subjects=8, dives=0, seed=2))
    config = Config().extract.model_copy(update={"sampling": "fps:5"})
    store = open_store(folder / "store", create=True)
    store.put_clips(clips)
    table = store.create_poses(find_work_of(config).spec)
    detection, work = works_of(config)
    with Extractor(detection, {"poses": work}, 60, False) as extractor:
        rows = [extractor.extract(clips.slice(row, 1)).rows["poses"] for row in range(len(clips))]
    with table.writer() as writer:
        writer.commit([table.write_file(pa.concat_tables(rows))])
    small = demo.CONFIG.expert.model_dump() | {"epochs": 3, "encoder_units": 8}
    settings = Config(expert=ExpertTrainConfig(**small), evaluate=EvaluateConfig(bootstrap=100))
    train.expert(folder / "store", "expert", None, settings, runs=folder / "runs")
    evaluate.evaluate(folder / "runs" / "expert", folder / "store", settings)
    return folder


@pytest.mark.parametrize("name", ["store", "runs/expert"])
def test_pages_with_frames_of_videos(browser, filmed, tmp_path, name) -> None:
    report(filmed / name, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("data:image/jpeg") >= 4
    assert "The athletes of these clips are drawn by the program" in text
    assert_in_order(browser, tmp_path / "page.html")


def test_the_page_of_a_scored_video(browser, filmed, tmp_path, capsys) -> None:
    from pipelines import cli

    video = next((filmed / "data" / "videos").glob("*.mp4"))
    words = ["score", video, "--model", filmed / "runs" / "expert", "--action-type", "Es1"]
    assert cli.main([*map(str, words), "--report", str(tmp_path / "page.html")]) == 0
    assert_in_order(browser, tmp_path / "page.html")
