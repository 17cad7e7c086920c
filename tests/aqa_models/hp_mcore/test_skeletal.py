"""The skeletal encoder against edge counts worked out by hand and slow references, level by level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqa_models.hp_mcore.config import HpMcoreConfig
from aqa_models.hp_mcore.skeletal import (
    Block,
    EdgeConv,
    HierarchyConv,
    SkeletalEncoder,
    TemporalMultiScale,
    adjacency,
    body_size,
    centre_and_scale,
    fill_missing,
    level_joints,
)

LEGACY = HpMcoreConfig()
# Groups of the released code as 0-based MPII joints, written down independently of names.
LEGACY_GROUPS = [[7], [6, 8, 12, 13], [9, 14, 2, 3, 11], [10, 15, 1, 4], [5, 0]]


def keypoints(batch: int = 3, frames: int = 12) -> Tensor:
    """Bodies of about 40 px that turn and drift, so that no two joints coincide."""
    generator = torch.Generator().manual_seed(4)
    shape = torch.randn(batch, 1, 16, 2, generator=generator) * 40
    drift = torch.randn(batch, frames, 1, 2, generator=generator) * 20
    return 150 + shape + drift + torch.randn(batch, frames, 16, 2, generator=generator)


def lively(module: nn.Module) -> nn.Module:
    """Random norms, so that no layer is trivial (a block's last norm starts at 1e-6)."""
    generator = torch.Generator().manual_seed(6)
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(part.bias, 0, 0.3, generator=generator)
            nn.init.normal_(part.running_mean, 0, 0.3, generator=generator)
            nn.init.uniform_(part.running_var, 0.5, 2, generator=generator)
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.bias, 0, 0.3, generator=generator)
    return module


def encoder(config: HpMcoreConfig = LEGACY) -> SkeletalEncoder:
    torch.manual_seed(0)
    made = lively(SkeletalEncoder(config))
    assert isinstance(made, SkeletalEncoder)
    return made


# Adjacency and levels.


def test_edges_of_the_four_layers():
    edges = adjacency("layers4")
    assert edges.shape == (4, 3, 16, 16)
    assert (edges > 0).sum((2, 3)).tolist() == [[5, 4, 4], [9, 20, 20], [9, 20, 20], [6, 8, 8]]
    columns = edges.sum(2)
    assert torch.isin(columns.round(decimals=5), torch.tensor([0.0, 1.0])).all()
    for level, (inner, outer) in enumerate(zip(LEGACY_GROUPS, LEGACY_GROUPS[1:])):  # noqa: B905, RUF007
        want = torch.zeros(3, 16, 16)
        for a in inner:
            want[0, a, a] = 1
            for b in outer:
                want[0, b, b] = 1
                want[1, a, b] = 1 / len(inner)  # each outer joint receives the mean of the inner ones
                want[2, b, a] = 1 / len(outer)
        torch.testing.assert_close(edges[level], want)


def test_edges_of_the_three_levels():
    """Thorax to torso 7, torso to elbows and knees 28, these to wrists and ankles 16; every joint once."""
    edges = adjacency("levels3")
    assert (edges > 0).sum((2, 3)).tolist() == [[8, 7, 7], [11, 28, 28], [8, 16, 16]]
    receivers = [(edges[level, 1].sum(0) > 0).nonzero().flatten().tolist() for level in range(3)]
    assert receivers == [[2, 3, 6, 8, 9, 12, 13], [1, 4, 11, 14], [0, 5, 10, 15]]


def test_joints_of_the_layers():
    def joints(kind: str) -> list[list[int]]:
        return [row.nonzero().flatten().tolist() for row in level_joints("layers4", kind)]

    assert joints("fixed")[0] == sorted([7, 6, 8, 12, 13])
    assert joints("legacy")[0] == sorted([6, 5, 7, 11, 12])
    assert joints("legacy")[3] == sorted([9, 14, 0, 3, 4, 15])  # joint 0 becomes the last one
    torch.testing.assert_close(level_joints("levels3", "fixed").sum(1), torch.ones(3))


# The whole network.


def test_parameters_are_those_of_the_published_table():
    assert sum(p.numel() for p in SkeletalEncoder(LEGACY).parameters()) == 182_156


@pytest.mark.parametrize("hierarchy", ["layers4", "levels3"])
@pytest.mark.parametrize("normalise", [True, False])
def test_shapes(hierarchy, normalise):
    config = HpMcoreConfig(hierarchy=hierarchy, pose_normalise=normalise, action_numbers=7)
    answer = encoder(config)(keypoints(2, 9))
    assert answer.features.shape == (2, 9, 128)
    assert answer.number_logits.shape == (2, 7)
    assert torch.isfinite(answer.features).all()


@torch.inference_mode()
def test_batch_of_one_is_the_same_as_alone():
    model, batch = encoder().eval(), keypoints()
    together = model(batch)
    for row in range(3):
        alone = model(batch[row : row + 1])
        torch.testing.assert_close(together.features[row], alone.features[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.number_logits[row], alone.number_logits[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_another_order_of_joints_changes_nothing():
    """Joints permuted in the input and in all that belongs to a joint."""
    model, batch = encoder().eval(), keypoints()
    want = model(batch)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    assert not torch.allclose(model(batch[:, :, order]).features, want.features, atol=1e-2)
    coordinates = (2 * order[:, None] + torch.arange(2)).flatten()
    for tensor in (model.norm.weight, model.norm.bias, model.norm.running_mean, model.norm.running_var):
        tensor.copy_(tensor[coordinates])
    for block in model.blocks:
        assert isinstance(block, Block)
        block.graph.edges.copy_(block.graph.edges[:, :, order][:, :, :, order])
        if block.graph.attention is not None:
            block.graph.attention.joints.copy_(block.graph.attention.joints[:, order])
    got = model(batch[:, :, order])
    torch.testing.assert_close(got.features, want.features, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(got.number_logits, want.number_logits, atol=1e-3, rtol=1e-3)


def test_gradient_reaches_what_should_train():
    """Not the biases before a norm, which takes them off again, and not what reads a difference that is 0."""
    model = encoder().double().train()
    answer = model(keypoints(4, 20).double())
    probe = torch.randn(4, 20, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ((answer.features * probe).sum() + answer.number_logits.square().sum()).backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-7}
    before_norms = {name for name, _ in model.named_parameters() if name.endswith(BEFORE_NORMS)}
    assert len(before_norms) == 32
    # Without attention the first block adds the levels up: what a norm adds to each, the next norm takes off.
    assert still == before_norms | {"blocks.0.graph.relate_norm.bias"}
    for block in model.blocks[1:]:
        assert isinstance(block, Block)
        assert block.graph.attention is not None
        gradient = block.graph.attention.between.weight.grad
        assert gradient is not None
        half = gradient.shape[1] // 2
        assert gradient[:, :half].abs().max() == 0
        assert gradient[:, half:].abs().max() > 0


# reduce, relate, entrance and dilated convolutions over time, 1x1 residuals: each is followed by a norm.
BEFORE_NORMS = (
    "reduce.0.bias",
    "relate.bias",
    "enter.bias",
    "convs.0.bias",
    "convs.1.bias",
    "residual.0.bias",
)


def test_a_block_starts_as_its_residual():
    torch.manual_seed(0)
    graph = HierarchyConv(64, 64, adjacency("layers4"), level_joints("layers4", "legacy"))
    x = torch.randn(2, 64, 6, 16).abs()
    torch.testing.assert_close(graph(x), x, atol=1e-4, rtol=0)
    assert (graph.norm.weight == 1e-6).all()


def test_learns_to_tell_directions_of_motion():
    torch.manual_seed(0)
    model = SkeletalEncoder(replace(LEGACY, action_numbers=2)).train()
    still = keypoints(4, 6)
    ramp = torch.linspace(0, 60, 6)[None, :, None, None] * torch.tensor([0.0, 1.0])
    batch, label = torch.cat([still + ramp, still + ramp.flip(1)]), torch.tensor([0] * 4 + [1] * 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(batch).number_logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("shape", [(2, 5, 17, 2), (2, 5, 16, 3), (5, 16, 2)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"needs keypoints \(B, T, 16, 2\) in MPII order, got"):
        encoder()(torch.zeros(shape))


# Its parts against slow references.


def reference_edge_conv(nodes: Tensor, weight: Tensor, neighbours: int) -> np.ndarray:
    """(J, C) -> (J, C'), loops in NumPy, for a norm that does nothing."""
    x, w = nodes.numpy(), weight.numpy()
    rows = []
    for centre in x:
        distance = [float(((other - centre) ** 2).sum()) for other in x]
        near = sorted(range(len(x)), key=distance.__getitem__)[:neighbours]
        found = np.stack([np.concatenate([x[n] - centre, centre]) @ w for n in near])
        rows.append(np.where(found > 0, found, 0.2 * found).max(0))
    return np.stack(rows)


@torch.inference_mode()
@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_edge_conv_against_loops(neighbours):
    torch.manual_seed(neighbours)
    conv = EdgeConv(4, 6, 2, neighbours).double().eval()
    conv.norm.eps = 0.0
    nodes = torch.randn(3, 2, 7, 4, dtype=torch.float64)
    got = conv(nodes)
    assert got.shape == (3, 2, 7, 6)
    for batch in range(3):
        for group in range(2):
            want = reference_edge_conv(nodes[batch, group], conv.weight[group], neighbours)
            np.testing.assert_allclose(got[batch, group].numpy(), want, rtol=1e-12, atol=1e-12)


def plain_conv(weight: Tensor, bias: Tensor, **options: object) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], dtype=weight.dtype, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
    return conv


def plain_norm(norm: nn.BatchNorm2d, channels: slice) -> nn.BatchNorm2d:
    """Those channels of a norm, in the mode of that norm."""
    part = nn.BatchNorm2d(len(range(*channels.indices(norm.num_features)))).to(norm.weight.dtype)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(part, name).data.copy_(getattr(norm, name).data[channels])
    return part.train(norm.training)


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_temporal_convolutions_against_four_branches(training):
    torch.manual_seed(0)
    ours = lively(TemporalMultiScale(16)).double().train(training)
    assert isinstance(ours, TemporalMultiScale)
    x = torch.randn(3, 16, 11, 5, dtype=torch.float64)
    branches = []
    for k in range(4):
        part = slice(4 * k, 4 * k + 4)
        layers = [
            plain_conv(ours.enter.weight[part], ours.enter.bias[part]),
            plain_norm(ours.enter_norm, part),
        ]
        if k < 3:
            layers.append(nn.ReLU())
        if k < 2:
            conv = ours.convs[k]
            layers.append(plain_conv(conv.weight, conv.bias, padding=(2 + 2 * k, 0), dilation=(1 + k, 1)))
        if k == 2:
            layers.append(nn.MaxPool2d((3, 1), 1, (1, 0)))
        if k < 3:
            layers.append(plain_norm(ours.norms[k], slice(None)))
        branches.append(nn.Sequential(*layers).train(training)(x))
    want = torch.cat(branches, 1)
    assert want.shape == x.shape
    torch.testing.assert_close(ours(x), want)


def reference_graph(ours: HierarchyConv, x: Tensor) -> Tensor:
    """The graph convolution one level and one relation at a time, as the formula reads."""
    levels, width = ours.levels, ours.nearest.weight.shape[-1]
    whole = []
    for level in range(levels):
        part = slice(level * width, (level + 1) * width)
        conv = ours.reduce[0]
        lower = plain_norm(ours.reduce[1], part)(plain_conv(conv.weight[part], conv.bias[part])(x)).relu()
        branches = []
        for relation in range(3):
            index = 3 * level + relation
            rows = slice(index * width, (index + 1) * width)
            mixed = torch.einsum("bctu,uv->bctv", lower, ours.edges[level, relation])
            mixed = plain_conv(ours.relate.weight[rows], ours.relate.bias[rows])(mixed)
            branches.append(plain_norm(ours.relate_norm, rows)(mixed))
        alone = EdgeConv(width, width, 1, 5).to(x.dtype).train(ours.training)
        alone.weight.data.copy_(ours.nearest.weight[level : level + 1])
        alone.norm = plain_norm(ours.nearest.norm, part)
        nearest = alone(lower.mean(2).transpose(1, 2)[:, None])[:, 0].transpose(1, 2)
        branches.append(nearest[:, :, None].expand_as(lower))
        whole.append(torch.cat(branches, 1))
    stacked = torch.stack(whole, 2)  # (B, C, L, T, J)
    if ours.attention is None:
        summed = stacked.sum(2)
    else:
        x_max = stacked.amax(3)
        attention = ours.attention
        small = attention.reduce(x_max)
        joints = [row.nonzero().flatten() for row in attention.joints]
        means = torch.stack([small[:, :, level, chosen].mean(-1) for level, chosen in enumerate(joints)], 1)
        weights = torch.sigmoid(attention.widen(attention.between(means[:, None])[:, 0]))  # (B, L, C)
        summed = (stacked * weights.transpose(1, 2)[..., None, None]).sum(2)
    return F.relu(ours.norm(summed) + ours.residual(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("hierarchy", "attention", "channels"),
    [("layers4", True, 8), ("levels3", True, 16), ("layers4", False, 2)],
)
def test_graph_convolution_against_one_level_at_a_time(training, hierarchy, attention, channels):
    torch.manual_seed(0)
    joints = level_joints(hierarchy, "legacy") if attention else None
    ours = lively(HierarchyConv(channels, 16, adjacency(hierarchy), joints)).double().train(training)
    assert isinstance(ours, HierarchyConv)
    nn.init.normal_(ours.edges)  # learned edges have no zeros left
    x = torch.randn(3, channels, 6, 16, dtype=torch.float64, requires_grad=True)
    got, want = ours(x), reference_graph(ours, x)
    torch.testing.assert_close(got, want)
    probe = torch.randn_like(got)
    (a,), (b,) = (torch.autograd.grad(out, x, probe) for out in (got, want))
    torch.testing.assert_close(a, b)


# Keypoints: missing ones, size.


def test_missing_joints_stay_where_they_were():
    seen = keypoints(2, 5)
    hurt = seen.clone()
    hurt[0, 2:4, 9] = torch.nan  # a gap
    hurt[0, :2, 10, 0] = torch.nan  # at the start; one coordinate is enough
    hurt[1, :, 11] = torch.nan  # never seen
    want = seen.clone()
    want[0, 2:4, 9] = seen[0, 1, 9]
    want[0, :2, 10] = seen[0, 2, 10]
    want[1, :, 11] = seen[1, :, 6]
    torch.testing.assert_close(fill_missing(hurt), want, rtol=0, atol=0)
    torch.testing.assert_close(fill_missing(seen), seen, rtol=0, atol=0)


def test_a_pelvis_never_seen_lies_among_the_others():
    hurt = keypoints(1, 3)
    hurt[0, :, 6] = torch.nan
    others = [j for j in range(16) if j != 6]
    torch.testing.assert_close(fill_missing(hurt)[0, :, 6], hurt[0, :, others].mean(1))
    assert (fill_missing(torch.full((1, 3, 16, 2), torch.nan)) == 0).all()


@pytest.mark.parametrize("normalise", [True, False])
def test_missing_joints_never_reach_the_features(normalise):
    hurt = keypoints()
    hurt[0, :, 3] = torch.nan
    hurt[1, 4:] = torch.nan
    hurt[2] = torch.nan
    for training in (True, False):
        answer = encoder(replace(LEGACY, pose_normalise=normalise)).train(training)(hurt)
        assert torch.isfinite(answer.features).all()
        answer.features.sum().backward()


def test_body_size_by_hand():
    """All joints on a line one above the other: MPII's 15 bones, each as long as its ends are apart."""
    line = torch.zeros(1, 4, 16, 2)
    line[..., 1] = torch.arange(16.0)
    bones = [(6, 7), (7, 8), (8, 9), (7, 13), (7, 12), (6, 3), (6, 2), (13, 14), (14, 15)]
    bones += [(12, 11), (11, 10), (3, 4), (4, 5), (2, 1), (1, 0)]
    want = sum(abs(a - b) for a, b in bones) / 15
    torch.testing.assert_close(body_size(line), torch.tensor([want]))
    line[0, 0] *= 100  # one wild frame of four
    torch.testing.assert_close(body_size(line), torch.tensor([want]))
    assert body_size(torch.zeros(1, 4, 16, 2)).item() == 1
    assert body_size(torch.full((1, 4, 16, 2), torch.nan)).item() == 1


@torch.inference_mode()
def test_place_and_size_of_the_body_do_not_matter_when_normalised():
    batch = keypoints()
    far = batch * 0.5 + torch.tensor([100.0, -30.0])
    model = encoder(replace(LEGACY, pose_normalise=True)).eval()
    torch.testing.assert_close(model(batch).features, model(far).features, atol=1e-3, rtol=1e-3)
    legacy = encoder().eval()
    assert (legacy(batch).features - legacy(far).features).abs().max() > 0.1


def test_turning_and_growing_over_time_survive():
    batch = keypoints(1, 4)
    batch[:, 2] = (batch[:, 2] - batch[:, 2, 6:7]) * 2
    seen = centre_and_scale(batch, body_size(batch))
    assert (seen[:, :, 6] == 0).all()
    ratio = (batch[:, :, 9] - batch[:, :, 6]) / seen[:, :, 9]
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))
