"""A stand-in for the dashboard of a Ray cluster: records what it is sent and plays the jobs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray

from tests.pipelines.conftest import waving as waving  # a fixture: clips and poses to learn from

TOKEN = "cd" * 32


class Dashboard:
    """What the stand-in holds; tests read and change it.

    Jobs go to RUNNING when submitted; `end` decides how they end.
    """

    def __init__(self) -> None:
        self.version = ray.__version__
        self.token = ""
        self.jobs: dict[str, dict] = {}
        self.packages: dict[str, bytes] = {}
        self.bodies: list[bytes] = []
        self.log = "line 1\nline 2\n"
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self, name: str, status: str, code: int | None) -> None:
        self.jobs[name] |= {"status": status, "driver_exit_code": code, "end_time": 4500}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": self.version, "ray_commit": "x"}
        if path.startswith("/api/packages/"):
            if method == "PUT":
                self.packages[path] = body
            return (200 if path in self.packages else 404), {}
        if path == "/api/jobs/" and method == "GET":
            return 200, list(self.jobs.values())
        if path == "/api/jobs/":
            return self._submit(json.loads(body))
        match = re.fullmatch(r"/api/jobs/([\w-]+)(/logs|/stop)?", path)
        if match is None or match.group(1) not in self.jobs:
            return 404, "no such job"
        if match.group(2) == "/logs":
            return 200, {"logs": self.log}
        if match.group(2) == "/stop":
            self.end(match.group(1), "STOPPED", None)
            return 200, {"stopped": True}
        return 200, self.jobs[match.group(1)]

    def _submit(self, request: dict) -> tuple[int, object]:
        name = request["submission_id"]
        if name in self.jobs:
            return 500, f"ValueError: Job with submission_id {name} already exists."
        self.jobs[name] = {
            "type": "SUBMISSION",
            "submission_id": name,
            "status": "RUNNING",
            "entrypoint": request["entrypoint"],
            "metadata": request["metadata"],
            "runtime_env": request["runtime_env"],
            "start_time": 1000 + len(self.jobs),
        }
        return 200, {"job_id": name, "submission_id": name}


@pytest.fixture
def dashboard(monkeypatch) -> Iterator[Dashboard]:
    held = Dashboard()
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # so that what a test sets is taken back
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            held.bodies.append(self.path.encode() + str(self.headers).encode() + body)
            given = self.headers.get("Authorization", "")
            if held.token and given != f"Bearer {held.token}":
                status, answer = (403 if given else 401), "Unauthorized"
            else:
                status, answer = held.answer(self.command, self.path, body)
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield held
    server.shutdown()
    server.server_close()
    thread.join()
