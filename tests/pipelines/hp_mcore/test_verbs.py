"""`aqa train hp-mcore` and `aqa evaluate` on a store, as a person types them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_dives import changed, make_tables

from pipelines import cli
from pipelines.bundle import verify_bundle
from pipelines.hp_mcore.fit import FAMILIES
from pipelines.store import open_store

TINY = (
    "--epochs", "2", "--batch-size", "3", "--num-exemplars", "2", "--no-by-difficulty",
    "--model.no-use-dynamic", "--model.no-use-pose", "--model.no-pose-stream", "--model.transitions", "fixed",
    "--model.steps-per-procedure", "2", "--model.decoder-layers", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("dives") / "store")


def fill(folder: Path, static: bool = True, **of_clips) -> Path:
    clips, streams = make_tables(train=2, test=2)
    opened = open_store(folder, create=True)
    opened.put_clips(changed(clips, lambda row: of_clips))
    for name, rows in streams.items() if static else ():
        table = opened.create(FAMILIES[name], {"made": name})
        with table.writer() as writer:
            writer.commit([table.write_file(rows)])
    return folder


@pytest.fixture
def aqa(capsys, monkeypatch, tmp_path):
    """Runs one command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory) -> Path:
    """A folder with the run `dives`."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    call = ["train", "hp-mcore", "--store", str(store), "--name", "dives", "--runs", str(folder), *TINY]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert cli.main(call) == 0
    return folder


def test_a_model_is_trained_evaluated_and_tracked(aqa, store, runs):
    run = runs / "dives"
    summary = json.loads((run / "summary.json").read_text())["summary"]
    counts = ("train_clips", "val_clips", "dive_numbers", "epochs")
    assert [summary[name] for name in counts] == [6, 3, 3, 2]
    record = json.loads((run / "config.json").read_text())
    key = open_store(store).keys("features/static")[0]
    assert (record["provenance"]["static_key"], record["provenance"]["store"]) == (key, str(store))
    assert record["config"]["model"]["antisymmetric"]  # the rest of the preset best

    code, out, err = aqa("evaluate", run, "--store", store, "--bootstrap", "100")
    assert code == 0, err
    assert out.startswith("6 test dives\n")
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"HP-MCoRe{'':38} {metrics['spearman']['value']:.3f} [" in out
    for line in ("mean of the dive number", "R-l2 divides by", "Exemplars: 2 training dives", "107b"):
        assert f"\n{line}" in out
    again = json.loads(aqa("evaluate", run, "--store", store, "--bootstrap", "100", "--json")[1])
    assert again == {**metrics, "stored": True}

    with sqlite3.connect(runs / "mlflow.db") as database:
        found = database.execute("select name, status from runs").fetchall()
        error = database.execute("select value from metrics where key = 'test_mae'").fetchall()
    assert found == [("dives", "FINISHED")]
    assert error == [(metrics["mae"]["value"],)]

    found = verify_bundle(run / "bundle")
    assert (found["kind"], found["examples"]) == ("hp_mcore", 6)
    assert found["largest_difference"] < 1e-3
    bank = run / "bundle" / "artifacts" / "bundle" / "bank"
    assert pq.read_table(bank / "features.static.parquet").num_rows == 6
    assert pq.read_table(bank / "clips.parquet")["split"].to_pylist() == ["train"] * 6

    same = ("train", "hp-mcore", "--store", store, "--name", "dives", "--runs", runs, *TINY)
    code, out, _ = aqa(*same, "--json")
    assert (code, json.loads(out)) == (0, {**summary, "resumed": True})
    code, _, err = aqa(*same, "--exemplars", "any")
    assert (code, "exemplars: number there, any asked for" in err) == (2, True)


def test_a_dry_run_writes_nothing(aqa, store, tmp_path):
    code, out, _ = aqa("train", "hp-mcore", "--store", store, "--name", "dives", *TINY, "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, plan["clips"], plan["extracted"]) == (0, 15, 15)
    assert plan["splits"] == {"test": 6, "train": 6, "val": 3}
    assert not (tmp_path / "runs").exists()


WRONG = [
    (("--preset", "bset"), {}, 2, "hp_mcore.preset (flag --preset)"),
    (("--model.num-procedures", "9"), {}, 2, "num_procedures must be 2 to 6, got 9"),
    (("--preste", "best"), {}, 2, "--preset"),
    (("--static", "nobody"), {}, 3, "Choose one with --static KEY"),
    (("--model.action-numbers", "2"), {}, 2, "is 2, but there are 3 dive numbers"),
    ((), {"static": False}, 3, "the store holds no features/static. Run `aqa extract --kind static` first"),
    ((), {"transitions_s": None}, 3, "has 0 transitions within its frames, at least 1 are needed"),
    ((), {"transitions_s": [2.0, 1.0]}, 3, "its transitions [2.0, 1.0] are not in order"),
    ((), {"score": None}, 3, "no training clip has a score and static"),
]


@pytest.mark.parametrize(("flags", "of_clips", "code", "text"), WRONG, ids=[row[3][:30] for row in WRONG])
def test_wrong_input_ends_with_its_exit_code_and_a_text(aqa, store, tmp_path, flags, of_clips, code, text):
    where = fill(tmp_path / "other", **of_clips) if of_clips else store
    found, out, err = aqa("train", "hp-mcore", "--store", where, "--name", "dives", *TINY, *flags)
    assert (found, out) == (code, "")
    assert text in err
    assert not (tmp_path / "runs" / "dives" / "model").exists()


def test_wrong_evaluations_end_with_their_exit_codes(aqa, store, runs, tmp_path):
    run = shutil.copytree(runs / "dives", tmp_path / "runs" / "dives")
    code, _, err = aqa("evaluate", tmp_path / "nowhere", "--store", store)
    assert (code, "holds no trained model" in err) == (2, True)
    # The tables of the other store were made with the same settings, so they have the same key.
    code, _, err = aqa("evaluate", run, "--store", fill(tmp_path / "leaky", split="test"))
    assert (code, "is a test subject, but" in err) == (3, True)
    code, _, err = aqa("evaluate", run, "--store", fill(tmp_path / "poor", static=False))
    assert (code, "the store holds no features/static" in err) == (3, True)
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, _, err = aqa("evaluate", run, "--store", store)
    assert (code, "does not match the sha256" in err) == (7, True)


def test_the_tables_of_the_training_are_read_though_there_are_newer_ones(aqa, store, runs, tmp_path):
    run = shutil.copytree(runs / "dives", tmp_path / "runs" / "dives")
    both = shutil.copytree(store, tmp_path / "both")
    open_store(both).create("features/static", {"made": "later"})
    assert aqa("train", "hp-mcore", "--store", both, "--name", "x", *TINY)[0] == 3  # which one?
    code, out, _ = aqa("evaluate", run, "--store", both, "--bootstrap", "100", "--json")
    assert (code, json.loads(out)["n"]) == (0, 6)
