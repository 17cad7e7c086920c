from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines import train, tune
from pipelines.config import Config, ExpertTrainConfig, PretrainConfig, TuneConfig
from pipelines.errors import ClusterError, ConfigError, DataError, WriterError
from pipelines.motion import load_motions
from pipelines.run_folder import alone, read_table
from pipelines.settings import load_config
from pipelines.store import open_store

SEQUENCE = SequenceConfig(skeleton="c15")
SIZES = NonExpertConfig(encoder_units=6, decoder_units=6, pace_units=6, discriminator_units=4)
CONFIG = Config(
    pretrain=PretrainConfig(epochs=2, sequence=SEQUENCE, model=SIZES),
    expert=ExpertTrainConfig(
        epochs=3, sequence=SEQUENCE, encoder_units=6, checkpoint_every=1, model=ExpertConfig(lstm_units=4)
    ),
    tune=TuneConfig(trials=3, max_concurrent=2, searcher="random", scheduler="none"),
)
SPACE = "[expert.optimizer]\nlearning_rate = {log_uniform = [1e-4, 1e-2]}\n"


def settings(**of_tune) -> Config:
    return CONFIG.model_copy(update={"tune": CONFIG.tune.model_copy(update=of_tune)})


def fill(folder: Path, clips: pa.Table, poses: pa.Table) -> Path:
    opened = open_store(folder, create=True)
    opened.put_clips(clips)
    table = opened.create_poses({"made by": "test"})
    facts = table.write_file(poses)
    with table.writer() as writer:
        writer.commit([facts])
    return folder


@pytest.fixture
def store(waving_tables, tmp_path) -> Path:
    return fill(tmp_path / "store", *waving_tables)


@pytest.fixture
def search(store, tmp_path, monkeypatch, empty_database):
    """Calls the verb with a space, in an own folder of runs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(empty_database)

    def call(text: str = SPACE, config: Config = CONFIG, **given):
        space = tmp_path / "space.toml"
        space.write_text(text)
        given = {"runs": tmp_path / "runs", "progress": lambda line: None} | given
        return tune.sweep("two-stage", store, "s", space, config, **given)

    return call


def mlflow_runs(database: Path) -> list[tuple[str, str, bool]]:
    import sqlite3

    asked = """select name, status, exists (select 1 from tags where tags.run_uuid = runs.run_uuid
               and key = 'mlflow.parentRunId') from runs order by name"""
    with sqlite3.connect(database) as connection:
        return [(name, status, bool(child)) for name, status, child in connection.execute(asked)]


def test_test_rows_never_reach_a_trial(waving_tables, tmp_path):
    """The files that trials read are the same, byte for byte, whatever the test rows say."""
    clips, poses = waving_tables
    tested = [split == "test" for split in clips["split"].to_pylist()]
    told = [None if test else score for test, score in zip(tested, clips["score"].to_pylist(), strict=True)]
    place = clips.schema.get_field_index("score")
    other_clips = clips.set_column(place, clips.schema.field("score"), pa.array(told, pa.float64()))
    kept = poses.filter(pa.array([not test for test in tested]))
    written = []
    for name, rows in {"a": (clips, poses), "b": (other_clips, kept)}.items():
        asked = sweep_of(tmp_path / name)
        found = tune._rows(asked, fill(tmp_path / name / "store", *rows))
        begun = tune._begin(asked, found, 2)
        data = sorted((begun.folder / "data").iterdir())
        assert [path.name for path in data] == ["clips.arrow", "rows-poses.arrow"]
        written.append([path.read_bytes() for path in data])
        motions = load_motions(read_table(begun.folder, "clips"), read_table(begun.folder, "rows-poses"))
        assert len(motions) == 20
        assert {motion.split for motion in motions} == {"train", "val"}
    assert written[0] == written[1]
    assert b"P10_0" in clips["clip_id"].combine_chunks().buffers()[2].to_pybytes()
    assert all(b"P10_0" not in file for file in written[0])


def sweep_of(folder: Path):
    from pipelines.sweep.folder import Sweep
    from pipelines.sweep.space import Range

    space = (Range("expert.feature_dropout", "uniform", (0.0, 0.5)),)
    return Sweep(folder / "s", "two-stage", CONFIG, space, 2, None, {})


REFUSED = [
    (SPACE, {"metric": "val_spearman"}, {}, "two-stage score has no val_spearman.*val_loss or val_mae"),
    ('[expert]\nloss = {choice = ["huber", "squared"]}', {}, {}, "val_loss means something else"),
    (
        "[pretrain]\nepochs = {uniform = [1, 2]}",
        {},
        {"pretrained": Path("x")},
        "settings of the pretraining vary",
    ),
    ('[expert.model]\nappearance = {choice = ["none", "modules"]}', {}, {}, "decides which tables are read"),
    (
        "[expert.sequence]\nrate_hz = {uniform = [5, 10]}\n[pretrain]\nepochs = {uniform = [1, 2]}",
        {},
        {},
        "pretrain.sequence and expert.sequence differ",
    ),
    ("[expert]\ninput_dropout = {uniform = [0.1, 0.2]}", {}, {}, "the encoder does not learn"),
    ("[expert]\nepochs = {uniform = [0, 2]}", {}, {}, "greater than or equal to 1"),
]


@pytest.mark.parametrize(("text", "of_tune", "given", "told"), REFUSED)
def test_what_could_not_be_compared_is_refused_before_the_first_trial(
    search, tmp_path, text, of_tune, given, told
):
    with pytest.raises(ConfigError, match=told):
        search(text, settings(**of_tune), **given)
    assert not (tmp_path / "runs" / "s").exists()


def test_a_dry_run_shows_proposals_and_writes_nothing(search, tmp_path):
    found = search(dry_run=True)
    rates = [row["expert.optimizer.learning_rate"] for row in found["first"]]
    assert len(set(rates)) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert not (tmp_path / "runs" / "s").exists()


def test_two_processes_do_not_run_one_sweep(search, tmp_path):
    (tmp_path / "runs" / "s").mkdir()
    with alone(tmp_path / "runs" / "s"), pytest.raises(WriterError):
        search()


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_finds_settings_that_train_again_to_the_same_model(search, store, tmp_path, local_ray):
    runs = tmp_path / "runs"
    found = search()
    assert found["complete"]
    assert [row["status"] for row in found["trials"]] == ["finished"] * 3
    values = [row["val_loss"] for row in found["trials"]]
    assert values == sorted(values)
    assert len(set(values)) == 3
    assert mlflow_runs(runs / "mlflow.db") == [
        ("s", "FINISHED", False),
        *((f"trial-00{number}", "FINISHED", True) for number in range(3)),
    ]

    best = load_config(Path(found["best_toml"]))
    again = train.expert(store, "again", None, best, runs=tmp_path / "others")
    assert again["best_val_loss"] == values[0]
    summary = json.loads((Path(found["best_run"]) / "summary.json").read_text())["summary"]
    assert summary["best_val_loss"] == values[0]
    assert (Path(found["best_run"]) / "model" / "model.safetensors").is_file()

    more = search(config=settings(trials=4))
    assert [row for row in more["trials"] if row["trial"] != 3] == found["trials"]
    assert len(mlflow_runs(runs / "mlflow.db")) == 5
    assert search(config=settings(trials=4)) == more


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_with_workers_is_stopped_and_leaves_its_cores_to_the_next(search, tmp_path, local_ray):
    """Two workers per trial on two cores: a stopped trial that kept one would block the others."""
    expert = CONFIG.expert.model_copy(update={"num_workers": 2, "epochs": 4})
    tuned = CONFIG.tune.model_copy(
        update={"scheduler": "asha", "first_rung": 1, "max_concurrent": 0, "trials": 4}
    )
    config = CONFIG.model_copy(update={"expert": expert, "tune": tuned})
    found = search("[expert.optimizer]\nlearning_rate = {log_uniform = [1e-6, 1e-1]}\n", config)
    status = [row["status"] for row in found["trials"]]
    assert found["complete"]
    assert "stopped" in status
    assert "finished" in status
    assert len(mlflow_runs(tmp_path / "runs" / "mlflow.db")) == 5
    one = search(
        "[expert.optimizer]\nlearning_rate = {log_uniform = [1e-6, 1e-1]}\n",
        config.model_copy(update={"expert": expert.model_copy(update={"num_workers": 0})}),
    )
    assert one["trials"] == found["trials"]  # where it trained does not make it another sweep


@pytest.mark.ray
def test_a_trial_that_no_cluster_can_hold_is_refused(search, local_ray):
    expert = CONFIG.expert.model_copy(update={"num_workers": 400})
    config = settings(max_concurrent=0).model_copy(update={"expert": expert})
    with pytest.raises(ClusterError, match=r"needs 400 CPU \(of 2\)"):
        search(config=config)


@pytest.mark.ray
@pytest.mark.slow
def test_when_every_trial_fails_the_first_reason_is_told(search, local_ray):
    with pytest.raises(DataError, match="all 2 trials failed, the first with: epoch 0"):
        search("[expert.optimizer]\nlearning_rate = {choice = [1e30, 1e31]}\n", settings(trials=2))


KILLED = """
import sys
from pathlib import Path
from pipelines import tune
from pipelines.config import Config
store, runs, space, config = sys.argv[1:]
config = Config.model_validate_json(Path(config).read_text())
tune.sweep("two-stage", Path(store), "s", Path(space), config, runs=Path(runs))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_killed_twice_is_the_sweep_that_was_not(search, store, tmp_path, local_ray):
    expert = CONFIG.expert.model_copy(update={"epochs": 30})
    config = settings(scheduler="asha", trials=6).model_copy(update={"expert": expert})
    undisturbed = search(config=config)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    given = [str(tmp_path / name) for name in ("store", "killed", "space.toml", "config.json")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_A")}
    for epochs in (5, 40):
        process = subprocess.Popen([sys.executable, "-c", KILLED, *given], env=environment)
        metrics = tmp_path / "killed" / "s" / "trials"
        while process.poll() is None:
            if sum(len(path.read_text().splitlines()) for path in metrics.glob("*/metrics.jsonl")) >= epochs:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = search(config=config, runs=tmp_path / "killed")
    for found in (undisturbed, resumed):
        for row in found["trials"]:
            del row["seconds"]
    assert resumed["trials"] == undisturbed["trials"]
    assert resumed["best"] == undisturbed["best"]
    assert [child for _, _, child in mlflow_runs(tmp_path / "killed" / "mlflow.db")].count(True) == 6
