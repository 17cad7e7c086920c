"""A small HP-MCoRe model that learned from the poses of rendered dives; for the slow tests of scoring."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from aqa_models.hp_mcore.config import HpMcoreConfig
from pipelines import evaluate, train
from pipelines.config import Config, EvaluateConfig, HpMcoreTrainConfig, OptimizerConfig
from pipelines.datasets.manifest import read_manifest
from pipelines.kinds import find_work_of
from pipelines.rendered.dataset import render_dataset
from pipelines.scoring.extraction import Extractor
from pipelines.scoring.settings import works_of
from pipelines.store import open_store

MODEL = HpMcoreConfig(
    use_dynamic=False,
    use_static=False,
    transitions="predicted",
    segmentation_input="all",
    steps_per_procedure=2,
    decoder_layers=1,
    slices="disjoint",
    decoding="ordered",
    antisymmetric=True,
    standardise=True,
    score_scale=10.0,
    pose_stride=4,
)


def make_diver(folder: Path) -> None:
    """Writes FOLDER/data, FOLDER/store and FOLDER/runs/dives, evaluated and with its bundle."""
    clips = read_manifest(render_dataset(folder / "data", exercises=0, subjects=8, dives=12, seed=3))
    config = Config().extract.model_copy(update={"sampling": "uniform:96"})
    store = open_store(folder / "store", create=True)
    store.put_clips(clips)
    table = store.create_poses(find_work_of(config).spec)
    detection, work = works_of(config)
    with Extractor(detection, {"poses": work}, 60, False) as extractor:
        rows = [extractor.extract(clips.slice(row, 1)).rows["poses"] for row in range(len(clips))]
    with table.writer() as writer:
        writer.commit([table.write_file(pa.concat_tables(rows))])
    settings = Config(
        hp_mcore=HpMcoreTrainConfig(
            epochs=2,
            batch_size=4,
            num_exemplars=3,
            exemplars="any",
            model=MODEL,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant"),
        ),
        evaluate=EvaluateConfig(bootstrap=100),
    )
    train.hp_mcore(folder / "store", "dives", settings, runs=folder / "runs")
    evaluate.evaluate(folder / "runs" / "dives", folder / "store", settings)
