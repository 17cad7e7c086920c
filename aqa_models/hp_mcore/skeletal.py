"""Hierarchical skeletal encoder: a five-block HD-GCN over the joints (paper figure 2c and 3; docs/papers.md).

HD-GCN is Lee et al., ICCV 2023. Tensors inside are (B, C, T, J); all L hierarchy levels are computed at once,
side by side along the channels. 182,156 parameters with four layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqa_models.hp_mcore.config import HpMcoreConfig
from aqa_models.skeletons import skeleton

WIDTH = 128  # D of the features
SKELETON = skeleton("mpii16")

# Groups of joints from the inside out; layer k joins groups k and k + 1. `layers4` is the released code's;
# `levels3` is the paper's torso, inner limbs, outer limbs (figure 3), whose hips and head we count as torso.
GROUPS: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "layers4": (
            ("thorax",),
            ("pelvis", "upper_neck", "right_shoulder", "left_shoulder"),
            ("head_top", "left_elbow", "right_hip", "left_hip", "right_elbow"),
            ("right_wrist", "left_wrist", "right_knee", "left_knee"),
            ("left_ankle", "right_ankle"),
        ),
        "levels3": (
            ("thorax",),
            ("pelvis", "upper_neck", "head_top", "right_shoulder", "left_shoulder", "right_hip", "left_hip"),
            ("right_elbow", "left_elbow", "right_knee", "left_knee"),
            ("right_wrist", "left_wrist", "right_ankle", "left_ankle"),
        ),
    }
)

_CHANNELS = (64, 64, 64, 64, WIDTH)  # of the blocks
_RELATIONS = 3  # a joint to itself, parent to child, child to parent
_NEIGHBOURS = 5  # joints that an EdgeConv looks at, the joint itself among them
_START_OF_NORM = 1e-6  # a block starts as (almost) its residual alone


def adjacency(hierarchy: str) -> Tensor:
    """Edges of each level: every joint of a group with every joint of the next, not only bones.

    Args:
        hierarchy: layers4 or levels3.

    Returns:
        (L, 3, J, J), indexed [level, relation, from, to]: identity on the joints of both groups; inner to
        outer group; the reverse. Columns sum to 1 (divided by in-degree) or, without an edge, to 0.
    """
    joints = [[SKELETON.index(name) for name in group] for group in GROUPS[hierarchy]]
    edges = torch.zeros(len(joints) - 1, _RELATIONS, len(SKELETON.joints), len(SKELETON.joints))
    for level, (inner, outer) in enumerate(pairwise(joints)):
        both = [*inner, *outer]
        edges[level, 0, both, both] = 1
        for joint in inner:
            edges[level, 1, joint, outer] = 1
            edges[level, 2, outer, joint] = 1
    return edges / edges.sum(2, keepdim=True).clamp(min=1)


def level_joints(hierarchy: str, layer_joints: str) -> Tensor:
    """(L, J) weights that average the joints of each level.

    Args:
        hierarchy: layers4 or levels3.
        layer_joints: fixed, or legacy = each joint's predecessor (and the last for the first), since the
            released code subtracts 1 from indices that start at 0.
    """
    groups = GROUPS[hierarchy]
    shift = 1 if layer_joints == "legacy" else 0
    weights = torch.zeros(len(groups) - 1, len(SKELETON.joints))
    for level, (inner, outer) in enumerate(pairwise(groups)):
        indices = [SKELETON.index(name) - shift for name in (*inner, *outer)]
        weights[level, indices] = 1 / len(indices)
    return weights


class SkeletalFeatures(NamedTuple):
    """What the encoder says of each performance."""

    features: Tensor
    """(B, T, 128) per frame."""
    number_logits: Tensor
    """(B, classes) of the dive number, from the mean over all frames."""


class SkeletalEncoder(nn.Module):
    """Keypoints -> one vector per frame, and what dive it is.

    Reads of the configuration: hierarchy, layer_joints, pose_normalise, action_numbers.
    """

    width = WIDTH

    def __init__(self, config: HpMcoreConfig):
        super().__init__()
        self.normalise = config.pose_normalise
        self.norm = nn.BatchNorm1d(2 * len(SKELETON.joints))
        edges = adjacency(config.hierarchy)
        joints = level_joints(config.hierarchy, config.layer_joints)
        inputs = (2, *_CHANNELS[:-1])
        self.blocks = nn.Sequential(
            *(
                Block(channels, out_channels, edges, None if index == 0 else joints)
                for index, (channels, out_channels) in enumerate(zip(inputs, _CHANNELS, strict=True))
            )
        )
        self.number = nn.Linear(WIDTH, config.action_numbers)

    def forward(self, keypoints: Tensor) -> SkeletalFeatures:
        """Encode performances.

        Args:
            keypoints: (B, T, 16, 2) px, MPII order; a joint with a NaN is missing (see `fill_missing`).

        Returns:
            The features are in the precision of the weights, also under autocast.

        Raises:
            ValueError: another shape.
        """
        if keypoints.ndim != 4 or keypoints.shape[2:] != (len(SKELETON.joints), 2):
            raise ValueError(
                f"the skeletal encoder needs keypoints (B, T, {len(SKELETON.joints)}, 2) in MPII order, "
                f"got {tuple(keypoints.shape)}"
            )
        filled = fill_missing(keypoints)
        if self.normalise:
            filled = centre_and_scale(filled, body_size(keypoints))
        x = self.norm(filled.flatten(2).transpose(1, 2))  # (B, J 2, T)
        x = x.unflatten(1, (-1, 2)).permute(0, 2, 3, 1).contiguous()  # (B, 2, T, J)
        per_frame = self.blocks(x).to(self.number.weight.dtype).mean(3).transpose(1, 2)
        return SkeletalFeatures(per_frame, self.number(per_frame.mean(1)))


def fill_missing(keypoints: Tensor) -> Tensor:
    """Finite keypoints, since one NaN would spoil the statistics of the whole batch.

    A missing joint stays where it was last seen, or (at the start) where it will first be seen; a joint that
    is never seen lies on the pelvis. A pelvis that is never seen lies in the middle of the joints that are;
    with none at all everything is 0.

    Args:
        keypoints: (B, T, J, 2), MPII order; NaN in a coordinate = joint missing.
    """
    seen = torch.isfinite(keypoints).all(-1)  # (B, T, J)
    frame = torch.arange(keypoints.shape[1], device=keypoints.device)[:, None]
    last = torch.where(seen, frame, -1).cummax(1).values
    first = seen.int().argmax(1, keepdim=True)
    source = torch.where(last >= 0, last, first)
    filled = keypoints.take_along_dim(source[..., None], dim=1)
    filled = filled.where(seen.any(1)[:, None, :, None], torch.nan)
    middle = filled.nanmean(2).nan_to_num(0.0)
    pelvis = filled[:, :, SKELETON.index(SKELETON.root)]
    pelvis = pelvis.where(pelvis.isfinite(), middle)
    return filled.where(filled.isfinite(), pelvis[:, :, None])


def body_size(keypoints: Tensor) -> Tensor:
    """(B,) px, one size per performance: the mean over the bones of the median over time of their lengths.

    Medians forgive tangled frames, and bones keep their length in pike and tuck. 1 where no bone is ever seen
    or all lie on one point.
    """
    parents, children = (list(ends) for ends in zip(*SKELETON.bones, strict=True))
    lengths = (keypoints[:, :, parents] - keypoints[:, :, children]).norm(dim=-1)  # (B, T, bones)
    size = lengths.nanmedian(1).values.nanmean(1)
    return size.where(size > 0, 1.0)


def centre_and_scale(keypoints: Tensor, size: Tensor) -> Tensor:
    """Keypoints (B, T, J, 2) seen from the pelvis of their frame, in units of `size` (B,)."""
    pelvis = keypoints[:, :, SKELETON.index(SKELETON.root), None]
    return (keypoints - pelvis) / size[:, None, None, None]


class Block(nn.Module):
    """Graph convolution over the joints, then convolutions over time: (B, C, T, J) -> (B, C', T, J).

    Args:
        channels: C.
        out_channels: C'.
        edges: (L, 3, J, J) of `adjacency`.
        joints: (L, J) of `level_joints`; None = the first block: levels summed, no residual around the block.
    """

    def __init__(self, channels: int, out_channels: int, edges: Tensor, joints: Tensor | None):
        super().__init__()
        self.graph = HierarchyConv(channels, out_channels, edges, joints)
        self.time = TemporalMultiScale(out_channels)
        self.residual = None if joints is None else _residual(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.time(self.graph(x))
        return F.relu(y if self.residual is None else y + self.residual(x))


class HierarchyConv(nn.Module):
    """Graph convolution on each level of the hierarchy, and attention over the levels (figure 2c).

    F = sum over levels of (H concatenated with Z) * attention: H are the three relations of the level, Z is
    an EdgeConv on the joints' means over time. H starts from the level's edges, which are learned on.
    """

    def __init__(self, channels: int, out_channels: int, edges: Tensor, joints: Tensor | None):
        super().__init__()
        self.levels, width = len(edges), out_channels // (_RELATIONS + 1)
        self.edges = nn.Parameter(edges.clone())
        self.reduce = nn.Sequential(
            _pointwise(channels, self.levels * width), nn.BatchNorm2d(self.levels * width), nn.ReLU()
        )
        branches = self.levels * _RELATIONS
        self.relate = nn.Conv2d(branches * width, branches * width, 1, groups=branches)
        nn.init.kaiming_normal_(self.relate.weight, nonlinearity="relu")
        nn.init.zeros_(self.relate.bias)  # type: ignore[arg-type]
        self.relate_norm = nn.BatchNorm2d(branches * width)
        self.nearest = EdgeConv(width, width, self.levels, _NEIGHBOURS)
        self.attention = None if joints is None else LevelAttention(out_channels, joints)
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.constant_(self.norm.weight, _START_OF_NORM)
        self.residual = _residual(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, J) -> (B, C', T, J)."""
        lower = self.reduce(x)  # (B, L C'/4, T, J)
        related = self.relate_norm(self._related(lower)).unflatten(
            1, (self.levels, -1)
        )  # (B, L, 3 C'/4, T, J)
        still = lower.mean(2).unflatten(1, (self.levels, -1)).transpose(2, 3)  # (B, L, J, C'/4)
        nearest = self.nearest(still).transpose(2, 3)  # (B, L, C'/4, J), the same in all frames
        if self.attention is None:
            related, nearest = related.sum(1), nearest.sum(1)
        else:
            weights = self.attention(torch.cat([related.max(3).values, nearest], dim=2))
            of_related, of_nearest = weights.split([related.shape[2], nearest.shape[2]], dim=2)
            related = (related * of_related[..., None, None]).sum(1)
            nearest = (nearest * of_nearest[..., None]).sum(1)
        nearest = nearest[:, :, None].expand(-1, -1, x.shape[2], -1)
        return F.relu(self.norm(torch.cat([related, nearest], dim=1)) + self.residual(x))

    def _related(self, lower: Tensor) -> Tensor:
        """Each relation of each level: joints are mixed by its edges, channels by its 1x1 convolution.

        Both are linear and commute but for the bias, so the convolution that widens goes first, without it.
        """
        branches, (_, _, frames, joints) = self.levels * _RELATIONS, lower.shape
        width = lower.shape[1] // self.levels
        weight = self.relate.weight.view(self.levels, _RELATIONS * width, width)
        x = weight @ lower.reshape(-1, self.levels, width, frames * joints)
        x = x.view(-1, branches, width * frames, joints) @ self.edges.view(branches, joints, joints)
        return x.view(-1, branches * width, frames, joints) + self.relate.bias.view(-1, 1, 1)


class EdgeConv(nn.Module):
    """For each node the maximum over its nearest nodes n of LeakyReLU(norm(W [n - centre, centre])).

    Dynamic graph CNN (Wang et al. 2019), for G independent groups of nodes at once. Nearest by the features
    themselves; the node itself is one of its neighbours. With one neighbour the difference is always 0, and
    the half of W that reads it learns nothing.
    """

    def __init__(self, channels: int, out_channels: int, groups: int, neighbours: int):
        super().__init__()
        self.neighbours = neighbours
        self.weight = nn.Parameter(torch.empty(groups, 2 * channels, out_channels))
        nn.init.normal_(self.weight, std=(2 / (2 * channels)) ** 0.5)
        self.norm = nn.BatchNorm2d(groups * out_channels)

    def forward(self, nodes: Tensor) -> Tensor:
        """(B, G, J, C) -> (B, G, J, C')."""
        with torch.no_grad():
            exact = nodes.float() if nodes.dtype == torch.bfloat16 else nodes
            far = torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist")
            order = far.topk(min(self.neighbours, nodes.shape[2]), largest=False).indices  # (B, G, J, K)
        near = nodes[:, :, None].take_along_dim(order[..., None], dim=3)  # (B, G, J, K, C)
        centre = nodes[:, :, :, None].expand_as(near)
        pairs = torch.cat([near - centre, centre], dim=-1).flatten(2, 3)  # (B, G, J K, 2 C)
        x = (pairs @ self.weight).transpose(2, 3).flatten(1, 2)  # (B, G C', J K)
        x = F.leaky_relu(self.norm(x[..., None]), 0.2).squeeze(-1)
        return (
            x.unflatten(2, order.shape[2:]).max(3).values.unflatten(1, (len(self.weight), -1)).transpose(2, 3)
        )


class LevelAttention(nn.Module):
    """How much each level counts, per channel: HD-GCN's attention-guided hierarchy aggregation.

    Args:
        channels: C.
        joints: (L, J) of `level_joints`.
    """

    def __init__(self, channels: int, joints: Tensor):
        super().__init__()
        self.register_buffer("joints", joints.clone(), persistent=False)
        self.reduce = nn.Sequential(
            _pointwise(channels, channels // 4), nn.BatchNorm2d(channels // 4), nn.ReLU()
        )
        self.between = EdgeConv(channels // 4, channels // 4, 1, 1)
        self.widen = nn.Linear(channels // 4, channels)

    def forward(self, strongest: Tensor) -> Tensor:
        """(B, L, C, J) maxima over time -> (B, L, C) weights between 0 and 1."""
        x = self.reduce(strongest.transpose(1, 2))  # (B, C/4, L, J)
        x = torch.einsum("bclj,lj->blc", x, self.joints.to(x.dtype))
        return torch.sigmoid(self.widen(self.between(x[:, None])[:, 0]))


class TemporalMultiScale(nn.Module):
    """Four branches of C/4 channels over time: two dilated convolutions, a maximum, a 1x1 convolution.

    (B, C, T, J) -> the same. The 1x1 convolution that begins each branch is one for all four.
    """

    def __init__(self, channels: int):
        super().__init__()
        quarter = channels // 4
        self.enter = _pointwise(channels, channels)
        self.enter_norm = nn.BatchNorm2d(channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(quarter, quarter, (5, 1), padding=(2 * dilation, 0), dilation=(dilation, 1))
            for dilation in (1, 2)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(quarter) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, plain = self.enter_norm(self.enter(x)).chunk(4, dim=1)
        a = self.convs[0](F.relu(a))
        b = self.convs[1](F.relu(b))
        c = F.max_pool2d(F.relu(c), (3, 1), stride=1, padding=(1, 0))
        moved = [norm(branch) for norm, branch in zip(self.norms, (a, b, c), strict=True)]
        return torch.cat([*moved, plain], dim=1)


def _pointwise(channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out_channels, 1)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _residual(channels: int, out_channels: int) -> nn.Module:
    if channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_pointwise(channels, out_channels), nn.BatchNorm2d(out_channels))
