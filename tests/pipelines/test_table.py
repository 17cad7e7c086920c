"""A table at scale: what is rewritten, what stays for old snapshots, what older versions wrote."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import store as stores
from pipelines.schema import POSES, empty_row
from pipelines.table import Table, Writer

KEYS = pa.schema(
    [field for field in POSES if field.name in ("clip_id", "person", "uri", "status", "attempts")]
)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return stores.open_store(tmp_path / "store", create=True).create("poses", {"kind": "poses"})


def rows(*names: str, people: int = 1) -> pa.Table:
    return pa.Table.from_pylist(
        [
            empty_row(POSES, clip_id=name, person=person, status="ok", attempts=1, uri=f"{name}.mp4")
            for name in names
            for person in range(people)
        ],
        schema=POSES,
    )


def commit(writer: Writer, *files: pa.Table) -> None:
    writer.commit([writer.table.write_file(file) for file in files])


def content(table: Table, version: int | None = None) -> list[tuple]:
    found = table.read(version, ["clip_id", "person", "uri"])
    return sorted(tuple(row.values()) for row in found.to_pylist())


def test_removing_rewrites_only_the_files_that_hold_the_rows(table):
    with table.writer() as writer:
        commit(writer, rows("a", "b"), rows("c"), rows("d", "e"))
        before, version = set(table.file_names()), table.version()
        writer.remove({"b", "c", "nobody"})
    after = set(table.file_names())
    assert table.version() == version + 1, "one transaction"
    assert len(before & after) == 1, "the file of d and e"
    assert len(after) == 2
    assert [row[0] for row in content(table)] == ["a", "d", "e"]
    assert [row[0] for row in content(table, version)] == ["a", "b", "c", "d", "e"]
    assert table.verify() == []


def test_removed_clips_can_be_committed_again_even_with_the_same_bytes(table):
    with table.writer() as writer:
        commit(writer, rows("a"))
        writer.remove({"a"})
        assert content(table) == []
        commit(writer, rows("a"))
    assert content(table) == [("a", 0, "a.mp4")]
    assert table.verify() == []


def test_removing_nothing_commits_nothing(table):
    with table.writer() as writer:
        commit(writer, rows("a"))
        version = table.version()
        writer.remove({"z"})
        writer.remove(set())
    assert table.version() == version


def adopted(*changes: tuple[str, str, str]) -> pa.Table:
    names = ["old_clip_id", "clip_id", "uri"]
    return pa.Table.from_pylist([dict(zip(names, change, strict=True)) for change in changes])


def test_adopted_rows_change_their_name_in_one_transaction(table):
    with table.writer() as writer:
        commit(writer, rows("a", "b", people=2), rows("c"))
        version = table.version()
        writer.replace({"a"}, adopted(("a", "x", "x.mp4"), ("c", "y", "y.mp4"), ("c", "z", "z.mp4")))
        assert table.version() == version + 1
        assert writer.committed == {"b", "c", "x", "y", "z"}
        assert writer.commit([table.write_file(rows("x"))]) == 0
    assert content(table) == [
        ("b", 0, "b.mp4"),
        ("b", 1, "b.mp4"),
        ("c", 0, "c.mp4"),
        ("x", 0, "x.mp4"),
        ("x", 1, "x.mp4"),
        ("y", 0, "y.mp4"),
        ("z", 0, "z.mp4"),
    ]
    assert table.verify() == []


def test_adopting_over_an_existing_row_replaces_it(table):
    with table.writer() as writer:
        commit(writer, rows("a"), rows("b"))
        writer.replace(set(), adopted(("a", "b", "new.mp4"), ("b", "a", "old.mp4")))
    assert content(table) == [("a", 0, "old.mp4"), ("b", 0, "new.mp4")]


def test_adopting_what_is_so_already_changes_nothing(table):
    with table.writer() as writer:
        commit(writer, rows("a"))
        version = table.version()
        writer.replace(set(), adopted(("a", "a", "a.mp4")))
    assert table.version() == version


def test_a_file_kept_by_an_overwrite_is_neither_added_nor_removed(table):
    with table.writer() as writer:
        commit(writer, rows("a"), rows("b"))
        writer.overwrite(rows("a"))
        version = table.version()
        writer.overwrite(rows("a"))
    assert content(table) == [("a", 0, "a.mp4")]
    assert table.version() == version


def test_files_come_oldest_first(table):
    names = [f"clip{number}" for number in range(6)]
    with table.writer() as writer:
        for name in names:
            commit(writer, rows(name))
            time.sleep(0.002)
    assert table.read(columns=["clip_id"])["clip_id"].to_pylist() == names


def test_a_table_of_an_older_version_is_read_and_written(tmp_path):
    old = Table(tmp_path / "table", KEYS)
    with old.writer() as writer:
        commit(writer, rows("a", "b"))
    new = Table(tmp_path / "table", POSES)
    assert new.read().schema.names == POSES.names
    assert new.read(columns=["clip_id", "source_bytes"]).to_pylist()[0] == {
        "clip_id": "a",
        "source_bytes": None,
    }
    with new.writer() as writer:
        commit(writer, rows("c"))
        writer.remove({"a"})
    assert [row[0] for row in content(new)] == ["b", "c"]
    assert new.verify() == []
    columns = [field.name for field in new.delta().schema().fields]
    assert sorted(columns) == sorted(POSES.names), "other Delta readers see the new columns too"
    version = new.version()
    with new.writer():
        pass
    assert new.version() == version, "only once"


def test_the_log_is_never_shortened_and_named_files_are_found_in_checkpoints(table):
    with table.writer() as writer:
        commit(writer, rows("first"))
        first, pinned = table.file_names()[0], table.version()
        for number in range(105):
            writer.overwrite(rows(f"clip{number % 7}"))
    log = table.path / "_delta_log"
    assert list(log.glob("*.checkpoint.parquet")), "opening must not replay every commit"
    assert len(list(log.glob("*.json"))) == table.version() + 1
    assert table.delta().metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
    assert first in table.named_files()
    assert content(table, pinned) == [("first", 0, "first.mp4")]
    assert table.orphans() == []
    for entry in log.glob("*0[0-9].json"):
        entry.unlink()  # as another tool might: the checkpoint still names the files of its version
    assert set(table.file_names()) <= table.named_files()


def test_a_row_that_is_there_twice_is_a_fault(table):
    with table.writer() as writer:
        files = [table.write_file(rows("a", "b")), table.write_file(rows("b", "c"))]
        writer._transact(files, [])
    assert table.verify() == [f"{table.path}: clip b is there 2 times"]


def test_reading_some_clips(table):
    with table.writer() as writer:
        commit(writer, rows("a", "b", people=2), rows("c"))
    found = table.read(columns=["clip_id", "person"], clip_ids={"b", "c", "z"})
    assert sorted(found.to_pylist(), key=lambda row: (row["clip_id"], row["person"])) == [
        {"clip_id": "b", "person": 0},
        {"clip_id": "b", "person": 1},
        {"clip_id": "c", "person": 0},
    ]


def test_the_commit_says_how_many_rows_each_file_has(table):
    with table.writer() as writer:
        commit(writer, rows("a", "b", people=2))
    last = (table.path / "_delta_log" / f"{table.version():020d}.json").read_text().splitlines()
    added = [json.loads(line)["add"] for line in last if "add" in json.loads(line)]
    assert json.loads(added[0]["stats"]) == {"numRecords": 4}
