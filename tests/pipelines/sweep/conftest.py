from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.config import Config, ExpertTrainConfig, TuneConfig
from pipelines.sweep.folder import Sweep
from pipelines.sweep.plan import write_sweep
from pipelines.sweep.space import Range

SPACE = (
    Range("expert.feature_dropout", "choice", (0.0, 0.3, 0.5)),
    Range("expert.optimizer.learning_rate", "log_uniform", (1e-4, 1e-2)),
)


@pytest.fixture
def begun(tmp_path) -> Callable[..., Sweep]:
    """Makes a sweep folder of 9 epochs per trial; its trials are written by `trained`."""

    def begin(lag: int = 2, **tune) -> Sweep:
        config = Config(
            expert=ExpertTrainConfig(epochs=9), tune=TuneConfig.model_validate({"trials": 6} | tune)
        )
        sweep = Sweep(tmp_path / "s", "two-stage", config, SPACE, lag, None, {"store": "/store"})
        sweep.folder.mkdir()
        write_sweep(sweep)
        return sweep

    return begin


@pytest.fixture
def trained() -> Callable[..., None]:
    """Writes what a training leaves: losses of its epochs, and a summary if it has come to its end."""

    def write(sweep: Sweep, number: int, losses: list[float], *, done: bool = True) -> None:
        sweep.start(number)
        folder: Path = sweep.trial_folder(number)
        rows = [
            {"epoch": epoch, "val_loss": loss, "val_mae": 10 * loss, "seconds": 2.0}
            for epoch, loss in enumerate(losses)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "config.json").write_text(json.dumps({"config": {"epochs": 9}}))
        if done:
            best = min(rows, key=lambda row: row["val_loss"])
            summary = {"val_loss": best["val_loss"], "val_mae": best["val_mae"]}
            (folder / "summary.json").write_text(json.dumps({"summary": summary}))

    return write
