"""Scores of many videos in one file, a line each, so that a killed run goes on where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import __version__
from pipelines.errors import CorruptError, WriterError
from pipelines.result import to_json
from pipelines.scoring.request import Request

RESUME = "resume"
"""Column of a line that says of which file and which question it is."""


def question(
    description: dict[str, Any],
    specs: dict[str, Any],
    request: Request,
    max_seconds: float,
    exemplar_sha256: str = "",
) -> str:
    """Names what was asked: the same of two runs whose answers are interchangeable.

    Args:
        description: of the model.
        specs: family -> how its rows are made.
        request: what is asked of each video.
        max_seconds: longest performance.
        exemplar_sha256: of the exemplar's file, if it is one.
    """
    told = [__version__, description["sha256"], specs, asdict(request), max_seconds, exemplar_sha256]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


class ScoreFile:
    """A file of JSON lines, one per finished video; of several lines of one video the last counts.

    Args:
        path: made if it does not exist.
        asked: the question of this run; lines of other questions stay and are not looked at.

    Raises:
        WriterError: another run writes this file.
        CorruptError: a line is no JSON.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, asked: str):
        self.path, self.asked = path, asked
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise WriterError(path, "another run writes it", "wait for it, or name another --out") from error
        self._done = self._read()

    def __enter__(self) -> ScoreFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def done(self, video: Path) -> dict[str, Any] | None:
        """What was said of a video, if it was asked before and its file is still the same."""
        return self._done.get(self._key(video))

    def add(self, video: Path, told: dict[str, Any]) -> None:
        """Writes what is said of a video; it survives whatever happens to this process afterwards."""
        line = json.dumps(json.loads(to_json(told | {RESUME: list(self._key(video))})), ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _key(self, video: Path) -> tuple[Any, ...]:
        try:
            facts = video.stat()
        except OSError:
            return self.asked, str(video), None, None
        return self.asked, str(video), facts.st_size, facts.st_mtime_ns

    def _read(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """The finished lines; a last one that a kill cut short is taken away."""
        self._file.seek(0)
        found, end = {}, 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                told = json.loads(line)
                found[tuple(told.pop(RESUME))] = told
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                cause = "is no line of `aqa score --out`"
                raise CorruptError(f"{self.path}:{number}", cause, "name another --out") from error
        self._file.truncate(end)
        return found
