"""`aqa serve`: scores uploaded videos over HTTP, with workers of Ray Serve.

The HTTP side (`serve_front.py`) runs in this process, each worker (`serve_worker.py`) is a replica of one
deployment of Ray Serve: one per GPU where the Ray has GPUs, else as many as asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import ExtractConfig
from pipelines.errors import ClusterError, ConfigError, SecurityError

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from pipelines.serve_front import Answer, Front

TOKEN = "AQA_SERVE_TOKEN"  # noqa: S105 - the name of a variable
DEPLOYMENT = "scoring"
GRACE_S = 1.0
"""So long a stopped server still answers those inside."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where the server listens, and what it allows.

    Attributes:
        host: address of this machine; one that others reach needs a token in AQA_SERVE_TOKEN.
        port: 0 = any free one.
        workers: 0 = one per GPU, or one.
        queued: requests that may wait.
        max_upload_mb: largest upload, 10**6 bytes.
        timeout_s: longest time from the first byte of a request to its answer.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 0
    queued: int = 4
    max_upload_mb: float = 200.0
    timeout_s: float = 120.0


def serve(
    model: Path,
    given: ExtractConfig,
    place: Place,
    *,
    store: Path | None = None,
    weights: dict[str, Path | None] | None = None,
    max_seconds: float = 120.0,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Serves a model until the process is told to stop (Ctrl-C or SIGTERM).

    Args:
        model: run folder, its model folder, or a bundle.
        given: settings of `aqa extract` that somebody set.
        place: where to listen, and the limits.
        store: where the store of the training is now; None = where it was.
        weights: kind of visual features -> weights file.
        max_seconds: longest performance.
        say: receives a line when the server is ready, and one when it stops.

    Returns:
        Number of answers by status.

    Raises:
        ConfigError: the model cannot score videos, or the port is taken.
        SecurityError: others could reach the server, and no token is set.
        ClusterError: the Ray has not enough processors, or the workers do not start.
    """
    from cluster.connect import connect
    from pipelines.scoring.video_scorer import VideoScorer
    from pipelines.serve_front import Front, Limits

    token = _token(place.host)
    with _listen(place.host, place.port) as listener, contextlib.ExitStack() as stack:
        with VideoScorer(
            model, given, store=store, weights=weights
        ) as scorer:  # its errors before Ray starts
            told = {
                "model": str(model),
                "model_kind": scorer.kind,
                "model_sha256": scorer.description["sha256"],
            }
        stack.enter_context(connect())
        workers, gpus = _workers(place.workers)
        options = (model.absolute(), given, store and store.absolute(), weights or {}, max_seconds, gpus > 0)
        name = f"aqa-{uuid.uuid4().hex[:8]}"
        handle = stack.enter_context(_deployed(name, options, workers, gpus, place.queued))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aqa-serve-")))
        limits = Limits(int(place.max_upload_mb * 1e6), place.timeout_s, workers, place.queued)
        front = Front(_asks(handle), _runs(name), limits, told, folder, token)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        say(f"serving {model} on http://{shown}:{port} with {workers} workers; Ctrl-C stops it")
        _run(front, listener)
        say("stopping")
    return {"answers": {str(status): count for status, count in sorted(front.counts.items())}}


def _token(host: str) -> str:
    from cluster.connect import reachable_from_outside

    token = os.environ.get(TOKEN, "")
    if reachable_from_outside(host) and not token:
        cause = "others can reach this address, and no token protects it"
        raise SecurityError(f"--host {host}", cause, f"set {TOKEN} to a long random text, or use 127.0.0.1")
    return token


def _listen(host: str, port: int) -> socket.socket:
    """Takes the port before any work is done."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            remedy = f"stop it, or give another one: --port {port + 1}"
            raise ConfigError(f"--port {port}", "another program listens there", remedy) from error
        raise ConfigError(
            f"--host {host} --port {port}", str(error), "give an address of this machine"
        ) from error


def _workers(asked: int) -> tuple[int, int]:
    """How many workers, and GPUs for each: one where there are GPUs."""
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    there, what = (gpus, "GPUs") if gpus else (cpus, "processors")
    workers = asked or gpus or 1
    if workers > min(there, cpus):
        cause = f"{workers} workers need as many {what}, and this Ray has {min(there, cpus)}"
        raise ClusterError("--workers", cause, "ask for fewer workers")
    return workers, 1 if gpus else 0


@contextlib.contextmanager
def _deployed(name: str, options: tuple, workers: int, gpus: int, queued: int) -> Iterator[DeploymentHandle]:
    """Workers that are ready, for the length of the block."""
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from pipelines.serve_worker import ScoringWorker

    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled", logging_config=quiet)
    try:
        deployment = serve.deployment(
            ScoringWorker,
            name=DEPLOYMENT,
            num_replicas=workers,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
            max_ongoing_requests=1,
            # The front lets no more in; Serve's own limit refuses some too many when requests come together.
            max_queued_requests=workers + queued,
            graceful_shutdown_timeout_s=GRACE_S,
            graceful_shutdown_wait_loop_s=0.1,
            max_constructor_retry_count=2,
            logging_config=quiet,
        )
        try:
            handle = serve.run(deployment.bind(*options), name=name, route_prefix=None, logging_config=quiet)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise ClusterError(
                "Ray Serve", text, "see the log of the worker in Ray's session folder"
            ) from error
        yield handle
    finally:
        if os.environ.get("RAY_ADDRESS", "") not in ("", "local"):  # a local Ray ends anyway
            serve.delete(name)
            if not serve.status().applications:  # others may be served there too
                serve.shutdown()


def _asks(handle: DeploymentHandle) -> Callable[..., Any]:
    """Hands videos to the workers."""
    import ray
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    from pipelines.serve_front import WorkerLost, WorkersBusy
    from pipelines.serve_worker import FAULT, error_document

    node = ray.get_runtime_context().get_node_id()
    logger = logging.getLogger(__name__)

    async def ask(video: Path, request: Any) -> Answer:
        try:
            return await handle.score.remote(str(video), node, request)
        except BackPressureError as error:
            raise WorkersBusy("the queue of the workers is full") from error
        except (ray.exceptions.RayActorError, DeploymentUnavailableError) as error:
            raise WorkerLost("the worker that held the video ended") from error
        except ray.exceptions.RayTaskError as error:
            logger.error("bug in a worker: %s", error)
            cause = f"bug: {type(error.cause).__name__}"
            return FAULT, error_document("bug", video.name, cause, "see the log of the server")

    return ask


def _runs(name: str) -> Callable[..., Any]:
    """Counts the workers that run."""
    from ray import serve

    def count() -> int:
        application = serve.status().applications.get(name)
        return application.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0) if application else 0

    async def running() -> int:
        try:
            return await asyncio.wait_for(asyncio.to_thread(count), 2.0)
        except TimeoutError:
            return 0

    return running


def _run(front: Front, listener: socket.socket) -> None:
    """Answers requests until a signal comes."""
    import uvicorn

    config = uvicorn.Config(
        front.app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(GRACE_S),
        limit_concurrency=16 + 4 * front.room,
        lifespan="off",
    )
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # Ctrl-C, and what Ray makes of SIGTERM
        uvicorn.Server(config).run(sockets=[listener])
