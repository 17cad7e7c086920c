"""Losses of stage 1, and which part learns from which (paper equations 1 to 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.nonexpert import NonExpert, PretextAnswer
from aqa_models.two_stage.pretext import PretextBatch


def pretext_losses(answer: PretextAnswer, batch: PretextBatch, config: NonExpertConfig) -> dict[str, Tensor]:
    """The losses of each sequence, (B,) each, in fp32; those that the configuration asks for.

    | name           | equation                                                                           |
    |----------------|------------------------------------------------------------------------------------|
    | pace           | 1, cross-entropy                                                                   |
    | reconstruction | 2, over what counts: the mean, or the paper's literal sum (A8); target S' (A7)     |
    | adversarial    | bracket of 3: log D(S') + log(1 - D(inpainted)), from logits so that it is finite  |
    | generator      | -log D(inpainted), only if the decoder minimises that instead                      |
    | order          | mean cross-entropy over the places of the shuffled sequence                        |
    """
    losses = {}
    if answer.pace is not None:
        losses["pace"] = F.cross_entropy(answer.pace.float(), batch.pace, reduction="none")
    if answer.inpainted is not None:
        squared = (answer.inpainted.float() - batch.slowed).square()
        losses["reconstruction"] = squared.masked_fill(~batch.counts, 0.0).sum(dim=(1, 2))
        if config.reconstruction == "mean":
            losses["reconstruction"] = losses["reconstruction"] / batch.counts.sum(dim=(1, 2)).clamp(min=1)
    if answer.real is not None and answer.fake is not None:
        real, fake = answer.real.float(), answer.fake.float()
        losses["adversarial"] = F.logsigmoid(real) + F.logsigmoid(-fake)
        if config.generator_loss == "non_saturating":
            losses["generator"] = -F.logsigmoid(fake)
    if answer.order is not None:
        asked = batch.order >= 0
        logits = answer.order.float().transpose(1, 2)
        each = F.cross_entropy(logits, batch.order, ignore_index=-1, reduction="none")
        losses["order"] = each.sum(dim=1) / asked.sum(dim=1)
    return losses


def encoder_loss(losses: Mapping[str, Tensor], config: NonExpertConfig) -> Tensor:
    """What the encoder minimises: the pretext's loss + beta * L_pace (equation 4)."""
    weights = {"reconstruction": 1.0, "order": 1.0, "pace": config.pace_weight}
    return torch.stack([weight * losses[name] for name, weight in weights.items() if name in losses]).sum(0)


def routed_gradients(
    model: NonExpert, losses: Mapping[str, Tensor], config: NonExpertConfig
) -> dict[str, list[Tensor]]:
    """Gradients of each part, in the order of its parameters.

    | part          | minimises                                                             |
    |---------------|-----------------------------------------------------------------------|
    | encoder       | L_rec + beta * L_pace (equation 4), or L_order + beta * L_pace         |
    | pace_head     | L_pace (equation 1)                                                   |
    | decoder       | L_rec + alpha * L_adv (equation 3), or L_rec - alpha * log D(inpainted) |
    | discriminator | -L_adv                                                                |
    | order_head    | L_order                                                               |

    One backward pass per loss, each towards the parts it concerns only: the encoder is never asked for a
    gradient of the adversarial loss, so none can reach it.

    Args:
        model: the non-expert.
        losses: scalars of the batch, by the names of `pretext_losses`.
        config: holds alpha and beta.
    """
    alpha, beta = config.adversarial_weight, config.pace_weight
    routes = {
        "reconstruction": {"encoder": 1.0, "decoder": 1.0},
        "order": {"encoder": 1.0, "order_head": 1.0},
        "adversarial": {"decoder": alpha, "discriminator": -1.0},
        "pace": {"encoder": beta, "pace_head": 1.0},
    }
    if "generator" in losses:
        routes["adversarial"] = {"discriminator": -1.0}
        routes["generator"] = {"decoder": alpha}
    gradients: dict[str, list[Tensor]] = {}
    for name, weights in routes.items():
        if name not in losses:
            continue
        groups = {part: list(getattr(model, part).parameters()) for part in weights}
        # Zeros where a part does not use all it has: a bridge of forward states leaves a backward one unread.
        found = iter(
            torch.autograd.grad(
                losses[name],
                [parameter for group in groups.values() for parameter in group],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        for part, weight in weights.items():
            told = [weight * next(found) for _ in groups[part]]
            gradients[part] = (
                [a + b for a, b in zip(gradients[part], told, strict=True)] if part in gradients else told
            )
    return gradients


def order_accuracy(logits: Tensor, order: Tensor) -> Tensor:
    """Share of the places given their true segment by the most probable permutation, (B,).

    Args:
        logits: (B, N, N), for each place of the shuffled sequence which segment it holds.
        order: (B, N) true segments, -1 behind the last of a short sequence.
    """
    shares = []
    for scores, true in zip(logits.float().log_softmax(dim=2).cpu(), order.cpu(), strict=True):
        count = int((true >= 0).sum())
        _, chosen = linear_sum_assignment(-scores[:count, :count].numpy())
        shares.append(float((torch.from_numpy(chosen) == true[:count]).float().mean()))
    return torch.tensor(shares)
