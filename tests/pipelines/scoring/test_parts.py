"""What each part adds: hand-worked games, and the same scores as an evaluation."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from aqa_models.two_stage.config import ExpertConfig, SequenceConfig
from pipelines import fit
from pipelines.checkpoint import load_bundle
from pipelines.config import EvaluateConfig, ExpertTrainConfig, OptimizerConfig
from pipelines.errors import ConfigError
from pipelines.evaluate import evaluate_tables
from pipelines.scorer import write_tables
from pipelines.scoring.extraction import Recording
from pipelines.scoring.refusal import Refused
from pipelines.scoring.training import Training
from pipelines.scoring.two_stage import action_of, score, shapley
from pipelines.store import open_store

sys.path.insert(0, str(Path(__file__).parents[1] / "hp_mcore"))
CONFIG = EvaluateConfig(bootstrap=100)


def test_shares_of_a_game_worked_by_hand():
    # Worth of nothing, A, B, AB, C, AC, BC, ABC: the glove game (A has a left, B and C right gloves).
    glove = np.array([0, 0, 0, 1, 0, 1, 0, 1.0])
    assert shapley(glove) == pytest.approx([4 / 6, 1 / 6, 1 / 6])
    additive = np.array([5, 7, 2, 4.0])  # A adds 2, B takes 3 away
    assert shapley(additive) == pytest.approx([2, -3])


def test_shares_add_up_and_refuse_a_half_told_game():
    worth = np.random.default_rng(3).normal(size=16)
    assert shapley(worth).sum() == pytest.approx(worth[-1] - worth[0])
    with pytest.raises(ValueError, match="every choice of parts"):
        shapley(worth[:7])


def flat(poses: pa.Table) -> pa.Table:
    """The same poses seen from the front, in two dimensions."""
    rows = []
    for row in poses.to_pylist():
        xyz = np.asarray(row["keypoints"], np.float32).reshape(-1, 15, 3)
        rows.append({**row, "keypoints": xyz[..., :2].ravel(), "num_coordinates": 2})
    return pa.Table.from_pylist(rows, schema=poses.schema)


def recording(clips: pa.Table, streams: dict[str, pa.Table], name: str) -> Recording:
    def of(table: pa.Table) -> pa.Table:
        return table.filter(pc.equal(table["clip_id"], name))

    return Recording(of(clips), {family: of(table) for family, table in streams.items()})


def test_an_expert_scores_as_the_evaluation_does_and_its_parts_add_up(waving_tables, tmp_path):
    clips, poses = waving_tables[0], flat(waving_tables[1])
    config = ExpertTrainConfig(
        epochs=3,
        batch_size=8,
        sequence=SequenceConfig(skeleton="c15"),
        model=ExpertConfig(lstm_units=6, finetune_encoder=True),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        encoder_units=6,
    )
    fit.train_expert(clips, poses, config, tmp_path / "run", None, {})
    evaluate_tables(tmp_path / "run", clips, poses, CONFIG)
    tensors, description = load_bundle(tmp_path / "run", "expert")
    rows = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    assert len(rows) == 8
    for row in rows[:3]:
        verdict = score(recording(clips, {"poses": poses}, row["clip_id"]), tensors, description)
        assert verdict.score == pytest.approx(row["predicted"], abs=1e-5)
        assert verdict.base + sum(part.delta for part in verdict.parts) == pytest.approx(verdict.score)
        assert verdict.parts[0].start_s == 0
        assert all(a.end_s == b.start_s for a, b in zip(verdict.parts, verdict.parts[1:], strict=False))
    with pytest.raises(Refused, match=r"shows 3-D poses, and the model learned from 2-D ones"):
        score(recording(clips, {"poses": waving_tables[1]}, "P10_0"), tensors, description)


def test_the_action_type_is_asked_for_where_there_are_several():
    one, two = {"targets": {"Es1": {}}}, {"targets": {"Es1": {}, "Es2": {}}}
    assert action_of(one, "") == "Es1"
    assert action_of(two, "Es2") == "Es2"
    with pytest.raises(ConfigError, match="knows several action types. Give one of: Es1, Es2"):
        action_of(two, "")
    with pytest.raises(ConfigError, match="'Es9' is not known to this model"):
        action_of(two, "Es9")


@pytest.fixture(scope="module")
def dives(tmp_path_factory):
    """A run of HP-MCoRe that reads poses only, evaluated, with the store it learned from."""
    from made_dives import SEGMENTING, make_tables, settings

    from pipelines.hp_mcore.evaluate import evaluate_tables as evaluate_dives
    from pipelines.hp_mcore.fit import fit as fit_dives

    folder = tmp_path_factory.mktemp("dives")
    clips, streams = make_tables(train=3, val=1, test=2, streams=("keypoints",))
    store = open_store(folder / "store", create=True)
    store.put_clips(clips)
    table = store.create("poses", {"made": "keypoints"})
    with table.writer() as writer:
        writer.commit([table.write_file(streams["keypoints"])])
    told = {"store": str(folder / "store"), "clips_version": store.clips.version()}
    told |= {"poses_key": store.pose_keys()[0], "poses_version": table.version()}
    model = replace(SEGMENTING, use_pose=True, use_static=False, segmentation_input="all", pose_stride=4)
    config = settings(model, epochs=1, by_difficulty=True, num_exemplars=2)
    fit_dives(clips, streams, config, folder / "run", told)
    evaluate_dives(folder / "run", clips, streams, CONFIG)
    return folder, clips, streams


def test_a_dive_scores_as_the_evaluation_does_and_its_procedures_add_up(dives):
    from pipelines.scoring import dive

    folder, clips, streams = dives
    tensors, description = load_bundle(folder / "run", "hp_mcore")
    bank = dive.Bank(description, Training(description))
    scores = {row["clip_id"]: row["score"] for row in clips.to_pylist()}
    for row in pq.read_table(folder / "run" / "predictions.parquet").to_pylist()[:3]:
        filmed = recording(clips, {"poses": streams["keypoints"]}, row["clip_id"])
        verdict = dive.score(filmed, tensors, description, bank, "auto")
        assert verdict.score == pytest.approx(row["predicted"], abs=1e-5)
        assert sorted(one.clip_id for one in verdict.exemplars) == sorted(row["exemplar_ids"])
        assert all(one.score == scores[one.clip_id] for one in verdict.exemplars)
        assert [part.delta for part in verdict.parts] == pytest.approx(
            [points for points in row["contributions"] if points], abs=1e-5
        )
        assert verdict.base + sum(part.delta for part in verdict.parts) == pytest.approx(verdict.score)
        # Same difficulty as its exemplars: what the base says is their mean score.
        assert verdict.base == pytest.approx(np.mean([one.score for one in verdict.exemplars]), abs=1e-3)
        assert verdict.parts[0].start_s == 0
        assert verdict.parts[-1].end_s == pytest.approx(96 / 25, abs=0.05)
        told = dive.explain(filmed, verdict, bank)
        assert told.shown is not None
        assert told.shown.score == max(one.score for one in verdict.exemplars)
        assert told.facts["lost_most"] == min(verdict.parts, key=lambda part: part.delta).name
        assert len(told.curves) == 8


def test_an_exemplar_can_be_named(dives):
    from pipelines.scoring import dive

    folder, clips, streams = dives
    tensors, description = load_bundle(folder / "run", "hp_mcore")
    bank = dive.Bank(description, Training(description))
    name, row = next(iter(bank.rows.items()))
    query = next(one for one in clips.to_pylist() if one["split"] == "test")
    verdict = dive.score(
        recording(clips, {"poses": streams["keypoints"]}, query["clip_id"]), tensors, description, bank, name
    )
    assert [one.clip_id for one in verdict.exemplars] == [name]
    assert verdict.low is None
    asked = {"clip_id": "mine", "action_type": None, "difficulty": None}
    known = {"action_type": row["action_type"], "difficulty": row["difficulty"]}
    assert bank.complete(asked, name) == asked | known
    with pytest.raises(ConfigError, match="'nobody' is no scored dive of the training. Give auto, or one of"):
        bank.complete(asked, "nobody")
    with pytest.raises(ConfigError, match="is needed to find dives of the same kind. Give the dive number"):
        bank.complete(asked, "auto")
    with pytest.raises(ConfigError, match="the training holds none of dive number 999z"):
        bank.complete(asked | {"action_type": "999z"}, "auto")


def test_without_its_store_a_dive_model_says_where_the_exemplars_are(dives, tmp_path):
    from pipelines.scoring import dive

    _, description = load_bundle(dives[0] / "run", "hp_mcore")
    moved = description | {"provenance": description["provenance"] | {"store": str(tmp_path / "gone")}}
    with pytest.raises(ConfigError, match=r"gone: holds the dives .* is not there. Give the store"):
        dive.Bank(moved, Training(moved))
    kept = tmp_path / "artifacts"
    write_tables(kept / "bank", {"clips": dives[1], "poses": dives[2]["keypoints"]})
    (kept / "preprocessing.json").write_text('{"poses": {"key": "x", "spec": {"sampling": "uniform:96"}}}')
    bundled = Training(moved, kept=kept)
    assert (bundled.available, bundled.spec("poses")) == (False, {"sampling": "uniform:96"})
    tensors, _ = load_bundle(dives[0] / "run", "hp_mcore")
    row = pq.read_table(dives[0] / "run" / "predictions.parquet").to_pylist()[0]
    filmed = recording(dives[1], {"poses": dives[2]["keypoints"]}, row["clip_id"])
    verdict = dive.score(filmed, tensors, moved, dive.Bank(moved, bundled, kept), "auto")
    assert verdict.score == pytest.approx(row["predicted"], abs=1e-5)
    again = Training(moved, dives[0] / "store")
    assert again.available
    assert dive.Bank(moved, again).rows
