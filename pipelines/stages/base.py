"""How stages run on Ray Data; the only file that calls `map_batches`.

A stage is a frozen, picklable object: `setup()` makes what is expensive (a network, a decoder process)
once per actor, `process(state, rows)` turns a table of rows into another. Faults of a clip are rows, not
exceptions, so an exception here is a fault of the machine or of the program and ends the run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

# A worker that dies is replaced and its rows are done again; rows that kill their worker
# again and again must end the run instead of being tried for ever (Ray Data's default).
MAX_RETRIES = 5


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
    """Stages that share an actor, and how many actors there are.

    Args:
        stages: run one after another inside the actor.
        workers: number of actors.
        rows_per_call: rows given to `process` at a time.
        cpus: logical processors reserved by each actor.
        gpus: share of a GPU reserved by each actor.
    """

    stages: tuple[Stage, ...]
    workers: int
    rows_per_call: int
    cpus: float
    gpus: float = 0.0


class _Actor:
    """Runs the stages of one pool inside a Ray actor."""

    def __init__(self, stages: tuple[Stage, ...]):
        self.stages = [(stage, stage.setup()) for stage in stages]

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        yield from _chain(self.stages, rows)


def _chain(stages: list[tuple[Stage, Any]], rows: pa.Table) -> Iterator[pa.Table]:
    """Each table of the first stage goes through the others before the next one is made."""
    if not stages:
        yield rows
        return
    (stage, state), *others = stages
    for table in stage.process(state, rows):
        yield from _chain(others, table)


def run_pools(plan: pa.Table, pools: list[Pool], rows_per_block: int) -> Iterator[dict]:
    """Stream the plan through the pools on the connected Ray; yields the last pool's rows.

    Args:
        plan: the work, one row per clip.
        pools: in order.
        rows_per_block: rows that travel together to the first pool.
    """
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    # The limit has no named parameter yet; the warning is about Ray 2.64, we pin 2.60.
    warnings.simplefilter("ignore", RayDeprecationWarning)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.execution_options.preserve_order = False
    # The longest clip has a time limit of its own; Ray's 30 minutes would end long queues.
    context.execution_no_progress_timeout_s = -1
    blocks = [plan.slice(start, rows_per_block) for start in range(0, plan.num_rows, rows_per_block)]
    dataset = ray.data.from_arrow(blocks)
    for pool in pools:
        dataset = dataset.map_batches(
            _Actor,
            fn_constructor_args=(pool.stages,),
            batch_size=pool.rows_per_call,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=pool.workers),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_task_retries=MAX_RETRIES,
        )
    yield from dataset.iter_rows()
