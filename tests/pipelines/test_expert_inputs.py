"""What the expert reads: features of the video from store to score, mirror images, action types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from aqa_models.skeletons import flip_sides
from aqa_models.two_stage.config import ExpertConfig, SequenceConfig
from aqa_models.two_stage.inputs import measure_scale
from pipelines import cli, fit, tracking, train
from pipelines.checkpoint import load_bundle
from pipelines.config import Config, EvaluateConfig, ExpertTrainConfig, OptimizerConfig
from pipelines.errors import ConfigError, DataError
from pipelines.evaluate import evaluate, evaluate_tables
from pipelines.expert_inputs import read_inputs
from pipelines.motion import load_motions, make_sequences
from pipelines.store import open_store

SEQUENCE = SequenceConfig(skeleton="c15")


def scoring(appearance: str = "modules", **changes) -> ExpertTrainConfig:
    model = ExpertConfig(appearance=appearance, lstm_units=4, branch_channels=4)
    settings = {"epochs": 1, "batch_size": 8, "sequence": SEQUENCE, "model": model, "checkpoint_every": 99}
    small = {"encoder_units": 4, "encoder_layers": 1, "feature_kind": "i3d"}
    return ExpertTrainConfig(**settings | small | changes)


def whole(expert: ExpertTrainConfig) -> Config:
    return Config(expert=expert, evaluate=EvaluateConfig(bootstrap=100))


def put(path: Path, family: str, rows: pa.Table, name: str = "test") -> str:
    table = open_store(path).create(family, {"made by": name})
    with table.writer() as writer:
        writer.commit([table.write_file(rows)])
    return table.path.name


@pytest.fixture
def store(waving_tables, tmp_path, monkeypatch) -> Path:
    """Clips and poses; runs are not tracked, to be quick (test_train.py tracks)."""
    track = tracking.track
    monkeypatch.setattr(tracking, "track", lambda config, *about: track(None, *about))
    path = tmp_path / "store"
    open_store(path, create=True).put_clips(waving_tables[0])
    put(path, "poses", waving_tables[1])
    return path


def other_numbers(features: pa.Table, change, **shape: int) -> pa.Table:
    rows = [{**row, **shape, "features": change(np.array(row["features"]))} for row in features.to_pylist()]
    return pa.Table.from_pylist(rows, schema=features.schema)


def test_features_of_the_store_reach_the_score(store, waving_tables, waving_features, tmp_path):
    key = put(store, "features/i3d", waving_features)
    rate = OptimizerConfig(learning_rate=2e-2)
    config = whole(scoring(epochs=30, optimizer=rate))
    summary = train.expert(store, "run", None, config, runs=tmp_path / "runs")
    assert summary["val_loss"] < 0.6  # 1 = variance of the training scores; the encoder is random
    _, told = load_bundle(tmp_path / "runs" / "run", "expert")
    assert (told["feature_kind"], told["feature_channels"]) == ("i3d", 6)
    assert told["provenance"]["i3d_key"] == key
    named = whole(scoring(epochs=30, optimizer=rate, features=key))
    assert train.expert(store, "run", None, named, runs=tmp_path / "runs")["resumed"]  # the same table
    put(store, "features/i3d", waving_features, "another network")  # the run knows its key
    found = evaluate(tmp_path / "runs" / "run", store, config)
    assert (found["n"], found["stored"]) == (8, False)
    assert found["mae"]["value"] < found["median_floor"]["mae"]
    predictions = tmp_path / "runs" / "run" / "predictions.parquet"
    before = pq.read_table(predictions)["predicted"].to_numpy()
    clips, poses = waving_tables
    other = other_numbers(waving_features, lambda numbers: -numbers)
    changed = evaluate_tables(tmp_path / "runs" / "run", clips, poses, config.evaluate, other)
    assert not changed["stored"]
    assert (np.abs(pq.read_table(predictions)["predicted"].to_numpy() - before) > 1).all()


def test_missing_and_ambiguous_tables_name_the_flag_of_the_verb(
    store, waving_features, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    call = ["train", "expert", "--store", str(store), "--name", "run", "--dry-run"]
    call += ["--model.appearance", "modules", "--feature-kind", "i3d"]
    assert cli.main(call) == 3
    said = capsys.readouterr().err
    assert "the store holds no features/i3d. Run `aqa extract --kind i3d` first" in said
    keys = [put(store, "features/i3d", waving_features, name) for name in ("one", "two")]
    for key in ((), ("--features", "nobody")):
        assert cli.main([*call, *key]) == 3
        said = capsys.readouterr().err
        assert f"it holds the features/i3d tables {', '.join(keys)}" in said
        assert "Choose one with --features KEY" in said
    assert cli.main([*call, "--features", keys[1]]) == 0  # the flag exists
    assert keys[1] in capsys.readouterr().out


def test_clips_without_features_are_left_out_and_none_left_is_an_error(
    waving_tables, waving_features, tmp_path
):
    config = scoring(feature_kind="c3d_fc6")
    summary = fit.train_expert(
        *waving_tables, config, tmp_path / "few", None, {}, features=waving_features.slice(2)
    )
    assert (summary["train_clips"], summary["val_clips"]) == (14, 4)
    test_only = waving_features.slice(20)
    needed = (
        "no training clip has a score, a pose, video features. Fill the clips table, or name the table of "
        "its poses with --poses KEY; run `aqa extract --kind c3d_fc6`, or name the table of their "
        "features with --features KEY"
    )
    with pytest.raises(DataError, match=needed):
        fit.train_expert(*waving_tables, config, tmp_path / "none", None, {}, features=test_only)


def test_features_and_settings_that_contradict_each_other_are_refused(
    waving_tables, waving_features, tmp_path
):
    unread = "expert.features: are given, but the expert has no appearance stream. Leave --features out"
    with pytest.raises(ConfigError, match=unread):
        fit.train_expert(*waving_tables, scoring("none"), tmp_path, None, {}, features=waving_features)
    with pytest.raises(ConfigError, match=unread):
        fit.train_expert(*waving_tables, scoring("none", features="abc"), tmp_path, None, {})
    absent = (
        "expert.model.appearance: is pooled, but no features of the video are given. "
        r"Run `aqa extract --kind i3d` and give its table \(--features KEY\)"
    )
    with pytest.raises(ConfigError, match=absent):
        fit.train_expert(*waving_tables, scoring("pooled"), tmp_path, None, {})


def test_features_of_another_network_or_too_few_of_them_are_refused(waving_tables, waving_features, tmp_path):
    fit.train_expert(*waving_tables, scoring(), tmp_path / "run", None, {}, features=waving_features)
    config = EvaluateConfig(bootstrap=100)
    five = other_numbers(waving_features, lambda numbers: numbers[: len(numbers) // 6 * 5], num_channels=5)
    with pytest.raises(
        DataError, match="clip P10_0: has features of 5 channels, the model was trained on 6. Give features"
    ):
        evaluate_tables(tmp_path / "run", *waving_tables, config, five)
    nothing = "clip P10_0: has no features of the video, .*Run `aqa extract --kind i3d`, and .*--features KEY"
    with pytest.raises(DataError, match=nothing):
        evaluate_tables(tmp_path / "run", *waving_tables, config)
    short = other_numbers(waving_features, lambda numbers: numbers[:18], num_segments=3)
    with pytest.raises(
        DataError,
        match="clip P00_0: has 3 segments of video features, the appearance stream needs 4. Give a longer "
        "clip, take it out, or train with --model.appearance pooled",
    ):
        fit.train_expert(*waving_tables, scoring(), tmp_path / "short", None, {}, features=short)
    fit.train_expert(*waving_tables, scoring("pooled"), tmp_path / "pooled", None, {}, features=short)
    mixed = pa.concat_tables([waving_features.slice(0, 3), five.slice(3)])
    with pytest.raises(
        DataError, match="clip P01_1: has features of 5 channels, clip P00_0 of 6. Extract all"
    ):
        fit.train_expert(*waving_tables, scoring(), tmp_path / "mixed", None, {}, features=mixed)
    torn = other_numbers(waving_features, lambda numbers: numbers[1:])
    with pytest.raises(DataError, match=r"clip P00_0: features say shape \(\d, 6\) but hold \d+ numbers"):
        fit.train_expert(*waving_tables, scoring(), tmp_path / "torn", None, {}, features=torn)


@pytest.mark.parametrize("inputs", ["xyz", "angles", "both"])
def test_the_second_view_is_what_mirrored_keypoints_would_give(waving_tables, inputs):
    motions = load_motions(*waving_tables)[:4]
    config = SequenceConfig(skeleton="c15", inputs=inputs)
    sequences = make_sequences(motions, config)
    description = {
        "sequence": vars(config),
        "mirror": True,
        "scale": {} if inputs == "xyz" else measure_scale(sequences, ["wave"] * 4),
        "actions": ["hop", "wave"],
        "model": {"appearance": "none"},
    }
    found = read_inputs(motions, sequences, description, torch.device("cpu"))
    turned = [replace(motion, keypoints=flip_sides(motion.keypoints, "c15")) for motion in motions]
    theirs = read_inputs(turned, make_sequences(turned, config), description, torch.device("cpu"))
    assert found.actions.tolist() == [1] * 4
    assert found.video_batch([0, 1]) is None
    for ours, wanted, plain in zip(found.views[1], theirs.views[0], found.views[0], strict=True):
        torch.testing.assert_close(ours, wanted, atol=2e-3, rtol=1e-3)
        assert (ours - plain).abs().max() > 0.1
    odd = [replace(motions[0], action_type="jump")]
    with pytest.raises(
        DataError, match=r"clip P00_0: has action type 'jump', but training had \['hop', 'wave'"
    ):
        read_inputs(odd, sequences[:1], description, torch.device("cpu"))
