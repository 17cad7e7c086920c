"""The feature store: a folder of Delta tables, each a set of Parquet files plus a transaction log.

    STORE/store.json                    format and version
    STORE/clips/                        what there is to score (schema CLIPS)
    STORE/poses/<key>/                  one row per clip and person (schema POSES)
    STORE/poses/<key>.spec.json         in words: what the key means

Workers write files under an attempt's own name, flush and read them back, and give them a name that is
the sha256 of their bytes. Only the driver commits, under a lock, so a reader sees a unit whole or not at
all, and a killed worker or driver leaves at most a file nobody reads.
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import CorruptError, DataError, StorageError, WriterError
from pipelines.schema import CLIPS, POSES, SCHEMA_VERSION

if TYPE_CHECKING:
    from deltalake import DeltaTable

FORMAT = "aqa-store"
_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}


@dataclass(frozen=True)
class FileFacts:
    """What a worker says of a file it wrote, and all that the driver needs to commit it."""

    name: str
    sha256: str
    size: int
    rows: int
    clip_ids: tuple[str, ...]


class Table:
    """One Delta table of the store."""

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
                DeltaTable.create(self.path, self.schema, mode="ignore")

    def version(self) -> int:
        """Number of the newest snapshot."""
        return self._delta().version()

    def read(
        self, version: int | None = None, columns: list[str] | None = None, clip_ids: set[str] | None = None
    ) -> pa.Table:
        """Rows of a snapshot (newest by default), with page checksums verified.

        Raises:
            CorruptError: a file of the snapshot is missing or damaged.
        """
        parts = [self._read_file(name, columns, clip_ids) for name in self.file_names(version)]
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *parts])

    def file_names(self, version: int | None = None) -> list[str]:
        """Parquet files of a snapshot, relative to the table, oldest first."""
        paths = self._delta(version).get_add_actions().column("path").to_pylist()
        return sorted(str(path) for path in paths)

    def write_file(self, rows: pa.Table) -> FileFacts:
        """Write rows to a file of this table without committing it (a worker's part).

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
                _write_durably(attempt, data)
                if _sha256(attempt) != digest:
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
            yield Writer(self)

    def verify(self) -> list[str]:
        """Check every file of the newest snapshot against its recorded hash; the faults found, in words."""
        faults, seen = [], {}
        for name in self.file_names():
            path = self.path / name
            if not path.is_file():
                faults.append(f"{path}: the file is missing")
            elif f"part-{_sha256(path)}.parquet" != name:
                faults.append(f"{path}: the bytes do not match the recorded sha256")
            else:
                rows = self._read_file(name, _key_columns(self.schema), None)
                for row in rows.to_pylist():
                    if tuple(row.values()) in seen:
                        faults.append(f"{path}: clip {row['clip_id']} is also in {seen[tuple(row.values())]}")
                    seen[tuple(row.values())] = name
        return faults

    def orphans(self) -> list[Path]:
        """Files that no snapshot names: left by killed attempts, read by nobody."""
        named = set(self.file_names())
        attempts = list(self.path.glob(".attempt-*"))
        return attempts + [path for path in self.path.glob("part-*.parquet") if path.name not in named]

    def _delta(self, version: int | None = None) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            return DeltaTable(self.path, version=version)
        except DeltaError as error:
            raise CorruptError(self.path, f"the transaction log cannot be read ({error})", RESTORE) from error

    def _read_file(self, name: str, columns: list[str] | None, clip_ids: set[str] | None) -> pa.Table:
        filters = None if clip_ids is None else [("clip_id", "in", clip_ids)]
        try:
            return pq.read_table(
                self.path / name,
                columns=columns,
                filters=filters,
                page_checksum_verification=True,
                partitioning=None,
            )
        except FileNotFoundError:
            raise CorruptError(self.path / name, "the file is missing", RESTORE) from None
        except (pa.ArrowException, OSError) as error:
            raise CorruptError(self.path / name, f"the file is damaged ({error})", RESTORE) from error


RESTORE = "Restore it from a copy, or delete the table's folder and run the same command again"


class Writer:
    """Commits files to a table; made by `Table.writer`, which holds the lock."""

    def __init__(self, table: Table):
        self.table = table
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
            self._transact(added, mode="append")
        return sum(facts.rows for facts in added)

    def remove(self, clip_ids: set[str]) -> None:
        """Take the rows of these clips out (they changed, or shall be tried again), in one transaction."""
        if clip_ids & self.committed:
            rows = self.table.read()
            mask = pa.array(
                [value not in clip_ids for value in rows.column("clip_id").to_pylist()], pa.bool_()
            )
            self.overwrite(rows.filter(mask))

    def overwrite(self, rows: pa.Table) -> None:
        """Replace the whole content by `rows`, in one transaction."""
        files = [self.table.write_file(rows)] if rows.num_rows else []
        self._transact(files, mode="overwrite")
        self.committed = set(rows.column("clip_id").to_pylist())

    def _transact(self, files: list[FileFacts], mode: str) -> None:
        from deltalake import CommitProperties, Transaction
        from deltalake.transaction import AddAction

        now_ms = int(time.time() * 1000)
        actions = [
            AddAction(facts.name, facts.size, {}, now_ms, True, json.dumps({"numRecords": facts.rows}))
            for facts in files
        ]
        unit = hashlib.sha256("".join(facts.sha256 for facts in files).encode()).hexdigest()
        with storage_errors(self.table.path):
            self.table._delta().create_write_transaction(
                actions,
                mode=mode,
                schema=self.table.schema,
                commit_properties=CommitProperties(app_transactions=[Transaction(unit, 1, now_ms)]),
            )


class Store:
    """A folder of tables. Use `open_store`."""

    def __init__(self, path: Path):
        self.path = path
        self.clips = Table(path / "clips", CLIPS)

    def poses(self, key: str) -> Table:
        return Table(self.path / "poses" / key, POSES)

    def pose_keys(self) -> list[str]:
        """Keys of the pose tables, oldest first."""
        specs = sorted((self.path / "poses").glob("*.spec.json"), key=lambda path: path.stat().st_mtime_ns)
        return [path.name.removesuffix(".spec.json") for path in specs]

    def spec(self, key: str) -> dict:
        """What a key of a pose table means."""
        return json.loads((self.path / "poses" / f"{key}.spec.json").read_text())

    def create_poses(self, spec: dict) -> Table:
        """The pose table for a specification; same specification = same key = same table."""
        key = spec_key(spec)
        table = self.poses(key)
        table.create()
        with storage_errors(self.path):
            _write_durably(self.path / "poses" / f"{key}.spec.json", _pretty(spec).encode())
        return table

    def put_clips(self, clips: pa.Table) -> tuple[int, int]:
        """Add clips, or change those with the same clip_id; one transaction, none if nothing changed.

        Returns:
            (number of new clips, number of changed clips).
        """
        with self.clips.writer() as writer:
            old = {row["clip_id"]: row for row in self.clips.read().to_pylist()}
            given = {row["clip_id"]: row for row in clips.to_pylist()}
            new = [name for name in given if name not in old]
            changed = [name for name in given if name in old and old[name] != given[name]]
            if new or changed:
                writer.overwrite(pa.Table.from_pylist(list({**old, **given}.values()), schema=CLIPS))
        return len(new), len(changed)


def open_store(path: Path, *, create: bool = False) -> Store:
    """Open a store folder.

    Args:
        path: the folder.
        create: make it if it does not exist.

    Raises:
        StorageError: no store there, a folder with other content, or a store of a newer version.
    """
    marker = path / "store.json"
    if not marker.is_file():
        if not create:
            raise StorageError(path, "there is no store here", "Run `aqa data import` or `aqa extract` first")
        if path.is_dir() and any(path.iterdir()):
            raise StorageError(path, "the folder holds other files", "Name an empty or new folder as store")
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            _write_durably(marker, _pretty({"format": FORMAT, "version": SCHEMA_VERSION}).encode())
    found = _read_marker(marker)
    if found > SCHEMA_VERSION:
        raise StorageError(
            path,
            f"the store has version {found}, this program reads up to {SCHEMA_VERSION}",
            "Install a newer aqa, or write to a new store",
        )
    store = Store(path)
    store.clips.create()
    return store


def snapshot(path: Path, key: str = "") -> tuple[pa.Table, pa.Table, dict]:
    """Clips and poses as they are now, and what must be recorded to read the same rows again.

    Args:
        path: folder of the store.
        key: which pose table; may be empty when there is only one.

    Raises:
        DataError: there is no pose table, several to choose from, or none with this key.
    """
    store = open_store(path)
    keys = store.pose_keys()
    if not keys:
        raise DataError(path, "the store holds no poses", "Run `aqa extract` or `aqa data import` first")
    if key not in keys and (key or len(keys) > 1):
        raise DataError(path, f"it holds the pose tables {', '.join(keys)}", "Choose one with --poses KEY")
    key = key or keys[0]
    table = store.poses(key)
    versions = {"clips_version": store.clips.version(), "poses_version": table.version()}
    provenance = {"store": str(path.absolute()), "poses_key": key, **versions}
    return store.clips.read(versions["clips_version"]), table.read(versions["poses_version"]), provenance


def spec_key(spec: dict) -> str:
    """Key of a specification: first 12 hex digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


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


_MAKE_ROOM = "Free space or fix permissions, then run the same command again; committed rows are kept"


def _free(path: Path) -> str:
    while not path.exists():
        path = path.parent
    stat = os.statvfs(path)
    return f"{stat.f_bavail * stat.f_frsize / 1e6:.1f} MB free"


def _key_columns(schema: pa.Schema) -> list[str]:
    return [name for name in ("clip_id", "person") if name in schema.names]


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
        row_group_size=64,
    )
    return sink.getvalue().to_pybytes()


def _write_durably(path: Path, data: bytes) -> None:
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


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_marker(marker: Path) -> int:
    try:
        content = json.loads(marker.read_text())
        version = content["version"] if content.get("format") == FORMAT else None
    except (ValueError, KeyError, AttributeError):
        version = None
    if not isinstance(version, int):
        raise CorruptError(
            marker, "this is no marker of a feature store", "Restore it, or name another folder"
        )
    return version


def _pretty(content: dict) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
