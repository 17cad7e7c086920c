"""Extract: clips -> decode -> network -> feature store, on Ray Data.

The driver plans what is not yet in the store, streams it through the stages and commits what comes back.
Killed anywhere, the same command does the rest and nothing twice.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.collect import Collector
from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError, DataError
from pipelines.kinds import Work, find_people_work, find_work_of, give_boxes
from pipelines.plan import PEOPLE_COLUMNS, Plan, find_work
from pipelines.pools import (
    PROBE_CLIPS,
    Sizes,
    best_sizes,
    bottleneck,
    choose_probe,
    forecast,
    usual_sizes,
)
from pipelines.store import Store, open_store, spec_key
from pipelines.stream import Progress, stream
from pipelines.table import Table, Writer


def extract(
    source: Path | pa.Table | None,
    store_path: Path,
    config: ExtractConfig,
    *,
    dry_run: bool = False,
    retry_rejected: bool = False,
    progress: Progress = lambda line: None,
) -> dict:
    """Extract poses or appearance features of clips and keep them in the store.

    Args:
        source: manifest (CSV or Parquet), or rows of CLIPS, added to the store first; None = the clips there.
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

    given = read_manifest(source) if isinstance(source, Path) else source
    detection = find_people_work(config)
    key = spec_key(detection.spec) if detection else ""
    work = find_work_of(config, people_key=key)
    fresh = not (store_path / "store.json").is_file()
    store = Store(store_path) if dry_run and fresh and given is not None else open_store(
        store_path, create=given is not None and not dry_run
    )  # fmt: skip
    clips = clips_to_decode(store) if given is None else given
    if dry_run:
        if detection is None:
            return _dry_run(clips, work, store, config, retry_rejected)
        people = store.table("people", key)
        found = {"people": _dry_run(clips, detection, store, config, retry_rejected)}
        return found | _dry_run(clips, work, store, config, retry_rejected, people)
    if given is not None:
        store.put_clips(given)
    found, people = {}, None
    if detection is not None:
        found = {"people": _extract(clips, detection, store, config, retry_rejected, progress)}
        people = store.table("people", key)
    result = found | _extract(clips, work, store, config, retry_rejected, progress, people)
    _refuse_too_many_rejects(result, config, store_path)
    return result


def _extract(
    clips: pa.Table,
    work: Work,
    store: Store,
    config: ExtractConfig,
    retry_rejected: bool,
    progress: Progress,
    people: Table | None = None,
) -> dict:
    """One pass over the clips: plan, run, commit, and say what was done."""
    table = store.create(work.family, work.spec)
    found = None if people is None else people.read(columns=PEOPLE_COLUMNS)
    with table.writer() as writer:
        plan = find_work(clips, table, retry_rejected=retry_rejected, people=found, progress=progress)
        writer.replace(plan.outdated | plan.replaced, plan.adopted)
        store.drop_clips(plan.replaced)
        report = _run(plan.todo, work, table, writer, config, progress, people) if plan.todo.num_rows else {}
    summary = _summary(work, table, clips, plan)
    if report:
        told = {"time_s": round(time.time(), 1), "version": summary["version"], "clips": plan.todo.num_rows}
        store.note_extraction(work.family, table.path.name, told | report)
    return summary | report


def explain(store_path: Path, clip_id: str, config: ExtractConfig) -> dict:
    """What the store holds of a clip, and what these settings would do with it; see `pipelines.why`."""
    from pipelines.why import why

    detection = find_people_work(config)
    key = spec_key(detection.spec) if detection else ""
    work = find_work_of(config, people_key=key)
    wanted = {detection.family: detection.spec} if detection else {}
    return why(store_path, clip_id, wanted | {work.family: work.spec})


def clips_to_decode(store: Store) -> pa.Table:
    """All clips of the store but those whose keypoints were imported."""
    clips = store.clips.read()
    for key in store.pose_keys():
        if store.spec(key).get("stage") == "import":
            imported = store.poses(key).read(columns=["clip_id"]).column("clip_id")
            clips = clips.filter(pc.invert(pc.is_in(clips.column("clip_id"), imported.combine_chunks())))
    return clips


def _run(
    planned: pa.Table,
    work: Work,
    table: Table,
    writer: Writer,
    config: ExtractConfig,
    progress: Progress,
    people: Table | None = None,
) -> dict:
    """Stream the plan through Ray Data and commit what comes back."""
    from cluster.connect import connect, spilled_bytes

    expected_people = {}
    if people is not None:
        todo = set(planned.column("clip_id").to_pylist())
        boxed = give_boxes(planned, work, people.read(clip_ids=todo))
        planned, work, expected_people = boxed.clips, boxed.work, boxed.several
        if boxed.nobody.num_rows:
            writer.commit([table.write_file(boxed.nobody)])
        if not planned.num_rows:
            return {}
    collector = Collector(table, writer, work.finish, expected_people)
    with connect():
        sizes, expected = _sizes(config), None
        _check_precision(config, sizes)
        if config.auto and planned.num_rows > 5 * PROBE_CLIPS:
            sample = choose_probe(planned, _known_sizes(planned))
            cost, _ = stream(sample, work, replace(sizes, decode=1, network=1), config, collector, progress)
            collector.commit()
            done = pc.is_in(planned.column("clip_id"), sample.column("clip_id").combine_chunks())
            planned = planned.filter(pc.invert(done))
            sizes = _chosen(config, best_sizes(sizes.cpus, sizes.gpus, cost))
            expected = forecast(planned.num_rows, sizes, cost)
            progress(_forecast_line(expected.as_dict()))
        started = time.monotonic()
        try:
            cost, steady_s = stream(planned, work, sizes, config, collector, progress)
        except KeyboardInterrupt:  # Ctrl-C or SIGTERM: up to a minute of finished clips waits for its commit
            collector.commit()
            raise
        seconds = time.monotonic() - started
        collector.commit()
        spilled = spilled_bytes()
    report = {
        "frames": collector.counts["frames"],
        "seconds": round(seconds, 2),
        "decode_s": round(cost.decode_s, 2),
        "network_s": round(cost.network_s, 2),
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


def _sizes(config: ExtractConfig) -> Sizes:
    """Workers for the connected cluster: as configured, else as usual."""
    import ray

    resources = ray.cluster_resources()
    return _chosen(config, usual_sizes(int(resources.get("CPU", 1)), int(resources.get("GPU", 0))))


def _check_precision(config: ExtractConfig, sizes: Sizes) -> None:
    """Refuse what the workers would refuse one by one, and Ray would wrap."""
    if config.precision == "fp16" and not sizes.gpus:
        raise ConfigError(
            "extract.precision", "fp16 needs a GPU, and there is none", "Choose bf16, fp32 or auto"
        )


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


def _summary(work: Work, table: Table, clips: pa.Table, plan: Plan) -> dict:
    rows = table.read(columns=["clip_id", "error_code"])
    mine = rows.filter(pc.is_in(rows.column("clip_id"), clips.column("clip_id").combine_chunks()))
    codes = Counter(code for code in mine.column("error_code").drop_null().to_pylist())
    return {
        "table": f"{work.family}/{table.path.name}",
        "version": table.version(),
        "clips": clips.num_rows,
        "computed": plan.todo.num_rows,
        "because": plan.reasons,
        "already_done": plan.already_done,
        "moved_or_renamed": plan.adopted.num_rows,
        "ok": clips.num_rows - codes.total(),
        "rejected": codes.total(),
        "by_code": dict(codes.most_common()),
    }


def _dry_run(
    clips: pa.Table,
    work: Work,
    store: Store,
    config: ExtractConfig,
    retry_rejected: bool,
    people: Table | None = None,
) -> dict:
    """What would be done, and from a probe of some clips what it would take.

    Poses whose people are not found yet are probed in whole frames.
    """
    from cluster.connect import connect

    table = store.table(work.family, spec_key(work.spec))
    found = people.read(columns=PEOPLE_COLUMNS) if people is not None and people.exists() else None
    plan = find_work(clips, table, retry_rejected=retry_rejected, people=found)
    result = {
        "table": f"{work.family}/{table.path.name}",
        "clips": clips.num_rows,
        "would_compute": plan.todo.num_rows,
        "because": plan.reasons,
        "already_done": plan.already_done,
    }
    if plan.todo.num_rows == 0:
        return result | {"spec": work.spec}
    sample = choose_probe(plan.todo, _known_sizes(plan.todo))
    with connect():
        usual = _sizes(config)
        _check_precision(config, usual)
        probing = replace(usual, decode=1, network=1)
        cost, _ = stream(sample, work, probing, config, None, progress=lambda line: None)
        sizes = _chosen(config, best_sizes(usual.cpus, usual.gpus, cost))
    probed = {"probed_clips": sample.num_rows, "cores": sizes.cpus, "gpus": sizes.gpus}
    figures = forecast(plan.todo.num_rows, sizes, cost).as_dict()
    return result | probed | figures | {"spec": work.spec}


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
