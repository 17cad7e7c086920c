"""Projection and pose-guided fusion of each procedure's features (spec 2.5, paper figure 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aqa_models.hp_mcore.config import HpMcoreConfig

WIDTH, HEADS, MLP_RATIO = 256, 2, 4
DYNAMIC_WIDTH, POSE_WIDTH = 1024, 128
DYNAMIC_HIDDEN, STATIC_HIDDEN, POSE_HIDDEN = 1152, 496, 256
POSE_SCALE, POSE_DIVISOR, POSE_WEIGHT = 0.01, 64.0, 0.001
"""Factor on the pose features, divisor of their similarities, and where their learned weight starts."""


def projection(inputs: int, hidden: int) -> nn.Sequential:
    """inputs -> hidden -> 256, ReLU after each: 1,475,968 parameters dynamic, 310,256 static."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, WIDTH), nn.ReLU())


def feed_forward() -> nn.Sequential:
    """256 -> 1024 -> 256 with GELU, after the norm: the second half of every transformer block here."""
    return nn.Sequential(
        nn.LayerNorm(WIDTH),
        nn.Linear(WIDTH, MLP_RATIO * WIDTH),
        nn.GELU(),
        nn.Linear(MLP_RATIO * WIDTH, WIDTH),
    )


def split_heads(x: Tensor) -> Tensor:
    """(B, S, 256) -> (B, H, S, 256 / H)."""
    return x.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)


class PoseGuidedAttention(nn.Module):
    """Self-attention over the steps of one procedure, whose scores the poses shift; 822,017 parameters.

    scores = Q K^T / sqrt(128) + w E E^T / 64 with E = Linear(0.01 F_sk) and a learned w; the same pose term
    for both heads. Without poses it is a plain pre-norm transformer block.
    """

    def __init__(self, with_pose: bool):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = feed_forward()
        self.pose = nn.Linear(POSE_WIDTH, WIDTH) if with_pose else None
        self.pose_weight = nn.Parameter(torch.tensor(POSE_WEIGHT)) if with_pose else None

    def forward(self, x: Tensor, pose: Tensor | None) -> Tensor:
        """(B, S, 256), (B, S, 128) -> (B, S, 256)."""
        q, k, v = (split_heads(part) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
        if self.pose is not None and pose is not None:
            e = self.pose(POSE_SCALE * pose)
            scores = scores + (self.pose_weight * (e @ e.transpose(-1, -2)) / POSE_DIVISOR)[:, None]
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.mlp(x)


class Fusion(nn.Module):
    """Every procedure's features -> fused steps F_fu and static steps; no weights shared between procedures.

    The fused stream starts from the dynamic features; without them from the static ones; without either
    from the poses. With `pose_stream` the projected poses are added to it.
    """

    def __init__(self, config: HpMcoreConfig):
        super().__init__()
        slots = range(config.num_procedures)
        self.dropout = nn.Dropout(config.stream_dropout)
        self.dynamic = nn.ModuleList()
        self.static = nn.ModuleList()
        self.pose = nn.ModuleList()
        if config.use_dynamic:
            self.dynamic.extend(projection(DYNAMIC_WIDTH, DYNAMIC_HIDDEN) for _ in slots)
        if config.use_static:
            self.static.extend(projection(config.static_width, STATIC_HIDDEN) for _ in slots)
        if config.adds_poses:
            self.pose.extend(projection(POSE_WIDTH, POSE_HIDDEN) for _ in slots)
        self.attention = nn.ModuleList(PoseGuidedAttention(config.use_pose) for _ in slots)

    def forward(
        self, dynamic: Tensor | None, static: Tensor | None, pose: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Fuses resampled features; what the configuration does not use is None.

        Args:
            dynamic: (B, P, S, 1024).
            static: (B, P, S, D).
            pose: (B, P, S, 128).

        Returns:
            fused (B, P, S, 256) and, with the static stream, static (B, P, S, 256).
        """
        dynamic, static, pose_input = (
            None if x is None else self.dropout(x) for x in (dynamic, static, pose)
        )
        still = _each(self.static, static)
        visual = _each(self.dynamic, dynamic)
        parts = [
            part
            for part in (still if visual is None else visual, _each(self.pose, pose_input))
            if part is not None
        ]
        start = torch.stack(parts).sum(dim=0)
        fused = [
            layer(start[:, slot], None if pose is None else pose[:, slot])
            for slot, layer in enumerate(self.attention)
        ]
        return torch.stack(fused, dim=1), still


def _each(layers: nn.ModuleList, x: Tensor | None) -> Tensor | None:
    """The layer of each slot on that slot's steps; None where the configuration has no such layers."""
    if not layers or x is None:
        return None
    return torch.stack([layer(x[:, slot]) for slot, layer in enumerate(layers)], dim=1)
