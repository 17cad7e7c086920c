"""`aqa serve` on the command line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pipelines.call import Call
from pipelines.flags import settings
from pipelines.score_commands import Store, Weights

logger = logging.getLogger(__name__)

_Call = Annotated[Call, Parameter(parse=False)]


@settings("extract")
def serve(
    *,
    model: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 0,
    queued: int = 4,
    max_upload_mb: float = 200.0,
    timeout_s: float = 120.0,
    max_seconds: float = 120.0,
    store: Store = None,
    i3d_weights: Weights = None,
    static_weights: Weights = None,
    c3d_weights: Weights = None,
    call: _Call,
    **given: Any,
) -> Any:
    """Score uploaded videos over HTTP until Ctrl-C: POST /score, GET /health.

    Example: aqa serve --model runs/expert/bundle

    Parameters
    ----------
    model
        Run of `aqa train expert` or `aqa train hp-mcore`, or its bundle.
    host
        Address to listen on; one that others reach needs a token in AQA_SERVE_TOKEN.
    port
        Port to listen on; 0 = any free one.
    workers
        Videos scored at the same time, each by a process of its own; 0 = one per GPU, or one.
    queued
        Requests that may wait for a worker; more are answered 503 with Retry-After.
    max_upload_mb
        Largest upload in megabytes; larger ones are answered 413.
    timeout_s
        Longest time from the first byte of a request to its answer; then 504.
    max_seconds
        Longest performance that is scored.
    """
    config = call.config(given)
    from pipelines import serve as verb

    return verb.serve(
        model,
        config.extract,
        verb.Place(host, port, workers, queued, max_upload_mb, timeout_s),
        store=store,
        weights={"i3d": i3d_weights, "static": static_weights, "c3d_fc6": c3d_weights},
        max_seconds=max_seconds,
        say=logger.info,
    )
