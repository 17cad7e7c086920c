"""A bundle scores videos through MLflow, in a program and as MLflow's own server."""

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
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.errors import SecurityError
from pipelines.scorer import Scorer, _allowed

ROOT = Path(__file__).parent.parent.parent


def test_a_row_names_no_video_outside_of_the_folder(tmp_path, monkeypatch):
    inside, outside = tmp_path / "videos" / "a.mp4", tmp_path / "b.mp4"
    inside.parent.mkdir()
    (inside.parent / "link.mp4").symlink_to(outside)
    monkeypatch.chdir(inside.parent)
    assert _allowed(Path("a.mp4")) == Path("a.mp4")
    for video in (outside, Path("../b.mp4"), Path("link.mp4"), Path("/etc/passwd")):
        with pytest.raises(SecurityError, match=r"lies outside of .*/videos.* set AQA_VIDEO_FOLDER"):
            _allowed(video)
    monkeypatch.setenv("AQA_VIDEO_FOLDER", str(tmp_path))
    assert _allowed(outside) == outside


@pytest.mark.slow
def test_videos_and_rows_are_answered_in_their_order(trained, tmp_path, monkeypatch):
    run = trained / "runs" / "expert"
    row = pq.read_table(run / "predictions.parquet").to_pylist()[0]
    monkeypatch.setenv("AQA_VIDEO_FOLDER", str(trained))
    broken = trained / "broken.mp4"
    broken.write_bytes(b"no video")
    scorer = Scorer(run / "bundle" / "artifacts" / "bundle")
    example = json.loads((run / "bundle" / "serving_input_example.json").read_text())["dataframe_split"]
    flat = dict(zip(example["columns"], example["data"][0], strict=True))
    good = {"video": str(trained / "data" / "videos" / f"{row['clip_id']}.mp4")}
    rows = [{"video": str(broken), "action_type": "Es1"}, flat, good | {"action_type": row["action_type"]}]
    refused, of_row, of_video = scorer.score_rows(rows)
    assert refused["score"] is None
    assert refused["refused"].startswith("not_media: ")
    assert of_row.keys() == {"clip_id", "score"}
    assert of_row["clip_id"] == flat["clip_id"]
    assert of_video["clip_id"] == row["clip_id"]
    assert of_video["score"] == pytest.approx(row["predicted"], abs=1e-5)


@pytest.mark.slow
def test_mlflow_models_serve_scores_a_video(trained):
    run = trained / "runs" / "expert"
    row = pq.read_table(run / "predictions.parquet").to_pylist()[0]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["models", "serve", "--env-manager", "local", "-m", str(run / "bundle"), "-p", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        cwd=trained / "data" / "videos",
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(f"http://127.0.0.1:{port}/ping", process)
        video = f"{row['clip_id']}.mp4"
        status, told = _invoke(port, {"video": video, "action_type": row["action_type"]})
        assert status == 200, told
        (answer,) = told["predictions"]
        assert answer["score"] == pytest.approx(row["predicted"], abs=1e-5)
        status, told = _invoke(port, {"video": "/etc/passwd", "action_type": row["action_type"]})
        assert status >= 400
        assert "lies outside of" in json.dumps(told)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: subprocess.Popen) -> None:
    until = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.5)
        else:
            return


def _invoke(port: int, row: dict) -> tuple[int, dict]:
    body = json.dumps({"dataframe_records": [row]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
