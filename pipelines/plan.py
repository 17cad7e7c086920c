"""Plan: which clips must be computed, because they have no row, or one that no longer fits them.

A row fits its clip when range and boxes are those it was computed from (`clip_digest`) and the source file is
the one it was read from (size and modification time; if only the time differs, the sha256 decides). A file
that vanished keeps its row. Where the file lies and what it is called decide nothing: a clip without a row
whose file has the content and whose digest equals those of a row takes over that row.

All in Arrow columns: a million clips take seconds (benchmarks/bench_plan.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import sources
from pipelines.store import Table

RANGE_AND_BOX = ("start_s", "end_s", "box_x1_px", "box_y1_px", "box_x2_px", "box_y2_px")

# What the plan reads of a table of results.
ROW_COLUMNS = [
    "clip_id",
    "status",
    "clip_digest",
    "uri",
    "source_sha256",
    "source_bytes",
    "source_mtime_ns",
]

# What of the people of a clip (schema PEOPLE) decides its poses: their boxes follow from these.
PEOPLE_COLUMNS = ["clip_id", "person", "status", "clip_digest", "source_sha256", "num_frames"]

# Rows that are kept but get another name, place or time stamp: row of `old_clip_id` -> `clip_id`.
ADOPTED = pa.schema(
    [
        ("old_clip_id", pa.string()),
        ("clip_id", pa.string()),
        ("uri", pa.string()),
        ("source_mtime_ns", pa.int64()),
    ]
)

_ROWS_PER_BATCH = 65_536


@dataclass(frozen=True)
class Plan:
    """What to do so that every clip has a row that fits it.

    Args:
        todo: clips to compute: the columns given and `clip_digest`.
        outdated: clips whose rows must go first.
        adopted: rows to keep under another name, place or time stamp (schema ADOPTED).
        replaced: clips not planned any more, whose file is gone and whose rows were adopted; their rows go.
        already_done: clips that need no computing, adopted ones included.
        reasons: number of clips by why they are in `todo`.
    """

    todo: pa.Table
    outdated: set[str]
    adopted: pa.Table
    replaced: set[str]
    already_done: int
    reasons: dict[str, int]


def find_work(
    clips: pa.Table,
    table: Table,
    *,
    retry_rejected: bool = False,
    people: pa.Table | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compare the clips with the rows of a table of results.

    Args:
        clips: schema CLIPS, each clip_id once.
        table: poses, people or features; need not exist yet.
        retry_rejected: compute rejected clips again.
        people: rows of the people table the boxes come from (PEOPLE_COLUMNS of schema PEOPLE); None = none.
        progress: receives a line while the content of files is compared.
    """
    rows = table.read(columns=ROW_COLUMNS) if table.exists() else _no_rows(table)
    clips = clips.append_column("clip_digest", clip_digests(clips, people))
    return compare(clips, rows, retry_rejected=retry_rejected, progress=progress)


def compare(
    clips: pa.Table,
    rows: pa.Table,
    *,
    retry_rejected: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Plan:
    """As `find_work`, given the rows (ROW_COLUMNS); `clips` has a column `clip_digest`."""
    rows = rows.combine_chunks()
    ids = _column(clips, "clip_id")
    at = pc.index_in(ids, value_set=_column(rows, "clip_id"))
    known = _mask(pc.is_valid(at))
    own = rows.take(at)  # the row of each clip; null where it has none
    changed = known & _mask(pc.not_equal(own["clip_digest"], clips["clip_digest"]), missing=True)
    rejected = known & _mask(pc.equal(own["status"], "rejected"))
    checked = known & ~changed & ~rejected
    size, mtime = np.full(len(ids), -1), np.zeros(len(ids), np.int64)
    looked = checked | (~known if rows.num_rows else np.zeros(len(ids), bool))
    size[looked], mtime[looked] = sources.look(_column(clips, "uri").filter(pa.array(looked)))
    replaced_file, retimed = _compare_files(clips, own, checked, size, mtime, progress)
    again = rejected & ~changed if retry_rejected else np.zeros(len(ids), bool)
    todo = ~known | changed | replaced_file | again
    source_row = _find_content(clips, rows, (~known | replaced_file) & (size >= 0), size, progress)
    adopts = source_row >= 0
    outdated = known & todo
    adopted, replaced = _adopted(clips, rows, source_row, retimed, mtime)
    todo &= ~adopts
    reasons = {
        "new": ~known,
        "range or boxes changed": changed,
        "source file changed": replaced_file,
        "rejected before": again,
    }
    return Plan(
        todo=clips.filter(pa.array(todo)),
        outdated=set(ids.filter(pa.array(outdated)).to_pylist()),
        adopted=adopted,
        replaced=replaced,
        already_done=len(ids) - int(todo.sum()),
        reasons={name: count for name, mask in reasons.items() if (count := int((mask & todo).sum()))},
    )


def clip_digests(clips: pa.Table, people: pa.Table | None = None) -> pa.Array:
    """Hash of what of each clip decides its rows: range and box, not where the file lies.

    Args:
        clips: schema CLIPS.
        people: rows that give the boxes instead; a clip without one is hashed as having none.

    Returns:
        (N,) strings of 16 hex digits.
    """
    boxes = None if people is None else _people_texts(_column(clips, "clip_id"), people)
    columns = clips.select(RANGE_AND_BOX)
    if boxes is not None:
        columns = columns.append_column("people", boxes)
    parts = [pa.array([], pa.string())]
    for batch in columns.to_batches(max_chunksize=_ROWS_PER_BATCH):
        values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        parts.append(pa.array([_digest(row) for row in values], pa.string()))
    return pa.concat_arrays(parts)


def _digest(values: tuple) -> str:
    text = ", ".join(["null" if value is None else str(value) for value in values])
    return hashlib.sha256(f"[{text}]".encode()).hexdigest()[:16]


def _people_texts(clip_ids: pa.Array, people: pa.Table) -> pa.Array:
    """(N,) one text per clip: what its people's boxes follow from; null without people."""
    people = people.select(PEOPLE_COLUMNS).sort_by([("clip_id", "ascending"), ("person", "ascending")])
    columns = [pc.fill_null(people[name].cast(pa.string()), "") for name in PEOPLE_COLUMNS[1:]]
    text = pc.binary_join_element_wise(*columns, ":")
    grouped = pa.table({"clip_id": people["clip_id"], "text": text})
    grouped = grouped.group_by("clip_id", use_threads=False).aggregate([("text", "list")])
    texts = pc.binary_join(grouped["text_list"], "|")
    return texts.take(pc.index_in(clip_ids, value_set=_column(grouped, "clip_id"))).combine_chunks()


def _compare_files(
    clips: pa.Table,
    own: pa.Table,
    checked: np.ndarray,
    size: np.ndarray,
    mtime: np.ndarray,
    progress: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of clips whose file has another content than their row, and of those where only the time differs.

    A row without a recorded size or time is not doubted for it.
    """
    old_size, old_mtime = _numbers(own["source_bytes"]), _numbers(own["source_mtime_ns"])
    present = checked & (size >= 0) & (old_size >= 0)
    resized = present & (size != old_size)
    retimed = present & ~resized & (old_mtime >= 0) & (mtime != old_mtime)
    doubted = pa.array(retimed)
    now = sources.digests(_column(clips, "uri").filter(doubted), progress)
    before = own["source_sha256"].filter(doubted).to_pylist()
    # A file that cannot be read now keeps its row, like one that vanished.
    same = [digest in (None, old) for digest, old in zip(now, before, strict=True)]
    rewritten = retimed.copy()
    rewritten[retimed] = ~np.array(same, bool)
    readable = np.zeros(len(retimed), bool)
    readable[retimed] = [digest is not None for digest in now]
    return resized | rewritten, retimed & ~rewritten & readable


def _find_content(
    clips: pa.Table,
    rows: pa.Table,
    wanted: np.ndarray,
    size: np.ndarray,
    progress: Callable[[str], None],
) -> np.ndarray:
    """(N,) index of a row computed from the same content, range and boxes; -1 if there is none.

    Only files of a size and a digest that some row has are read.
    """
    found = np.full(clips.num_rows, -1)
    ok = rows.filter(pc.and_kleene(pc.equal(rows["status"], "ok"), pc.is_valid(rows["source_sha256"])))
    if not wanted.any() or not ok.num_rows:
        return found
    of_size = _joined(pa.array(size).cast(pa.string()), clips["clip_digest"])
    of_row = _joined(ok["source_bytes"].cast(pa.string()), ok["clip_digest"])
    wanted = wanted & _mask(pc.is_in(of_size, value_set=of_row))
    chosen = clips.filter(pa.array(wanted))
    sha256 = pa.array(sources.digests(_column(chosen, "uri"), progress), pa.string())
    content = _joined(sha256, chosen["clip_digest"])
    in_ok = pc.index_in(content, value_set=_joined(ok["source_sha256"], ok["clip_digest"]))
    in_rows = pc.index_in(_column(ok, "clip_id").take(in_ok), value_set=_column(rows, "clip_id"))
    found[wanted] = np.where(_mask(pc.is_valid(in_ok)), in_rows.fill_null(-1).to_numpy(False), -1)
    return found


def _adopted(
    clips: pa.Table, rows: pa.Table, source_row: np.ndarray, retimed: np.ndarray, mtime: np.ndarray
) -> tuple[pa.Table, set[str]]:
    """The table ADOPTED, and the clips whose rows moved away from them for good."""
    renamed = pa.array(source_row >= 0)
    taken = rows.take(pa.array(source_row[source_row >= 0]))
    old_ids, ids = _column(taken, "clip_id"), _column(clips, "clip_id")
    pieces = []
    for mask, old in ((renamed, old_ids), (pa.array(retimed), ids.filter(pa.array(retimed)))):
        columns = [old, ids.filter(mask), _column(clips, "uri").filter(mask), pa.array(mtime).filter(mask)]
        pieces.append(pa.Table.from_arrays(columns, schema=ADOPTED))
    size_now, _ = sources.look(_column(taken, "uri"))
    gone = (size_now != _numbers(taken["source_bytes"])) & _mask(pc.is_valid(taken["uri"]))
    unplanned = ~_mask(pc.is_in(old_ids, value_set=ids))
    return pa.concat_tables(pieces), set(old_ids.filter(pa.array(gone & unplanned)).to_pylist())


def _joined(left: pa.Array, right: pa.Array) -> pa.Array:
    return _flat(pc.binary_join_element_wise(left, right, ":"))


def _no_rows(table: Table) -> pa.Table:
    return pa.schema([table.schema.field(name) for name in ROW_COLUMNS]).empty_table()


def _column(table: pa.Table, name: str) -> pa.Array:
    return _flat(table[name])


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _mask(values: pa.Array | pa.ChunkedArray, missing: bool = False) -> np.ndarray:
    return _flat(values).fill_null(missing).to_numpy(zero_copy_only=False)


def _numbers(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """int64, -1 for null."""
    return _flat(values).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
