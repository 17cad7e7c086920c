"""Pretraining as the loop sees it: losses, gradients and validation of a batch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aqa_models.two_stage.config import NonExpertConfig, SequenceConfig
from aqa_models.two_stage.inputs import input_limbs, measure_scale, standardised
from aqa_models.two_stage.losses import PretextLosses, pretext_losses, routed_gradients
from aqa_models.two_stage.nonexpert import NonExpert
from aqa_models.two_stage.pretext import PretextBatch, make_batch
from aqa_models.two_stage.sequence import Sequence
from pipelines.config import PretrainConfig
from pipelines.motion import Motion, make_sequences

_VALIDATION = 1  # second number of the seed: 0 = training draws, 1 = validation draws


class PretrainPhase:
    """Pace and inpainting on healthy motion; no label is read."""

    kind = "nonexpert"

    def __init__(self, train: list[Motion], val: list[Motion], config: PretrainConfig, device: torch.device):
        self.config, self.device = config, device
        self.clip_ids = [motion.clip_id for motion in train]
        self.train, self.val = _standardised_inputs(train, val, config.sequence)
        self.num_coordinates = train[0].keypoints.shape[2]
        self.limbs = input_limbs(config.sequence, self.num_coordinates)
        torch.manual_seed(config.seed)
        self.model = NonExpert(self.limbs.shape[1], config.model).to(device)
        self.parts: dict[str, nn.Module] = {name: getattr(self.model, name) for name in NonExpert.parts}
        self.rates = dict.fromkeys(self.parts, 1.0)

    def begin_epoch(self, epoch: int, shares: list[list[int]]) -> None:
        """Nothing to prepare: all sequences are in memory."""

    def gradients(self, rows: list[int], total: int, epoch: int) -> tuple[dict[str, list[Tensor]], dict]:
        """Gradients by part, and sums of losses, of this worker's share of a batch of `total` clips."""
        batch = self._batch(self.train, rows, [0, epoch])
        losses = pretext_losses(self.model(batch), batch, self.config.model)
        sums = _sums(losses, self.config.model)
        routed = routed_gradients(
            self.model,
            losses.pace.sum() / total,
            losses.reconstruction.sum() / total,
            losses.adversarial.sum() / total,
            self.config.model,
        )
        return routed, sums

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses, pace accuracy, and inpainting error on the validation clips, with fixed draws."""
        sums: dict[str, float] = {}
        size = self.config.batch_size
        for begin in range(0, len(self.val), size):
            rows = list(range(begin, min(begin + size, len(self.val))))
            batch = self._batch(self.val, rows, [_VALIDATION])
            answer = self.model(batch)
            losses = pretext_losses(answer, batch, self.config.model)
            found = {name: float(value) for name, value in _sums(losses, self.config.model).items()}
            found["pace_accuracy"] = float((answer.pace.argmax(dim=1) == batch.pace).sum())
            gone = (batch.hidden & batch.target)[:, None] & batch.valid[..., None]
            for name, guess in (("limb_error", answer.inpainted), ("limb_error_of_zero", batch.masked)):
                squared = (guess - batch.slowed).square().masked_fill(~gone, 0).sum(dim=(1, 2))
                found[name] = float((squared / gone.sum(dim=(1, 2)).clamp(min=1)).sum())
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: value / len(self.val) for name, value in sums.items()}

    def describe(self) -> dict[str, Any]:
        """What a reader of the weights must know."""
        return {
            "kind": self.kind,
            "sequence": asdict(self.config.sequence),
            "model": asdict(self.config.model),
            "num_coordinates": self.num_coordinates,
            "num_features": int(self.limbs.shape[1]),
        }

    def _batch(self, sequences: list[Sequence], rows: list[int], draw: list[int]) -> PretextBatch:
        batch = make_batch(
            [sequences[row].x for row in rows],
            [sequences[row].observed for row in rows],
            self.config.model.paces,
            self.limbs,
            [np.random.default_rng([self.config.seed, *draw, row]) for row in rows],
            self.config.crop_frames,
        )
        return batch.to(self.device)


def _standardised_inputs(
    train: list[Motion], val: list[Motion], config: SequenceConfig
) -> tuple[list[Sequence], list[Sequence]]:
    """Sequences of both; angles in deviations from what is usual in the training clips of the action type."""
    sequences, actions = make_sequences(train + val, config), [motion.action_type for motion in train + val]
    if config.inputs != "xyz":
        scale = measure_scale(sequences[: len(train)], actions[: len(train)])
        pairs = zip(sequences, actions, strict=True)
        sequences = [standardised(sequence, action, scale) for sequence, action in pairs]
    return sequences[: len(train)], sequences[len(train) :]


def _sums(losses: PretextLosses, config: NonExpertConfig) -> dict[str, Tensor]:
    encoder_loss = losses.reconstruction + config.pace_weight * losses.pace
    return {
        "loss": encoder_loss.detach().sum(),
        "pace": losses.pace.detach().sum(),
        "reconstruction": losses.reconstruction.detach().sum(),
        "adversarial": losses.adversarial.detach().sum(),
    }
