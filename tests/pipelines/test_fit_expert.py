"""Training experts from tables: presets, resuming, pretrained encoders, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_runs import RICH, SEQUENCE, assert_same_run, rows, scoring, weights

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines import fit, loop
from pipelines.checkpoint import load_bundle
from pipelines.config import TRAIN_PRESETS, EvaluateConfig, PretrainConfig
from pipelines.errors import ConfigError, DataError
from pipelines.evaluate import evaluate_tables
from pipelines.motion import load_motions
from pipelines.pretrain_phase import PretrainPhase
from pipelines.settings import load_config

SIZES = NonExpertConfig(
    encoder_units=4, decoder_units=4, pace_units=4, discriminator_units=4, encoder_layers=1, decoder_layers=1
)


def with_values(table: pa.Table, column: str, change) -> pa.Table:
    changed = [{**row, column: change(row)} for row in table.to_pylist()]
    return pa.Table.from_pylist(changed, schema=table.schema)


def without_val(clips: pa.Table) -> pa.Table:
    return with_values(clips, "split", lambda row: "train" if row["split"] == "val" else row["split"])


SMALL = {
    "expert.epochs": "1",
    "expert.sequence.skeleton": "c15",
    "expert.batch_size": "8",
    "expert.encoder_units": "4",
    "expert.encoder_layers": "1",
    "expert.model.lstm_units": "4",
    "expert.model.branch_channels": "4",
}


@pytest.mark.parametrize("preset", TRAIN_PRESETS["expert"])
def test_every_preset_trains_and_is_what_its_name_says(preset, waving_tables, waving_features, tmp_path):
    config = load_config(flags={**SMALL, "expert.preset": preset}).expert
    clips = without_val(waving_tables[0]) if config.members > 1 else waving_tables[0]
    tables, pretrained = (clips, waving_tables[1]), None
    if preset in ("nonexpert_U", "nonexpert_US", "best"):
        flags = {"preset": "best" if preset == "best" else "paper", "epochs": "1", "sequence.skeleton": "c15"}
        sizes = [f"model.{name}" for name in ("decoder_units", "pace_units", "discriminator_units")]
        flags |= dict.fromkeys([*sizes, "model.encoder_units"], "4")
        base = load_config(flags={f"pretrain.{name}": value for name, value in flags.items()}).pretrain
        pretrained = tmp_path / "base"
        fit.pretrain(*tables, base, pretrained, {})
    reads_video = preset in ("full", "c3d_as_expert", "only_expert")
    features = waving_features if reads_video else None
    summary = fit.train_expert(*tables, config, tmp_path / "run", pretrained, {}, features=features)
    assert np.isfinite(summary["val_loss"])
    assert (summary["val_clips"], summary["train_clips"]) == ((20, 20) if preset == "best" else (4, 16))
    kept, told = load_bundle(tmp_path / "run", "expert")
    assert told["members"] == (5 if preset == "best" else 1)
    assert told["feature_channels"] == (6 if reads_video else 0)
    assert any("head.pose.lstm" in name for name in kept) == (
        preset in ("skeleton_only", "full", "c3d_as_expert", "only_expert")
    )
    assert any("branches" in name for name in kept) == (preset in ("full", "only_expert"))
    if pretrained:
        given = load_bundle(pretrained, "nonexpert")[0]
        names = [name for name in given if name.startswith("encoder.")]
        stays = all(torch.equal(given[name], kept[f"experts.0.{name}"]) for name in names)
        assert names
        assert stays == (preset not in ("nonexpert_US", "best"))
    found = evaluate_tables(tmp_path / "run", *tables, EvaluateConfig(bootstrap=100), features)
    assert found["n"] == 8


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"sequence.inputs": "angles", "sequence.scaling": "axis"},
            "inputs angles need one scale for all axes",
        ),
        (
            {"sequence.inputs": "both", "sequence.time_policy": "stretch"},
            "inputs both need time_policy fixed_rate, not stretch",
        ),
        ({"preset": "best", "sequence.time_policy": "stride_k"}, "inputs angles need time_policy fixed_rate"),
    ],
)
@pytest.mark.parametrize("section", ["pretrain", "expert"])
def test_inputs_that_do_not_fit_the_sequence_are_refused(section, settings, text):
    with pytest.raises(ConfigError, match=text) as caught:
        load_config(flags={f"{section}.{name}": value for name, value in settings.items()})
    assert "flag --sequence." in str(caught.value)


@pytest.mark.parametrize("option", ["encoder_projection", "pad_literal"])
def test_a_convolution_network_has_no_projection_and_reads_no_padding(option):
    flags = {"pretrain.model.encoder_kind": "tcn", f"pretrain.model.{option}": "true"}
    with pytest.raises(ConfigError, match="tcn has neither encoder_projection nor pad_literal"):
        load_config(flags=flags)


class Stop(Exception):
    pass


def test_a_resumed_rich_run_equals_an_uninterrupted_one(waving_tables, tmp_path, monkeypatch):
    tables = without_val(waving_tables[0]), waving_tables[1]

    def train(name: str) -> dict:
        return fit.train_expert(
            *tables, scoring(**RICH, epochs=3, checkpoint_every=1), tmp_path / name, None, {}
        )

    train("whole")
    real, done = loop.train_epoch, []

    def stopping(*arguments):
        if len(done) == 2:
            raise Stop
        done.append(1)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", stopping)
        with pytest.raises(Stop):
            train("broken")
    assert train("broken")["resumed"]
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    kept = weights(tmp_path / "whole")
    heads = [kept[f"{kind}.0.head.out.linear.weight"] for kind in ("experts", "averages")]
    assert not np.array_equal(*heads)
    assert not np.array_equal(heads[0], kept["experts.1.head.out.linear.weight"])


_SCRIPT = """
import sys, torch, pyarrow.parquet as pq
from pathlib import Path
from pipelines import fit
from pipelines.config import ExpertTrainConfig
torch.set_num_threads(1)
folder = Path(sys.argv[1])
config = ExpertTrainConfig.model_validate_json((folder / "config.json").read_text())
tables = [pq.read_table(folder / f"{name}.parquet") for name in ("clips", "poses")]
fit.train_expert(*tables, config, folder / sys.argv[2], None, {})
"""


@pytest.mark.slow
def test_a_killed_rich_run_is_resumed_bit_by_bit(waving_tables, tmp_path):
    (tmp_path / "config.json").write_text(scoring(**RICH, epochs=40).model_dump_json())
    for name, table in (("clips", without_val(waving_tables[0])), ("poses", waving_tables[1])):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    here = {**os.environ, "PYTHONPATH": str(Path(fit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    subprocess.run([*call, "whole"], env=here, check=True, capture_output=True)
    process = subprocess.Popen([*call, "killed"], env=here, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while len(loop.read_metrics(metrics)) < 9 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 9 <= len(rows(tmp_path / "killed")) < 40
    subprocess.run([*call, "killed"], env=here, check=True, capture_output=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("inputs", ["angles", "both"])
def test_pretraining_on_angles_validates_and_an_expert_reads_it(waving_tables, tmp_path, inputs):
    sequence = SequenceConfig(skeleton="c15", inputs=inputs)
    config = PretrainConfig(epochs=1, batch_size=8, sequence=sequence, model=SIZES)
    summary = fit.pretrain(*waving_tables, config, tmp_path / "base", {})
    limb = {name for name in summary if name.startswith("val_limb_error")}
    # Of standardised angles zero is the mean pose; and mirroring them is no exchange of columns.
    assert limb == {"val_limb_error", "val_limb_error_of_zero"}
    assert all(np.isfinite(value) for name, value in summary.items() if name.startswith("val_"))
    given, told = load_bundle(tmp_path / "base", "nonexpert")
    assert told["num_features"] == {"angles": 49, "both": 45 + 49}[inputs]
    expert = scoring(sequence=sequence, epochs=1)
    fit.train_expert(*waving_tables, expert, tmp_path / "expert", tmp_path / "base", {})
    kept, _ = load_bundle(tmp_path / "expert", "expert")
    names = [name for name in given if name.startswith("encoder.")]
    assert names
    assert all(torch.equal(given[name], kept[f"experts.0.{name}"]) for name in names)
    with pytest.raises(ConfigError, match=f"inputs: {inputs} there, xyz asked for"):
        fit.train_expert(*waving_tables, scoring(epochs=1), tmp_path / "xyz", tmp_path / "base", {})


def test_a_masked_limb_of_angles_is_hidden_and_its_error_is_that_of_standardised_angles(waving_tables):
    sequence = SequenceConfig(skeleton="c15", inputs="angles")
    motions = load_motions(*waving_tables)
    train, val = ([m for m in motions if m.split == split] for split in ("train", "val"))
    config = PretrainConfig(batch_size=8, sequence=sequence, model=SIZES)
    phase = PretrainPhase(train, val, config, torch.device("cpu"))
    assert phase.mean_pose is None
    middle = np.median(np.concatenate([item.x for item in phase.train]), axis=0)
    np.testing.assert_allclose(middle, 0, atol=1e-4)
    batch = phase._batch(phase.val, [0, 1], [1], SIZES)
    found = phase._limb_errors(batch, torch.where(batch.hidden, batch.slowed - 2.0, 99.0))
    assert found["limb_error"] == pytest.approx(2 * 4.0, rel=1e-5)


def flat(table: pa.Table) -> pa.Table:
    """Poses without their third coordinate."""

    def two(row: dict) -> list[float]:
        return np.reshape(row["keypoints"], (-1, 15, 3))[..., :2].ravel().tolist()

    return with_values(with_values(table, "keypoints", two), "num_coordinates", lambda row: 2)


def test_an_encoder_of_a_version_without_the_heading_is_taken_as_one_that_did_not_turn(
    waving_tables, tmp_path
):
    config = PretrainConfig(epochs=1, batch_size=8, sequence=SEQUENCE, model=SIZES)
    fit.pretrain(*waving_tables, config, tmp_path / "base", {})
    path = tmp_path / "base" / "model" / "config.json"
    told = json.loads(path.read_text())
    del told["sequence"]["heading"]
    path.write_text(json.dumps(told))
    fit.train_expert(*waving_tables, scoring(epochs=1), tmp_path / "run", tmp_path / "base", {})
    turned = replace(SEQUENCE, heading="body")
    with pytest.raises(ConfigError, match="heading: camera there, body asked for"):
        other = scoring(epochs=1, sequence=turned)
        fit.train_expert(*waving_tables, other, tmp_path / "other", tmp_path / "base", {})


def test_an_encoder_of_other_coordinates_is_refused(waving_tables, tmp_path):
    config = PretrainConfig(epochs=1, batch_size=8, sequence=SEQUENCE, model=SIZES)
    fit.pretrain(*waving_tables, config, tmp_path / "base", {})
    clips, poses = waving_tables
    with pytest.raises(
        DataError,
        match="clip P00_0: has 2 coordinates, but .*base was pretrained on 3. Pretrain on keypoints",
    ):
        fit.train_expert(clips, flat(poses), scoring(), tmp_path / "run", tmp_path / "base", {})
    with pytest.raises(DataError, match="clip P00_0: body angles need 3-D keypoints"):
        angles = SequenceConfig(skeleton="c15", inputs="angles")
        fit.train_expert(clips, flat(poses), scoring(sequence=angles), tmp_path / "angles", None, {})


CONTRADICTIONS = [
    (
        {"encoder_start": "pretrained"},
        False,
        "expert.encoder_start: is pretrained, but no pretrained run is given. Give --pretrained RUN",
    ),
    (
        {"encoder_start": "random"},
        True,
        "expert.encoder_start: is random, but a pretrained run is given. Leave --pretrained out",
    ),
    (
        {"input_dropout": 0.1},
        False,
        "expert.input_dropout: hides inputs of the encoder, but the encoder does not learn. "
        "Set model.finetune_encoder, or input_dropout to 0",
    ),
    (
        {"ranking_weight": 1.0, "model": ExpertConfig(task="classes")},
        False,
        "expert.ranking_weight: orders scores, but the task is classes. Set ranking_weight to 0",
    ),
    ({"features": "abc"}, False, "expert.features: are given, but the expert has no appearance stream"),
    (
        {"model": ExpertConfig(appearance="modules")},
        False,
        "expert.model.appearance: is modules, but no features of the video are given",
    ),
]


@pytest.mark.parametrize(
    ("changes", "given", "text"), CONTRADICTIONS, ids=[row[2][:28] for row in CONTRADICTIONS]
)
def test_settings_that_contradict_each_other_are_refused(waving_tables, tmp_path, changes, given, text):
    pretrained = tmp_path / "base" if given else None
    with pytest.raises(ConfigError, match=text):
        fit.train_expert(*waving_tables, scoring(**changes), tmp_path / "run", pretrained, {})
    assert not (tmp_path / "run").exists()
