"""The expert's training: presets, members and whom they leave out, resuming, two workers, refusals."""

from __future__ import annotations

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
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.numpy import load_file

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines import fit, loop
from pipelines.checkpoint import load_bundle
from pipelines.config import (
    TRAIN_PRESETS,
    EvaluateConfig,
    ExpertTrainConfig,
    PretrainConfig,
)
from pipelines.errors import ConfigError, DataError
from pipelines.evaluate import evaluate_tables, predict
from pipelines.expert_phase import ExpertPhase
from pipelines.motion import Motion, load_motions
from pipelines.pretrain_phase import PretrainPhase
from pipelines.settings import load_config
from pipelines.splits import folds

SEQUENCE = SequenceConfig(skeleton="c15")
SIZES = NonExpertConfig(
    encoder_units=4, decoder_units=4, pace_units=4, discriminator_units=4, encoder_layers=1, decoder_layers=1
)
# Everything at once that a checkpoint must bring back.
RICH = {
    "members": 2,
    "averaging": 0.5,
    "mirror": True,
    "ranking_weight": 1.0,
    "loss": "huber",
    "input_dropout": 0.2,
    "sequence": SequenceConfig(skeleton="c15", inputs="angles"),
    "model": ExpertConfig(lstm_units=4, finetune_encoder=True, actions="embedding"),
}


def scoring(**changes) -> ExpertTrainConfig:
    settings = {"epochs": 5, "batch_size": 8, "sequence": SEQUENCE, "checkpoint_every": 2}
    small = {"encoder_units": 4, "encoder_layers": 1, "model": ExpertConfig(lstm_units=4)}
    return ExpertTrainConfig(**settings | small | changes)


def with_values(table: pa.Table, column: str, change) -> pa.Table:
    changed = [{**row, column: change(row)} for row in table.to_pylist()]
    return pa.Table.from_pylist(changed, schema=table.schema)


def without_val(clips: pa.Table) -> pa.Table:
    return with_values(clips, "split", lambda row: "train" if row["split"] == "val" else row["split"])


def learners(tables, features: pa.Table | None = None) -> list[Motion]:
    """The 20 clips of the 10 people who are not tested."""
    return [motion for motion in load_motions(*tables, features) if motion.split != "test"]


def phase_of(train: list[Motion], val: list[Motion], **changes) -> ExpertPhase:
    return ExpertPhase(train, val, scoring(**changes), torch.device("cpu"), None)


def rows(run_dir: Path) -> list[dict]:
    found = loop.read_metrics(run_dir / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def weights(run_dir: Path) -> dict[str, np.ndarray]:
    return load_file(run_dir / "model" / "model.safetensors")


def assert_same_run(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


# Presets


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
    if preset in ("skeleton_only", "full", "c3d_as_expert", "nonexpert_U", "nonexpert_US", "best"):
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


# Members


def member_gradients(phase: ExpertPhase, member: int) -> list[torch.Tensor]:
    """Two steps' worth of one member's gradients, and the running statistics behind them."""
    found = []
    for batch in ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]):
        gradients, _ = phase.gradients(batch, len(batch), epoch=3)
        found += gradients[f"head.{member}"] + gradients[f"encoder.{member}"]
    return found + [buffer.clone() for buffer in phase.model.experts[member].buffers()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    assert len(first) == len(second) > 5
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_member_never_learns_from_the_people_it_is_validated_on(waving_tables, waving_features):
    """Their keypoints, videos and scores are replaced: its gradients stay, bit by bit; the other's do not.

    The scores of two left-out people of one group change places, so that the statistics of all scores,
    which are shared, stay as they are.
    """
    options = {"members": 2, "ranking_weight": 1.0, "mirror": True}
    options["model"] = ExpertConfig(
        lstm_units=4, branch_channels=4, appearance="modules", finetune_encoder=True, actions="outputs"
    )
    motions = learners(waving_tables, waving_features)
    phase = phase_of(motions, [], **options)
    left_out = {m.subject for m, part in zip(motions, phase.fold, strict=True) if part == 0}
    assert 2 <= len(left_out) < 10
    groups = {m.subject: m.group for m in motions}
    first, second = [s for s in sorted(left_out) if groups[s] == "control"][:2]
    scores = {m.clip_id.split("_")[1]: {} for m in motions}
    for m in motions:
        scores[m.clip_id.split("_")[1]][m.subject] = m.score
    generator = np.random.default_rng(0)
    ruined = []
    for m in motions:
        if m.subject in left_out:
            noise = generator.normal(size=m.keypoints.shape).astype(np.float32)
            m = replace(m, keypoints=m.keypoints + noise, video=m.video * -3)
            partner = {first: second, second: first}.get(m.subject, m.subject)
            m = replace(m, score=scores[m.clip_id.split("_")[1]][partner])
        ruined.append(m)
    other = phase_of(ruined, [], **options)
    assert torch.equal(phase.fold, other.fold)
    assert phase.description["targets"]["wave"] == pytest.approx(other.description["targets"]["wave"])
    targets = phase.targets.clone()
    other.targets[phase.fold != 0] = targets[phase.fold != 0]  # summed in another order: the last bit
    assert same(member_gradients(phase, 0), member_gradients(other, 0))
    assert not same(member_gradients(phase, 1), member_gradients(other, 1))


def test_members_are_validated_on_whom_they_left_out(waving_tables):
    motions = learners(waving_tables)
    phase = phase_of(motions, [], members=3, loss="huber")
    people = np.array([m.subject for m in motions])
    parts = phase.fold.numpy()
    assert {len(set(parts[people == person])) for person in people} == {1}
    assert set(parts) == {0, 1, 2}
    phase.model.eval()
    errors = []
    for row in range(len(motions)):
        x, valid, action, _ = phase.inputs.batch([row], 0)
        answer = phase.model.experts[parts[row]](x, valid, action)
        errors.append(float((answer[0, 0] - phase.targets[row]).detach().abs()))
    found = phase.validate()
    assert found["mae"] == pytest.approx(np.mean(errors), rel=1e-5)
    huber = [e * e if e < 0.5 else 2 * e * 0.5 - 0.25 for e in errors]  # smooth at half a deviation
    assert found["loss"] == pytest.approx(np.mean(huber), rel=1e-5)


def test_the_same_seed_leaves_the_same_people_out(waving_tables):
    motions = learners(waving_tables)
    assert phase_of(motions, [], members=2, seed=3).fold.tolist() == folds(motions, 2, 3)
    tied = [replace(motion, score=None, group="") for motion in motions]  # only chance orders them
    assert folds(tied, 2, 3) == folds(tied, 2, 3)
    assert folds(tied, 2, 3) != folds(tied, 2, 4)
    with pytest.raises(
        DataError, match="has 10 training subjects, too few for 6 members that leave out others"
    ):
        phase_of(motions, [], members=6)


def test_averages_follow_the_weights_once_in_each_validation(waving_tables):
    phase = phase_of(learners(waving_tables), [], members=2, averaging=0.75)
    weight, average = (
        experts[1].head.out.linear.weight for experts in (phase.model.experts, phase.model.averages)
    )
    start = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    assert torch.equal(average, start)
    phase.validate()
    torch.testing.assert_close(average, start + 0.25)


def test_validation_of_the_best_epoch_is_what_the_stored_model_says(waving_tables, tmp_path):
    """Averaged weights, members and mirror images: training's answer and that of the bundle agree."""
    config = scoring(**RICH, epochs=2)
    summary = fit.train_expert(*waving_tables, config, tmp_path / "run", None, {})
    tensors, told = load_bundle(tmp_path / "run", "expert")
    val = [motion for motion in load_motions(*waving_tables) if motion.split == "val"]
    assert told["scale"].keys() == {"", "wave"}
    scores = predict(val, tensors, told)
    # With val rows every member judges all of them; the error of each is counted, not that of their mean.
    each = []
    for member in range(2):
        alone = {
            f"experts.0.{name.partition('.')[2].partition('.')[2]}": tensor
            for name, tensor in tensors.items()
            if name.startswith(f"averages.{member}.")
        }
        each.append(predict(val, alone, {**told, "members": 1, "averaging": 0.0}))
    np.testing.assert_allclose(np.mean(each, axis=0), scores, atol=1e-3)
    true, deviation = np.array([m.score for m in val]), told["targets"]["wave"]["deviation"]
    assert summary["val_mae"] == pytest.approx(np.abs(np.array(each) - true).mean() / deviation, rel=1e-3)


# Resuming


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


# Two workers


def shared_training(folder: Path, name: str) -> None:
    """Trains in the process group there is; every worker holds all clips."""
    tables = [pq.read_table(folder / f"{table}.parquet") for table in ("clips", "poses", "features")]
    model = ExpertConfig(lstm_units=4, branch_channels=4, appearance="modules", finetune_encoder=True)
    options = {"members": 2, "ranking_weight": 2.0, "loss": "huber", "averaging": 0.5, "batch_size": 5}
    phase = phase_of(learners(tables[:2], tables[2]), [], model=model, epochs=2, **options)
    (folder / name).mkdir(exist_ok=True)
    loop.run_epochs(phase, phase.config, folder / name, {}, {}, lambda row: None)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    shared_training(Path(folder), "two")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_rank_and_leave_out_as_one_process_does(waving_tables, waving_features, tmp_path):
    """Pairs across workers count. In batches of 5 a worker may hold no clip that a member learns from."""
    for name, table in zip(("clips", "poses", "features"), (*waving_tables, waving_features), strict=True):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    shared_training(tmp_path, "one")
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 2
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, rel=1e-4, abs=1e-6)


# Encoders that were pretrained


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


# Settings that contradict each other


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
