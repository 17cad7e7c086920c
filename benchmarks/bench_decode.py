"""Frames per second of guarded decoding with crop, against bare decord and bare PyAV.

    python benchmarks/bench_decode.py VIDEO [VIDEO ...] [--runs 5] [--out decode.json]

`guard` is what a Ray stage calls: hash, referee, decord, proof of every frame, crop to 192 x 256, pipe.
`decord` and `pyav` read every frame as RGB without check or crop; `referee` is the strict pass alone.
All use one decoding thread. Medians over the runs, which alternate between the readers; the first run of each
(start of the process) is not counted. Files are copied to a temporary folder first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import decord

from pipelines.stages.decode import Crop, DecodeGuard, DecodeRequest
from pipelines.stages.media_file import sniff
from pipelines.stages.referee import referee


def read_guard(guard: DecodeGuard, path: Path) -> tuple[int, str]:
    """Frames read by the guard, and by which decoder."""
    os.utime(path)  # a new time stamp: the referee's ruling of the run before is not reused
    clip = guard.decode(DecodeRequest(str(path), None, None, "all", None, Crop(192, 256), 1 << 30))
    return len(clip.frames), clip.decoder


def read_decord(path: Path) -> tuple[int, str]:
    """Every frame in order as an array, nothing else."""
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    for _ in range(len(reader)):
        reader.next().asnumpy()
    return len(reader), "decord"


def read_pyav(path: Path) -> tuple[int, str]:
    """Every frame in order as an array, nothing else."""
    count = 0
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
            count += 1
    return count, "pyav"


def read_referee(path: Path) -> tuple[int, str]:
    """The strict pass alone."""
    with path.open("rb", buffering=0) as file:
        form = sniff(str(path), os.pread(file.fileno(), 4096, 0))
        return len(referee(str(path), file.fileno(), form, 8192 * 8192).time_s), "pyav"


def measure(path: Path, runs: int, guard: DecodeGuard) -> dict[str, object]:
    """Median frames per second of each reader on one file."""
    readers: dict[str, Callable[[], tuple[int, str]]] = {
        "guard": lambda: read_guard(guard, path),
        "referee": lambda: read_referee(path),
        "decord": lambda: read_decord(path),
        "pyav": lambda: read_pyav(path),
    }
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    frames, decoder = 0, ""
    for run in range(runs + 1):
        for name, read in readers.items():
            begin = time.perf_counter()
            frames, used = read()
            if run:
                seconds[name].append(time.perf_counter() - begin)
            decoder = used if name == "guard" else decoder
    rates = {f"{name}_fps": round(frames / statistics.median(times), 1) for name, times in seconds.items()}
    share = statistics.median(seconds["referee"]) / statistics.median(seconds["guard"])
    return (
        {"file": path.name, "frames": frames, "decoder": decoder} | rates | {"referee_share": round(share, 3)}
    )


def main() -> None:
    """Measure the files named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with DecodeGuard(timeout_s=300, memory_mb=3000) as guard, tempfile.TemporaryDirectory() as folder:
        copies = [Path(shutil.copy(path, folder)) for path in arguments.videos]
        results = [measure(path, arguments.runs, guard) for path in copies]
    report = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "runs": arguments.runs,
        "av": av.__version__,
        "decord": decord.__version__,
        "results": results,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
