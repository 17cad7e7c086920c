"""What scoring costs: a folder over Ray against its extraction, one clip by itself, the server under load.

    python benchmarks/bench_score.py [--clips 100] [--runs 3] [--load-s 60] [--clients 1 2 4 16] [--out FILE]

Everything is made in a temporary folder: rendered exercises, their store, and an expert of the demo's size.
All videos are scored and extracted by the same network in the same run, and the two alternate; both are whole
commands in processes of their own (start of Python and Ray included), each time into a new store or file.

* folder: `aqa score FOLDER --workers 2 --out FILE` against `aqa extract CLIPS --store NEW`, medians and the
  range over runs; the ratio of the medians.
* one: `aqa score CLIP --model BUNDLE` from the start of Python to its end.
* load: `aqa serve --workers 1 --queued 4` on the loopback address. N clients send the same clip again and
  again, each waiting for its answer; one that is refused waits as long as Retry-After says, at most a second.
  Requests per second count scores only, latencies are those of scores; `answers` counts every status, and
  `slowest_503_s` is the longest wait for a refusal.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ACTION = "Es1"


def make_model(folder: Path, clips: int) -> None:
    """Writes FOLDER/data, FOLDER/store, and a small expert in FOLDER/runs/expert with its bundle."""
    from pipelines import demo
    from pipelines.config import Config, EvaluateConfig, ExpertTrainConfig
    from pipelines.evaluate import evaluate
    from pipelines.extract import extract
    from pipelines.rendered.dataset import render_dataset
    from pipelines.train import expert

    subjects = max(8, clips // 4)
    manifest = render_dataset(folder / "data", exercises=clips, subjects=subjects, dives=0, seed=1)
    extract(manifest, folder / "store", demo.CONFIG.extract)
    small = demo.CONFIG.expert.model_dump() | {"epochs": 2, "encoder_units": 48}
    config = Config(expert=ExpertTrainConfig.model_validate(small), evaluate=EvaluateConfig(bootstrap=100))
    expert(folder / "store", "expert", None, config, runs=folder / "runs")
    evaluate(folder / "runs" / "expert", folder / "store", config)


def timed(*words: object) -> float:
    """Wall-clock seconds of one command."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "pipelines", *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - began


def folder_against_extraction(folder: Path, clips: int, runs: int, workers: int) -> dict[str, Any]:
    """Medians of both commands, alternating, and their ratio."""
    model = folder / "runs" / "expert" / "bundle"
    score_s, extract_s = [], []
    for number in range(runs):
        store, out = folder / f"again-{number}", folder / f"scores-{number}.jsonl"
        extract_s.append(timed("extract", folder / "data" / "clips.csv", "--store", store))
        score_s.append(
            timed("score", folder / "data" / "videos", "--model", model, "--action-type", ACTION,
                  "--workers", workers, "--out", out)
        )  # fmt: skip
        told = [json.loads(line) for line in out.open()]
        if len(told) != clips or any("score" not in one for one in told):
            raise SystemExit(f"{len(told)} of {clips} clips were scored")
        shutil.rmtree(store)
    return {
        "clips": clips,
        "workers": workers,
        "score_s": score_s,
        "extract_s": extract_s,
        "ratio_of_medians": statistics.median(score_s) / statistics.median(extract_s),
    }


@contextlib.contextmanager
def server(model: Path, log: Path) -> Iterator[str]:
    """The address of `aqa serve`, which ends with the block."""
    words = ["serve", "--model", model, "--port", "0", "--queued", "4", "--workers", "1"]
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "pipelines", *map(str, words)], stderr=file)
    try:
        while " on http://" not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.2)
        yield log.read_text().partition(" on ")[2].split()[0]
    finally:
        process.terminate()
        process.wait(60)


class Load:
    """Clients that send one clip again and again."""

    def __init__(self, url: str, video: Path, seconds: float):
        self.host, self.video = urlsplit(url).netloc, video.read_bytes()
        self.until = time.monotonic() + seconds
        self.answers: Counter[int] = Counter()
        self.latencies: dict[int, list[float]] = {}
        self.lock = threading.Lock()

    def run(self, clients: int) -> dict[str, Any]:
        began = time.monotonic()
        threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        good = sorted(self.latencies.get(200, []))
        lasted = time.monotonic() - began
        return {
            "clients": clients,
            "seconds": lasted,
            "scores_per_s": len(good) / lasted,
            "p50_s": good[len(good) // 2] if good else None,
            "p99_s": good[min(len(good) - 1, int(0.99 * len(good)))] if good else None,
            "answers": {str(status): count for status, count in sorted(self.answers.items())},
            "slowest_503_s": max(self.latencies.get(503, [0.0])),
        }

    def _client(self) -> None:
        while time.monotonic() < self.until:
            began = time.monotonic()
            link = http.client.HTTPConnection(self.host, timeout=180)
            link.request("POST", f"/score?action_type={ACTION}", self.video)
            answer = link.getresponse()
            answer.read()
            link.close()
            with self.lock:
                self.answers[answer.status] += 1
                self.latencies.setdefault(answer.status, []).append(time.monotonic() - began)
            if answer.status == 503:
                time.sleep(min(1.0, float(answer.headers["Retry-After"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--load-s", type=float, default=60.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 16])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aqa-bench-score-") as name:
        folder = Path(name)
        make_model(folder, asked.clips)
        model = folder / "runs" / "expert" / "bundle"
        video = min((folder / "data" / "videos").iterdir())
        found: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
        one = [timed("score", video, "--model", model, "--action-type", ACTION) for _ in range(3)]
        found["one_clip_s"] = one
        print(f"one clip: {statistics.median(one):.1f} s", flush=True)
        found["folder"] = folder_against_extraction(folder, asked.clips, asked.runs, asked.workers)
        print(f"folder: {found['folder']}", flush=True)
        with server(model, folder / "log.txt") as url:
            found["load"] = []
            for clients in asked.clients:
                found["load"].append(Load(url, video, asked.load_s).run(clients))
                print(f"load: {found['load'][-1]}", flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
