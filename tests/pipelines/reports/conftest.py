"""A store of waving people with runs trained and tested on it, and the folder of a sweep."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines.config import Config, EvaluateConfig, ExpertTrainConfig, PretrainConfig, TuneConfig
from pipelines.sweep.folder import Sweep
from pipelines.sweep.plan import write_sweep
from pipelines.sweep.space import Range

sys.path.insert(0, str(Path(__file__).parent))

SEQUENCE = SequenceConfig(skeleton="c15")
SIZES = NonExpertConfig(encoder_units=6, decoder_units=6, pace_units=6, discriminator_units=4)
CONFIG = Config(
    pretrain=PretrainConfig(epochs=2, sequence=SEQUENCE, model=SIZES),
    expert=ExpertTrainConfig(epochs=2, sequence=SEQUENCE, model=ExpertConfig(lstm_units=4)),
    evaluate=EvaluateConfig(bootstrap=100),
)


@dataclass(frozen=True)
class Made:
    """Folders of a store and of runs on it."""

    store: Path
    pretrain: Path
    expert: Path


@pytest.fixture(scope="session")
def made(waving, tmp_path_factory) -> Made:
    from pipelines import fit
    from pipelines.evaluate import evaluate_tables
    from pipelines.store import open_store, snapshot

    folder = tmp_path_factory.mktemp("made")
    opened = open_store(folder / "store", create=True)
    opened.put_clips(waving[0])
    table = opened.create_poses({"made by": "test"})
    with table.writer() as writer:
        writer.commit([table.write_file(waving[1])])
    clips, poses, told = snapshot(folder / "store")
    fit.pretrain(clips, poses, CONFIG.pretrain, folder / "base", told)
    fit.train_expert(clips, poses, CONFIG.expert, folder / "expert", folder / "base", told)
    evaluate_tables(folder / "expert", clips, poses, CONFIG.evaluate)
    return Made(folder / "store", folder / "base", folder / "expert")


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
