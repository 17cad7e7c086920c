"""Extract: clips -> decode -> network -> feature store, on Ray Data.

The driver plans what is not yet in the store, streams it through the stages and commits what comes back.
Killed anywhere, the same command does the rest and nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.collect import Collector
from pipelines.config import ExtractConfig
from pipelines.errors import DataError
from pipelines.kinds import Work, pose_work
from pipelines.pools import (
    PROBE_CLIPS,
    Cost,
    Sizes,
    best_sizes,
    bottleneck,
    choose_probe,
    forecast,
    usual_sizes,
)
from pipelines.store import Store, Table, Writer, open_store, spec_key

Progress = Callable[[str], None]


def extract(
    source: Path | None,
    store_path: Path,
    config: ExtractConfig,
    *,
    dry_run: bool = False,
    retry_rejected: bool = False,
    progress: Progress = lambda line: None,
) -> dict:
    """Estimate the poses of clips and keep them in the store.

    Args:
        source: manifest (CSV or Parquet) whose clips are added to the store first; None = the clips there.
        store_path: folder of the store; made if it does not exist and `source` is given.
        config: what to extract, sampling, network, sizes.
        dry_run: measure about 20 clips, say what the rest would take, write nothing.
        retry_rejected: try rejected clips again.
        progress: receives lines such as "24/48 clips, 210 frames/s, ETA 0:12, 1 rejected".

    Returns:
        Counts, the table's key, seconds, frames per second, and what held the run up.

    Raises:
        DataError: more than `config.max_reject_share` of the clips were rejected (all rows are kept).
    """
    from pipelines.datasets.manifest import read_manifest

    given = None if source is None else read_manifest(source)
    work = pose_work(config)
    if dry_run and given is not None and not (store_path / "store.json").is_file():
        return _dry_run(given, _new(given), work, config)
    store = open_store(store_path, create=given is not None)
    clips = _clips_to_decode(store) if given is None else given
    if dry_run:
        table = store.poses(spec_key(work.spec))
        todo = _plan(clips, table, retry_rejected)[0] if table.exists() else _new(clips)
        return _dry_run(clips, todo, work, config)
    if given is not None:
        store.put_clips(given)
    table = store.create_poses(work.spec)
    with table.writer() as writer:
        planned, outdated = _plan(clips, table, retry_rejected)
        writer.remove(outdated)
        report = _run(planned, work, table, writer, config, progress) if planned.num_rows else {}
    result = _summary(table, clips, planned.num_rows) | report
    _refuse_too_many_rejects(result, config, store_path)
    return result


def _clips_to_decode(store: Store) -> pa.Table:
    """All clips of the store but those whose keypoints were imported."""
    imported: set[str] = set()
    for key in store.pose_keys():
        if store.spec(key).get("stage") == "import":
            imported.update(store.poses(key).read(columns=["clip_id"]).column("clip_id").to_pylist())
    clips = store.clips.read()
    keep = [clip_id not in imported for clip_id in clips.column("clip_id").to_pylist()]
    return clips.filter(pa.array(keep, pa.bool_()))


def _plan(clips: pa.Table, table: Table, retry_rejected: bool) -> tuple[pa.Table, set[str]]:
    """Clips that have no row yet, and clips whose row is outdated and must go first."""
    rows = table.read(columns=["clip_id", "status", "clip_digest"]).to_pylist()
    known = {row["clip_id"]: row for row in rows}
    todo, outdated = [], set()
    for clip in clips.to_pylist():
        clip["clip_digest"] = _clip_digest(clip)
        row = known.get(clip["clip_id"])
        changed = row is not None and row["clip_digest"] != clip["clip_digest"]
        again = row is not None and retry_rejected and row["status"] == "rejected"
        if row is None or changed or again:
            todo.append(clip)
        if changed or again:
            outdated.add(clip["clip_id"])
    schema = clips.schema.append(pa.field("clip_digest", pa.string()))
    return pa.Table.from_pylist(todo, schema=schema), outdated


def _new(clips: pa.Table) -> pa.Table:
    return clips.append_column("clip_digest", pa.nulls(clips.num_rows, pa.string()))


def _clip_digest(clip: dict) -> str:
    """Hash of what of the clip row decides its poses: the range and the box, not where the file lies."""
    names = ("start_s", "end_s", "box_x1_px", "box_y1_px", "box_x2_px", "box_y2_px")
    return hashlib.sha256(json.dumps([clip[name] for name in names]).encode()).hexdigest()[:16]


def _run(
    planned: pa.Table, work: Work, table: Table, writer: Writer, config: ExtractConfig, progress: Progress
) -> dict:
    """Stream the plan through Ray Data and commit what comes back."""
    from cluster.connect import connect, spilled_bytes

    collector = Collector(table, writer, work.finish)
    with connect():
        sizes, expected = _sizes(config), None
        if config.auto and planned.num_rows > 5 * PROBE_CLIPS:
            sample = choose_probe(planned, _known_sizes(planned))
            cost, _ = _stream(sample, work, replace(sizes, decode=1, network=1), config, collector, progress)
            collector.commit()
            done = pc.is_in(planned.column("clip_id"), sample.column("clip_id").combine_chunks())
            planned = planned.filter(pc.invert(done))
            sizes = _chosen(config, best_sizes(sizes.cpus, sizes.gpus, cost))
            expected = forecast(planned.num_rows, sizes, cost)
            progress(_forecast_line(expected.as_dict()))
        started = time.monotonic()
        cost, steady_s = _stream(planned, work, sizes, config, collector, progress)
        seconds = time.monotonic() - started
        collector.commit()
        spilled = spilled_bytes()
    report = {
        "frames": collector.counts["frames"],
        "seconds": round(seconds, 2),
        "frames_per_s": round(sum(cost.frames) / seconds, 1),
        "decode_workers": sizes.decode,
        "network_workers": sizes.network,
        "bottleneck": bottleneck(sizes, cost, steady_s),
        "spilled_bytes": spilled,
    }
    if expected is not None:
        report["forecast_seconds"] = round(expected.seconds, 1)
        report["forecast_against_actual"] = f"{expected.seconds:.0f} s forecast, {seconds:.0f} s taken"
    return report


def _stream(
    planned: pa.Table,
    work: Work,
    sizes: Sizes,
    config: ExtractConfig,
    collector: Collector | None,
    progress: Progress,
) -> tuple[Cost, float]:
    """Run clips through both pools; what they cost, and the seconds since the first result.

    Args:
        planned: the clips.
        work: the stages.
        sizes: workers.
        config: clips per call of the network.
        collector: takes the rows; None = they are only measured.
        progress: receives a line now and then.
    """
    from pipelines.stages.base import SECONDS, Pool, run_pools, sum_seconds

    pools = [
        Pool(work.decode, sizes.decode, 1, sizes.cpus_each),
        Pool(
            work.on_gpu(sizes.gpus > 0),
            sizes.network,
            config.clips_per_call,
            sizes.cpus_each,
            sizes.gpus_each,
        ),
    ]
    frames: Counter = Counter()
    spent: Counter = Counter()
    size, clips = 0, 0
    started, first = time.monotonic(), 0.0
    # Small blocks keep every decoder busy to the end; large plans need larger ones.
    for rows in run_pools(planned, pools, max(1, planned.num_rows // 1000)):
        first = first or time.monotonic()
        spent.update(sum_seconds(rows))
        rows = rows.drop_columns([SECONDS])
        for name, count, last in zip(*(rows.column(n).to_pylist() for n in _COUNTED), strict=True):
            frames[name] += count or 0
            clips += bool(last)
        size += rows.nbytes
        if collector is not None:
            collector.add(rows)
            rejected = collector.counts["rejected"]
            progress(
                _progress_line(clips, planned.num_rows, frames.total(), time.monotonic() - first, rejected)
            )
    cost = Cost(
        frames=tuple(frames.values()),
        decode_s=spent.pop(type(work.decode).__name__, 0.0),
        network_s=sum(spent.values()),
        start_s=first - started,
        bytes=size,
    )
    return cost, time.monotonic() - first


_COUNTED = ("clip_id", "num_frames", "last")


def _sizes(config: ExtractConfig) -> Sizes:
    """Workers for the connected cluster: as configured, else as usual."""
    import ray

    resources = ray.cluster_resources()
    return _chosen(config, usual_sizes(int(resources.get("CPU", 1)), int(resources.get("GPU", 0))))


def _chosen(config: ExtractConfig, sizes: Sizes) -> Sizes:
    """Sizes with the user's own numbers where given."""
    return replace(
        sizes,
        decode=config.decode_workers or sizes.decode,
        network=config.network_workers or sizes.network,
    )


def _known_sizes(clips: pa.Table) -> np.ndarray:
    """(N,) what hints at each clip's cost: seconds of its range, else bytes of its file (0 if missing)."""
    length = pc.subtract(clips.column("end_s"), pc.fill_null(clips.column("start_s"), 0.0))
    if length.null_count == 0:
        return np.asarray(length)
    sizes = np.zeros(clips.num_rows)
    for index, uri in enumerate(clips.column("uri").to_pylist()):
        path = Path(uri.removeprefix("file://"))
        sizes[index] = path.stat().st_size if path.is_file() else 0
    return sizes


def _progress_line(done: int, planned: int, frames: int, seconds: float, rejected: int) -> str:
    remaining = math.ceil(seconds * (planned - done) / done) if done else 0
    return (
        f"{done}/{planned} clips, {frames / max(seconds, 1e-9):.0f} frames/s, "
        f"ETA {remaining // 60}:{remaining % 60:02d}, {rejected} rejected"
    )


def _summary(table: Table, clips: pa.Table, planned: int) -> dict:
    wanted = set(clips.column("clip_id").to_pylist())
    rows = table.read(columns=["clip_id", "status", "error_code"]).to_pylist()
    codes = Counter(row["error_code"] for row in rows if row["clip_id"] in wanted and row["error_code"])
    return {
        "table": f"poses/{table.path.name}",
        "version": table.version(),
        "clips": len(wanted),
        "computed": planned,
        "already_done": len(wanted) - planned,
        "ok": len(wanted) - sum(codes.values()),
        "rejected": sum(codes.values()),
        "by_code": dict(codes.most_common()),
    }


def _dry_run(clips: pa.Table, todo: pa.Table, work: Work, config: ExtractConfig) -> dict:
    """What would be done, and from a probe of some clips what it would take."""
    from cluster.connect import connect

    result = {
        "table": f"{work.family}/{spec_key(work.spec)}",
        "clips": clips.num_rows,
        "would_compute": todo.num_rows,
        "already_done": clips.num_rows - todo.num_rows,
        "cores": os.cpu_count(),
        "spec": work.spec,
    }
    if todo.num_rows == 0:
        return result
    sample = choose_probe(todo, _known_sizes(todo))
    with connect():
        usual = _sizes(config)
        cost, _ = _stream(
            sample, work, replace(usual, decode=1, network=1), config, None, progress=lambda line: None
        )
        sizes = _chosen(config, best_sizes(usual.cpus, usual.gpus, cost))
    return result | {"probed": sample.num_rows} | forecast(todo.num_rows, sizes, cost).as_dict()


def _forecast_line(figures: dict) -> str:
    low, high = figures["hours_95"]
    return (
        f"forecast: {figures['hours']:.2f} h ({low:.2f} to {high:.2f}), "
        f"{figures['core_hours']:.2f} core-hours, {figures['gpu_hours']:.2f} GPU-hours, "
        f"{figures['disk_mb']:.0f} MB, {figures['decode_workers']} decoders, "
        f"{figures['network_workers']} networks"
    )


def _refuse_too_many_rejects(result: dict, config: ExtractConfig, store: Path) -> None:
    if result["clips"] and result["rejected"] / result["clips"] > config.max_reject_share:
        codes = ", ".join(f"{code} {count}" for code, count in list(result["by_code"].items())[:3])
        raise DataError(
            store,
            f"{result['rejected']} of {result['clips']} clips were rejected ({codes}), "
            f"more than the share of {config.max_reject_share} allowed",
            f"See why with `aqa store inspect {store}`; raise --max-reject-share to accept it",
        )
