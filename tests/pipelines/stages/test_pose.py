"""The pose stage gives what MMPose's own inference gives, for any top-down network."""

from __future__ import annotations

import copy

import numpy as np
import pyarrow as pa
import pytest

from aqa_models.skeletons import skeleton
from pipelines.errors import ConfigError
from pipelines.stages import mmpose_compat, pose
from pipelines.stages.crops import DECODED
from pipelines.stages.pictures import box_to_center_scale, fix_aspect, warp_matrix

mmpose_compat.install()

RTMPOSE = "rtmpose-t_8xb256-420e_coco-256x192"
HRNET = "td-hm_hrnet-w32_dark-8xb64-210e_coco-256x192"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Makes a weights file with seeded random values for a config name.

    Batch normalisation has seen noise: without that the activations fade and all heatmaps are flat.
    """
    folder = tmp_path_factory.mktemp("weights")

    def make(name: str):
        import torch
        from mmpose.apis import init_model
        from safetensors.torch import save_file

        path = folder / f"{name}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            network = init_model(pose.read_pose_config(name), None, device="cpu")
            for module in network.modules():
                if isinstance(module, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(module.weight)
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.momentum = None
            with torch.no_grad():
                network.train().extract_feat(torch.randn(2, 3, 256, 192))
            save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
        return path

    return make


def image(height: int = 240, width: int = 320) -> np.ndarray:
    """A smooth random RGB picture."""
    import cv2

    noise = np.random.default_rng(0).uniform(0, 255, (height // 8, width // 8, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def crop(rgb: np.ndarray, box: tuple, model: pose.PoseModel) -> np.ndarray:
    import cv2

    center, scale = box_to_center_scale(box, model.padding)
    scale = fix_aspect(scale, model.width, model.height)
    matrix = warp_matrix(center, scale, (model.width, model.height))
    return cv2.warpAffine(rgb, matrix, (model.width, model.height), flags=cv2.INTER_LINEAR)


def decoded_row(name: str, frames: np.ndarray, box: tuple, **values) -> dict:
    return dict.fromkeys(DECODED.names) | {
        "clip_id": name,
        "uri": f"{name}.mp4",
        "status": "ok",
        "attempts": 1,
        "frame_index": list(range(len(frames))),
        "time_s": [index / 25 for index in range(len(frames))],
        "person": 0,
        "part": 0,
        "last": True,
        "box": list(box) * len(frames),
        "frames": frames.tobytes(),
        **values,
    }


def estimate(model: pose.PoseModel, network: pose.PoseNetwork, rows: pa.Table, batch: int = 8) -> pa.Table:
    return pa.concat_tables(pose.PoseStage(model, batch, use_gpu=False).process(network, rows))


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("name", [RTMPOSE, pytest.param(HRNET, marks=pytest.mark.slow), pose.SHIPPED])
def test_equals_mmpose_inference(name, flip_test, weights):
    model = pose.find_pose_model(name, None if name == pose.SHIPPED else weights(name))
    network = pose.PoseNetwork(model, "cpu", flip_test=flip_test)
    from mmpose.apis import inference_topdown, init_model

    config = pose.read_pose_config(name)
    config.model.test_cfg.flip_test = flip_test
    reference = init_model(config, None, device="cpu")
    mmpose_compat.load_weights(reference, model.weights)
    double = copy.deepcopy(reference).double()
    rgb = image()
    boxes = [(0.0, 0.0, 320.0, 240.0), (40.5, 10.25, 200.0, 230.75)]
    for box in boxes:
        # MMPose takes the order of flipped joints from the data set of the config, we from our skeleton.
        expected = inference_topdown(reference, rgb[..., ::-1].copy(), np.asarray([box]))[0]
        rows = pa.Table.from_pylist([decoded_row("clip", crop(rgb, box, model)[None], box)], schema=DECODED)
        row = estimate(model, network, rows).to_pylist()[0]
        found = np.asarray(row["keypoints"]).reshape(row["num_frames"], row["num_joints"], 2)
        expected = expected.pred_instances.keypoints[0]
        # DARK divides by the curvature of the heatmap. On the noise that a random network gives, MMPose
        # itself then differs between fp32 and fp64; such joints cannot be compared.
        exact = inference_topdown(double, rgb[..., ::-1].copy(), np.asarray([box]))[0]
        steady = np.abs(exact.pred_instances.keypoints[0] - expected).max(-1) < 1e-4
        assert steady.mean() >= {RTMPOSE: 1.0, HRNET: 0.5, pose.SHIPPED: 0.8}[name]
        np.testing.assert_allclose(found[0][steady], expected[steady], atol=1e-3)


def test_batches_across_clips_change_nothing(weights):
    model = pose.find_pose_model(RTMPOSE, weights(RTMPOSE))
    network = pose.PoseNetwork(model, "cpu")
    box = (0.0, 0.0, 320.0, 240.0)
    frames = np.stack([crop(np.roll(image(), 9 * shift, 1), box, model) for shift in range(5)])
    clips = [decoded_row("a", frames[:2], box), decoded_row("b", frames[2:], box)]
    rows = pa.Table.from_pylist(clips, schema=DECODED)
    small, large = (estimate(model, network, rows, frames_per_batch) for frames_per_batch in (1, 4))
    assert small.column("num_frames").to_pylist() == [2, 3]
    for one, other in zip(small.to_pylist(), large.to_pylist(), strict=True):
        np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=1e-3)
        np.testing.assert_allclose(one["confidence"], other["confidence"], atol=1e-5)


def test_a_rejected_clip_passes_through_and_leaves_the_others_alone():
    model = pose.find_pose_model(pose.SHIPPED, None)
    network = pose.PoseNetwork(model, "cpu")
    box = (0.0, 0.0, 320.0, 240.0)
    good = decoded_row("good", crop(image(), box, model)[None], box)
    bad = dict.fromkeys(DECODED.names) | {
        "clip_id": "bad",
        "person": 0,
        "status": "rejected",
        "attempts": 1,
        "error_code": "empty",
        "error_message": "zero bytes",
    }
    rows = estimate(model, network, pa.Table.from_pylist([bad, good], schema=DECODED))
    assert rows.column("clip_id").to_pylist() == ["bad", "good"]
    assert rows.column("status").to_pylist() == ["rejected", "ok"]
    assert rows.column("error_code").to_pylist() == ["empty", None]
    assert rows.column("skeleton").to_pylist() == [None, "mpii16"]


def test_unknown_config_names_the_nearest(tmp_path):
    path = tmp_path / "w.safetensors"
    path.touch()
    with pytest.raises(ConfigError, match=f"no config of the MMPose zoo. Did you mean {RTMPOSE}"):
        pose.find_pose_model("rtmpose-t_8xb256-420e_coco-256x19", path)


def test_weights_are_required_for_the_zoo(tmp_path):
    with pytest.raises(ConfigError, match="needs a weights file. Give --weights FILE"):
        pose.find_pose_model(RTMPOSE, None)
    with pytest.raises(ConfigError, match="none.pth does not exist"):
        pose.find_pose_model(RTMPOSE, tmp_path / "none.pth")


def test_a_bottom_up_network_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.touch()
    with pytest.raises(ConfigError, match="is no top-down network. Choose a topdown config"):
        pose.find_pose_model("rtmo-s_8xb32-600e_coco-640x640", path)


def test_a_network_of_an_unknown_skeleton_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.touch()
    with pytest.raises(ConfigError, match="a skeleton not known here. Choose a network for one of: coco"):
        pose.find_pose_model("td-hm_res50_8xb64-210e_animalpose-256x256", path)


def test_weights_of_another_network_are_refused(weights):
    model = pose.find_pose_model(RTMPOSE, weights(HRNET))
    with pytest.raises(ConfigError, match="missing"):
        pose.PoseNetwork(model, "cpu")


def test_installing_twice_is_harmless():
    mmpose_compat.install()
    mmpose_compat.install()
    import mmpose  # noqa: F401


@pytest.mark.parametrize(
    ("name", "described"),
    [("coco17", "coco"), ("coco17", "humanart"), ("mpii16", "mpii"), ("halpe26", "halpe26")],
)
def test_flipped_joints_are_those_of_mmpose(name, described):
    from pathlib import Path

    import mmpose
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    folder = Path(str(mmpose.__file__)).parent / ".mim" / "configs" / "_base_" / "datasets"
    known = parse_pose_metainfo({"from_file": str(folder / f"{described}.py")})
    assert skeleton(name).flip_order == known["flip_indices"]
    names = known["keypoint_id2name"].values()
    same = [found == joint for found, joint in zip(skeleton(name).joints, names, strict=True)]
    assert sum(same) >= len(same) - 3  # Halpe's head and hip, MPII's ends of the neck, have names of ours


def test_half_precision_moves_keypoints_of_the_shipped_network_little():
    model = pose.find_pose_model(pose.SHIPPED, None)
    film = rendered_crops(model)
    centers, scales = np.tile([96.0, 96.0], (len(film), 1)), np.full((len(film), 2), 192.0)
    exact, sure = pose.PoseNetwork(model, "cpu").predict(film, centers, scales)
    near, _ = pose.PoseNetwork(model, "cpu", "bf16").predict(film, centers, scales)
    distance = np.linalg.norm(exact - near, axis=-1)[sure > 0.3]
    assert len(distance) > 20
    assert 0 < np.median(distance) < 0.2
    assert np.quantile(distance, 0.95) < 1.0


def rendered_crops(model: pose.PoseModel) -> np.ndarray:
    """(T, 192, 192, 3) uint8: whole rendered frames at the size of the network."""
    from pipelines.rendered.train_network import render_poses

    frames = [frame for seed in (40, 41) for frame in render_poses(seed)[0][:12]]
    return np.stack([crop(frame, (0.0, 0.0, *frame.shape[1::-1]), model) for frame in frames])


def test_automatic_precision_is_concrete():
    import torch

    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not torch.cuda.is_available():
        assert pose.resolve_precision("auto") == ("bf16" if native else "fp32")
    assert pose.resolve_precision("auto") != "auto"
    assert pose.resolve_precision("fp16") == "fp16"
    with pytest.raises(ConfigError, match=r"extract.precision: fp16 needs a GPU. Choose bf16 or fp32"):
        pose.PoseNetwork(pose.find_pose_model(pose.SHIPPED, None), "cpu", "fp16")


@pytest.mark.slow
def test_a_compiled_network_gives_the_same(weights):
    model = pose.find_pose_model(RTMPOSE, weights(RTMPOSE))
    crops = np.stack([crop(np.roll(image(), 9 * shift, 1), (0, 0, 320, 240), model) for shift in range(3)])
    centers, scales = np.tile([160.0, 120.0], (3, 1)), np.tile([240.0, 320.0], (3, 1))
    plain, _ = pose.PoseNetwork(model, "cpu").predict(crops, centers, scales)
    network = pose.PoseNetwork(model, "cpu", compile=True)
    for size in (3, 2):
        compiled, _ = network.predict(crops[:size], centers[:size], scales[:size])
        np.testing.assert_allclose(compiled, plain[:size], atol=1e-2)


def test_a_flip_test_of_a_network_with_more_joints_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.touch()
    model = pose.find_pose_model("cspnext-tiny_udp_8xb256-210e_aic-coco-256x192", path)
    with pytest.raises(ConfigError, match="predicts more joints than it gives.*Leave the flip test out"):
        pose.PoseNetwork(model, "cpu", flip_test=True)


def test_a_network_of_a_package_that_is_missing_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.touch()
    with pytest.raises(
        ConfigError, match="needs the package mmpretrain, which is not installed. Install it or"
    ):
        pose.find_pose_model("td-hm_ViTPose-small_8xb64-210e_coco-256x192", path)
