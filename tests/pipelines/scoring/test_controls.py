"""Whom a movement is held against."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.scoring.controls import controls_of
from pipelines.scoring.inpainting import Pretrained
from pipelines.scoring.training import Training
from pipelines.store import open_store


@pytest.fixture
def known(waving, tmp_path) -> tuple[dict, Training, pa.Table]:
    """A store of 14 people with two clips each, every other one a control; 10 of them were learned from."""
    clips, poses = waving
    store = open_store(tmp_path / "store", create=True)
    store.put_clips(clips)
    table = store.create("poses", {"made": "waves"})
    with table.writer() as writer:
        writer.commit([table.write_file(poses)])
    told = {"store": str(tmp_path / "store"), "clips_version": store.clips.version()}
    told |= {"poses_key": store.pose_keys()[0], "poses_version": table.version()}
    description = {"provenance": told, "subjects": [f"waves/P{k:02d}" for k in range(10)]}
    return description, Training(description), clips


def people(controls) -> list[str]:
    return sorted({motion.subject_id for motion in controls.motions})


def test_people_of_the_control_group_but_never_the_one_who_is_explained(known):
    description, training, _ = known
    found = controls_of(description, training, None, "wave", without="P01_0")
    assert people(found) == ["P01", "P03", "P05", "P07", "P09"]
    assert len(found.motions) == 9
    assert found.words == "training people of the group control"
    other = controls_of(description, training, None, "squat")
    assert other.motions == ()
    assert other.words.startswith("only 0 training clips of squat are of healthy people")


def test_without_a_control_group_the_pretraining_or_the_best_scores_tell(known, tmp_path):
    description, training, clips = known
    store = open_store(tmp_path / "store")
    rows = [{**row, "group": "patient"} for row in clips.to_pylist()]
    store.put_clips(pa.Table.from_pylist(rows, schema=clips.schema))
    now = {**description, "provenance": description["provenance"] | {"clips_version": store.clips.version()}}
    training = Training(now)
    network = Pretrained(Path("base"), {}, {"subjects": ["waves/P02", "waves/P04", "waves/P12"]})
    learned = controls_of(now, training, network, "wave")
    assert (people(learned), learned.words) == (["P02", "P04"], "people of the pretraining")
    best = controls_of(now, training, None, "wave")
    assert best.words == "the third of the training clips with the best scores"
    mine = [row for row in rows if row["subject_id"] < "P10"]
    top = sorted(mine, key=lambda row: -row["score"])[:7]
    assert {motion.clip_id for motion in best.motions} == {row["clip_id"] for row in top}


def test_a_store_that_is_gone_is_named(known, tmp_path):
    description, _, _ = known
    gone = {**description, "provenance": description["provenance"] | {"store": str(tmp_path / "gone")}}
    found = controls_of(gone, Training(gone), None, "wave")
    assert found.motions == ()
    assert found.words == f"the store of the training ({tmp_path / 'gone'}) is not there"
