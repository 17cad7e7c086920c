from __future__ import annotations

import pytest

from pipelines.config import ExperimentConfig
from pipelines.errors import ConfigError
from pipelines.experiments import material, stand_ins


def config(**changes) -> ExperimentConfig:
    return ExperimentConfig(**{"pretrain_on": ("nw_ucla",), **changes})


def test_published_splits_and_healthy_motion_without_the_third_camera(data):
    found = material.kimore(data, config())
    assert [sum(part == "test" for part in split.values()) for split in found.splits] == [3, 3]
    assert found.parts == ("Es1", "Es2")
    clips = found.split_clips(1)
    tested = {row["subject_id"] for row in clips.to_pylist() if row["split"] == "test"}
    assert tested == {"P2", "P3", "P7"}
    assert found.healthy is not None
    assert set(found.healthy[0]["group"].to_pylist()) == {"view_1", "view_2"}
    assert len(found.healthy[1]) == len(found.healthy[0]) == 16


def test_a_part_is_one_exercise_with_its_poses_alone(data):
    found = material.kimore(data, config(pretrain_on=("controls",)))
    clips, poses, features = found.of_part(found.split_clips(0), "Es2")
    assert set(clips["action_type"].to_pylist()) == {"Es2"}
    assert sorted(poses["clip_id"].to_pylist()) == sorted(clips["clip_id"].to_pylist())
    assert features is None
    assert found.healthy is None


def test_folds_and_leave_one_out(data):
    folds = material.kimore(data, config(splits="folds:3")).splits
    tested = [name for split in folds for name, part in split.items() if part == "test"]
    assert sorted(tested) == sorted(f"P{k}" for k in range(12))
    one_out = material.kimore(data, config(splits="leave_one_out", max_splits=2))
    assert [list(split.values()).count("test") for split in one_out.splits] == [1, 1]
    assert one_out.pooled


def test_recognition_learns_actions_from_two_cameras(data):
    found = material.recognition(data, {"expert.epochs": "3"})
    rows = found.split_clips(0).to_pylist()
    assert {row["subject_id"] for row in rows if row["split"] == "test"} == {
        f"s0{k} view_3" for k in range(1, 5)
    }
    assert {row["group"] for row in rows} == {"pick up with one hand", "pick up with two hands"}
    counts = [sum(row["split"] == part for row in rows) for part in ("train", "test")]
    assert counts == [16, 8]
    assert dict(found.settings) == {"expert.model.task": "classes", "expert.epochs": "3"}


def test_nothing_but_the_class_tells_the_action_to_be_recognised(data):
    """Inputs are standardised by action type, and the pretraining reads no class."""
    rows = material.recognition(data, {}).split_clips(0).to_pylist()
    assert {row["action_type"] for row in rows} == {None}
    assert {row["score"] for row in rows} == {None}


def test_identity_changes_with_data_exercises_and_splits_but_not_with_how_many(data):
    whole, first = (material.kimore(data, config(max_splits=k)).identity() for k in (0, 1))
    assert first.items() <= whole.items()
    assert len(whole) == len(first) + 1
    other = material.kimore(data, config(exercises=("Es1",))).identity()
    assert other["data.kimore"] != whole["data.kimore"]
    assert other["data.kimore.split-0"] == whole["data.kimore.split-0"]


def test_what_is_not_there_is_named(data, tmp_path):
    with pytest.raises(ConfigError, match="has no folder kimore"):
        material.kimore(tmp_path, config())
    with pytest.raises(ConfigError, match="has no folder utkinect"):
        material.kimore(data, config(pretrain_on=("utkinect",)))
    with pytest.raises(ConfigError, match="Name folders of DATA, or controls alone"):
        material.kimore(data, config(pretrain_on=("controls", "nw_ucla")))
    with pytest.raises(ConfigError, match="there is no exercise Es9"):
        material.kimore(data, config(exercises=("Es9",)))
    with pytest.raises(ConfigError, match="published are there of KIMORE alone"):
        stand_ins.infants(config(splits="published"))
    assert material.infants(tmp_path, config()) is None


def test_drawn_people_of_four_groups_are_marked_and_every_fold_tests_each():
    found = stand_ins.infants(config(quick=True, max_splits=4))
    assert stand_ins.MARK in found.title
    for number in range(4):
        rows = found.split_clips(number).to_pylist()
        assert {row["group"] for row in rows if row["split"] == "test"} == set(stand_ins._CLASSES)
    assert found.split_clips(0).num_rows == 20
