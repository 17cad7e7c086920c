"""The store keeps what was committed, whole and once, or says what is wrong."""

from __future__ import annotations

import json
import multiprocessing
import resource
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import audit
from pipelines import store as stores
from pipelines.errors import CorruptError, DataError, StorageError, WriterError
from pipelines.schema import CLIPS, FEATURES, PEOPLE, POSES, SCHEMA_VERSION, empty_row

SPEC = {"kind": "poses", "network": "test"}


def clip(name: str, **values: object) -> dict:
    return empty_row(CLIPS, clip_id=name, uri=f"{name}.mp4", **values)


def pose(name: str, frames: int = 3) -> dict:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return empty_row(
        POSES,
        clip_id=name,
        person=0,
        status="ok",
        attempts=1,
        num_frames=frames,
        num_joints=2,
        num_coordinates=2,
        frame_index=list(range(frames)),
        time_s=[frame / 25 for frame in range(frames)],
        keypoints=rng.normal(size=frames * 4).astype(np.float32),
        confidence=np.ones(frames * 2, np.float32),
    )


def poses(*names: str) -> pa.Table:
    return pa.Table.from_pylist([pose(name) for name in names], schema=POSES)


@pytest.fixture
def store(tmp_path: Path) -> stores.Store:
    return stores.open_store(tmp_path / "store", create=True)


def committed(table: stores.Table) -> list[str]:
    return sorted(table.read(columns=["clip_id"]).column("clip_id").to_pylist())


def test_clips_are_added_changed_and_left_alone(store):
    first = pa.Table.from_pylist([clip("a", score=1.5), clip("b", judge_scores=[7.0, 7.5])], schema=CLIPS)
    assert store.put_clips(first) == (2, 0)
    version = store.clips.version()
    assert store.put_clips(first) == (0, 0)
    assert store.clips.version() == version, "nothing changed, so nothing is committed"
    assert store.put_clips(pa.Table.from_pylist([clip("a", score=2.0)], schema=CLIPS)) == (0, 1)
    rows = {row["clip_id"]: row for row in store.clips.read().to_pylist()}
    assert rows["a"]["score"] == 2.0
    assert rows["b"]["judge_scores"] == [7.0, 7.5]


def test_a_file_is_invisible_until_committed_and_committed_once(store):
    table = store.create_poses(SPEC)
    with table.writer() as writer:
        facts = table.write_file(poses("a", "b"))
        assert committed(table) == []
        assert writer.commit([facts]) == 2
        assert writer.commit([facts]) == 0, "a retried worker reports the same clips again"
        assert writer.commit([table.write_file(poses("b", "c"))]) == 0, "b is there already"
    assert committed(table) == ["a", "b"]
    with table.writer() as writer:
        assert writer.commit([table.write_file(poses("c"))]) == 1, "a new writer knows what is committed"
    assert committed(table) == ["a", "b", "c"]


def test_tensors_come_back_equal_in_four_readers(store):
    import duckdb
    import pandas as pd
    import polars

    table = store.create_poses(SPEC)
    expected = pose("a")["keypoints"]
    with table.writer() as writer:
        writer.commit([table.write_file(poses("a"))])
    path = str(table.path / table.file_names()[0])
    found = [
        np.asarray(table.read().column("keypoints")[0].as_py(), np.float32),
        np.asarray(pd.read_parquet(path)["keypoints"][0], np.float32),
        np.asarray(polars.read_parquet(path)["keypoints"][0].to_list(), np.float32),
        np.asarray(duckdb.sql(f"select keypoints from '{path}'").fetchall()[0][0], np.float32),
    ]
    for values in found:
        np.testing.assert_array_equal(values, expected)


def test_an_old_version_stays_readable(store):
    table = store.create_poses(SPEC)
    with table.writer() as writer:
        writer.commit([table.write_file(poses("a"))])
        version = table.version()
        writer.commit([table.write_file(poses("b"))])
        writer.remove({"a"})
        assert committed(table) == ["b"]
    assert table.read(version, ["clip_id"]).column("clip_id").to_pylist() == ["a"]


def test_same_specification_same_key(store):
    assert stores.spec_key({"a": 1, "b": 2}) == stores.spec_key({"b": 2, "a": 1})
    assert stores.spec_key({"a": 1}) != stores.spec_key({"a": 2})
    table = store.create_poses(SPEC)
    assert store.create_poses(SPEC).path == table.path
    assert store.pose_keys() == [table.path.name]
    assert store.spec(table.path.name) == SPEC


def test_tables_of_every_family_have_their_schema_and_their_spec(store):
    assert store.families() == []
    for family, schema in (("poses", POSES), ("people", PEOPLE), ("features/i3d", FEATURES)):
        spec = {"kind": family, "network": "test"}
        table = store.create(family, spec)
        key = table.path.name
        assert table.path == store.path / family / key
        assert (table.schema, store.keys(family), store.spec(key, family)) == (schema, [key], spec)
    assert store.families() == ["poses", "people", "features/i3d"]


def test_a_store_of_an_older_version_is_read_and_refused_by_it_once_written(store):
    store.put_clips(pa.Table.from_pylist([clip("a")], schema=CLIPS))
    marker = store.path / "store.json"
    marker.write_text(json.dumps({"format": "aqa-store", "version": 1}))
    older = stores.open_store(store.path)
    assert committed(older.clips) == ["a"]
    assert json.loads(marker.read_text())["version"] == 1, "reading changes nothing"
    older.put_clips(pa.Table.from_pylist([clip("a", score=1.0)], schema=CLIPS))
    assert json.loads(marker.read_text())["version"] == SCHEMA_VERSION


def test_clips_keep_their_order_and_the_last_of_two_counts(store):
    def names() -> list[str]:
        return store.clips.read()["clip_id"].to_pylist()

    store.put_clips(pa.Table.from_pylist([clip("c"), clip("a"), clip("b")], schema=CLIPS))
    given = [clip("d", score=1.0), clip("a", score=1.0), clip("d", score=2.0), clip("b")]
    assert store.put_clips(pa.Table.from_pylist(given, schema=CLIPS)) == (1, 1)
    assert names() == ["c", "a", "b", "d"]
    assert store.clips.read()["score"].to_pylist() == [None, 1.0, None, 2.0]
    store.drop_clips({"a"})
    assert names() == ["c", "b", "d"]
    assert store.put_clips(CLIPS.empty_table()) == (0, 0)


def test_a_specification_is_written_whole_and_once(store):
    table = store.create_poses(SPEC)
    path = store.path / "poses" / f"{table.path.name}.spec.json"
    written = path.stat().st_mtime_ns
    store.create_poses(SPEC)
    assert path.stat().st_mtime_ns == written
    assert [entry.name for entry in path.parent.iterdir() if "spec" in entry.name] == [path.name]


def _hold_the_lock(path: Path, ready, leave) -> None:
    with stores.open_store(path).create_poses(SPEC).writer():
        ready.set()
        leave.wait(30)


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(store):
    table = store.create_poses(SPEC)
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold_the_lock, args=(store.path, ready, leave))
    other.start()
    assert ready.wait(60)
    with pytest.raises(WriterError, match="another process is writing this table. Wait"), table.writer():
        pass
    other.kill()
    other.join()
    with table.writer():
        pass


@pytest.mark.parametrize("position", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_found(store, position):
    table = store.create_poses(SPEC)
    with table.writer() as writer:
        writer.commit([table.write_file(poses("a", "b", "c"))])
    path = table.path / table.file_names()[0]
    data = bytearray(path.read_bytes())
    data[int(len(data) * position)] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=f"{path.name}: the bytes do not match the recorded sha256"):
        audit.verify(store.path)


def test_a_missing_file_is_named(store):
    table = store.create_poses(SPEC)
    with table.writer() as writer:
        writer.commit([table.write_file(poses("a"))])
    path = table.path / table.file_names()[0]
    path.unlink()
    with pytest.raises(CorruptError, match=f"{path.name}: the file is missing"):
        table.read()
    with pytest.raises(CorruptError, match=f"1 faults, first: .*{path.name}: the file is missing"):
        audit.verify(store.path)


def test_verify_counts_coverage_and_orphans(store):
    store.put_clips(pa.Table.from_pylist([clip("a"), clip("b")], schema=CLIPS))
    table = store.create_poses(SPEC)
    with table.writer() as writer:
        writer.commit([table.write_file(poses("a"))])
        table.write_file(poses("b"))  # a killed driver never committed this
    result = audit.verify(store.path)
    assert result == {"files": 2, "faults": 0, "clips": 2, "clips_without_poses": 1, "orphan_files": 1}


def test_a_snapshot_needs_one_pose_table_or_its_key(store):
    with pytest.raises(DataError, match="the store holds no poses. Run `aqa extract`"):
        stores.snapshot(store.path)
    first = store.create_poses(SPEC)
    with first.writer() as writer:
        writer.commit([first.write_file(poses("a"))])
    _, rows, provenance = stores.snapshot(store.path)
    assert rows.num_rows == 1
    assert provenance["poses_key"] == first.path.name
    assert first.read(provenance["poses_version"]).equals(rows)
    second = store.create_poses({"kind": "poses", "network": "other"})
    with pytest.raises(
        DataError, match=f"{first.path.name}, {second.path.name}. Choose one with --poses KEY"
    ):
        stores.snapshot(store.path)
    assert stores.snapshot(store.path, second.path.name)[1].num_rows == 0


def features(*names: str) -> pa.Table:
    rows = [
        empty_row(FEATURES, clip_id=name, person=0, status="ok", attempts=1, features=[1.0]) for name in names
    ]
    return pa.Table.from_pylist(rows, schema=FEATURES)


def test_a_snapshot_of_several_families_records_each_key_and_version(store):
    store.put_clips(pa.Table.from_pylist([clip("a")], schema=CLIPS))
    tables = {"poses": poses("a"), "features/i3d": features("a"), "features/static": features("a", "b")}
    keys = {}
    for family, rows in tables.items():
        table = store.create(family, {"kind": family})
        keys[family] = table.path.name
        with table.writer() as writer:
            writer.commit([table.write_file(rows)])
    clips, found, provenance = stores.snapshot_of(store.path, {"features/static": "", "features/i3d": ""})
    assert clips["clip_id"].to_pylist() == ["a"]
    assert {family: len(table) for family, table in found.items()} == {
        "features/static": 2,
        "features/i3d": 1,
    }
    assert (provenance["static_key"], provenance["i3d_key"]) == (
        keys["features/static"],
        keys["features/i3d"],
    )
    assert provenance["static_version"] == store.table("features/static", keys["features/static"]).version()
    assert "poses_key" not in provenance
    assert stores.snapshot_of(store.path, dict.fromkeys(tables, ""))[2]["poses_key"] == keys["poses"]


def test_a_snapshot_without_a_family_or_with_several_keys_says_what_to_do(store):
    with pytest.raises(
        DataError, match="the store holds no features/i3d. Run `aqa extract --kind i3d` first"
    ):
        stores.snapshot_of(store.path, {"features/i3d": ""})
    flags = {"features/i3d": "--dynamic", "features/static": "--static"}
    for kind, flag in (("i3d", "dynamic"), ("static", "static")):
        family = f"features/{kind}"
        keys = [store.create(family, {"kind": kind, "n": n}).path.name for n in (1, 2)]
        with pytest.raises(
            DataError, match=f"it holds the {family} tables .*{keys[0]}.*Choose one with --{flag} KEY"
        ):
            stores.snapshot_of(store.path, {family: ""}, flags)
        with pytest.raises(DataError, match=f"Choose one with --{flag} KEY"):
            stores.snapshot_of(store.path, {family: "nobody"}, flags)
        with pytest.raises(DataError, match="Name the store that the run was trained on"):
            stores.snapshot_of(store.path, {family: "nobody"})
        assert stores.snapshot_of(store.path, {family: keys[1]})[2][f"{kind}_key"] == keys[1]


def test_a_newer_store_is_refused(store):
    (store.path / "store.json").write_text(json.dumps({"format": "aqa-store", "version": 99}))
    with pytest.raises(
        StorageError, match=f"version 99, this program reads up to {SCHEMA_VERSION}. Install a newer aqa"
    ):
        stores.open_store(store.path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": "other", "version": 1}'])
def test_a_foreign_marker_is_refused(store, content):
    (store.path / "store.json").write_text(content)
    with pytest.raises(CorruptError, match="no marker of a feature store"):
        stores.open_store(store.path)


def test_no_store_and_foreign_folder(tmp_path):
    with pytest.raises(StorageError, match="there is no store here"):
        stores.open_store(tmp_path)
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(StorageError, match="the folder holds other files"):
        stores.open_store(tmp_path, create=True)


def test_a_damaged_log_is_named(store):
    table = store.create_poses(SPEC)
    for path in (table.path / "_delta_log").glob("*.json"):
        path.write_text("not json")
    with pytest.raises(CorruptError, match="the transaction log cannot be read"):
        table.read()


def _write_with_file_limit(table: stores.Table, limit: int, result) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        table.write_file(poses(*[f"clip{i}" for i in range(50)]))
        result.put("written")
    except StorageError as error:
        result.put(str(error))


def test_a_file_size_limit_is_a_storage_error_and_leaves_nothing(store):
    table = store.create_poses(SPEC)
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    child = context.Process(target=_write_with_file_limit, args=(table, 2000, result))
    child.start()
    assert "File too large" in result.get(timeout=60)
    child.join()
    assert table.orphans() == []
    assert committed(table) == []


def test_a_full_disk_is_a_storage_error_and_the_rest_follows_after_making_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        table = stores.open_store(disk / "store", create=True).create_poses(SPEC)
        (disk / "ballast").write_bytes(b"x" * 60_000)
        with table.writer() as writer:
            with pytest.raises(StorageError, match="No space left on device .* MB free.*Free space"):
                for number in range(400):
                    writer.commit([table.write_file(poses(*[f"c{number}_{i}" for i in range(10)]))])
            before = committed(table)
        (disk / "ballast").unlink()
        with table.writer() as writer:
            assert writer.commit([table.write_file(poses("last"))]) == 1
        assert committed(table) == sorted([*before, "last"])
    finally:
        subprocess.run(["umount", str(disk)], check=False)
