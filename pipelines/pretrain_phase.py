"""Pretraining as the training loop sees it: losses, gradients and validation of a batch."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aqa_models.two_stage.config import NonExpertConfig, SequenceConfig
from aqa_models.two_stage.guesses import guess_mean_pose, guess_mirrored, mean_pose
from aqa_models.two_stage.inputs import input_limbs, measure_scale, standardised
from aqa_models.two_stage.losses import encoder_loss, order_accuracy, pretext_losses, routed_gradients
from aqa_models.two_stage.nonexpert import NonExpert, PretextAnswer
from aqa_models.two_stage.pretext import PretextBatch, make_batch
from aqa_models.two_stage.sequence import Sequence
from pipelines.config import PretrainConfig
from pipelines.motion import Motion, make_sequences

_VALIDATION = 1  # second number of the seed: 0 = training draws, 1 = validation draws


class PretrainPhase:
    """The non-expert learns its pretexts from healthy motion; no label is read."""

    kind = "nonexpert"

    def __init__(self, train: list[Motion], val: list[Motion], config: PretrainConfig, device: torch.device):
        self.config, self.device = config, device
        self.clip_ids = [motion.clip_id for motion in train]
        self.train, self.val = _standardised_inputs(train, val, config.sequence)
        self.num_coordinates = train[0].keypoints.shape[2]
        self.limbs = input_limbs(config.sequence, self.num_coordinates, config.model.mask_root_of_limb)
        self.mean_pose = None
        if config.sequence.inputs == "xyz":
            pose = mean_pose([sequence.x for sequence in self.train], config.sequence.skeleton)
            self.mean_pose = pose.to(device)
        torch.manual_seed(config.seed)
        self.model = NonExpert(self.limbs.shape[1], config.model).to(device)
        self.parts: dict[str, nn.Module] = {name: getattr(self.model, name) for name in self.model.parts}
        self.rates = dict.fromkeys(self.parts, 1.0)

    def begin_epoch(self, epoch: int, shares: list[list[int]]) -> None:
        """Nothing to prepare: all sequences are in memory."""

    def gradients(self, rows: list[int], total: int, epoch: int) -> tuple[dict[str, list[Tensor]], dict]:
        """Gradients by part, and sums of losses, of this worker's share of a batch of `total` clips."""
        batch = self._batch(self.train, rows, [0, epoch], self.config.model)
        losses = pretext_losses(self._answer(batch), batch, self.config.model)
        scalars = {name: loss.sum() / total for name, loss in losses.items()}
        return routed_gradients(self.model, scalars, self.config.model), self._sums(losses)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses, pace and order accuracy, and inpainting errors on the validation clips; fixed draws."""
        sums: dict[str, float] = {}
        for batch in self._validation(self.config.model):
            answer = self._answer(batch)
            losses = pretext_losses(answer, batch, self.config.model)
            found = {name: float(value) for name, value in self._sums(losses).items()}
            if answer.pace is not None:
                found["pace_accuracy"] = float((answer.pace.argmax(dim=1) == batch.pace).sum())
            if answer.order is not None:
                found["order_accuracy"] = float(order_accuracy(answer.order, batch.order).sum())
            if self.config.model.pretext == "inpaint" and answer.inpainted is not None:
                found |= self._limb_errors(batch, answer.inpainted)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
        means = {name: value / len(self.val) for name, value in sums.items()}
        if self.config.compare_guard and self.config.model.pace:
            means["pace_accuracy_guarded"] = self.pace_accuracy("low_pass")
            means["pace_accuracy_unguarded"] = self.pace_accuracy("none")
        return means

    @torch.no_grad()
    def pace_accuracy(self, guard: str, noise: float = 0.0) -> float:
        """Share of validation clips whose pace is told, prepared with another guard, with noise on top.

        Args:
            guard: see NonExpertConfig.pace_guard.
            noise: deviation of white noise added to what the encoder reads, in the scale of the sequences;
                above the sensor's own it drowns the traces of the interpolation, and leaves the motion.
        """
        config = replace(self.config.model, pace_guard=guard)
        right, generator = 0, torch.Generator().manual_seed(self.config.seed)
        for batch in self._validation(config):
            shaken = batch.slowed + noise * torch.randn(batch.slowed.shape, generator=generator).to(
                self.device
            )
            shaken = shaken.masked_fill(~(batch.valid[..., None] & batch.observed[:, None]), 0.0)
            answer = self._answer(replace(batch, slowed=shaken))
            assert answer.pace is not None
            right += int((answer.pace.argmax(dim=1) == batch.pace).sum())
        return right / len(self.val)

    def describe(self) -> dict[str, Any]:
        """What a reader of the weights must know."""
        return {
            "kind": self.kind,
            "sequence": asdict(self.config.sequence),
            "model": asdict(self.config.model),
            "encoder_units": self.config.model.units_per_direction,
            "encoder_layers": self.config.model.encoder_layers,
            "encoder_projection": self.config.model.encoder_projection,
            "num_coordinates": self.num_coordinates,
            "num_features": int(self.limbs.shape[1]),
        }

    def _answer(self, batch: PretextBatch) -> PretextAnswer:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.model(batch)

    def _sums(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        total = encoder_loss(losses, self.config.model)
        return {name: loss.detach().sum() for name, loss in {"loss": total, **losses}.items()}

    def _limb_errors(self, batch: PretextBatch, inpainted: Tensor) -> dict[str, float]:
        """Sums over the clips of the mean squared error of the masked limb; of untrained guesses too."""
        guesses = {"limb_error": inpainted, "limb_error_of_zero": torch.zeros_like(batch.slowed)}
        if self.mean_pose is not None:  # of standardised angles zero is the mean pose
            body = self.config.sequence.skeleton
            guesses["limb_error_of_mean_pose"] = guess_mean_pose(batch, self.mean_pose, body)
            guesses["limb_error_of_mirror"] = guess_mirrored(batch, body)
        gone = batch.hidden & batch.observed[:, None]
        count = gone.sum(dim=(1, 2)).clamp(min=1)
        return {
            name: float(((guess - batch.slowed).square().masked_fill(~gone, 0).sum(dim=(1, 2)) / count).sum())
            for name, guess in guesses.items()
        }

    def _validation(self, model: NonExpertConfig) -> list[PretextBatch]:
        size = self.config.batch_size
        shares = [range(begin, min(begin + size, len(self.val))) for begin in range(0, len(self.val), size)]
        return [self._batch(self.val, list(rows), [_VALIDATION], model) for rows in shares]

    def _batch(
        self, sequences: list[Sequence], rows: list[int], draw: list[int], model: NonExpertConfig
    ) -> PretextBatch:
        batch = make_batch(
            [sequences[row].x for row in rows],
            [sequences[row].observed for row in rows],
            model,
            self.limbs,
            [np.random.default_rng([self.config.seed, *draw, row]) for row in rows],
            self.config.crop_frames,
            self.config.sequence.max_frames if model.pad_literal else 0,
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
