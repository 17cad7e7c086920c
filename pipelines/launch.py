"""Runs a training worker in this process, or in the workers of Ray Train."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.checkpoint import write_durably
from pipelines.errors import AqaError, ClusterError, ConfigError, CorruptError, DataError

if TYPE_CHECKING:
    import torch

MAX_FAILURES = 3  # restarts of the Ray workers after a lost process or node

Report = Callable[[dict[str, float]], bool | None]
Worker = Callable[[dict[str, Any], Report, "torch.device"], None]
Watch = Callable[[dict[str, float]], bool]
"""Told the metrics of each epoch; true = this training is not worth its other epochs."""


class Placement(Protocol):
    """The settings that say where to train."""

    @property
    def num_workers(self) -> int: ...

    @property
    def min_workers(self) -> int: ...

    @property
    def use_gpu(self) -> bool: ...


def launch(worker: Worker, spec: dict[str, Any], config: Placement, watch: Watch | None = None) -> None:
    """Call `worker` here (num_workers 0), or once in each Ray Train worker.

    Args:
        worker: a function of a module: (spec, report, device). It resumes from its own checkpoints.
        spec: JSON values, with `run_dir`, a folder that every worker reaches.
        config: num_workers, min_workers, use_gpu.
        watch: of a trial of Ray Tune, which this process must be then; called by the first worker.

    Raises:
        ClusterError: no GPU here, or the workers failed too often.
        ConfigError: more min_workers than num_workers.
        ConfigError, CorruptError, DataError: raised by a worker.
    """
    if config.min_workers > config.num_workers:
        raise ConfigError(
            "min_workers", f"is {config.min_workers}, but num_workers is {config.num_workers}", "lower it"
        )
    if config.num_workers == 0:
        import torch

        if config.use_gpu and not torch.cuda.is_available():
            raise ClusterError("use_gpu", "this machine has no CUDA GPU", "leave use_gpu out")
        worker(spec, watch or (lambda row: None), torch.device("cuda" if config.use_gpu else "cpu"))
        return
    from cluster.connect import connect

    run_dir = Path(spec["run_dir"])
    problem = run_dir / "error.json"
    problem.unlink(missing_ok=True)
    shutil.rmtree(run_dir / "ray", ignore_errors=True)  # our checkpoints resume the run, not Ray's records
    with connect():
        _fit(worker, spec, config, run_dir, watch)
    if problem.is_file():
        told = json.loads(problem.read_text())
        kinds = {kind.__name__: kind for kind in (ConfigError, CorruptError, DataError)}
        raise kinds[told["kind"]](told["where"], told["cause"], told["remedy"])


def _fit(worker: Worker, spec: dict[str, Any], config: Placement, run_dir: Path, watch: Watch | None) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from pipelines.process_group import NodeNetwork

    def in_ray(loop_config: dict[str, Any]) -> None:
        _ray_worker(worker, loop_config, watch)

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Not Ray's: it ends the command as if it had succeeded."""

    callbacks = []
    if watch:
        from ray.tune.integration.ray_train import TuneReportCallback

        callbacks = [TuneReportCallback()]
    # Trainers that read a stream must leave processors for it, or both wait for ever on a small machine.
    resources = {"CPU": 0.5 if spec.get("streams") else 1.0} | ({"GPU": 1.0} if config.use_gpu else {})
    workers = config.num_workers
    if 0 < config.min_workers < workers and not watch:  # a trial keeps the resources that Tune counts on
        workers = (config.min_workers, config.num_workers)
    trainer = Trainer(
        in_ray,
        train_loop_config=spec,
        torch_config=NodeNetwork(),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(run_dir / "ray"),
            callbacks=callbacks,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise ClusterError(
            run_dir,
            f"the Ray workers failed {MAX_FAILURES + 1} times, last with: {_last_line(error)}",
            "see the log above; the same command goes on from the newest checkpoint",
        ) from error


def _ray_worker(worker: Worker, spec: dict[str, Any], watch: Watch | None) -> None:
    """Our own errors are the same on every worker and would come again: told, not retried."""
    import ray.train
    import ray.train.torch

    device = ray.train.torch.get_device()

    def report(row: dict[str, float]) -> bool:
        ray.train.report(row)
        return watch is not None and _first_says(watch, row, device)

    try:
        worker(spec, report, device)
    except AqaError as error:
        if ray.train.get_context().get_world_rank() == 0:
            told = {"kind": type(error).__name__, "where": error.where, "cause": error.cause}
            text = json.dumps({**told, "remedy": error.remedy}, indent=2)
            write_durably(Path(spec["run_dir"]) / "error.json", text.encode())


def _first_says(watch: Watch, row: dict[str, float], device: torch.device) -> bool:
    """The answer of the first worker, to all of them: they must stop at the same epoch."""
    import torch
    import torch.distributed as dist

    alone = not dist.is_initialized() or dist.get_world_size() == 1
    if alone:
        return watch(row)
    answer = torch.tensor([int(dist.get_rank() == 0 and watch(row))], device=device)
    dist.broadcast(answer, src=0)
    return bool(answer.item())


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
