"""What planning, resuming and committing cost, from ten thousand to a million clips; no video is read.

    python benchmarks/bench_plan.py [--clips 10000 100000 1000000] [--rows-per-file 256] [--out plan.json]

For each size, in a temporary folder: one empty source file per clip; the clips are put into a new store;
`find_work` runs when nothing, half, and all of them are done. In between a decoder and a network that do
nothing make rows of two frames: the first half goes through extraction's own `Collector`, the second half
is committed at the collector's pace in files of `--rows-per-file` rows, as a slow run leaves them.
Every step is a process of its own; its memory is the kernel's VmHWM, which counts the libraries too.
On a busy machine wall time tells little: `plan_cpu_s` is the processor time of all threads. `commit_share` is
the time in transactions over that of the whole loop, which also makes, writes, flushes and reads back files.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa

from pipelines import plan, sources
from pipelines.collect import MIN_SECONDS, Collector
from pipelines.schema import CLIPS, POSE_PARTS
from pipelines.store import open_store
from pipelines.table import Table, Writer

SPEC = {"kind": "poses", "network": "none"}
FRAMES, JOINTS = 2, 17
FILES_PER_FOLDER = 1000


def make_clips(folder: Path, count: int) -> pa.Table:
    """A clips table with a range, a label and a box for each source file."""
    number = np.arange(count)
    start = number * 0.25
    values = {
        "clip_id": pa.array([f"clip{n:08d}" for n in range(count)]),
        "uri": pa.array([str(source(folder, n)) for n in range(count)]),
        "start_s": pa.array(start),
        "end_s": pa.array(start + 4),
        "score": pa.array(number % 100 / 2),
        "action_type": pa.array([f"{n % 50}b" for n in range(count)]),
        "subject_id": pa.array([f"P{n % 5000}" for n in range(count)]),
    }
    columns = [values.get(field.name, pa.nulls(count, field.type)) for field in CLIPS]
    return pa.Table.from_arrays(columns, schema=CLIPS)


def source(folder: Path, number: int) -> Path:
    return folder / "videos" / str(number // FILES_PER_FOLDER) / f"{number}.mp4"


def make_parts(clips: pa.Table) -> pa.Table:
    """What a decoder and a network that do nothing give for these clips."""
    count = clips.num_rows
    size, mtime = sources.look(clips["uri"].combine_chunks())
    points = np.random.default_rng(count).random(count * FRAMES * JOINTS * 2, np.float32)
    offsets = np.arange(count + 1, dtype=np.int32) * FRAMES * JOINTS * 2
    values = {name: clips[name] for name in ("clip_id", "uri", "clip_digest")} | {
        "person": np.zeros(count, np.int32),
        "status": pa.array(["ok"] * count),
        "attempts": np.ones(count, np.int32),
        "source_sha256": pa.array([os.urandom(32).hex() for _ in range(count)]),
        "source_bytes": size,
        "source_mtime_ns": mtime,
        "num_frames": np.full(count, FRAMES, np.int32),
        "num_joints": np.full(count, JOINTS, np.int32),
        "num_coordinates": np.full(count, 2, np.int32),
        "keypoints": pa.ListArray.from_arrays(offsets, points),
    }
    values |= {"part": np.zeros(count, np.int32), "last": pa.array([True] * count)}
    columns = [values.get(field.name, pa.nulls(count, field.type)) for field in POSE_PARTS]
    return pa.table(columns, schema=POSE_PARTS)


def step_put(folder: Path, count: int, _: int) -> dict:
    """Source files, and their clips in a store."""
    for start in range(0, count, FILES_PER_FOLDER):
        source(folder, start).parent.mkdir(parents=True)
        for number in range(start, min(count, start + FILES_PER_FOLDER)):
            os.mknod(source(folder, number))
    clips = make_clips(folder, count)
    store = open_store(folder / "store", create=True)
    started = time.perf_counter()
    store.put_clips(clips)
    put = time.perf_counter() - started
    started = time.perf_counter()
    store.put_clips(clips)
    return {"put_s": put, "put_again_s": time.perf_counter() - started}


def step_plan(folder: Path, _: int, __: int) -> dict:
    """Read the clips, find the work."""
    started, cpu = time.perf_counter(), time.process_time()
    store = open_store(folder / "store")
    clips = store.clips.read()
    read = time.perf_counter() - started
    found = plan.find_work(clips, store.create("poses", SPEC))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"todo": found.todo.num_rows, "plan_s": seconds, "plan_cpu_s": cpu, "of_it_reading_clips_s": read}


def step_collect(folder: Path, count: int, rows_per_file: int) -> dict:
    """Give half of the clips to the collector, as extraction does: it makes the files and commits them."""
    with unfinished(folder, count) as (table, writer, todo):
        timed, written = Timed(writer, "commit"), Timed(table, "write_file")
        collector = Collector(table, writer, finish=lambda rows: rows)
        begin = time.perf_counter()
        for start in range(0, todo.num_rows, rows_per_file):
            collector.add(make_parts(todo.slice(start, rows_per_file)))
        collector.commit()
        return costs(todo, timed, written, time.perf_counter() - begin)


def step_small_files(folder: Path, count: int, rows_per_file: int) -> dict:
    """Commit half of the clips at the collector's pace, but in many more files, as a slow run leaves them."""
    with unfinished(folder, count) as (table, writer, todo):
        timed, written = Timed(writer, "commit"), Timed(table, "write_file")
        waiting: list = []
        begin = committed = time.perf_counter()
        for start in range(0, todo.num_rows, rows_per_file):
            waiting.append(table.write_file(make_parts(todo.slice(start, rows_per_file))))
            now = time.perf_counter()
            if now - committed > max(MIN_SECONDS, 0.01 * (now - begin)):
                writer.commit(waiting)
                waiting, committed = [], time.perf_counter()
        writer.commit(waiting)
        return costs(todo, timed, written, time.perf_counter() - begin)


@contextlib.contextmanager
def unfinished(folder: Path, count: int) -> Iterator[tuple[Table, Writer, pa.Table]]:
    """The table, its writer, and half of all clips, none of which it has."""
    store = open_store(folder / "store")
    table = store.create("poses", SPEC)
    todo = plan.find_work(store.clips.read(), table).todo.slice(0, count // 2)
    with table.writer() as writer:
        yield table, writer, todo


def costs(todo: pa.Table, timed: Timed, written: Timed, seconds: float) -> dict:
    return {
        "rows": todo.num_rows,
        "seconds": seconds,
        "writing_s": sum(written.seconds),
        "commits": len(timed.seconds),
        "commit_s": sum(timed.seconds),
        "longest_commit_s": max(timed.seconds),
        "commit_share": sum(timed.seconds) / seconds,
    }


class Timed:
    """Measures each call of a method of one object."""

    def __init__(self, thing: object, method: str):
        self.seconds: list[float] = []
        self._call = getattr(thing, method)
        setattr(thing, method, self)

    def __call__(self, argument: Any) -> Any:
        begin = time.perf_counter()
        result = self._call(argument)
        self.seconds.append(time.perf_counter() - begin)
        return result


STEPS = {"put": step_put, "plan": step_plan, "collect": step_collect, "small_files": step_small_files}


def run_step(name: str, folder: Path, count: int, rows_per_file: int) -> dict:
    """One step in a child process: its figures and its peak memory."""
    command = [sys.executable, __file__, "--step", name, "--folder", str(folder)]
    command += ["--clips", str(count), "--rows-per-file", str(rows_per_file)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment).stdout
    return json.loads(output)


def measure(count: int, rows_per_file: int) -> dict:
    """All steps for one number of clips."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict = {"clips": count, "put": run_step("put", folder, count, rows_per_file)}
        for name in ("plan_0_done", "collect", "plan_50_done", "small_files", "plan_100_done"):
            step = "plan" if name.startswith("plan") else name
            result[name] = run_step(step, folder, count, rows_per_file)
        result["files"] = sum(1 for _ in (folder / "store" / "poses").rglob("part-*.parquet"))
    print(json.dumps(result), file=sys.stderr)
    return result


def ratios(smaller: dict, larger: dict) -> dict:
    """How much longer each plan takes with more clips."""
    plans = [name for name in smaller if name.startswith("plan_")]
    ratio = {
        f"{name}_{unit}": round(larger[name][unit] / smaller[name][unit], 2)
        for name in plans
        for unit in ("plan_s", "plan_cpu_s")
    }
    return {"from": smaller["clips"], "to": larger["clips"], **ratio}


def main() -> None:
    """Run one step (as a child), or all sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rows-per-file", type=int, default=256)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        figures = STEPS[arguments.step](arguments.folder, arguments.clips[0], arguments.rows_per_file)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        rounded = {name: round(value, 4) for name, value in figures.items()}
        print(json.dumps(rounded | {"peak_gb": round(peak, 3)}))
        return
    results = [measure(count, arguments.rows_per_file) for count in arguments.clips]
    pairs = itertools.pairwise(results)
    report = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "pyarrow": pa.__version__,
        "deltalake": deltalake.__version__,
        "rows_per_file": arguments.rows_per_file,
        "ratios": [ratios(smaller, larger) for smaller, larger in pairs],
        "results": results,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
