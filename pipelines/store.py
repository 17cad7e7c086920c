"""The feature store: a folder of Delta tables.

STORE/store.json                        format and version
STORE/clips/                            what there is to score (schema CLIPS)
STORE/poses/<key>/                      one row per clip and person (schema POSES)
STORE/people/<key>/                     who is in the picture (schema PEOPLE)
STORE/features/<kind>/<key>/            one row per clip (schema FEATURES)
STORE/.../<key>.spec.json               beside each keyed table, in words: what the key means
STORE/.../<key>.extractions.jsonl       what filled it: a line per extraction, its counts and seconds
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.compare import differing
from pipelines.errors import CorruptError, DataError, StorageError
from pipelines.schema import CLIPS, SCHEMA_VERSION, TABLES
from pipelines.table import RESTORE as RESTORE
from pipelines.table import FileFacts as FileFacts
from pipelines.table import Table, storage_errors, write_durably
from pipelines.table import Writer as Writer

FORMAT = "aqa-store"


class Store:
    """A folder of tables. Use `open_store`.

    A *family* names tables of one schema that differ in their key: "poses", "people", "features/i3d", ...
    """

    def __init__(self, path: Path):
        self.path = path
        self.clips = Table(path / "clips", CLIPS)

    def table(self, family: str, key: str) -> Table:
        """The table of a key; it may not be there yet."""
        return Table(self.path / family / key, TABLES[family.partition("/")[0]])

    def families(self) -> list[str]:
        """Families that have a table: poses, people, then features by kind."""
        kinds = sorted(path.name for path in (self.path / "features").glob("*") if path.is_dir())
        families = ["poses", "people", *(f"features/{kind}" for kind in kinds)]
        return [family for family in families if self.keys(family)]

    def keys(self, family: str) -> list[str]:
        """Keys of a family's tables, oldest first."""
        specs = sorted((self.path / family).glob("*.spec.json"), key=lambda path: path.stat().st_mtime_ns)
        return [path.name.removesuffix(".spec.json") for path in specs]

    def spec(self, key: str, family: str = "poses") -> dict:
        """What a key means."""
        return json.loads((self.path / family / f"{key}.spec.json").read_text())

    def create(self, family: str, spec: dict) -> Table:
        """The table for a specification; same specification = same key = same table."""
        key = spec_key(spec)
        table = self.table(family, key)
        table.create()
        self._write_once(self.path / family / f"{key}.spec.json", spec)
        self._mark_version()
        return table

    def note_extraction(self, family: str, key: str, told: dict) -> None:
        """Adds a line about an extraction into a table."""
        with storage_errors(self.path), self._extractions(family, key).open("a") as file:
            file.write(json.dumps(told) + "\n")

    def extractions(self, family: str, key: str) -> list[dict]:
        """What filled a table, oldest first; a line cut off by a kill is left out."""
        path, found = self._extractions(family, key), []
        for line in path.read_text().splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def _extractions(self, family: str, key: str) -> Path:
        return self.path / family / f"{key}.extractions.jsonl"

    def poses(self, key: str) -> Table:
        return self.table("poses", key)

    def pose_keys(self) -> list[str]:
        return self.keys("poses")

    def create_poses(self, spec: dict) -> Table:
        return self.create("poses", spec)

    def put_clips(self, clips: pa.Table) -> tuple[int, int]:
        """Add clips, or change those with the same clip_id; one transaction, none if nothing changed.

        Args:
            clips: schema CLIPS; of rows with the same clip_id the last one counts.

        Returns:
            (number of new clips, number of changed clips).
        """
        with self.clips.writer() as writer:
            old, given = self.clips.read().combine_chunks(), _last_of_each(clips.combine_chunks())
            at = pc.index_in(old["clip_id"], value_set=given["clip_id"].combine_chunks())
            met = pc.is_valid(at)
            changed = differing(old.filter(met), given.take(at.filter(met)))
            new = pc.invert(pc.is_in(given["clip_id"], value_set=old["clip_id"].combine_chunks()))
            counts = int(pc.sum(new).as_py() or 0), int(changed.sum())
            if any(counts):
                # Clips stay in the order in which they came.
                order = pc.add(at, old.num_rows)
                order = pc.coalesce(order.cast(pa.int64()), pa.array(np.arange(old.num_rows)))
                added = pa.array(np.flatnonzero(new.to_numpy()) + old.num_rows)
                order = pa.chunked_array([order.combine_chunks(), added])
                writer.overwrite(pa.concat_tables([old, given]).combine_chunks().take(order))
                self._mark_version()
        return counts

    def drop_clips(self, clip_ids: set[str]) -> None:
        """Take clips out of the clips table (their files were renamed: `pipelines.plan.Plan.replaced`)."""
        with self.clips.writer() as writer:
            writer.remove(clip_ids)

    def _write_once(self, path: Path, content: dict) -> None:
        """Whole or not at all, however the process dies."""
        if not path.is_file():
            with storage_errors(self.path):
                attempt = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
                try:
                    write_durably(attempt, _pretty(content).encode())
                    os.replace(attempt, path)
                finally:
                    attempt.unlink(missing_ok=True)

    def _mark_version(self) -> None:
        """Once this version has written, older programs must refuse the store."""
        marker = self.path / "store.json"
        if _read_marker(marker) < SCHEMA_VERSION:
            with storage_errors(self.path):
                attempt = self.path / f".store.json-{uuid.uuid4().hex}"
                write_durably(attempt, _marker())
                os.replace(attempt, marker)


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
            write_durably(marker, _marker())
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
    """Clips and poses as they are now; see `snapshot_of`."""
    clips, tables, provenance = snapshot_of(path, {"poses": key}, {"poses": "--poses"})
    return clips, tables["poses"], provenance


def snapshot_of(
    path: Path, wanted: dict[str, str], flags: dict[str, str] | None = None
) -> tuple[pa.Table, dict[str, pa.Table], dict]:
    """Clips and tables as they are now, and what must be recorded to read the same rows again.

    Args:
        path: folder of the store.
        wanted: family -> key of its table; the key may be empty when there is only one.
        flags: family -> flag with which the caller's user chooses the key, for errors; without one, the
            keys are those that a run was trained on.

    Returns:
        Clips; family -> table; provenance: store, clips_version, and per family its key and version.

    Raises:
        DataError: there is no table of a family, several to choose from, or none with this key.
    """
    store = open_store(path)
    provenance = {"store": str(path.absolute()), "clips_version": store.clips.version()}
    tables = {}
    for family, key in wanted.items():
        kind = family.rpartition("/")[2]
        keys = store.keys(family)
        if not keys:
            remedy = "Run `aqa extract` or `aqa data import` first"
            remedy = remedy if family == "poses" else f"Run `aqa extract --kind {kind}` first"
            raise DataError(path, f"the store holds no {family}", remedy)
        if key not in keys and (key or len(keys) > 1):
            flag = (flags or {}).get(family)
            remedy = f"Choose one with {flag} KEY" if flag else "Name the store that the run was trained on"
            name = "pose" if family == "poses" else family
            listed = f"it holds the {name} tables {', '.join(keys)}"
            raise DataError(path, listed, remedy)
        table = store.table(family, key or keys[0])
        provenance[f"{kind}_key"], provenance[f"{kind}_version"] = key or keys[0], table.version()
        tables[family] = table.read(provenance[f"{kind}_version"])
    return store.clips.read(provenance["clips_version"]), tables, provenance


def spec_key(spec: dict) -> str:
    """Key of a specification: first 12 hex digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


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


def _marker() -> bytes:
    return _pretty({"format": FORMAT, "version": SCHEMA_VERSION}).encode()


def _last_of_each(clips: pa.Table) -> pa.Table:
    """One row per clip_id: the last one, at its place."""
    indices = clips["clip_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    last = np.zeros(indices.max(initial=-1) + 1, np.int64)
    last[indices] = np.arange(len(indices))
    return clips if len(last) == len(indices) else clips.take(pa.array(np.sort(last)))


def _pretty(content: dict) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
