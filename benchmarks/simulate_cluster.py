"""How near to ideal the scheduling of an extraction comes on a cluster of many nodes, without the nodes.

    python benchmarks/simulate_cluster.py measure VIDEOS --out services.json [--clips 12]
    python benchmarks/simulate_cluster.py run --services services.json [--nodes 64] [--scale 1 0.5]

`measure` decodes real clips and runs the shipped pose network on them, one core each, and notes the
processor seconds of every clip, which other programs on the machine do not change as they do seconds of the
clock. `run` sends clips through the program's own plan of workers (pools.best_sizes), stages (stream,
run_pools on Ray Data), collector and commits; only that decoders and networks sleep for the seconds that
were measured instead of working, and hand on rows without pixels. The cluster is one local Ray whose
logical processors and GPUs are those of all nodes: 64 real Ray nodes do not fit into a small machine, so
what nodes cost beside their workers (heartbeats, the way of pixels over a network) is not in it; the
workers, as processes, and every message to and from them are.

A node has one GPU (a network takes 1/--gpu-speed of the measured seconds there) and --cpus cores. Each clip
leaves its decoder as a block of its own, as one with pixels would, and the network takes as many clips per
call as in `aqa extract`. The ideal rate is that of all GPUs (or cores) if none ever waits. Told: the rate
in a window in the middle of the run against the ideal, the same for the whole run with its begin and end, and
what of the time the driver and Ray's own processes worked (control plane). Before the window the workers
start, which takes this machine's cores minutes; after it the decoders, which without pixels may run far
ahead, end all at once. --scale makes all services shorter or longer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from cluster.connect import connect
from pipelines.collect import Collector
from pipelines.config import ExtractConfig
from pipelines.plan import find_work
from pipelines.pools import Cost, Sizes, best_sizes
from pipelines.schema import CLIPS, POSE_PARTS, POSES, empty_row
from pipelines.stages import base
from pipelines.stream import stream
from pipelines.table import Table

TICKS = os.sysconf("SC_CLK_TCK")
CONTROL = ("raylet", "gcs_server")
BLOCK_BYTES = 16 << 10  # less than a clip's stand-in for pixels, more than the poses of a call


@dataclass(frozen=True)
class SleepingStage:
    """Takes as long as a real one.

    Args:
        seconds: of clip i modulo the length.
        last: whether rows leave as those of a network do.
    """

    seconds: tuple[float, ...]
    last: bool

    def setup(self) -> None:
        """Nothing to make."""

    def process(self, state: Any, rows: pa.Table) -> Iterator[pa.Table]:
        """Sleeps for each row."""
        for name in rows.column("clip_id").to_pylist():
            time.sleep(self.seconds[int(name) % len(self.seconds)])
        if self.last:
            yield pa.Table.from_pylist(
                [
                    empty_row(
                        POSE_PARTS, clip_id=name, person=0, status="ok", attempts=1, num_frames=1,
                        part=0, last=True,
                    )
                    for name in rows.column("clip_id").to_pylist()
                ],
                schema=POSE_PARTS,
            )  # fmt: skip
        else:
            yield rows.append_column("pixels", pa.array([bytes(2 * BLOCK_BYTES)] * rows.num_rows))


class DecodeSleep(SleepingStage):
    """A name of its own, by which costs are told apart."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("measure")
    first.add_argument("videos", type=Path)
    first.add_argument("--out", type=Path, required=True)
    first.add_argument("--clips", type=int, default=12)
    second = verbs.add_parser("run")
    second.add_argument("--services", type=Path, required=True)
    second.add_argument("--nodes", type=int, default=64)
    second.add_argument("--cpus", type=int, default=4)
    second.add_argument("--gpu-speed", type=float, default=1.0)
    second.add_argument("--clips-each", type=int, default=400, help="per network")
    second.add_argument("--window", type=float, nargs=2, default=[0.3, 0.75], help="which share of the clips")
    second.add_argument("--scale", type=float, nargs="+", default=[1.0])
    second.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = measure(given.videos, given.clips) if given.verb == "measure" else run(given)
    text = json.dumps(found, indent=2)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


def measure(videos: Path, count: int) -> dict[str, Any]:
    """Seconds of decoding and of the network for each of some clips, one after the other."""
    from pipelines.kinds import find_work_of

    files = sorted(path for path in videos.rglob("*") if path.suffix in (".mp4", ".mkv", ".webm", ".avi"))
    clips = [empty_row(CLIPS, clip_id=path.name, uri=str(path)) for path in files]
    work = find_work_of(ExtractConfig(precision="auto"), people_key="")
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder) / "table", work.schema)
        planned = find_work(pa.Table.from_pylist(clips, schema=CLIPS), table).todo
    decoder, network = work.decode.setup(), work.network.setup()
    services: list[tuple[str, int, float, float]] = []
    for place in range(planned.num_rows):
        decode_s, network_s, frames = 0.0, 0.0, 0
        began = _busy_seconds()
        for pixels in work.decode.process(decoder, planned.slice(place, 1)):
            decoded = _busy_seconds()
            for poses in work.network.process(network, pixels):
                frames += sum(number or 0 for number in poses.column("num_frames").to_pylist())
            decode_s, began = decode_s + decoded - began, _busy_seconds()
            network_s += began - decoded
        decode_s += _busy_seconds() - began
        if frames:
            name = planned.column("clip_id")[place].as_py()
            services.append((name, frames, round(decode_s, 4), round(network_s, 4)))
        if len(services) == count:
            break
    names = ("videos", "frames", "decode_s", "network_s")
    columns = [list(column) for column in zip(*services, strict=True)]
    return {"load": os.getloadavg()[0], **dict(zip(names, columns, strict=True))}


def run(given: argparse.Namespace) -> dict[str, Any]:
    """The simulation at each scale."""
    services = json.loads(given.services.read_text())
    found = {"nodes": given.nodes, "cpus_per_node": given.cpus, "cores_here": os.cpu_count(), "scales": {}}
    for scale in given.scale:
        decode = tuple(scale * seconds for seconds in services["decode_s"])
        network = tuple(scale * seconds / given.gpu_speed for seconds in services["network_s"])
        found["scales"][str(scale)] = simulate(given, decode, network)
    return found


def simulate(
    given: argparse.Namespace, decode: tuple[float, ...], network: tuple[float, ...]
) -> dict[str, Any]:
    """One run on one local Ray.

    Args:
        given: nodes, cpus, clips_each.
        decode, network: seconds of the clips, taken in turn.
    """
    frames = (1,) * len(decode)
    sizes = best_sizes(given.cpus * given.nodes, given.nodes, Cost(frames, sum(decode), sum(network), 0.0, 0))
    ideal = min(given.cpus * given.nodes / sum(decode), given.nodes / sum(network)) * len(network)
    count = sizes.network * given.clips_each
    work: Any = SimpleNamespace(
        decode=DecodeSleep(decode, last=False), on_gpu=lambda use_gpu: SleepingStage(network, last=True)
    )
    # Many processes begin at once here, which on as many machines as they are for would not be so.
    os.environ |= {"RAY_worker_register_timeout_seconds": "900", "RAY_prestart_worker_first_driver": "0"}
    os.environ |= {"RAY_worker_maximum_startup_concurrency": str(os.cpu_count())}
    base.BLOCK_BYTES = BLOCK_BYTES
    first, last = (int(share * count) for share in given.window)
    came: list[float] = []
    with tempfile.TemporaryDirectory() as folder, connect(num_cpus=sizes.decode + sizes.network):
        here = Sizes(sizes.decode, sizes.network, sizes.decode + sizes.network, 0)
        table = Table(Path(folder) / "table", POSES)
        planned = pa.table({"clip_id": [str(number) for number in range(count)]})
        with table.writer() as writer:
            collector = Collector(table, writer, lambda rows: rows.select(POSES.names))

            def note(line: str) -> None:
                if "lost" in line:
                    print(line)
                came.extend([time.monotonic()] * (collector.counts["clips"] - len(came)))
                if len(came) >= first and not before:
                    before.update(_control_seconds())
                if len(came) >= last and not after:
                    after.update(_control_seconds())

            before: dict[str, float] = {}
            after: dict[str, float] = {}
            stream(planned, work, here, ExtractConfig(), collector, note)
            collector.commit()
        rows = table.read(columns=["clip_id"]).num_rows
    assert rows == count
    window = came[last] - came[first]
    steady, whole = (last - first) / window, count / (came[-1] - came[0] + sum(network) / len(network))
    return {
        "decoders": sizes.decode,
        "networks": sizes.network,
        "clips": count,
        "ideal_clips_per_s": round(ideal, 2),
        "window": given.window,
        "steady_clips_per_s": round(steady, 2),
        "steady_share_of_ideal": round(steady / ideal, 3),
        "whole_share_of_ideal": round(whole / ideal, 3),
        "control_plane_cores": {name: round((after[name] - before[name]) / window, 3) for name in before},
        "load_at_end": os.getloadavg()[0],
    }


def _busy_seconds() -> float:
    """Processor seconds so far of this process and of those below it, such as the one that decodes."""
    parents, seconds = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                rest = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(rest[1])
            seconds[int(entry.name)] = sum(map(int, rest[11:15])) / TICKS  # with ended children
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(seconds[pid] for pid in mine)


def _control_seconds() -> dict[str, float]:
    """Processor seconds so far of this driver and of Ray's own processes below it."""
    found = {"driver": time.process_time()} | dict.fromkeys(CONTROL, 0.0)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                rest = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            except OSError:
                continue
            name = Path(line).name
            if int(rest[1]) == os.getpid() and name in CONTROL:
                found[name] += (int(rest[11]) + int(rest[12])) / TICKS
    return found


if __name__ == "__main__":
    main()
