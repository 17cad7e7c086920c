"""One-stage networks against MMPose's own inference, and poses of people followed by hand."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError
from pipelines.kinds import find_people_work, find_work_of
from pipelines.schema import POSES
from pipelines.stages import one_stage, pose
from pipelines.stages.crops import DECODED
from pipelines.stages.decode_child import Plan, cut
from pipelines.stages.pictures import Letterbox

sys.path.insert(0, str(Path(__file__).parent))
import made_boxes

RTMO = "rtmo-t_8xb32-600e_body7-416x416"
YOLOX = "yoloxpose_tiny_4xb64-300e_coco-416"
SIZES = [(240, 320), (320, 152)]  # height, width


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Makes a weights file with seeded random values that find a few dozen "people" in noise."""
    folder = tmp_path_factory.mktemp("one_stage")

    def make(name: str) -> Path:
        import torch
        from safetensors.torch import save_file

        from pipelines.stages import mmpose_compat

        mmpose_compat.install()
        from mmpose.apis import init_model

        path = folder / f"{name}.safetensors"
        if path.exists():
            return path
        torch.manual_seed(0)
        network = init_model(pose.read_pose_config(name), None, device="cpu")
        for module in itertools.chain(network.backbone.modules(), network.neck.modules()):
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # else the activations fade
        with torch.no_grad():
            network.train()
            box = Letterbox(416, 416, border=114)
            seen = np.stack([letterboxed(noise(*size), box) for size in SIZES])
            network.head.forward(network.extract_feat(torch.from_numpy(seen).permute(0, 3, 1, 2).float()))
            for layer in network.head.head_module.out_cls:
                layer.weight.mul_(3)
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
        return path

    return make


def noise(height: int, width: int) -> np.ndarray:
    """A smooth random RGB picture."""
    import cv2

    small = np.random.default_rng(0).uniform(0, 255, (height // 8, width // 8, 3)).astype(np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def letterboxed(rgb: np.ndarray, box: Letterbox) -> np.ndarray:
    """The picture as the decode process hands it out."""
    height, width = rgb.shape[:2]
    whole = np.array([0, 0, width, height], np.float64)
    spec = {"kind": "Letterbox", "width": box.width, "height": box.height, "border": box.border}
    plan = Plan(np.zeros(1, int), np.zeros(1), [0], whole[None, None], (width, height), spec, 1)
    target = np.empty((box.height, box.width, 3), np.uint8)
    cut(rgb, plan, whole, target)
    return target


@pytest.mark.parametrize("name", [RTMO, YOLOX])
@pytest.mark.parametrize("size", SIZES)
def test_equals_mmpose_inference(name, size, weights):
    model = one_stage.find_one_stage_model(name, weights(name))
    from mmpose.apis import inference_bottomup, init_model

    from pipelines.stages import mmpose_compat

    network = one_stage.OneStageNetwork(model, "cpu")
    reference = init_model(pose.read_pose_config(name), None, device="cpu")
    mmpose_compat.load_weights(reference, model.weights)
    rgb = noise(*size)
    expected = inference_bottomup(reference, rgb[..., ::-1].copy())[0].pred_instances
    (found,) = network.predict(letterboxed(rgb, model.picture)[None], [size[::-1]])
    # MMPose leaves boxes outside the frame, tiny ones and unsure people.
    corners = np.clip(np.asarray(expected.bboxes), 0, [*size[::-1]] * 2)
    keep = (np.asarray(expected.bbox_scores) >= 0.1) & ((corners[:, 2:] - corners[:, :2]) >= 2).all(axis=1)
    surest = np.flatnonzero(keep)[np.argsort(-expected.bbox_scores[keep])][:50]
    assert len(surest) > 5
    np.testing.assert_allclose(found.scores, expected.bbox_scores[surest], atol=1e-4)
    # Next to equal scores may change places: people are matched by their boxes.
    away = np.abs(found.boxes[:, None] - corners[surest][None]).max(axis=-1)
    twins = surest[away.argmin(axis=1)]
    close = away.min(axis=1) < 0.05
    assert close.mean() > 0.9
    confidence = np.abs(found.confidence - expected.keypoint_scores[twins])[close]
    assert (confidence < 1e-3).mean() > 0.99
    # Random networks magnify rounding errors, and on noise the coordinate classifier of RTMO divides by next
    # to nothing now and then.
    error = np.abs(found.keypoints - expected.keypoints[twins])[close]
    assert np.median(error) < 3e-3
    assert (error < 0.02).mean() > {RTMO: 0.9, YOLOX: 0.99}[name]


def decoded_row(name: str, pictures: np.ndarray, size: tuple[int, int]) -> dict:
    return dict.fromkeys(DECODED.names) | {
        "clip_id": name,
        "person": 0,
        "part": 0,
        "last": True,
        "status": "ok",
        "attempts": 1,
        "width_px": size[0],
        "height_px": size[1],
        "frame_index": list(range(len(pictures))),
        "time_s": [index / 25 for index in range(len(pictures))],
        "frames": pictures.tobytes(),
    }


@pytest.mark.slow
def test_batches_across_clips_change_nothing_and_rejected_clips_pass_through(weights):
    model = one_stage.find_one_stage_model(RTMO, weights(RTMO))
    network = one_stage.OneStageNetwork(model, "cpu")
    sizes = [(320, 240), (152, 320)]
    clips = [np.stack([letterboxed(noise(*size[::-1]), model.picture)] * 2) for size in sizes]
    rows = [decoded_row(name, clip, size) for name, clip, size in zip("ab", clips, sizes, strict=True)]
    bad = dict.fromkeys(DECODED.names) | {"clip_id": "bad", "status": "rejected", "error_code": "empty"}
    table = pa.Table.from_pylist([rows[0], bad, rows[1]], schema=DECODED)
    small, large = (
        pa.concat_tables(one_stage.OneStageStage(model, batch, False).process(network, table)).to_pylist()
        for batch in (1, 3)
    )
    assert [row["error_code"] for row in small] == [None, "empty", None]
    for one, other in zip(small, large, strict=True):
        assert one["frame_detections"] == other["frame_detections"]
        if one["status"] == "ok":
            assert sum(one["frame_detections"]) > 0
            np.testing.assert_allclose(one["boxes"], other["boxes"], atol=0.05)
            np.testing.assert_allclose(one["confidence"], other["confidence"], atol=1e-3)
    people = one_stage.pose_rows(small[0], "largest", 2, model.skeleton)
    assert pa.Table.from_pylist(people, schema=POSES).column("num_joints").to_pylist() == [17] * len(people)


def test_the_frame_lies_in_the_middle_of_its_letterbox():
    rgb = np.full((100, 200, 3), 200, np.uint8)
    box = Letterbox(400, 300, border=114)
    picture = letterboxed(rgb, box)
    assert (picture[:49] == 114).all()
    assert (picture[51:248, :398] == 200).all()  # the edges blend
    assert (picture[251:] == 114).all()
    assert box.inside((200, 100)) == (slice(50, 250), slice(0, 400))
    assert box.inside((100, 200)) == (slice(0, 300), slice(125, 275))


def followed(count: int = 30, gap: slice = slice(10, 13)) -> dict:
    """A clip with a runner on the left, unseen for three frames, and a large one who stands."""
    runner = [(100 + 6 * step, 200, 160 + 6 * step, 400, 0.9) for step in range(count)]
    stander = (800, 100, 1000, 600, 0.8)
    frames = [[stander] if step in range(count)[gap] else [runner[step], stander] for step in range(count)]
    row = made_boxes.detections_row(frames)
    # Two joints per person: the box's corners. The stander is half as sure.
    boxes = np.asarray(row["boxes"], np.float32).reshape(-1, 4)
    sure = np.where(boxes[:, :1] == 800, 0.4, 0.8) * np.ones(2)
    return row | {"keypoints": boxes.ravel(), "confidence": sure.astype(np.float32).ravel()}


def test_each_person_keeps_her_own_keypoints_and_gaps_are_not_invented():
    found = followed()
    runner, stander = one_stage.pose_rows(found, "most_motion", 2, "mpii16")
    assert (runner["person"], stander["person"]) == (0, 1)
    keypoints = np.asarray(runner["keypoints"]).reshape(30, 2, 2)
    seen = np.r_[0:10, 13:30]
    np.testing.assert_array_equal(keypoints[seen, 0, 0], 100 + 6 * seen)
    assert np.isnan(keypoints[10:13]).all()
    confidence = np.asarray(runner["confidence"]).reshape(30, 2)
    np.testing.assert_array_equal(confidence[10:13], 0)
    np.testing.assert_allclose(confidence[seen], 0.8)
    assert runner["missing_share"] == pytest.approx(0.1)
    np.testing.assert_allclose(np.asarray(stander["confidence"]), 0.4)
    assert (stander["num_frames"], stander["num_joints"], stander["unit"]) == (30, 2, "px")
    pa.Table.from_pylist([runner, stander], schema=POSES)


def test_a_frame_sampled_twice_is_the_same_people():
    found = followed()
    counts = list(found["frame_detections"])
    kept = {name: list(found[name]) for name in ("frame_index", "time_s")}
    kept["frame_index"][1], kept["time_s"][1] = kept["frame_index"][0], kept["time_s"][0]
    boxes = np.asarray(found["boxes"], np.float32).reshape(-1, 4).copy()
    boxes[counts[0] : 2 * counts[0]] = boxes[: counts[0]]
    twice = found | kept | {"boxes": boxes.ravel(), "keypoints": boxes.ravel()}
    keypoints = np.asarray(one_stage.pose_rows(twice, "most_motion", 1, "mpii16")[0]["keypoints"])
    np.testing.assert_array_equal(keypoints.reshape(-1, 2, 2)[:3, 0, 0], [100, 100, 112])


def test_nobody_is_a_rejected_row():
    empty = made_boxes.detections_row([[]] * 5) | {"keypoints": [], "confidence": []}
    (row,) = one_stage.pose_rows(empty, "most_motion", 1, "coco17")
    assert (row["status"], row["error_code"]) == ("rejected", "no_person")
    assert set(row) == set(POSES.names)


def test_the_work_says_who_is_the_athlete_and_that_boxes_are_found(weights):
    config = ExtractConfig(pose_config=RTMO, weights=weights(RTMO), athlete="largest", people=2)
    work = find_work_of(config)
    assert (work.family, work.spec["athlete"], work.spec["people"]) == ("poses", "largest", 2)
    assert work.spec["boxes"] == "found by the network"
    assert work.decode.picture == Letterbox(416, 416, border=114)
    found = pa.Table.from_pylist([followed()], schema=one_stage.FOUND)
    assert work.finish(found).column("person").to_pylist() == [0, 1]


def test_what_cannot_be_is_refused(weights, tmp_path):
    with pytest.raises(ConfigError, match="needs a weights file. Give --weights FILE"):
        one_stage.find_one_stage_model(RTMO, None)
    with pytest.raises(ConfigError, match="none.pth does not exist"):
        one_stage.find_one_stage_model(RTMO, tmp_path / "none.pth")
    with pytest.raises(ConfigError, match="neither a top-down network nor a one-stage network that gives"):
        one_stage.find_one_stage_model("dekr_hrnet-w32_8xb10-140e_coco-512x512", weights(RTMO))
    with pytest.raises(ConfigError, match="has no flip test in MMPose"):
        find_work_of(ExtractConfig(pose_config=RTMO, weights=weights(RTMO), flip_test=True))
    with pytest.raises(ConfigError, match="finds people by itself"):
        find_people_work(ExtractConfig(pose_config=RTMO, detector_config="rtmdet_tiny_8xb32-300e_coco"))
