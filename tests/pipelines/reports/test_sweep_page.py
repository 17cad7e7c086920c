from __future__ import annotations

import json

import pytest
from test_run import plain

from pipelines.config import Config, ExpertTrainConfig, TuneConfig
from pipelines.reports.sweep import sweep_page
from pipelines.sweep.folder import Sweep
from pipelines.sweep.plan import write_sweep
from pipelines.sweep.space import Range

SPACE = (
    Range("expert.feature_dropout", "choice", (0.0, 0.3, 0.5)),
    Range("expert.optimizer.learning_rate", "log_uniform", (1e-4, 1e-2)),
)


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """Six trials: four finished, one stopped, one failed; trial 2 is the best."""
    config = Config(expert=ExpertTrainConfig(epochs=3), tune=TuneConfig(trials=6, searcher="random"))
    told = Sweep(tmp_path / "s<b>", "two-stage", config, SPACE, 2, None, {"store": "/store"})
    told.folder.mkdir()
    write_sweep(told)
    for number, loss in enumerate([0.5, 0.4, 0.1, 0.3, 0.9, 0.8]):
        told.start(number)
        folder, epochs = told.trial_folder(number), 1 if number == 4 else 3
        rows = [{"epoch": e, "val_loss": loss + 1 - e / 3, "seconds": 2.0} for e in range(epochs)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "config.json").write_text(json.dumps({"config": {"epochs": 3}}))
        if number == 5:
            (folder / "failed.json").write_text(json.dumps({"where": "clip <i>7", "cause": "is not finite"}))
        else:
            (folder / "summary.json").write_text(json.dumps({"summary": {"val_loss": rows[-1]["val_loss"]}}))
    return told


def test_the_page_of_a_sweep_names_the_best_and_what_failed(sweep) -> None:
    text = sweep_page(sweep.folder)
    told = plain(text)
    assert "best trial 2 trial-002" in told
    assert "1 failed, 4 finished, 1 stopped" in told
    assert "clip &lt;i&gt;7: is not finite" in told
    assert "<i>" not in text
    assert "Test clips never reached a trial" in told
    assert "aqa train expert --store /store" in told
    assert text.count("data:image/png") == 2  # parallel coordinates, importances
    assert "training of all trials, seconds 32 epochs of all trials 16" in told


def test_a_sweep_that_has_only_begun_has_a_page(sweep) -> None:
    import shutil

    shutil.rmtree(sweep.folder / "trials")
    told = plain(sweep_page(sweep.folder))
    assert "Some trials have not ended" in told
    assert "No trial has begun" in told
