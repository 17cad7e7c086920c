"""Names of files made from names of clips, facts of clips that travel along, and clips grouped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa

from pipelines.errors import DataError
from pipelines.formats.tracks import Track

MAX_NAME = 200
FACTS = ("dataset", "action_type", "score", "difficulty", "subject_id", "group", "split")
"""Columns of the clips table that formats with room for it carry along."""


def file_name(clip_id: str) -> str:
    """A clip's name as a file name: letters, digits and ._- stay, everything else is written %XX.

    Raises:
        DataError: the name is too long for a file.
    """
    name = quote(clip_id, safe="").replace("~", "%7E")
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    if not name or len(name) > MAX_NAME:
        raise DataError(
            clip_id[:60], f"the clip's name makes a file name of {len(name)} characters", "shorten it"
        )
    return name


def clip_name(path: Path, stem: str) -> str:
    """The clip that a file is named after; DataError if the name cannot be a clip's."""
    try:
        name = unquote(stem, errors="strict")
    except UnicodeDecodeError:
        name = ""
    if not name or not name.isprintable() or set("/\\") & set(name):
        raise DataError(path, "the file name is no name of a clip", "rename the file")
    return name


def facts_of(clips: pa.Table) -> dict[str, dict]:
    """FACTS of each clip that are known, by clip_id."""
    rows = clips.select(["clip_id", *FACTS]).to_pylist()
    return {row["clip_id"]: {key: row[key] for key in FACTS if row[key] is not None} for row in rows}


def known_facts(path: Path, given: object) -> dict:
    """FACTS as a file of ours carries them; anything else in there is left out, a wrong type is an error."""
    facts = {key: value for key, value in given.items() if key in FACTS} if isinstance(given, dict) else {}
    for key, value in facts.items():
        numeric = key in ("score", "difficulty")
        if isinstance(value, bool) or not isinstance(value, (int, float) if numeric else str):
            raise DataError(path, f"{key!r} of a clip is no {'number' if numeric else 'text'}", "correct it")
    if facts.get("split") not in (None, "train", "val", "test"):
        raise DataError(path, "the split of a clip is not train, val or test", "correct it")
    return {key: float(value) if isinstance(value, int) else value for key, value in facts.items()}


def by_clip(tracks: Iterable[Track]) -> Iterator[tuple[str, list[Track]]]:
    """Tracks (ordered by clip) as groups of one clip each."""
    for clip_id, group in groupby(tracks, key=lambda track: track.clip_id):
        yield clip_id, list(group)


def by_frame(people: list[Track]) -> Iterator[tuple[int, float, list[tuple[Track, int]]]]:
    """Frames of one clip in order: frame index, seconds, and who is in it at which position of the track."""
    seen: dict[int, list[tuple[Track, int]]] = {}
    for track in people:
        for position, frame in enumerate(track.frame_index.tolist()):
            seen.setdefault(frame, []).append((track, position))
    for frame in sorted(seen):
        track, position = seen[frame][0]
        yield frame, float(track.time_s[position]), seen[frame]
