"""What a served model answers to wrong requests; that it answers rightly is in test_models.py."""

from __future__ import annotations

import pyarrow as pa
import pytest

from aqa_models.two_stage.config import ExpertConfig, SequenceConfig
from pipelines import fit
from pipelines.config import ExpertTrainConfig
from pipelines.errors import DataError
from pipelines.schema import CLIPS
from pipelines.scorer import Scorer, flat_row, without


@pytest.fixture(scope="module")
def scorer(waving, tmp_path_factory) -> Scorer:
    folder = tmp_path_factory.mktemp("scorer") / "run"
    config = ExpertTrainConfig(
        epochs=1,
        sequence=SequenceConfig(skeleton="c15"),
        encoder_units=6,
        encoder_layers=1,
        model=ExpertConfig(lstm_units=4),
    )
    clips, poses = waving
    fit.train_expert(clips, poses, config, folder, None, {})
    return Scorer(folder)


@pytest.fixture
def row(waving) -> dict:
    return flat_row(waving[0].to_pylist()[0], {"poses": waving[1].to_pylist()[0]})


def test_rows_and_tables_get_the_same_score(scorer, waving, row):
    wanted = scorer.score(waving[0].slice(0, 1), {"poses": waving[1]})
    assert scorer.score_rows([row]) == wanted
    assert wanted[0]["clip_id"] == waving[0]["clip_id"][0].as_py()
    assert scorer.score_rows([{**row, "clip_id": None}])[0]["clip_id"] == "row 0"


def test_wrong_requests_name_the_clip(scorer, row):
    with pytest.raises(DataError, match="has action type 'jump', the model knows wave"):
        scorer.score_rows([{**row, "action_type": "jump"}])
    with pytest.raises(DataError, match="poses say shape .* but hold 3 numbers"):
        scorer.score_rows([{**row, "poses.keypoints": [1.0, 2.0, 3.0]}])
    with pytest.raises(DataError, match="request: .*Give the columns of the signature"):
        scorer.score_rows([{**row, "poses.num_frames": "many"}])


def test_a_clip_without_its_poses_is_named(scorer, waving):
    with pytest.raises(DataError, match="lacks poses. Extract them first"):
        scorer.score(waving[0].slice(0, 2), {"poses": waving[1].slice(0, 1)})


def test_nobody_is_his_own_exemplar():
    rows = [dict.fromkeys(CLIPS.names) | {"clip_id": name, "uri": name} for name in "abc"]
    table = pa.Table.from_pylist(rows, schema=CLIPS)
    assert without(table, ["b", "x"])["clip_id"].to_pylist() == ["a", "c"]
