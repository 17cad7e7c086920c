"""The verb on a made-up data folder, tiny: what it writes, that it goes on, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import experiment, fit
from pipelines.config import ExperimentConfig
from pipelines.errors import ConfigError, CorruptError
from pipelines.experiments.rows import size_settings

TINY = ("pretrain.model.encoder_units=4", "pretrain.model.decoder_units=4", "expert.epochs=2")


def config(**changes) -> ExperimentConfig:
    told = {"quick": True, "pretrain_on": ("nw_ucla",), "stand_ins": False, "change": TINY, **changes}
    return ExperimentConfig(**told)


@pytest.fixture
def run(data, tmp_path):
    def call(table: str = "table1", **changes) -> tuple[dict, list[str]]:
        said: list[str] = []
        document = experiment.run(table, data, tmp_path / table, config(**changes), say=said.append)
        return document, said

    return call


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def test_table1_is_written_and_what_is_finished_is_not_done_again(run, tmp_path, monkeypatch):
    rows = ("nonexpert_U", "nonexpert_S", "floor_median")
    document, said = run(rows=rows, exercises=("Es1",))
    out = tmp_path / "table1"
    assert [row["row"] for row in document["blocks"][0]["rows"]] == [*rows[:2], "floor_median", "floor_trees"]
    assert {"table.md", "table.csv", "table.png", "results.json"} <= {path.name for path in out.iterdir()}
    assert len(said) == 5  # a pretraining and four rows
    row = json.loads((out / "rows/kimore/nonexpert_U/split-0/result.json").read_text())
    assert {item["subject"] for item in row["predictions"]} == {"P0", "P1", "P6"}
    assert not list(out.rglob("rows/**/checkpoints"))
    before = files(out)

    monkeypatch.setattr(fit, "train_expert", lambda *arguments: pytest.fail("trained again"))
    monkeypatch.setattr(fit, "pretrain", lambda *arguments: pytest.fail("pretrained again"))
    again, _ = run(rows=rows, exercises=("Es1",))
    assert files(out) == before
    assert again["blocks"] == document["blocks"]
    with pytest.raises(ConfigError, match=r"expert\.epochs: 2 there, 3 asked for"):
        run(rows=rows, exercises=("Es1",), change=(*TINY[:2], "expert.epochs=3"))


def test_more_splits_are_added_to_those_there(run, tmp_path):
    run(rows=("floor_median",), max_splits=1)
    before = files(tmp_path / "table1")
    document, _ = run(rows=("floor_median", "floor_group"), max_splits=2)
    after = files(tmp_path / "table1")
    assert before.items() <= after.items()
    assert len(after) == 6
    assert [row["splits"] for row in document["blocks"][0]["rows"]] == [2, 2, 2]
    assert document["blocks"][0]["rows"][0]["against_trees"]["rho"] is None  # a constant has no order


def test_controls_are_pretrained_on_for_each_split_alone(run, tmp_path):
    run(rows=("nonexpert_U",), exercises=("Es2",), pretrain_on=("controls",), max_splits=2)
    people = []
    for number in (0, 1):
        folder = tmp_path / "table1" / "pretrain" / f"inpaint_pace-kimore-split-{number}"
        people.append(set(json.loads((folder / "model" / "config.json").read_text())["subjects"]))
    assert people == [{f"kimore/P{k}" for k in range(6) if k not in out} for out in ((0, 1), (2, 3))]


def test_ray_tasks_give_the_same_table(run, tmp_path, local_ray):
    rows = ("floor_median", "floor_group", "floor_setup")
    here, _ = run(rows=rows, max_splits=2)
    (tmp_path / "table1").rename(tmp_path / "here")
    there, said = run(rows=rows, max_splits=2, cores=2)
    assert len(said) == 8

    def figures(document: dict) -> list[tuple]:
        return [(row["row"], row["rho"], row["mean_mae"]) for row in document["blocks"][0]["rows"]]

    assert figures(there) == figures(here)


def test_an_error_of_a_ray_task_is_the_users_error(run, tmp_path, local_ray):
    """A damaged run folder is found by the worker."""
    folder = tmp_path / "table1" / "rows" / "kimore" / "nonexpert_S" / "split-0" / "Es1"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{")
    with pytest.raises(CorruptError, match="is not readable as JSON"):
        run(rows=("nonexpert_S",), cores=2)


def test_table2_recognises_actions_beside_the_scores(run):
    document, _ = run("table2", rows=("order", "random_encoder"), exercises=("Es1",))
    scores, actions = document["blocks"]
    assert [row["row"] for row in scores["rows"]] == ["order", "random_encoder", "floor_trees"]
    assert [row["row"] for row in actions["rows"]] == ["order", "random_encoder"]
    assert actions["rows"][0]["clips"] == 8
    assert actions["rows"][0]["paper_micro_f1"] == 0.8392


def test_recognition_alone_is_pretrained_on_its_own_training_cameras(run, tmp_path):
    document, said = run("table2", rows=("inpaint_pace", "random_encoder"), recognition_only=True)
    (block,) = document["blocks"]
    assert [row["row"] for row in block["rows"]] == ["inpaint_pace", "random_encoder"]
    assert len(said) == 3
    folder = tmp_path / "table2" / "pretrain" / "inpaint_pace-nw_ucla-split-0"
    told = json.loads((folder / "model" / "config.json").read_text())
    assert set(told["subjects"]) == {
        f"nw_ucla by camera/s0{person} view_{view}" for person in range(1, 5) for view in (1, 2)
    }
    assert told["model"]["encoder_units"] == 4  # what the user changes is stronger than the block's own
    with pytest.raises(ConfigError, match="table1 recognises no actions"):
        run("table1", recognition_only=True)


def test_table3_runs_on_drawn_people_where_there_are_no_infants(run):
    document, _ = run("table3", rows=("nonexpert_U", "floor_majority"), stand_ins=True)
    (block,) = document["blocks"]
    assert "STAND-IN" in block["title"]
    model, floor = block["rows"]
    assert floor["micro_f1"]["value"] == 0.25  # one of four equal groups
    assert model["clips"] == 4
    with pytest.raises(ConfigError, match="has no folder infants"):
        run("table3", rows=("floor_majority",), stand_ins=False)


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match="quick: contradicts full_size"):
        experiment.shared_settings("table1", ExperimentConfig(quick=True, full_size=True))
    with pytest.raises(ConfigError, match="change: holds 'epochs'"):
        experiment.shared_settings("table1", ExperimentConfig(change=("epochs",)))
    with pytest.raises(ConfigError, match="unknown setting"):
        experiment.shared_settings("table1", ExperimentConfig(change=("expert.epoch=2",)))
    told = experiment.shared_settings("table1", ExperimentConfig(seed=3, change=("expert.epochs=7",)))
    reduced = size_settings("table1", "reduced")
    seeds = {f"{part}.seed": "3" for part in ("pretrain", "expert", "angles")}
    assert told == {**reduced, **seeds, "expert.epochs": "7"}


def _killed(data: Path, out: Path, cores: int) -> None:
    """Runs table 1 in a process, kills it once a row is finished, and runs it again."""
    rows = "nonexpert_U,nonexpert_S,skeleton_only,random_encoder"
    call = [sys.executable, "-m", "pipelines", "experiment", "table1", "--data", str(data), "--out", str(out)]
    call += ["--rows", rows, "--pretrain-on", "nw_ucla", "--max-splits", "2", "--no-stand-ins"]
    call += ["--quick", "--cores", str(cores), "--change", ",".join((*TINY[:2], "expert.epochs=30"))]
    here = {**os.environ, "PYTHONPATH": str(Path(fit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(call, env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while len(files(out)) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, told = process.communicate()
    before = files(out)
    assert 2 <= len(before) < 10, told.decode()
    if cores > 1:
        time.sleep(10)  # the workers of a dead driver notice
    subprocess.run(call, env=here, check=True, capture_output=True)
    after = files(out)
    assert before.items() <= after.items()
    assert len(after) == 10


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cores", [1, 2])
def test_a_killed_experiment_goes_on_and_ends_as_an_undisturbed_one(data, tmp_path, cores):
    _killed(data, tmp_path / "killed" / "table1", cores)
    changes = {"change": (*TINY[:2], "expert.epochs=30"), "max_splits": 2}
    rows = ("nonexpert_U", "nonexpert_S", "skeleton_only", "random_encoder")
    whole = experiment.run("table1", data, tmp_path / "whole" / "table1", config(rows=rows, **changes))
    found = json.loads((tmp_path / "killed" / "table1" / "results.json").read_text())
    for ours, theirs in zip(found["blocks"][0]["rows"], whole["blocks"][0]["rows"], strict=True):
        assert ours["mean_rho"]["value"] == pytest.approx(theirs["mean_rho"]["value"], abs=1e-6)
        assert ours["mean_mae"]["value"] == pytest.approx(theirs["mean_mae"]["value"], rel=1e-4)
    with sqlite3.connect(tmp_path / "killed" / "mlflow.db") as database:
        names = sorted(name for (name,) in database.execute("select name from runs"))
        parents = list(database.execute("select value from tags where key = 'mlflow.parentRunId'"))
    assert names == ["split-0"] * 5 + ["split-1"] * 5 + ["table1"]
    assert len(parents) == 10
    assert len(set(parents)) == 1
