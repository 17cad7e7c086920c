"""`aqa score` from the command line: rendered videos, the real pose network, one process."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from rendered_expert import film

from pipelines import cli, demo
from pipelines.checkpoint import save_bundle


def run(capsys, *words: object) -> tuple[int, dict, str]:
    """Exit code, the JSON document, stderr."""
    code = cli.main(["score", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def bundle(folder: Path, **description) -> Path:
    """A run folder that holds a model of this description and no weights worth the name."""
    save_bundle(folder / "model", {}, description)
    return folder


@pytest.mark.parametrize(
    ("description", "cause"),
    [
        ({"kind": "angles"}, "reads 3-D poses, and a video gives 2-D ones"),
        ({"kind": "nonexpert"}, "is a model of kind 'nonexpert', which gives no score"),
        ({"kind": "expert", "num_coordinates": 3}, "learned from 3-D poses, and a video gives 2-D ones"),
        ({"kind": "expert", "classes": {"a": 1, "b": 2}}, r"tells groups \(a, b\), not scores"),
    ],
)
def test_a_model_that_cannot_score_videos_is_refused(capsys, tmp_path, description, cause):
    code, told, _ = run(capsys, "any.mp4", "--model", bundle(tmp_path / "run", **description))
    assert code == told["error"]["exit_code"] == 2
    assert re.search(cause, told["error"]["cause"])
    assert "give a" in told["error"]["remedy"] or "train" in told["error"]["remedy"]


def test_a_wrong_command_line_is_refused_before_the_work(capsys, tmp_path):
    here = bundle(tmp_path / "run", kind="expert")
    for words, cause in (
        (("a.mp4", "--overlay", tmp_path / "o.avi"), "does not end with .mp4"),
        (("a.mp4", "--report", tmp_path / "no" / "o.html"), "does not exist"),
        (("a.mp4", "b.mp4", "--report", tmp_path / "o.html"), "there are several videos"),
        (("a.mp4", "--workers", 2, "--report", tmp_path / "o.html"), "--workers scores in others"),
        (("a.mp4", "--box", "1,2,3"), "is no box"),
        (("a.mp4", "--box", "5,5,1,9"), "is no box"),
    ):
        code, told, _ = run(capsys, *words, "--model", here)
        assert code == 2
        assert cause in told["error"]["cause"]
    assert cli.main(["score", "--model", str(here)]) == 2
    assert "error: command line" in capsys.readouterr().err


def test_the_demo_ends_with_a_command_that_scores_one_of_its_videos(tmp_path):
    (tmp_path / "data").mkdir()
    rows = ["c0,videos/c0.mp4,407C,test", "c1,videos/c1.mp4,Es1,train", "c2,videos/c2.mp4,Es2,test"]
    (tmp_path / "data" / "clips.csv").write_text("\n".join(["clip_id,uri,action_type,split", *rows]))
    words = demo.score_line(tmp_path).split()
    assert words[:3] == ["aqa", "score", str(tmp_path / "data" / "videos" / "c2.mp4")]
    assert words[3:7] == ["--model", str(tmp_path / "runs" / "expert"), "--action-type", "Es2"]


@pytest.mark.slow
def test_a_video_scores_as_its_clip_was_evaluated(trained, capsys, tmp_path):
    rows = pq.read_table(trained / "runs" / "expert" / "predictions.parquet").to_pylist()
    row = rows[0]
    video = trained / "data" / "videos" / f"{row['clip_id']}.mp4"
    words = ("--model", trained / "runs" / "expert", "--action-type", row["action_type"])
    overlay, report = tmp_path / "o.mp4", tmp_path / "o.html"
    code, told, _ = run(capsys, video, *words, "--overlay", overlay, "--report", report)
    assert code == 0
    (one,) = told["scored"]
    assert one["score"] == pytest.approx(row["predicted"], abs=1e-5)
    assert one["base"]["points"] + sum(p["delta"] for p in one["parts"]) == pytest.approx(one["score"])
    assert "other_extraction" not in [doubt["code"] for doubt in one["warnings"]]
    assert set(one["distances"]) == {"view", "movement"}
    assert report.stat().st_size > 50_000
    with av.open(str(video)) as source, av.open(str(overlay)) as made:
        assert sum(1 for _ in made.decode(video=0)) == sum(1 for _ in source.decode(video=0))
    moved = tmp_path / "moved"
    shutil.copytree(trained / "runs" / "expert" / "model", moved / "model")
    description = json.loads((moved / "model" / "config.json").read_text())
    description["provenance"]["store"] = str(tmp_path / "gone")
    (moved / "model" / "config.json").write_text(json.dumps(description))
    code, told, _ = run(
        capsys, video, "--model", moved, "--action-type", row["action_type"], "--sampling", "fps:5"
    )
    assert told["scored"][0]["score"] == pytest.approx(row["predicted"], abs=1e-5)
    assert [doubt["code"] for doubt in told["scored"][0]["warnings"]] == ["not_compared"]
    assert told["scored"][0]["interval"]["low"] is None
    code, told, _ = run(capsys, video, "--model", moved, "--action-type", row["action_type"],
                        "--store", trained / "store", "--end-s", "1.5")  # fmt: skip
    assert told["scored"][0]["end_s"] < 1.5


@pytest.mark.slow
def test_videos_without_an_answer_are_refused_one_by_one(trained, capsys, tmp_path):
    noise = np.random.default_rng(0)
    black = film(tmp_path / "black.mp4", [np.zeros((128, 128, 3), np.uint8)] * 30)
    nobody = film(tmp_path / "noise.mp4", [noise.integers(0, 255, (128, 128, 3), np.uint8)] * 30)
    text = tmp_path / "notes.mp4"
    text.write_text("no video at all")
    long = film(
        tmp_path / "long.mp4", [np.full((64, 64, 3), 9 * (n % 20), np.uint8) for n in range(300)], rate=2
    )
    gone = tmp_path / "gone.mp4"
    words = ("--model", trained / "runs" / "expert", "--action-type", "Es1", "--max-seconds", 100)
    code, told, _ = run(capsys, black, nobody, text, long, gone, *words)
    assert code == 3
    assert told["scored"] == []
    assert [one["code"] for one in told["refused"]] == [
        "black",
        "no_person",
        "not_media",
        "too_long",
        "missing",
    ]
    assert "lasts more than 100 s" in told["refused"][3]["cause"]
    assert "--start-s" in told["refused"][3]["remedy"]
    assert "mean confidence of the joints" in told["refused"][1]["cause"]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
def test_real_videos_get_a_score_with_doubts_or_a_reason(trained, capsys):
    folder = Path(os.environ["AQA_TEST_DATA"]) / "videos"
    names = (
        "decord__video_90.mov",
        "movenet-dance-demo__KeithNotationPhrase_track0.mp4",
        "mp4parse-rust__white.mp4",
    )
    words = ("--model", trained / "runs" / "expert", "--action-type", "Es1", "--end-s", "1")
    _, told, _ = run(capsys, *(folder / name for name in names), *words)
    assert len(told["scored"]) + len(told["refused"]) == len(names)
    assert all(one["warnings"] for one in told["scored"])  # a network of rendered people doubts real ones
    assert all(one["cause"] and one["remedy"] for one in told["refused"])
