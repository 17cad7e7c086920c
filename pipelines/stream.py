"""One pass of clips through the pools of Ray Data: progress, costs, and going on when workers are lost."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.collect import Collector
from pipelines.config import ExtractConfig
from pipelines.errors import ClusterError
from pipelines.kinds import Work
from pipelines.pools import Cost, Sizes

Progress = Callable[[str], None]
LOST_AGAIN = 3  # times in a row that workers may be lost before one clip is finished
_COUNTED = ("clip_id", "num_frames")


def stream(
    planned: pa.Table,
    work: Work,
    sizes: Sizes,
    config: ExtractConfig,
    collector: Collector | None,
    progress: Progress,
) -> tuple[Cost, float]:
    """Run clips through both pools; what they cost, and the seconds since the first result.

    When a node vanishes or cannot be reached, the clips that are not finished start again on what is left.

    Args:
        planned: the clips.
        work: the stages.
        sizes: workers.
        config: clips per call of the network.
        collector: takes the rows; None = they are only measured.
        progress: receives a line now and then.

    Raises:
        ClusterError: workers were lost again and again without a clip being finished in between.
    """
    from pipelines.stages.base import Pool, WorkersLost

    pools = [
        Pool(work.decode, sizes.decode, 1, sizes.cpus_each),
        Pool(
            work.on_gpu(sizes.gpus > 0),
            sizes.network,
            config.clips_per_call,
            sizes.cpus_each,
            sizes.gpus_each,
        ),
    ]
    done = _Pass(planned.num_rows, collector, progress)
    todo, lost, finished = planned, 0, 0
    while todo.num_rows:
        try:
            done.take_all(todo, pools)
            break
        except WorkersLost as error:
            todo = done.unfinished(planned)
            lost = 1 if todo.num_rows < planned.num_rows - finished else lost + 1
            finished = planned.num_rows - todo.num_rows
            if lost > LOST_AGAIN:
                raise ClusterError(
                    "workers",
                    f"were lost {lost} times while not one clip was finished, last with: {error}",
                    "see the log above; the same command goes on from what is committed",
                ) from error
            progress(f"workers were lost ({error}); starting {todo.num_rows} clips again")
    return done.cost(work), time.monotonic() - done.first


class _Pass:
    """What has come back so far.

    Args:
        planned: number of clips.
        collector, progress: see `stream`.
    """

    def __init__(self, planned: int, collector: Collector | None, progress: Progress):
        self.planned, self.collector, self.progress = planned, collector, progress
        self.frames: Counter = Counter()
        self.spent: Counter = Counter()
        self.bytes = 0
        self.before = Counter() if collector is None else collector.counts.copy()
        self.started, self.first = time.monotonic(), 0.0

    def take_all(self, todo: pa.Table, pools: list) -> None:
        """Everything the pools make of some clips; WorkersLost may end it early."""
        from pipelines.stages.base import SECONDS, run_pools, sum_seconds

        # Small blocks keep every decoder busy to the end; large plans need larger ones.
        for rows in run_pools(todo, pools, max(1, todo.num_rows // 1000)):
            self.first = self.first or time.monotonic()
            self.spent.update(sum_seconds(rows))
            rows = rows.drop_columns([SECONDS])
            for name, count in zip(*(rows.column(n).to_pylist() for n in _COUNTED), strict=True):
                self.frames[name] += count or 0
            self.bytes += rows.nbytes
            if self.collector is not None:
                self.collector.add(rows)
                # The start of the workers does not count, unless the first rows are all there is.
                now = time.monotonic()
                seconds = now - self.first if now - self.first > 1 else now - self.started
                self.progress(progress_line(self.collector.counts - self.before, self.planned, seconds))

    def unfinished(self, planned: pa.Table) -> pa.Table:
        """The clips to start again; what came of them is forgotten."""
        if self.collector is None:  # only measured: whatever came is enough
            known = set(self.frames)
        else:
            known = self.collector.finished
            self.collector.drop_parts()
        self.frames = Counter({name: count for name, count in self.frames.items() if name in known})
        done = pc.is_in(planned.column("clip_id"), pa.array(sorted(known), pa.string()))
        return planned.filter(pc.invert(done))

    def cost(self, work: Work) -> Cost:
        decode_s = self.spent.pop(type(work.decode).__name__, 0.0)
        return Cost(
            frames=tuple(self.frames.values()),
            decode_s=decode_s,
            network_s=sum(self.spent.values()),
            start_s=self.first - self.started,
            bytes=self.bytes,
        )


def progress_line(done: Counter, planned: int, seconds: float) -> str:
    """What a person sees of a run.

    Args:
        done: `clips`, `frames` and `rejected` so far.
        planned: clips.
        seconds: that it took.
    """
    remaining = math.ceil(seconds * (planned - done["clips"]) / done["clips"]) if done["clips"] else 0
    return (
        f"{done['clips']}/{planned} clips, {done['frames'] / max(seconds, 1e-9):.0f} frames/s, "
        f"ETA {remaining // 60}:{remaining % 60:02d}, {done['rejected']} rejected"
    )
