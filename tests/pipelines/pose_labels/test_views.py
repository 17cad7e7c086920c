from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.pose_labels.views import FLIP, Input, augment, disturb, move, read_image, shrink
from pipelines.rendered.body import JOINTS
from pipelines.stages import mmpose_compat

CENTER, SIDE = np.array([120.0, 90.0]), 140.0


@pytest.mark.parametrize("degrees", [0, 37, -90])
@pytest.mark.parametrize("size", [(192, 192), (192, 256)])
def test_the_map_is_that_of_mmpose(size, degrees):
    mmpose_compat.install()
    from mmpose.structures.bbox import get_udp_warp_matrix, get_warp_matrix

    for udp, peer in ((False, get_warp_matrix), (True, get_udp_warp_matrix)):
        shown = Input(*size, padding=1.25, udp=udp)
        box = shown.box(SIDE)
        # MMPose turns the box where the plain matrix turns the image, and the other way round with UDP
        turn = np.deg2rad(degrees if udp else -degrees)
        wanted = peer(CENTER, box.astype(np.float32), degrees, size)
        assert np.allclose(shown.matrix(CENTER, box, turn), wanted, atol=2e-4), udp


def test_the_box_has_the_aspect_of_the_input():
    assert Input(192, 256, 1.25, False).box(100.0).tolist() == pytest.approx([125.0, 125.0 * 256 / 192])


def test_the_input_is_read_from_configs():
    from pipelines.stages.pose import read_pose_config

    assert Input.of(read_pose_config("aqa-rendered")) == Input(192, 192, 1.1, False)
    name = "td-hm_hrnet-w32_udp-8xb64-210e_coco-256x192"
    assert Input.of(read_pose_config(name)) == Input(192, 256, 1.25, True)


def test_joints_change_sides_when_mirrored():
    for index, name in enumerate(JOINTS):
        other = name.replace("right", "?").replace("left", "right").replace("?", "left")
        assert JOINTS[FLIP[index]] == other


def test_joints_move_with_the_picture():
    """A bright spot at one joint is found where `augment` says that joint is, or its mirror image."""
    joints = np.random.default_rng(0).uniform(70, 170, (16, 2))
    shown, visible, found = Input(192, 192, 1.1, False), np.ones(16, bool), 0
    mirrored = set()
    for seed in range(60):
        joint = seed % 16
        image = np.zeros((240, 240, 3), np.uint8)
        cv2.circle(image, np.round(joints[joint]).astype(int).tolist(), 5, (255, 255, 255), -1)
        view, seen, inside = augment(
            np.random.default_rng(seed), image, joints, visible, CENTER, 150.0, shown
        )
        heat = cv2.GaussianBlur(view.min(axis=2), (0, 0), 4)
        heat[:3], heat[-3:], heat[:, :3], heat[:, -3:] = 0, 0, 0, 0
        spot = np.array(np.unravel_index(heat.argmax(), heat.shape))[::-1]
        nearest = int(np.linalg.norm(seen - spot, axis=1).argmin())
        if inside[nearest] and np.linalg.norm(seen[nearest] - spot) < 4 and nearest in (joint, FLIP[joint]):
            found += 1
            mirrored.add(nearest != joint)
    assert found >= 48  # the others are covered by a patch, or outside the view
    assert mirrored == {True, False}


def test_joints_that_do_not_count_stay_so_when_mirrored():
    joints = np.random.default_rng(0).uniform(100, 140, (16, 2))
    visible = np.ones(16, bool)
    visible[0] = False  # right ankle
    image, shown = np.zeros((240, 240, 3), np.uint8), Input(192, 192, 1.1, False)
    lost = set()
    for seed in range(12):
        _, _, inside = augment(np.random.default_rng(seed), image, joints, visible, CENTER, 150.0, shown)
        lost |= {int(j) for j in np.flatnonzero(~inside)}
        assert (~inside).sum() == 1
    assert lost == {0, 5}


def test_the_same_seed_gives_the_same_view():
    image = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    first, second = (disturb(np.random.default_rng(5), image.copy()) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, image)


def test_shrunken_renders_keep_their_joints():
    image = np.zeros((256, 256, 3), np.uint8)
    joints = np.full((16, 2), 128.0)
    joints[7], joints[6] = [128, 60], [128, 190]  # torso 130 px
    cv2.circle(image, (128, 60), 6, (255, 255, 255), -1)
    small, seen = shrink(np.random.default_rng(0), image, joints)
    assert 24 < np.linalg.norm(seen[7] - seen[6]) < 71
    heat = cv2.GaussianBlur(small[..., 1], (0, 0), 2)
    spot = np.array(np.unravel_index(heat.argmax(), heat.shape))[::-1]
    assert np.linalg.norm(spot - seen[7]) < 1.5


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.jpg: is not readable as an image"):
        read_image(tmp_path / "a.jpg")


def test_move_is_an_affine_map():
    assert move(np.array([[1.0, 2.0]]), np.array([[0, -1, 5], [1, 0, 7.0]])).tolist() == [[3.0, 8.0]]
