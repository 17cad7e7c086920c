from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.pose_labels.annotations import Label, read_labels
from pipelines.pose_labels.measure import LIMBS, SIGMAS, estimate, oks_ap, scores
from pipelines.pose_labels.views import Input, read_image
from pipelines.rendered.body import JOINTS
from pipelines.rendered.network import WEIGHTS

SURE = np.full((1, 16), 0.9)


def person(visible: np.ndarray | None = None) -> Label:
    """Torso 50 px, head 20 px, box of the joints 100 x 200 px."""
    joints = np.array([[x, y] for y in (0.0, 200.0 / 3, 400.0 / 3, 200.0) for x in (0.0, 30.0, 60.0, 100.0)])
    joints[6], joints[7], joints[8], joints[9] = [50, 120], [50, 70], [50, 60], [50, 40]
    return Label(
        Path("x"), joints, np.ones(16, bool) if visible is None else visible, joints.mean(axis=0), 250.0
    )


def test_the_truth_scores_one():
    label = person()
    found = scores([label], label.joints[None], SURE)
    assert (found["pck_0.2"], found["pckh_0.5"], found["oks_ap"], found["error_torso"]) == (1, 1, 1, 0)


def test_thresholds_lie_at_a_fifth_of_the_torso_and_half_the_head():
    label = person()
    keypoints = label.joints[None].copy()
    keypoints[0, 0, 0] += 9.9  # inside both: below 10 px
    keypoints[0, 1, 0] += 10.1  # outside both
    keypoints[0, 8, 0] += 500  # the neck is no limb
    found = scores([label], keypoints, SURE)
    assert found["pck_0.2"] == found["pckh_0.5"] == round(11 / 12, 4)
    assert found["error_torso_per_joint"]["right_ankle"] == pytest.approx(9.9 / 50, abs=1e-4)
    assert found["error_torso_per_joint"]["upper_neck"] == pytest.approx(10)
    assert found["error_torso"] == pytest.approx(20 / 50 / 12, abs=1e-4)


def test_joints_that_do_not_count_are_left_out():
    visible = np.ones(16, bool)
    visible[[0, 1]] = False
    keypoints = person().joints[None].copy()
    keypoints[0, :2] += 900
    found = scores([person(visible)], keypoints, SURE)
    assert found["pck_0.2"] == found["oks_ap"] == 1
    assert found["error_torso_per_joint"]["right_ankle"] is None


@pytest.mark.parametrize("shift", [9.0, 14.0, 25.0])
def test_oks_ap_is_the_share_of_thresholds_passed(shift):
    """One person: AP is the share of the ten thresholds 0.50:0.95 that the OKS, by its formula, reaches."""
    label = person()
    keypoints = label.joints[None] + [shift, 0]
    similarity = np.exp(-(shift**2) / (2 * 100 * 200 * (2 * SIGMAS) ** 2)).mean()
    wanted = np.mean(similarity >= np.linspace(0.5, 0.95, 10))
    assert 0 < wanted < 1
    assert oks_ap([label], keypoints, SURE) == pytest.approx(wanted, abs=1e-3)


def test_sigmas_of_both_sides_agree():
    for right, left in zip((0, 1, 2, 10, 11, 12), (5, 4, 3, 15, 14, 13), strict=True):
        assert SIGMAS[right] == SIGMAS[left]
    assert [JOINTS[j].split("_")[0] for j in LIMBS].count("left") == 6


@pytest.fixture(scope="module")
def network():
    from pipelines.stages.pose import SHIPPED, PoseNetwork, find_pose_model

    return PoseNetwork(find_pose_model(SHIPPED, None), "cpu")


def test_a_turned_picture_gives_the_turned_pose(labelled, network, tmp_path):
    """With four turns the network sees the same four views of a picture and of the picture turned by 90."""
    shown = Input(192, 192, 1.1, False)
    labels = read_labels(labelled / "labels.json", labelled / "images")[:3]
    turned = []
    for number, label in enumerate(labels):
        image = cv2.imread(str(label.image))
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.rot90(image))  # (x, y) -> (y, width - 1 - x)
        center = np.array([label.center[1], image.shape[1] - 1 - label.center[0]])
        turned.append(Label(path, label.joints, label.visible, center, label.side))
    plain, _ = estimate(network, labels, shown, rotations=4)
    found, _ = estimate(network, turned, shown, rotations=4)
    wanted = np.stack([plain[..., 1], 255 - plain[..., 0]], axis=-1)
    assert np.median(np.linalg.norm(found - wanted, axis=-1)) < 0.8


def test_the_pose_is_that_of_mmpose(labelled, network):
    """MMPose's own pipeline, boxes and decoder (measure_network.py) against ours."""
    from pipelines.rendered.measure_network import PoseNetwork as Peer

    labels = read_labels(labelled / "labels.json", labelled / "images")
    sides = np.array([[label.side, label.side] for label in labels])
    centers = np.stack([label.center for label in labels])
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1).astype(np.float32)
    wanted, sure = Peer(WEIGHTS).estimate([read_image(label.image) for label in labels], boxes)
    keypoints, confidence = estimate(network, labels, Input(192, 192, 1.1, False), batch=3)
    # where the map has one clear peak; two equal ones may change places by rounding
    assert np.linalg.norm(keypoints - wanted, axis=-1)[sure > 0.5].max() < 0.05
    assert np.abs(confidence - sure).max() < 0.01


def test_the_mirrored_view_is_mirrored_back(labelled, network):
    labels = read_labels(labelled / "labels.json", labelled / "images")
    shown = Input(192, 192, 1.1, False)
    plain, flipped = (estimate(network, labels, shown, flip=flip)[0] for flip in (False, True))
    found = [scores(labels, keypoints, np.ones((8, 16)))["error_torso"] for keypoints in (plain, flipped)]
    assert found[1] < 1.1 * found[0]


@pytest.mark.data
def test_the_shipped_network_on_the_public_sample(test_data, network):
    folder = test_data / "finediving_pose_sample"
    labels = read_labels(folder / "annotations_examples.json", folder / "images")
    keypoints, confidence = estimate(network, labels, Input(192, 192, 1.1, False))
    assert scores(labels, keypoints, confidence)["pck_0.2"] == pytest.approx(0.4125, abs=0.01)
