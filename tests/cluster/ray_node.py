"""Real Ray nodes for tests: each a `ray start --block` of its own that dies with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TOKEN = "ab" * 32
BIN = Path(sys.executable).parent


def environment(**changes: str) -> dict[str, str]:
    """The variables of a process that uses the cluster, without any of Ray that this machine may have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {
        **kept,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",  # on a busy machine its own 15 starves the workers
        "RAY_agent_register_timeout_ms": "240000",
        "RAY_worker_register_timeout_seconds": "240",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "240",
        **changes,
    }


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, below the range Linux gives to outgoing connections."""
    found: list[int] = []
    port = 21000 + os.getpid() % 5000
    while len(found) < count:
        port += 1
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


@contextlib.contextmanager
def node(*options: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen]:
    """`ray start --block` with these options until the block ends; `prefix` runs it somewhere else."""
    started = subprocess.Popen(
        [*prefix, str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *options],
        env={**environment(), "PYTHONPATH": ""},  # nodes have no sources but those of a job
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        kill(started)


def kill(started: subprocess.Popen) -> None:
    """End a node and all its processes."""
    started.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()


def wait_for_dashboard(address: str, seconds: float = 90) -> None:
    """Until it lets the token in and its first node can take jobs."""
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.3)
