from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from aqa_models.hp_mcore.config import PRESETS, HpMcoreConfig
from aqa_models.hp_mcore.fusion import Fusion, PoseGuidedAttention, projection


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def inputs(config: HpMcoreConfig, batch: int = 2):
    torch.manual_seed(1)
    shape = (batch, config.num_procedures, 10)
    return (
        torch.randn(*shape, 1024) if config.use_dynamic else None,
        torch.randn(*shape, config.static_width) if config.use_static else None,
        torch.randn(*shape, 128) if config.use_pose else None,
    )


def test_sizes_of_the_released_code():
    assert count(projection(1024, 1152)) == 1_475_968
    assert count(projection(368, 496)) == 310_256
    assert count(PoseGuidedAttention(with_pose=True)) == 822_017
    assert count(Fusion(HpMcoreConfig())) == 3 * (1_475_968 + 310_256 + 822_017)


def test_attention_without_poses_equals_torch():
    torch.manual_seed(0)
    ours = PoseGuidedAttention(with_pose=False).eval()
    theirs = nn.TransformerEncoderLayer(
        256, 2, 1024, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.qkv.weight)
        theirs.self_attn.in_proj_bias.zero_()
        theirs.self_attn.out_proj.load_state_dict(ours.out.state_dict())
        theirs.norm1.load_state_dict(ours.norm.state_dict())
        norm, first, _, second = ours.mlp
        theirs.norm2.load_state_dict(norm.state_dict())
        theirs.linear1.load_state_dict(first.state_dict())
        theirs.linear2.load_state_dict(second.state_dict())
        x = torch.randn(3, 10, 256)
        torch.testing.assert_close(ours(x, None), theirs(x), atol=1e-5, rtol=1e-5)


def test_poses_shift_the_scores_as_the_formula_says():
    torch.manual_seed(0)
    layer = PoseGuidedAttention(with_pose=True).double()
    x, pose = torch.randn(1, 4, 256).double(), 100 * torch.randn(1, 4, 128).double()
    with torch.no_grad():
        layer.pose_weight.fill_(3.0)
        q, k, v = layer.qkv(layer.norm(x))[0].split(256, dim=-1)
        e = layer.pose(0.01 * pose[0])
        heads = []
        for h in (slice(0, 128), slice(128, 256)):
            scores = torch.empty(4, 4).double()
            for i in range(4):
                for j in range(4):
                    scores[i, j] = q[i, h] @ k[j, h] / 128**0.5 + 3.0 * (e[i] @ e[j]) / 64
            heads.append(scores.softmax(dim=1) @ v[:, h])
        y = x[0] + layer.out(torch.cat(heads, dim=1))
        torch.testing.assert_close(layer(x, pose)[0], y + layer.mlp(y))
        assert not torch.allclose(layer(x, pose), layer(x, 0 * pose))


def test_the_pose_term_starts_small():
    assert PoseGuidedAttention(with_pose=True).pose_weight.item() == pytest.approx(0.001)


COMBINATIONS = set(product([True, False], [True, False], ["off", "bias", "stream"])) - {(False, False, "off")}


@pytest.mark.parametrize(("dynamic", "static", "pose"), sorted(COMBINATIONS))
def test_every_combination_of_streams(dynamic, static, pose):
    config = replace(
        PRESETS["best"],
        use_dynamic=dynamic,
        use_static=static,
        use_pose=pose != "off",
        pose_stream=pose == "stream",
        pose_angles=False,
    )
    torch.manual_seed(0)
    net = Fusion(config).eval()  # without dropout
    given = inputs(config)
    fused, still = net(*given)
    assert fused.shape == (2, 3, 10, 256)
    assert (still is None) == (not static)
    fused.sum().backward(retain_graph=True)
    if still is not None:
        still.sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in net.parameters())
    for place in range(3):  # all that is read matters, each in its own procedure only
        if given[place] is None or (place == 1 and dynamic):
            continue
        changed = [x.clone() if x is not None else None for x in given]
        changed[place][:, 1] = torch.randn_like(changed[place][:, 1]) * 30
        difference = (net(*changed)[0] - fused).abs().amax(dim=(0, 2, 3))
        assert difference[1] > 1e-6
        assert difference[0] == difference[2] == 0


def test_static_features_reach_the_fused_stream_only_without_dynamic_ones():
    config = PRESETS["legacy"]
    net = Fusion(config)
    dynamic, static, pose = inputs(config)
    assert torch.equal(net(dynamic, static, pose)[0], net(dynamic, 2 * static, pose)[0])
    assert not torch.equal(net(dynamic, static, pose)[1], net(dynamic, 2 * static, pose)[1])
