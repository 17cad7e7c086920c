"""The sender against a server of plain Python, which answers as it is told."""

from __future__ import annotations

import threading

import pytest

from pipelines import sender as sender_module
from pipelines.journal import Journal
from pipelines.sender import EVENTS_PER_REQUEST, Refused, Sender, Unanswered


class Notebook:
    """Keeps what it is sent; fails as long as it is told to."""

    def __init__(self):
        self.runs: dict[str, str | None] = {}
        self.requests: list[list[dict]] = []
        self.fails: list[Exception] = []

    def open_run(self, event, parent_id):
        self._fail()
        self.runs.setdefault(event["key"], parent_id)
        return event["key"]

    def send(self, run_id, run_dir, events):
        self._fail()
        self.requests.append(events)

    def _fail(self):
        if self.fails:
            raise self.fails.pop(0)


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "run")
    made.open("run", "waves", None, {"tags": {}, "params": {}})
    return made


def steps(server: Notebook) -> list[int]:
    return [event["step"] for request in server.requests for event in request if event["event"] == "metrics"]


def test_points_travel_together_and_once(journal):
    server = Notebook()
    for step in range(EVENTS_PER_REQUEST + 3):
        journal.metrics({"loss": 1.0}, step)
    sender = Sender(journal.run_dir, "here", lambda uri: server)
    assert sender.send()
    assert [len(request) for request in server.requests] == [EVENTS_PER_REQUEST, 3]
    journal.metrics({"loss": 1.0}, 99)
    assert sender.send()
    assert steps(server) == [*range(EVENTS_PER_REQUEST + 3), 99]


def test_a_server_that_does_not_answer_is_asked_again_and_misses_nothing(journal, caplog):
    server = Notebook()
    journal.metrics({"loss": 1.0}, 0)
    journal.tags({"a": "b"})
    sender = Sender(journal.run_dir, "http://u:secret@here", lambda uri: server)
    server.fails = [Unanswered("timed out")] * 2
    assert not sender.send()
    assert not sender.send()
    sender.send_if_due()  # pauses
    assert not server.requests
    assert sender.send()
    assert [request[0]["event"] for request in server.requests] == ["metrics", "tags"]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "MLflow at http://***@here: timed out; the run goes on, its journal keeps all",
        "MLflow at http://***@here answers again",
    ]


def test_what_a_server_refuses_is_left_out_and_the_rest_arrives(journal, caplog):
    server = Notebook()
    journal.tags({"bad": "x"})
    journal.tags({"good": "x"})
    sender = Sender(journal.run_dir, "here", lambda uri: server)
    sender.send()
    server.requests.clear()
    journal.tags({"bad": "x"})
    journal.tags({"good": "x"})
    server.fails = [Refused("invalid name")]
    assert sender.send()
    assert [request[0]["values"] for request in server.requests] == [{"good": "x"}]
    assert "refuses a tags of" in caplog.text


def test_a_server_that_refuses_the_run_itself_gets_nothing(journal):
    server = Notebook()
    journal.metrics({"loss": 1.0}, 0)
    server.fails = [Refused("no such experiment")]
    assert not Sender(journal.run_dir, "here", lambda uri: server).send()
    assert not server.requests


def test_every_server_gets_the_whole_story(journal):
    first, second = Notebook(), Notebook()
    journal.metrics({"loss": 1.0}, 0)
    assert Sender(journal.run_dir, "first", lambda uri: first).close()
    assert Sender(journal.run_dir, "second", lambda uri: second).close()
    assert steps(first) == steps(second) == [0]


def test_one_sender_serves_the_tree(journal, tmp_path):
    server = Notebook()
    child = Journal(tmp_path / "run" / "trial")
    child.open("trial", "waves", journal.run_dir, {"tags": {}, "params": {}})
    child.metrics({"loss": 1.0}, 0)

    def never(uri):
        raise AssertionError("the other process sends")

    holder = Sender(journal.run_dir, "here", lambda uri: server)
    other = Sender(journal.run_dir, "here", never)
    assert other.close()  # nothing for it to do
    assert not server.requests
    assert holder.close()
    key = next(journal.read(0))[0]["key"]
    assert server.runs == {key: None, f"{key}/trial": key}
    assert steps(server) == [0]


def test_the_end_of_a_run_says_what_is_missing(journal, caplog):
    server = Notebook()
    server.fails = [Unanswered("gone")] * 9
    assert not Sender(journal.run_dir, "here", lambda uri: server).close()
    assert f"lacks a part of {journal.run_dir}; `aqa tracking send {journal.run_dir}`" in caplog.text


def test_an_end_during_a_request_that_hangs(journal, monkeypatch):
    monkeypatch.setattr(sender_module, "LAST_WAIT_S", 0.05)
    asked, answers = threading.Event(), threading.Event()

    class Slow(Notebook):
        def open_run(self, event, parent_id):
            asked.set()
            assert answers.wait(20)
            return super().open_run(event, parent_id)

    server = Slow()
    journal.metrics({"loss": 1.0}, 0)
    sender = Sender(journal.run_dir, "here", lambda uri: server)
    thread = threading.Thread(target=sender.send_if_due)
    thread.start()
    assert asked.wait(20)
    assert not sender.close(thread)
    other = Sender(journal.run_dir, "here", lambda uri: server)
    assert not other.holds  # one at a time, also now
    answers.set()
    thread.join(20)
    assert steps(server) == [0]  # what had begun was finished
    assert not sender.holds
    assert other.close()
    assert other.send()
