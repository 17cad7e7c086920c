"""The HTTP side of `aqa serve`: takes uploads within limits, hands them to the workers, and always answers.

Ray Serve's own HTTP proxy keeps whatever a client sends in memory, without a limit, before a worker sees it
(`MessageQueue` of ray/serve/_private/http_util.py, Ray 2.60), so uploads are received here, onto the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from pipelines.errors import ConfigError
from pipelines.result import to_json
from pipelines.scoring.request import Request, request_of
from pipelines.serve_worker import BAD_REQUEST, OK, error_document

UNAUTHORISED, TOO_LARGE, WRONG_TYPE, CLIENT_LEFT, OVERLOADED, TIMED_OUT = 401, 413, 415, 499, 503, 504
DRAIN_S = 5.0
"""So long a refused upload is still read."""
_LATER = "try again after the time in Retry-After"
_NAME = re.compile(r"[\w][\w.+ -]{0,99}")

Answer = tuple[int, dict[str, Any]]
Ask = Callable[[Path, Request], Awaitable[Answer]]


class WorkersBusy(Exception):
    """The workers' queue is full."""


class WorkerLost(Exception):
    """A worker ended while it held the video, or none runs."""


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server.

    Attributes:
        max_bytes: largest upload.
        timeout_s: longest time from the first byte of a request to its answer.
        workers: videos that are scored at the same time.
        queued: requests that may wait besides.
    """

    max_bytes: int
    timeout_s: float
    workers: int
    queued: int


class Front:
    """POST /score and GET /health.

    Args:
        ask: scores a file; raises WorkersBusy or WorkerLost.
        running: number of workers that run now.
        limits: of every request.
        told: facts of the model for /health.
        folder: uploads lie below it while they are scored.
        token: what `Authorization: Bearer` must say; empty = anybody may ask.
    """

    def __init__(
        self,
        ask: Ask,
        running: Callable[[], Awaitable[int]],
        limits: Limits,
        told: dict[str, Any],
        folder: Path,
        token: str = "",
    ):
        self.ask, self.running, self.limits, self.told = ask, running, limits, told
        self.folder, self.token = folder, token
        self.inside = 0
        self.counts: Counter[int] = Counter()
        self.seconds = 0.0
        self._behind: set[asyncio.Task[Answer]] = set()
        self.app = Starlette(
            routes=[
                Route("/score", self.score, methods=["POST"]),
                Route("/health", self.health, methods=["GET"]),
            ]
        )

    async def health(self, request: HttpRequest) -> Response:
        """200 while at least one worker runs, else 503; with the model, the limits and the counts."""
        running = await self.running()
        told = {
            "status": "ok" if running else "no worker runs",
            **self.told,
            "workers": running,
            "inside": self.inside,
            "room": self.room,
            "max_upload_bytes": self.limits.max_bytes,
            "timeout_s": self.limits.timeout_s,
            "answers": {str(status): count for status, count in sorted(self.counts.items())},
        }
        return _answer(OK if running else OVERLOADED, told)

    @property
    def room(self) -> int:
        """Requests that may be inside at the same time."""
        return self.limits.workers + self.limits.queued

    async def score(self, request: HttpRequest) -> Response:
        """Receives a video and answers with its score, or says why there is none."""
        status, told = await self._admit(request)
        self.counts[status] += 1
        headers = {"Retry-After": str(self._retry_after())} if status == OVERLOADED else {}
        return _answer(status, told, headers)

    async def _admit(self, request: HttpRequest) -> Answer:
        refusal = self._refusal(request)
        if refusal is None:
            try:
                name, asked = _asked(request)
            except ConfigError as error:
                refusal = _refuse(BAD_REQUEST, "bad_request", error.where, error.cause, error.remedy)
            else:
                return await self._score(request, name, asked)
        if not request.headers.get("expect"):  # it sends nothing before somebody wants the body
            await _drain(request.stream(), self.limits.max_bytes)
        return refusal

    def _refusal(self, request: HttpRequest) -> Answer | None:
        """Why the body need not be looked at."""
        if self.token and not _bears(request, self.token):
            cause = "the request bears no token, or another one"
            return _refuse(UNAUTHORISED, "unauthorised", "server", cause, "send Authorization: Bearer TOKEN")
        if self.inside >= self.room:
            limits = self.limits
            cause = f"{limits.workers} videos are being scored and {limits.queued} wait"
            return _refuse(OVERLOADED, "overloaded", "server", cause, _LATER)
        if request.headers.get("content-type", "").startswith("multipart/"):
            remedy = "send the bytes of the video alone, and the options in the address, for example "
            remedy += "/score?name=clip.mp4&action_type=Es1"
            return _refuse(WRONG_TYPE, "wrong_type", "body", "is a form", remedy)
        length = request.headers.get("content-length", "0")
        return self._too_large() if length.isdigit() and int(length) > self.limits.max_bytes else None

    def _too_large(self) -> Answer:
        cause = f"is larger than {self.limits.max_bytes} bytes"
        remedy = "send a shorter part, or start the server with a larger --max-upload-mb"
        return _refuse(TOO_LARGE, "too_large", "body", cause, remedy)

    async def _score(self, request: HttpRequest, name: str, asked: Request) -> Answer:
        """Takes a place; it is free again when the worker has ended, even if the client left before."""
        began = time.monotonic()
        self.inside += 1
        folder = tempfile.TemporaryDirectory(prefix="upload-", dir=self.folder)
        video, work = Path(folder.name) / name, None
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                if refusal := await self._receive(request, video):
                    return refusal
                work = asyncio.ensure_future(self._ask(video, asked))
                return await self._wait(request, work)
        except TimeoutError:
            cause = f"no answer within {self.limits.timeout_s:g} s"
            remedy = "send a shorter part, or start the server with a larger --timeout-s"
            return _refuse(TIMED_OUT, "timeout", name, cause, remedy)
        except ClientDisconnect:
            return _refuse(
                CLIENT_LEFT, "client_left", name, "the client left before the answer", "send it again"
            )
        finally:
            folder.cleanup()  # a worker that has not begun yet finds nothing, and is done with it
            if work is None or work.done():
                self._leave(began)
            else:
                self._behind.add(work)
                work.add_done_callback(lambda task: (self._behind.discard(task), self._leave(began)))

    async def _receive(self, request: HttpRequest, video: Path) -> Answer | None:
        size = 0
        with video.open("wb") as file:
            stream = request.stream()
            async for chunk in stream:
                size += len(chunk)
                if size > self.limits.max_bytes:
                    await _drain(stream, self.limits.max_bytes)
                    return self._too_large()
                file.write(chunk)
        if not size:
            remedy = "send the bytes of the video, for example with curl --data-binary @clip.mp4"
            return _refuse(BAD_REQUEST, "bad_request", "body", "is empty", remedy)
        return None

    async def _wait(self, request: HttpRequest, work: asyncio.Task[Answer]) -> Answer:
        """The answer of a worker, unless the client leaves first."""
        gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            return work.result()
        finally:
            gone.cancel()

    async def _ask(self, video: Path, asked: Request) -> Answer:
        try:
            return await self.ask(video, asked)
        except WorkersBusy as error:
            return _refuse(OVERLOADED, "overloaded", "server", str(error), _LATER)
        except WorkerLost as error:
            return _refuse(OVERLOADED, "worker_lost", "server", str(error), _LATER)

    def _leave(self, began: float) -> None:
        self.inside -= 1
        self.seconds = 0.8 * self.seconds + 0.2 * (time.monotonic() - began)

    def _retry_after(self) -> int:
        """Seconds after which a place is likely to be free."""
        return max(1, round(self.seconds / max(1, self.limits.workers)))


def _bears(request: HttpRequest, token: str) -> bool:
    return hmac.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {token}".encode())


def _asked(request: HttpRequest) -> tuple[str, Request]:
    """Name of the video and what is asked, from the query."""
    texts = dict(request.query_params)
    name = texts.pop("name", "video")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "name", f"{name[:100]!r} is no plain file name", "give letters, digits, . - and _ only"
        )
    return name, request_of(texts)


async def _drain(stream: AsyncIterator[bytes], max_bytes: int) -> None:
    """Reads what a client still sends, up to a limit: most see an answer only after they have sent all."""
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(DRAIN_S):
            async for chunk in stream:
                size += len(chunk)
                if size > max_bytes:
                    return


def _refuse(status: int, code: str, where: str, cause: str, remedy: str) -> Answer:
    return status, error_document(code, where, cause, remedy)


def _answer(status: int, told: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(told), status, headers, "application/json")
