"""The HTTP side of `aqa serve` on a real socket; the worker is a function of the test."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pipelines.scoring.request import Request
from pipelines.serve_front import Front, Limits, WorkerLost, WorkersBusy


class Workers:
    """Answers at once, or only when told to; remembers what it was asked."""

    def __init__(self):
        self.asked: list[tuple[str, bytes, Request]] = []
        self.hold, self.error = threading.Event(), None
        self.hold.set()

    async def ask(self, video: Path, request: Request) -> tuple[int, dict]:
        self.asked.append((video.name, video.read_bytes(), request))
        while not self.hold.is_set():
            await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        return 200, {"score": float("nan")}

    async def running(self) -> int:
        return 1


class Server:
    def __init__(self, folder: Path, timeout_s: float = 5.0, token: str = ""):
        self.workers = Workers()
        limits = Limits(max_bytes=100_000, timeout_s=timeout_s, workers=1, queued=1)
        self.front = Front(self.workers.ask, self.workers.running, limits, {"model": "m"}, folder, token)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            self.front.app, log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [self.socket]})

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.workers.hold.set()
        self.uvicorn.should_exit = True
        self.thread.join()
        self.socket.close()

    def ask(self, path: str, body: Any = b"video", method: str = "POST", **headers: str):
        """Status, the JSON document, the headers."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            link.request(method, path, body, names, encode_chunked="Transfer-Encoding" in names)
            answer = link.getresponse()
            return answer.status, json.loads(answer.read()), answer.headers
        finally:
            link.close()

    def wait_inside(self, count: int) -> None:
        until = time.monotonic() + 5
        while self.front.inside != count or len(self.workers.asked) < count:
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    with Server(tmp_path) as running:
        yield running


def test_an_upload_reaches_the_worker_as_it_was_sent_and_leaves_nothing(server, tmp_path):
    query = "name=squat-2.mp4&action_type=Es1&difficulty=3.2&exemplar=d7&start_s=1&end_s=2.5&box=1,2,30,40"
    status, told, _ = server.ask(f"/score?{query}", b"x" * 100_000)
    assert (status, told) == (200, {"score": None})
    asked = Request("Es1", 3.2, "d7", 1.0, 2.5, (1.0, 2.0, 30.0, 40.0))
    assert server.workers.asked == [("squat-2.mp4", b"x" * 100_000, asked)]
    assert list(tmp_path.iterdir()) == []
    server.ask("/score")
    assert server.workers.asked[1] == ("video", b"video", Request())
    status, told, _ = server.ask("/health", None, "GET")
    assert status == 200
    assert (told["status"], told["model"], told["inside"], told["room"]) == ("ok", "m", 0, 2)
    assert told["answers"] == {"200": 2}


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code", "text"),
    [
        ("/score", b"x" * 100_001, {}, 413, "too_large", "is larger than 100000 bytes"),
        ("/score", [b"x" * 60_000] * 2, {"Transfer_Encoding": "chunked"}, 413, "too_large", "larger than"),
        ("/score", b"x", {"Content_Type": "multipart/form-data; boundary=a"}, 415, "wrong_type", "a form"),
        ("/score", b"", {}, 400, "bad_request", "is empty"),
        ("/score?action_typ=Es1", b"x", {}, 400, "bad_request", "is no option of a request"),
        ("/score?start_s=nan", b"x", {}, 400, "bad_request", "'nan' is no number"),
        ("/score?box=1,2,3", b"x", {}, 400, "bad_request", "is no box"),
        ("/score?name=../../etc/passwd", b"x", {}, 400, "bad_request", "is no plain file name"),
        ("/score?name=.hidden", b"x", {}, 400, "bad_request", "is no plain file name"),
    ],
)
def test_a_wrong_request_is_told_why_and_reaches_no_worker(server, path, body, headers, status, code, text):
    found, told, _ = server.ask(path, iter(body) if isinstance(body, list) else body, **headers)
    assert (found, told["error"]["code"]) == (status, code)
    assert text in told["error"]["cause"]
    assert told["error"]["remedy"]
    assert server.workers.asked == []
    assert server.front.inside == 0


def test_who_finds_no_place_is_told_at_once_to_come_again(server):
    server.workers.hold.clear()
    with ThreadPoolExecutor(2) as pool:
        first = [pool.submit(server.ask, "/score") for _ in range(2)]
        server.wait_inside(2)
        began = time.monotonic()
        status, told, headers = server.ask("/score", b"x" * 90_000)
        assert time.monotonic() - began < 1
        assert (status, told["error"]["code"]) == (503, "overloaded")
        assert int(headers["Retry-After"]) >= 1
        assert server.ask("/health", None, "GET")[1]["inside"] == 2
        server.workers.hold.set()
        assert [one.result()[0] for one in first] == [200, 200]
    assert server.ask("/score")[0] == 200


def test_a_late_answer_is_504_and_the_place_is_taken_until_the_worker_is_done(tmp_path):
    with Server(tmp_path, timeout_s=0.3) as server:
        server.workers.hold.clear()
        status, told, _ = server.ask("/score")
        assert (status, told["error"]["cause"]) == (504, "no answer within 0.3 s")
        assert list(tmp_path.iterdir()) == []  # a worker that begins now finds nothing
        assert server.front.inside == 1
        server.workers.hold.set()
        server.wait_inside(0)
        slow = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        slow.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        assert slow.recv(100).startswith(b"HTTP/1.1 504")
        slow.close()
        assert server.ask("/score")[0] == 200


def test_a_client_that_leaves_is_forgotten(server, tmp_path):
    server.workers.hold.clear()
    link = socket.create_connection(("127.0.0.1", server.port))
    link.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nvideo")
    server.wait_inside(1)
    link.close()
    until = time.monotonic() + 5
    while list(tmp_path.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.01)
    server.workers.hold.set()
    server.wait_inside(0)


def test_full_and_lost_workers_are_503(server):
    for error, code in ((WorkersBusy("full"), "overloaded"), (WorkerLost("it died"), "worker_lost")):
        server.workers.error = error
        status, told, headers = server.ask("/score")
        assert (status, told["error"]["code"], told["error"]["cause"]) == (503, code, str(error))
        assert "Retry-After" in headers


def test_without_the_token_nobody_is_heard(tmp_path):
    with Server(tmp_path, token="abc") as server:
        assert server.ask("/score")[0] == 401
        assert server.ask("/score", Authorization="Bearer abd")[0] == 401
        assert server.workers.asked == []
        assert server.ask("/score", Authorization="Bearer abc")[0] == 200
        assert server.ask("/health", None, "GET")[0] == 200  # says nothing of anybody's video
