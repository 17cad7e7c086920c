"""The detection stage gives what MMDetection's own inference gives, for detectors of several families."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import ConfigError
from pipelines.stages import detect, mmpose_compat
from pipelines.stages.crops import DECODED
from pipelines.stages.people import people_rows

mmpose_compat.install()

NANO = "rtmdet_nano_320-8xb32_coco-person"
TINY = "rtmdet_tiny_8xb32-300e_coco"
YOLOX = "yolox_tiny_8xb8-300e_coco"
FASTER = "faster-rcnn_r50_fpn_1x_coco"
SIZE = (384, 216)

# Last layers of the heads: class scores, and distances to a box's sides.
_CLASSES = ("rtm_cls", "conv_cls", "conv_obj", "fc_cls", "rpn_cls")
_SIDES = ("rtm_reg",)


def image(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth random RGB picture."""
    noise = np.random.default_rng(seed).uniform(0, 255, (size[1] // 8, size[0] // 8, 3)).astype(np.float32)
    return cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Makes a weights file with seeded random values that detect many people in `image`."""

    def make(name: str) -> Path:
        import torch
        from safetensors.torch import save_file

        path = tmp_path_factory.getbasetemp() / f"{name}.safetensors"
        if path.is_file():
            return path
        torch.manual_seed(0)
        network = build(name)
        random_detector(network)
        save_file({key: value.clone() for key, value in network.state_dict().items()}, path)
        return path

    return make


def build(name: str):
    """MMDetection's own network of a config, with its test pipeline, ready for `inference_detector`."""
    from mmdet.apis import init_detector

    config = detect.read_detector_config(name)
    config.model.backbone.init_cfg = None
    return init_detector(config, None, device="cpu")


def random_detector(network) -> None:
    """Random values under which activations stay near one and scores spread."""
    from mmdet.apis import inference_detector
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        norm.train()
    for name, layer in network.named_modules():
        if hasattr(layer, "weight") and any(part in name for part in _CLASSES) and "convs" not in name:
            layer.weight.data.normal_(0, 0.5 / layer.weight[0].numel() ** 0.5)
            layer.bias.data.zero_()
            layer.bias.data[: 3 if "rpn" in name else 1] = 1.0
        if hasattr(layer, "weight") and any(part in name for part in _SIDES):
            layer.bias.data.fill_(4.0)
    inference_detector(network, image()[..., ::-1].copy())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def scaled(rgb: np.ndarray, fit: detect.Fit) -> np.ndarray:
    size = detect.fit_size(rgb.shape[1], rgb.shape[0], fit)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)


def decoded_row(name: str, frames: np.ndarray, size: tuple[int, int] = SIZE, **values) -> dict:
    return dict.fromkeys(DECODED.names) | {
        "clip_id": name,
        "uri": f"{name}.mp4",
        "status": "ok",
        "attempts": 1,
        "width_px": size[0],
        "height_px": size[1],
        "frame_index": list(range(len(frames))),
        "time_s": [index / 25 for index in range(len(frames))],
        "person": 0,
        "part": 0,
        "last": True,
        "frames": frames.tobytes(),
        **values,
    }


def run(model: detect.DetectorModel, network, rows: list[dict], every: int = 1, batch: int = 4) -> list[dict]:
    stage = detect.DetectStage(model, every, batch, use_gpu=False)
    return pa.concat_tables(stage.process(network, pa.Table.from_pylist(rows, schema=DECODED))).to_pylist()


@pytest.mark.parametrize(
    "name",
    [NANO, pytest.param(TINY, marks=pytest.mark.slow), YOLOX, pytest.param(FASTER, marks=pytest.mark.slow)],
)
def test_equals_mmdetection_inference(name, weights):
    from mmdet.apis import inference_detector

    model = detect.find_detector(name, weights(name))
    reference = build(name)
    mmpose_compat.load_weights(reference, model.weights)
    found = inference_detector(reference, image()[..., ::-1].copy()).pred_instances
    people = found[(found.labels == 0) & (found.scores >= detect.KEEP_SCORE)]
    boxes, scores = detect.DetectorNetwork(model, "cpu").predict(scaled(image(), model.fit)[None], SIZE)[0]
    sure = scores >= detect.KEEP_SCORE
    assert len(people) >= 5
    # Next to no ties, so that suppression must agree.
    assert len(np.unique(people.scores.numpy())) > 0.99 * len(people)
    assert sure.sum() == len(people)
    away = np.abs(people.bboxes.numpy()[:, None] - boxes[sure][None]).max(axis=-1)
    # Random second stages stretch boxes by large factors, and their rounding errors with them.
    assert away.min(axis=1).max() <= {FASTER: 0.1}.get(name, 0.01)
    np.testing.assert_allclose(scores[sure][away.argmin(axis=1)], people.scores, atol=1e-3)


def test_batches_across_clips_and_sizes_change_nothing(weights):
    model = detect.find_detector(NANO, weights(NANO))
    network = detect.DetectorNetwork(model, "cpu")
    wide = np.stack([scaled(image(seed), model.fit) for seed in range(3)])
    tall = np.stack([scaled(image(seed, (216, 384)), model.fit) for seed in range(2)])
    rows = [
        decoded_row("a", wide[:1]),
        decoded_row("b", tall, (216, 384)),
        decoded_row("c", wide[1:]),
    ]
    together = run(model, network, rows, batch=4)
    alone = [run(model, network, [row], batch=1)[0] for row in rows]
    assert [row["clip_id"] for row in together] == ["a", "b", "c"]
    for one, other in zip(together, alone, strict=True):
        assert one["num_frames"] == len(one["frame_detections"])
        assert sum(one["frame_detections"]) * 4 == len(one["boxes"]) > 0
        assert one["frame_detections"] == other["frame_detections"]
        # Other kernels run for other batch sizes; the last bits of random weights grow to hundredths.
        np.testing.assert_allclose(one["boxes"], other["boxes"], atol=0.1)
    assert max(together[1]["boxes"][2::4]) <= 216  # boxes end at the frame's edge
    assert min(together[0]["box_scores"]) >= detect.KEEP_SCORE


def test_every_third_frame_and_the_last_are_seen(weights):
    model = detect.find_detector(NANO, weights(NANO))
    network = detect.DetectorNetwork(model, "cpu")
    frames = np.stack([scaled(image(seed % 2), model.fit) for seed in range(6)])
    rows = [
        decoded_row("a", frames, part=0, last=False),
        decoded_row("a", frames, part=1, frame_index=list(range(6, 12))),
    ]
    first, second = run(model, network, rows, every=3)
    assert first["frame_index"] == [0, 3]
    assert second["frame_index"] == [6, 9, 11]
    assert second["time_s"] == [0.0, 3 / 25, 5 / 25]
    assert len(second["camera"]) == 12
    assert np.isnan(second["picture_change"]).tolist() == [True, False, False]


def test_a_rejected_clip_passes_through(weights):
    model = detect.find_detector(NANO, weights(NANO))
    network = detect.DetectorNetwork(model, "cpu")
    bad = dict.fromkeys(DECODED.names) | {"clip_id": "bad", "status": "rejected", "error_code": "empty"}
    good = decoded_row("good", scaled(image(), model.fit)[None])
    rows = run(model, network, [bad, good])
    assert [(row["clip_id"], row["error_code"]) for row in rows] == [("bad", "empty"), ("good", None)]


def test_fit_is_mmcvs_scaling():
    from mmcv import imrescale

    random = np.random.default_rng(0)
    for width, height in random.integers(16, 2000, (50, 2)):
        fit = detect.Fit(1333, 800)
        expected = imrescale(np.empty((height, width), np.uint8), (fit.width, fit.height)).shape[::-1]
        assert detect.fit_size(width, height, fit) == expected
    assert detect.fit_size(100, 400, detect.Fit(300, 300, keep_aspect=False)) == (300, 300)


def test_sizes_and_classes_are_read_from_the_config(tmp_path):
    path = tmp_path / "w.safetensors"
    path.touch()
    tiny = detect.find_detector(TINY, path)
    assert (tiny.fit, tiny.pad_width, tiny.pad_height, tiny.pad_value) == (
        detect.Fit(640, 640),
        640,
        640,
        114,
    )
    assert detect.find_detector(YOLOX, path).pad_square
    faster = detect.find_detector(FASTER, path)
    assert (faster.fit, faster.pad_width, faster.person_class) == (detect.Fit(1333, 800), 0, 0)
    voc = detect.find_detector("faster-rcnn_r50_fpn_1x_voc0712", path)
    assert voc.person_class == 14


def test_unknown_config_names_the_nearest(tmp_path):
    path = tmp_path / "w.safetensors"
    path.touch()
    with pytest.raises(ConfigError, match=f"no config of the MMDetection zoo. Did you mean {TINY}"):
        detect.find_detector("rtmdet_tiny_8xb32-300e", path)


def test_weights_are_required(tmp_path):
    with pytest.raises(ConfigError, match="needs a weights file. Give --detector-weights FILE"):
        detect.find_detector(NANO, None)
    with pytest.raises(ConfigError, match="none.pth does not exist"):
        detect.find_detector(NANO, tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("rtmdet_nano_320-8xb32_hand", "does not detect people .it knows a head of .1. classes.. Choose"),
        ("glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365", "needs more than a scaled picture .FixScaleRes"),
        ("ssd300_8xb32-24e_widerface", "does not detect people .it knows face."),
    ],
)
def test_detectors_of_other_things_are_refused(tmp_path, name, cause):
    path = tmp_path / "w.safetensors"
    path.touch()
    with pytest.raises(ConfigError, match=cause):
        detect.find_detector(name, path)


def test_weights_of_another_detector_are_refused(weights):
    model = detect.find_detector(TINY, weights(NANO))
    with pytest.raises(ConfigError, match="the weights do not fit the model"):
        detect.DetectorNetwork(model, "cpu")


@pytest.mark.data
def test_a_real_video_goes_through_detection_and_choice(test_data, weights):
    """Plumbing: the network is random, the video and the rows are real."""
    import av

    with av.open(str(test_data / "videos" / "tfjs-models__pose_squats.mp4")) as container:
        shown = itertools.islice(container.decode(video=0), 12)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in shown])
    size = (frames.shape[2], frames.shape[1])
    model = detect.find_detector(NANO, weights(NANO))
    network = detect.DetectorNetwork(model, "cpu")
    pictures = np.stack([scaled(frame, model.fit) for frame in frames])
    (row,) = run(model, network, [decoded_row("clip", pictures, size)])
    assert row["num_frames"] == 12
    # The random boxes cover most of the picture, so that the camera's motion may be unknown here.
    assert len(row["camera"]) == 4 * 12
    assert np.isfinite(row["picture_change"][1:]).all()
    for person in people_rows(row, "most_motion", 2):
        boxes = np.asarray(person["box"]).reshape(-1, 4)
        assert person["status"] == "ok"
        assert (boxes[:, 2:] <= size).all()
        assert (boxes[:, :2] < boxes[:, 2:]).all()
