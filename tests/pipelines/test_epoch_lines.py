from __future__ import annotations

import contextlib
import json
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import epoch_lines, run_folder
from pipelines.checkpoint import newest_epoch
from pipelines.config import AnglesTrainConfig, PretrainConfig


def test_what_a_line_says():
    rows = [{"epoch": epoch, "loss": 0.5, "val_loss": 0.25, "seconds": 9.0} for epoch in range(10)]
    rows += [{"epoch": epoch, "loss": 0.4, "val_loss": 0.12345, "seconds": 3.0} for epoch in range(10, 40)]
    assert epoch_lines.line_of(rows, 100) == "epoch 40/100, loss 0.4, val_loss 0.1235, ETA 3:00"
    assert epoch_lines.line_of([{"epoch": 0}], 1) == "epoch 1/1, ETA 0:00"


def test_lines_come_from_the_file_that_a_worker_elsewhere_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(epoch_lines, "EVERY_S", 0.02)
    file, said = tmp_path / "metrics.jsonl", []
    with epoch_lines.epoch_lines(tmp_path, 5, said.append):
        time.sleep(0.1)
        assert said == []  # no epoch, no line
        file.write_text(json.dumps({"epoch": 1, "loss": 0.5, "seconds": 2.0}) + '\n{"epoch": 2, "lo')
        deadline = time.monotonic() + 20
        while not said:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert set(said) == {"epoch 2/5, loss 0.5, ETA 0:06"}
    count = len(said)
    time.sleep(0.1)
    assert len(said) == count


def test_newest_epoch(tmp_path):
    assert newest_epoch(tmp_path / "none") == 0
    for epoch, whole in ((3, True), (12, True), (15, False)):
        folder = tmp_path / f"epoch-{epoch:06d}"
        folder.mkdir()
        if whole:
            (folder / "COMPLETE").touch()
    assert newest_epoch(tmp_path) == 12


@pytest.mark.parametrize(("workers", "told"), [(0, False), (2, True)])
def test_a_training_that_goes_on_elsewhere_is_told_here(tmp_path, caplog, workers, told):
    """Here, the loop itself says it."""
    (tmp_path / "checkpoints" / "epoch-000012").mkdir(parents=True)
    (tmp_path / "checkpoints" / "epoch-000012" / "COMPLETE").touch()
    job: Any = SimpleNamespace(config=PretrainConfig(num_workers=workers))
    with caplog.at_level(logging.WARNING), run_folder._told(job, tmp_path, None):
        pass
    assert ("going on after epoch 12" in caplog.text) == told


def test_trials_and_what_has_no_epochs_say_nothing(tmp_path):
    quiet = contextlib.nullcontext
    job: Any = SimpleNamespace(config=PretrainConfig())
    assert isinstance(run_folder._told(job, tmp_path, lambda row: False), quiet)
    job = SimpleNamespace(config=AnglesTrainConfig())
    assert isinstance(run_folder._told(job, tmp_path, None), quiet)
