"""Scoring many videos over Ray: each worker holds the model, the decode process and the networks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.config import ExtractConfig
from pipelines.errors import ClusterError
from pipelines.result import to_json
from pipelines.scoring.request import Request
from pipelines.scoring.video_scorer import VideoScorer


@dataclass(frozen=True)
class ScoreStage:
    """A stage of Ray Data: rows that name a video -> rows with what is said of it.

    Args:
        model: run folder, its model folder, or a bundle.
        given: settings of `aqa extract` that somebody set.
        request: what is asked of each video.
        store: where the store of the training is now; None = where it was.
        weights: kind of visual features -> weights file.
        max_seconds: longest performance.
        use_gpu: run the networks on the GPU.
    """

    model: Path
    given: ExtractConfig
    request: Request
    store: Path | None
    weights: dict[str, Path | None]
    max_seconds: float
    use_gpu: bool

    def load(self, *, use_gpu: bool) -> VideoScorer:
        """The model; its networks are loaded when they are needed."""
        return VideoScorer(
            self.model,
            self.given,
            store=self.store,
            weights=self.weights,
            max_seconds=self.max_seconds,
            use_gpu=use_gpu,
        )

    def setup(self) -> VideoScorer:
        scorer = self.load(use_gpu=self.use_gpu)
        scorer.prepare()
        return scorer

    def process(self, state: VideoScorer, rows: pa.Table) -> Iterator[pa.Table]:
        from pipelines.score import told_of

        for video in rows["video"].to_pylist():
            told = told_of(state, Path(video), self.request)
            yield pa.table({"video": [video], "told": [to_json(told)]})


def score_over_ray(
    videos: list[Path], stage: ScoreStage, workers: int
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Videos and what is said of them, in the order in which they are finished.

    Args:
        videos: files that every worker reaches.
        stage: `use_gpu` is decided here: workers get a GPU each, or share them, where there are some.
        workers: processes that score at the same time.

    Raises:
        ClusterError: the Ray has no processor.
    """
    import ray

    from cluster.connect import connect
    from pipelines.stages.base import Pool, run_pools

    plan = pa.table({"video": [str(video.absolute()) for video in videos]})
    given = {str(video.absolute()): video for video in videos}
    with connect():
        resources = ray.cluster_resources()
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        if cpus < 1:
            raise ClusterError("Ray", "it has no processor", "add a node, or leave --workers out")
        on_gpu = replace(stage, use_gpu=gpus > 0)
        pool = Pool(on_gpu, workers, 1, min(1.0, cpus / workers), min(1.0, gpus / workers))
        for rows in run_pools(plan, [pool], 1):
            for row in rows.to_pylist():
                yield given[row["video"]], json.loads(row["told"]) | {"video": str(given[row["video"]])}
