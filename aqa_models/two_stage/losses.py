"""Losses of stage 1, and which part learns from which (paper equations 1 to 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.nonexpert import NonExpert, PretextAnswer
from aqa_models.two_stage.pretext import PretextBatch


@dataclass(frozen=True)
class PretextLosses:
    """One number per sequence, (B,) each: equations 1, 2 and the bracket of equation 3."""

    pace: Tensor
    reconstruction: Tensor
    adversarial: Tensor


def pretext_losses(answer: PretextAnswer, batch: PretextBatch, config: NonExpertConfig) -> PretextLosses:
    """The three losses of each sequence.

    Reconstruction counts valid frames and observed joints: their mean, or the paper's literal sum
    (A8). Its target is the slowed sequence S' (A7). The adversarial loss is
    log D(S') + log(1 - D(inpainted)), from logits so that it stays finite.
    """
    counts = batch.valid[..., None] & batch.target[:, None]
    squared = (answer.inpainted - batch.slowed).square().masked_fill(~counts, 0.0).sum(dim=(1, 2))
    if config.reconstruction == "mean":
        squared = squared / counts.sum(dim=(1, 2)).clamp(min=1)
    return PretextLosses(
        pace=F.cross_entropy(answer.pace, batch.pace, reduction="none"),
        reconstruction=squared,
        adversarial=F.logsigmoid(answer.real) + F.logsigmoid(-answer.fake),
    )


def routed_gradients(
    model: NonExpert, pace: Tensor, reconstruction: Tensor, adversarial: Tensor, config: NonExpertConfig
) -> dict[str, list[Tensor]]:
    """Gradients of each part, in the order of its parameters.

    | part          | minimises                                  |
    |---------------|--------------------------------------------|
    | encoder       | L_rec + beta * L_pace (equation 4)         |
    | pace_head     | L_pace (equation 1)                        |
    | decoder       | L_rec + alpha * L_adv (equation 3)         |
    | discriminator | -L_adv                                     |

    Three backward passes, one per loss, each towards the two parts it concerns: the encoder is never asked
    for a gradient of the adversarial loss, so none can reach it.

    Args:
        model: the non-expert.
        pace: scalar L_pace of the batch; likewise the next two.
        reconstruction: scalar L_rec.
        adversarial: scalar L_adv.
        config: holds alpha and beta.
    """
    encoder, head = list(model.encoder.parameters()), list(model.pace_head.parameters())
    decoder, critic = list(model.decoder.parameters()), list(model.discriminator.parameters())
    by_rec = torch.autograd.grad(reconstruction, encoder + decoder, retain_graph=True)
    by_adv = torch.autograd.grad(adversarial, decoder + critic, retain_graph=True)
    by_pace = torch.autograd.grad(pace, encoder + head)
    n_e, n_d = len(encoder), len(decoder)
    alpha, beta = config.adversarial_weight, config.pace_weight
    return {
        "encoder": [r + beta * p for r, p in zip(by_rec[:n_e], by_pace[:n_e], strict=True)],
        "pace_head": list(by_pace[n_e:]),
        "decoder": [r + alpha * a for r, a in zip(by_rec[n_e:], by_adv[:n_d], strict=True)],
        "discriminator": [-a for a in by_adv[n_d:]],
    }
