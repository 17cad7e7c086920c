"""`aqa score` of dives: rendered videos, the real pose network, comparison with dives that are known."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError
from pipelines.schema import CLIPS
from pipelines.scorer import Scorer
from pipelines.scoring.exemplar_file import guest_row, settle
from pipelines.scoring.request import Request, request_of
from pipelines.scoring.verdict import Part, Verdict
from pipelines.scoring.video_scorer import VideoScorer


def run(capsys, *words: object) -> tuple[int, dict]:
    """Exit code and the JSON document."""
    code = cli.main(["score", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def predictions(diver: Path) -> list[dict]:
    """Predictions of the test dives, and their difficulty."""
    with (diver / "data" / "clips.csv").open() as file:
        difficulty = {row["clip_id"]: float(row["difficulty"]) for row in csv.DictReader(file)}
    rows = pq.read_table(diver / "runs" / "dives" / "predictions.parquet").to_pylist()
    return [row | {"difficulty": difficulty[row["clip_id"]]} for row in rows]


def video_of(diver: Path, clip_id: str) -> Path:
    return diver / "data" / "videos" / f"{clip_id}.mp4"


def test_what_an_exemplar_may_be(tmp_path):
    known, mine = tmp_path / "known.mp4", tmp_path / "mine.mp4"
    for path in (known, mine):
        path.write_bytes(b"a video")
    dives = [{"clip_id": "d7", "uri": str(known)}]
    assert settle(Request(), dives) == Request()
    assert settle(Request(exemplar="d7"), dives).exemplar == "d7"
    assert settle(Request(exemplar=str(known)), dives) == Request(exemplar="d7")
    own = settle(Request(exemplar=str(mine), exemplar_score=80.0), dives)
    assert own == Request(exemplar=str(mine), exemplar_score=80.0)
    with pytest.raises(ConfigError, match=r"the score of .*mine.mp4 is not known. Say what its judges gave"):
        settle(Request(exemplar=str(mine)), dives)
    for name in ("auto", "d7", str(tmp_path / "gone.mp4")):
        with pytest.raises(ConfigError, match=r"and --exemplar names none: .*name a video file|Name a video"):
            settle(Request(exemplar=name, exemplar_score=80.0), dives)
    for score in (0.0, -3.0, float("nan")):
        with pytest.raises(ConfigError, match=r"is no score. Give points above 0"):
            settle(Request(exemplar=str(mine), exemplar_score=score), dives)
    with pytest.raises(ConfigError, match="exemplar_score: is no option of a request"):
        request_of({"exemplar": str(mine), "exemplar_score": "80"})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dive_scores_as_it_was_evaluated_everywhere(diver, capsys, tmp_path, monkeypatch):
    row = predictions(diver)[0]
    video = video_of(diver, row["clip_id"])
    words = ("--action-type", row["action_type"], "--difficulty", row["difficulty"])
    files = {"--overlay": "o.mp4", "--side-by-side": "s.mp4", "--report": "r.html"}
    shown = [word for flag, name in files.items() for word in (flag, tmp_path / name)]
    code, told = run(capsys, video, "--model", diver / "runs" / "dives", *words, *shown)
    assert code == 0, told
    (one,) = told["scored"]
    assert one["score"] == pytest.approx(row["predicted"], abs=1e-5)
    assert one["base"]["points"] + sum(p["delta"] for p in one["parts"]) == pytest.approx(one["score"])
    assert sorted(exemplar["clip_id"] for exemplar in one["exemplars"]) == sorted(row["exemplar_ids"])
    assert all(a["end_s"] == b["start_s"] for a, b in zip(one["parts"], one["parts"][1:], strict=False))
    for name in ("o.mp4", "s.mp4"):
        with av.open(str(tmp_path / name)) as made, av.open(str(video)) as source:
            assert sum(1 for _ in made.decode(video=0)) == sum(1 for _ in source.decode(video=0))
    assert (tmp_path / "r.html").stat().st_size > 50_000

    away = tmp_path / "away"  # the bundle alone: no store, no run
    shutil.copytree(diver / "runs" / "dives" / "bundle", away)
    code, told = run(capsys, video, "--model", away, *words)
    assert told["scored"][0]["score"] == pytest.approx(row["predicted"], abs=1e-5)
    monkeypatch.setenv("AQA_VIDEO_FOLDER", str(diver))
    asked = {"video": str(video), "action_type": row["action_type"], "difficulty": row["difficulty"]}
    (answer,) = Scorer(away / "artifacts" / "bundle").score_rows([asked])
    assert answer["score"] == pytest.approx(row["predicted"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dive_is_compared_with_a_named_one_and_with_a_video_of_ones_own(diver, capsys, tmp_path):
    row, other = predictions(diver)[:2]
    words = ("--action-type", row["action_type"], "--difficulty", row["difficulty"])
    words = (video_of(diver, row["clip_id"]), "--model", diver / "runs" / "dives", *words)
    named = row["exemplar_ids"][0]
    by_name = run(capsys, *words, "--exemplar", named)[1]["scored"][0]
    by_file = run(capsys, *words, "--exemplar", video_of(diver, named))[1]["scored"][0]
    assert [one["clip_id"] for one in by_file["exemplars"]] == [named]
    assert by_file["score"] == by_name["score"]

    mine = tmp_path / "mine.mp4"
    shutil.copy(video_of(diver, other["clip_id"]), mine)
    beside = tmp_path / "s.mp4"
    score = run(capsys, *words, "--exemplar", mine, "--exemplar-score", 60, "--side-by-side", beside)[1]
    (one,) = score["scored"]
    assert [(e["clip_id"], e["score"]) for e in one["exemplars"]] == [(str(mine), 60.0)]
    assert one["base"]["points"] == pytest.approx(60, abs=1e-3)
    assert one["base"]["points"] + sum(p["delta"] for p in one["parts"]) == pytest.approx(one["score"])
    assert beside.stat().st_size > 10_000
    more = run(capsys, *words, "--exemplar", mine, "--exemplar-score", 70)[1]["scored"][0]
    assert more["score"] == pytest.approx(one["score"] + 10, abs=1e-3)

    code, told = run(capsys, *words, "--exemplar", mine)
    assert code == 2
    assert "is not known" in told["error"]["cause"]
    mine.write_bytes(b"no video at all")
    code, told = run(capsys, *words, "--exemplar", mine, "--exemplar-score", 60)
    assert code == 2
    assert re.search(r"mine.mp4: no known container", told["error"]["cause"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_dive_itself_as_its_exemplar_leaves_the_score_as_it_is(diver, tmp_path):
    row = predictions(diver)[0]
    mine = tmp_path / "mine.mp4"
    shutil.copy(video_of(diver, row["clip_id"]), mine)
    asked = Request(row["action_type"], row["difficulty"], exemplar=str(mine), exemplar_score=66.0)
    with VideoScorer(diver / "runs" / "dives", ExtractConfig()) as scorer:
        found = scorer.score(video_of(diver, row["clip_id"]), asked)
        # The model is antisymmetric. Where it finds a procedure of no length, the exemplar's gets a frame,
        # which is worth a few hundredths of a point.
        assert found.verdict.score == pytest.approx(66, abs=0.05)
        assert np.abs([part.delta for part in found.verdict.parts]).max() < 0.05
        again = scorer.score(video_of(diver, row["clip_id"]), Request(row["action_type"], row["difficulty"]))
        assert str(mine) not in [one.clip_id for one in again.verdict.exemplars]
        assert again.verdict.score == pytest.approx(row["predicted"], abs=1e-5)


def test_procedures_of_no_length_get_a_frame():
    parts = [
        Part(name, begin, begin, 0.0) for name, begin in (("a", 0.0), ("b", 0.0), ("c", 0.8), ("d", 0.8))
    ]
    verdict = Verdict(9.0, 9.0, "", tuple(parts), "107B")
    time_s = np.repeat(np.arange(10) / 10, 2)  # a short video, each frame twice
    (row,) = guest_row({"clip_id": "mine"}, verdict, 60.0, time_s, CLIPS).to_pylist()
    assert row["transitions_s"] == pytest.approx([0.1, 0.8, 0.9])
    assert (row["score"], row["procedures"]) == (60.0, ["a", "b", "c", "d"])
