"""MTL-AQA's annotations, and what it shares with FineDiving."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.data import clips_of, import_, put
from pipelines.datasets.dive_leaks import leak_lines, leaks
from pipelines.datasets.fine_diving import read_fine_diving
from pipelines.datasets.mtl_aqa import read_mtl_aqa
from pipelines.errors import ConfigError, DataError

sys.path.insert(0, str(Path(__file__).parent))

from dive_files import dive, write_fine_diving, write_mtl_aqa

DATA = Path(os.environ.get("AQA_TEST_DATA", "."))
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")


def test_a_dive_becomes_a_clip(tmp_path: Path):
    clips, report = read_mtl_aqa(write_mtl_aqa(tmp_path / "m"))
    assert clips["clip_id"].to_pylist() == ["01_1", "26_4"]
    clip = clips.to_pylist()[0]
    assert (clip["dataset"], clip["uri"], clip["split"]) == ("mtl_aqa", "01/1", "train")
    assert (clip["action_type"], clip["score"], clip["end_s"]) == ("107b", 60.0, 50 / 25)
    assert (clip["transitions_s"], clip["procedures"], clip["subject_id"]) == (None, None, None)
    assert report["judges"] == {"7": {"dives": 2, "not_by_the_rules": []}}  # 6 + 7 + 7, times 3
    assert report["steps"] == {}


def test_steps_come_from_the_same_dive_of_fine_diving(tmp_path: Path):
    other = write_fine_diving(tmp_path / "f")
    clips, report = read_mtl_aqa(write_mtl_aqa(tmp_path / "m"), steps_from=other)
    same, alone = clips.to_pylist()
    assert (same["transitions_s"], same["end_s"]) == ([10 / 25, 30 / 25], 60 / 25)
    assert same["procedures"] == ["Forward", "2 Soms.Tuck", "Entry"]
    assert (alone["transitions_s"], alone["end_s"]) == (None, 50 / 25)
    assert "dives that FineDiving does not hold, so without transitions: 1" in report["warnings"]
    write_fine_diving(
        other, {("01", 1): dive(score=61.0), ("01", 2): dive()}
    )  # of the same name, not the same
    assert read_mtl_aqa(tmp_path / "m", steps_from=other)[0]["transitions_s"].null_count == 2


@pytest.mark.parametrize(
    ("dives", "cause"),
    [
        ({(1, 1): {}}, r"dive \(1, 1\), column dive_number: expected a text"),
        ({("1", 1): {}}, r"key \('1', 1\): expected a dive such as \(1, 35\)"),
        (
            {(1, 1): {"start_frame": 9, "end_frame": 9}},
            "column end_frame: found 9, expected a frame after start_fr",
        ),
        ({(1, 1): {"judge_scores": np.zeros((2, 2))}}, "column judge_scores: .*expected 1 to 11 numbers"),
        ({(1, 1): {"judge_scores": []}}, r"column judge_scores: found \[\], expected 1 to 11 numbers"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, dives: dict, cause: str):
    with pytest.raises(DataError, match=f"(?s){cause}"):
        read_mtl_aqa(write_mtl_aqa(tmp_path / "m", dives))


def test_one_store_takes_one_of_the_two(tmp_path: Path):
    fine, mtl = write_fine_diving(tmp_path / "f"), write_mtl_aqa(tmp_path / "m")
    store = tmp_path / "store"
    put(store, "fine_diving", import_("fine_diving", fine)[0], None)
    with pytest.raises(
        ConfigError, match="clip 01_1 of mtl_aqa is in the store as one of fine_diving. Import each"
    ):
        put(store, "mtl_aqa", import_("mtl_aqa", mtl, steps_from=fine)[0], None)
    put(store, "fine_diving", import_("fine_diving", fine, rate_hz=50)[0], None)
    assert clips_of(store)["end_s"].to_pylist() == [60 / 50] * 3


def test_leaks_are_named_both_ways(tmp_path: Path):
    fine, _ = read_fine_diving(write_fine_diving(tmp_path / "f"))  # 01_1 is a test dive
    mtl, _ = read_mtl_aqa(write_mtl_aqa(tmp_path / "m"))  # 01_1 is a training dive
    report = leaks(fine, mtl)
    assert report == {"shared": 1, "other_score": [], "test_in_first": ["01_1"], "test_in_second": []}
    assert leak_lines(report, "F", "M") == [
        "1 clips are in both, 0 of them with another score",
        "1 test clips of F are training clips of M: 01_1",
        "0 test clips of M are training clips of F",
    ]


def test_the_command_line_imports_both_and_names_leaks(tmp_path: Path, capsys):
    fine, mtl = write_fine_diving(tmp_path / "f"), write_mtl_aqa(tmp_path / "m")
    stores = [str(tmp_path / "fine"), str(tmp_path / "mtl")]
    (tmp_path / "v").mkdir()
    videos = ["--videos", str(tmp_path / "v")]
    assert main(["data", "import", "fine_diving", str(fine), "--store", stores[0], *videos]) == 0
    assert "3 dives, steps per dive: 3 in 3" in capsys.readouterr().out
    assert main(["data", "import", "mtl_aqa", str(mtl), "--store", stores[1], "--steps-from", str(fine)]) == 0
    capsys.readouterr()
    assert main(["data", "leaks", *stores, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"shared": 1, "other_score": [], "test_in_first": ["01_1"], "test_in_second": []}
    assert main(["data", "import", "fine_diving", str(mtl), "--store", stores[0]]) == DataError.exit_code
    assert "the folder holds no fine-grained_annotation_aqa.pkl" in capsys.readouterr().err


@pytest.mark.data
@needs_data
def test_the_published_annotations_read_as_promised():
    clips, report = read_mtl_aqa(DATA / "mtl_aqa", steps_from=DATA / "finediving")
    rows = clips.to_pylist()
    assert clips["split"].to_pylist() == ["train"] * 1059 + ["test"] * 353
    assert len({row["action_type"] for row in rows}) == 58
    assert len({row["difficulty"] for row in rows}) == 23
    assert len({row["clip_id"].split("_")[0] for row in rows}) == 15
    assert sum(row["transitions_s"] is not None for row in rows) == 1369
    alone, _ = read_mtl_aqa(DATA / "mtl_aqa")
    frames = np.array([row["end_s"] * 25 for row in alone.to_pylist()])
    assert (round(frames.min()), round(frames.max()), round(frames.mean(), 1)) == (54, 273, 106.2)
    assert (min(row["score"] for row in rows), max(row["score"] for row in rows)) == (0, 104.5)
    assert report["judges"]["7"]["dives"] == 1412


@pytest.mark.data
@needs_data
def test_dives_that_leak_between_the_published_splits():
    fine, _ = read_fine_diving(DATA / "finediving")
    mtl, _ = read_mtl_aqa(DATA / "mtl_aqa")
    report = leaks(fine, mtl)
    assert (report["shared"], report["other_score"]) == (1369, [])
    assert (len(report["test_in_first"]), len(report["test_in_second"])) == (249, 268)
