from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.cli import main
from pipelines.config import PoseTrainConfig, TrackingConfig
from pipelines.errors import ConfigError
from pipelines.journal import Journal
from pipelines.pose_labels import verbs
from pipelines.rendered.network import WEIGHTS

SHORT = PoseTrainConfig(steps=3, batch_size=4, checkpoint_every=2)


def train(labelled: Path, runs: Path, name: str, config: PoseTrainConfig = SHORT, **options):
    groups = labelled / "groups.csv"
    return verbs.train(
        labelled / "labels.json", labelled / "images", name, config, groups=groups, runs=runs, **options
    )


@pytest.fixture(scope="module")
def trained(labelled, tmp_path_factory, empty_database):
    runs = tmp_path_factory.mktemp("runs")
    (runs / "mlflow.db").write_bytes(empty_database)
    return train(labelled, runs, "first", hold_out=("b",), tracking=TrackingConfig())


def test_mlflow_is_told_the_labels(trained):
    (told,) = [e for e, _ in Journal(Path(trained["run_dir"])).read(0) if e["event"] == "dataset"]
    assert (told["name"], told["context"], told["source"]["frames"]) == ("pose labels", "training", 4)


def test_a_run_is_measured_before_and_after_on_the_group_held_out(trained, labelled):
    assert (trained["frames"], trained["frames_held_out"], trained["steps"]) == (4, 4, 3)
    assert {"pck_0.2", "pckh_0.5", "oks_ap", "error_torso"} < set(trained["before"])
    groups = labelled / "groups.csv"
    alone = verbs.evaluate(labelled / "labels.json", labelled / "images", groups=groups, only=("b",))
    assert alone["pck_0.2"] == trained["before"]["pck_0.2"]
    assert alone["error_torso"] == trained["before"]["error_torso"]
    assert trained["after"]["error_torso"] == pytest.approx(trained["before"]["error_torso"], rel=0.2)
    learned, started = load_file(trained["weights"]), load_file(WEIGHTS)
    assert any(not torch.equal(learned[name], started[name].float()) for name in started)


def test_the_summary_of_a_run_is_a_table(trained):
    rows = {line.split()[0]: line.split()[1:] for line in verbs.summary_lines(trained) if line.strip()}
    assert rows["frames_held_out"] == ["4"]
    assert rows["before"][1] == str(trained["before"]["pck_0.2"])
    joint = "right_wrist"
    assert rows[joint] == [str(trained[when]["error_torso_per_joint"][joint]) for when in ("before", "after")]


def test_extraction_takes_the_weights(trained):
    from pipelines.stages.pose import PoseNetwork, find_pose_model

    model = find_pose_model("aqa-rendered", Path(trained["weights"]))
    assert PoseNetwork(model, "cpu").model.skeleton == "mpii16"


def test_a_finished_run_is_not_trained_again(trained, labelled):
    again = train(labelled, Path(trained["run_dir"]).parent, "first", hold_out=("b",))
    assert again == {**trained, "resumed": True}


def test_another_configuration_needs_another_name(trained, labelled):
    other = SHORT.model_copy(update={"learning_rate": 1e-4})
    with pytest.raises(ConfigError, match="learning_rate: 0.0005 there, 0.0001 asked for"):
        train(labelled, Path(trained["run_dir"]).parent, "first", other, hold_out=("b",))


def test_other_labels_need_another_name(trained, labelled):
    with pytest.raises(ConfigError, match=r"labels\.frames: 4 there, 8 asked for"):
        train(labelled, Path(trained["run_dir"]).parent, "first")


def test_networks_for_other_joints_are_refused(labelled, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    coco = "td-hm_hrnet-w32_8xb64-210e_coco-256x192"
    with pytest.raises(ConfigError, match="predicts coco17, the labels are mpii16"):
        train(labelled, tmp_path, "x", pose_config=coco, weights=weights)


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_names_that_are_no_folder_are_refused(labelled, tmp_path, name):
    with pytest.raises(ConfigError, match="not a plain folder name"):
        train(labelled, tmp_path, name)


def test_evaluate_on_the_command_line(labelled, capsys):
    arguments = ["pose", "evaluate", str(labelled / "labels.json"), "--images", str(labelled / "images")]
    arguments += ["--groups", str(labelled / "groups.csv"), "--rotations", "2"]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["frames"] == 8
    assert set(document["by_group"]) == {"a", "b"}
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"{document['pck_0.2']}" in text
    assert "right_wrist" in text


def train_arguments(labelled: Path, runs: Path) -> list[str]:
    arguments = ["pose", "train", str(labelled / "labels.json"), "--images", str(labelled / "images")]
    arguments += ["--groups", str(labelled / "groups.csv"), "--name", "x", "--runs", str(runs), "--json"]
    return [*arguments, "--steps", "1", "--batch-size", "1", "--hold-out"]


def test_a_wrong_group_is_told_on_the_command_line(labelled, tmp_path, capsys):
    assert main([*train_arguments(labelled, tmp_path), "c"]) == 2
    assert "there is no group 'c'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_train_on_the_command_line(labelled, tmp_path, capsys):
    assert main([*train_arguments(labelled, tmp_path), "a"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert Path(summary["weights"]).is_file()
    assert summary["after"]["frames"] == 4


@pytest.mark.slow
def test_two_ray_workers_train_the_same_network_as_one_process(labelled, tmp_path, local_ray):
    one = train(labelled, tmp_path, "one")
    two = train(labelled, tmp_path, "two", SHORT.model_copy(update={"num_workers": 2}))
    first, second = (load_file(run["weights"]) for run in (one, two))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=2e-4), name
