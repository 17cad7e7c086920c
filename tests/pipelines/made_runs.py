"""Settings of small experts, and what two equal runs share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from aqa_models.two_stage.config import ExpertConfig, SequenceConfig
from pipelines import loop
from pipelines.config import ExpertTrainConfig

SEQUENCE = SequenceConfig(skeleton="c15")
RICH = {  # everything at once that a checkpoint must bring back
    "members": 2,
    "averaging": 0.5,
    "mirror": True,
    "ranking_weight": 1.0,
    "loss": "huber",
    "input_dropout": 0.2,
    "sequence": SequenceConfig(skeleton="c15", inputs="angles"),
    "model": ExpertConfig(head="linear", pooling="mean_max", finetune_encoder=True, actions="embedding"),
}


def scoring(**changes) -> ExpertTrainConfig:
    settings = {"epochs": 5, "batch_size": 8, "sequence": SEQUENCE, "checkpoint_every": 2}
    small = {"encoder_units": 4, "encoder_layers": 1, "model": ExpertConfig(lstm_units=4)}
    return ExpertTrainConfig(**settings | small | changes)


def rows(run_dir: Path) -> list[dict]:
    found = loop.read_metrics(run_dir / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def weights(run_dir: Path) -> dict[str, np.ndarray]:
    return load_file(run_dir / "model" / "model.safetensors")


def assert_same_run(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
