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

from aqa_models.two_stage.appearance import pad_back
from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig
from aqa_models.two_stage.expert import Expert
from aqa_models.two_stage.inputs import measure_scale
from aqa_models.two_stage.members import Members
from aqa_models.two_stage.nonexpert import build_encoder
from aqa_models.two_stage.score_losses import ranking_loss, score_loss
from aqa_models.two_stage.sequence import pad_front
from pipelines.config import ExpertTrainConfig
from pipelines.motion import Motion, make_sequences, scaled
from pipelines.splits import folds
from pipelines.targets import class_counts, class_of, standardise, target_statistics

CACHE_BYTES = 2 << 30  # a frozen encoder's states are kept if they fit in this
_MEMBER_SEED = 7919  # so that member 1 of seed 0 is not member 0 of seed 1

Bundle = tuple[dict[str, Tensor], dict[str, Any]]


class Draw(NamedTuple):
    """What is shown of one clip in one epoch: a window, input columns and features (0 or 1 / share kept)."""

    window: slice
    columns: Tensor
    features: Tensor


class ExpertPhase:
    """Regression of the standardised score, or classification of the group, on top of the encoder."""

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
        actions = [motion.action_type for motion in motions]
        self.description = self._describe_data(train, sequences[: len(train)])
        if scale := self.description["scale"]:
            sequences = scaled(sequences, actions, scale)
        self.description |= {
            "num_coordinates": motions[0].keypoints.shape[2],
            "num_features": sequences[0].x.shape[1],
            "encoder": asdict(_encoder_config(config)) if pretrained is None else pretrained[1]["model"],
        }
        self.actions = action_indices(motions, self.description).to(device)
        self.targets = self._targets(motions).to(device)
        self.inputs = [torch.from_numpy(sequence.x).to(device) for sequence in sequences]
        self.videos = [motion.video for motion in motions]
        # Without people set apart every member leaves another part of the training people out.
        self.fold = torch.tensor(folds(train, config) if not val else [-1] * len(train), device=device)
        self.val_rows = list(range(len(train), len(motions))) if val else list(range(len(train)))
        self.model = self._build(pretrained).to(device)
        self.parts, self.rates = self._parts(pretrained is not None)
        self.states = None if config.model.finetune_encoder else self._encode(pretrained is not None)

    def begin_epoch(self, epoch: int, shares: list[list[int]]) -> None:
        """Nothing to prepare: all sequences are in memory."""

    def gradients(self, rows: list[int], total: int, epoch: int) -> tuple[dict[str, list[Tensor]], dict]:
        """Gradients by part, and the sum of the losses, of this worker's share of a batch."""
        self.model.train()
        summed = torch.zeros((), device=self.device)
        for member in range(self.config.members):
            draws = [self._draw(row, epoch, member) for row in rows]
            answer = self._answer(member, self.model.experts, rows, draws)
            counts = self.fold[rows] != member
            summed = summed + self._loss(answer, rows, counts, total)
        parameters = {part: list(module.parameters()) for part, module in self.parts.items()}
        flat = torch.autograd.grad(summed / total, [p for group in parameters.values() for p in group])
        routed, begin = {}, 0
        for part, group in parameters.items():
            routed[part] = list(flat[begin : begin + len(group)])
            begin += len(group)
        return routed, {"loss": summed.detach() / self.config.members}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss of the validation clips, each judged by the members that did not learn from it.

        Of scores also the mean absolute error in deviations, of classes the accuracy.
        """
        self.model.follow()
        self.model.eval()
        answers, targets = [], []
        size = self.config.batch_size
        for member in range(self.config.members):
            held_out = [row for row in self.val_rows if row >= len(self.fold) or self.fold[row] == member]
            for begin in range(0, len(held_out), size):
                rows = held_out[begin : begin + size]
                answers.append(self._answer(member, self.model.judges, rows))
                targets.append(self.targets[rows])
        answer, target = torch.cat(answers), torch.cat(targets)
        loss = float(self._errors(answer, target).mean())
        if self.config.model.task == "classes":
            return {"loss": loss, "accuracy": float((answer.argmax(dim=1) == target).float().mean())}
        return {"loss": loss, "mae": float((answer[:, 0] - target).abs().mean())}

    def describe(self) -> dict[str, Any]:
        """What a reader of the weights must know; scores are standardised with `targets`."""
        return {
            "kind": self.kind,
            "sequence": asdict(self.config.sequence),
            "model": asdict(self.config.model),
            "members": self.config.members,
            "averaging": self.config.averaging,
            **self.description,
        }

    def _describe_data(self, train: list[Motion], sequences: list) -> dict[str, Any]:
        """What of the training clips the weights depend on."""
        scores = self.config.model.task == "score"
        actions = [motion.action_type for motion in train]
        video = train[0].video
        return {
            "scale": measure_scale(sequences, actions) if self.config.sequence.inputs != "xyz" else {},
            "targets": target_statistics(train) if scores else {},
            "classes": {} if scores else class_counts(train),
            "actions": sorted(set(actions)),
            "feature_channels": 0 if video is None else video.shape[1],
        }

    def _targets(self, motions: list[Motion]) -> Tensor:
        if self.config.model.task == "classes":
            return torch.tensor([class_of(motion, list(self.description["classes"])) for motion in motions])
        return torch.tensor([standardise(motion, self.description["targets"]) for motion in motions])

    def _build(self, pretrained: Bundle | None) -> Members:
        model = build_members(self.describe(), self.config.seed)
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
    def _encode(self, shared: bool) -> list[list[tuple[Tensor, Tensor]]] | None:
        """Of each member, every clip's states and last states; None if they are too many to keep."""
        experts = self.model.experts[:1] if shared else self.model.experts
        width = self.model.experts[0].state_width
        if sum(len(x) for x in self.inputs) * width * 4 * len(experts) > CACHE_BYTES:
            return None
        found = []
        for expert in experts:
            answers = [expert.encoder(x[None], x.new_ones(1, len(x)).bool()) for x in self.inputs]
            found.append([(states[0], final[-1, 0]) for states, final in answers])
        return found * self.config.members if shared else found

    def _draw(self, row: int, epoch: int, member: int = 0) -> Draw:
        """What is shown of one clip in one epoch, a function of (seed, epoch, clip, member)."""
        config = self.config
        generator = np.random.default_rng([config.seed, 0, epoch, row] + [member] * (member > 0))
        frames, shortest = len(self.inputs[row]), config.crop_share
        taken = max(1, round(frames * (shortest + (1 - shortest) * generator.random())))
        begin = int(generator.random() * (frames - taken + 1))
        width, columns = self.model.experts[0].state_width, self.inputs[row].shape[1]
        features = _kept(generator, width, config.feature_dropout)
        shown = _kept(generator, columns, config.input_dropout)
        return Draw(slice(begin, begin + taken), shown.to(self.device), features.to(self.device))

    def _answer(
        self, member: int, experts: nn.ModuleList, rows: list[int], draws: list[Draw] | None = None
    ) -> Tensor:
        """(B, N) answers of one expert; with draws, of the window and without what is hidden."""
        expert = experts[member]
        assert isinstance(expert, Expert)
        windows = [draw.window for draw in draws] if draws else [slice(None)] * len(rows)
        if self.states is None:
            x, valid = pad_front([self.inputs[r][w] for r, w in zip(rows, windows, strict=True)])
            if draws:
                x = x * torch.stack([draw.columns for draw in draws])[:, None]
            states, finals = expert.encoder(x, valid)
            final = finals[-1]
        else:
            kept = self.states[member]
            states, valid = pad_front([kept[r][0][w] for r, w in zip(rows, windows, strict=True)])
            final = torch.stack([kept[row][1] for row in rows])
        if draws:
            hidden = torch.stack([draw.features for draw in draws])
            states, final = states * hidden[:, None], final * hidden
        return expert.head(states, valid, final, self.actions[rows], stack_videos(self._shown(rows), self.device))

    def _shown(self, rows: list[int]) -> list[np.ndarray | None]:
        return [self.videos[row] for row in rows]

    def _errors(self, answer: Tensor, target: Tensor) -> Tensor:
        """(B, N), (B,) -> (B,) what each clip costs."""
        if self.config.model.task == "classes":
            return F.cross_entropy(answer, target, reduction="none")
        return score_loss(answer[:, 0], target, self.config.loss)

    def _loss(self, answer: Tensor, rows: list[int], counts: Tensor, total: int) -> Tensor:
        """Sum over this worker's clips; ranking compares the clips of all workers."""
        # A member that leaves a fifth of the people out learns from the others as hard.
        share = 1 - 1 / self.config.members if self.fold.max() >= 0 and self.config.members > 1 else 1.0
        loss = (self._errors(answer, self.targets[rows]) * counts).sum() / share
        if self.config.ranking_weight:
            gathered = [
                _gather(values, total)
                for values in (answer[:, 0], self.targets[rows], self.actions[rows].float(), counts.float())
            ]
            ranking = ranking_loss(gathered[0], gathered[1], gathered[2], gathered[3] > 0)
            loss = loss + self.config.ranking_weight * ranking * total / _world()
        return loss


def build_members(description: dict[str, Any], seed: int = 0) -> Members:
    """Experts with fresh weights, of the sizes that the description of a bundle tells."""
    config, encoder = ExpertConfig(**description["model"]), NonExpertConfig(**description["encoder"])
    experts = []
    for member in range(description["members"]):
        torch.manual_seed(seed + _MEMBER_SEED * member)
        network = build_encoder(description["num_features"], encoder)
        experts.append(
            Expert(
                network,
                network.width,
                config,
                num_outputs=len(description["classes"]) or 1,
                num_actions=len(description["actions"]),
                feature_channels=description["feature_channels"],
            )
        )
    return Members(experts, description["averaging"])


def action_indices(motions: list[Motion], description: dict[str, Any]) -> Tensor:
    """(N,) int64: position of each clip's action type among those of the training, 0 where unknown."""
    known = {name: index for index, name in enumerate(description["actions"])}
    return torch.tensor([known.get(motion.action_type, 0) for motion in motions])


def stack_videos(videos: list[np.ndarray | None], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Padded features and their mask; None if the clips have none."""
    found = [torch.from_numpy(video) for video in videos if video is not None]
    if not found:
        return None
    features, valid = pad_back(found)
    return features.to(device), valid.to(device)


def _encoder_config(config: ExpertTrainConfig) -> NonExpertConfig:
    """An encoder without pretraining; of the rest of the non-expert nothing is built."""
    return NonExpertConfig(
        encoder_kind=config.encoder_kind,
        encoder_units=config.encoder_units,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.encoder_layers,
    )


def _kept(generator: np.random.Generator, count: int, dropped: float) -> Tensor:
    return torch.from_numpy((generator.random(count) >= dropped) / (1 - dropped)).float()


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _gather(share: Tensor, total: int) -> Tensor:
    """(B,) of this worker, which holds every n-th clip of a batch -> (total,) of all, with gradients."""
    if _world() == 1:
        return share
    whole = share.new_zeros(total)
    whole[dist.get_rank() :: _world()] = share
    return dist_functional.all_reduce(whole)
