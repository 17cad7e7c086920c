"""The training loop: the same in this process and in every Ray Train worker.

All workers hold all sequences (they are small) and take every n-th clip of each batch. Gradients and
losses of the shares are summed, so the number of workers changes nothing but rounding. The gradients
come from autograd.grad, which DistributedDataParallel would not see; hence the explicit sum.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.checkpoint import Checkpoint, load_newest, save_bundle, save_checkpoint
from pipelines.config import OptimizerConfig, TrainSection
from pipelines.errors import ConfigError, DataError

_log = logging.getLogger(__name__)


class Phase(Protocol):
    """What is trained, as the loop sees it: pretrain_phase.py, expert_phase.py or hp_mcore/phase.py.

    Attributes:
        clip_ids: the training clips; a batch is a list of positions in it.
        model: all weights and buffers.
        parts: parts that are clipped alone and may have their own step size.
        rates: part -> factor of the step size.
    """

    clip_ids: list[str]
    model: nn.Module
    parts: dict[str, nn.Module]
    rates: dict[str, float]

    def begin_epoch(self, epoch: int, shares: list[list[int]]) -> None:
        """Told before an epoch which positions `gradients` of this worker will be asked for, in order."""
        ...

    def gradients(
        self, rows: list[int], total: int, epoch: int
    ) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
        """Gradients by part, and sums of losses, of this worker's share of a batch of `total` clips."""
        ...

    def validate(self) -> dict[str, float]:
        """Numbers of the validation clips; the epoch with the smallest `loss` is kept."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a reader of the weights must know."""
        ...


class Training:
    """State of one run: phase, optimiser, best weights."""

    def __init__(self, phase: Phase, config: TrainSection, run_dir: Path):
        self.phase, self.config, self.run_dir = phase, config, run_dir
        groups = [
            {"params": list(module.parameters()), "lr": config.optimizer.learning_rate, "part": part}
            for part, module in phase.parts.items()
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.optimizer.weight_decay)
        self.epoch, self.best_epoch, self.best_value = 0, -1, float("inf")
        self.best = self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.phase.model.state_dict().items()}

    def note_validation(self, value: float) -> None:
        """Keeps a copy of the weights if this epoch is the best so far."""
        if not math.isfinite(value):
            raise DataError(
                f"epoch {self.epoch}, validation clips",
                "the loss is not finite",
                "lower optimizer.learning_rate, or look for broken keypoints in these clips",
            )
        if value < self.best_value:
            self.best_epoch, self.best_value, self.best = self.epoch, value, self._weights()

    def set_learning_rate(self) -> float:
        """Step size of this epoch, for each part times its rate."""
        rate = learning_rate(self.config.optimizer, self.epoch, self.config.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.phase.rates[group["part"]]
        return rate

    def checkpoint(self) -> Checkpoint:
        """A snapshot; `epoch` is the next one to train."""
        optimizer = {
            f"{key}/{name}": tensor
            for name, parameter in self.phase.model.named_parameters()
            for key, tensor in self.optimizer.state.get(parameter, {}).items()
        }
        state = {"epoch": self.epoch, "best_epoch": self.best_epoch, "best_value": self.best_value}
        return Checkpoint({"model": self._weights(), "best": self.best, "optimizer": optimizer}, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes up a snapshot."""
        self.phase.model.load_state_dict(checkpoint.tensors["model"])
        parameters = dict(self.phase.model.named_parameters())
        for key, tensor in checkpoint.tensors["optimizer"].items():
            kind, name = key.split("/", 1)
            place = torch.device("cpu") if kind == "step" else parameters[name].device
            self.optimizer.state[parameters[name]][kind] = tensor.to(place)
        device = next(iter(parameters.values())).device
        self.best = {name: tensor.to(device) for name, tensor in checkpoint.tensors["best"].items()}
        self.epoch, self.best_epoch = checkpoint.state["epoch"], checkpoint.state["best_epoch"]
        self.best_value = checkpoint.state["best_value"]


def run_epochs(
    phase: Phase,
    config: TrainSection,
    run_dir: Path,
    identity: dict[str, Any],
    about: dict[str, Any],
    report: Callable[[dict[str, float]], bool | None],
) -> None:
    """Trains from the newest checkpoint to the last epoch and writes RUN/model of the best epoch.

    Args:
        phase: model, data and losses.
        config: epochs, batch size, optimiser.
        run_dir: folder of the run; the first worker writes metrics.jsonl, checkpoints and model there.
        identity: what the run is; a checkpoint of another run is refused.
        about: what else the description of the model shall say.
        report: called with each epoch's metrics by every worker; true, to all of them, ends the training.

    Raises:
        DataError: a loss or gradient is not finite, in training or validation; names epoch and clips.
        ConfigError: more workers than clips in a batch.
    """
    rank, world = _place()
    training = Training(phase, config, run_dir)
    saved = load_newest(run_dir / "checkpoints", identity)
    if saved:
        training.restore(saved)
        if rank == 0:
            _log.warning("%s: going on after epoch %d", run_dir, training.epoch)
    if rank == 0:
        _cut_metrics(run_dir / "metrics.jsonl", training.epoch)
    while training.epoch < config.epochs:
        started = time.perf_counter()
        rate = training.set_learning_rate()
        row = {"epoch": training.epoch, "learning_rate": rate, **train_epoch(training, rank, world)}
        found = phase.validate()
        row |= {f"val_{name}": value for name, value in found.items()}
        training.note_validation(found["loss"])
        row["seconds"] = time.perf_counter() - started
        training.epoch += 1
        last = training.epoch == config.epochs
        if rank == 0:
            _append(run_dir / "metrics.jsonl", row)
        if report(row):  # no checkpoint behind it: a run killed here asks again
            break
        if rank == 0 and (last or training.epoch % config.checkpoint_every == 0):
            save_checkpoint(run_dir / "checkpoints", training.checkpoint(), identity)
    if rank == 0:
        chosen = {"best_epoch": training.best_epoch, "best_val_loss": training.best_value}
        save_bundle(run_dir / "model", training.best, {**phase.describe(), **chosen, **about})


def learning_rate(config: OptimizerConfig, epoch: int, epochs: int) -> float:
    """Step size of an epoch (0, 1, ...) of a training of `epochs`.

    steps: times `decay` at every twentieth of the training (docs/papers.md, A9). legacy_cosine: HP-MCoRe's
    annealing over 20 epochs that is stepped on without a restart, hence a cosine of period 40 that is zero at
    epochs 20, 60, ... warmup_cosine: a linear rise, then half a cosine down to a hundredth.
    """
    if config.schedule == "constant":
        factor = 1.0
    elif config.schedule == "legacy_cosine":
        factor = (1 + math.cos(math.pi * epoch / 20)) / 2
    elif config.schedule == "warmup_cosine":
        rise = round(config.warmup_share * epochs)
        if epoch < rise:
            factor = (epoch + 1) / (rise + 1)
        else:
            factor = 0.01 + 0.99 * (1 + math.cos(math.pi * (epoch - rise) / max(1, epochs - rise))) / 2
    else:
        factor = config.decay ** (epoch // max(1, epochs // 20))
    return config.learning_rate * factor


def train_epoch(training: Training, rank: int, world: int) -> dict[str, float]:
    """One pass over the training clips; returns the mean of each loss over the clips."""
    phase, config = training.phase, training.config
    sums: dict[str, float] = {}
    steps = batches(len(phase.clip_ids), config.batch_size, world, [config.seed, training.epoch])
    phase.begin_epoch(training.epoch, [rows[rank::world] for rows in steps])
    for rows in steps:
        gradients, losses = phase.gradients(rows[rank::world], len(rows), training.epoch)
        _sum_over_workers([*(g for group in gradients.values() for g in group), *losses.values()])
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        finite = all(bool(value.isfinite()) for value in losses.values())
        for part, module in phase.parts.items():
            for parameter, gradient in zip(module.parameters(), gradients[part], strict=True):
                parameter.grad = gradient
            # Each part is clipped alone, so that a wild discriminator cannot slow the encoder down.
            norm = torch.nn.utils.clip_grad_norm_(module.parameters(), config.optimizer.clip_norm)
            finite = finite and bool(norm.isfinite())
        if not finite:
            clips = ", ".join(phase.clip_ids[row] for row in rows)
            raise DataError(
                f"epoch {training.epoch}, clips {clips}",
                "the loss or its gradient is not finite",
                "lower optimizer.learning_rate, or look for broken keypoints in these clips",
            )
        training.optimizer.step()
    _average_buffers(phase.model)
    return {name: value / len(phase.clip_ids) for name, value in sums.items()}


def batches(num_clips: int, batch_size: int, world: int, seed: list[int]) -> list[list[int]]:
    """Shuffled batches of nearly equal size, each of at least two clips and one clip per worker.

    Batch normalisation cannot learn from a trailing batch of one clip; sizes are evened out instead
    (54 clips in batches of 25 are 18 + 18 + 18). The order depends on the seed alone.
    """
    smallest = max(2, world)
    if num_clips < smallest or batch_size < smallest:
        raise ConfigError(
            "training",
            f"{num_clips} clips in batches of {batch_size} cannot be shared by {world} workers",
            f"give at least {smallest} clips and a batch_size of at least {smallest}",
        )
    order = np.random.default_rng(seed).permutation(num_clips)
    count = min(-(-num_clips // batch_size), num_clips // smallest)
    return [part.tolist() for part in np.array_split(order, count)]


def _place() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _sum_over_workers(tensors: list[Tensor]) -> None:
    if _place()[1] == 1:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    dist.all_reduce(flat)
    begin = 0
    for tensor in tensors:
        tensor.copy_(flat[begin : begin + tensor.numel()].view_as(tensor))
        begin += tensor.numel()


def _average_buffers(model: nn.Module) -> None:
    """Running statistics: each worker's saw its own shares of the batches."""
    world = _place()[1]
    if world > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= world


def _cut_metrics(path: Path, epoch: int) -> None:
    """Drops rows of epochs that will be trained again."""
    rows = read_metrics(path)
    text = "".join(json.dumps(row) + "\n" for row in rows if row["epoch"] < epoch)
    path.write_text(text)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of metrics.jsonl; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _append(path: Path, row: dict[str, float]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
