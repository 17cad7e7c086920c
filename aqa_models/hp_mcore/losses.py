"""The losses of a pair of performances (spec 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from aqa_models.hp_mcore.config import HpMcoreConfig
from aqa_models.hp_mcore.model import Encoded
from aqa_models.hp_mcore.performance import Performances
from aqa_models.hp_mcore.regression import Comparison

TEMPERATURE = 0.1
"""tau of the contrastive loss."""
LAST_WEIGHT = 2.0
"""Weight of the last transition (into the entry) in the segmentation loss; the others weigh 1."""


@dataclass(frozen=True)
class PairLosses:
    """One number per pair, (B,) each, not weighted; None = the configuration has no such loss.

    They are sums over nothing but the pair itself, so that the workers of a distributed run may add them up.
    Numbers and splashes that are not known count as 0.
    """

    score: Tensor
    streams: Tensor | None
    segmentation: Tensor | None
    contrastive_fused: Tensor | None
    contrastive_static: Tensor | None
    number: Tensor | None
    splash: Tensor | None

    def total(self, config: HpMcoreConfig) -> Tensor:
        """(B,): L = L_aqa + weight x each of the others."""
        weighted = [
            (self.streams, config.stream_weight),
            (self.segmentation, config.segmentation_weight),
            (self.contrastive_fused, config.contrastive_weight),
            (self.contrastive_static, config.contrastive_weight),
            (self.number, config.number_weight),
            (self.splash, config.splash_weight),
        ]
        return self.score + sum(weight * part for part, weight in weighted if part is not None)

    def named(self) -> dict[str, Tensor]:
        """The parts that there are, by name."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if part is not None}


def pair_losses(
    config: HpMcoreConfig,
    queries: tuple[Encoded, Performances],
    exemplars: tuple[Encoded, Performances],
    comparisons: tuple[Comparison, Comparison],
    difference: Tensor,
) -> PairLosses:
    """All losses that the configuration weights above 0.

    Args:
        config: weights, and which parts there are.
        queries: what the model made of them, and what is known of them.
        exemplars: likewise.
        comparisons: query against exemplar, and exemplar against query.
        difference: (B,) points, score of the query minus score of the exemplar.

    Raises:
        ValueError: a loss is weighted, but the batch lacks what it is compared with.
    """
    query, exemplar = queries[0], exemplars[0]
    present = query.present & exemplar.present
    there, back = comparisons
    contrast = config.contrastive_weight > 0
    still = query.static is not None and exemplar.static is not None

    def of_both(weight: float, loss, answer: str, truth: str) -> Tensor | None:
        """Mean of a loss of single performances over the pair."""
        if weight == 0 or getattr(query, answer) is None:
            return None
        pairs = [(getattr(e, answer), _known(p, truth)) for e, p in (queries, exemplars)]
        return torch.stack([loss(given, known) for given, known in pairs]).mean(dim=0)

    return PairLosses(
        score=score_loss(there.delta, back.delta, difference, config.score_scale),
        streams=stream_loss(there, back, difference, config.score_scale)
        if config.stream_weight > 0
        else None,
        segmentation=of_both(config.segmentation_weight, segmentation_loss, "logits", "transitions"),
        contrastive_fused=contrastive_loss(query.fused, exemplar.fused, present) if contrast else None,
        contrastive_static=(
            contrastive_loss(query.static, exemplar.static, present)  # type: ignore[arg-type]
            if contrast and still
            else None
        ),
        number=of_both(config.number_weight, number_loss, "number_logits", "number"),
        splash=of_both(config.splash_weight, splash_loss, "splash", "splash"),
    )


def score_loss(there: Tensor, back: Tensor, difference: Tensor, scale: float) -> Tensor:
    """L_aqa: squared error of both directions, in units of `scale` points; all (B,)."""
    return ((there - difference) / scale).square() + ((back + difference) / scale).square()


def stream_loss(there: Comparison, back: Comparison, difference: Tensor, scale: float) -> Tensor:
    """(B,): mean over the streams of the score loss that each would have alone."""
    alone = [
        score_loss(there.streams[name].sum(dim=1), back.streams[name].sum(dim=1), difference, scale)
        for name in there.streams
    ]
    return torch.stack(alone).mean(dim=0)


def segmentation_loss(logits: Tensor, transitions: Tensor) -> Tensor:
    """L_tas: cross-entropy over the frames at each transition, averaged over the transitions there are.

    The last transition weighs 2 and every other one 1: the released code's 1 and 2 for three procedures,
    where uniform logits give 1.5 ln T (6.8465 at 96 frames).

    Args:
        logits: (B, T, P - 1).
        transitions: (B, P - 1) frames; -1 = slot not used.

    Returns:
        (B,); 0 for a performance none of whose transitions is known.
    """
    known = transitions >= 0
    log_p = logits.float().log_softmax(dim=1)
    at = log_p.gather(1, transitions.clamp(min=0)[:, None]).squeeze(1)
    weight = torch.ones_like(at)
    weight[:, -1] = LAST_WEIGHT
    return -(weight * at).masked_fill(~known, 0.0).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def contrastive_loss(a: Tensor, b: Tensor, present: Tensor) -> Tensor:
    """L_cont of one stream: procedure k of a is like procedure k of b, and unlike all others of both.

    With K procedures present and equal similarities it is ln(2 K - 1): ln 5 for three.

    Args:
        a: (B, P, S, D) steps; their mean stands for the procedure.
        b: likewise.
        present: (B, P) bool, slots used by both.

    Returns:
        (B,) mean over the procedures and both directions.
    """
    a, b = (F.normalize(x.float().mean(dim=2), dim=-1) for x in (a, b))
    across = a @ b.transpose(1, 2) / TEMPERATURE
    losses = [
        _one_direction(a @ a.transpose(1, 2) / TEMPERATURE, across, present),
        _one_direction(b @ b.transpose(1, 2) / TEMPERATURE, across.transpose(1, 2), present),
    ]
    return torch.stack(losses).mean(dim=0)


def number_loss(logits: Tensor, number: Tensor) -> Tensor:
    """Cross-entropy of the dive number, (B, classes), (B,) -> (B,); 0 where it is not known (-1)."""
    return F.cross_entropy(logits.float(), number, ignore_index=-1, reduction="none")


def splash_loss(predicted: Tensor, splash: Tensor) -> Tensor:
    """Squared error of the splash score, (B,), (B,) -> (B,); 0 where it is not known (NaN)."""
    known = ~splash.isnan()
    return (predicted.float() - splash.nan_to_num()).square() * known


def _one_direction(within: Tensor, across: Tensor, present: Tensor) -> Tensor:
    """-mean_k log(e^across_kk / (e^across_kk + sum_{j != k} e^within_kj + sum_{j != k} e^across_kj))."""
    same = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    absent = ~present[:, None]
    candidates = torch.cat(
        [across.masked_fill(absent, -torch.inf), within.masked_fill(absent | same, -torch.inf)], dim=2
    )
    positive = across.diagonal(dim1=1, dim2=2)
    # Rows of slots not used have candidates all the same: slots 0 and P - 1 are always there.
    loss = (candidates.logsumexp(dim=2) - positive).masked_fill(~present, 0.0)
    return loss.sum(dim=1) / present.sum(dim=1)


def _known(performances: Performances, name: str) -> Tensor:
    value = getattr(performances, name)
    if value is None:
        raise ValueError(
            f"the loss needs Performances.{name}, which this batch does not have; give it or set "
            "its weight to 0"
        )
    return value
