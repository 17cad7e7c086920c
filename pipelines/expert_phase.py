"""The expert's training as the loop sees it: losses, gradients and validation of a batch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
import torch.nn.functional as F
from torch import Tensor, nn

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig
from aqa_models.two_stage.expert import Expert
from aqa_models.two_stage.inputs import measure_scale
from aqa_models.two_stage.members import Members
from aqa_models.two_stage.nonexpert import build_encoder
from aqa_models.two_stage.score_losses import ranking_loss, score_loss
from aqa_models.two_stage.sequence import Sequence, pad_front
from pipelines.config import ExpertTrainConfig
from pipelines.expert_inputs import read_inputs
from pipelines.motion import Motion, make_sequences
from pipelines.splits import folds
from pipelines.targets import class_counts, class_of, standardise, target_statistics

CACHE_BYTES = 2 << 30  # a frozen encoder's states are kept if they fit in this
_MEMBER_SEED = 7919  # so that member 1 of seed 0 is not member 0 of seed 1

Bundle = tuple[dict[str, Tensor], dict[str, Any]]


class Draw(NamedTuple):
    """What one member is shown of one clip in one epoch.

    Attributes:
        window: frames.
        features: (D,) factors of the encoder's states, 0 for hidden ones.
        columns: (F,) factors of the inputs, likewise.
        view: 0 = the clip, 1 = its mirror image.
    """

    window: slice
    features: Tensor
    columns: Tensor
    view: int


class ExpertPhase:
    """Regression of the standardised score, or classification of the group, on top of the encoder.

    Args:
        train: training clips.
        val: validation clips; empty = each member leaves other people of train out and is validated on them.
            Only the statistics that standardise scores and angles are those of all of train.
        config: settings.
        device: where to train.
        pretrained: weights and description of a non-expert; None = random weights.
    """

    kind = "expert"

    def __init__(
        self,
        train: list[Motion],
        val: list[Motion],
        config: ExpertTrainConfig,
        device: torch.device,
        pretrained: Bundle | None,
    ):
        self.config, self.device = config, device
        self.clip_ids = [motion.clip_id for motion in train]
        motions = train + val
        sequences = make_sequences(motions, config.sequence)
        encoder = asdict(_encoder_config(config)) if pretrained is None else pretrained[1]["model"]
        self.description: dict[str, Any] = _describe(train, sequences[: len(train)], config)
        # Padding is that of a batch here, and means nothing.
        self.description["encoder"] = encoder | {"pad_literal": False}
        self.inputs = read_inputs(motions, sequences, self.describe(), device)
        self.targets = self._targets(motions).to(device)
        self.leaves_out = not val
        parts = folds(train, config.members, config.seed) if self.leaves_out else [-1] * len(train)
        self.fold = torch.tensor(parts + [-1] * len(val), device=device)
        self.val_rows = list(range(len(train) if val else 0, len(motions)))
        self.model = self._build(pretrained).to(device)
        self.parts, self.rates = self._parts(pretrained is not None)
        self.states = None if config.model.finetune_encoder else self._encode(pretrained is not None)

    def begin_epoch(self, epoch: int, shares: list[list[int]]) -> None:
        """Nothing to prepare: all sequences are in memory."""

    def gradients(self, rows: list[int], total: int, epoch: int) -> tuple[dict[str, list[Tensor]], dict]:
        """Gradients by part, and the sum of the losses, of this worker's share of a batch."""
        self.model.train()
        loss = torch.zeros((), device=self.device)
        for member, expert in enumerate(self.model.experts):
            draws = [self._draw(row, epoch, member) for row in rows]
            counts = self.fold[rows] != member
            answer = self._answer_shown(expert, member, rows, draws, counts if self.leaves_out else None)
            loss = loss + self._loss(answer, rows, counts, total)
        parameters = {part: list(module.parameters()) for part, module in self.parts.items()}
        flat = torch.autograd.grad(loss / total, [p for group in parameters.values() for p in group])
        routed, begin = {}, 0
        for part, group in parameters.items():
            routed[part] = list(flat[begin : begin + len(group)])
            begin += len(group)
        return routed, {"loss": loss.detach() / self.config.members}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss of the validation clips, each judged by the members that did not learn from it.

        Of scores also the mean absolute error in deviations, of classes the accuracy.
        """
        self.model.follow()
        self.model.eval()
        answers, targets = [], []
        for member, expert in enumerate(self.model.judges):
            judged = [row for row in self.val_rows if self.fold[row] in (-1, member)]
            for begin in range(0, len(judged), self.config.batch_size):
                rows = judged[begin : begin + self.config.batch_size]
                answers.append(self._answer(expert, member, rows))
                targets.append(self.targets[rows])
        answer, target = torch.cat(answers), torch.cat(targets)
        found = {"loss": float(self._errors(answer, target).mean())}
        if self.config.model.task == "classes":
            return found | {"accuracy": float((answer.argmax(dim=1) == target).float().mean())}
        return found | {"mae": float((answer[:, 0] - target).abs().mean())}

    def describe(self) -> dict[str, Any]:
        """What a reader of the weights must know; scores are standardised with `targets`."""
        return {"kind": self.kind, **self.description}

    def _targets(self, motions: list[Motion]) -> Tensor:
        if self.config.model.task == "classes":
            return torch.tensor([class_of(motion, list(self.description["classes"])) for motion in motions])
        return torch.tensor([standardise(motion, self.description["targets"]) for motion in motions])

    def _build(self, pretrained: Bundle | None) -> Members:
        model = build_members(self.description, self.config.seed)
        if pretrained:
            prefix = "encoder."
            weights = {n.removeprefix(prefix): t for n, t in pretrained[0].items() if n.startswith(prefix)}
            for expert in (*model.experts, *model.averages):
                expert.encoder.load_state_dict(weights)
        return model

    def _parts(self, pretrained: bool) -> tuple[dict[str, nn.Module], dict[str, float]]:
        """Each member's head, and its encoder if it learns; each is clipped alone."""
        parts: dict[str, nn.Module] = {}
        rates: dict[str, float] = {}
        for member, expert in enumerate(self.model.experts):
            parts[f"head.{member}"], rates[f"head.{member}"] = expert.head, 1.0
            if self.config.model.finetune_encoder:
                rate = self.config.encoder_rate if pretrained else 1.0
                parts[f"encoder.{member}"], rates[f"encoder.{member}"] = expert.encoder, rate
        return parts, rates

    @torch.no_grad()
    def _encode(self, shared: bool) -> list[list[list[tuple[Tensor, Tensor]]]] | None:
        """States and last states [member][view][clip] of frozen encoders; None if too many to keep."""
        experts = self.model.experts[:1] if shared else self.model.experts
        numbers = sum(x.shape[0] for view in self.inputs.views for x in view) * experts[0].state_width
        if numbers * 4 * len(experts) > CACHE_BYTES:
            return None
        found = []
        for expert in experts:
            found.append([])
            for view in self.inputs.views:
                answers = [expert.encoder(x[None], x.new_ones(1, len(x)).bool()) for x in view]
                found[-1].append([(states[0], final[-1, 0]) for states, final in answers])
        return found * self.config.members if shared else found

    def _draw(self, row: int, epoch: int, member: int = 0) -> Draw:
        """What is shown of one clip in one epoch, a function of (seed, epoch, clip, member)."""
        config, x = self.config, self.inputs.views[0][row]
        generator = np.random.default_rng([config.seed, 0, epoch, row] + [member] * (member > 0))
        taken = max(1, round(len(x) * (config.crop_share + (1 - config.crop_share) * generator.random())))
        begin = int(generator.random() * (len(x) - taken + 1))
        return Draw(
            window=slice(begin, begin + taken),
            features=_kept(generator, self.model.experts[0].state_width, config.feature_dropout, self.device),
            columns=_kept(generator, x.shape[1], config.input_dropout, self.device),
            view=int(generator.random() * len(self.inputs.views)),
        )

    def _answer_shown(
        self, expert: Expert, member: int, rows: list[int], draws: list[Draw], counts: Tensor | None
    ) -> Tensor:
        """(B, N) answers to what the draws show; normalised as the clips that count are, None = all."""
        features = torch.stack([draw.features for draw in draws])
        shown = list(zip(rows, draws, strict=True))
        if self.states is None:
            x, valid = pad_front([self.inputs.views[d.view][r][d.window] * d.columns for r, d in shown])
            states, finals = expert.encoder(x, valid)
            final = finals[-1]
        else:
            kept = self.states[member]
            states, valid = pad_front([kept[d.view][r][0][d.window] for r, d in shown])
            final = torch.stack([kept[d.view][r][1] for r, d in shown])
        actions, video = self.inputs.actions[rows], self.inputs.video_batch(rows)
        return expert.head(states * features[:, None], valid, final * features, actions, video, counts)

    def _answer(self, expert: Expert, member: int, rows: list[int]) -> Tensor:
        """(B, N) answers to whole clips, averaged over their views."""
        answers = []
        for view in range(len(self.inputs.views)):
            if self.states is None:
                answers.append(expert(*self.inputs.batch(rows, view)))
                continue
            kept = self.states[member][view]
            states, valid = pad_front([kept[row][0] for row in rows])
            final = torch.stack([kept[row][1] for row in rows])
            video = self.inputs.video_batch(rows)
            answers.append(expert.head(states, valid, final, self.inputs.actions[rows], video))
        return torch.stack(answers).mean(dim=0)

    def _errors(self, answer: Tensor, target: Tensor) -> Tensor:
        """(B, N), (B,) -> (B,) what each clip costs."""
        if self.config.model.task == "classes":
            return F.cross_entropy(answer, target, reduction="none")
        return score_loss(answer[:, 0], target, self.config.loss)

    def _loss(self, answer: Tensor, rows: list[int], counts: Tensor, total: int) -> Tensor:
        """Sum over this worker's clips that count; ranking compares the clips of all workers."""
        learning = float((self.fold[: len(self.clip_ids)] != 0).float().mean())
        # A member that leaves people out takes steps as large as one that does not.
        loss = (self._errors(answer, self.targets[rows]) * counts).sum() / learning
        if self.config.ranking_weight:
            own = (answer[:, 0], self.targets[rows], self.inputs.actions[rows].float(), counts.float())
            predicted, target, group, counted = (_gather(values, total) for values in own)
            ranking = ranking_loss(predicted, target, group, counted > 0)
            loss = loss + self.config.ranking_weight * ranking * total / _place()[1]
        return loss


def build_members(description: dict[str, Any], seed: int = 0) -> Members:
    """Experts with fresh weights, of the sizes that the description of a bundle tells."""
    config, encoder = ExpertConfig(**description["model"]), NonExpertConfig(**description["encoder"])
    experts = []
    for member in range(description["members"]):
        torch.manual_seed(seed + _MEMBER_SEED * member)
        network = build_encoder(description["num_features"], encoder)
        sizes = {
            "num_outputs": len(description["classes"]) or 1,
            "num_actions": len(description["actions"]),
            "feature_channels": description["feature_channels"],
        }
        experts.append(Expert(network, network.width, config, **sizes))
    return Members(experts, description["averaging"])


def _describe(train: list[Motion], sequences: list[Sequence], config: ExpertTrainConfig) -> dict[str, Any]:
    """What a reader of the weights must know of settings and training clips."""
    scores = config.model.task == "score"
    actions = [motion.action_type for motion in train]
    video = train[0].video
    return {
        "sequence": asdict(config.sequence),
        "model": asdict(config.model),
        "members": config.members,
        "averaging": config.averaging,
        "mirror": config.mirror,
        "num_coordinates": train[0].keypoints.shape[2],
        "num_features": sequences[0].x.shape[1],
        "feature_kind": config.feature_kind if video is not None else "",
        "feature_channels": 0 if video is None else video.shape[1],
        "scale": measure_scale(sequences, actions) if config.sequence.inputs != "xyz" else {},
        "actions": sorted(set(actions)),
        "targets": target_statistics(train) if scores else {},
        "classes": {} if scores else class_counts(train),
    }


def _encoder_config(config: ExpertTrainConfig) -> NonExpertConfig:
    """An encoder without pretraining; of the rest of the non-expert nothing is built."""
    return NonExpertConfig(
        encoder_kind=config.encoder_kind,
        encoder_units=config.encoder_units,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.encoder_layers,
    )


def _kept(generator: np.random.Generator, count: int, dropped: float, device: torch.device) -> Tensor:
    return torch.from_numpy((generator.random(count) >= dropped) / (1 - dropped)).float().to(device)


def _place() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _gather(share: Tensor, total: int) -> Tensor:
    """(B,) of this worker, which holds every n-th clip of a batch -> (total,) of all, with gradients."""
    rank, world = _place()
    if world == 1:
        return share
    whole = share.new_zeros(total)
    whole[rank::world] = share
    return dist_functional.all_reduce(whole)
