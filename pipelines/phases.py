"""The expert as the training loop sees it: losses, gradients and validation of a batch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aqa_models.two_stage.config import ExpertConfig
from aqa_models.two_stage.expert import Expert
from aqa_models.two_stage.nonexpert import Encoder
from aqa_models.two_stage.sequence import pad_front
from pipelines.config import ExpertTrainConfig
from pipelines.errors import DataError
from pipelines.motion import Motion, make_sequences

CACHE_BYTES = 2 << 30  # a frozen encoder's states are kept if they fit in this


class ExpertPhase:
    """Regression of the standardised score on top of the encoder."""

    kind = "expert"

    def __init__(
        self,
        train: list[Motion],
        val: list[Motion],
        config: ExpertTrainConfig,
        device: torch.device,
        pretrained: tuple[dict[str, Tensor], dict[str, Any]] | None,
    ):
        self.config, self.device = config, device
        self.clip_ids = [motion.clip_id for motion in train]
        self.targets = target_statistics(train)
        sequences = make_sequences(train + val, config.sequence)
        self.num_coordinates, self.num_features = train[0].keypoints.shape[2], sequences[0].x.shape[1]
        self.scores = torch.tensor([standardise(motion, self.targets) for motion in train + val])
        self.num_train = len(train)
        self.sizes = {"encoder_units": config.encoder_units, "encoder_layers": config.encoder_layers}
        if pretrained:
            names = ("encoder_units", "encoder_layers", "encoder_projection")
            self.sizes = {name: pretrained[1][name] for name in names}
        torch.manual_seed(config.seed)
        self.model = build_expert(self.num_features, self.sizes, config.model).to(device)
        if pretrained:
            prefix = "encoder."
            weights = {n.removeprefix(prefix): t for n, t in pretrained[0].items() if n.startswith(prefix)}
            self.model.encoder.load_state_dict(weights)
        self.parts: dict[str, nn.Module] = {"head": self.model.head}
        self.rates = {"head": 1.0}
        if config.model.finetune_encoder:
            self.parts["encoder"], self.rates["encoder"] = self.model.encoder, 0.1
        self.inputs = [torch.from_numpy(sequence.x).to(device) for sequence in sequences]
        self.states = None if config.model.finetune_encoder else self._encode()

    def begin_epoch(self, epoch: int, shares: list[list[int]]) -> None:
        """Nothing to prepare: all sequences are in memory."""

    def gradients(self, rows: list[int], total: int, epoch: int) -> tuple[dict[str, list[Tensor]], dict]:
        """Gradients by part, and the sum of squared errors, of this worker's share of a batch."""
        self.model.train()
        draws = [self._draw(row, epoch) for row in rows]
        error = self._forward(rows, draws) - self.scores[rows].to(self.device)
        loss = error.square().sum()
        parameters = {part: list(module.parameters()) for part, module in self.parts.items()}
        flat = torch.autograd.grad(loss / total, [p for group in parameters.values() for p in group])
        routed, begin = {}, 0
        for part, group in parameters.items():
            routed[part] = list(flat[begin : begin + len(group)])
            begin += len(group)
        return routed, {"loss": loss.detach()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean squared error of the standardised score, and the mean absolute error in deviations."""
        self.model.eval()
        rows = list(range(self.num_train, len(self.inputs)))
        errors = []
        for begin in range(0, len(rows), self.config.batch_size):
            part = rows[begin : begin + self.config.batch_size]
            errors.append(self._forward(part).cpu() - self.scores[part])
        error = torch.cat(errors)
        return {"loss": float(error.square().mean()), "mae": float(error.abs().mean())}

    def describe(self) -> dict[str, Any]:
        """What a reader of the weights must know; scores are standardised with `targets`."""
        return {
            "kind": self.kind,
            "sequence": asdict(self.config.sequence),
            "model": asdict(self.config.model),
            **self.sizes,
            "num_coordinates": self.num_coordinates,
            "num_features": self.num_features,
            "targets": self.targets,
        }

    @torch.no_grad()
    def _encode(self) -> list[Tensor] | None:
        """States of a frozen encoder, computed once; None if they are too many to keep."""
        width = self.model.encoder.width
        if sum(len(x) for x in self.inputs) * width * 4 > CACHE_BYTES:
            return None
        return [self.model.encoder(x[None], x.new_ones(1, len(x)).bool())[0][0] for x in self.inputs]

    def _draw(self, row: int, epoch: int) -> tuple[slice, Tensor]:
        """Window and kept features of one clip in one epoch, a function of (seed, epoch, clip)."""
        generator = np.random.default_rng([self.config.seed, 0, epoch, row])
        frames, shortest = len(self.inputs[row]), self.config.crop_share
        taken = max(1, round(frames * (shortest + (1 - shortest) * generator.random())))
        begin = int(generator.random() * (frames - taken + 1))
        kept = generator.random(self.model.encoder.width) >= self.config.feature_dropout
        scale = torch.from_numpy(kept / (1 - self.config.feature_dropout)).float()
        return slice(begin, begin + taken), scale.to(self.device)

    def _forward(self, rows: list[int], draws: list[tuple[slice, Tensor]] | None = None) -> Tensor:
        """Standardised scores; with draws, of the window drawn and without the features dropped."""
        read = self.inputs if self.states is None else self.states
        windows = [draw[0] for draw in draws] if draws else [slice(None)] * len(rows)
        x, valid = pad_front([read[row][window] for row, window in zip(rows, windows, strict=True)])
        if self.states is None:
            x, _ = self.model.encoder(x, valid)
        if draws:
            x = x * torch.stack([draw[1] for draw in draws])[:, None]
        return self.model.head(x, valid)


def build_expert(num_features: int, sizes: dict[str, Any], config: ExpertConfig) -> Expert:
    """An expert with fresh weights."""
    projection = sizes.get("encoder_projection", False)
    encoder = Encoder(num_features, sizes["encoder_units"], sizes["encoder_layers"], projection)
    return Expert(encoder, config)


def target_statistics(motions: list[Motion]) -> dict[str, dict[str, float]]:
    """Mean, deviation, median and count of the training scores of each action type.

    Raises:
        DataError: an action type has fewer than two scores, or they are all equal.
    """
    statistics = {}
    for action in sorted({motion.action_type for motion in motions}):
        scores = np.array([motion.score for motion in motions if motion.action_type == action], dtype=float)
        if len(scores) < 2 or np.ptp(scores) == 0:
            raise DataError(
                f"action type {action!r}",
                f"has {len(scores)} training scores, all of one value",
                "train on action types with at least two different scores",
            )
        statistics[action] = {
            "mean": float(scores.mean()),
            "deviation": float(scores.std()),
            "median": float(np.median(scores)),
            "count": len(scores),
        }
    return statistics


def standardise(motion: Motion, targets: dict[str, dict[str, float]]) -> float:
    """Score in deviations from the training mean of its action type."""
    if motion.action_type not in targets:
        raise DataError(
            f"clip {motion.clip_id}",
            f"has action type {motion.action_type!r}, but training had {sorted(targets)}",
            "give training clips of this action type, or leave it out",
        )
    assert motion.score is not None
    target = targets[motion.action_type]
    return (motion.score - target["mean"]) / target["deviation"]
