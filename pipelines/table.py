"""One Delta table of the store: Parquet files named by the sha256 of their bytes, and a transaction log.

Files are written under an attempt's own name, flushed and read back before they get their name. The driver
commits under a lock, so a reader sees a unit whole or not at all, and a killed driver
leaves at most a file nobody reads. Taking rows out rewrites only the files that hold them; the old files
stay for the snapshots that name them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import CorruptError, StorageError, WriterError

if TYPE_CHECKING:
    from deltalake import DeltaTable

RESTORE = "Restore it from a copy, or delete the table's folder and run the same command again"
_MAKE_ROOM = "Free space or fix permissions, then run the same command again; committed rows are kept"
_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
# Small enough to read a few rows of a large file, large enough that a million short rows are few groups.
_ROW_GROUP_BYTES = 8 << 20
# Training pins snapshots: the log is never shortened, whatever its age.
_KEEP_LOG = {"delta.enableExpiredLogCleanup": "false"}


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file that was written, and all that a commit needs."""

    name: str
    sha256: str
    size: int
    rows: int
    clip_ids: tuple[str, ...]


class Table:
    """One Delta table of the store.

    Args:
        path: its folder.
        schema: its columns now; columns that older files lack are read as null.
    """

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.schema = path, schema

    def exists(self) -> bool:
        return (self.path / "_delta_log").is_dir()

    def create(self) -> None:
        """Make the empty table; does nothing when it is there."""
        from deltalake import DeltaTable

        if not self.exists():
            with storage_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                DeltaTable.create(self.path, self.schema, mode="ignore", configuration=_KEEP_LOG)

    def version(self) -> int:
        """Number of the newest snapshot."""
        return self.delta().version()

    def read(
        self, version: int | None = None, columns: list[str] | None = None, clip_ids: set[str] | None = None
    ) -> pa.Table:
        """Rows of a snapshot (newest by default), with page checksums verified.

        Raises:
            CorruptError: a file of the snapshot is missing or damaged.
        """
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        names = self.file_names(version)
        if clip_ids is not None:
            return self._read_clips(names, schema, pa.array(sorted(clip_ids), pa.string()))
        return pa.concat_tables([schema.empty_table(), *self.read_files(names, schema)])

    def read_files(self, names: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
        """One table per file, in order; read by one thread per core."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            yield from pool.map(lambda name: self.read_file(name, schema), names)

    def file_names(self, version: int | None = None) -> list[str]:
        """Parquet files of a snapshot, relative to the table, oldest first."""
        actions = self.delta(version).get_add_actions()
        times, paths = actions.column("modification_time").to_pylist(), actions.column("path").to_pylist()
        return [str(path) for _, path in sorted(zip(times, paths, strict=True))]

    def write_file(self, rows: pa.Table) -> FileFacts:
        """Write rows to a file of this table without committing it.

        The bytes are flushed to the disk, read back and compared before the file gets its name.

        Raises:
            StorageError: the disk is full, read-only or gave back other bytes.
        """
        rows = rows.select(self.schema.names).cast(self.schema)
        data = _encode(rows)
        digest = hashlib.sha256(data).hexdigest()
        name = f"part-{digest}.parquet"
        attempt = self.path / f".attempt-{uuid.uuid4().hex}"
        with storage_errors(self.path):
            try:
                write_durably(attempt, data)
                if sha256_of(attempt) != digest:
                    raise StorageError(attempt, "the disk returned other bytes than were written", "Check it")
                os.replace(attempt, self.path / name)
                _flush_folder(self.path)
            finally:
                attempt.unlink(missing_ok=True)
        clip_ids = tuple(rows.column("clip_id").to_pylist())
        return FileFacts(name, digest, len(data), rows.num_rows, clip_ids)

    @contextlib.contextmanager
    def writer(self) -> Iterator[Writer]:
        """The one writer of this table; ends with the process, however it dies.

        Raises:
            WriterError: another process is writing the table.
        """
        self.create()
        with self.lock():
            yield Writer(self)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing or vacuuming; the kernel drops the lock with the process."""
        with storage_errors(self.path):
            lock_file = self.path / ".writer.lock"
            lock_file.touch()
        with lock_file.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WriterError(
                    self.path, "another process is writing this table", "Wait for it to end, then run again"
                ) from None
            yield

    def verify(self) -> list[str]:
        """Check every file of the newest snapshot against its recorded hash; the faults found, in words."""
        faults, keys = [], []
        schema = pa.schema([self.schema.field(n) for n in ("clip_id", "person") if n in self.schema.names])
        for name in self.file_names():
            path = self.path / name
            if not path.is_file():
                faults.append(f"{path}: the file is missing")
            elif f"part-{sha256_of(path)}.parquet" != name:
                faults.append(f"{path}: the bytes do not match the recorded sha256")
            else:
                keys.append(self.read_file(name, schema))
        counts = pa.concat_tables([schema.empty_table(), *keys]).group_by(schema.names)
        counts = counts.aggregate([([], "count_all")])
        twice = counts.filter(pc.greater(counts["count_all"], 1)).to_pylist()
        return faults + [
            f"{self.path}: clip {row['clip_id']} is there {row['count_all']} times" for row in twice
        ]

    def orphans(self, keep_versions: int = 0) -> list[Path]:
        """Files that no snapshot names: left by killed attempts, read by nobody.

        Args:
            keep_versions: number of newest snapshots that count; 0 = all there ever were.
        """
        named = self._recently_named(keep_versions) if keep_versions else self.named_files()
        attempts = list(self.path.glob(".attempt-*"))
        return attempts + [path for path in self.path.glob("part-*.parquet") if path.name not in named]

    def named_files(self) -> set[str]:
        """Files that any snapshot in the log names, the newest as well as those training may have pinned."""
        log, named = self.path / "_delta_log", set()
        for entry in log.glob("*.json"):
            for line in entry.read_text().splitlines():
                if '"add"' in line:
                    named.add(json.loads(line).get("add", {}).get("path"))
        for entry in log.glob("*.checkpoint*.parquet"):
            for batch in pq.ParquetFile(entry).iter_batches(columns=["add.path"]):
                named.update(pc.struct_field(batch.column("add"), "path").to_pylist())
        return named - {None}

    def _recently_named(self, versions: int) -> set[str]:
        newest = self.version()
        oldest = max(0, newest - versions + 1)
        return {name for version in range(oldest, newest + 1) for name in self.file_names(version)}

    def delta(self, version: int | None = None) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            return DeltaTable(self.path, version=version)
        except DeltaError as error:
            raise CorruptError(self.path, f"the transaction log cannot be read ({error})", RESTORE) from error

    def read_file(self, name: str, schema: pa.Schema) -> pa.Table:
        """Columns of one file; those it lacks are null."""
        path = self.path / name
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                present = [column for column in schema.names if column in file.schema_arrow.names]
                rows = file.read(columns=present, use_threads=False)
        except FileNotFoundError:
            raise CorruptError(path, "the file is missing", RESTORE) from None
        except (pa.ArrowException, OSError) as error:
            raise CorruptError(path, f"the file is damaged ({error})", RESTORE) from error
        columns = [
            rows.column(field.name) if field.name in present else pa.nulls(rows.num_rows, field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    def _read_clips(self, names: list[str], schema: pa.Schema, clip_ids: pa.Array) -> pa.Table:
        """Rows of some clips: all files' names of clips are read, but only these clips' other columns."""
        ids = pa.schema([self.schema.field("clip_id")])
        found = [schema.empty_table()]
        for name, rows in zip(names, self.read_files(names, ids), strict=True):
            mask = pc.is_in(rows["clip_id"], value_set=clip_ids)
            if pc.any(mask).as_py():
                found.append(self.read_file(name, schema).filter(mask))
        return pa.concat_tables(found)


_NOTHING_ADOPTED = pa.table({"old_clip_id": pa.array([], pa.string()), "clip_id": pa.array([], pa.string())})


class Writer:
    """Commits files to a table; made by `Table.writer`, which holds the lock."""

    def __init__(self, table: Table):
        self.table = table
        self._delta = table.delta()
        self._add_missing_columns()
        self.committed: set[str] = set(table.read(columns=["clip_id"]).column("clip_id").to_pylist())

    def commit(self, files: Iterable[FileFacts]) -> int:
        """Make the files' rows visible, all at once; a file with a clip already committed is left out.

        Returns:
            Number of rows that became visible.
        """
        added: list[FileFacts] = []
        for facts in files:
            if self.committed.isdisjoint(facts.clip_ids):
                added.append(facts)
                self.committed.update(facts.clip_ids)
        if added:
            self._transact(added, [])
        return sum(facts.rows for facts in added)

    def remove(self, clip_ids: set[str]) -> None:
        """Take the rows of these clips out (they changed, or shall be tried again), in one transaction."""
        self.replace(clip_ids)

    def replace(self, outdated: set[str], adopted: pa.Table = _NOTHING_ADOPTED) -> None:
        """Take rows out and keep others under a new name, in one transaction.

        Only the files that hold such rows are read whole, and one after another. All rows of a clip are in
        one file, because `commit` takes a clip once.

        Args:
            outdated: clips whose rows go.
            adopted: `old_clip_id`, `clip_id`, and columns of the table that get a new value
                (`pipelines.plan.ADOPTED`); a clip is adopted even if it is outdated.
        """
        renewed = set(adopted.column("clip_id").to_pylist())
        gone = pa.array(sorted((outdated | renewed) & self.committed), pa.string())
        taken = pa.array(sorted(set(adopted.column("old_clip_id").to_pylist())), pa.string())
        if not len(gone) and not len(taken):
            return
        add, drop = [], []
        names = self.table.file_names()
        ids_only = pa.schema([self.table.schema.field("clip_id")])
        tables = list(self.table.read_files(names, ids_only))
        ids = pa.concat_tables([ids_only.empty_table(), *tables])["clip_id"].combine_chunks()
        # All files at once: the sets may be as large as the table.
        leaving, giving = pc.is_in(ids, value_set=gone), pc.is_in(ids, value_set=taken)
        adopted = adopted.append_column("at", pc.index_in(adopted["old_clip_id"], value_set=ids))
        adopted = adopted.filter(pc.is_valid(adopted["at"])).sort_by("at")
        starts = np.cumsum([0, *(table.num_rows for table in tables)])
        chosen = np.searchsorted(adopted["at"].to_numpy(), starts)
        adopted = adopted.drop_columns("at")
        for number, name in enumerate(names):
            count = tables[number].num_rows
            leaves = leaving.slice(starts[number], count)
            loses = pc.any(leaves).as_py()
            gives = pc.any(giving.slice(starts[number], count)).as_py()
            if not loses and not gives:
                continue
            facts = None
            if gives or not pc.all(leaves).as_py():
                rows = self.table.read_file(name, self.table.schema)
                kept = rows.filter(pc.invert(leaves)) if loses else rows.slice(0, 0)
                here = adopted.slice(chosen[number], chosen[number + 1] - chosen[number])
                facts = self.table.write_file(pa.concat_tables([kept, _renamed(rows, here)]))
            if facts is not None and facts.name == name:
                continue
            add += [facts] if facts else []
            drop += [name] if loses else []
        self._transact(add, drop)
        self.committed = (self.committed - outdated) | renewed

    def overwrite(self, rows: pa.Table) -> None:
        """Replace the whole content by `rows`, in one transaction."""
        old = self.table.file_names()
        new = [self.table.write_file(rows)] if rows.num_rows else []
        names = {facts.name for facts in new}
        self._transact(
            [facts for facts in new if facts.name not in old], [name for name in old if name not in names]
        )
        self.committed = set(rows.column("clip_id").to_pylist())

    def _transact(self, add: list[FileFacts], drop: list[str]) -> None:
        from deltalake import CommitProperties, PostCommitHookProperties, Transaction
        from deltalake.transaction import AddAction, RemoveAction

        if not add and not drop:
            return
        now_ms = int(time.time() * 1000)
        actions: list = [
            AddAction(facts.name, facts.size, {}, now_ms, True, json.dumps({"numRecords": facts.rows}))
            for facts in add
        ]
        actions += [RemoveAction(name, True, now_ms) for name in drop]
        unit = hashlib.sha256("".join([facts.sha256 for facts in add] + drop).encode()).hexdigest()
        with storage_errors(self.table.path):
            self._delta.create_write_transaction(
                actions,
                mode="append",
                schema=self.table.schema,
                commit_properties=CommitProperties(app_transactions=[Transaction(unit, 1, now_ms)]),
                post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
            )
            self._delta.update_incremental()

    def _add_missing_columns(self) -> None:
        """A table made by an older version gets the columns it lacks; its files stay as they are."""
        from deltalake import Schema

        present = {field.name for field in self._delta.schema().fields}
        missing = [
            field for field in Schema.from_arrow(self.table.schema).fields if field.name not in present
        ]
        if missing:
            with storage_errors(self.table.path):
                self._delta.alter.add_columns(missing)


def _renamed(rows: pa.Table, adopted: pa.Table) -> pa.Table:
    """Copies of the rows that are adopted, each with its new values; every person of a clip."""
    numbers = pa.array(range(rows.num_rows), pa.int64())
    pairs = pa.table({"old_clip_id": rows["clip_id"], "row": numbers}).join(
        adopted, keys="old_clip_id", join_type="inner"
    )
    copies = rows.take(pairs["row"])
    for name in adopted.column_names:
        if name != "old_clip_id":
            copies = copies.set_column(
                rows.schema.get_field_index(name), rows.schema.field(name), pairs[name]
            )
    return copies


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a refusal of the file system into a StorageError that names it and the space left."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except OSError as error:
        if error.errno not in _OUT_OF_SPACE:
            raise
        raise StorageError(path, f"{os.strerror(error.errno)} ({_free(path)})", _MAKE_ROOM) from error
    except DeltaError as error:
        raise StorageError(path, f"the commit failed: {error} ({_free(path)})", _MAKE_ROOM) from error


def _free(path: Path) -> str:
    while not path.exists():
        path = path.parent
    stat = os.statvfs(path)
    return f"{stat.f_bavail * stat.f_frsize / 1e6:.1f} MB free"


def _encode(rows: pa.Table) -> bytes:
    """Parquet bytes: zstd, dictionary on strings only, byte-stream split on floats, page checksums."""
    strings = [field.name for field in rows.schema if field.type == pa.string()]
    floats = {}
    for field in rows.schema:
        if pa.types.is_floating(field.type):
            floats[field.name] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type):
            floats[f"{field.name}.list.element"] = "BYTE_STREAM_SPLIT"
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        compression="zstd",
        compression_level=3,
        use_dictionary=strings,
        column_encoding=floats,
        write_page_checksum=True,
        row_group_size=max(64, _ROW_GROUP_BYTES * rows.num_rows // max(1, rows.nbytes)),
    )
    return sink.getvalue().to_pybytes()


def write_durably(path: Path, data: bytes) -> None:
    """Write and flush; a reader may see a part of it meanwhile."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
