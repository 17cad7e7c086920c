"""Comparisons of runs whose files are written by hand, so that every number is known."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli
from pipelines.compare_runs import compare, lines, settings_of, write
from pipelines.config import EvaluateConfig
from pipelines.errors import ConfigError, DataError, StorageError
from pipelines.evaluate import write_predictions
from pipelines.schema import PREDICTIONS, empty_row

CONFIG = EvaluateConfig(bootstrap=200)
TRUE = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])


def written(
    run: Path, predicted: Sequence[float], true: Sequence[float] = TRUE, seed: int = 0, **more
) -> Path:
    """An evaluated run of clips c0, c1, ..., two per subject."""
    run.mkdir(parents=True)
    rows = [
        empty_row(
            PREDICTIONS, clip_id=f"c{k}", subject_id=f"S{k // 2}", split="test", score=t, predicted=p, **more
        )
        for k, (p, t) in enumerate(zip(predicted, true, strict=True))
    ]
    write_predictions(run / "predictions.parquet", rows)
    (run / "metrics.json").write_text('{"n": 6}')
    record = {
        "phase": "expert",
        "config": {"seed": seed, "model": {"units": 4}},
        "provenance": {"store": "/s"},
    }
    (run / "config.json").write_text(json.dumps(record))
    return run


def test_a_run_that_is_better_on_every_clip_is_shown_to_be(tmp_path):
    first, second = written(tmp_path / "a", TRUE + 4), written(tmp_path / "b", TRUE + 1, seed=1)
    found = compare([first, second], CONFIG)
    assert (found["clips"], found["subjects"]) == (6, 3)
    rows = {row["metric"]: row for row in found["metrics"]}
    mae = rows["mae"]
    assert (mae["run"], mae["against"], mae["verdict"]) == ("b", "a", "better")
    # The error of every clip falls by 3, so it does in every draw.
    assert (mae["value"], mae["against_value"]) == (1.0, 4.0)
    assert (mae["difference"], mae["low"], mae["high"]) == (-3.0, -3.0, -3.0)
    assert rows["spearman"]["difference"] == 0.0
    assert rows["spearman"]["verdict"] == "not shown"
    assert found["settings"] == [{"setting": "seed", "a": "0", "b": "1"}]
    back = {row["metric"]: row for row in compare([second, first], CONFIG)["metrics"]}
    assert back["mae"]["verdict"] == "worse"


def test_a_better_order_is_a_higher_number(tmp_path):
    worse, better = written(tmp_path / "a", -TRUE), written(tmp_path / "b", TRUE)
    rows = {row["metric"]: row for row in compare([worse, better], CONFIG)["metrics"]}
    assert (rows["spearman"]["difference"], rows["spearman"]["verdict"]) == (2.0, "better")


def test_the_interval_agrees_with_the_bootstrap_of_the_errors(tmp_path):
    """MAE is a mean, so its difference can be drawn anew by hand: subjects whole."""
    draws = np.random.default_rng(3)
    one, other = draws.normal(size=(2, 6))
    found = compare([written(tmp_path / "a", TRUE + one), written(tmp_path / "b", TRUE + other)], CONFIG)
    row = next(row for row in found["metrics"] if row["metric"] == "mae")
    gain = (np.abs(other) - np.abs(one)).reshape(3, 2).mean(axis=1)
    every = [gain[[i, j, k]].mean() for i in range(3) for j in range(3) for k in range(3)]
    assert row["difference"] == pytest.approx(gain.mean())
    assert row["low"] == pytest.approx(np.quantile(every, 0.025), abs=0.35 * np.ptp(every))
    assert min(every) - 1e-9 <= row["low"] < row["difference"] < row["high"] <= max(every) + 1e-9


def test_clips_without_a_subject_are_drawn_alone(tmp_path):
    for name, shift in (("a", 1), ("b", 2)):
        written(tmp_path / name, TRUE + shift)
        rows = [
            empty_row(PREDICTIONS, clip_id=f"c{k}", split="test", score=t, predicted=t + shift)
            for k, t in enumerate(TRUE)
        ]
        write_predictions(tmp_path / name / "predictions.parquet", rows)
    assert compare([tmp_path / "a", tmp_path / "b"], CONFIG)["subjects"] == 6


def test_classes_are_compared_by_f1(tmp_path):
    for name, told in (("a", "xxyyxy"), ("b", "xyyyxy")):
        written(tmp_path / name, TRUE)
        rows = [
            empty_row(PREDICTIONS, clip_id=f"c{k}", split="test", group=true, predicted_group=said)
            for k, (true, said) in enumerate(zip("xyyyxy", told, strict=True))
        ]
        write_predictions(tmp_path / name / "predictions.parquet", rows)
    rows = {row["metric"]: row for row in compare([tmp_path / "a", tmp_path / "b"], CONFIG)["metrics"]}
    assert rows["micro_f1"]["against_value"] == pytest.approx(5 / 6)
    assert rows["micro_f1"]["value"] == 1.0
    assert "macro_f1" in rows


def test_what_cannot_be_compared_is_refused(tmp_path):
    first = written(tmp_path / "a", TRUE)
    with pytest.raises(ConfigError, match="--compare: needs two different runs or more. Name each run once"):
        compare([first, first], CONFIG)
    (tmp_path / "new").mkdir()
    with pytest.raises(
        ConfigError, match="new: was not evaluated. Run `aqa evaluate .*new --store STORE` first"
    ):
        compare([first, tmp_path / "new"], CONFIG)
    fewer = written(tmp_path / "fewer", TRUE[:5], TRUE[:5])
    with pytest.raises(
        DataError, match="fewer: was tested on other clips than a: 1 are in one only, first c5"
    ):
        compare([first, fewer], CONFIG)
    other = written(tmp_path / "other", TRUE, TRUE + (TRUE == 60))
    with pytest.raises(DataError, match=r"clip c5: has score 60.0 for a, but 61.0 for other. Evaluate both"):
        compare([first, other], CONFIG)
    classes = written(tmp_path / "classes", TRUE, predicted_group="x")
    with pytest.raises(DataError, match="classes: tells classes where a tells scores"):
        compare([first, classes], CONFIG)


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [written(tmp_path / folder / "expert", TRUE + k) for k, folder in enumerate(("s0", "s1"))]
    assert list(compare(runs, CONFIG)["runs"]) == ["s0/expert", "s1/expert"]


def test_settings_list_only_what_differs(tmp_path):
    a, b = written(tmp_path / "a", TRUE), written(tmp_path / "b", TRUE)
    record = json.loads((b / "config.json").read_text())
    record["config"]["model"] = {"units": 8, "new": True}
    record["provenance"]["poses_version"] = 7
    (b / "config.json").write_text(json.dumps(record))
    assert settings_of({"a": a, "b": b}) == [
        {"setting": "model.units", "a": "4", "b": "8"},
        {"setting": "model.new", "a": "-", "b": "True"},
        {"setting": "data.poses_version", "a": "-", "b": "7"},
    ]


def test_it_is_told_and_written(tmp_path):
    runs = [written(tmp_path / "a", TRUE + 4), written(tmp_path / "b|<i>", TRUE + 1, seed=1)]
    found = compare(runs, CONFIG)
    told = "\n".join(lines(found))
    assert "6 test clips of 3 subjects, the same for all" in told
    assert "-3.000 [-3.000, -3.000]" in told
    write(found, tmp_path / "c.csv")
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["metric"], float(row["difference"])) for row in rows][1] == ("mae", -3.0)
    write(found, tmp_path / "c.md")
    text = (tmp_path / "c.md").read_text()
    assert r"| mae | b\|\<i> | 1.000 | a | 4.000 | -3.000 \[-3.000, -3.000\] | better |" in text
    with pytest.raises(ConfigError, match="--out: c.txt is neither .md nor .csv"):
        write(found, tmp_path / "c.txt")
    with pytest.raises(StorageError, match="cannot be written"):
        write(found, tmp_path / "nowhere" / "c.md")


def test_the_command_line_takes_the_first_run_before_or_behind_the_flag(tmp_path, capsys):
    runs = [str(written(tmp_path / name, TRUE + k)) for k, name in enumerate("ab")]
    documents = []
    for words in (["--compare", *runs], [runs[0], "--compare", runs[1]]):
        assert cli.main(["evaluate", *words, "--bootstrap", "100", "--json"]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0] == documents[1]
    assert cli.main(["evaluate", *runs[:1]]) == 2
    assert "--store is missing. Give RUN --store STORE, or --compare RUN RUN." in capsys.readouterr().err
