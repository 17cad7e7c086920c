"""I3D against a slow reference written from the public architecture, and the public names of its tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aqa_models import i3d

# Channels after each Inception branch as the paper's figure 3 has them (GoogLeNet's table).
INCEPTION = {
    "3b": (64, 128, 32, 32),
    "3c": (128, 192, 96, 64),
    "4b": (192, 208, 48, 64),
    "4c": (160, 224, 64, 64),
    "4d": (128, 256, 64, 64),
    "4e": (112, 288, 64, 64),
    "4f": (256, 320, 128, 128),
    "5b": (256, 320, 128, 128),
    "5c": (384, 384, 128, 128),
}


@pytest.fixture(scope="module")
def network() -> i3d.I3D:
    """Random weights and random running statistics, so that no layer is trivial."""
    torch.manual_seed(0)
    made = i3d.I3D().eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return made


def reference_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """SAME padding as TensorFlow's guide writes it."""
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    return total // 2, total - total // 2


def reference_pad(x: torch.Tensor, kernel: tuple, stride: tuple, value: float) -> torch.Tensor:
    pads = [reference_pads(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True)]
    return F.pad(x, [side for pair in reversed(pads) for side in pair], value=value)


def reference_features(tensors: dict, x: torch.Tensor) -> torch.Tensor:
    """The whole network from its tensors alone, nothing shared with `aqa_models.i3d`."""

    def unit(x, name, stride=1):
        weight = tensors[f"{name}.conv3d.weight"]
        x = F.conv3d(reference_pad(x, weight.shape[2:], (stride,) * 3, 0.0), weight, stride=stride)
        norm = {leaf: tensors[f"{name}.batch3d.{leaf}"][:, None, None, None] for leaf in LEAVES}
        x = (x - norm["running_mean"]) / (norm["running_var"] + 1e-3).sqrt()
        return (x * norm["weight"] + norm["bias"]).clamp(min=0)

    def pool(x, kernel, stride):
        return F.max_pool3d(reference_pad(x, kernel, stride, float("-inf")), kernel, stride)

    def mixed(x, name):
        one = unit(x, f"{name}.branch_0")
        a = unit(unit(x, f"{name}.branch_1.0"), f"{name}.branch_1.1")
        b = unit(unit(x, f"{name}.branch_2.0"), f"{name}.branch_2.1")
        pooled = unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.branch_3.1")
        return torch.cat([one, a, b, pooled], 1)

    x = pool(unit(x, "conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "conv3d_2b_1x1"), "conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, "mixed_3b"), "mixed_3c"), (3, 3, 3), (2, 2, 2))
    for letter in "bcdef":
        x = mixed(x, f"mixed_4{letter}")
    x = pool(x, (2, 2, 2), (2, 2, 2))
    return mixed(mixed(x, "mixed_5b"), "mixed_5c").mean((2, 3, 4))


LEAVES = ("weight", "bias", "running_mean", "running_var")


def test_same_padding_is_tensorflows():
    for kernel, stride, size in np.ndindex(8, 4, 40):
        given = (size + 1, kernel + 1, stride + 1)
        assert i3d.same_padding(*given) == reference_pads(*given), given


def test_pool_of_every_size_is_padded_like_tensorflow():
    torch.manual_seed(1)
    for size in range(3, 13):
        x = torch.randn(1, 2, size, size, size + 1)  # negative values too: the padding must never win
        for kernel, stride in [((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((1, 3, 3), (1, 2, 2))]:
            expected = F.max_pool3d(reference_pad(x, kernel, stride, float("-inf")), kernel, stride)
            assert torch.equal(i3d.SamePool(kernel, stride)(x), expected)


@pytest.mark.parametrize("shape", [(16, 48, 48), (9, 45, 37), (15, 33, 50)])
def test_equals_the_reference(network, shape):
    torch.manual_seed(2)
    x = torch.randn(2, 3, *shape)
    with torch.inference_mode():
        expected = reference_features(network.state_dict(), x)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_fusing_changes_nothing(network):
    fused = i3d.I3D()
    fused.load_state_dict(network.state_dict())
    fused.eval().fuse()
    torch.manual_seed(3)
    x = torch.randn(1, 3, 16, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), network(x), rtol=1e-4, atol=1e-4)
    assert not any("batch3d" in name for name in fused.state_dict())


def test_fusing_a_network_in_training_is_refused():
    with torch.device("meta"), pytest.raises(ValueError, match="training mode.*call eval"):
        i3d.I3D().fuse()


def test_parameters_are_those_of_the_public_network():
    count = 3 * 64 * 7**3 + 2 * 64 + 64 * 64 + 2 * 64 + 64 * 192 * 27 + 2 * 192
    width = 192
    reduce = {"3b": (96, 16), "3c": (128, 32), "4b": (96, 16), "4c": (112, 24), "4d": (128, 24)} | {
        "4e": (144, 32),
        "4f": (160, 32),
        "5b": (160, 32),
        "5c": (192, 48),
    }
    for name, (one, a, b, pool) in INCEPTION.items():
        small_a, small_b = reduce[name]
        count += width * (one + small_a + small_b + pool) + 27 * (small_a * a + small_b * b)
        count += 2 * (one + small_a + a + small_b + b + pool)
        width = one + a + b + pool
    assert count == 12_287_264
    with torch.device("meta"):
        assert sum(p.numel() for p in i3d.I3D().parameters()) == count
    assert count + width * 400 + 400 == 12_697_264  # with the classifier of Kinetics-400


def test_every_layer_has_the_shape_of_hp_mcores_table():
    expected = {
        "conv3d_1a_7x7": (64, 8, 56, 56),
        "pool_2a": (64, 8, 28, 28),
        "conv3d_2b_1x1": (64, 8, 28, 28),
        "conv3d_2c_3x3": (192, 8, 28, 28),
        "pool_3a": (192, 8, 14, 14),
        "mixed_3b": (256, 8, 14, 14),
        "mixed_3c": (480, 8, 14, 14),
        "pool_4a": (480, 4, 7, 7),
        "mixed_4b": (512, 4, 7, 7),
        "mixed_4c": (512, 4, 7, 7),
        "mixed_4d": (512, 4, 7, 7),
        "mixed_4e": (528, 4, 7, 7),
        "mixed_4f": (832, 4, 7, 7),
        "pool_5a": (832, 2, 4, 4),
        "mixed_5b": (832, 2, 4, 4),
        "mixed_5c": (1024, 2, 4, 4),
    }
    found = {}
    with torch.device("meta"):
        made = i3d.I3D().eval()
        for name, layer in made.named_children():
            layer.register_forward_hook(
                lambda _, __, out, name=name: found.__setitem__(name, tuple(out.shape[1:]))
            )
        assert made(torch.empty(9, 3, 16, 112, 112)).shape == (9, 1024)
    assert found == expected


def test_pool_is_hp_mcores_on_clips_of_112_px(network):
    torch.manual_seed(4)
    x = torch.randn(1, 3, 16, 112, 112)
    with torch.inference_mode():
        feature_map = network.feature_map(x)
        expected = F.avg_pool3d(feature_map, (2, 4, 4), 1)
        assert expected.shape == (1, 1024, 1, 1, 1)
        torch.testing.assert_close(network(x), expected.flatten(1))


def to_piergiaj(name: str) -> str:
    """Our name -> the other public layout, written the other way round than in the code under test."""
    layer, rest = name.split(".", 1)
    layer = layer[0].upper() + layer[1:]
    for ours, theirs in [
        ("branch_0", "b0"),
        ("branch_1.0", "b1a"),
        ("branch_1.1", "b1b"),
        ("branch_2.0", "b2a"),
        ("branch_2.1", "b2b"),
        ("branch_3.1", "b3b"),
        ("batch3d", "bn"),
    ]:
        rest = rest.replace(ours, theirs)
    return f"{layer}.{rest}"


def test_names_of_both_public_files_are_read(network):
    tensors = network.state_dict()
    wanted = {name for name in tensors if not name.endswith("num_batches_tracked")}
    hassony = tensors | {"conv3d_0c_1x1.conv3d.weight": torch.ones(400, 1024, 1, 1, 1)}
    piergiaj = {to_piergiaj(name): value for name, value in tensors.items()}
    assert {"Conv3d_1a_7x7.bn.running_var", "Mixed_5c.b2b.conv3d.weight"} <= set(piergiaj)
    piergiaj |= {
        "logits.conv3d.weight": torch.ones(400, 1024, 1, 1, 1),
        "logits.conv3d.bias": torch.ones(400),
    }
    for public in (hassony, piergiaj):
        read = i3d.from_public_names(public)
        assert set(read) == wanted
        assert all(read[name] is tensors[name] for name in wanted)


def test_names_of_neither_file_stay_visible():
    assert set(
        i3d.from_public_names({"fc.weight": torch.ones(1), "Mixed_3b.b9.x.weight": torch.ones(1)})
    ) == {
        "fc.weight",
        "mixed_3b.b9.x.weight",
    }


@pytest.mark.parametrize("shape", [(3, 16, 32, 32), (1, 1, 16, 32, 32)])
def test_another_shape_is_refused(shape):
    with torch.device("meta"), pytest.raises(ValueError, match=r"\(B, 3, T, h, w\), got \("):
        i3d.I3D()(torch.empty(shape))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_gradients_in_bf16_are_those_in_fp32(frames):
    """Two frames and a 3 x 3 x 3 filter: what PyTorch gives on some processors is uninitialised memory."""
    torch.manual_seed(0)
    unit = i3d.Unit(32, 64, 3)
    clips, weights = torch.randn(4, 32, frames, 4, 4), torch.randn(4, 64, frames, 4, 4)
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        dirt = torch.full((1 << 22,), 1e30)  # so that memory which nobody writes is not 0 by chance
        del dirt
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
            result = unit(clips)
        (found[kind],) = torch.autograd.grad((result.float() * weights).sum(), [unit.conv3d.weight])
    pair = (found[torch.bfloat16].flatten(), found[torch.float32].flatten())
    assert torch.cosine_similarity(*pair, dim=0) > 0.99


def test_padding_beforehand_changes_nothing():
    unit = i3d.Unit(8, 8, 3)
    clips = torch.randn(2, 8, 2, 5, 5)
    with torch.no_grad():
        expected = unit(clips)
    torch.testing.assert_close(unit(clips), expected)
