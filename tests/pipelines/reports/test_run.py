from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, StorageError
from pipelines.report import report
from pipelines.reports import page
from pipelines.reports.agreement import pictures_section, tables_section
from pipelines.reports.gallery import gallery_section
from pipelines.reports.material import is_rendered, read_run
from pipelines.reports.provenance import banner
from pipelines.reports.quality import quality_section
from pipelines.reports.run import run_page


def plain(text: str) -> str:
    """The page without style, pictures and tags."""
    text = re.sub(r'(?s)<style>.*?</style>|src="data:[^"]*"', "", text)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))


def banner_of(run: Path) -> str:
    return plain(str(page.join(banner(read_run(run)))))


@pytest.fixture(scope="module")
def expert_page(made) -> str:
    return run_page(made.expert)


def test_the_page_of_an_expert_tells_what_the_files_tell(made, expert_page) -> None:
    told, metrics = plain(expert_page), json.loads((made.expert / "metrics.json").read_text())
    mae = metrics["mae"]
    assert f"{mae['value']:.3f} [{mae['low']:.3f}, {mae['high']:.3f}]" in told
    assert f"{metrics['median_floor']['mae']:.2f}" in told
    assert "8 test clips of 4 subjects" in told
    assert "8 clips, scored once" in told
    assert "no subject of a test clip took part in the training" in told
    assert f"aqa reproduce {made.expert}" in told
    assert "Published for this data set" not in told
    for part in (
        "Agreement",
        "Per action",
        "Best and worst",
        "Training",
        "Data quality",
        "Cost",
        "Provenance",
    ):
        assert part in told
    assert "P10_0" in told
    assert "package.torch" in told


def test_every_picture_has_a_text(expert_page) -> None:
    pictures = re.findall(r"<img [^>]*>", expert_page)
    assert len(pictures) > 8
    assert all(re.search(r'alt="[^"]{15,}"', one) for one in pictures)


def test_nothing_is_fetched(expert_page) -> None:
    text = re.sub(r'src="data:[^"]*"', "", expert_page)
    assert not re.search(r"https?://|<script|<link|<iframe|url\(", text)


def test_a_pretraining_shows_its_pretexts_beside_guesses(made) -> None:
    told = plain(run_page(made.pretrain))
    assert "pace told rightly" in told
    assert "by chance 20%" in told
    assert "always zero" in told
    assert "the test clips were not touched" in told


def test_a_run_without_its_store_says_so(made, tmp_path) -> None:
    copy = shutil.copytree(made.expert, tmp_path / "copy")
    record = json.loads((copy / "config.json").read_text())
    record["provenance"]["store"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(record))
    run = read_run(copy)
    for blocks in (banner(run), quality_section(run).blocks, gallery_section(run).blocks):
        assert "The store of the training cannot be read now" in plain(str(page.join(blocks)))
    with pytest.raises(StorageError, match="there is no store here"):
        read_run(copy, tmp_path / "nowhere")
    moved = read_run(copy, made.store)
    assert "P10_0 at three moments" in str(page.join(gallery_section(moved).blocks))


def test_names_from_data_stay_text(made, tmp_path) -> None:
    evil = "<script>alert('x')</script>$"
    copy = shutil.copytree(made.expert, tmp_path / f"run {evil.replace('/', '')}")
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(copy / "predictions.parquet")
    renamed = [{**row, "clip_id": f"{evil}{row['clip_id']}", "action_type": evil} for row in rows.to_pylist()]
    pq.write_table(pa.Table.from_pylist(renamed, schema=rows.schema), copy / "predictions.parquet")
    run = read_run(copy)
    sections = (pictures_section(run), tables_section(run), gallery_section(run))
    text = page.page(str(copy), banner(run), sections)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_an_unfinished_run_has_a_page_too(made, tmp_path) -> None:
    copy = shutil.copytree(made.expert, tmp_path / "half")
    for name in ("summary.json", "metrics.json", "predictions.parquet", "environment.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "model")
    told = plain(run_page(copy))
    assert "This run has not finished" in told
    assert "The test clips were not touched yet" in told


def test_many_evaluations_are_warned_of(made, tmp_path) -> None:
    copy = shutil.copytree(made.expert, tmp_path / "often")
    metrics = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps({**metrics, "evaluations": 3}))
    assert "Test clips were scored 3 times with this run" in banner_of(copy)


def test_a_test_subject_in_the_training_is_warned_of(made, tmp_path) -> None:
    copy = shutil.copytree(made.expert, tmp_path / "leak")
    record = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**record, "subjects": ["waves/P10"]}))
    assert "1 test subjects were trained on: waves/P10." in banner_of(copy)


def test_rendered_data_is_told_by_its_name() -> None:
    assert [is_rendered(name) for name in ("rendered", "fine_diving_twin", "fine_diving")] == [
        True,
        True,
        False,
    ]


def test_the_verb_writes_one_file(made, tmp_path) -> None:
    found = report(made.store, tmp_path / "store.html")
    assert found["about"] == "store"
    assert (tmp_path / "store.html").stat().st_size == found["bytes"]
    with pytest.raises(ConfigError, match="is no run, no sweep and no store"):
        report(tmp_path, tmp_path / "x.html")
    with pytest.raises(StorageError, match="the page cannot be written"):
        report(made.store, tmp_path / "nowhere" / "x.html")
    with pytest.raises(ConfigError, match="holds no training run"):
        read_run(tmp_path)


def test_rank_correlations_are_also_averaged_over_action_types() -> None:
    """Pooled, exercises of different means would order themselves; papers average inside each."""
    from pipelines.reports.agreement import _metric_rows

    number = {"value": 0.5, "low": 0.4, "high": 0.6}
    kinds = {name: {"spearman": {**number, "value": value}} for name, value in (("Es1", 0.2), ("Es2", 0.6))}
    rows = _metric_rows({"spearman": number, "by_action_type": kinds})
    assert rows[0] == {"": "this run", "Spearman (95 %)": "0.500 [0.400, 0.600]"}
    assert rows[1] == {"": "its mean over 2 action types", "Spearman (95 %)": "0.400"}
    kinds["Es2"]["spearman"]["value"] = None
    assert len(_metric_rows({"spearman": number, "by_action_type": kinds})) == 1
