"""What a tracked run tells MLflow, on disk first: nothing is lost while no server answers.

    RUN/tracking/journal.jsonl   one line per event, only ever appended to
    RUN/tracking/sent.json       per server: the id of the run there, and how much of the journal it has
    RUN/tracking/server          of a root: the server that it and all its children are meant for
    RUN/tracking/parent          relative path of the parent's run folder; a root has none
    RUN/tracking/children/       one file per child: relative path of its run folder
    RUN/tracking/sender.lock     held by the process that sends for a root and all its children

Events: run, status, metrics, tags, dataset, artifact, model; tracking.py sends them. Every line carries
the time at which it was written, so a line sent twice says the same thing twice, and MLflow keeps one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.checkpoint import write_durably
from pipelines.errors import CorruptError
from pipelines.redact import redact

FOLDER = "tracking"
SUMS = "SHA256SUMS"  # in a model folder: the sha256 of every file


class Journal:
    """The journal of one run folder; made on first use.

    Args:
        run_dir: the run folder.

    Raises:
        CorruptError: a line of it cannot be read.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir.absolute()
        self.folder = self.run_dir / FOLDER
        self.path = self.folder / "journal.jsonl"
        self.status = ""
        self._points: set[tuple[str, int]] = set()
        self.steps: dict[str, int] = {}
        for event, _ in self.read(0):
            self._note(event)

    @property
    def exists(self) -> bool:
        return self.path.is_file()

    def open(self, name: str, experiment: str, parent: Path | None, told: dict[str, Any]) -> None:
        """Writes the first line, once: what the run is.

        Args:
            name: shown by MLflow.
            experiment: of MLflow.
            parent: run folder of the parent; None = this run is a root.
            told: tags and params, flat.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if parent is not None:
            _adopt(parent.absolute(), self.run_dir)
        with _alone(self.folder):  # two steps of a workflow may open their parent at once
            if self.exists:
                return
            self._write("run", key=_key(self.run_dir, parent), name=name, experiment=experiment, **told)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Points of one step; a point of a name and step that is there already is left out."""
        new = {name: float(v) for name, v in values.items() if (name, step) not in self._points}
        if new:
            self._write("metrics", step=step, values=new)

    def tags(self, values: dict[str, str]) -> None:
        """Texts to find the run by; a later value replaces an earlier one."""
        self._write("tags", values={name: str(value) for name, value in values.items()})

    def dataset(self, name: str, digest: str, context: str, source: dict[str, Any]) -> None:
        """Rows that the run reads: digest of at most 36 characters, context training or evaluation."""
        self._write("dataset", name=name, digest=digest[:36], context=context, source=source)

    def artifact(self, path: Path, place: str = "") -> None:
        """A file or folder; it is read when it is sent. `place`: folder among the artifacts."""
        self._write("artifact", path=os.path.relpath(path.absolute(), self.run_dir), place=place)

    def model(self, path: Path, name: str) -> None:
        """A folder with SHA256SUMS that MLflow loads as a model; a version of `name` per content."""
        place = os.path.relpath(path.absolute(), self.run_dir)
        self._write("model", path=place, name=name, digest=digest_of(path))

    def set_status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        if status != self.status:
            self._write("status", status=status)

    def read(self, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Events from a byte offset on, each with the offset behind it; a line being written is left out."""
        if not self.exists:
            return
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                yield self._parse(line), offset

    def end(self) -> int:
        """Bytes of whole lines."""
        return self.path.read_bytes().rfind(b"\n") + 1 if self.exists else 0

    def sent(self) -> dict[str, Any]:
        """Per server `run_id` and `offset`; only the process that sends writes it."""
        path = self.folder / "sent.json"
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise CorruptError(
                path, "is not readable as JSON", "delete it; the journal is sent again"
            ) from error

    def note_server(self, uri: str) -> None:
        """Records which server a root and all below it are meant for, even if that does not answer yet."""
        with _alone(self.folder):
            write_durably(self.folder / "server", uri.encode())

    def server(self) -> str:
        """As recorded, without a password; empty if nothing is."""
        path = self.folder / "server"
        return path.read_text() if path.exists() else ""

    def note_sent(self, uri: str, run_id: str, offset: int) -> None:
        """Records what a server has."""
        sent = {**self.sent(), uri: {"run_id": run_id, "offset": offset}}
        write_durably(self.folder / "sent.json", (json.dumps(sent, indent=2) + "\n").encode())

    def _write(self, event: str, **content: Any) -> None:
        row = {"event": event, "time_ms": int(time.time() * 1000), **redact(content)}
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # training and `aqa evaluate` may write at once
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                if file.read(1) != b"\n":  # a line cut off by a kill
                    file.truncate(self.end())
            file.write((json.dumps(row) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self._note(row)

    def _note(self, event: dict[str, Any]) -> None:
        if event["event"] == "status":
            self.status = event["status"]
        if event["event"] == "metrics":
            self._points |= {(name, event["step"]) for name in event["values"]}
            self.steps |= dict.fromkeys(event["values"], event["step"])

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
            _ = row["event"], row["time_ms"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(
                self.path, f"holds a line that is no event: {line[:60]!r}", "delete this line"
            ) from error
        return row


def digest_of(folder: Path) -> str:
    """Names the whole content of a model folder: the sha256 of its SHA256SUMS."""
    return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()


def root_of(run_dir: Path) -> Path:
    """The run folder at the top of the tree a run belongs to."""
    folder = run_dir.absolute()
    while (parent := parent_of(folder)) is not None:
        folder = parent
    return folder


def parent_of(run_dir: Path) -> Path | None:
    """The run folder of the parent; None for a root."""
    pointer = run_dir / FOLDER / "parent"
    return (run_dir / pointer.read_text().strip()).resolve() if pointer.is_file() else None


def tree(root: Path) -> list[Path]:
    """Run folders of a root and all below it, parents first."""
    found = [root]
    for pointer in sorted((root / FOLDER / "children").glob("*")):
        child = (root / pointer.read_text().strip()).resolve()
        if child.is_dir():  # a child may have been deleted
            found += tree(child)
    return found


@contextlib.contextmanager
def sender_lock(root: Path) -> Iterator[bool]:
    """Whether this process may send for the root: no other does. The lock ends with its process."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sender.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _adopt(parent: Path, child: Path) -> None:
    """Links child and parent; relative, so that a folder of runs may be moved."""
    children = parent / FOLDER / "children"
    children.mkdir(parents=True, exist_ok=True)
    path = os.path.relpath(child, parent)
    write_durably(children / hashlib.sha256(path.encode()).hexdigest()[:16], path.encode())
    write_durably(child / FOLDER / "parent", os.path.relpath(parent, child).encode())


def _key(run_dir: Path, parent: Path | None) -> str:
    """What MLflow finds the run by: random for a root, the place below its parent for a child."""
    if parent is None:
        return uuid.uuid4().hex
    first = next(Journal(parent).read(0), None)
    if first is None:
        raise CorruptError(parent, "has no tracking journal", "open the parent run before its children")
    return f"{first[0]['key']}/{os.path.relpath(run_dir, parent.absolute())}"
