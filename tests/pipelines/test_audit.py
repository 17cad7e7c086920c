"""What a store says of itself, and what may be thrown away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import audit
from pipelines import store as stores
from pipelines.errors import CorruptError, WriterError
from pipelines.schema import CLIPS, FEATURES, POSES, empty_row


def rows(schema: pa.Schema, *names: str, **values: object) -> pa.Table:
    base = {"person": 0, "status": "ok", "attempts": 1} | values
    return pa.Table.from_pylist([empty_row(schema, clip_id=name, **base) for name in names], schema=schema)


def commit(table: stores.Table, *files: pa.Table) -> None:
    with table.writer() as writer:
        for file in files:
            writer.commit([table.write_file(file)])


@pytest.fixture
def store(tmp_path: Path) -> stores.Store:
    """Three clips; poses of two, one of them rejected; features of one."""
    store = stores.open_store(tmp_path / "store", create=True)
    clips = [empty_row(CLIPS, clip_id=name, uri=f"{name}.mp4") for name in "abc"]
    store.put_clips(pa.Table.from_pylist(clips, schema=CLIPS))
    commit(
        store.create("poses", {"network": "small"}),
        rows(POSES, "a"),
        rows(POSES, "b", status="rejected", error_code="empty", error_message="zero bytes"),
    )
    commit(store.create("features/i3d", {"network": "i3d"}), rows(FEATURES, "a"))
    return store


def age(path: Path, hours: float) -> Path:
    then = time.time() - hours * 3600
    os.utime(path, (then, then))
    return path


def test_inspect_counts_every_table(store):
    clips, poses, features = audit.inspect(store.path)
    assert (clips["table"], clips["ok"], clips["rejected"]) == ("clips", 3, 0)
    assert (poses["ok"], poses["rejected"], poses["by_code"], poses["files"]) == (1, 1, {"empty": 1}, 2)
    assert poses["spec"] == {"network": "small"}
    assert features["table"].startswith("features/i3d/")
    lines = audit.inspect_lines([clips, poses, features])
    assert any("1 empty" in line and "zero bytes" in line for line in lines)


def test_verify_reads_the_files_of_every_family(store):
    result = audit.verify(store.path)
    assert result == {"files": 4, "faults": 0, "clips": 3, "clips_without_poses": 1, "orphan_files": 0}
    (features,) = (store.path / "features").rglob("part-*.parquet")
    features.write_bytes(features.read_bytes() + b"x")
    with pytest.raises(CorruptError, match=f"{features.name}: the bytes do not match"):
        audit.verify(store.path)


def test_vacuum_removes_old_orphans_alone(store):
    table = store.table("poses", store.pose_keys()[0])
    old = age(table.path / table.write_file(rows(POSES, "x")).name, 30)
    attempt = age(_touch(table.path / ".attempt-1"), 30)
    young = table.path / table.write_file(rows(POSES, "y")).name
    size = old.stat().st_size
    for name in table.file_names():
        age(table.path / name, 1000)
    assert audit.vacuum(store.path, dry_run=True)["files"] == 2
    assert old.exists()
    assert audit.vacuum(store.path) == {"files": 2, "bytes": size, "tables": 3, "dry_run": False}
    assert (old.exists(), attempt.exists(), young.exists()) == (False, False, True)
    assert audit.vacuum(store.path, older_than_h=0)["files"] == 1
    audit.verify(store.path)


def _touch(path: Path) -> Path:
    path.touch()
    return path


def test_vacuum_keeps_what_an_old_snapshot_names_unless_told(store):
    table = store.table("poses", store.pose_keys()[0])
    pinned = table.version()
    with table.writer() as writer:
        writer.remove({"a"})
    assert audit.vacuum(store.path, older_than_h=0)["files"] == 0
    assert sorted(table.read(pinned)["clip_id"].to_pylist()) == ["a", "b"]
    assert audit.vacuum(store.path, older_than_h=0, keep_versions=2)["files"] == 0
    assert audit.vacuum(store.path, older_than_h=0, keep_versions=1)["files"] == 1
    assert table.read()["clip_id"].to_pylist() == ["b"]
    with pytest.raises(CorruptError, match="the file is missing"):
        table.read(pinned)


def test_vacuum_waits_for_the_writer(store):
    table = store.table("poses", store.pose_keys()[0])
    with table.writer():
        orphan = table.path / table.write_file(rows(POSES, "x")).name
        with pytest.raises(WriterError, match="another process is writing this table"):
            audit.vacuum(store.path, older_than_h=0)
    assert orphan.exists()
