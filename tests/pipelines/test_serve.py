"""`aqa serve` as users start it: wrong starts, and a real server with its Ray (slow)."""

from __future__ import annotations

import json
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
from urllib.parse import urlencode

import pyarrow.parquet as pq
import pytest

from pipelines import cli

START_S = 240.0


def test_a_taken_port_and_an_open_address_are_refused_before_anything_starts(capsys, monkeypatch):
    monkeypatch.delenv("AQA_SERVE_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.main(["serve", "--model", "any", "--port", str(port)]) == 2
    told = f"--port {port}: another program listens there. Stop it, or give another one: --port {port + 1}."
    assert told in capsys.readouterr().err
    assert cli.main(["serve", "--model", "any", "--host", "0.0.0.0"]) == 8
    assert "no token protects it. Set AQA_SERVE_TOKEN" in capsys.readouterr().err
    assert cli.main(["serve", "--model", "any", "--port", "99999"]) == 2
    assert "give an address of this machine" in capsys.readouterr().err.lower()


def test_a_model_that_cannot_be_served_is_refused_before_ray_starts(capsys, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("cluster.connect.connect", lambda *_, **__: started.append(True))
    assert cli.main(["serve", "--model", str(tmp_path), "--port", "0"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert not started


def post(url: str, video: bytes, **options: object) -> tuple[int, dict]:
    """Status and document."""
    request = urllib.request.Request(f"{url}/score?{urlencode(options)}", video, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    below: set[int] = set()
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    grown = {pid}
    while grown:
        grown = {child for child, parent in parents.items() if parent in grown} - below
        below |= grown
    return below


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory) -> Iterator[tuple[str, subprocess.Popen]]:
    """Its address and its process."""
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    words = [
        "-m",
        "pipelines",
        "serve",
        "--model",
        str(trained / "runs" / "expert" / "bundle"),
        "--port",
        "0",
    ]
    words += ["--queued", "1", "--max-upload-mb", "5"]
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "AQA_SERVE_TOKEN")}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *words], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    try:
        until = time.monotonic() + START_S
        while " on http://" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield log.read_text().partition(" on ")[2].split()[0], process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_one_clip_has_one_score_whoever_is_asked(server, trained, capsys, monkeypatch):
    """By `aqa evaluate`, `aqa score`, the bundle through MLflow, and the server."""
    import pandas as pd

    from pipelines.tracking import load_pyfunc

    run = trained / "runs" / "expert"
    row = pq.read_table(run / "predictions.parquet").to_pylist()[0]
    video, action = trained / "data" / "videos" / f"{row['clip_id']}.mp4", row["action_type"]
    words = ["score", str(video), "--model", str(run / "bundle"), "--action-type", action, "--json"]
    assert cli.main(words) == 0
    by_verb = json.loads(capsys.readouterr().out)
    monkeypatch.setenv("AQA_VIDEO_FOLDER", str(trained / "data"))
    asked = pd.DataFrame([{"video": str(video), "action_type": action}])
    by_mlflow = load_pyfunc(run / "bundle").predict(asked).to_dict("records")[0]
    status, by_server = post(server[0], video.read_bytes(), name=video.name, action_type=action)
    assert status == 200
    (told,) = by_server["scored"]
    scores = [by_verb["scored"][0]["score"], by_mlflow["score"], told["score"]]
    assert scores == pytest.approx([row["predicted"]] * 3, abs=1e-5)
    assert by_mlflow["clip_id"] == row["clip_id"]
    assert told["video"] == video.name
    assert without_places(told) == without_places(by_verb["scored"][0])


def without_places(told: dict) -> dict:
    """Numbers to the fifth digit, without the folders of video and model."""
    plain = {key: value for key, value in told.items() if key not in ("video", "provenance")}
    return json.loads(json.dumps(plain), parse_float=lambda text: round(float(text), 4))


@pytest.mark.slow
def test_what_cannot_be_scored_is_told_why(server):
    url = server[0]
    status, told = post(url, b"no video at all", action_type="Es1")
    assert (status, told["error"]["code"], told["error"]["where"]) == (422, "not_media", "video")
    assert told["error"]["remedy"]
    status, told = post(url, b"no video at all", action_type="Es9")
    assert (status, told["error"]["where"]) == (400, "action_type")
    assert "give one of" in told["error"]["remedy"]
    assert post(url, bytes(5_000_001), action_type="Es1")[0] == 413


@pytest.mark.slow
def test_a_killed_worker_is_replaced(server):
    url, process = server
    replicas = [p for p in descendants(process.pid) if "ServeReplica" in command_of(p)]
    assert len(replicas) == 1
    os.kill(replicas[0], signal.SIGKILL)
    until = time.monotonic() + START_S
    statuses = []
    while time.monotonic() < until:
        statuses.append(post(url, b"no video at all", action_type="Es1")[0])
        if statuses[-1] == 422 and replicas[0] not in descendants(process.pid):
            break
        time.sleep(0.5)
    assert statuses[-1] == 422
    assert set(statuses) <= {422, 503}


def command_of(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@pytest.mark.slow
def test_ctrl_c_ends_it_and_everything_it_started(server):
    process = server[1]
    below = descendants(process.pid)
    assert below
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    until = time.monotonic() + 15
    while left := {pid for pid in below if command_of(pid)}:
        assert time.monotonic() < until, [command_of(pid) for pid in left]
        time.sleep(0.2)
