from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_runs import SEQUENCE, assert_same_run, rows

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines import fit, loop
from pipelines.config import ExpertTrainConfig, OptimizerConfig, PretrainConfig
from pipelines.errors import ConfigError, DataError
from pipelines.expert_phase import ExpertPhase
from pipelines.motion import load_motions

SIZES = NonExpertConfig(encoder_units=8, decoder_units=8, pace_units=8, discriminator_units=4)


def pretraining(**changes) -> PretrainConfig:
    settings = {"epochs": 6, "batch_size": 7, "checkpoint_every": 1, "sequence": SEQUENCE, "model": SIZES}
    return PretrainConfig(**settings | changes)


def scoring(**changes) -> ExpertTrainConfig:
    fast = OptimizerConfig(learning_rate=5e-3)
    settings = {"epochs": 6, "batch_size": 7, "checkpoint_every": 1, "sequence": SEQUENCE, "optimizer": fast}
    plain = {"model": ExpertConfig(lstm_units=6), "crop_share": 1.0, "feature_dropout": 0.0}
    return ExpertTrainConfig(**settings | plain | changes)


@pytest.fixture
def pretrained(waving_tables, tmp_path) -> Path:
    fit.pretrain(*waving_tables, pretraining(epochs=2), tmp_path / "pretrained", {})
    return tmp_path / "pretrained"


def test_pretraining_learns_and_leaves_a_run_folder(waving_tables, tmp_path):
    fast = OptimizerConfig(learning_rate=1e-2)
    summary = fit.pretrain(
        *waving_tables, pretraining(epochs=15, optimizer=fast), tmp_path / "run", {"store": "s"}
    )
    found = rows(tmp_path / "run")
    assert len(found) == summary["epochs"] == 15
    assert found[-1]["val_reconstruction"] < 0.5 * found[0]["val_reconstruction"]
    best = min(found, key=lambda row: row["val_loss"])
    assert summary["best_epoch"] == best["epoch"]
    assert summary["val_pace_accuracy"] == best["val_pace_accuracy"]
    assert (summary["train_subjects"], summary["val_subjects"]) == (8, 2)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json",
        "environment.json",
        "checkpoints",
        "metrics.jsonl",
        "model",
        "summary.json",
    }
    assert json.loads((tmp_path / "run" / "config.json").read_text())["provenance"] == {"store": "s"}


def test_expert_learns_the_waves(waving_tables, pretrained, tmp_path):
    config = scoring(epochs=40, model=ExpertConfig(lstm_units=6, finetune_encoder=True))
    summary = fit.train_expert(*waving_tables, config, tmp_path / "run", pretrained, {})
    assert summary["val_loss"] < 0.6  # 1 = variance of the training scores
    assert (summary["train_clips"], summary["val_clips"]) == (16, 4)


def test_learning_rate_falls_twenty_times(waving_tables, tmp_path):
    """Every second of 40 epochs; a training of four falls after each."""
    rates = [loop.learning_rate(pretraining(epochs=40).optimizer, epoch, 40) for epoch in range(40)]
    assert rates[0] == rates[1] == 3e-4
    assert rates[2] == pytest.approx(2.7e-4)
    assert rates[39] == pytest.approx(3e-4 * 0.9**19)
    fit.pretrain(*waving_tables, pretraining(epochs=4), tmp_path / "run", {})
    told = [row["learning_rate"] for row in rows(tmp_path / "run")]
    assert told == pytest.approx([3e-4, 2.7e-4, 2.43e-4, 2.187e-4])


class Stop(Exception):
    pass


def stop_after(monkeypatch, epochs: int) -> None:
    real, done = loop.train_epoch, []

    def stopping(*arguments):
        if len(done) == epochs:
            raise Stop
        done.append(1)
        return real(*arguments)

    monkeypatch.setattr(loop, "train_epoch", stopping)


@pytest.mark.parametrize("phase", ["pretrain", "frozen", "finetuned"])
def test_a_resumed_run_equals_an_uninterrupted_one(waving_tables, pretrained, tmp_path, monkeypatch, phase):
    def train(name: str) -> dict:
        if phase == "pretrain":
            return fit.pretrain(*waving_tables, pretraining(checkpoint_every=2), tmp_path / name, {})
        model = ExpertConfig(lstm_units=6, finetune_encoder=phase == "finetuned")
        config = scoring(checkpoint_every=2, model=model, crop_share=0.5, feature_dropout=0.25)
        return fit.train_expert(*waving_tables, config, tmp_path / name, pretrained, {})

    train("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)  # the third epoch is lost: the newest checkpoint is that of the second
        with pytest.raises(Stop):
            train("broken")
    assert len(rows(tmp_path / "broken")) == 3
    assert train("broken")["resumed"]
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("forgotten", ["optimizer", "model", "best"])
def test_the_comparison_notices_what_is_not_restored(waving_tables, tmp_path, monkeypatch, forgotten):
    """Control of the test above: leaving one part of the state out must change the result."""
    rate = OptimizerConfig(learning_rate=0.3)  # so large that the first epochs are the best
    config = pretraining(checkpoint_every=1, optimizer=rate)
    fit.pretrain(*waving_tables, config, tmp_path / "whole", {})
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stop):
            fit.pretrain(*waving_tables, config, tmp_path / "broken", {})
    real = loop.Training.restore

    def forgetful(self, checkpoint):
        fresh = self.checkpoint().tensors
        real(self, type(checkpoint)({**checkpoint.tensors, forgotten: fresh[forgotten]}, checkpoint.state))

    monkeypatch.setattr(loop.Training, "restore", forgetful)
    fit.pretrain(*waving_tables, config, tmp_path / "broken", {})
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "whole", tmp_path / "broken")


_SCRIPT = """
import sys, pyarrow.parquet as pq
from pathlib import Path
from pipelines import fit
from pipelines.config import PretrainConfig
folder = Path(sys.argv[1])
config = PretrainConfig.model_validate_json((folder / "config.json").read_text())
tables = [pq.read_table(folder / f"{name}.parquet") for name in ("clips", "poses")]
print(fit.pretrain(*tables, config, folder / sys.argv[2], {}))
"""


def test_a_killed_process_is_resumed(waving_tables, tmp_path):
    config = pretraining(epochs=12, checkpoint_every=2)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    for name, table in zip(("clips", "poses"), waving_tables, strict=True):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    call = [sys.executable, "-c", _SCRIPT, str(tmp_path), "killed"]
    here = {**os.environ, "PYTHONPATH": str(Path(fit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(call, env=here, stdout=subprocess.PIPE)
    while len(loop.read_metrics(tmp_path / "killed" / "metrics.jsonl")) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(rows(tmp_path / "killed")) < 12
    subprocess.run(call, env=here, check=True, capture_output=True)
    fit.pretrain(*waving_tables, config, tmp_path / "whole", {})
    a, b = rows(tmp_path / "whole"), rows(tmp_path / "killed")
    assert [row["loss"] for row in a] == pytest.approx([row["loss"] for row in b], rel=1e-5)
    assert len(b) == 12


def test_a_damaged_checkpoint_costs_an_epoch_not_the_run(waving_tables, tmp_path, monkeypatch, caplog):
    fit.pretrain(*waving_tables, pretraining(), tmp_path / "whole", {})
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Stop):
            fit.pretrain(*waving_tables, pretraining(), tmp_path / "run", {})
    file = tmp_path / "run" / "checkpoints" / "epoch-000004" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with caplog.at_level(logging.WARNING):
        fit.pretrain(*waving_tables, pretraining(), tmp_path / "run", {})
    assert "epoch-000004/model.safetensors: does not match" in caplog.text
    assert "going on after epoch 3" in caplog.text
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_finished_run_is_not_trained_again_and_other_settings_are_refused(waving_tables, tmp_path):
    first = fit.pretrain(*waving_tables, pretraining(), tmp_path / "run", {})
    again = fit.pretrain(*waving_tables, pretraining(checkpoint_every=3), tmp_path / "run", {})
    assert again == {**first, "resumed": True}
    with pytest.raises(ConfigError, match=r"run: belongs to another run \(seed: 0 there, 1 asked for\)"):
        fit.pretrain(*waving_tables, pretraining(seed=1), tmp_path / "run", {})
    with pytest.raises(ConfigError, match=r"data.clips: 20 there, 18 asked for; data.sha256"):
        fit.pretrain(waving_tables[0].slice(2), waving_tables[1], pretraining(), tmp_path / "run", {})


def test_an_unfinished_run_of_other_settings_is_refused(waving_tables, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stop):
            fit.pretrain(*waving_tables, pretraining(), tmp_path / "run", {})
    other = SequenceConfig(skeleton="c15", rate_hz=5.0)
    with pytest.raises(ConfigError, match=r"sequence.rate_hz: 10.0 there, 5.0 asked for"):
        fit.pretrain(*waving_tables, pretraining(sequence=other), tmp_path / "run", {})


def test_same_seed_same_run_and_another_seed_another(waving_tables, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit.pretrain(*waving_tables, pretraining(epochs=2, seed=seed), tmp_path / name, {})
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_windows_and_hidden_features_are_drawn_per_epoch(waving_tables):
    motions = load_motions(*waving_tables)[:16]
    config = scoring(crop_share=0.5, feature_dropout=0.25, encoder_units=100)
    phase = ExpertPhase(motions, motions, config, torch.device("cpu"), None)
    windows, kept, columns, views = zip(*(phase._draw(3, epoch) for epoch in range(200)), strict=True)
    frames = len(phase.inputs.views[0][3])
    assert set(views) == {0}
    assert {float(value) for value in torch.stack(columns).unique()} == {1.0}
    lengths = {window.stop - window.start for window in windows}
    assert frames / 2 - 0.5 <= min(lengths) <= frames / 2 + 1
    assert max(lengths) >= frames - 1
    assert min(window.start for window in windows) == 0
    assert max(window.stop for window in windows) == frames
    scale = torch.stack(kept)
    assert {round(float(value), 4) for value in scale.unique()} == {0.0, 1.3333}
    assert scale.mean() == pytest.approx(1.0, abs=0.02)
    assert phase._draw(3, 5)[0] == windows[5]
    plain = ExpertPhase(motions, motions, scoring(encoder_units=4), torch.device("cpu"), None)
    window, scale, *_ = plain._draw(3, 0)
    assert (window, scale.tolist()) == (slice(0, frames), [1.0] * 8)


def with_values(table: pa.Table, column: str, change) -> pa.Table:
    changed = [{**row, column: change(row)} for row in table.to_pylist()]
    return pa.Table.from_pylist(changed, schema=table.schema)


def test_test_rows_are_never_read(waving_tables, tmp_path):
    """Ruined test poses and scores change nothing."""
    clips, poses = waving_tables
    test = {row["clip_id"] for row in clips.to_pylist() if row["split"] == "test"}
    fit.pretrain(clips, poses, pretraining(epochs=2), tmp_path / "a", {})
    ruined = with_values(poses, "num_frames", lambda r: -1 if r["clip_id"] in test else r["num_frames"])
    fit.pretrain(clips, ruined, pretraining(epochs=2), tmp_path / "b", {})
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_subject_in_two_splits_is_refused(waving_tables, tmp_path):
    clips = with_values(
        waving_tables[0], "split", lambda r: "test" if r["clip_id"] == "P03_1" else r["split"]
    )
    with pytest.raises(DataError, match="subject waves/P03: is in the splits train and test"):
        fit.pretrain(clips, waving_tables[1], pretraining(), tmp_path / "run", {})


def test_an_unknown_split_is_refused(waving_tables, tmp_path):
    clips = with_values(waving_tables[0], "split", lambda r: "dev" if r["clip_id"] == "P03_1" else r["split"])
    with pytest.raises(DataError, match="clip P03_1: has split 'dev'. Use train, val, test"):
        fit.pretrain(clips, waving_tables[1], pretraining(), tmp_path / "run", {})


def test_pretraining_on_test_subjects_is_refused(waving_tables, tmp_path):
    clips, poses = waving_tables
    everybody = with_values(clips, "split", lambda r: None)
    fit.pretrain(everybody, poses, pretraining(epochs=2), tmp_path / "all", {})
    with pytest.raises(
        DataError, match="subject waves/P10: is a test subject, but .*all was pretrained on it"
    ):
        fit.train_expert(clips, poses, scoring(), tmp_path / "run", tmp_path / "all", {})


def test_groups_choose_who_is_learned_from(waving_tables, tmp_path):
    summary = fit.pretrain(*waving_tables, pretraining(epochs=1, groups=("control",)), tmp_path / "run", {})
    assert (summary["train_subjects"], summary["val_subjects"]) == (4, 1)
    with pytest.raises(DataError, match=r"a group of \['controls'\]. Groups there are: control, patient"):
        fit.pretrain(*waving_tables, pretraining(groups=("controls",)), tmp_path / "none", {})


def test_validation_subjects_come_from_train_when_none_are_given(waving_tables, tmp_path):
    clips = with_values(waving_tables[0], "split", lambda r: "train" if r["split"] == "val" else r["split"])
    summary = fit.pretrain(clips, waving_tables[1], pretraining(epochs=1), tmp_path / "run", {})
    assert (summary["train_subjects"], summary["val_subjects"]) == (8, 2)
    summary = fit.pretrain(
        clips, waving_tables[1], pretraining(epochs=1, validation_share=0.5), tmp_path / "half", {}
    )
    assert (summary["train_subjects"], summary["val_subjects"]) == (5, 5)


def test_broken_numbers_stop_the_run_naming_epoch_and_clips(waving_tables, pretrained, tmp_path):
    wild = scoring(optimizer=OptimizerConfig(learning_rate=1e30))
    with pytest.raises(
        DataError, match=r"epoch \d+, clips P0\d_\d, .*the loss or its gradient is not finite"
    ):
        fit.train_expert(*waving_tables, wild, tmp_path / "run", pretrained, {})
    assert not (tmp_path / "run" / "model").exists()


def test_a_validation_that_breaks_stops_the_run_too(waving_tables, pretrained, tmp_path):
    wild = scoring(batch_size=16, optimizer=OptimizerConfig(learning_rate=1e30))  # one step an epoch
    with pytest.raises(DataError, match="epoch 0, validation clips: the loss is not finite"):
        fit.train_expert(*waving_tables, wild, tmp_path / "run", pretrained, {})


def test_scores_that_cannot_be_learned_are_refused(waving_tables, pretrained, tmp_path):
    clips = with_values(waving_tables[0], "score", lambda r: 5.0)
    with pytest.raises(DataError, match="action type 'wave': has 16 training scores, all of one value"):
        fit.train_expert(clips, waving_tables[1], scoring(), tmp_path / "a", pretrained, {})
    with pytest.raises(DataError, match="an action type of .'wawe'.. Action types there are: wave"):
        fit.train_expert(*waving_tables, scoring(action_types=("wawe",)), tmp_path / "b", pretrained, {})


def test_an_encoder_of_another_input_is_refused(waving_tables, pretrained, tmp_path):
    other = scoring(sequence=SequenceConfig(skeleton="c20"))
    with pytest.raises(ConfigError, match="skeleton: c15 there, c20 asked for"):
        fit.train_expert(*waving_tables, other, tmp_path / "run", pretrained, {})
    with pytest.raises(ConfigError, match="holds no trained model"):
        fit.train_expert(*waving_tables, scoring(), tmp_path / "run", tmp_path / "nowhere", {})


@pytest.mark.parametrize(
    ("clips", "size", "world", "sizes"),
    [
        (54, 25, 1, [18, 18, 18]),
        (26, 25, 1, [13, 13]),
        (51, 25, 2, [17, 17, 17]),
        (3, 2, 1, [3]),
        (5, 2, 2, [3, 2]),
        (7, 4, 4, [7]),
    ],
)
def test_batches_are_even_and_complete(clips, size, world, sizes):
    made = loop.batches(clips, size, world, [0, 0])
    assert [len(batch) for batch in made] == sizes
    assert sorted(row for batch in made for row in batch) == list(range(clips))


def test_batches_are_shuffled_by_the_seed():
    assert loop.batches(54, 25, 1, [0, 0]) == loop.batches(54, 25, 2, [0, 0])
    assert loop.batches(54, 25, 1, [0, 0]) != loop.batches(54, 25, 1, [0, 1])


def test_too_many_workers_are_refused():
    with pytest.raises(ConfigError, match="20 clips in batches of 2 cannot be shared by 3 workers"):
        loop.batches(20, 2, 3, [0, 0])


@pytest.fixture(scope="module")
def local_ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(fit.__file__).parents[1]))
        patch.delenv("RAY_ADDRESS", raising=False)
        from cluster.connect import connect

        with connect(num_cpus=2):
            yield


def assert_close_runs(a: Path, b: Path) -> None:
    first, second = rows(a), rows(b)
    assert len(first) == len(second) == 3
    for one, two in zip(first, second, strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_two_ray_workers_pretrain_the_same_model_as_one_process(waving_tables, tmp_path, local_ray):
    fit.pretrain(*waving_tables, pretraining(epochs=3), tmp_path / "one", {})
    fit.pretrain(*waving_tables, pretraining(epochs=3, num_workers=2), tmp_path / "two", {})
    assert_close_runs(tmp_path / "one", tmp_path / "two")
    assert not (tmp_path / "two" / "data").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ray_workers_train_the_same_expert_as_one_process(waving_tables, pretrained, tmp_path, local_ray):
    model = ExpertConfig(lstm_units=6, finetune_encoder=True)
    for name, workers in (("one", 0), ("two", 2)):
        config = scoring(epochs=3, num_workers=workers, model=model, crop_share=0.5)
        fit.train_expert(*waving_tables, config, tmp_path / name, pretrained, {})
    assert_close_runs(tmp_path / "one", tmp_path / "two")
    wild = scoring(num_workers=2, optimizer=OptimizerConfig(learning_rate=1e30))
    with pytest.raises(DataError, match="the loss or its gradient is not finite"):
        fit.train_expert(*waving_tables, wild, tmp_path / "wild", pretrained, {})


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_ray_worker_is_the_process(waving_tables, tmp_path, local_ray):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Ray gives a worker with one core one thread
    fit.pretrain(*waving_tables, pretraining(epochs=3), tmp_path / "process", {})
    torch.set_num_threads(threads)
    fit.pretrain(*waving_tables, pretraining(epochs=3, num_workers=1), tmp_path / "worker", {})
    assert_same_run(tmp_path / "process", tmp_path / "worker")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_ray_worker_is_replaced_and_nothing_changes(waving_tables, tmp_path, local_ray):
    config = pretraining(epochs=15)
    fit.pretrain(*waving_tables, config, tmp_path / "whole", {})
    metrics = tmp_path / "killed" / "metrics.jsonl"
    killed = []

    def kill() -> None:
        while len(loop.read_metrics(metrics)) < 3:
            time.sleep(0.05)
        for folder in Path("/proc").iterdir():
            title = folder / "cmdline"
            with contextlib.suppress(OSError):
                worker = folder.name.isdigit() and b"ray::RayTrainWorker" in title.read_bytes()
                if worker and _descends_from(int(folder.name), os.getpid()):
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed.append(folder.name)
                    return

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    fit.pretrain(*waving_tables, pretraining(epochs=15, num_workers=2), tmp_path / "killed", {})
    thread.join(timeout=5)
    assert killed
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("whole", "killed")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def _descends_from(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])
    return False
