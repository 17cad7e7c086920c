"""mmpose without compiled mmcv: imports, operators, model zoo configs, and weights."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.errors import ConfigError, SecurityError
from pipelines.stages import mmpose_compat

mmpose_compat.install()


def zoo(pattern: str) -> Path:
    """The one config of the packaged model zoo that matches."""
    import mmpose

    (found,) = (Path(mmpose.__file__).parent / ".mim" / "configs").rglob(pattern)
    return found


def test_install_twice_adds_one_finder():
    before = len(sys.meta_path)
    mmpose_compat.install()
    assert len(sys.meta_path) == before


@pytest.mark.slow
def test_a_fresh_process_needs_install_and_it_suffices():
    code = "from pipelines.stages import mmpose_compat as c; c.install(); import mmpose.apis, mmdet.apis"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert subprocess.run(
        [sys.executable, "-c", "import mmdet.apis"], check=False, capture_output=True
    ).returncode


@pytest.mark.parametrize(
    ("pattern", "joints"),
    [
        ("td-hm_hrnet-w32_dark-8xb64-210e_coco-256x192.py", 17),
        ("rtmpose-t_8xb256-420e_coco-256x192.py", 17),
        ("rtmpose-s_8xb256-420e_coco-256x192.py", 17),
        ("rtmpose-m_8xb64-210e_mpii-256x256.py", 16),
        ("td-hm_mobilenetv2_8xb64-210e_coco-256x192.py", 17),
    ],
)
def test_zoo_configs_estimate_finite_joints(pattern, joints):
    from mmpose.apis import inference_topdown, init_model

    model = init_model(str(zoo(pattern)), None, device="cpu")
    frame = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    (result,) = inference_topdown(model, frame)
    keypoints = result.pred_instances.keypoints
    assert keypoints.shape == (1, joints, 2)
    assert np.isfinite(keypoints).all()


def test_missing_operator_raises_only_when_called():
    from mmcv.ops import DeformConv2d, sigmoid_focal_loss
    from mmcv.ops.carafe import CARAFEPack

    assert issubclass(DeformConv2d, torch.nn.Module)
    with pytest.raises(ConfigError, match=r"mmcv.ops.DeformConv2d: this operator needs the compiled mmcv"):
        DeformConv2d(3, 3, 3)
    with pytest.raises(ConfigError, match="CARAFEPack"):
        CARAFEPack(8)
    with pytest.raises(ConfigError, match="sigmoid_focal_loss"):
        sigmoid_focal_loss()


def test_nms_keeps_the_better_of_two_overlapping_boxes():
    from mmcv.ops import batched_nms, nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]])
    scores = torch.tensor([0.5, 0.9, 0.3])
    found, keep = nms(boxes, scores, 0.5)
    assert keep.tolist() == [1, 2]
    assert found[:, 4].tolist() == pytest.approx([0.9, 0.3])
    _, keep = nms(boxes, scores, 0.5, score_threshold=0.4)
    assert keep.tolist() == [1]
    _, keep = batched_nms(boxes, scores, torch.tensor([0, 1, 0]), {"type": "nms", "iou_threshold": 0.5})
    assert sorted(keep.tolist()) == [0, 1, 2]
    _, keep = batched_nms(boxes, scores, torch.tensor([0, 1, 0]), {"iou_threshold": 0.5}, class_agnostic=True)
    assert keep.tolist() == [1, 2]
    with pytest.raises(ConfigError, match="nms type soft_nms"):
        batched_nms(boxes, scores, torch.tensor([0, 0, 0]), {"type": "soft_nms"})


def test_roi_align_of_a_constant_map_is_the_constant():
    from mmcv.ops import RoIAlign

    pooled = RoIAlign(2)(torch.full((1, 3, 8, 8), 7.0), torch.tensor([[0.0, 1, 1, 5, 5]]))
    assert pooled.shape == (1, 3, 2, 2)
    assert (pooled == 7).all()
    with pytest.raises(ConfigError, match="pool_mode 'max'"):
        RoIAlign(2, pool_mode="max")(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5))


def test_xtcocotools_is_pycocotools():
    import pycocotools.mask
    import xtcocotools.mask

    assert xtcocotools.mask is pycocotools.mask


class TestWeights:
    def small(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))

    def test_safetensors_in_half_precision_and_pth_give_the_same_model(self, tmp_path):
        source, other, third = self.small(), self.small(), self.small()
        source.load_state_dict({name: value.half().float() for name, value in source.state_dict().items()})
        save_file(
            {name: value.half() for name, value in source.state_dict().items()}, tmp_path / "w.safetensors"
        )
        torch.save({"state_dict": source.state_dict(), "meta": {"epoch": 3}}, tmp_path / "w.pth")
        mmpose_compat.load_weights(other, tmp_path / "w.safetensors")
        mmpose_compat.load_weights(third, tmp_path / "w.pth")
        for name, value in source.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
            assert torch.equal(third.state_dict()[name], value)
            assert other.state_dict()[name].dtype == torch.float32

    def test_a_plain_state_dict_without_the_entry_is_read(self, tmp_path):
        torch.save(self.small().state_dict(), tmp_path / "w.pth")
        assert len(mmpose_compat.read_weights(tmp_path / "w.pth")) == 4

    def test_missing_unexpected_and_misshapen_tensors_are_named(self, tmp_path):
        weights = self.small().state_dict()
        weights["2.weight"] = weights.pop("1.bias")
        weights["0.bias"] = torch.zeros(5)
        save_file(weights, tmp_path / "w.safetensors")
        message = "1 missing (1.bias); 1 unexpected (2.weight); 1 wrong shape (0.bias (5,) instead of (3,))"
        with pytest.raises(ConfigError, match=re.escape(message)):
            mmpose_compat.load_weights(self.small(), tmp_path / "w.safetensors")

    def test_a_pickle_that_runs_code_is_refused_and_does_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        torch.save({"state_dict": {"x": Evil()}}, tmp_path / "evil.pth")
        with pytest.raises(SecurityError, match="loading them could run code"):
            mmpose_compat.read_weights(tmp_path / "evil.pth")
        (tmp_path / "legacy.pth").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(SecurityError, match="loading them could run code"):
            mmpose_compat.read_weights(tmp_path / "legacy.pth")
        assert not (tmp_path / "ran").exists()

    def test_unreadable_files_are_named(self, tmp_path):
        with pytest.raises(ConfigError, match="there is no such weights file"):
            mmpose_compat.read_weights(tmp_path / "none.pth")
        (tmp_path / "w.onnx").write_bytes(b"x")
        with pytest.raises(ConfigError, match=r"unknown kind of weights '.onnx'"):
            mmpose_compat.read_weights(tmp_path / "w.onnx")
        (tmp_path / "w.safetensors").write_bytes(b"not a safetensors file")
        with pytest.raises(ConfigError, match="not a readable safetensors file"):
            mmpose_compat.read_weights(tmp_path / "w.safetensors")
        torch.save({"epoch": 3}, tmp_path / "w.pth")
        with pytest.raises(ConfigError, match="holds no tensors"):
            mmpose_compat.read_weights(tmp_path / "w.pth")
        whole = tmp_path / "w2.pth"
        torch.save(self.small().state_dict(), whole)
        whole.write_bytes(whole.read_bytes()[:300])
        with pytest.raises((ConfigError, SecurityError), match=r"w2.pth"):
            mmpose_compat.read_weights(whole)


@pytest.mark.data
@pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
def test_hostile_pth_files_are_refused():
    files = sorted(Path(os.environ["AQA_TEST_DATA"]).glob("malicious/*.pth"))
    assert files
    for path in files:
        with pytest.raises((ConfigError, SecurityError)):
            mmpose_compat.read_weights(path)
