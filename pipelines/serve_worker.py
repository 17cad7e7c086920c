"""One worker of `aqa serve`: holds a model and scores one video at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from pipelines.config import ExtractConfig
from pipelines.errors import AqaError, ConfigError
from pipelines.scoring.refusal import Refused
from pipelines.scoring.request import Request

OK, BAD_REQUEST, UNSCORABLE, FAULT = 200, 400, 422, 500


class ScoringWorker:
    """A replica of the Ray Serve deployment.

    Args:
        model: run folder, its model folder, or a bundle.
        given: settings of `aqa extract` that somebody set.
        store: where the store of the training is now; None = where it was.
        weights: kind of visual features -> weights file.
        max_seconds: longest performance.
        use_gpu: run the networks on the GPU.
    """

    def __init__(
        self,
        model: Path,
        given: ExtractConfig,
        store: Path | None,
        weights: dict[str, Path | None],
        max_seconds: float,
        use_gpu: bool,
    ):
        from pipelines.scoring.video_scorer import VideoScorer

        self.scorer = VideoScorer(
            model, given, store=store, weights=weights, max_seconds=max_seconds, use_gpu=use_gpu
        )
        self.scorer.prepare()
        # Serve gives the place of a request that was given up to the next one, while the first still runs.
        self._one_at_a_time = threading.Lock()

    def score(self, video: str, node: str, request: Request) -> tuple[int, dict[str, Any]]:
        """Scores an upload.

        Args:
            video: file on the machine of the server; its name without the ending names the clip.
            node: Ray's name of that machine.
            request: what is asked.

        Returns:
            Status of the answer, and its document: that of `aqa score --json`, or an error.
        """
        import ray

        with self._one_at_a_time:
            path = Path(video)
            if ray.get_runtime_context().get_node_id() == node:
                return self._score(path, request)
            return self._score_copy(path, node, request)

    def _score(self, video: Path, request: Request) -> tuple[int, dict[str, Any]]:
        from pipelines.score import document

        try:
            told = document(self.scorer.score(video, request), self.scorer, Path(video.name))
        except Refused as error:
            cause = error.cause.replace(str(video), video.name)
            return UNSCORABLE, error_document(error.code, video.name, cause, error.remedy)
        except ConfigError as error:
            where = error.where.removeprefix("--").replace("-", "_")
            return BAD_REQUEST, error_document("bad_request", where, error.cause, error.remedy)
        except AqaError as error:
            return FAULT, error_document(type(error).__name__, error.where, error.cause, error.remedy)
        return OK, {"model": str(self.scorer.model), "scored": [told], "refused": []}

    def _score_copy(self, video: Path, node: str, request: Request) -> tuple[int, dict[str, Any]]:
        """Scores a video that lies on another machine of the cluster: it is fetched only now."""
        import tempfile

        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        read = ray.remote(num_cpus=0)(Path.read_bytes).options(scheduling_strategy=there)
        with tempfile.TemporaryDirectory(prefix="aqa-serve-") as folder:
            copy = Path(folder) / video.name
            copy.write_bytes(ray.get(read.remote(video)))
            return self._score(copy, request)


def error_document(code: str, where: str, cause: str, remedy: str) -> dict[str, Any]:
    """What a client is told instead of a score."""
    return {"error": {"code": code, "where": where, "cause": cause, "remedy": remedy}}
