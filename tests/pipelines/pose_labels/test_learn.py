from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.config import PoseTrainConfig
from pipelines.errors import ConfigError, DataError
from pipelines.pose_labels.annotations import read_labels
from pipelines.pose_labels.learn import Sampler, Training, build_network, run_steps
from pipelines.pose_labels.renders import FRESH, RenderPool, render_unit
from pipelines.rendered.network import WEIGHTS
from pipelines.stages.pose import read_pose_config

CPU = torch.device("cpu")
SHORT = PoseTrainConfig(steps=4, batch_size=2, checkpoint_every=2, render_share=0.5)


@pytest.fixture(scope="module")
def labels(labelled):
    return read_labels(labelled / "labels.json", labelled / "images")


def learn(labels, run_dir, report=lambda row: None, settings=SHORT):
    run_dir.mkdir(exist_ok=True)
    config = read_pose_config("aqa-rendered")
    run_steps(labels, config, WEIGHTS, settings, run_dir, {"run": "x"}, {}, report, CPU)
    return load_file(run_dir / "model" / "model.safetensors")


def test_a_stopped_run_goes_on_as_if_it_had_not(labels, tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    whole = learn(labels, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        learn(labels, tmp_path / "cut", stop)
    assert not (tmp_path / "cut" / "model").exists()
    again = learn(labels, tmp_path / "cut")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    started = load_file(WEIGHTS)
    moved = [name for name in whole if not torch.equal(whole[name], started[name].to(whole[name].dtype))]
    assert any("head" in name for name in moved)
    assert any("backbone" in name for name in moved)
    assert not any("running" in name for name in moved)  # the statistics of the given weights are kept


def test_learning_one_frame_lowers_its_loss(labels):
    config = read_pose_config("aqa-rendered")
    settings = PoseTrainConfig(steps=60, batch_size=2, render_share=0.0, learning_rate=2e-3)
    network, _ = build_network(config, WEIGHTS, CPU)
    training, sampler = Training(network, settings), Sampler(labels[:1], config, settings)
    samples = [sampler.sample(0, place) for place in range(2)]
    losses = [training.update(samples, 2) for _ in range(15)]
    assert losses[-1] < 0.6 * losses[0]


def test_a_loss_that_is_not_finite_is_told(labels):
    config = read_pose_config("aqa-rendered")
    network, _ = build_network(config, WEIGHTS, CPU)
    training, sampler = Training(network, SHORT), Sampler(labels, config, SHORT)
    with torch.no_grad():
        next(iter(network.parameters())).fill_(float("nan"))
    with pytest.raises(DataError, match=r"step 0.*not finite.*[Ll]ower learning_rate"):
        training.update([sampler.sample(0, 0)], 1)


def test_samples_depend_on_seed_step_and_place_alone(labels):
    config = read_pose_config("aqa-rendered")
    first, second = (Sampler(labels, config, SHORT) for _ in range(2))
    for place in range(4):
        second.sample(0, place)  # drawn before, must not matter
    one, other = first.sample(3, 1), second.sample(3, 1)
    assert torch.equal(one["inputs"], other["inputs"])
    assert torch.equal(one["data_samples"].gt_fields.heatmaps, other["data_samples"].gt_fields.heatmaps)
    assert not torch.equal(one["inputs"], first.sample(3, 2)["inputs"])


def test_weights_for_other_joints_start_the_last_layer_anew(tmp_path):
    tensors = {name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}
    for name in ("head.final_layer.weight", "head.final_layer.bias"):
        tensors[name] = torch.zeros(17, *tensors[name].shape[1:])  # as for COCO
    save_file(tensors, tmp_path / "coco.safetensors")
    network, fresh = build_network(read_pose_config("aqa-rendered"), tmp_path / "coco.safetensors", CPU)
    assert fresh == ["head.final_layer.bias", "head.final_layer.weight"]
    kept = "head.deconv_layers.0.weight"
    assert torch.equal(network.state_dict()[kept], tensors[kept])


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"something": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="only 0% of the network's values"):
        build_network(read_pose_config("aqa-rendered"), tmp_path / "other.safetensors", CPU)


def test_renders_move_on_with_the_steps():
    pool = RenderPool(0)
    image, joints, center, side = pool.pick(np.random.default_rng(0), 0)
    assert joints.shape == (16, 2)
    assert np.abs(center - 0.5 * (joints.min(axis=0) + joints.max(axis=0))).max() < 1e-9
    assert side > np.ptp(joints, axis=0).max()
    again = RenderPool(0).pick(np.random.default_rng(0), 0)
    assert np.array_equal(image, again[0])
    pool.pick(np.random.default_rng(0), 1000 * FRESH)
    assert all(unit >= 1000 for unit in pool._units)
    for seed in (0, 1):  # a filmed dive, and random poses
        frames, joints = render_unit(seed)
        assert frames.shape == (8, 256, 256, 3)
        assert joints.shape == (8, 16, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "rtmpose-m_8xb64-210e_mpii-256x256",
        "cspnext-m_udp_8xb64-210e_mpii-256x256",
        "td-reg_res50_8xb64-210e_mpii-256x256",
    ],
)
def test_heads_of_the_zoo_learn(labels, tmp_path, name):
    """Classification of coordinates, heatmaps with UDP, regression: each by its own head's loss."""
    from mmengine.registry import init_default_scope
    from mmpose.models import build_pose_estimator

    config = read_pose_config(name)
    config.model.backbone.init_cfg = None
    init_default_scope("mmpose")
    torch.manual_seed(0)
    network = build_pose_estimator(config.model)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "start.safetensors")
    settings = PoseTrainConfig(steps=1000, batch_size=2, render_share=0.0, learning_rate=1e-3)
    network, fresh = build_network(read_pose_config(name), tmp_path / "start.safetensors", CPU)
    assert not fresh
    training, sampler = Training(network, settings), Sampler(labels, read_pose_config(name), settings)
    samples = [sampler.sample(0, place) for place in range(2)]
    losses = [training.update(samples, 2) for _ in range(12)]
    assert losses[-1] < losses[0]
