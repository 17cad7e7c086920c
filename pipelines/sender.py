"""Sends journals to a server: one process per tree of runs, in the background, as often as it takes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from pipelines.journal import Journal, parent_of, sender_lock, tree
from pipelines.redact import redact

LAST_WAIT_S, LONGEST_PAUSE_S = 15.0, 30.0
EVENTS_PER_REQUEST = 25  # MLflow takes 1000 points at a time, and an event has some tens at most
_log = logging.getLogger(__name__)


class Unanswered(Exception):
    """The server is slow, stopped, gone or does not let us in."""


class Refused(Exception):
    """The server will never take this event."""


class Server(Protocol):
    """What a sender needs of a tracking server; raises Unanswered or Refused."""

    def open_run(self, event: dict[str, Any], parent_id: str | None) -> str:
        """Id of the run of this key, made if there is none."""
        ...

    def send(self, run_id: str, run_dir: Path, events: list[dict[str, Any]]) -> None:
        """Events of one kind; sending them twice changes nothing."""
        ...


class Sender:
    """Brings a server up to date with the journals of a root and all runs below it.

    Args:
        root: run folder at the top.
        uri: of the server.
        connect: makes the server of a URI; called when it is this process that sends.
    """

    def __init__(self, root: Path, uri: str, connect: Callable[[str], Server]):
        self.root, self.uri, self.connect = root, uri, connect
        self.name = redact(uri)  # what is written and logged never has a password
        self.server: Server | None = None
        self._held = ExitStack()
        self._turn = threading.Lock()  # held while sending, and for letting go of the server
        self._closed = False
        self._pause, self._next = 0.0, 0.0
        self._take_lock()

    @property
    def holds(self) -> bool:
        """Whether it is this process that sends."""
        return self.server is not None

    def send_if_due(self) -> None:
        """Sends what there is, unless the server did not answer a moment ago."""
        if time.monotonic() >= self._next:
            self.send()

    def send(self) -> bool:
        """Sends what there is; whether nothing is left for this process to send."""
        with self._turn:
            if not self._take_lock():
                return True  # the process that holds the lock sends
            try:
                for run_dir in tree(self.root):
                    self._send_journal(Journal(run_dir))
            except Unanswered as error:
                if not self._pause:
                    _log.warning("MLflow at %s: %s; the run goes on, its journal keeps all", self.name, error)
                self._pause = min(LONGEST_PAUSE_S, 2 * self._pause or 1.0)
                self._next = time.monotonic() + self._pause
                return False
            finally:
                if self._closed:  # while this request hung
                    self._release()
            if self._pause:
                _log.warning("MLflow at %s answers again", self.name)
            self._pause = 0.0
            return True

    def close(self, thread: threading.Thread | None = None) -> bool:
        """Sends the rest, waiting some seconds at most; whether nothing is left.

        Args:
            thread: the one that called `send_if_due` until now, told to stop.
        """
        if thread:
            thread.join(LAST_WAIT_S)
        done = not (thread and thread.is_alive()) and self.send()
        if done:
            self._release()
            # A relative that ended between our last look and the release found the lock taken.
            while self._left() and self._take_lock() and (done := self.send()):
                self._release()
        if not done:
            _log.warning(
                "MLflow at %s lacks a part of %s; `aqa tracking send %s` sends it later",
                *(self.name, self.root, self.root),
            )
        self._closed = True
        if self._turn.acquire(timeout=1.0):  # else the thread still sends, and lets go when it is through
            self._release()
            self._turn.release()
        return done

    def _take_lock(self) -> bool:
        if self.server is None:
            with ExitStack() as stack:
                if stack.enter_context(sender_lock(self.root)):
                    self.server = self.connect(self.uri)
                    self._held = stack.pop_all()
        return self.server is not None

    def _release(self) -> None:
        self.server = None
        self._held.close()

    def _left(self) -> bool:
        journals = [Journal(run_dir) for run_dir in tree(self.root)]
        return any(j.sent().get(self.name, {}).get("offset", 0) < j.end() for j in journals)

    def _send_journal(self, journal: Journal) -> None:
        assert self.server is not None
        known = journal.sent().get(self.name, {})
        run_id, offset = known.get("run_id", ""), known.get("offset", 0)
        for events, end in _groups(journal.read(offset)):
            try:
                if events[0]["event"] == "run":
                    run_id = self.server.open_run(events[0], self._parent_id(journal.run_dir))
                else:
                    self.server.send(run_id, journal.run_dir, events)
            except Refused as error:
                _log.warning("MLflow at %s refuses a %s of %s: %s", self.name, events[0]["event"],
                             journal.run_dir, error)  # fmt: skip
                if not run_id:
                    raise Unanswered(str(error)) from error
            journal.note_sent(self.name, run_id, end)

    def _parent_id(self, run_dir: Path) -> str | None:
        parent = parent_of(run_dir)
        return Journal(parent).sent()[self.name]["run_id"] if parent else None


def _groups(events: Iterator[tuple[dict[str, Any], int]]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Neighbouring metrics together, everything else alone; each group with the offset behind it."""
    group: list[dict[str, Any]] = []
    end = 0
    for event, after in events:
        if group and (event["event"] != "metrics" or len(group) == EVENTS_PER_REQUEST):
            yield group, end
            group = []
        if event["event"] == "metrics":
            group.append(event)
            end = after
        else:
            yield [event], after
    if group:
        yield group, end
