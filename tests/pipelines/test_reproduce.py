from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines import audit, fit
from pipelines.config import EvaluateConfig, ExpertTrainConfig, PretrainConfig
from pipelines.errors import ConfigError, CorruptError, DataError
from pipelines.evaluate import evaluate_tables
from pipelines.reproduce import lines, reproduce, rows_of
from pipelines.store import open_store, snapshot

SEQUENCE = SequenceConfig(skeleton="c15")
SIZES = NonExpertConfig(encoder_units=6, decoder_units=6, pace_units=6, discriminator_units=4)
PRETRAIN = PretrainConfig(epochs=1, sequence=SEQUENCE, model=SIZES)
EXPERT = ExpertTrainConfig(epochs=2, sequence=SEQUENCE, model=ExpertConfig(lstm_units=4))


@pytest.fixture(scope="module")
def trained(waving, tmp_path_factory) -> Path:
    """A folder with store/, a pretraining base/, and an expert/ that was tested."""
    folder = tmp_path_factory.mktemp("trained")
    opened = open_store(folder / "store", create=True)
    opened.put_clips(waving[0])
    table = opened.create_poses({"made by": "test"})
    with table.writer() as writer:
        writer.commit([table.write_file(waving[1])])
    clips, poses, told = snapshot(folder / "store")
    fit.pretrain(clips, poses, PRETRAIN, folder / "base", told)
    fit.train_expert(clips, poses, EXPERT, folder / "expert", folder / "base", told)
    evaluate_tables(folder / "expert", clips, poses, EvaluateConfig(bootstrap=100))
    return folder


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """The same, to be spoilt."""
    return shutil.copytree(trained, tmp_path / "copy")


def change(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_scores(store: Path) -> None:
    """A newer version of the store: other clips, and no file of the old version is named any more."""
    opened = open_store(store)
    rows = [{**row, "score": 1.0, "split": "train"} for row in opened.clips.read().to_pylist()]
    opened.put_clips(pa.Table.from_pylist(rows, schema=opened.clips.schema))


def test_a_run_is_rebuilt_to_the_last_bit_from_the_versions_it_read(copy):
    change_scores(copy / "store")
    found = reproduce(copy / "expert", store=copy / "store")
    assert found["same"]
    assert found["out"] == str(copy / "expert-again")
    assert found["weights"] == {"same": True, "tensors": 31, "differing": 0, "largest_difference": 0.0}
    assert found["training"]["same"]
    assert found["test"] == {"same": True, "clips": 8, "largest_difference": 0.0, "rows": []}
    assert found["environment"] == []
    told = "\n".join(lines(found))
    assert "equal to the last bit" in told
    assert "8 predictions equal" in told
    assert "the same versions on the same kind of machine" in told


def test_what_came_out_otherwise_is_told(copy):
    """The record lies: the weights, the losses and the versions are others."""
    import torch

    from pipelines.checkpoint import load_bundle, save_bundle

    run = copy / "expert"
    tensors, description = load_bundle(run, "expert")
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name] = tensors[name] + torch.eye(*tensors[name].shape) * 0.5
    description = {k: value for k, value in description.items() if k not in ("sha256", "version")}
    save_bundle(run / "model", tensors, description)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[1]["loss"] += 1
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = json.loads((run / "environment.json").read_text())["environments"][0]
    made = {**made, "package.torch": "1.0"}
    (run / "environment.json").write_text(json.dumps({"environments": [made]}))
    found = reproduce(run, copy / "out")
    assert not found["same"]
    assert (found["weights"]["differing"], found["weights"]["largest_difference"]) == (1, pytest.approx(0.5))
    assert found["training"]["first_differing_epoch"] == 1
    assert [(row["what"], row["recorded"]) for row in found["environment"]] == [("package.torch", "1.0")]
    told = "\n".join(lines(found))
    assert "1 of 31 tensors differ, by at most 0.5" in told
    assert "differs from epoch 1 on" in told
    assert "package.torch        1.0 -> " in told


@pytest.mark.slow
def test_a_pretraining_is_rebuilt_and_not_tested(trained, tmp_path):
    found = reproduce(trained / "base", tmp_path / "again")
    assert found["same"]
    assert found["test"] == {"reason": "pretraining is not tested"}


def test_a_store_with_other_rows_is_refused_before_the_training(copy):
    opened = open_store(copy / "other", create=True)
    clips, poses, told = snapshot(copy / "store")
    rows = [{**row, "score": (row["score"] or 0) + 1} for row in clips.to_pylist()]
    opened.put_clips(pa.Table.from_pylist(rows, schema=clips.schema))
    table = opened.create_poses({"made by": "test"})
    with table.writer() as writer:
        writer.commit([table.write_file(poses)])
    assert opened.clips.version() == told["clips_version"]
    with pytest.raises(
        DataError, match=r"cannot be rebuilt from .*other: \(data.sha256: \w+ there, \w+ asked"
    ):
        reproduce(copy / "expert", store=copy / "other")
    assert not (copy / "expert-again" / "model").exists()


def test_versions_that_were_vacuumed_are_named(copy):
    change_scores(copy / "store")
    audit.vacuum(copy / "store", older_than_h=0, keep_versions=1)
    with pytest.raises(CorruptError, match="clips: 1 files of version 1, which the run read, are gone"):
        reproduce(copy / "expert", store=copy / "store")


def test_another_store_at_the_same_place_is_named(copy, tmp_path):
    told = json.loads((copy / "expert" / "config.json").read_text())["provenance"]
    with pytest.raises(CorruptError, match="version 99 was read by the run, but it ends at version 1"):
        rows_of(copy / "store", {**told, "clips_version": 99})
    with pytest.raises(
        CorruptError, match="version 1 was read by the run, but it is not there. Name the store"
    ):
        rows_of(copy / "store", {**told, "poses_key": "0123456789ab"})


def test_records_that_do_not_suffice_are_refused(copy):
    run = copy / "expert"
    with pytest.raises(ConfigError, match="store: holds no training run"):
        reproduce(copy / "store")
    with pytest.raises(ConfigError, match="--out: is the run itself"):
        reproduce(run, run)
    record = json.loads((run / "config.json").read_text())
    change(run / "config.json", config={**record["config"], "old_setting": 1})
    with pytest.raises(ConfigError, match="holds the setting old_setting, which this version does not take"):
        reproduce(run)
    change(run / "config.json", provenance={})
    with pytest.raises(ConfigError, match=r"does not say provenance.store, provenance.clips_version"):
        reproduce(run)
    (run / "summary.json").unlink()
    with pytest.raises(ConfigError, match="expert: has not finished"):
        reproduce(run)


def test_the_new_folder_must_be_its_own(copy):
    (copy / "full").mkdir()
    (copy / "full" / "file").write_text("x")
    with pytest.raises(ConfigError, match="full: holds other files"):
        reproduce(copy / "expert", copy / "full")
    with pytest.raises(ConfigError, match="base: belongs to another run"):
        reproduce(copy / "expert", copy / "base")


@pytest.mark.slow
def test_angles_are_rebuilt_to_the_last_bit(trained, tmp_path):
    from pipelines.angles_expert.evaluate import evaluate_tables as evaluate_angles
    from pipelines.angles_expert.fit import fit as fit_angles
    from pipelines.config import AnglesTrainConfig

    clips, poses, told = snapshot(trained / "store")
    config = AnglesTrainConfig(rate_hz=10.0, network_seeds=1, epochs=5)
    fit_angles(clips, poses, config, tmp_path / "angles", told)
    evaluate_angles(tmp_path / "angles", clips, poses, EvaluateConfig(bootstrap=100))
    found = reproduce(tmp_path / "angles")
    assert found["same"]
    assert found["test"]["clips"] == 8


@pytest.mark.slow
def test_dives_are_rebuilt_to_the_last_bit(tmp_path):
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "hp_mcore"))
    from made_dives import make_tables, settings

    from pipelines.hp_mcore.evaluate import evaluate_tables as evaluate_dives
    from pipelines.hp_mcore.fit import fit as fit_dives
    from pipelines.store import snapshot_of

    clips, streams = make_tables(test=2)
    store = open_store(tmp_path / "store", create=True)
    store.put_clips(clips)
    table = store.create("features/static", {"made by": "test"})
    with table.writer() as writer:
        writer.commit([table.write_file(streams["static"])])
    read, tables, told = snapshot_of(tmp_path / "store", {"features/static": ""})
    named = {"static": tables["features/static"]}
    fit_dives(read, named, settings(), tmp_path / "dives", told)
    evaluate_dives(tmp_path / "dives", read, named, EvaluateConfig(bootstrap=100))
    found = reproduce(tmp_path / "dives")
    assert found["same"]
    assert found["test"]["clips"] == 6
