"""Extract: clips -> decode -> pose -> feature store, on Ray Data.

The driver plans what is not yet in the store, streams it through the stages and commits the files that
workers wrote. Killed anywhere, the same command does the rest and nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.config import ExtractConfig
from pipelines.errors import DataError, StorageError
from pipelines.stages import decode, pose
from pipelines.store import FileFacts, Store, Table, Writer, open_store, spec_key

if TYPE_CHECKING:
    from pipelines.stages.base import Pool

Progress = Callable[[str], None]
SECONDS_BETWEEN_COMMITS = 2.0


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
        config: sampling, network, sizes.
        dry_run: only say what would be done.
        retry_rejected: try rejected clips again.
        progress: receives lines such as "24/48 clips, 210 frames/s, ETA 0:12, 1 rejected".

    Returns:
        Counts, the table's key, seconds and frames per second.

    Raises:
        DataError: more than `config.max_reject_share` of the clips were rejected (all rows are kept).
    """
    from pipelines.datasets.manifest import read_manifest

    given = None if source is None else read_manifest(source)
    model = pose.find_pose_model(config.pose_config, config.weights)
    spec = _spec(config, model)
    if dry_run and given is not None and not (store_path / "store.json").is_file():
        return _forecast(given, given.num_rows, spec)
    store = open_store(store_path, create=given is not None)
    clips = _clips_to_decode(store) if given is None else given
    if dry_run:
        table = store.poses(spec_key(spec))
        todo = _plan(clips, table, retry_rejected)[0] if table.exists() else clips
        return _forecast(clips, todo.num_rows, spec)
    if given is not None:
        store.put_clips(given)
    table = store.create_poses(spec)
    with table.writer() as writer:
        planned, outdated = _plan(clips, table, retry_rejected)
        writer.remove(outdated)
        started = time.monotonic()
        counts = _run(planned, table, writer, config, model, progress) if planned.num_rows else Counter()
        seconds = time.monotonic() - started
    result = _summary(table, clips, planned.num_rows, counts, seconds)
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


def _spec(config: ExtractConfig, model: pose.PoseModel) -> dict:
    """Everything that decides the content of the rows; its hash is the table's key."""
    return {
        "kind": "poses",
        "decoder": "decord, read in order, with PyAV as referee and fallback",
        "decode_version": decode.VERSION,
        "sampling": config.sampling,
        "network": model.name,
        "weights_sha256": model.weights_sha256,
        "input_size": [model.width, model.height],
        "padding": model.padding,
        "skeleton": model.skeleton,
        "precision": config.precision,
        "flip_test": config.flip_test,
        "pose_version": pose.VERSION,
    }


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


def _clip_digest(clip: dict) -> str:
    """Hash of what of the clip row decides its poses: the range and the box, not where the file lies."""
    names = ("start_s", "end_s", "box_x1_px", "box_y1_px", "box_x2_px", "box_y2_px")
    return hashlib.sha256(json.dumps([clip[name] for name in names]).encode()).hexdigest()[:16]


def _run(
    planned: pa.Table,
    table: Table,
    writer: Writer,
    config: ExtractConfig,
    model: pose.PoseModel,
    progress: Progress,
) -> Counter:
    """Stream the plan through Ray Data and commit what comes back."""
    from cluster.connect import connect
    from pipelines.stages.base import run_pools

    counts: Counter = Counter()
    waiting: list[FileFacts] = []
    started = committed_at = time.monotonic()
    with connect():
        pools = _pools(config, model, table)
        # Small blocks keep every decoder busy to the end; large plans need larger ones.
        rows_per_block = max(1, min(config.clips_per_unit, planned.num_rows // 1000))
        for facts in run_pools(planned, pools, rows_per_block):
            if facts["refusal"]:
                writer.commit(waiting)
                raise StorageError(*facts["refusal"])
            waiting.append(_file_facts(facts))
            counts.update(clips=facts["rows"], frames=facts["frames"])
            counts["rejected"] += len(facts["rejected"])
            if time.monotonic() - committed_at > SECONDS_BETWEEN_COMMITS:
                writer.commit(waiting)
                waiting, committed_at = [], time.monotonic()
            progress(_progress_line(counts, planned.num_rows, time.monotonic() - started))
        writer.commit(waiting)
    return counts


def _pools(config: ExtractConfig, model: pose.PoseModel, table: Table) -> list[Pool]:
    """Sizes of the actor pools from what the connected cluster has."""
    import ray

    from pipelines.stages.base import Pool
    from pipelines.stages.crops import DecodeStage
    from pipelines.stages.write import WriteStage

    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    pose_workers = config.pose_workers or gpus or cpus
    decode_workers = config.decode_workers or max(1, cpus // 2)
    share = cpus / (decode_workers + pose_workers)
    decode_stage = DecodeStage(
        sampling=config.sampling,
        width=model.width,
        height=model.height,
        padding=model.padding,
        timeout_s=config.decode_timeout_s,
        memory_mb=config.decode_memory_mb,
    )
    pose_stage = pose.PoseStage(
        model,
        config.frames_per_batch,
        use_gpu=gpus > 0,
        precision=pose.resolve_precision(config.precision, gpus > 0),
        flip_test=config.flip_test,
        compile=config.compile,
    )
    gpu_share = min(1.0, gpus / pose_workers) if gpus else 0.0
    return [
        Pool((decode_stage,), decode_workers, 1, cpus=min(1.0, share)),
        Pool(
            (pose_stage, WriteStage(table)), pose_workers, config.clips_per_unit, min(1.0, share), gpu_share
        ),
    ]


def _file_facts(row: dict) -> FileFacts:
    return FileFacts(row["name"], row["sha256"], row["size"], row["rows"], tuple(row["clip_ids"]))


def _progress_line(counts: Counter, planned: int, seconds: float) -> str:
    done = counts["clips"]
    remaining = math.ceil(seconds * (planned - done) / done) if done else 0
    return (
        f"{done}/{planned} clips, {counts['frames'] / max(seconds, 1e-9):.0f} frames/s, "
        f"ETA {remaining // 60}:{remaining % 60:02d}, {counts['rejected']} rejected"
    )


def _summary(table: Table, clips: pa.Table, planned: int, counts: Counter, seconds: float) -> dict:
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
        "frames": counts["frames"],
        "seconds": round(seconds, 2),
        "frames_per_s": round(counts["frames"] / seconds, 1) if planned else 0.0,
    }


def _forecast(clips: pa.Table, todo: int, spec: dict) -> dict:
    return {
        "table": f"poses/{spec_key(spec)}",
        "clips": clips.num_rows,
        "would_compute": todo,
        "already_done": clips.num_rows - todo,
        "cores": os.cpu_count(),
        "spec": spec,
    }


def _refuse_too_many_rejects(result: dict, config: ExtractConfig, store: Path) -> None:
    if result["clips"] and result["rejected"] / result["clips"] > config.max_reject_share:
        codes = ", ".join(f"{code} {count}" for code, count in list(result["by_code"].items())[:3])
        raise DataError(
            store,
            f"{result['rejected']} of {result['clips']} clips were rejected ({codes}), "
            f"more than the share of {config.max_reject_share} allowed",
            f"See why with `aqa store inspect {store}`; raise --max-reject-share to accept it",
        )
