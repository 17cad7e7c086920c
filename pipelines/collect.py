"""Collect what the networks return: join the parts of a clip, make final rows of them, commit in files.

The driver alone writes: keypoints and features are small, and so no worker needs to see the store.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.table import Table, Writer

MIN_SECONDS = 2.0
MAX_SECONDS = 60.0
MAX_BYTES = 128 << 20
_SUMMED = ("num_frames", "num_segments")


class Collector:
    """Turns tables of parts into committed rows, each clip in one piece.

    A commit happens after two seconds or a hundredth of the time since the start, but not before 50 times
    the length of the last commit, and at least once a minute: a killed run loses no more, commits take no
    more than a fiftieth of the time, and a long run makes no more than a few hundred files.

    Args:
        table: where the rows go.
        writer: its writer.
        finish: makes final rows (of the table's schema) from whole clips.
        people: clip_id -> number of people to wait for; one where it is not listed.
    """

    def __init__(
        self,
        table: Table,
        writer: Writer,
        finish: Callable[[pa.Table], pa.Table],
        people: dict[str, int] | None = None,
    ):
        self.table, self.writer, self.finish, self.people = table, writer, finish, people or {}
        self.counts: Counter = Counter()
        self.finished: set[str] = set()  # clip ids
        self._open: dict[str, list[pa.Table]] = defaultdict(list)
        self._ready: list[pa.Table] = []
        self._bytes = 0  # of what is ready; counting anew with each row would grow with its square
        self._started = self._committed = time.monotonic()
        self._cost = 0.0

    def add(self, rows: pa.Table) -> None:
        """Take rows as they come; commits when it is time."""
        single = pc.and_(pc.equal(rows.column("part"), 0), rows.column("last"))
        if self.people:
            lonely = [self.people.get(name, 1) == 1 for name in rows.column("clip_id").to_pylist()]
            single = pc.and_(single, pa.array(lonely, pa.bool_()))
        whole = rows.filter(single)
        if whole.num_rows:
            self._take(whole)
        rest = rows.filter(pc.invert(single))
        for index in range(rest.num_rows):
            part = rest.slice(index, 1)
            name = part.column("clip_id")[0].as_py()
            if name in self.finished:  # rejected early; what was still on its way is not needed
                continue
            self._open[name].append(part)
            joined = join_people(self._open[name], self.people.get(name, 1))
            if joined is not None:
                del self._open[name]
                self._take(joined)
        if self._due():
            self.commit()

    def drop_parts(self) -> None:
        """Forget parts of clips that are not whole, because those clips start again."""
        self._open.clear()

    def commit(self) -> None:
        """Write what is ready to a file and make it visible."""
        started = time.monotonic()
        if self._ready:
            rows = pa.concat_tables(self._ready)
            self._ready, self._bytes = [], 0
            self.writer.commit([self.table.write_file(rows)])
        self._committed = time.monotonic()
        self._cost = self._committed - started

    def _take(self, rows: pa.Table) -> None:
        rows = self.finish(rows)
        self._ready.append(rows)
        self._bytes += rows.nbytes
        names = set(rows.column("clip_id").to_pylist())
        self.finished |= names
        self.counts["clips"] += len(names)
        self.counts["frames"] += pc.sum(rows.column("num_frames")).as_py() or 0
        self.counts["rejected"] += pc.sum(pc.equal(rows.column("status"), "rejected")).as_py() or 0

    def _due(self) -> bool:
        now = time.monotonic()
        wait = min(MAX_SECONDS, max(MIN_SECONDS, 0.01 * (now - self._started), 50 * self._cost))
        return now - self._committed > wait or self._bytes > MAX_BYTES


def join_people(parts: list[pa.Table], people: int) -> pa.Table | None:
    """Rows of one clip, one per person, from its parts; None while some are missing.

    Args:
        parts: tables of one row, in any order.
        people: how many people the clip has.

    Returns:
        `people` rows, or one rejected row if anything of the clip was rejected.
    """
    by_person: dict[int, list[pa.Table]] = defaultdict(list)
    for part in parts:
        # Detections are of the whole frame and belong to nobody yet.
        person = part.column("person")[0].as_py() if "person" in part.column_names else 0
        by_person[person].append(part)
    joined = []
    for person in sorted(by_person):
        mine = sorted(by_person[person], key=lambda part: part.column("part")[0].as_py())
        if not mine[-1].column("last")[0].as_py() or mine[-1].column("part")[0].as_py() != len(mine) - 1:
            return None
        if mine[-1].column("status")[0].as_py() == "rejected":
            return mine[-1]
        joined.append(join_parts(mine))
    return pa.concat_tables(joined) if len(joined) == people else None


def join_parts(parts: list[pa.Table]) -> pa.Table:
    """One row from the parts of one person in one clip, in order.

    Lists are put one behind the other and counts are added; anything else is the same in every part.
    """
    columns = []
    for field in parts[0].schema:
        pieces = [part.column(field.name) for part in parts]
        if pa.types.is_list(field.type):
            values = [piece.combine_chunks().flatten() for piece in pieces]
            flat = pa.concat_arrays(values)
            offsets = pa.array([0, len(flat)], pa.int32())
            columns.append(pa.ListArray.from_arrays(offsets, flat, type=field.type))
        elif field.name in _SUMMED:
            columns.append(pa.array([sum(piece[0].as_py() for piece in pieces)], field.type))
        else:
            columns.append(pieces[0])
    return pa.table(columns, schema=parts[0].schema)
