"""The file of finished scores: what a killed run left, another question, another writer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, CorruptError, WriterError
from pipelines.score import find_videos, lines
from pipelines.scoring.request import Request
from pipelines.scoring.score_file import ScoreFile, question


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    return path


def test_a_finished_video_is_known_again_until_its_file_changes(tmp_path, video):
    told = {"video": str(video), "score": 12.5, "interval": {"low": None}}
    with ScoreFile(tmp_path / "s.jsonl", "q") as file:
        assert file.done(video) is None
        file.add(video, told)
    with ScoreFile(tmp_path / "s.jsonl", "q") as file:
        assert file.done(video) == told
    with ScoreFile(tmp_path / "s.jsonl", "another question") as file:
        assert file.done(video) is None
    video.write_bytes(b"12")
    with ScoreFile(tmp_path / "s.jsonl", "q") as file:
        assert file.done(video) is None
        file.add(video, told | {"score": 13.0})
    assert [json.loads(line)["score"] for line in (tmp_path / "s.jsonl").open()] == [12.5, 13.0]


def test_a_video_that_was_missing_is_tried_when_it_is_there(tmp_path):
    video = tmp_path / "late.mp4"
    with ScoreFile(tmp_path / "s.jsonl", "q") as file:
        file.add(video, {"code": "missing"})
    with ScoreFile(tmp_path / "s.jsonl", "q") as file:
        assert file.done(video) == {"code": "missing"}
        video.write_bytes(b"1")
        assert file.done(video) is None


def test_a_line_cut_short_by_a_kill_is_taken_away(tmp_path, video):
    path = tmp_path / "s.jsonl"
    with ScoreFile(path, "q") as file:
        file.add(video, {"score": 1.0})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    with ScoreFile(path, "q") as file:
        assert file.done(video) == {"score": 1.0}
    assert path.read_bytes() == whole


def test_a_second_writer_and_a_foreign_file_are_refused(tmp_path):
    path = tmp_path / "s.jsonl"
    with ScoreFile(path, "q"), pytest.raises(WriterError, match=r"another run writes it. Wait for it"):
        ScoreFile(path, "q")
    path.write_text('{"score": 1}\n')
    with pytest.raises(CorruptError, match=r"s.jsonl:1: is no line of `aqa score --out`"):
        ScoreFile(path, "q")
    assert path.read_text() == '{"score": 1}\n'


def test_a_question_is_model_poses_request_and_length():
    asked = question({"sha256": "a"}, {"poses": {}}, Request("Es1"), 120.0)
    assert asked == question({"sha256": "a"}, {"poses": {}}, Request("Es1"), 120.0)
    others = [
        question({"sha256": "b"}, {"poses": {}}, Request("Es1"), 120.0),
        question({"sha256": "a"}, {"poses": {"flip_test": True}}, Request("Es1"), 120.0),
        question({"sha256": "a"}, {"poses": {}}, Request("Es2"), 120.0),
        question({"sha256": "a"}, {"poses": {}}, Request("Es1"), 60.0),
    ]
    assert len({asked, *others}) == 5


def test_folders_give_their_videos_and_files_are_taken_as_they_are(tmp_path):
    for name in ("b/x.MP4", "b/a.mov", "b/.hidden.mp4", "b/notes.txt", "c/y.webm", "empty/z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    named = [tmp_path / "b", tmp_path / "b" / "a.mov", tmp_path / "b" / "notes.txt", tmp_path / "gone.mp4"]
    found = [path.relative_to(tmp_path).as_posix() for path in find_videos(named)]
    assert found == ["b/a.mov", "b/x.MP4", "b/notes.txt", "gone.mp4"]
    with pytest.raises(ConfigError, match=r"holds no file that ends like a video"):
        find_videos([tmp_path / "empty"])


def test_many_videos_get_a_line_each():
    interval = {"low": 10.0, "high": 20.0}
    one = {"video": "a.mp4", "score": 15.123, "interval": interval, "warnings": [{"code": "gap"}]}
    refused = {"video": "b.mp4", "code": "black", "cause": "all black", "remedy": "check the lens"}
    told = lines({"scored": [one] * 6, "refused": [refused]})
    assert told[:6] == ["   15.12 (10.0 to 20.0)  a.mp4  doubts: gap"] * 6
    assert told[6:9] == ["b.mp4: no score", "  all black", "  Check the lens."]
