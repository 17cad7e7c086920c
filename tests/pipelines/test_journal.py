from __future__ import annotations

import pytest

from pipelines.errors import CorruptError
from pipelines.journal import Journal, parent_of, root_of, sender_lock, tree

TOLD = {"tags": {}, "params": {}}


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "run")
    made.open("run", "waves", None, TOLD)
    return made


def events(journal: Journal) -> list[str]:
    return [event["event"] for event, _ in journal.read(0)]


def test_a_point_is_written_once_also_by_a_second_process(journal):
    journal.metrics({"loss": 1.0, "mae": 2.0}, 0)
    journal.metrics({"loss": 9.0}, 0)
    again = Journal(journal.run_dir)
    again.open("run", "waves", None, TOLD)
    again.metrics({"loss": 9.0, "rmse": 3.0}, 0)
    values = [event["values"] for event, _ in again.read(0) if event["event"] == "metrics"]
    assert values == [{"loss": 1.0, "mae": 2.0}, {"rmse": 3.0}]
    assert events(again) == ["run", "metrics", "metrics"]


def test_a_line_cut_off_by_a_kill_is_not_read_and_makes_room_for_the_next(journal):
    journal.set_status("RUNNING")
    with journal.path.open("ab") as file:
        file.write(b'{"event": "metr')
    again = Journal(journal.run_dir)
    assert events(again) == ["run", "status"]
    assert again.end() == sum(len(line) + 1 for line in journal.path.read_bytes().splitlines()[:2])
    again.set_status("RUNNING")  # as it was: nothing to write
    again.set_status("FINISHED")
    assert events(again) == ["run", "status", "status"]
    assert again.path.read_bytes().endswith(b"}\n")


def test_reading_goes_on_from_an_offset(journal):
    offset = journal.end()
    journal.tags({"a": "1"})
    (event, end), *rest = journal.read(offset)
    assert (event["event"], event["values"], end, rest) == ("tags", {"a": "1"}, journal.end(), [])


def test_a_damaged_line_is_named(journal):
    with journal.path.open("ab") as file:
        file.write(b"[1]\n")
    with pytest.raises(CorruptError, match=r"journal.jsonl: holds a line that is no event: b'\[1\]\\n'"):
        list(journal.read(0))


def test_a_damaged_record_of_what_was_sent_is_named(journal):
    (journal.folder / "sent.json").write_text("{")
    with pytest.raises(CorruptError, match="sent.json: is not readable as JSON. Delete it"):
        journal.sent()


def test_children_keep_their_key_and_find_their_parent_after_a_move(tmp_path):
    sweep = tmp_path / "runs" / "sweep"
    Journal(sweep).open("sweep", "waves", None, TOLD)
    for name in ("trials/0", "trials/1"):
        Journal(sweep / name).open(name, "waves", sweep, TOLD)
    key = next(Journal(sweep).read(0))[0]["key"]
    assert next(Journal(sweep / "trials/1").read(0))[0]["key"] == f"{key}/trials/1"
    (tmp_path / "runs").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "sweep"
    assert root_of(moved / "trials/1") == parent_of(moved / "trials/1") == moved
    assert tree(moved)[0] == moved
    assert sorted(tree(moved)[1:]) == [moved / "trials/0", moved / "trials/1"]


def test_a_child_of_a_run_that_is_not_tracked_is_refused(tmp_path):
    with pytest.raises(CorruptError, match="has no tracking journal"):
        Journal(tmp_path / "child").open("child", "waves", tmp_path / "parent", TOLD)


def test_one_process_at_a_time_may_send(tmp_path):
    with sender_lock(tmp_path) as first, sender_lock(tmp_path) as second:
        assert (first, second) == (True, False)
    with sender_lock(tmp_path) as third:
        assert third
