"""How stages run on Ray Data; the only file that calls `map_batches`.

A stage is a frozen, picklable object: `setup()` makes what is expensive (a network, a decoder process)
once per actor, `process(state, rows)` turns a table of rows into others. Faults of a clip are rows, not
exceptions, so an exception here is a fault of the machine or of the program and ends the run.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

if TYPE_CHECKING:
    from ray.data import DataContext

# A worker that dies is replaced and its rows are done again; rows that kill their worker
# again and again must end the run instead of being tried for ever (Ray Data's default).
MAX_RETRIES = 5
# Pixels that wait between two pools are held to a few blocks of this size.
BLOCK_BYTES = 32 << 20
# What a trainer lets be decoded ahead: some steps, never what would make the object store spill.
AHEAD_BYTES = 256 << 20
SECONDS = "seconds"


class WorkersLost(Exception):
    """Processes or nodes vanished or could not be reached, and Ray gave up their rows."""


class Stage(Protocol):
    """One step over rows; holds only its settings."""

    def setup(self) -> Any:
        """Make what `process` needs, once per actor."""
        ...

    def process(self, state: Any, rows: pa.Table) -> Iterator[pa.Table]:
        """Turn rows into tables of rows, one after another. Must be safe to repeat."""
        ...


@dataclass(frozen=True)
class Pool:
    """Actors that run one stage.

    Args:
        stage: what they do.
        workers: number of actors.
        rows_per_call: rows given to `process` at a time.
        cpus: logical processors reserved by each actor.
        gpus: share of a GPU reserved by each actor.
    """

    stage: Stage
    workers: int
    rows_per_call: int
    cpus: float
    gpus: float = 0.0


class _Actor:
    """Runs a stage inside a Ray actor and notes how long it took."""

    def __init__(self, stage: Stage):
        self.stage, self.state = stage, stage.setup()

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        spent: dict[str, float] = {}
        if SECONDS in rows.column_names:
            spent = sum_seconds(rows)
            rows = rows.drop_columns([SECONDS])
        results = iter(self.stage.process(self.state, rows))
        while True:
            started = time.perf_counter()
            table = next(results, None)
            name, seconds = type(self.stage).__name__, time.perf_counter() - started
            spent[name] = spent.get(name, 0.0) + seconds
            if table is None:
                return
            if table.num_rows:
                notes = [json.dumps(spent), *[None] * (table.num_rows - 1)]
                yield table.append_column(SECONDS, pa.array(notes, pa.string()))
                spent = {}


def sum_seconds(rows: pa.Table) -> dict[str, float]:
    """Wall-clock seconds by stage that went into rows of `run_pools`."""
    total: dict[str, float] = {}
    for note in rows.column(SECONDS).drop_null().to_pylist():
        for name, seconds in json.loads(note).items():
            total[name] = total.get(name, 0.0) + seconds
    return total


def run_pools(plan: pa.Table, pools: list[Pool], rows_per_block: int) -> Iterator[pa.Table]:
    """Stream the plan through the pools on the connected Ray.

    Args:
        plan: the work, one row per clip.
        pools: in order.
        rows_per_block: rows that travel together to the first pool.

    Yields:
        Tables of the last pool's rows in any order, with a column `seconds` for `sum_seconds`.

    Raises:
        WorkersLost: what was given so far is good; the rest must start again.
    """
    import ray.data

    _context(preserve_order=False)
    blocks = [plan.slice(start, rows_per_block) for start in range(0, plan.num_rows, rows_per_block)]
    # `from_arrow` would start a task per block, and for those tasks a worker on every core of the cluster.
    dataset = ray.data.from_blocks(blocks)
    for pool in pools:
        dataset = dataset.map_batches(
            _Actor,
            fn_constructor_args=(pool.stage,),
            batch_size=pool.rows_per_call,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=pool.workers),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_task_retries=MAX_RETRIES,
        )
    lost = (
        ray.exceptions.RayActorError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.ObjectLostError,
        ray.exceptions.WorkerCrashedError,
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    except lost as error:
        if getattr(error, "actor_init_failed", False):  # a fault of the program: it would come again
            raise
        raise WorkersLost(type(error).__name__) from error  # Ray has told the rest, at length


def stream_in_order(plan: pa.Table, stage: Stage, workers: int, rows_per_task: int) -> Iterator[pa.Table]:
    """Stream the plan through tasks of one stage, in the order of the plan: for trainers.

    Called by a trainer that runs in Ray; each has a stream of its own, because each knows which rows it
    needs next. Tasks keep nothing, so `setup` must be cheap.

    Args:
        plan: the work.
        stage: gives at least one row for each row of the plan, in order.
        workers: tasks at the same time.
        rows_per_task: rows given to a task.

    Yields:
        Tables of the stage's rows in the order of the plan.
    """
    import ray
    import ray.data

    context = _context(preserve_order=True)
    context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=AHEAD_BYTES)
    # Trainers may hold every processor; tasks that asked for one of their own would wait for ever.
    free = ray.available_resources().get("CPU", 0)
    blocks = [plan.slice(start, rows_per_task) for start in range(0, plan.num_rows, rows_per_task)]
    dataset = ray.data.from_blocks(blocks).map_batches(
        lambda rows: stage.process(stage.setup(), rows),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.TaskPoolStrategy(size=workers),
        num_cpus=1 if free >= 1 else 0,
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


def _context(*, preserve_order: bool) -> DataContext:
    """Settings of Ray Data that all our streams share."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    # The limit has no named parameter yet; the warning is about Ray 2.64, we pin 2.60.
    warnings.simplefilter("ignore", RayDeprecationWarning)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.execution_options.preserve_order = preserve_order
    # The longest clip has a time limit of its own; Ray's 30 minutes would end long queues.
    context.execution_no_progress_timeout_s = -1
    context.target_max_block_size = BLOCK_BYTES
    return context
