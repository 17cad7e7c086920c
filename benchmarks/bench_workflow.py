"""How long `aqa run` takes on rendered athletes, and whether being killed in every step changes anything.

    python benchmarks/bench_workflow.py --out DIR
    python benchmarks/bench_workflow.py --out DIR --store STORE -- --models two_stage --config small.toml

The first workflow runs undisturbed in DIR/undisturbed. The second, in DIR/killed, is killed (SIGKILL), with
all its processes, in the middle of each step once, and started again by the same command. Then: which steps
ended how often, and whether the metrics of the test clips are equal. A finished workflow is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pipelines.workflow_folder import NEEDS, before, open_workflow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="filled store to begin with; else rendered athletes")
    parser.add_argument("--longest-s", type=float, default=4.0, help="longest wait in a step before the kill")
    parser.add_argument("options", nargs="*", help="options of aqa run")
    given = parser.parse_args()
    options = given.options if given.store else ["--rendered", *given.options]
    folders = [given.out / name for name in ("undisturbed", "killed")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        if given.store and not (folder / "store").exists():
            shutil.copytree(given.store, folder / "store")
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_at_start": os.getloadavg()[0]}
    if not _finished(folders[0]):
        started = time.monotonic()
        _start(folders[0], options).wait()
        found["seconds"] = round(time.monotonic() - started, 1)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        found["cpu_seconds"] = round(used.ru_utime + used.ru_stime, 1)  # without Ray's own processes
    found["kills"] = [] if _finished(folders[1]) else _kill_in_each_step(folders[1], options, given.longest_s)
    ended = Counter(line["step"] for line in open_workflow(folders[1]).history() if line["event"] == "end")
    found["ended"] = dict(ended)
    found["no_finished_step_repeated"] = ended == Counter(dict.fromkeys([*NEEDS, "end"], 1))
    metrics = [_metrics(folder) for folder in folders]
    found["metrics_equal"] = metrics[0] == metrics[1]
    found["metrics"] = metrics
    found["load_at_end"] = os.getloadavg()[0]
    text = json.dumps(found, indent=2)
    (given.out / "workflow.json").write_text(text + "\n")
    print(text)


def _start(folder: Path, options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipelines", "run", "--folder", str(folder), *options]
    log = (folder.parent / f"{folder.name}.log").open("ab")
    return subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)


def _kill_in_each_step(folder: Path, options: list[str], longest_s: float) -> list[dict[str, Any]]:
    """Kill, some seconds after its beginning, each step in turn; then let the workflow end."""
    chance, kills = random.Random(0), []
    for step in sorted(NEEDS, key=lambda step: len(before(step))):  # of two that run at once none may be done
        begun, process = _count(folder, step, "begin"), _start(folder, options)
        while _count(folder, step, "begin") == begun and not _count(folder, step, "end"):
            if process.poll() is not None:
                raise SystemExit(f"the workflow ended before {step} began; see {folder.parent}")
            time.sleep(0.05)
        wait, since = chance.uniform(0, longest_s), time.monotonic()
        while time.monotonic() - since < wait and not _count(folder, step, "end"):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after_s, done = round(time.monotonic() - since, 2), bool(_count(folder, step, "end"))
        kills.append({"step": step, "after_s": after_s, "was_done": done})
        print(kills[-1], flush=True)
    _start(folder, options).wait()
    return kills


def _count(folder: Path, step: str, event: str) -> int:
    if not (folder / "workflow.json").is_file():
        return 0
    return sum(line["step"] == step and line["event"] == event for line in open_workflow(folder).history())


def _finished(folder: Path) -> bool:
    return (folder / "workflow.json").is_file() and open_workflow(folder).done("end")


def _metrics(folder: Path) -> dict[str, Any]:
    """Test metrics of each model, without what names the folder."""
    found = open_workflow(folder).result("evaluate")
    return {
        run: {
            name: value
            for name, value in metrics.items()
            if name not in ("run_dir", "question", "stored", "lines")
        }
        for run, metrics in found.items()
    }


if __name__ == "__main__":
    main()
