"""Stage contrastive regression: how many points a query differs from an exemplar, procedure by procedure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aqa_models.hp_mcore.angles import NUM_ANGLES
from aqa_models.hp_mcore.config import HpMcoreConfig
from aqa_models.hp_mcore.fusion import HEADS, WIDTH, feed_forward, split_heads

Steps = dict[str, Tensor]
"""Stream -> resampled steps of B performances."""


@dataclass(frozen=True)
class Comparison:
    """Score of the query minus score of the exemplar, in points.

    Attributes:
        delta: (B,); exactly the sum of `contributions`.
        contributions: (B, P) share of each procedure in delta, all streams combined; 0 in slots that either
            of the two does not use.
        streams: name -> (B, P) contributions if that stream (fused, static, angles) decided alone.
    """

    delta: Tensor
    contributions: Tensor
    streams: dict[str, Tensor]

    def negated(self) -> Comparison:
        """Exemplar against query, where swapping them negates every difference."""
        return Comparison(-self.delta, -self.contributions, {n: -d for n, d in self.streams.items()})

    def __getitem__(self, rows: slice) -> Comparison:
        """Some of the pairs."""
        return Comparison(
            self.delta[rows], self.contributions[rows], {n: d[rows] for n, d in self.streams.items()}
        )


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


class AngleRegression(nn.Module):
    """What the joint angles of each procedure are worth, and the difference of two performances in it.

    A small network per procedure reads all steps at once. It has no way to learn which dive is which, and so
    generalises from a few hundred dives, where the decoders remember theirs (docs/decisions.md).
    """

    def __init__(self, config: HpMcoreConfig):
        super().__init__()
        inputs, rate = config.steps_per_procedure * NUM_ANGLES, config.stream_dropout
        self.worth = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(rate),
                nn.Linear(inputs, 64),
                nn.ReLU(),
                nn.Dropout(rate),
                nn.Linear(64, 1, bias=False),
            )
            for _ in range(config.num_procedures)
        )

    def forward(self, query: Tensor, exemplar: Tensor) -> Tensor:
        """(B, P, S, A), (B, P, S, A) -> (B, P) in units of score_scale; antisymmetric."""
        both = torch.cat([query, exemplar]).flatten(2)
        worth = torch.cat([layer(both[:, slot]) for slot, layer in enumerate(self.worth)], dim=1)
        return worth[: len(query)] - worth[len(query) :]


class StageRegression(nn.Module):
    """D = sum_k w_k d_k / sum_k w_k of each stream, all combined to one delta (spec 2.6).

    w_k = exp(theta_k) starts at 2 and is shared by the fused and the static stream; the angles add up.
    `average` is the mean of the streams; `learned` weighs the fused stream 1 and every other one by its own
    lambda = exp(.) > 0, which starts at 1; `validated` is the mean until `set_shares` is told otherwise.
    """

    def __init__(self, config: HpMcoreConfig):
        super().__init__()
        self.unit, self.antisymmetric = config.score_scale, config.antisymmetric
        # A constant cancels in a difference of both directions.
        sizes = (config.decoder_layers, not config.antisymmetric)
        self.fused = StreamRegression(*sizes)
        self.static = StreamRegression(*sizes) if config.use_static else None
        self.angles = AngleRegression(config) if config.compares_angles else None
        self.theta = nn.Parameter(torch.full((config.num_procedures,), math.log(2.0)))
        others = [name for name in ("static", "angles") if getattr(self, name) is not None]
        learned = others if config.combination == "learned" else []
        self.names = ("fused", *others)
        self.shares: Tensor
        if config.combination == "validated":
            self.register_buffer("shares", torch.full((len(self.names),), 1 / len(self.names)))
        self.validated = config.combination == "validated"
        self.log_confidence = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in learned})

    def forward(self, query: Steps, exemplar: Steps, present: Tensor) -> Comparison:
        """Compares B pairs.

        Args:
            query: its steps by stream: fused and static (B, P, S, 256), angles (B, P, S, A).
            exemplar: likewise.
            present: (B, P) bool, slots that both performances use.
        """
        weight = self.theta.exp() * present
        share = weight / weight.sum(dim=1, keepdim=True)
        streams = {"fused": share * self._difference(self.fused, query["fused"], exemplar["fused"])}
        if self.static is not None:
            streams["static"] = share * self._difference(self.static, query["static"], exemplar["static"])
        if self.angles is not None:
            streams["angles"] = self.unit * self.angles(query["angles"], exemplar["angles"])
        streams = {name: stream.masked_fill(~present, 0.0) for name, stream in streams.items()}
        trust = {name: self.confidence(name) for name in streams}
        weighted = [trust[name] * stream for name, stream in streams.items()]
        mixed = torch.stack(weighted).sum(dim=0) / sum(trust.values())
        return Comparison(mixed.sum(dim=1), mixed, streams)

    def confidence(self, stream: str) -> Tensor | float:
        """lambda: how much a stream counts against the others."""
        if self.validated:
            return self.shares[self.names.index(stream)]
        return self.log_confidence[stream].exp() if stream in self.log_confidence else 1.0

    def set_shares(self, shares: dict[str, float]) -> None:
        """How much each stream counts, for `validated`; 0 or more, together 1."""
        self.shares.copy_(torch.tensor([shares[name] for name in self.names]))

    def _difference(self, stream: StreamRegression, query: Tensor, exemplar: Tensor) -> Tensor:
        difference = stream(query, exemplar)
        if self.antisymmetric:
            difference = (difference - stream(exemplar, query)) / 2
        return self.unit * difference
