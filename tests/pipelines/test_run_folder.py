"""A run folder's life, with a worker that trains nothing."""

from __future__ import annotations

import fcntl
import json
import os

import pyarrow as pa
import pytest
import torch

from pipelines.checkpoint import save_bundle
from pipelines.config import HpMcoreTrainConfig, PretrainConfig
from pipelines.errors import ConfigError, CorruptError, WriterError
from pipelines.run_folder import Job, read_json, read_table, run, settings_identity

ROWS = pa.table({"name": ["a", "b"], "values": pa.array([[1.0, 2.0], []], pa.list_(pa.float32()))})


def worker(spec, report, device):
    """Notes what it was given; its second epoch was the best."""
    from pathlib import Path

    run_dir = Path(spec["run_dir"])
    rows = read_table(run_dir, "rows")
    (run_dir / "seen.json").write_text(json.dumps({**spec, "rows": rows.to_pylist()}))
    lines = [{"epoch": k, "loss": 1.0, "val_loss": 3.0 - k, "val_mae": 3.0 - k} for k in (0, 1)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = {"best_epoch": 1, "best_val_loss": 2.0}
    save_bundle(run_dir / "model", {"w": torch.ones(1)}, {"kind": "expert", **best, **spec["about"]})


def failing(spec, report, device):
    raise KeyboardInterrupt


def job(seed: int = 0, does=worker, **changes) -> Job:
    config = HpMcoreTrainConfig(seed=seed, epochs=2, **changes)
    return Job(
        phase="hp_mcore",
        worker=does,
        config=config,
        identity={"phase": "hp_mcore", "data.sha256": "0" * 64, **settings_identity(config)},
        about={"subjects": ["p"]},
        tables={"rows": ROWS},
        counts={"clips": 2},
        spec={"extra": "x"},
    )


def test_a_run_writes_its_records_and_its_summary_last(tmp_path):
    summary = run(job(), tmp_path / "run", {"store": "s"}, None)
    assert summary == {
        "run_dir": str(tmp_path / "run"),
        "epochs": 2,
        "best_epoch": 1,
        "best_val_loss": 2.0,
        "clips": 2,
        "val_loss": 2.0,
        "val_mae": 2.0,
        "resumed": False,
    }
    seen = json.loads((tmp_path / "run" / "seen.json").read_text())
    assert seen["rows"] == ROWS.to_pylist()
    assert (seen["extra"], seen["phase"], seen["config"]["epochs"]) == ("x", "hp_mcore", 2)
    assert seen["about"] == {"subjects": ["p"], "provenance": {"store": "s"}, "phase": "hp_mcore"}
    assert not (tmp_path / "run" / "data").exists()
    record = read_json(tmp_path / "run" / "config.json")
    assert (record["provenance"], record["identity"]["seed"]) == ({"store": "s"}, 0)
    assert read_json(tmp_path / "run" / "model" / "config.json")["subjects"] == ["p"]


def test_a_finished_run_is_not_run_again(tmp_path):
    first = run(job(), tmp_path / "run", {}, None)
    again = run(
        job(does=failing, num_workers=3, checkpoint_every=1, static="key"), tmp_path / "run", {}, None
    )
    assert again == {**first, "resumed": True}


def test_another_job_is_refused_finished_or_not(tmp_path):
    run(job(), tmp_path / "done", {}, None)
    with pytest.raises(KeyboardInterrupt):
        run(job(does=failing), tmp_path / "begun", {}, None)
    assert not (tmp_path / "begun" / "summary.json").exists()
    for name in ("done", "begun"):
        with pytest.raises(ConfigError, match=rf"{name}: belongs to another run \(seed: 0 there, 1 asked"):
            run(job(seed=1), tmp_path / name, {}, None)
    assert run(job(), tmp_path / "begun", {}, None)["resumed"]


def test_only_what_decides_the_result_is_the_identity_of_a_run():
    one = settings_identity(HpMcoreTrainConfig())
    where = {
        "num_workers": 2,
        "use_gpu": True,
        "checkpoint_every": 9,
        "poses": "p",
        "dynamic": "d",
        "static": "s",
    }
    assert settings_identity(HpMcoreTrainConfig(**where)) == one
    for change in ({"epochs": 7}, {"precision": "bf16"}, {"exemplars": "any"}, {"predicted_share": 0.1}):
        assert settings_identity(HpMcoreTrainConfig(**change)) != one
    assert one["model.num_procedures"] == 3
    assert settings_identity(PretrainConfig())["optimizer.schedule"] == "steps"


def test_rows_are_mapped_from_their_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(job(does=failing), tmp_path / "run", {}, None)
    before = pa.total_allocated_bytes()
    table = read_table(tmp_path / "run", "rows")
    assert table.equals(ROWS)
    assert pa.total_allocated_bytes() - before < 1000


def test_a_damaged_record_is_named(tmp_path):
    assert read_json(tmp_path / "none.json") == {}
    (tmp_path / "summary.json").write_text('{"a": ')
    with pytest.raises(
        CorruptError, match="summary.json: is not readable as JSON. Give this run another name"
    ):
        run(job(), tmp_path, {}, None)


def test_two_processes_in_one_run_folder_are_refused(tmp_path):
    """The lock belongs to the open folder, so a second opening in this process stands for another one."""
    (tmp_path / "run").mkdir()
    other = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        with pytest.raises(WriterError, match="another process is training this run. Wait for it"):
            run(job(), tmp_path / "run", {}, None)
    finally:
        os.close(other)
    assert not run(job(), tmp_path / "run", {}, None)["resumed"]
