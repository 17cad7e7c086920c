"""Rows that see the video, on a store of scored video as a user would have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import experiment
from pipelines.config import ExperimentConfig
from pipelines.errors import ConfigError
from pipelines.experiments import material
from pipelines.schema import CLIPS, FEATURES, POSES, empty_row
from pipelines.store import open_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """12 people of KIMORE's names, one exercise: 2-D poses and features of eight windows."""
    draws = np.random.default_rng(5)
    clips, poses, features = [], [], []
    for person in range(12):
        name, common = f"P{person}_v", {"clip_id": f"P{person}_v", "person": 0, "status": "ok", "attempts": 1}
        told = {"action_type": "Es1", "score": 10.0 + 3 * person, "group": "Expert", "split": "train"}
        clips.append(
            empty_row(CLIPS, clip_id=name, uri=name, dataset="mine", subject_id=f"P{person}", **told)
        )
        xy = draws.normal(size=(30, 16, 2)).astype(np.float32)
        shape = {"num_frames": 30, "num_joints": 16, "num_coordinates": 2, "time_s": np.arange(30) / 10}
        poses.append(empty_row(POSES, skeleton="mpii16", unit="px", keypoints=xy.ravel(), **shape, **common))
        seen = (draws.normal(size=(8, 6)) + person).astype(np.float32)
        size = {"num_segments": 8, "num_channels": 6}
        features.append(empty_row(FEATURES, features=seen.ravel(), **size, **common))
    found = open_store(tmp_path / "store", create=True)
    found.put_clips(pa.Table.from_pylist(clips, schema=CLIPS))
    for family, rows, schema in (("poses", poses, POSES), ("features/c3d_fc6", features, FEATURES)):
        table = found.create(family, {"made": "by the test"})
        with table.writer() as writer:
            writer.commit([table.write_file(pa.Table.from_pylist(rows, schema=schema))])
    return found.path


def test_rows_with_video_run_on_the_published_splits_of_its_people(data, store, tmp_path):
    names = ("full", "only_expert", "c3d_as_expert")
    change = ("pretrain.model.encoder_units=4", "pretrain.model.decoder_units=4", "expert.epochs=2")
    config = ExperimentConfig(
        quick=True, max_splits=2, rows=names, exercises=("Es1",), pretrain_on=("controls",), change=change
    )
    document = experiment.run("table1", data, tmp_path / "out", config, store=store)
    skeletons, video = document["blocks"]
    assert [row["row"] for row in skeletons["rows"]] == ["floor_trees"]
    assert "2 published splits" in video["title"]
    assert "STAND-IN" not in video["title"]
    assert [row["row"] for row in video["rows"]] == [*names, "floor_trees"]
    full = next(row for row in video["rows"] if row["row"] == "full")
    assert full["paper"]["Es1"] == 0.7559
    assert full["splits"] == 2
    assert full["against_random"]["mae"]["of"] == 2


def test_people_of_another_data_set_get_folds(store, tmp_path):
    found = material.of_store(store, tmp_path / "nowhere.csv", ExperimentConfig())
    assert len(found.splits) == 5
    assert found.clips["split"].null_count == 12
    with pytest.raises(ConfigError, match="published are there of KIMORE alone"):
        material.of_store(store, tmp_path / "nowhere.csv", ExperimentConfig(splits="published"))
