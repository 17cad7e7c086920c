"""What a store holds, and whether it is whole: `aqa store inspect` and `aqa store verify`."""

from __future__ import annotations

from pathlib import Path

from pipelines.errors import REJECT_CODES, CorruptError
from pipelines.store import RESTORE, Table, open_store


def inspect(path: Path) -> list[dict]:
    """One row per table: rows, accepted, rejected by code, files, bytes, version, meaning of its key."""
    store = open_store(path)
    result = [_describe("clips", store.clips, {})]
    for key in store.pose_keys():
        result.append(_describe(f"poses/{key}", store.poses(key), store.spec(key)))
    return result


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
    tables = [store.clips] + [store.poses(key) for key in store.pose_keys()]
    faults = [fault for table in tables for fault in table.verify()]
    if faults:
        raise CorruptError(path, f"{len(faults)} faults, first: {faults[0]}", RESTORE)
    planned = set(store.clips.read(columns=["clip_id"]).column("clip_id").to_pylist())
    done: set[str] = set()
    for table in tables[1:]:
        done.update(table.read(columns=["clip_id"]).column("clip_id").to_pylist())
    return {
        "files": sum(len(table.file_names()) for table in tables),
        "faults": 0,
        "clips": len(planned),
        "clips_without_poses": len(planned - done),
        "orphan_files": sum(len(table.orphans()) for table in tables),
    }


def _describe(name: str, table: Table, spec: dict) -> dict:
    if "status" not in table.schema.names:
        ok, codes = table.read(columns=["clip_id"]).num_rows, {}
    else:
        rows = table.read(columns=["status", "error_code"]).to_pylist()
        ok, codes = sum(row["status"] == "ok" for row in rows), {}
        for row in rows:
            if row["status"] != "ok":
                codes[row["error_code"]] = codes.get(row["error_code"], 0) + 1
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
