from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster import connect as door
from cluster.connect import (
    ALLOW_INSECURE,
    ClusterUnavailable,
    InsecureCluster,
    connect,
    protected,
    reachable_from_outside,
    token_source,
)

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _no_ray_settings(monkeypatch, tmp_path):
    """Neither the machine's Ray address nor its token takes part."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", ALLOW_INSECURE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def _enter(address: str, monkeypatch) -> float:
    """Tries to connect; returns the seconds that took, for an error that pytest.raises sees."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    with connect():
        pytest.fail("connected")
    return 0.0


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "127.0.0.1", "127.0.0.1:port", ":6379"])
def test_address_that_is_no_gcs(address, monkeypatch):
    with pytest.raises(ClusterUnavailable, match="RAY_ADDRESS is not host:port"):
        _enter(address, monkeypatch)


def test_nobody_listens(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ClusterUnavailable, match=rf"127\.0\.0\.1:{port}: no Ray answers .*refused"):
        _enter(f"127.0.0.1:{port}", monkeypatch)
    assert time.monotonic() - started < 15


def test_silent_port_is_given_up(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(ClusterUnavailable, match="no Ray answers at RAY_ADDRESS .*timed out"):
            _enter(f"127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        assert time.monotonic() - started < 15


def test_something_else_listens(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ClusterUnavailable, match="what listens there is not ray"):
            _enter(f"127.0.0.1:{other.getsockname()[1]}", monkeypatch)
        thread.join()


@pytest.mark.parametrize("address", ["192.0.2.1:6379", "ray://cluster.example:10001", "[2001:db8::1]:6379"])
def test_open_cluster_is_refused_before_any_contact(address, monkeypatch):
    with pytest.raises(InsecureCluster, match="no token protects it. Give the cluster a token"):
        _enter(address, monkeypatch)


@pytest.mark.parametrize(
    ("host", "outside"),
    [
        ("127.0.0.1", False),
        ("127.8.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("192.0.2.1", True),
        ("0.0.0.0", True),
        ("localhost.example", True),
    ],
)
def test_reachable_from_outside(host, outside):
    assert reachable_from_outside(host) is outside


def test_token_is_found_where_ray_finds_it(monkeypatch, tmp_path):
    assert token_source() == ""
    assert not protected()
    default = tmp_path / ".ray" / "auth_token"
    default.parent.mkdir()
    default.write_text("a" * 64)
    assert token_source() == str(default)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert token_source() == ""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    assert token_source() == "RAY_AUTH_TOKEN"
    assert protected()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert not protected()


DRIVER = """
import json, os, sys
import ray  # imported first on purpose: the token must work all the same
from cluster.connect import connect
with connect(num_cpus=1):
    @ray.remote
    def seen():
        import pipelines
        return pipelines.__file__, os.environ.get("OMP_NUM_THREADS"), ray.get_runtime_context().gcs_address
    file, threads, address = ray.get(seen.remote())
    with connect():
        nested = ray.is_initialized()
    still = ray.is_initialized()
    store = ray.cluster_resources()["object_store_memory"]
    found = dict(file=file, threads=threads, address=address, nested=nested, still=still, store=store,
                 token=os.environ["RAY_AUTH_TOKEN"], mode=os.environ["RAY_AUTH_MODE"])
    print(json.dumps(found), flush=True)
    sys.stdin.readline()
print(json.dumps(ray.is_initialized()), flush=True)
"""

JOIN = """
import sys
from cluster.connect import ClusterUnavailable, connect
if len(sys.argv) > 1:
    import ray
    ray.__version__ = sys.argv[1]
try:
    with connect():
        import ray
        print("joined", ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()))
except ClusterUnavailable as error:
    print(type(error).__name__, error)
"""


def _join(address: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", JOIN, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (
            Exception("The current node timed out during startup.\nSee logs."),
            "this machine: a local Ray did not start: The current node timed out during startup. See logs. "
            "Run it again when the machine has less to do.",
        ),
        (RuntimeError("a bug"), "a bug"),
    ],
)
def test_a_local_ray_that_is_late_is_no_bug(monkeypatch, raised, told):
    """Only what Ray raises then is translated; everything else passes as it is."""

    def late(**_: object) -> None:
        raise raised

    monkeypatch.setattr("ray.init", late)
    expected = ClusterUnavailable if type(raised) is Exception else RuntimeError
    with pytest.raises(expected) as caught:
        door._start(1, verbose=False)
    assert str(caught.value) == told


@pytest.mark.ray
def test_local_ray_and_who_may_join_it(tmp_path):
    """One local Ray, started in a foreign folder: joined with its token, refused without, stopped at last."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        found = json.loads(driver.stdout.readline())
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": found["token"]}
        joined = _join(found["address"], **token)
        mismatch = _join(found["address"], "2.59.0", **token)
        open_door = _join(found["address"], RAY_AUTH_MODE="disabled")
        alive = _join(found["address"], **token)  # leaving did not stop it
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert json.loads(driver.stdout.readline()) is False
    assert driver.returncode == 0
    assert found["file"] == str(ROOT / "pipelines" / "__init__.py")
    assert (found["threads"], found["nested"], found["still"], found["mode"]) == ("1", True, True, "token")
    assert found["store"] <= 2 * 1024**3
    assert joined == alive == "joined 42\n"
    assert "Version mismatch" in mismatch
    assert "Use the versions of the cluster" in mismatch
    assert open_door.startswith(("InsecureCluster", "ClusterUnavailable"))
    assert not (Path(os.environ["HOME"]) / ".ray" / "auth_token").exists()
