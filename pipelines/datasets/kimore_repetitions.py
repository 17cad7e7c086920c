"""KIMORE's repetitions, marked by hand by the authors of EGCN, as procedures of the clips.

`Es1_labels.csv` to `Es5_labels.csv` (Yu et al., "EGCN", 2022; no header, `CG/Expert/E_ID1,23,223,424,...`)
count frames from 1 and come in four formats; `repetitions_long.csv` is the same as one table. In the clips
table a repetition is a procedure: `transitions_s` are the times between them, and `procedures` names them
"repetition" (of Es2 to Es4 "repetition 0" and "repetition 1", by direction), and what lies between "rest".
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.datasets.csv_text import MAX_BYTES, decode, read_csv
from pipelines.datasets.manifest import check_columns
from pipelines.datasets.problems import Problems, first_names
from pipelines.datasets.source_file import read_source
from pipelines.errors import DataError

_COLUMNS = (
    "sample", "subject", "group", "exercise", "repetition", "direction", "start_frame_1based",
    "end_frame_1based_inclusive", "valid",
)  # fmt: skip
_USED = ("sample", "direction", "start_frame_1based", "end_frame_1based_inclusive")
_SUBJECT = re.compile(r"(?:CG|GPP)/\w+/((?:E|NE|B|P|S)_ID\d{1,6})")
REST, _MARKED = "rest", "repetition"


@dataclass(frozen=True)
class Repetition:
    """Frames of one repetition.

    Attributes:
        start, end: first and last frame, counted from 1.
        direction: "0" or "1" where the exercise has two directions, else empty.
    """

    start: int
    end: int
    direction: str = ""

    @property
    def name(self) -> str:
        """As in the column `procedures`."""
        return f"{_MARKED} {self.direction}".strip()


def read_repetitions(path: Path) -> dict[str, list[Repetition]]:
    """Repetitions by clip (`E_ID1_Es1`), in the order of their start.

    Args:
        path: the table repetitions_long.csv, or the folder that holds Es1_labels.csv to Es5_labels.csv.

    Raises:
        DataError: no such file, or rows that cannot be read.
    """
    found = _original(path) if path.is_dir() else _long(path)
    return {clip: sorted(items, key=lambda item: (item.start, item.end)) for clip, items in found.items()}


def with_repetitions(
    clips: pa.Table, poses: pa.Table, repetitions: dict[str, list[Repetition]]
) -> tuple[pa.Table, list[str]]:
    """Clips with `transitions_s` and `procedures`, from the time stamps of their poses.

    A repetition that ends behind the last frame is left out, one that overlaps the next is cut at its start;
    both are named in the warnings, as are clips without repetitions.
    """
    times = dict(zip(poses["clip_id"].to_pylist(), poses["time_s"].to_pylist(), strict=True))
    warnings: list[str] = []
    without, transitions, procedures = [], [], []
    for clip_id in clips["clip_id"].to_pylist():
        time_s = times.get(clip_id)
        given = repetitions.get(clip_id, []) if time_s else []
        kept, notes = _fitting(clip_id, given, len(time_s or ()))
        warnings += notes
        if not kept:
            without.append(clip_id)
        edges, names = _procedures(kept, np.array(time_s or [0.0]))
        transitions.append(edges if kept else None)
        procedures.append(names if kept else None)
    if without:
        warnings.append(f"{len(without)} clips without repetitions: {first_names(without)}")
    if spare := [name for name in repetitions if name not in times]:
        warnings.append(f"repetitions of {len(spare)} recordings that are not here: {first_names(spare)}")
    for name, values in (("transitions_s", transitions), ("procedures", procedures)):
        index = clips.schema.get_field_index(name)
        column = pa.array(values, type=clips.schema.field(index).type)
        clips = clips.set_column(index, clips.schema.field(index), column)
    return clips, warnings


def repetitions_of(clip: dict, end_s: float) -> list[tuple[float, float, str]]:
    """(start, end, direction) in seconds of each repetition of a row of the clips table.

    Args:
        clip: the row; transitions_s and procedures as `with_repetitions` fills them. Procedures of other
            names, such as those of a dive, are no repetitions.
        end_s: time of the clip's last frame.
    """
    edges = [0.0, *(clip["transitions_s"] or ()), end_s]
    spans = zip(edges, edges[1:], clip["procedures"] or (), strict=False)
    return [(a, b, name.removeprefix(_MARKED).strip()) for a, b, name in spans if name.startswith(_MARKED)]


def _fitting(clip_id: str, given: list[Repetition], frames: int) -> tuple[list[Repetition], list[str]]:
    kept, notes = [], []
    for item in given:
        if item.end > frames:
            notes.append(f"{clip_id}: a repetition ends at frame {item.end} of {frames} and is left out")
            continue
        if kept and item.start < kept[-1].end:
            notes.append(f"{clip_id}: two repetitions overlap; the first is cut at frame {item.start}")
            kept[-1] = replace(kept[-1], end=item.start)
        kept.append(item)
    return [item for item in kept if item.end > item.start], notes


def _procedures(kept: list[Repetition], time_s: np.ndarray) -> tuple[list[float], list[str]]:
    """Times between procedures (one fewer than the names), and their names."""
    edges: list[float] = []
    names: list[str] = []
    at = 0.0
    for item in kept:
        start, end = float(time_s[item.start - 1]), float(time_s[item.end - 1])
        if start > at:
            edges.append(start)
            names.append(REST)
        edges.append(end)
        names.append(item.name)
        at = end
    if at < time_s[-1]:
        return edges, [*names, REST]
    return edges[:-1], names


def _long(path: Path) -> dict[str, list[Repetition]]:
    problems = Problems(path)
    names, rows = read_csv(path, problems)
    for name in _USED:
        check_columns(names, _COLUMNS, name, path)
    found: dict[str, list[Repetition]] = {}
    for line, cells in rows:
        row = dict(zip(names, cells, strict=True))
        clip, direction, *frames = (row[name] for name in _USED)
        if direction not in ("", "0", "1") or not all(re.fullmatch(r"\d{1,7}", cell) for cell in frames):
            problems.add(f"line {line}", "direction 0, 1 or none, and two frame numbers", "correct it")
            continue
        _put(found, clip, [Repetition(int(frames[0]), int(frames[1]), direction)], f"line {line}", problems)
    problems.raise_if_any()
    return found


def _original(folder: Path) -> dict[str, list[Repetition]]:
    found: dict[str, list[Repetition]] = {}
    files = [folder / f"Es{exercise}_labels.csv" for exercise in range(1, 6)]
    if not any(path.exists() for path in files):
        raise DataError(folder, "the folder holds no Es1_labels.csv", "give EGCN's folder tools/segmentation")
    for exercise, path in enumerate(files, start=1):
        if not path.exists():
            continue
        problems = Problems(path)
        for number, line in enumerate(decode(path, read_source(path, MAX_BYTES)).splitlines(), start=1):
            cells = [cell.strip() for cell in line.split(",") if cell.strip()]
            match = _SUBJECT.fullmatch(cells[0]) if cells else None
            if not cells:
                continue
            if not match or not all(re.fullmatch(r"\d{1,7}", cell) for cell in cells[1:]):
                expected = "a subject such as CG/Expert/E_ID1 and frame numbers"
                problems.add(f"line {number}", expected, "restore the file", value=line[:60])
                continue
            if exercise == 5 and len(cells) % 2 == 0:
                problems.add(f"line {number}", "pairs of start and end", "restore the file", value=line[:60])
                continue
            items = _parse(exercise, [int(cell) for cell in cells[1:]])
            _put(found, f"{match[1]}_Es{exercise}", items, f"line {number}", problems)
        problems.raise_if_any()
    return found


def _parse(exercise: int, values: list[int]) -> list[Repetition]:
    """One row of EGCN's tables; each exercise has its own format."""
    if exercise == 1:  # boundaries
        return [Repetition(a, b) for a, b in itertools.pairwise(values)]
    if exercise == 5:  # pairs of start and end
        return [Repetition(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
    if exercise in (2, 3):  # direction of the first one, then boundaries; the direction alternates
        first, edges = values[0], values[1:]
        pairs = enumerate(itertools.pairwise(edges))
        return [Repetition(a, b, str((first + index) % 2)) for index, (a, b) in pairs]
    items, direction, before = [], "", 0  # Es4: a 0 or 1 begins a run of boundaries in that direction
    for value in values:
        if value <= 1:
            direction, before = str(value), 0
            continue
        if before:
            items.append(Repetition(before, value, direction))
        before = value
    return items


def _put(
    found: dict[str, list[Repetition]], clip: str, items: list[Repetition], where: str, problems: Problems
) -> None:
    if any(not 1 <= item.start <= item.end for item in items):
        problems.add(where, "start and end of each repetition in this order", "correct it", value=clip)
        return
    found.setdefault(clip, []).extend(items)
