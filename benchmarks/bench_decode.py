"""Guarded decoding against bare decord and bare PyAV: frames per second, wrong frames, memory.

    python benchmarks/bench_decode.py speed VIDEO [VIDEO ...] [--runs 5] [--out decode.json]
    python benchmarks/bench_decode.py errors [--real FOLDER] [--out errors.json]
    python benchmarks/bench_decode.py memory [--minutes 30] [--out memory.json]

`speed`: `guard` is what a Ray stage calls (hash, packets, decord, crop to 192 x 256, pipe), without and with
full proof; `decord` and `pyav` read every frame as RGB without check or crop. All use one decoding thread.
Medians over the runs, which alternate between the readers; the first run of each is not counted. Files are
copied to a temporary folder first.

`errors`: the corpus of `tests/pipelines/stages/corpus.py` (numbers burnt into every frame) and a folder of
real files with `expected_frames.csv` (frame counts by FFmpeg's command line; its pictures are PyAV's, decoded
strictly). A file counts as *wrong* for a reader if any frame it hands out without an error is another one, or
frames are missing at the end; as *unseen* if it is damaged and read without any error. By index, decord is
asked for the frames in a shuffled order.

`memory`: peak resident memory of child and parent while a synthetic 1920 x 1080 video is cut into crops.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np

from pipelines.errors import ClipError
from pipelines.stages.decode import DecodeGuard, DecodeRequest
from pipelines.stages.media_file import sniff
from pipelines.stages.pictures import Crop
from pipelines.stages.referee import Referee, as_coded, distance, grid, luma_from_rgb, referee

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pipelines" / "stages"))

LIMIT_S = 120  # for one file and reader
# Files of the folder `damaged` that must not pass; the others there are odd, but whole.
DAMAGED = ("trunc", "zero", "text", "html", "bitflip", "missing", "audio", "hls", "concat", "random")
DAMAGED += ("huge_bitstream", "large_bitstream")
TOLERANCE = 6.0  # of 255: a picture further from the right one is another one


def ask(path: Path, picture: Crop | None, proof: bool, frames_per_part: int = 512) -> DecodeRequest:
    """A request for all frames."""
    return DecodeRequest(str(path), None, None, "all", None, None, picture, frames_per_part, proof)


# ---------------------------------------------------------------- speed


def read_guard(guard: DecodeGuard, path: Path, proof: bool) -> tuple[int, str]:
    """Frames read by the guard, and by which decoder."""
    os.utime(path)  # a new time stamp: the ruling of the run before is not used again
    frames, decoder = 0, ""
    for part in guard.decode(ask(path, Crop(192, 256), proof)):
        frames, decoder = frames + len(part.frames), part.decoder
    return frames, decoder


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


def measure(path: Path, runs: int, guard: DecodeGuard) -> dict[str, object]:
    """Median frames per second of each reader on one file, and the ratio to decord of the same run."""
    readers: dict[str, Callable[[], tuple[int, str]]] = {
        "guard": lambda: read_guard(guard, path, False),
        "guard_proven": lambda: read_guard(guard, path, True),
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
    row: dict[str, object] = {"file": path.name, "frames": frames, "decoder": decoder}
    for name, times in seconds.items():
        row[f"{name}_fps"] = round(frames / statistics.median(times), 1)
    for name in ("guard", "guard_proven"):
        ratios = [d / g for d, g in zip(seconds["decord"], seconds[name], strict=True)]
        row[f"{name}_to_decord"] = [round(f(ratios), 3) for f in (min, statistics.median, max)]
    return row


def speed(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Measure the files named on the command line."""
    with DecodeGuard(timeout_s=300, memory_mb=3000) as guard, tempfile.TemporaryDirectory() as folder:
        copies = [Path(shutil.copy(path, folder)) for path in arguments.videos]
        rows = [measure(path, arguments.runs, guard) for path in copies]
    for row in rows:
        print(
            f"{row['file']:<45} guard {row['guard_fps']:>8}  proven {row['guard_proven_fps']:>8}  "
            f"decord {row['decord_fps']:>8}  pyav {row['pyav_fps']:>8}  "
            f"guard / decord min, median, max {row['guard_to_decord']}"
        )
    return rows


# ---------------------------------------------------------------- wrong frames


def samples_of(rgb: np.ndarray) -> np.ndarray:
    """(32, 32, 3) uint8, the pixels that fingerprints are made of."""
    return rgb[grid(*rgb.shape[:2])]


def probe(mode: str, path: str, target: str) -> None:
    """In a process of its own: read as `mode` says, keep index, number and brightness of each frame."""
    from make_videos import read_number

    indices, numbers, luma, error = [], [], [], ""

    def keep(index: int, rgb: np.ndarray) -> None:
        indices.append(index)
        luma.append(samples_of(rgb))
        try:
            numbers.append(read_number(rgb))
        except ValueError:
            numbers.append(-1)

    try:
        if mode == "pyav":
            with av.open(path) as container:
                for index, frame in enumerate(container.decode(video=0)):
                    keep(index, frame.to_ndarray(format="rgb24", interpolation="BICUBIC"))
        else:
            reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            order = range(len(reader))
            if mode == "index":
                order = np.random.default_rng(0).permutation(len(reader)).tolist()
            for index in order:
                keep(index, (reader[index] if mode == "index" else reader.next()).asnumpy())
    except (decord.DECORDError, av.error.FFmpegError, RuntimeError, StopIteration, IndexError) as failure:
        error = (str(failure).splitlines() or [type(failure).__name__])[0]
    np.savez(target, index=indices, number=numbers, luma=np.array(luma, np.uint8), error=error)


def read_apart(mode: str, path: Path, folder: Path) -> dict[str, np.ndarray]:
    """What a bare reader gives for a file; it may crash or hang."""
    target = folder / "probe.npz"
    target.unlink(missing_ok=True)
    command = [sys.executable, __file__, "probe", mode, str(path), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
        error = f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        error = "timeout"
    if not target.exists():
        return {"index": np.zeros(0, int), "error": np.array(error)}
    with np.load(target, allow_pickle=False) as found:
        return dict(found)


def read_ours(guard: DecodeGuard, path: Path, proof: bool) -> dict[str, np.ndarray]:
    """What the guard gives for a file; a rejected clip gives nothing."""
    from make_videos import read_number

    indices, numbers, luma = [], [], []
    try:
        for part in guard.decode(ask(path, None, proof)):
            for index, rgb in zip(part.frame_index, part.frames, strict=True):
                indices.append(int(index))
                luma.append(samples_of(rgb))
                try:
                    numbers.append(read_number(rgb))
                except ValueError:
                    numbers.append(-1)
    except ClipError as error:
        return {"index": np.zeros(0, int), "error": np.array(error.code)}
    return {
        "index": np.array(indices),
        "number": np.array(numbers),
        "luma": np.array(luma),
        "error": np.array(""),
    }


def verdict(found: dict[str, np.ndarray], expected: int | None, right: Callable[[int], bool]) -> str:
    """exact, refused, wrong or unseen."""
    if expected is None:
        return "refused" if str(found["error"]) else "unseen"
    wrong = sum(not right(position) for position in range(len(found["index"])))
    if wrong:
        return "wrong"
    if str(found["error"]):
        return "refused"
    return "exact" if len(found["index"]) == expected else "wrong"


def judge_corpus(found: dict[str, np.ndarray], numbers: list[int] | None) -> str:
    """By the numbers burnt in."""

    def right(position: int) -> bool:
        index = int(found["index"][position])
        return numbers is not None and index < len(numbers) and found["number"][position] == numbers[index]

    return verdict(found, None if numbers is None else len(numbers), right)


def judge_real(found: dict[str, np.ndarray], expected: int | None, truth: Referee | None) -> str:
    """By the pictures of the strict pass; each frame must be nearest to its own."""

    def right(position: int) -> bool:
        index = int(found["index"][position])
        if truth is None or truth.fingerprints is None or index >= len(truth.fingerprints):
            return False
        if found["luma"].shape[-1] != 3:  # decord gives 192 channels of a video of one pixel
            return False
        prints = {
            k: truth.fingerprints[k] for k in range(max(0, index - 3), index + 4) if k < len(truth.time_s)
        }
        samples, whole = luma_from_rgb(as_coded(found["luma"][position], truth.turn), truth.luma)
        apart = {k: distance(samples, picture) for k, picture in prints.items()}
        own = distance(samples[whole], prints[index][whole])
        return own <= TOLERANCE and apart[index] <= min(apart.values()) + 0.5

    return verdict(found, expected, right)


def cases(folder: Path, real: Path | None) -> list[tuple[str, Path, Callable[[dict[str, np.ndarray]], str]]]:
    """Group, path and judge of every file."""
    from corpus import CORPUS

    found = []
    for name, make in CORPUS.items():
        numbers = make(folder / name).numbers
        found.append(("corpus", folder / name, lambda got, numbers=numbers: judge_corpus(got, numbers)))
    if real is None:
        return found
    with (real / "expected_frames.csv").open() as table:
        for row in csv.DictReader(table):
            path, sound = real / row["file"], row["class"] == "decode"
            truth = strict_truth(path) if sound else None
            count = int(row["n_frames"]) if sound else None
            group = "real" if sound else "damaged"
            found.append((group, path, lambda got, n=count, t=truth: judge_real(got, n, t)))
    for path in sorted((real / "damaged").iterdir()):
        if path.suffix in (".mp4", ".webm") and path.name.startswith(DAMAGED):
            found.append(("damaged", path, lambda got: judge_real(got, None, None)))
    return found


def strict_truth(path: Path) -> Referee:
    """Fingerprint of every frame, from FFmpeg's strict decoding."""
    with path.open("rb", buffering=0) as file:
        form = sniff(str(path), os.pread(file.fileno(), 4096, 0))
        return referee(str(path), file.fileno(), form, 8192 * 8192, lambda: None)


def errors(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Every reader on every file."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name, DecodeGuard(timeout_s=LIMIT_S, memory_mb=6000) as guard:
        folder = Path(name)
        for group, path, judge in cases(folder, arguments.real):
            row: dict[str, object] = {"group": group, "file": path.name}
            for mode in ("index", "order", "pyav"):
                row[{"index": "decord by index", "order": "decord in order", "pyav": "PyAV"}[mode]] = judge(
                    read_apart(mode, path, folder)
                )
            row["ours, share 0"] = judge(read_ours(guard, path, False))
            row["ours, share 1"] = judge(read_ours(guard, path, True))
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    readers = [name for name in rows[0] if name not in ("group", "file")]
    for group in dict.fromkeys(row["group"] for row in rows):
        print(f"{group}: {sum(row['group'] == group for row in rows)} files")
        for reader in readers:
            counts = Counter(str(row[reader]) for row in rows if row["group"] == group)
            print(f"  {reader:<16}", ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    return rows


# ---------------------------------------------------------------- memory


def write_long(path: Path, minutes: float) -> int:
    """A 1920 x 1080 H.264 video of 50 different pictures; returns the number of frames."""
    from make_videos import draw

    count = round(minutes * 60 * 25)
    pictures = [av.VideoFrame.from_ndarray(draw(k, 1920, 1080), format="rgb24") for k in range(50)]
    pictures = [picture.reformat(format="yuv420p") for picture in pictures]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for number in range(count):
            frame = pictures[number // 5 % 50]
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return count


def peak_mb(process: int | str | None) -> int:
    """Largest resident memory of a process so far, MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def memory(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Peaks for one long video: crops as for a pose network, then whole frames."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp4"
        count = write_long(path, arguments.minutes)
        for picture, proof in ((Crop(192, 256), False), (Crop(192, 256), True), (None, False)):
            with DecodeGuard(timeout_s=120, memory_mb=3000) as guard:
                Path("/proc/self/clear_refs").write_text("5")  # forget the peak of encoding
                begin, frames, before = time.perf_counter(), 0, peak_mb("self")
                for part in guard.decode(ask(path, picture, proof)):
                    frames += len(part.frames)
                child = peak_mb(guard.child_pid)
            rows.append(
                {
                    "minutes": arguments.minutes,
                    "frames": frames,
                    "expected": count,
                    "picture": "192 x 256 crops" if picture else "whole frames",
                    "proven": proof,
                    "seconds": round(time.perf_counter() - begin, 1),
                    "decoder": part.decoder,
                    "child_peak_mb": child,
                    "parent_growth_mb": peak_mb("self") - before,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run one of the three."""
    if sys.argv[1:2] == ["probe"]:
        probe(*sys.argv[2:5])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for run in (speed, errors, memory):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        command.add_argument("--out", type=Path)
        if run is speed:
            command.add_argument("videos", nargs="+", type=Path)
            command.add_argument("--runs", type=int, default=5)
        elif run is errors:
            command.add_argument("--real", type=Path)
        else:
            command.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    report = {
        "what": arguments.run.__name__,
        "results": arguments.run(arguments),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": load,
        "av": av.__version__,
        "decord": decord.__version__,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
