"""HP-MCoRe as the training loop sees it: pairs of dives, losses, gradients, validation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from aqa_models.exemplars import draw_exemplars
from aqa_models.hp_mcore.losses import pair_losses
from aqa_models.hp_mcore.model import HpMcore
from aqa_models.metrics import mae, spearman_rho
from pipelines.config import HpMcoreTrainConfig
from pipelines.hp_mcore.augment import vary_poses
from pipelines.hp_mcore.dives import Dives
from pipelines.hp_mcore.frames import EXEMPLAR, QUERY, Shot, Showing, filmed, normalised, training_shot
from pipelines.hp_mcore.score import attempt_of, autocast, score_dives, segmentation_metrics, target_of
from pipelines.hp_mcore.weights import load_weights

# Second number of a seed: 0 = exemplars and transitions, 2 = views (frames.py).
_DROPOUT, _POSES = 1, 3


class HpMcorePhase:
    """Contrastive regression of score differences; every training dive is a query once per epoch.

    Args:
        dives: rows of the splits train and val, all with scores and transitions.
        config: settings.
        device: where to train.
        showing: decodes the frames of training dives elsewhere, in the order asked for; None = here.

    Raises:
        ConfigError: more dive numbers than the model knows, or starting weights that do not fit.
    """

    kind = "hp_mcore"

    def __init__(
        self,
        dives: Dives,
        config: HpMcoreTrainConfig,
        device: torch.device,
        showing: Showing | None = None,
    ):
        self.dives, self.config, self.device = dives, config, device
        self.train_rows = [row for row, fact in enumerate(dives.facts) if fact.split == "train"]
        self.val_rows = [row for row, fact in enumerate(dives.facts) if fact.split == "val"]
        facts = [dives.facts[row] for row in self.train_rows]
        self.clip_ids = [fact.clip_id for fact in facts]
        self.attempts = [attempt_of(fact) for fact in facts]
        self.splash = _mean_and_deviation([f.splash for f in facts if not np.isnan(f.splash)])
        self.numbers = {number: place for place, number in enumerate(sorted({f.action_type for f in facts}))}
        torch.manual_seed(config.seed)
        learns = config.encoders == "finetune"
        self.model = HpMcore(config.model, learns, config.checkpoint_gradients)
        load_weights(self.model, config)
        self.model.to(device)
        for name, scale in self.model.scales.items():
            scale.set(*dives.statistics(name, self.train_rows))
        self.parts = parts_of(self.model)
        rates = {"model": 1.0, "dynamic": config.dynamic_rate, "static": config.static_rate}
        self.rates = {part: rates[part] for part in self.parts}
        self._epoch, self._exemplars = -1, {}
        self._showing = showing or (dives.pictures.shown if dives.pictures else None)
        self._shown: Iterator[np.ndarray] = iter(())

    def begin_epoch(self, epoch: int, shares: list[list[int]]) -> None:
        """Says which positions `gradients` will be asked for, so that their frames can be decoded ahead."""
        if self._showing is not None:
            self._shown = self._showing([shot for rows in shares for shot in self._shots(rows, epoch)])

    def gradients(
        self, rows: list[int], total: int, epoch: int
    ) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
        """Gradients by part, and sums of losses, of this worker's share of a batch of `total` pairs."""
        self.model.train()
        queries = [self.train_rows[row] for row in rows]
        exemplars = [self.train_rows[self._exemplar(row, epoch)] for row in rows]
        # Dropout is a function of (seed, epoch, first clip), so that a resumed run draws the same.
        torch.manual_seed(_seed(self.config.seed, _DROPOUT, epoch, rows[0]))
        batch = self.dives.batch(queries + exemplars, self.config.model.num_procedures, self.numbers)
        if self.dives.pictures is not None:
            shots, moved = self._shots(rows, epoch), self.config.transform_poses
            batch = filmed(batch, self.dives.pictures, shots, self._shown, moved)
        elif self.config.vary_poses and batch.keypoints is not None:
            seeds = [[self.config.seed, _POSES, epoch, row] for row in queries + exemplars]
            batch = replace(batch, keypoints=vary_poses(batch.keypoints, seeds))
        assert batch.splash is not None
        assert batch.transitions is not None
        batch = replace(batch, splash=(batch.splash - self.splash[0]) / self.splash[1])
        batch = normalised(batch.to(self.device))
        targets = [target_of(self.dives.facts[row], self.config) for row in queries + exemplars]
        scores = torch.tensor(targets, device=self.device)
        with autocast(self.config, self.device):
            encoded = self.model.encode(batch, self._cuts(batch.transitions, queries + exemplars, epoch))
            first, second = slice(len(rows)), slice(len(rows), None)
            query, exemplar = encoded[first], encoded[second]
            losses = pair_losses(
                self.config.model,
                (query, batch[first]),
                (exemplar, batch[second]),
                self.model.compare_both_ways(query, exemplar),
                scores[first] - scores[second],
            )
        each = losses.total(self.config.model)
        parameters = {part: list(module.parameters()) for part, module in self.parts.items()}
        routed = _gradients(each.sum() / total, parameters)
        return routed, {
            name: value.detach().sum() for name, value in {"loss": each, **losses.named()}.items()
        }

    def validate(self) -> dict[str, float]:
        """How well validation dives are scored by comparison with training dives; `loss` is the error."""
        found = score_dives(self.model, self.dives, self.val_rows, self.train_rows, self.config, self.device)
        true = np.array([self.dives.facts[row].score for row in self.val_rows], dtype=float)
        predicted, shares = np.array([prediction.score for prediction in found]), {}
        if self.config.model.combination == "validated":
            alone = {name: np.array([p.streams[name] for p in found]) for name in found[0].streams}
            shares = best_shares(alone, true)
            self.model.regression.set_shares(shares)
            predicted = np.sum([shares[name] * scores for name, scores in alone.items()], axis=0)
        error = mae(predicted, true)
        rho = spearman_rho(predicted, true)
        metrics = {"loss": error, "mae": error} | ({} if np.isnan(rho) else {"spearman": rho})
        metrics |= {f"share_{name}": share for name, share in shares.items()}
        return metrics | segmentation_metrics(self.dives, found, self.config.model.num_procedures)

    def describe(self) -> dict[str, Any]:
        """What a reader of the weights must know."""
        return {
            "kind": self.kind,
            "config": self.config.model_dump(mode="json"),
            "numbers": self.numbers,
            "train_clips": self.clip_ids,
            "val_clips": [self.dives.facts[row].clip_id for row in self.val_rows],
            "splash": self.splash,
        }

    def _exemplar(self, row: int, epoch: int) -> int:
        """Position of the training dive that this one is compared with in this epoch."""
        if self._epoch != epoch:
            place = {clip_id: position for position, clip_id in enumerate(self.clip_ids)}
            drawn = draw_exemplars(self.attempts, self.config.exemplars, self.config.seed, epoch)
            self._exemplars = {place[query]: place[choice.clip_ids[0]] for query, choice in drawn.items()}
            self._epoch = epoch
        return self._exemplars[row]

    def _shots(self, rows: list[int], epoch: int) -> list[Shot]:
        """How the dives of a step are shown: queries, then their exemplars."""
        exemplars = [self._exemplar(row, epoch) for row in rows]
        return [
            training_shot(self.config.seed, epoch, self.train_rows[row], role)
            for role, positions in ((QUERY, rows), (EXEMPLAR, exemplars))
            for row in positions
        ]

    def _cuts(self, annotated: Tensor, rows: list[int], epoch: int) -> Tensor:
        """Annotated transitions; -1 in the rows that are cut at the model's own this time."""
        share = self.config.predicted_share * epoch / max(1, self.config.epochs - 1)
        draws = [np.random.default_rng([self.config.seed, 0, epoch, row]).random() for row in rows]
        own = torch.tensor([draw < share for draw in draws], device=annotated.device)
        return annotated.masked_fill(own[:, None], -1)


def parts_of(model: HpMcore) -> dict[str, nn.Module]:
    """The visual encoders that the model holds, and all the rest: parts with step sizes of their own."""
    encoders = {"dynamic": model.dynamic_encoder, "static": model.static_encoder}
    learning = {name: encoder for name, encoder in encoders.items() if encoder is not None}
    if not learning:
        return {"model": model}
    rest = [child for child in model.children() if not any(child is encoder for encoder in learning.values())]
    return {"model": nn.ModuleList(rest), **learning}


def _gradients(loss: Tensor, parameters: dict[str, list[nn.Parameter]]) -> dict[str, list[Tensor]]:
    """Gradient of every parameter by part; zero where the loss does not reach it."""
    flat = [parameter for group in parameters.values() for parameter in group]
    wanted = [parameter for parameter in flat if parameter.requires_grad]
    found = dict(zip(map(id, wanted), torch.autograd.grad(loss, wanted, allow_unused=True), strict=True))

    def of(parameter: nn.Parameter) -> Tensor:
        gradient = found.get(id(parameter))
        return torch.zeros_like(parameter) if gradient is None else gradient

    return {part: [of(parameter) for parameter in group] for part, group in parameters.items()}


def best_shares(alone: dict[str, np.ndarray], true: np.ndarray) -> dict[str, float]:
    """Shares >= 0 that add up to 1 and make the mixture of the streams' scores closest to the true ones.

    Least squares, drawn a twentieth towards equal shares, since validation dives are few.
    """
    table = np.stack(list(alone.values()), axis=1)
    heavy = 1e3 * np.abs(table).max()  # the sum of the shares is a row that counts more than all others
    found, _ = nnls(np.vstack([table, np.full(table.shape[1], heavy)]), np.append(true, heavy))
    shares = 0.95 * found / found.sum() + 0.05 / len(found)
    return dict(zip(alone, shares.tolist(), strict=True))


def _mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """To bring splashes to one scale; (0, 1) if there is nothing to scale."""
    deviation = float(np.std(values)) if values else 0.0
    return (float(np.mean(values)), deviation) if deviation > 0 else (0.0, 1.0)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
