"""A store of waving people, and runs trained and tested on it: a pretraining and an expert."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines.config import Config, EvaluateConfig, ExpertTrainConfig, PretrainConfig

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
