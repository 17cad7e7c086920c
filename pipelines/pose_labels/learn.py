"""Fine-tunes a top-down MMPose network with the loss of its own head: the same loop in every worker.

Each draw is a function of (seed, step, place in the batch), so a resumed run goes on as if it had never
stopped. Batch normalisation keeps the statistics of the given weights: a few dozen labelled frames could
only blur them, and so gradients are sums over samples and the number of workers changes nothing but rounding.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.checkpoint import Checkpoint, load_newest, save_bundle, save_checkpoint
from pipelines.config import PoseTrainConfig
from pipelines.errors import ConfigError, DataError
from pipelines.loop import read_metrics
from pipelines.pose_labels.annotations import Label
from pipelines.pose_labels.renders import RenderPool
from pipelines.pose_labels.views import Input, augment, read_image
from pipelines.stages import mmpose_compat

WARMUP = 50  # steps until the full learning rate
CLIP_NORM = 1.0
WEIGHT_DECAY = 0.02
_AVERAGED = 0.998  # share of the old averaged weights kept at each step, less at the start
_log = logging.getLogger(__name__)


def build_network(config: Any, weights: Path, device: torch.device) -> tuple[nn.Module, list[str]]:
    """The network of an MMPose config with a file's weights, ready to be fine-tuned.

    Tensors that the file lacks or has in another shape start anew: so a network for COCO's 17 joints can
    learn the 16 of MPII. Returns the network and the names of those tensors.

    Raises:
        ConfigError: less than half of the network's values are in the file.
    """
    from mmengine.registry import init_default_scope
    from mmpose.models import build_pose_estimator

    mmpose_compat.install()
    init_default_scope("mmpose")
    config.model.backbone.init_cfg = None  # it names weights on the network
    network = build_pose_estimator(config.model)
    tensors, wanted = mmpose_compat.read_weights(weights), network.state_dict()
    fitting = {name: t for name, t in tensors.items() if name in wanted and t.shape == wanted[name].shape}
    share = sum(t.numel() for t in fitting.values()) / sum(t.numel() for t in wanted.values())
    if share < 0.5:
        raise ConfigError(
            weights,
            f"only {share:.0%} of the network's values are in this file",
            "Give the weights of this config, or of the same network for other keypoints",
        )
    network.load_state_dict(fitting, strict=False)
    return network.to(device, memory_format=torch.channels_last), sorted(set(wanted) - set(fitting))


class Sampler:
    """Makes training samples: a labelled frame or a rendered diver, augmented, with the head's targets."""

    def __init__(self, labels: list[Label], config: Any, settings: PoseTrainConfig):
        from mmpose.registry import TRANSFORMS

        mmpose_compat.install()
        self.labels, self.settings = labels, settings
        self.input, self.renders = Input.of(config), RenderPool(settings.seed)
        self._target = TRANSFORMS.build(target_step(config))
        self._pack = TRANSFORMS.build({"type": "PackPoseInputs"})

    def sample(self, step: int, place: int) -> dict[str, Any]:
        """Place `place` of the batch of step `step`: inputs (3, h, w) BGR uint8, and data_samples."""
        random = np.random.default_rng([self.settings.seed, step, place])
        if random.random() < self.settings.render_share:
            image, joints, center, side = self.renders.pick(random, step)
            visible = np.ones(len(joints), bool)
        else:
            label = self.labels[int(random.integers(len(self.labels)))]
            image, joints, visible = read_image(label.image), label.joints, label.visible
            center, side = label.center, label.side
        view, seen, inside = augment(random, image, joints, visible, center, side, self.input)
        packed = {
            "img": np.ascontiguousarray(view[..., ::-1]),
            "transformed_keypoints": seen[None].astype(np.float32),
            "keypoints": seen[None].astype(np.float32),
            "keypoints_visible": inside[None].astype(np.float32),
            "dataset_keypoint_weights": np.ones(len(seen), np.float32),
            "input_size": (self.input.width, self.input.height),
        }
        return self._pack(self._target(packed))


def target_step(config: Any) -> dict[str, Any]:
    """The step that makes the head's targets, from the training pipeline or from the codec alone."""
    for step in config.train_dataloader.dataset.get("pipeline", []):
        if step["type"].rsplit(".", 1)[-1] == "GenerateTarget":
            return dict(step)
    return {"type": "GenerateTarget", "encoder": config.codec}


class Training:
    """Network, averaged weights, optimiser."""

    def __init__(self, network: nn.Module, settings: PoseTrainConfig):
        self.network, self.settings, self.step = network, settings, 0
        plain = [p for p in network.parameters() if p.ndim <= 1]
        decayed = [p for p in network.parameters() if p.ndim > 1]
        groups = [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self.average = self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def checkpoint(self) -> Checkpoint:
        """A snapshot; `epoch` counts steps here."""
        optimizer = {
            f"{key}/{name}": tensor
            for name, parameter in self.network.named_parameters()
            for key, tensor in self.optimizer.state.get(parameter, {}).items()
        }
        return Checkpoint(
            {"model": self._weights(), "best": self.average, "optimizer": optimizer}, {"epoch": self.step}
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes up a snapshot."""
        self.network.load_state_dict(checkpoint.tensors["model"])
        parameters = dict(self.network.named_parameters())
        for key, tensor in checkpoint.tensors["optimizer"].items():
            kind, name = key.split("/", 1)
            place = torch.device("cpu") if kind == "step" else parameters[name].device
            self.optimizer.state[parameters[name]][kind] = tensor.to(place)
        device = next(iter(parameters.values())).device
        self.average = {name: tensor.to(device) for name, tensor in checkpoint.tensors["best"].items()}
        self.step = checkpoint.state["epoch"]

    def update(self, samples: list[dict[str, Any]], batch_size: int) -> float:
        """One step on this worker's share of a batch; returns the loss over the whole batch."""
        rate = self.settings.learning_rate * min(1.0, (self.step + 1) / WARMUP)
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._train_mode()
        loss = self._loss(samples) * (len(samples) / batch_size)
        self.optimizer.zero_grad()
        loss.backward()
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        total = _sum_over_workers([*(p.grad for p in parameters if p.grad is not None), loss.detach()])
        norm = nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        if not (math.isfinite(total) and bool(norm.isfinite())):
            raise DataError(
                f"step {self.step}", "the loss or its gradient is not finite", "lower learning_rate"
            )
        self.optimizer.step()
        self.step += 1
        keep = min(_AVERAGED, (1 + self.step) / (20 + self.step))
        for name, value in self.network.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - keep)
        return total

    def _train_mode(self) -> None:
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def _loss(self, samples: list[dict[str, Any]]) -> Tensor:
        device = next(self.network.parameters()).device
        data: Any = {
            "inputs": [sample["inputs"].to(device) for sample in samples],
            "data_samples": [sample["data_samples"].to(device) for sample in samples],
        }
        batch = self.network.data_preprocessor(data, True)  # type: ignore[operator]
        inputs = batch["inputs"].contiguous(memory_format=torch.channels_last)
        losses = self.network.loss(inputs, batch["data_samples"])  # type: ignore[operator]
        terms = [value for name, value in losses.items() if "loss" in name]
        return torch.stack([torch.stack(t).sum() if isinstance(t, list) else t.mean() for t in terms]).sum()


def run_steps(
    labels: list[Label],
    config: Any,
    weights: Path,
    settings: PoseTrainConfig,
    run_dir: Path,
    identity: dict[str, Any],
    about: dict[str, Any],
    report: Callable[[dict[str, float]], None],
    device: torch.device,
) -> None:
    """Trains from the newest checkpoint to the last step and writes RUN/model.

    Args:
        labels: frames to learn from.
        config: MMPose config of the network.
        weights: file to start from.
        settings: steps, batch, shares.
        run_dir: folder of the run; the first worker writes metrics.jsonl, checkpoints and model there.
        identity: what the run is; a checkpoint of another run is refused.
        about: what else RUN/model/config.json shall say.
        report: called by every worker at each checkpoint.
        device: where to train.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(settings.seed)  # heads that start anew are the same in every worker
    torch.set_flush_denormal(True)
    network, fresh = build_network(config, weights, device)
    training, sampler = Training(network, settings), Sampler(labels, config, settings)
    saved = load_newest(run_dir / "checkpoints", identity)
    if saved:
        training.restore(saved)
    if rank == 0:  # rows of steps that will be done again go
        rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["epoch"] <= training.step]
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses, started = [], time.perf_counter()
    while training.step < settings.steps:
        places = range(rank, settings.batch_size, world)
        samples = [sampler.sample(training.step, place) for place in places]
        losses.append(training.update(samples, settings.batch_size))
        last = training.step == settings.steps
        if not last and training.step % settings.checkpoint_every:
            continue
        row = {
            "epoch": training.step,  # MLflow's axis; counts steps here
            "loss": float(np.mean(losses)),
            "seconds": time.perf_counter() - started,
        }
        losses, started = [], time.perf_counter()
        if rank == 0:
            _log.info("step %d of %d, loss %.4g", training.step, settings.steps, row["loss"])
            with (run_dir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            save_checkpoint(run_dir / "checkpoints", training.checkpoint(), identity)
        report(row)
    if rank == 0:
        save_bundle(run_dir / "model", training.average, {"kind": "pose", "fresh": fresh, **about})


def _sum_over_workers(tensors: list[Tensor]) -> float:
    """Sum the tensors in place over all workers; returns the last one's value, the loss."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
    return float(tensors[-1])
