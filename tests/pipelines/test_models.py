"""Bundles of the two-stage expert on made tables: published, checked, promoted, and served by MLflow."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from aqa_models.two_stage.config import ExpertConfig, SequenceConfig
from pipelines import bundle as bundles
from pipelines import cli, train
from pipelines.bundle import DATA, make_bundle, verify_bundle
from pipelines.config import Config, EvaluateConfig, ExpertTrainConfig, OptimizerConfig
from pipelines.errors import ConfigError, CorruptError, DataError, SecurityError
from pipelines.evaluate import evaluate
from pipelines.journal import SUMS
from pipelines.models import promote, verify
from pipelines.store import open_store

EXPERT = ExpertTrainConfig(
    epochs=12,
    sequence=SequenceConfig(skeleton="c15"),
    model=ExpertConfig(lstm_units=8, finetune_encoder=True),
    optimizer=OptimizerConfig(learning_rate=3e-2),
    encoder_units=12,
    encoder_layers=1,
)
CONFIG = Config(expert=EXPERT, evaluate=EvaluateConfig(bootstrap=100))


@pytest.fixture(scope="module")
def place(waving, empty_database, tmp_path_factory):
    """A folder with a store, and runs `good` and `poor`, both evaluated."""
    folder = tmp_path_factory.mktemp("models")
    store = open_store(folder / "store", create=True)
    store.put_clips(waving[0])
    table = store.create_poses({"made by": "test"})
    with table.writer() as writer:
        writer.commit([table.write_file(waving[1])])
    (folder / "runs").mkdir()
    (folder / "runs" / "mlflow.db").write_bytes(empty_database)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, epochs in (("good", 12), ("poor", 1)):
            settings = EXPERT.model_copy(update={"epochs": epochs})
            config = CONFIG.model_copy(update={"expert": settings})
            train.expert(folder / "store", name, None, config, runs=folder / "runs")
            evaluate(folder / "runs" / name, folder / "store", config)
    return folder


@pytest.fixture
def uri(place) -> str:
    return f"sqlite:///{place / 'runs' / 'mlflow.db'}"


@pytest.fixture
def copy(place, tmp_path) -> Path:
    """A bundle to damage."""
    return shutil.copytree(place / "runs" / "good" / "bundle", tmp_path / "bundle")


def reseal(bundle: Path) -> None:
    """Lists the files as they are now, as a forger would."""
    (bundle / SUMS).unlink()
    (bundle / SUMS).write_text(bundles._sums(bundle))


def test_the_evaluated_model_is_whole_and_scores_as_recorded(place, uri):
    bundle = place / "runs" / "good" / "bundle"
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    data = {name.removeprefix(f"{DATA}/") for name in names if name.startswith(str(DATA))}
    texts = {"config.json", "preprocessing.json", "metrics.json", "card.md", "examples/predictions.json"}
    tables = {"errors.parquet", "examples/clips.parquet", "examples/poses.parquet"}
    assert data == texts | tables | {"model.safetensors"}
    assert {"MLmodel", "served_model.py", "input_example.json"} <= names
    listed = [line.split("  ") for line in (bundle / SUMS).read_text().splitlines()]
    assert {name for _, name in listed} == names - {SUMS}
    assert all(hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest for digest, name in listed)
    found = verify("expert/1", uri)
    assert (found["model"], found["kind"], found["examples"]) == ("model expert/1", "expert", 8)
    assert found["largest_difference"] < 1e-4


def test_mlflow_itself_loads_the_champion_and_takes_a_request(place, uri, monkeypatch):
    """Through the registry, with pickles forbidden, on the input example as a server would get it."""
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    client = mlflow.MlflowClient(uri)
    client.set_registered_model_alias("expert", "tried", "1")
    mlflow.set_tracking_uri(uri)
    try:
        model = mlflow.pyfunc.load_model("models:/expert@tried")
    finally:
        mlflow.set_tracking_uri(None)
        client.delete_registered_model_alias("expert", "tried")
    assert model.metadata.signature.inputs.input_names()[:3] == ["video", "clip_id", "action_type"]
    answer = model.predict(model.input_example)
    recorded = json.loads((place / "runs/good/bundle" / DATA / "examples/predictions.json").read_text())[0]
    assert answer["clip_id"][0] == recorded["clip_id"]
    assert answer["score"][0] == pytest.approx(recorded["score"], abs=1e-3)
    with pytest.raises(DataError, match="has neither a video nor columns of poses. Give `video`"):
        model.predict(model.input_example[["clip_id", "action_type"]])


def test_the_gate_lets_a_good_model_pass_and_nobody_worse(place, uri):
    done = promote("expert", 1, uri, ("spearman>=0.5",))
    assert done["gate"][0].startswith("mae ")
    assert done["gate"][1].startswith("spearman ")
    with pytest.raises(DataError, match=r"model expert/1: spearman is .*, required is >=1. Train a better"):
        promote("expert", 1, uri, ("spearman >= 1",))
    with pytest.raises(ConfigError, match="requirement 'mae=3': is not understood. Write spearman>=0.5"):
        promote("expert", 1, uri, ("mae=3",))
    with pytest.raises(ConfigError, match="rmsle: the model has no such metric. It has mae, rmse"):
        promote("expert", 1, uri, ("rmsle<=3",))
    with pytest.raises(DataError, match="no better than not looking|that of the champion model expert/1 is"):
        promote("expert", 2, uri)
    assert verify("expert", uri)["model"] == "model expert/1"


def test_a_model_tested_on_other_clips_is_not_compared_unless_told(place, uri, monkeypatch):
    promote("expert", 1, uri)
    from pipelines import models

    monkeypatch.setattr(models, "_beats_floor", lambda metrics, where: "")
    new, old = {"test_sha256": "a", "mae": {"value": 1.0}}, {"test_sha256": "b", "mae": {"value": 2.0}}
    with pytest.raises(DataError, match="tested on other clips than the champion"):
        models._no_worse(new, old, "model expert/2", "model expert/1")
    with pytest.raises(DataError, match="mae is 2, that of the champion model expert/1 is 1. Keep"):
        models._no_worse({**old, "test_sha256": "a"}, new, "model expert/2", "model expert/1")
    assert promote("expert", 2, uri, replace=True)["alias"] == "champion"
    assert verify("expert@champion", uri)["model"] == "model expert/2"


def test_a_changed_lost_or_added_file_is_noticed(copy):
    weights = copy / DATA / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptError, match=f"model.safetensors: does not match its sha256 in {SUMS}"):
        verify_bundle(copy)
    weights.unlink()
    with pytest.raises(CorruptError, match=f"model.safetensors: is missing of {SUMS}"):
        verify_bundle(copy)
    weights.write_bytes(data)
    (copy / "more.txt").write_text("x")
    with pytest.raises(CorruptError, match=f"more.txt: is not in the list of {SUMS}"):
        verify_bundle(copy)
    (copy / SUMS).unlink()
    with pytest.raises(CorruptError, match=f"holds no {SUMS}: this is no bundle"):
        verify_bundle(copy)


def test_a_bundle_with_other_code_is_refused_before_it_runs(copy, tmp_path):
    code, told = copy / "served_model.py", tmp_path / "ran"
    ours = code.read_text()
    code.write_text(f"open({str(told)!r}, 'w')\n" + ours)
    reseal(copy)
    with pytest.raises(SecurityError, match="holds code that is not this program's: served_model.py"):
        verify_bundle(copy)
    code.write_text(ours)
    (copy / "python_model.pkl").write_bytes(b"x")
    reseal(copy)
    with pytest.raises(SecurityError, match="python_model.pkl, served_model.py"):
        verify_bundle(copy)
    (copy / "python_model.pkl").unlink()
    recipe = copy / "MLmodel"
    recipe.write_text(recipe.read_text().replace("mlflow.pyfunc.loaders.code_model", "antigravity"))
    reseal(copy)
    with pytest.raises(SecurityError, match="names other code than served_model.py"):
        verify_bundle(copy)
    assert not told.exists()


def test_a_score_that_differs_from_the_record_is_noticed(copy):
    file = copy / DATA / "examples" / "predictions.json"
    rows = json.loads(file.read_text())
    rows[2]["score"] += 0.1
    file.write_text(json.dumps(rows))
    reseal(copy)
    with pytest.raises(CorruptError, match=f"clip {rows[2]['clip_id']} gets .*, the evaluation recorded"):
        verify_bundle(copy)


def test_a_run_that_was_not_evaluated_has_no_bundle(place, tmp_path):
    run = shutil.copytree(place / "runs" / "good", tmp_path / "run")
    (run / "predictions.parquet").unlink()
    with pytest.raises(ConfigError, match="was not evaluated. Evaluate the run again"):
        make_bundle(run, place / "store")


def test_the_commands(place, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def aqa(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    runs = place / "runs"
    code, out, err = aqa("models", "promote", "expert", 1, "--runs", runs, "--replace", "--json")
    assert (code, json.loads(out)["alias"]) == (0, "champion"), err
    rows = json.loads(aqa("models", "list", "--runs", runs, "--json")[1])
    assert [(row["model"], row["version"], row["alias"], row["run"]) for row in rows] == [
        ("expert", 1, "champion", "good"),
        ("expert", 2, "", "poor"),
    ]
    assert rows[0]["test_mae"] < rows[1]["test_mae"]
    code, out, _ = aqa("models", "verify", runs / "good" / "bundle")
    assert (code, "largest_difference" in out) == (0, True)
    code, _, err = aqa("models", "verify", "nobody", "--runs", runs)
    assert (code, "Registered Model with name=nobody not found" in err) == (2, True)
    code, _, err = aqa("models", "list", "--runs", place / "nowhere")
    assert (code, "mlflow.db: does not exist. Train a model" in err) == (2, True)
    code, _, err = aqa("models", "list", "--tracking.uri", "http://127.0.0.1:9")
    assert (code, "MLflow at http://127.0.0.1:9" in err) == (5, True)
