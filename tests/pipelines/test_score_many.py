"""`aqa score` of a folder over Ray: killed, repeated, and compared with one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WAIT_S = 300.0


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory) -> Path:
    """Eight videos, one of them broken."""
    place = tmp_path_factory.mktemp("many")
    for video in sorted((trained / "data" / "videos").glob("*.mp4"))[:7]:
        shutil.copy(video, place)
    (place / "broken.mp4").write_bytes(b"no video")
    return place


def command(trained: Path, folder: Path, out: Path) -> list[str]:
    model = trained / "runs" / "expert"
    words = [
        "score",
        folder,
        "--model",
        model,
        "--action-type",
        "Es1",
        "--workers",
        "2",
        "--out",
        out,
        "--json",
    ]
    return [sys.executable, "-m", "pipelines", *map(str, words)]


def test_a_killed_folder_goes_on_and_repeats_nothing(trained, folder, tmp_path):
    out = tmp_path / "scores.jsonl"
    words = command(trained, folder, out)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    first = subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + WAIT_S
    while not out.is_file() or out.read_bytes().count(b"\n") < 2:
        assert first.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = out.read_bytes().count(b"\n")
    second = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert second.returncode == 3, second.stderr
    told = json.loads(second.stdout)
    assert told["earlier"] >= min(kept, 7)
    assert [Path(one["video"]).name for one in told["refused"]] == ["broken.mp4"]
    assert told["refused"][0]["code"] == "not_media"
    names = [Path(one["video"]).name for one in told["scored"]]
    assert names == sorted(path.name for path in folder.iterdir() if path.name != "broken.mp4")
    lines = [json.loads(line)["video"] for line in out.open()]
    assert sorted(lines) == sorted(str(path) for path in folder.iterdir())
    known = {
        row["clip_id"]: row["predicted"]
        for row in pq.read_table(trained / "runs" / "expert" / "predictions.parquet").to_pylist()
        if row["action_type"] == "Es1"
    }
    scores = {Path(one["video"]).stem: one["score"] for one in told["scored"]}
    assert known.keys() & scores.keys()
    for name in known.keys() & scores.keys():
        assert scores[name] == pytest.approx(known[name], abs=1e-5)
