"""Stage contrastive regression: how many points a query differs from an exemplar, procedure by procedure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aqa_models.hp_mcore.config import HpMcoreConfig
from aqa_models.hp_mcore.fusion import HEADS, WIDTH, feed_forward, split_heads


@dataclass(frozen=True)
class Comparison:
    """Score of the query minus score of the exemplar, in points.

    Attributes:
        delta: (B,); exactly the sum of `contributions`.
        contributions: (B, P) share of each procedure in delta, both streams combined; 0 in slots that
            either of the two does not use.
        fused: (B, P) difference that the fused stream sees in each procedure alone, before weighting.
        static: (B, P) likewise of the static stream; None without it.
    """

    delta: Tensor
    contributions: Tensor
    fused: Tensor
    static: Tensor | None

    def negated(self) -> Comparison:
        """Exemplar against query, where swapping them negates every difference."""
        static = None if self.static is None else -self.static
        return Comparison(-self.delta, -self.contributions, -self.fused, static)


class CrossAttention(nn.Module):
    """One layer of the decoder: steps of the query look at steps of the exemplar; 789,504 parameters."""

    def __init__(self):
        super().__init__()
        self.norm_query, self.norm_exemplar = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key_value = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = feed_forward()

    def forward(self, query: Tensor, exemplar: Tensor) -> Tensor:
        """(B, S, 256), (B, S, 256) -> (B, S, 256)."""
        q = split_heads(self.query(self.norm_query(query)))
        k, v = (split_heads(part) for part in self.key_value(self.norm_exemplar(exemplar)).chunk(2, dim=-1))
        scores = q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
        query = query + self.out((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
        return query + self.mlp(query)


class Decoder(nn.Module):
    """Cross-attention layers that all look at the exemplar's own features (spec 2.6); 3,158,016 with four."""

    def __init__(self, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(CrossAttention() for _ in range(layers))

    def forward(self, query: Tensor, exemplar: Tensor) -> Tensor:
        """(B, S, 256), (B, S, 256) -> (B, S, 256)."""
        for layer in self.layers:
            query = layer(query, exemplar)
        return query


class StreamRegression(nn.Module):
    """Decoder and head of one stream, shared by the procedures: difference per procedure."""

    def __init__(self, layers: int, offset: bool = True):
        super().__init__()
        self.decoder = Decoder(layers)
        self.head = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 1, bias=offset)
        )

    def forward(self, query: Tensor, exemplar: Tensor) -> Tensor:
        """(B, P, S, 256), (B, P, S, 256) -> (B, P): mean over the steps, in units of score_scale."""
        decoded = self.decoder(query.flatten(0, 1), exemplar.flatten(0, 1))
        return self.head(decoded).squeeze(-1).mean(dim=1).unflatten(0, query.shape[:2])


class StageRegression(nn.Module):
    """D = sum_k w_k d_k / sum_k w_k of each stream, both combined to one delta (spec 2.6).

    w_k = exp(theta_k) starts at 2 and is shared by the streams. `average` is the mean of the streams;
    `learned` is (fused + lambda static) / (1 + lambda) with lambda = exp(.) > 0, which starts at 1.
    """

    def __init__(self, config: HpMcoreConfig):
        super().__init__()
        self.unit, self.antisymmetric = config.score_scale, config.antisymmetric
        offset = not config.antisymmetric  # the same in both directions, so it would cancel
        self.fused = StreamRegression(config.decoder_layers, offset)
        self.static = StreamRegression(config.decoder_layers, offset) if config.use_static else None
        self.theta = nn.Parameter(torch.full((config.num_procedures,), math.log(2.0)))
        learned = config.use_static and config.combination == "learned"
        self.log_confidence = nn.Parameter(torch.zeros(())) if learned else None

    def forward(
        self,
        query: tuple[Tensor, Tensor | None],
        exemplar: tuple[Tensor, Tensor | None],
        present: Tensor,
    ) -> Comparison:
        """Compares B pairs.

        Args:
            query: fused (B, P, S, 256) and static steps, the latter None without a static stream.
            exemplar: likewise.
            present: (B, P) bool, slots that both performances use.
        """
        fused = self._difference(self.fused, query[0], exemplar[0]).masked_fill(~present, 0.0)
        weight = self.theta.exp() * present
        share = weight / weight.sum(dim=1, keepdim=True)
        if self.static is None or query[1] is None or exemplar[1] is None:
            contributions = share * fused
            return Comparison(contributions.sum(dim=1), contributions, fused, None)
        static = self._difference(self.static, query[1], exemplar[1]).masked_fill(~present, 0.0)
        trust = self.confidence()
        contributions = share * (fused + trust * static) / (1 + trust)
        return Comparison(contributions.sum(dim=1), contributions, fused, static)

    def confidence(self) -> Tensor | float:
        """lambda: how much the static stream counts against the fused one."""
        return 1.0 if self.log_confidence is None else self.log_confidence.exp()

    def _difference(self, stream: StreamRegression, query: Tensor, exemplar: Tensor) -> Tensor:
        difference = stream(query, exemplar)
        if self.antisymmetric:
            difference = (difference - stream(exemplar, query)) / 2
        return self.unit * difference
