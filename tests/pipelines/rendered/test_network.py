"""The shipped network: config, size, weights, and that it finds joints on frames it never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.rendered.measure_network import PoseNetwork, draw_pose
from pipelines.rendered.network import FLIP, WEIGHTS, pose_network_config
from pipelines.rendered.train_network import (
    TRAIN_SEEDS,
    Trainer,
    augment,
    heatmaps,
    render_clip,
    render_poses,
)
from pipelines.stages import mmpose_compat


@pytest.fixture(scope="module")
def network() -> PoseNetwork:
    return PoseNetwork(WEIGHTS)


def test_weights_are_small():
    assert WEIGHTS.stat().st_size <= 5e6


def test_config_is_a_top_down_model_for_mpii(network):
    assert type(network.model).__name__ == "TopdownPoseEstimator"
    assert len(network.model.dataset_meta["keypoint_id2name"]) == 16
    assert tuple(network.model.dataset_meta["flip_indices"]) == FLIP
    assert pose_network_config().test_dataloader.dataset.pipeline[2].type == "TopdownAffine"


def test_inference_topdown_of_mmpose_gives_the_same_joints(network):
    from mmpose.apis import inference_topdown

    frames, _ = render_poses(5)
    (result,) = inference_topdown(network.model, frames[0][..., ::-1].copy())
    found, scores = network.estimate([frames[0]])
    assert result.pred_instances.keypoints[0] == pytest.approx(found[0], abs=0.05)
    assert result.pred_instances.keypoint_scores[0] == pytest.approx(scores[0], abs=1e-3)


def test_it_finds_joints_on_held_out_frames(network):
    near = []
    for seed in range(40, 48):  # far below TRAIN_SEEDS
        frames, joints = render_clip(seed, 6)
        found, _ = network.estimate(list(frames))
        torso = np.linalg.norm(joints[:, 7] - joints[:, 6], axis=-1)
        near.append(np.linalg.norm(found - joints, axis=-1) < 0.2 * torso[:, None])
    assert np.mean(near) > FLOOR


FLOOR = 0.75


def test_training_targets_are_those_of_mmpose():
    mmpose_compat.install()
    from mmpose.registry import KEYPOINT_CODECS

    joints = np.random.default_rng(0).uniform(30, 160, (1, 16, 2)).astype(np.float32)
    codec = KEYPOINT_CODECS.build(pose_network_config().codec)
    expected = codec.encode(joints, np.ones((1, 16), np.float32))["heatmaps"]
    found = heatmaps(torch.from_numpy(joints), 48)[0].numpy()
    inside = expected > 0  # mmpose cuts the Gaussian off at three sigma
    assert np.abs(found - expected)[inside].max() < 1e-5
    assert found[~inside].max() < 0.012


def test_augmented_joints_move_with_the_pixels():
    frame = np.zeros((256, 256, 3), np.uint8)
    joints = np.random.default_rng(1).uniform(90, 166, (16, 2)).round().astype(np.float32)
    x, y = joints[3].astype(int)
    frame[y - 3 : y + 4, x - 3 : x + 4] = 255
    found = 0
    for seed in range(60):
        image, moved, weights = augment(np.random.default_rng(seed), frame, joints, 192)
        bright = image.astype(float).sum(axis=-1)
        if not weights.all() or bright.max() < 500:
            continue
        flipped = moved[[FLIP[3], 3]]  # a mirrored left hip is a right hip
        rows, columns = np.nonzero(bright > 0.6 * bright.max())
        centre = np.array([columns.mean(), rows.mean()])
        found += np.linalg.norm(flipped - centre, axis=-1).min() < 2.5
    assert found >= 20


def test_training_resumes_where_it_was(tmp_path):
    mmpose_compat.install()
    first = Trainer(tmp_path, 1.0, 1e-3)
    frames, joints = render_poses(TRAIN_SEEDS)
    pixels = torch.from_numpy(frames[:2, :64, :64]).permute(0, 3, 1, 2)
    batch = (pixels, torch.from_numpy(joints[:2]), torch.ones(2, 16))
    first.step(*batch)
    first.save()
    again = Trainer(tmp_path, 1.0, 1e-3)
    assert again.steps == 1
    assert first.step(*batch) == pytest.approx(again.step(*batch), rel=1e-5)
    assert (tmp_path / WEIGHTS.name).stat().st_size < 5e6


def test_pictures_show_the_skeleton():
    frame = np.zeros((100, 100, 3), np.uint8)
    picture = draw_pose(frame, np.random.default_rng(0).uniform(10, 90, (16, 2)))
    assert (picture > 0).any()
    assert not frame.any()
