"""The static encoder: sizes of the published table, identity at the start, the shift by hand."""

from __future__ import annotations

import copy
from typing import get_args, get_type_hints

import pytest
import timm
import torch
from torch import nn

from aqa_models.hp_mcore.config import HpMcoreConfig
from aqa_models.hp_mcore.static import GatedShift, StaticEncoder, first_convolutions

NAMES = get_args(get_type_hints(HpMcoreConfig)["static_network"])
TIMM = {"rny002": "regnety_002", "resnet18": "resnet18", "resnet34": "resnet34", "resnet50": "resnet50"}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def frames(batch: int = 2, length: int = 4, side: int = 64) -> torch.Tensor:
    return torch.randn(batch, length, 3, side, side, generator=torch.Generator().manual_seed(1))


def opened(encoder: StaticEncoder) -> StaticEncoder:
    """Its gates moved away from zero, and the blocks' last norms too, which timm starts at zero."""
    for module in encoder.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
    for shift in encoder.shifts:
        nn.init.normal_(shift.gate.weight, std=0.5)
        nn.init.normal_(shift.gate.bias)
    return encoder


def test_regnet_has_the_published_sizes():
    encoder = StaticEncoder("rny002_gsm")
    assert count(encoder.network) == 2_793_996
    assert count(encoder.shifts) == 21_602
    assert [shift.fold for shift in encoder.shifts] == [8, 8, 16, *[40] * 4, *[92] * 6]
    assert encoder.width == 368


@pytest.mark.parametrize(
    ("name", "blocks", "width"), [("resnet18", 8, 512), ("resnet34", 16, 512), ("resnet50", 16, 2048)]
)
def test_resnets_shift_before_every_block(name, blocks, width):
    encoder = StaticEncoder(f"{name}_gsm")
    assert len(encoder.shifts) == blocks
    assert encoder.width == width
    assert [m for m, _ in encoder.network.named_modules() if m.endswith("conv1") and "." in m] == [
        name
        for conv in first_convolutions(encoder.network)
        for name, module in encoder.network.named_modules()
        if module is conv
    ]


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_starts_as_the_plain_image_network(name):
    torch.manual_seed(0)
    encoder = StaticEncoder(name).eval()
    plain = timm.create_model(TIMM[name.removesuffix("_gsm")], pretrained=False, num_classes=0).eval()
    plain.load_state_dict(encoder.network.state_dict(), strict=True)
    clip = frames(batch=1, length=3)
    features = encoder(clip)
    assert features.shape == (1, 3, encoder.width)
    torch.testing.assert_close(features[0], plain(clip[0]), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_only_open_gates_mix_frames_and_never_performances():
    torch.manual_seed(0)
    encoder = opened(StaticEncoder("rny002_gsm")).eval()
    for shift in encoder.shifts:
        nn.init.zeros_(shift.gate.weight)
        nn.init.zeros_(shift.gate.bias)
    clip = frames()
    changed = clip.clone()
    changed[0, 2] += 1
    differs = (encoder(clip) != encoder(changed)).any(-1)
    assert differs.tolist() == [[False, False, True, False], [False] * 4]
    opened(encoder)
    differs = (encoder(clip) != encoder(changed)).any(-1)
    assert differs.tolist() == [[True] * 4, [False] * 4]
    torch.testing.assert_close(encoder(clip)[:1], encoder(clip[:1]), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_shift_by_hand():
    """A gate that is 1 everywhere moves a whole half by one frame; one that is 1/2 leaves half behind."""
    shift = GatedShift(16).eval()
    shift.frames = 3
    shift.gate.bias.copy_(torch.tensor([20.0, 0.549306]))  # tanh: 1 and 1/2
    x = torch.arange(1.0, 4)[:, None].expand(3, 16)[..., None, None].contiguous()  # frame t holds t
    got = shift(x)[:, :, 0, 0]
    assert got.shape == (3, 16)
    torch.testing.assert_close(got[:, 0], torch.tensor([2.0, 3.0, 0.0]))  # from the next frame
    torch.testing.assert_close(got[:, 1], torch.tensor([2.0, 3.0, 0.0]))
    torch.testing.assert_close(
        got[:, 2], torch.tensor([0.5, 1.5, 2.5]), atol=1e-5, rtol=0
    )  # the previous one
    torch.testing.assert_close(got[:, 3], torch.tensor([0.5, 1.5, 2.5]), atol=1e-5, rtol=0)
    assert torch.equal(got[:, 4:], x[:, 4:, 0, 0])


def test_shift_against_loops():
    """Written out pixel by pixel in float64, with statistics of its own."""
    torch.manual_seed(0)
    shift = GatedShift(24).double().eval()  # 8 of 24 channels
    shift.frames = 3
    nn.init.normal_(shift.gate.weight)
    nn.init.normal_(shift.gate.bias)
    shift.norm.running_mean.normal_()
    shift.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(6, 24, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        got = shift(x)
        clips = x.view(2, 3, 24, 4, 5)
        want = clips.clone()
        for b in range(2):
            active = shift.norm(clips[b : b + 1, :, :8].transpose(1, 2)).relu()
            gates = [
                torch.tanh(
                    nn.functional.conv3d(
                        active[:, 4 * g : 4 * g + 4],
                        shift.gate.weight[g : g + 1],
                        shift.gate.bias[g : g + 1],
                        padding=1,
                    )
                )[0, 0]
                for g in range(2)
            ]
            for t in range(3):
                for c in range(8):
                    gate, source = gates[c // 4], t + 1 if c < 4 else t - 1
                    want[b, t, c] = clips[b, t, c] * (1 - gate[t])
                    if 0 <= source < 3:
                        want[b, t, c] += clips[b, source, c] * gate[source]
    torch.testing.assert_close(got, want.view_as(x))


def test_frozen_norms_keep_their_statistics_and_learn_their_weights():
    torch.manual_seed(0)
    for freeze in (True, False):
        encoder = opened(StaticEncoder("rny002_gsm", freeze_norms=freeze)).train()
        before = copy.deepcopy(dict(encoder.named_buffers()))
        encoder(frames(length=2)).sum().backward()
        same = [torch.equal(value, before[name]) for name, value in encoder.named_buffers()]
        assert all(same) if freeze else not any(same)
        assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("freeze", [True, False])
def test_recomputing_gives_the_same_gradients_and_statistics(freeze):
    torch.manual_seed(0)
    plain = opened(StaticEncoder("rny002_gsm", freeze_norms=freeze)).train()
    again = copy.deepcopy(plain)
    again.checkpoint = True
    for model in (plain, again):
        model(frames(length=3)).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), again.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    encoder = opened(StaticEncoder("rny002_gsm")).train()
    encoder(frames()).square().sum().backward()
    still = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


def test_a_copy_has_gates_of_its_own():
    torch.manual_seed(0)
    encoder = StaticEncoder("rny002_gsm").eval()
    other = opened(copy.deepcopy(encoder))
    clip = frames(batch=1)
    with torch.inference_mode():
        assert not torch.equal(encoder(clip), other(clip))
        torch.testing.assert_close(encoder(clip)[0], encoder.network(clip[0]), atol=1e-5, rtol=1e-4)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"unknown static network 'vit'; known: rny002\[_gsm\], resnet18"):
        StaticEncoder("vit")


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"needs \(B, T, 3, h, w\), got \(3, 4, 64, 64\)"):
        StaticEncoder("rny002")(torch.zeros(3, 4, 64, 64))
