"""What a store holds, whether it is whole, and what may go: `aqa store inspect`, `verify` and `vacuum`."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import REJECT_CODES, CorruptError
from pipelines.store import RESTORE, Store, Table, open_store


def inspect(path: Path) -> list[dict]:
    """One row per table: rows, accepted, rejected by code, files, bytes, version, meaning of its key."""
    store = open_store(path)
    return [_describe(name, table, spec) for name, table, spec in _tables(store)]


def inspect_lines(tables: list[dict]) -> list[str]:
    """What `inspect` found, for people."""
    lines = []
    for table in tables:
        counts = f"{table['ok']} rows ok, {table['rejected']} rejected"
        size = f"{table['files']} files, {table['bytes'] / 1e6:.1f} MB, version {table['version']}"
        lines.append(f"{table['table']:20} {counts}; {size}")
        lines += [f"    {count:5} {code:16} {REJECT_CODES[code]}" for code, count in table["by_code"].items()]
        lines += [f"    {name}: {value}" for name, value in table["spec"].items()]
    return lines


def verify(path: Path) -> dict:
    """Check every file's sha256, uniqueness of rows and coverage of the clips table.

    Raises:
        CorruptError: naming the first fault, when there is one.
    """
    store = open_store(path)
    tables = [table for _, table, _ in _tables(store)]
    faults = [fault for table in tables for fault in table.verify()]
    if faults:
        raise CorruptError(path, f"{len(faults)} faults, first: {faults[0]}", RESTORE)
    planned = store.clips.read(columns=["clip_id"])["clip_id"]
    done = [store.poses(key).read(columns=["clip_id"])["clip_id"] for key in store.pose_keys()]
    done = pa.concat_arrays([chunk for ids in done for chunk in ids.chunks]) if done else planned.slice(0, 0)
    return {
        "files": sum(len(table.file_names()) for table in tables),
        "faults": 0,
        "clips": len(planned),
        "clips_without_poses": len(planned) - (pc.sum(pc.is_in(planned, value_set=done)).as_py() or 0),
        "orphan_files": sum(len(table.orphans()) for table in tables),
    }


def vacuum(path: Path, *, dry_run: bool = False, older_than_h: float = 24.0, keep_versions: int = 0) -> dict:
    """Remove files that no snapshot names: those of killed runs and attempts.

    A file that any snapshot in the log names is kept, however old, because a training run may have
    pinned it; `keep_versions` gives that up for all but the newest snapshots of each table.

    Args:
        path: folder of the store.
        dry_run: only count.
        older_than_h: younger files are kept, hours; a run may be writing them.
        keep_versions: newest snapshots of each table that stay readable; 0 = all.

    Returns:
        `files` and `bytes` removed, `tables` looked at.

    Raises:
        WriterError: a process is writing one of the tables; those before it in the list are done.
    """
    count = size = 0
    tables = _tables(open_store(path))
    for _, table, _ in tables:
        with table.lock():
            for file in table.orphans(keep_versions):
                facts = file.stat()
                if time.time() - facts.st_mtime >= older_than_h * 3600:
                    count, size = count + 1, size + facts.st_size
                    if not dry_run:
                        file.unlink()
    return {"files": count, "bytes": size, "tables": len(tables), "dry_run": dry_run}


def _tables(store: Store) -> list[tuple[str, Table, dict]]:
    """Name, table and specification of every table, clips first."""
    keyed = [(family, key) for family in store.families() for key in store.keys(family)]
    return [("clips", store.clips, {})] + [
        (f"{family}/{key}", store.table(family, key), store.spec(key, family)) for family, key in keyed
    ]


def _describe(name: str, table: Table, spec: dict) -> dict:
    if "status" not in table.schema.names:
        ok, codes = table.read(columns=["clip_id"]).num_rows, {}
    else:
        rows = table.read(columns=["status", "error_code"])
        accepted = pc.equal(rows["status"], "ok")
        counts = pc.value_counts(rows["error_code"].filter(pc.invert(accepted)))
        ok = pc.sum(accepted).as_py() or 0
        codes = {entry["values"]: entry["counts"] for entry in counts.to_pylist()}
    files = table.file_names()
    return {
        "table": name,
        "version": table.version(),
        "ok": ok,
        "rejected": sum(codes.values()),
        "by_code": dict(sorted(codes.items())),
        "files": len(files),
        "bytes": sum((table.path / file).stat().st_size for file in files if (table.path / file).is_file()),
        "spec": spec,
    }
