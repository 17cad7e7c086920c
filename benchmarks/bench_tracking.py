"""Does a tracking server that stops answering slow a training, or lose a point of it?

    python benchmarks/bench_tracking.py --store STORE [--out FILE]

A real pretraining of small epochs (`aqa train pretrain`) logs to an MLflow server of its own on the loopback
address. After 20 s the server is stopped (SIGSTOP) for 60 s. Told are the longest time between two epochs,
while the server was stopped and otherwise, and whether the server's database holds every epoch once
afterwards. STORE holds poses, for instance of `aqa data import kimore FOLDER --store STORE`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

AFTER_S, STOPPED_S, REST_S = 20.0, 60.0, 20.0
SMALL = [
    "--model.encoder-units", "16", "--model.decoder-units", "16", "--model.pace-units", "16",
    "--model.discriminator-units", "8", "--sequence.rate-hz", "5", "--crop-frames", "16",
    "--batch-size", "64",
]  # fmt: skip


def main() -> None:
    """Parses, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.store.absolute(), Path(folder))
    text = json.dumps(found, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


def measure(store: Path, folder: Path) -> dict[str, Any]:
    """Starts server and training, stops the server in the middle, and compares."""
    database = folder / "server.db"
    server, uri = _server(folder, database)
    call = [sys.executable, "-m", "pipelines", "train", "pretrain", "--store", str(store), "--name", "base"]
    call += ["--runs", str(folder / "runs"), "--epochs", "100000", *SMALL]
    told = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(Path(__file__).parents[1])}
    training = subprocess.Popen(call, env=told, stderr=(folder / "log").open("w"))
    try:
        ends = _watch(training, folder / "runs" / "base" / "metrics.jsonl", server)
        training.send_signal(signal.SIGINT)
        training.wait(60)
        epochs = len((folder / "runs" / "base" / "metrics.jsonl").read_text().splitlines())
        subprocess.run(
            [sys.executable, "-m", "pipelines", "tracking", "send", str(folder / "runs")],
            env=told,
            check=True,
        )
        with sqlite3.connect(database) as query:
            points = query.execute("select step from metrics where key = 'loss' order by step").fetchall()
    finally:
        training.kill()
        os.killpg(server.pid, signal.SIGKILL)
    gaps = [(later - one, stopped) for (one, _), (later, stopped) in itertools.pairwise(ends)]
    return {
        "epochs": epochs,
        "longest_gap_s": max(gap for gap, stopped in gaps if not stopped),
        "longest_gap_while_stopped_s": max(gap for gap, stopped in gaps if stopped),
        "every_epoch_once": [step for (step,) in points] == list(range(epochs)),
        "load": os.getloadavg()[0],
    }


def _server(folder: Path, database: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    call += ["--artifacts-destination", str(folder / "kept"), "--port", str(port), "--workers", "1"]
    log = (folder / "server.log").open("w")
    server = subprocess.Popen(call, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    until = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return server, f"http://127.0.0.1:{port}"
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _watch(
    training: subprocess.Popen[bytes], metrics: Path, server: subprocess.Popen[bytes]
) -> list[tuple[float, bool]]:
    """(time, whether the server was stopped) of the end of each epoch, seen every 5 ms."""
    ends: list[tuple[float, bool]] = []
    stopped_at, size = 0.0, 0
    while not ends or time.monotonic() - ends[0][0] < AFTER_S + STOPPED_S + REST_S:
        if training.poll() is not None:
            raise SystemExit("the training ended by itself; see its log")
        now = time.monotonic()
        if ends and not stopped_at and now - ends[0][0] > AFTER_S:
            os.killpg(server.pid, signal.SIGSTOP)
            stopped_at = now
        stopped = bool(stopped_at) and now - stopped_at < STOPPED_S
        if stopped_at and not stopped:
            os.killpg(server.pid, signal.SIGCONT)
        there = metrics.stat().st_size if metrics.exists() else 0
        if there > size:
            ends.append((time.monotonic(), stopped))
            size = there
        time.sleep(0.005)
    return ends


if __name__ == "__main__":
    main()
