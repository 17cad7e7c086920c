"""The appearance stage: which frames are shown, what is stored, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import ConfigError
from pipelines.schema import FEATURE_PARTS
from pipelines.stages import appearance
from pipelines.stages.appearance import AppearanceModel, AppearanceStage, find_appearance_model
from pipelines.stages.crops import DECODED


def random_model(kind: str) -> AppearanceModel:
    return find_appearance_model(kind, None, True, "regnety_002")


def decoded_row(name: str, frames: np.ndarray, **values) -> dict:
    return dict.fromkeys(DECODED.names) | {
        "clip_id": name,
        "uri": f"{name}.mp4",
        "person": 0,
        "part": 0,
        "last": True,
        "status": "ok",
        "attempts": 1,
        "decoder": "decord",
        "width_px": 1920,
        "frame_index": list(range(len(frames))),
        "time_s": [index / 25 for index in range(len(frames))],
        "frames": frames.tobytes(),
        **values,
    }


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=DECODED)


def run(model: AppearanceModel, network, rows: pa.Table, frames_per_batch: int = 64) -> list[dict]:
    stage = AppearanceStage(model, frames_per_batch, use_gpu=False, precision="fp32")
    result = pa.concat_tables(stage.process(network, rows))
    assert result.schema == FEATURE_PARTS
    return result.to_pylist()


def counted(model: AppearanceModel, frames: int) -> np.ndarray:
    """Pictures whose every pixel is the number of the frame."""
    numbers = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(numbers, (frames, model.height, model.width, 3)).copy()


def noise(model: AppearanceModel, frames: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (frames, model.height, model.width, 3), dtype=np.uint8)


class CornerPixels:
    """A network whose features are the first pixel of each frame it is shown; it notes the batch sizes."""

    def __init__(self):
        self.batches: list[int] = []

    def features(self, windows: np.ndarray) -> np.ndarray:
        assert windows.shape[2:] == (112, 112, 3)
        self.batches.append(len(windows))
        return windows[:, :, 0, 0, 0].astype(np.float32)


def segments(row: dict) -> np.ndarray:
    return np.reshape(row["features"], (row["num_segments"], row["num_channels"]))


def test_i3d_sees_16_frames_from_0_10_to_80_of_96():
    model = random_model("i3d")
    assert (model.width, model.height, model.crop, model.sampling) == (200, 112, 112, "uniform:96")
    row = run(model, CornerPixels(), table(decoded_row("a", counted(model, 96))))[0]
    assert row["segment_start"] == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    expected = np.arange(0, 90, 10)[:, None] + np.arange(16)
    assert np.array_equal(segments(row), expected)
    assert segments(row).max() == 95


def test_c3d_sees_every_frame_once_and_the_last_one_stands_still():
    model = random_model("c3d_fc6")
    assert (model.width, model.height, model.crop, model.sampling) == (171, 128, 112, "")
    row = run(model, CornerPixels(), table(decoded_row("a", counted(model, 37))))[0]
    assert row["segment_start"] == [0, 16, 32]
    assert segments(row)[:2].ravel().tolist() == list(range(32))
    assert segments(row)[2].tolist() == [32, 33, 34, 35, *[36] * 12]
    assert run(model, CornerPixels(), table(decoded_row("a", counted(model, 1))))[0]["num_segments"] == 1
    assert run(model, CornerPixels(), table(decoded_row("a", counted(model, 32))))[0]["num_segments"] == 2


def test_static_sees_each_frame():
    model = random_model("static")
    row = run(model, CornerPixels(), table(decoded_row("a", counted(model, 5))))[0]
    assert row["segment_start"] == row["frame_index"] == [0, 1, 2, 3, 4]
    assert segments(row).tolist() == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize("kind", ["c3d_fc6", "static"])
def test_parts_of_a_long_clip_join_to_the_whole(kind):
    model = random_model(kind)
    full = model.frames_per_part
    frames = counted(model, full + 23)
    frames[full:] = frames[:23] + 100
    whole = CornerPixels()
    parts = run(
        model,
        whole,
        table(
            decoded_row("a", frames[:full], last=False),
            decoded_row("a", frames[full:], part=1),
        ),
    )
    starts = parts[0]["segment_start"] + parts[1]["segment_start"]
    assert starts == list(range(0, full + 23, model.step))
    assert [(row["part"], row["last"]) for row in parts] == [(0, False), (1, True)]
    shown = np.concatenate([segments(row) for row in parts])
    assert np.array_equal(shown[:, 0], frames[starts, 0, 0, 0])
    empty = run(model, whole, table(decoded_row("a", frames[:0], part=2)))[0]
    assert (empty["status"], empty["num_segments"], empty["features"]) == ("ok", 0, [])


@pytest.mark.parametrize("kind", ["c3d_fc6", "i3d"])
def test_parts_cut_at_the_wrong_place_are_a_fault_of_the_program(kind):
    model = random_model(kind)
    rows = table(decoded_row("a", counted(model, 90), last=False))
    with pytest.raises(ValueError, match=r"a.mp4: part 0 holds 90 frames instead of (96|256)"):
        run(model, CornerPixels(), rows)


def test_i3d_of_another_sampling_is_a_fault_of_the_program():
    model = random_model("i3d")
    with pytest.raises(ValueError, match="a.mp4: i3d reads 96 frames, got 50"):
        run(model, CornerPixels(), table(decoded_row("a", counted(model, 50))))


def test_batches_fill_across_clips():
    model, network = random_model("c3d_fc6"), CornerPixels()
    rows = run(model, network, table(*(decoded_row(name, counted(model, 33)) for name in "abc")), 64)
    assert network.batches == [4, 4, 1]
    assert [row["num_segments"] for row in rows] == [3, 3, 3]


def test_the_crop_is_the_middle_as_research_code_has_it():
    columns = np.broadcast_to(np.arange(200), (1, 112, 200))[..., None]
    assert appearance.cut_middle(columns, 112)[0, 0, [0, -1], 0].tolist() == [44, 155]
    columns = np.broadcast_to(np.arange(171), (1, 128, 171))[..., None]
    assert appearance.cut_middle(columns, 112)[0, 0, [0, -1], 0].tolist() == [30, 141]
    rows = np.broadcast_to(np.arange(128)[:, None], (1, 128, 171))[..., None]
    assert appearance.cut_middle(rows, 112)[0, [0, -1], 0, 0].tolist() == [8, 119]


def test_clips_together_equal_clips_alone():
    model = random_model("static")
    network = AppearanceStage(model, 64, use_gpu=False, precision="fp32").setup()
    clips = [decoded_row(name, noise(model, count, count)) for name, count in [("a", 3), ("b", 5), ("c", 1)]]
    together = run(model, network, table(*clips), frames_per_batch=4)
    alone = [run(model, network, table(clip), frames_per_batch=1)[0] for clip in clips]
    for one, other in zip(together, alone, strict=True):
        assert one["num_channels"] == 368
        # one step of half precision, where the two sides of a boundary were rounded apart
        np.testing.assert_allclose(one["features"], other["features"], rtol=1e-3, atol=1e-4)
    unrounded = [
        np.random.default_rng(0).integers(0, 256, (n, 1, 112, 112, 3), dtype=np.uint8) for n in (4, 1)
    ]
    batch, single = (network.features(windows) for windows in unrounded)
    np.testing.assert_allclose(batch[:1], single, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["i3d", "c3d_fc6"])
def test_whole_clips_together_equal_clips_alone(kind):
    model = random_model(kind)
    network = AppearanceStage(model, 64, use_gpu=False, precision="fp32").setup()
    assert network is not None
    frames = 96 if kind == "i3d" else 40
    clips = [decoded_row(str(seed), noise(model, frames, seed)) for seed in range(2)]
    together = run(model, network, table(*clips), frames_per_batch=80)
    alone = [run(model, network, table(clip), frames_per_batch=16)[0] for clip in clips]
    for one, other in zip(together, alone, strict=True):
        assert segments(one).shape == ((9, 1024) if kind == "i3d" else (3, 4096))
        assert segments(one).std() > 0.01
        # half precision rounds to 5e-4 of a value; before that the sums differ by their order only
        np.testing.assert_allclose(segments(one), segments(other), rtol=1e-3, atol=1e-4 * segments(one).max())
    assert not np.allclose(together[0]["features"], together[1]["features"], rtol=0.01)


def test_features_are_rounded_to_half_precision():
    class Thirds:
        def features(self, windows: np.ndarray) -> np.ndarray:
            return np.full((len(windows), 2), 1 / 3, np.float32)

    model = random_model("static")
    row = run(model, Thirds(), table(decoded_row("a", counted(model, 1))))[0]
    assert row["features"] == [0.333251953125] * 2  # 1365 / 4096


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "regnety_002 gave values that are not finite"),
        (float("inf"), "regnety_002 gave values that are not finite"),
        (7e4, r"regnety_002 gave 7e\+04, beyond half precision \(65504\)"),
    ],
)
def test_features_that_cannot_be_stored_reject_that_clip_alone(value, message):
    class Spoiled:
        def features(self, windows: np.ndarray) -> np.ndarray:
            return np.where(windows[:, :1, 0, 0, 0] == 9, value, 1.0)

    import re

    model = random_model("static")
    bad = counted(model, 1) + 9
    first, second = run(model, Spoiled(), table(decoded_row("bad", bad), decoded_row("b", counted(model, 2))))
    assert (first["status"], first["error_code"], first["features"]) == ("rejected", "bad_features", None)
    assert re.fullmatch(message, first["error_message"])
    assert second["status"] == "ok"


def test_a_rejected_clip_passes_through_and_leaves_the_others_alone():
    model = random_model("static")
    bad = dict.fromkeys(DECODED.names) | {
        "clip_id": "bad",
        "person": 0,
        "last": True,
        "status": "rejected",
        "attempts": 2,
        "error_code": "empty",
        "error_message": "zero bytes",
    }
    rows = run(model, CornerPixels(), table(bad, decoded_row("good", counted(model, 2))))
    assert [(row["clip_id"], row["status"], row["error_code"]) for row in rows] == [
        ("bad", "rejected", "empty"),
        ("good", "ok", None),
    ]
    assert (rows[0]["attempts"], rows[1]["decoder"], rows[1]["width_px"]) == (2, "decord", 1920)
    only_bad = run(model, CornerPixels(), table(bad))
    assert only_bad == rows[:1]


def test_frames_are_kept_as_jpeg_of_the_same_picture():
    import cv2

    model = find_appearance_model("frames", None, False, "regnety_002")
    assert (model.width, model.height, model.sampling, model.weights_sha256) == (200, 112, "uniform:96", "")
    stage = AppearanceStage(model, 64, use_gpu=False, precision="fp32")
    assert stage.setup() is None
    small = noise(model, 96)[:, ::16, ::20]  # smooth pictures: JPEG is made for those
    frames = np.stack([cv2.resize(image, (200, 112), interpolation=cv2.INTER_CUBIC) for image in small])
    row = run(model, None, table(decoded_row("a", frames)))[0]
    assert (row["num_frames"], len(row["jpeg"]), row["num_segments"], row["features"]) == (96, 96, None, None)
    for original, data in zip(frames[:5], row["jpeg"], strict=False):
        assert data[:3] == b"\xff\xd8\xff"
        seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert seen.shape == (112, 200, 3)
        assert np.abs(seen.astype(int) - original).mean() < 3  # and red is not blue
    assert np.abs(frames[0].astype(int) - frames[1]).mean() > 30


def test_without_weights_the_run_refuses_unless_told():
    with pytest.raises(
        ConfigError, match="kind i3d needs a weights file.*--weights FILE, or --random-weights"
    ):
        find_appearance_model("i3d", None, False, "regnety_002")
    model = random_model("i3d")
    assert model.weights_sha256 == model.spec()["weights_sha256"] == "random:0"


def test_contradictions_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="random_weights: there is a weights file too. Leave out one"):
        find_appearance_model("i3d", tmp_path / "w.pth", True, "regnety_002")
    for weights, random in [(tmp_path / "w.pth", False), (None, True)]:
        with pytest.raises(ConfigError, match="frames runs no network. Leave out --weights"):
            find_appearance_model("frames", weights, random, "regnety_002")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_34", "'resnet_34' is no network of timm. Did you mean resnet34"),
        ("resnet18.of_nobody", "'resnet18.of_nobody' is no network of timm"),
        ("hf-hub:someone/network", "'hf-hub:someone/network' is no network of timm"),
        (
            "vit_tiny_patch16_224",
            "reads pictures of 224 px only, and kind static gives 112 px. Choose a conv",
        ),
    ],
)
def test_networks_timm_cannot_run_here_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        find_appearance_model("static", None, True, name)


def test_weights_are_tried_before_the_run_and_named_in_the_key(tmp_path):
    import hashlib

    import timm
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    model = find_appearance_model("static", path, False, "resnet18")
    assert model.weights == path
    assert model.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.spec() == {
        "network": "resnet18",
        "weights_sha256": model.weights_sha256,
        "picture": [200, 112],
        "crop": 112,
        "window": 1,
        "step": 1,
        "rounding": "half precision",
        "appearance_version": 1,
    }
    assert pickle.loads(pickle.dumps(model)) == model
    torch.save({"conv1.weight": torch.ones(1)}, path)
    with pytest.raises(ConfigError, match="no weights for kind static: .*Give a file laid out as timm's own"):
        find_appearance_model("static", path, False, "resnet18")
