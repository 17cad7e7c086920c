"""Training runs of HP-MCoRe: what they learn, what they may read, how they go on, what is refused."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_dives import SEGMENTING, SMALL, assert_same_run, changed, make_tables, metrics, settings
from safetensors.numpy import load_file

from aqa_models.hp_mcore.config import PRESETS
from pipelines import loop
from pipelines.errors import ConfigError, DataError
from pipelines.hp_mcore.dives import Dives, dive_table
from pipelines.hp_mcore.fit import fit, wanted_streams
from pipelines.hp_mcore.phase import HpMcorePhase

Tables = tuple[pa.Table, dict[str, pa.Table]]


@pytest.fixture(scope="module")
def tables() -> Tables:
    return make_tables(train=2)


def of_clip(clip_id: str, **values):
    """A change of one row."""
    return lambda row: values if row["clip_id"] == clip_id else {}


def test_training_learns_and_leaves_a_run_folder(tmp_path):
    clips, streams = make_tables(train=4, val=1, test=0)
    config = settings(SEGMENTING, epochs=4)
    untrained = HpMcorePhase(Dives(dive_table(clips, streams, 96)), config, torch.device("cpu")).validate()
    summary = fit(clips, streams, config, tmp_path / "run", {"store": "s"})
    found = metrics(tmp_path / "run")
    assert summary["best_val_loss"] < 0.5 * untrained["loss"]
    assert found[-1]["val_transition_error"] < 0.1 * untrained["transition_error"]
    assert found[-1]["val_aiou_75"] == 1.0
    assert found[-1]["loss"] < 0.2 * found[0]["loss"]
    best = min(found, key=lambda row: row["val_loss"])
    assert (summary["epochs"], summary["best_epoch"]) == (4, best["epoch"])
    assert summary["val_mae"] == summary["best_val_loss"] == best["val_loss"]
    counts = ("clips", "train_clips", "val_clips", "dive_numbers")
    assert [summary[name] for name in counts] == [15, 12, 3, 3]
    assert not summary["resumed"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json",
        "environment.json",
        "checkpoints",
        "metrics.jsonl",
        "model",
        "summary.json",
    }
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (record["provenance"], record["phase"]) == ({"store": "s"}, "hp_mcore")
    description = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert description["kind"] == "hp_mcore"
    assert description["numbers"] == {"107b": 0, "407c": 1, "5253b": 2}
    assert len(description["train_clips"]) == 12
    assert description["val_clips"] == ["107b_4", "407c_4", "5253b_4"]
    assert len(description["subjects"]) == 15


def test_test_rows_are_never_read(tables, tmp_path):
    """Ruined features, frames, transitions and scores of test dives change nothing."""
    clips, streams = tables
    test = {row["clip_id"] for row in clips.to_pylist() if row["split"] == "test"}
    fit(clips, streams, settings(), tmp_path / "a", {})
    ruined = {"features": np.full(7, np.nan), "num_frames": 7, "num_segments": 7, "frame_index": [1]}
    wrong = {"static": changed(streams["static"], lambda row: ruined if row["clip_id"] in test else {})}
    lies = {"score": float("nan"), "transitions_s": [2.0, 1.0], "difficulty": -1.0, "action_type": "x"}
    fit(
        changed(clips, lambda row: lies if row["clip_id"] in test else {}),
        wrong,
        settings(),
        tmp_path / "b",
        {},
    )
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_unscored_dives_are_left_out(tables, tmp_path):
    clips = changed(tables[0], of_clip("107b_0", score=None))
    assert fit(clips, tables[1], settings(epochs=1), tmp_path / "run", {})["train_clips"] == 5


class Stop(Exception):
    pass


def stop_in_epoch(monkeypatch, epoch: int) -> None:
    real = loop.train_epoch

    def stopping(training, rank, world):
        if training.epoch == epoch:
            raise Stop
        return real(training, rank, world)

    monkeypatch.setattr(loop, "train_epoch", stopping)


def wavering():
    """Everything that is drawn at random: exemplars, dropout, and which dives are cut as predicted."""
    drawn = {"predicted_share": 0.8, "exemplars": "any"}
    return settings(SEGMENTING, epochs=3, checkpoint_every=2, **drawn)


@pytest.fixture(scope="module")
def uninterrupted(tables, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    fit(*tables, wavering(), folder, {})
    return folder


def test_a_run_interrupted_in_every_epoch_equals_an_uninterrupted_one(
    tables, uninterrupted, tmp_path, monkeypatch
):
    for epoch in (0, 1, 2):  # the first is lost with the second: its checkpoint was not due yet
        with monkeypatch.context() as patch:
            stop_in_epoch(patch, epoch)
            with pytest.raises(Stop):
                fit(*tables, wavering(), tmp_path / "run", {})
        assert len(metrics(tmp_path / "run")) == epoch
        assert (tmp_path / "run" / "data" / "dives.arrow").exists()
    assert fit(*tables, wavering(), tmp_path / "run", {})["resumed"]
    assert_same_run(uninterrupted, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("forgotten", ["_exemplar", "_cuts", "_seed"])
def test_the_comparison_notices_what_is_drawn_anew(tables, uninterrupted, tmp_path, monkeypatch, forgotten):
    """Control of the tests above: each draw that knows nothing of the epoch changes the run."""
    if forgotten == "_seed":
        monkeypatch.setattr("pipelines.hp_mcore.phase._seed", lambda *numbers: 5)
    else:
        real = getattr(HpMcorePhase, forgotten)
        monkeypatch.setattr(HpMcorePhase, forgotten, lambda self, *given: real(self, *given[:-1], 0))
    fit(*tables, wavering(), tmp_path / "run", {})
    with pytest.raises(AssertionError):
        assert_same_run(uninterrupted, tmp_path / "run")


_SCRIPT = """
import sys, pyarrow.parquet as pq, torch
from pathlib import Path
from pipelines.config import HpMcoreTrainConfig
from pipelines.hp_mcore import phase
from pipelines.hp_mcore.fit import fit
torch.set_num_threads(1)
folder, wait = Path(sys.argv[1]), sys.argv[2] == "wait"
real, calls = phase.HpMcorePhase.gradients, []
def gradients(self, rows, total, epoch):
    calls.append(epoch)
    if wait and calls.count(2) == 2:  # in the middle of the third epoch
        (folder / "here").touch()
        sys.stdin.read()
    return real(self, rows, total, epoch)
phase.HpMcorePhase.gradients = gradients
config = HpMcoreTrainConfig.model_validate_json((folder / "config.json").read_text())
fit(pq.read_table(folder / "clips.parquet"), {"static": pq.read_table(folder / "static.parquet")}, config,
    folder / "run", {})
"""


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_equals_an_uninterrupted_one(tables, uninterrupted, tmp_path):
    (tmp_path / "config.json").write_text(wavering().model_dump_json())
    pq.write_table(tables[0], tmp_path / "clips.parquet")
    pq.write_table(tables[1]["static"], tmp_path / "static.parquet")
    call = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    here = {**os.environ, "PYTHONPATH": str(Path(loop.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*call, "wait"], env=here, stdin=subprocess.PIPE) as process:
        while not (tmp_path / "here").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == [0, 1]
    assert not (tmp_path / "run" / "model").exists()
    subprocess.run([*call, "on"], env=here, check=True, capture_output=True)
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_finished_run_is_returned_and_what_differs_is_named(tables, tmp_path, caplog):
    first = fit(*tables, settings(), tmp_path / "run", {})
    with caplog.at_level(logging.WARNING):
        again = fit(*tables, settings(checkpoint_every=1, static="key"), tmp_path / "run", {})
    assert again == {**first, "resumed": True}
    assert "already finished" in caplog.text
    other = settings(replace(SMALL, contrastive_weight=0.0), exemplars="rotation")
    with pytest.raises(
        ConfigError,
        match=r"run: belongs to another run \(exemplars: number there, rotation asked for; "
        r"model.contrastive_weight: 1.0 there, 0.0 asked for\). Give this run another name",
    ):
        fit(*tables, other, tmp_path / "run", {})
    clips, streams = tables
    scored = changed(clips, of_clip("107b_0", score=1.0))
    with pytest.raises(ConfigError, match=r"another run \(data.sha256: \w+ there, \w+ asked for\)"):
        fit(scored, streams, settings(), tmp_path / "run", {})
    features = changed(streams["static"], of_clip("107b_0", features=np.zeros(96 * 368, np.float32)))
    with pytest.raises(ConfigError, match=r"another run \(data.sha256"):
        fit(clips, {"static": features}, settings(), tmp_path / "run", {})
    with pytest.raises(ConfigError, match=r"data.clips: 9 there, 8 asked for; data.sha256"):
        fit(clips.slice(1), streams, settings(), tmp_path / "run", {})


def test_an_unfinished_run_of_other_data_is_refused(tables, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1)
        with pytest.raises(Stop):
            fit(*tables, settings(), tmp_path / "run", {})
    moved = changed(tables[0], of_clip("107b_0", transitions_s=[1.0, 2.0]))
    with pytest.raises(ConfigError, match="data.sha256"):
        fit(moved, tables[1], settings(), tmp_path / "run", {})


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_one_another(tables, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(*tables, settings(epochs=1, seed=seed), tmp_path / name, {})
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")


def test_what_cannot_be_learned_is_refused_before_a_folder_is_made(tables, tmp_path):
    clips, streams = tables
    cases = [
        ({"score": None}, {}, DataError, "no training clip has a score and static. Extract poses and feat"),
        (
            {"transitions_s": None},
            {},
            DataError,
            "clip 107b_0: has 0 transitions within its frames, at least 1 are needed. Fill transitions_s",
        ),
        (
            {"transitions_s": [1.0]},
            {"model": replace(SMALL, decoding="halves")},
            DataError,
            "clip 107b_0: has 1 transitions within its frames, at least 2 are needed",
        ),
        (
            {"difficulty": None},
            {"by_difficulty": True},
            DataError,
            "clip 107b_0: has difficulty None, but the model compares scores per degree of difficulty",
        ),
        (
            {},
            {"model": replace(SMALL, action_numbers=2)},
            ConfigError,
            "action_numbers: is 2, but there are 3 dive numbers. Set it to 3 or more",
        ),
    ]
    for values, choices, kind, match in cases:
        wrong = changed(clips, lambda row, values=values: values)
        with pytest.raises(kind, match=match):
            fit(wrong, streams, settings(**choices), tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


def test_a_subject_in_two_splits_is_refused(tables, tmp_path):
    clips = changed(tables[0], of_clip("107b_3", subject_id="107b-0"))
    with pytest.raises(DataError, match="subject made/107b-0: is in the splits train and test"):
        fit(clips, tables[1], settings(), tmp_path / "run", {})


def test_dives_that_choose_the_epoch_are_taken_from_training_when_none_are_given(tables, tmp_path):
    clips = changed(tables[0], lambda row: {"split": "train"} if row["split"] == "val" else {})
    summary = fit(clips, tables[1], settings(epochs=1, validation_share=0.3), tmp_path / "run", {})
    assert (summary["train_clips"], summary["val_clips"]) == (6, 3)
    chosen = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["val_clips"]
    assert {name.partition("_")[0] for name in chosen} == {"107b", "407c", "5253b"}  # spread over the numbers


def test_broken_features_stop_the_run_naming_epoch_and_clips(tables, tmp_path):
    broken = changed(tables[1]["static"], of_clip("107b_0", features=np.full(96 * 368, np.nan, np.float32)))
    with pytest.raises(DataError, match=r"epoch 0, clips .*the loss or its gradient is not finite"):
        fit(tables[0], {"static": broken}, settings(), tmp_path / "run", {})
    assert not (tmp_path / "run" / "model").exists()


def test_streams_that_the_model_reads():
    def wanted(**changes):
        return wanted_streams(settings(replace(PRESETS["best"], **changes), poses="p", static="s"))

    assert wanted() == {"keypoints": "p", "dynamic": "", "static": "s"}
    assert wanted(use_pose=False) == {"dynamic": "", "static": "s"}
    assert wanted(use_dynamic=False, use_static=False) == {"keypoints": "p"}
    # A segmentation by the static features needs them even where the regression does without.
    legacy = {"use_static": False, "segmentation_input": "static"}
    assert set(wanted(**legacy)) == {"keypoints", "dynamic", "static"}
    assert set(wanted(**legacy, transitions="fixed")) == {"keypoints", "dynamic"}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["legacy", "paper", "best"])
def test_presets_train_on_every_stream(tmp_path, preset):
    clips, streams = make_tables(train=2, val=1, test=0, streams=("keypoints", "dynamic", "static"))
    model = PRESETS[preset]
    if preset == "paper":  # its static network has wider features
        model = replace(model, static_network="rny002_gsm")
    summary = fit(clips, streams, settings(model, epochs=1), tmp_path / "run", {})
    assert np.isfinite(summary["best_val_loss"])
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(np.isfinite(value).all() for value in weights.values())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ray_workers_train_the_same_model_as_one_process(tables, tmp_path, local_ray, monkeypatch):
    """Without poses: their batch normalisation sees the share of its worker, as everywhere.

    Nor with dropout, which each worker draws for its share.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(loop.__file__).parents[1]))
    model = replace(SEGMENTING, dropout=0.0)
    for name, workers in (("one", 0), ("two", 2)):
        fit(*tables, settings(model, epochs=3, num_workers=workers), tmp_path / name, {})
    first, second = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(first) == len(second) == 3
    for one, two in zip(first, second, strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    # A constant in front of the softmax over frames has no gradient but rounding, which Adam enlarges.
    for name in weights[0].keys() - {"segmentation.out.bias"}:
        np.testing.assert_allclose(weights[0][name], weights[1][name], rtol=1e-2, atol=1e-3, err_msg=name)
    assert not (tmp_path / "two" / "data").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_ray_worker_refuses_is_told_here(tables, tmp_path, local_ray, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(loop.__file__).parents[1]))
    broken = changed(tables[1]["static"], of_clip("107b_0", features=np.full(96 * 368, np.nan, np.float32)))
    with pytest.raises(DataError, match="the loss or its gradient is not finite"):
        fit(tables[0], {"static": broken}, settings(num_workers=2), tmp_path / "run", {})
