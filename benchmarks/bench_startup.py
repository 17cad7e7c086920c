"""What Ray costs before, between and after training: a trivial TorchTrainer.fit(), and a trial of `aqa tune`.

    python benchmarks/bench_startup.py fit [--workers 2] [--runs 3] [--ray-defaults] [--out FILE]
    python benchmarks/bench_startup.py trial [--workers 0] [--trials 4] [--ray-defaults] [--out FILE]

`fit`: wall-clock seconds of each part of one training with nothing to train, in a process of its own per run,
and the processor seconds of every process that Ray started for it. On a busy machine the processor seconds
are the ones to trust. `trial`: a sweep of trainings of two epochs, one after the other; the overhead of a
trial is the time from one trial's end to the next one's, without the epochs. `--ray-defaults` measures
without those settings of cluster/connect.py that make it shorter.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RAY_DEFAULTS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2.0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
}
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["fit", "trial", "fit-once", "trial-once"])
    parser.add_argument("--workers", type=int)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--ray-defaults", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "fit-once":
        print(json.dumps(fit_once(given.workers)))
        return
    if given.what == "trial-once":
        print(json.dumps(trial_once(given.workers, given.trials)))
        return
    given.workers = {"fit": 2, "trial": 0}[given.what] if given.workers is None else given.workers
    found: dict[str, Any] = {"what": given.what, "workers": given.workers, "cores": os.cpu_count()}
    found |= {"ray_defaults": given.ray_defaults, "load_at_start": os.getloadavg()[0]}
    found["runs"] = [_once(given) for _ in range(given.runs if given.what == "fit" else 1)]
    for part in ("seconds", "cpu_seconds"):
        rows = [run[part] for run in found["runs"] if part in run]
        names = dict.fromkeys(name for row in rows for name in row)
        found[f"median_{part}"] = {
            name: round(statistics.median(row.get(name, 0.0) for row in rows), 2) for name in names
        }
    text = json.dumps(found, indent=2)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


def _once(given: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a process of its own, which pays for all imports."""
    command = [sys.executable, __file__, f"{given.what}-once", f"--workers={given.workers}"]
    command += [f"--trials={given.trials}"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    if given.ray_defaults:
        kept |= RAY_DEFAULTS
    done = subprocess.run(command, env=kept, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class Watch(threading.Thread):
    """Looks at the descendants of this process ten times a second: begin and processor time by title."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: dict[int, dict[str, Any]] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.1):
            self.look()

    def look(self) -> None:
        parents, rows = {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    rest = (entry / "stat").read_text().rpartition(")")[2].split()
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    parents[int(entry.name)] = int(rest[1])
                    rows[int(entry.name)] = (line, (int(rest[11]) + int(rest[12])) / TICKS, rest[19])
        for pid, (line, cpu, start) in rows.items():
            ancestor = pid
            while ancestor in parents and ancestor != os.getpid():
                ancestor = parents[ancestor]
            if ancestor == os.getpid():
                begun = _boot_time() + int(start) / TICKS
                row = self.seen.setdefault(pid, {"begun": begun})
                row |= {"title": _title(line, pid), "cpu": cpu}

    def cpu(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for row in self.seen.values():
            found[row["title"]] = round(found.get(row["title"], 0.0) + row["cpu"], 2)
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def begun(self, title: str) -> float:
        """When the first process of a title began, in seconds since 1970."""
        return min((row["begun"] for row in self.seen.values() if row["title"] == title), default=0.0)


def _boot_time() -> float:
    stat = Path("/proc/stat").read_text().splitlines()
    return float(next(line.split()[1] for line in stat if line.startswith("btime")))


def _title(line: str, pid: int) -> str:
    if pid == os.getpid():
        return "driver"
    if line.startswith("ray::"):
        return line.split()[0].split(".")[0].partition("(")[0]
    for word in ("gcs_server", "raylet/raylet", "default_worker.py", "agent.py", "monitor.py"):
        if word in line:
            return word
    return Path(line.split()[0]).name if line.split() else "?"


def fit_once(workers: int) -> dict[str, Any]:
    """Parts of `launch` with a worker that does nothing, in seconds."""
    began = time.time()
    watch = Watch()
    watch.start()
    from cluster.connect import connect
    from pipelines.launch import launch

    with tempfile.TemporaryDirectory() as folder:
        stamps = {}
        with connect():
            stamps["Ray started"] = time.time()
            config: Any = SimpleNamespace(num_workers=workers, min_workers=0, use_gpu=False)
            launch(trivial, {"run_dir": folder}, config)
            stamps["fit returned"] = time.time()
        stamps["Ray stopped"] = time.time()
        told = [json.loads(path.read_text()) for path in Path(folder).glob("worker-*.json")]
    watch.ended.set()
    watch.join()
    assert len(told) == workers
    controller = watch.begun("ray::TrainController")
    process = min(row["process"] for row in told)
    entered, left = max(row["entered"] for row in told), max(row["left"] for row in told)
    parts = {
        "imports of the driver, start of Ray": stamps["Ray started"] - began,
        "until the process of the controller": controller - stamps["Ray started"],
        "imports of the controller, placement": process - controller,
        "workers: process, imports, process group": entered - process,
        "function": left - entered,
        "poll, teardown": stamps["fit returned"] - left,
        "fit in all": stamps["fit returned"] - stamps["Ray started"],
        "stop of Ray": stamps["Ray stopped"] - stamps["fit returned"],
        "in all": stamps["Ray stopped"] - began,
    }
    return {"seconds": {name: round(value, 2) for name, value in parts.items()}, "cpu_seconds": watch.cpu()}


def trivial(spec: dict[str, Any], report: Any, device: Any) -> None:
    """What a worker runs: notes when it came here."""
    entered = time.time()
    import os

    import torch.distributed

    report({"loss": 0.0})
    start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    stat = Path("/proc/stat").read_text().splitlines()
    boot = float(next(line.split()[1] for line in stat if line.startswith("btime")))
    told = {"process": boot + start / os.sysconf("SC_CLK_TCK"), "entered": entered, "left": time.time()}
    path = Path(spec["run_dir"]) / f"worker-{torch.distributed.get_rank()}.json"
    path.write_text(json.dumps(told))


def trial_once(workers: int, trials: int) -> dict[str, Any]:
    """Overhead of the trials of a small sweep, in seconds each; the first pays for imports."""
    from cluster.connect import connect
    from pipelines import tune
    from pipelines.config import TrackingConfig
    from pipelines.settings import load_config
    from pipelines.sweep.plan import read_sweep

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _store(folder / "store")
        (folder / "space.toml").write_text(
            "[expert.optimizer]\nlearning_rate = {log_uniform = [1e-4, 1e-2]}\n"
        )
        (folder / "small.toml").write_text(
            f"[expert]\nepochs = 2\nbatch_size = 8\nencoder_units = 6\nnum_workers = {workers}\n"
            '[expert.sequence]\nskeleton = "c15"\n[expert.model]\nlstm_units = 4\n'
            f'[tune]\ntrials = {trials}\nmax_concurrent = 1\nsearcher = "random"\nscheduler = "none"\n'
        )
        config = load_config(folder / "small.toml")
        config = config.model_copy(update={"tracking": TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db")})
        ended: list[float] = []
        with connect():
            began = time.monotonic()
            tune.sweep(
                "two-stage",
                folder / "store",
                "s",
                folder / "space.toml",
                config,
                runs=folder / "runs",
                progress=lambda line: ended.append(time.monotonic()),
            )
            whole = time.monotonic() - began
        seconds = [trial.seconds for trial in read_sweep(folder / "runs" / "s").trials()]
    ended = ended[1:]  # the first line tells that it begins
    lengths = [after - before for before, after in zip([began, *ended], ended, strict=False)]
    overhead = [length - trained for length, trained in zip(lengths, seconds, strict=True)]
    parts = {
        "first trial, and start of Tune": overhead[0],
        "each further trial": statistics.median(overhead[1:]),
        "most of a further trial": max(overhead[1:]),
        "sweep": whole,
    }
    return {"seconds": {name: round(value, 2) for name, value in parts.items()}}


def _store(folder: Path) -> None:
    """Twenty clips of ten people, four seconds each; a wider wave scores higher."""
    import numpy as np
    import pyarrow as pa

    from pipelines.schema import CLIPS, POSES, empty_row
    from pipelines.store import open_store

    generator = np.random.default_rng(0)
    clips, poses = [], []
    for number in range(20):
        xyz = generator.normal(size=(15, 3)) + 0.1 * number * np.sin(np.arange(40) / 3)[:, None, None]
        about = {"clip_id": f"clip{number}", "uri": f"clip{number}", "subject_id": f"P{number // 2}"}
        about |= {"action_type": "wave", "group": "control", "split": "train" if number < 16 else "val"}
        clips.append(empty_row(CLIPS, score=float(number), **about))
        row = {"person": 0, "status": "ok", "attempts": 1, "skeleton": "c15", "unit": "m", "num_frames": 40}
        row |= {"num_joints": 15, "num_coordinates": 3, "time_s": np.arange(40) / 10}
        poses.append(
            empty_row(POSES, clip_id=f"clip{number}", keypoints=xyz.astype(np.float32).ravel(), **row)
        )
    store = open_store(folder, create=True)
    store.put_clips(pa.Table.from_pylist(clips, schema=CLIPS))
    table = store.create_poses({"made by": "bench_startup"})
    with table.writer() as writer:
        writer.commit([table.write_file(pa.Table.from_pylist(poses, schema=POSES))])


if __name__ == "__main__":
    main()
