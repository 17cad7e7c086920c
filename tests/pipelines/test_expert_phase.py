"""The expert's batches: members and whom they leave out, averages, two workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from made_runs import RICH, scoring

from aqa_models.two_stage.config import ExpertConfig
from pipelines import fit, loop
from pipelines.checkpoint import load_bundle
from pipelines.errors import DataError
from pipelines.evaluate import predict
from pipelines.expert_phase import ExpertPhase
from pipelines.motion import Motion, load_motions
from pipelines.splits import folds


def learners(tables, features: pa.Table | None = None) -> list[Motion]:
    """The 20 clips of the 10 people who are not tested."""
    return [motion for motion in load_motions(*tables, features) if motion.split != "test"]


def phase_of(train: list[Motion], val: list[Motion], **changes) -> ExpertPhase:
    return ExpertPhase(train, val, scoring(**changes), torch.device("cpu"), None)


def rows(run_dir: Path) -> list[dict]:
    found = loop.read_metrics(run_dir / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


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
