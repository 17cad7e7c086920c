"""FineDiving's annotations: tiny made files, and the published ones."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.data import import_, put, report_lines
from pipelines.datasets.fine_diving import read_fine_diving
from pipelines.errors import ConfigError, DataError, SecurityError
from pipelines.fit import check_subjects
from pipelines.schema import CLIPS

sys.path.insert(0, str(Path(__file__).parent))

from dive_files import ENTRY, FORWARD, SOMERSAULT, dive, write_fine_diving
from dive_files import put as put_pickle

DATA = Path(os.environ.get("AQA_TEST_DATA", ".")) / "finediving"
HOSTILE = Path(os.environ.get("AQA_TEST_DATA", ".")) / "malicious"
PICKLES = sorted(path.name for path in HOSTILE.glob("*.pkl")) if "AQA_TEST_DATA" in os.environ else []
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")


def test_a_dive_becomes_a_clip(tmp_path: Path):
    clips, report = read_fine_diving(write_fine_diving(tmp_path / "f"))
    assert clips.schema.equals(CLIPS, check_metadata=True)
    assert clips["clip_id"].to_pylist() == ["01_2", "Cup_r1_0", "01_1"]  # train, then test
    clip = clips.to_pylist()[0]
    assert (clip["split"], clip["action_type"], clip["score"], clip["difficulty"]) == (
        "train",
        "107b",
        66.0,
        3.0,
    )
    assert (clip["dataset"], clip["subject_id"], clip["uri"]) == ("fine_diving", None, "01/2")
    assert (clip["start_s"], clip["end_s"]) == (None, 60 / 25)
    assert clip["transitions_s"] == [10 / 25, 30 / 25]
    assert clip["procedures"] == ["Forward", "2 Soms.Tuck", "Entry"]
    assert clip["judge_scores"] == [7.0, 7.0, 6.0]
    assert report["judges"] == {"3": {"dives": 3, "not_by_the_rules": ["01_2"]}}
    assert report["steps"] == {"3": 3}
    assert report["few_training_dives"] == {"107b": 2}
    assert report["warnings"] == [
        "the scores of 3 judges do not give the score by the rules: 1 of 3 dives (01_2)",
        "dive numbers with fewer than 10 training dives: 1 (107b)",
    ]


def test_all_steps_are_kept_even_repeated_ones(tmp_path: Path):
    runs = ((FORWARD, 5), (SOMERSAULT, 4), (29, 3), (SOMERSAULT, 2), (ENTRY, 1))
    folder = write_fine_diving(
        tmp_path / "f", {("a", 1): dive(runs=runs), ("a", 2): dive(runs=((FORWARD, 3),))}
    )
    clips, report = read_fine_diving(folder, rate_hz=50.0)
    one, whole = clips.to_pylist()
    assert (one["transitions_s"], one["procedures"]) == ([], ["Forward"])
    assert whole["transitions_s"] == [5 / 50, 9 / 50, 12 / 50, 14 / 50]
    assert whole["procedures"] == ["Forward", "2 Soms.Tuck", "0.5 Twist", "2 Soms.Tuck", "Entry"]
    assert whole["end_s"] == 15 / 50
    assert report["steps"] == {"1": 1, "5": 1}


def test_videos_and_pictures_are_found(tmp_path: Path):
    folder, videos = write_fine_diving(tmp_path / "f"), tmp_path / "videos"
    (videos / "01" / "2").mkdir(parents=True)
    (videos / "01" / "1.mp4").touch()
    clips, report = read_fine_diving(folder, videos)
    uris = dict(zip(clips["clip_id"].to_pylist(), clips["uri"].to_pylist(), strict=True))
    assert uris == {
        "01_2": str(videos / "01/2"), "01_1": str(videos / "01/1.mp4"), "Cup_r1_0": str(videos / "Cup_r1/0")
    }  # fmt: skip
    assert report["missing_files"] == {
        "count": 1,
        "first": [{"where": "dive", "uri": str(videos / "Cup_r1/0")}],
    }
    with pytest.raises(DataError, match="videos/none: there is no such folder. Give the folder that holds"):
        read_fine_diving(folder, videos / "none")


def test_judges_and_names_may_be_absent(tmp_path: Path):
    folder = write_fine_diving(tmp_path / "f")
    (folder / "FineDiving_coarse_annotation.pkl").unlink()
    (folder / "Sub_action_Types_Table.pkl").unlink()
    clips, report = read_fine_diving(folder)
    assert clips["judge_scores"].null_count == clips["procedures"].null_count == 3
    assert "there is no FineDiving_coarse_annotation.pkl, so no judge's score is known" in report["warnings"]
    assert "there is no Sub_action_Types_Table.pkl, so the sub-actions have no names" in report["warnings"]


def test_the_coarse_file_may_lack_dives_or_say_something_else(tmp_path: Path):
    record = {"action_type": "107B", "dive_score": 60.0, "difficulty": 3.1, "judge_scores": [7.0, 7.0, 6.0]}
    folder = write_fine_diving(tmp_path / "f", coarse={("01", 1): record})
    _, report = read_fine_diving(folder)
    name = "FineDiving_coarse_annotation.pkl"
    assert f"{name} has another number, score or difficulty: 01_1" in report["warnings"]
    assert f"{name} lacks 01_2, Cup_r1_0" in report["warnings"]


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        (
            {"dives": {("01", 1): dive(score=float("nan"))}},
            r"dive \('01', 1\), column dive_score: found nan, expec",
        ),
        ({"dives": {("01", 1): dive(number=7)}}, "column action_type: found 7, expected a text; restore"),
        ({"dives": {("01", 1): dive()[:4]}}, "column frames_labels: expected one whole number per frame"),
        (
            {"dives": {("01", 1): [*dive()[:4], np.zeros((2, 2), int)]}},
            "expected one whole number per frame, 1 to",
        ),
        ({"dives": {("01", 1): "x"}}, "found 'x', expected a record of named values; restore the file"),
        ({"dives": {("../x", 1): dive()}}, r"key \('../x', 1\): expected a dive such as \('01', 35\)"),
        ({"dives": {("..", 1): dive()}}, r"key \('..', 1\): expected a dive"),
        ({"dives": {"01": dive()}}, "key '01': expected a dive such as"),
        (
            {"dives": {("01", 1): dive(runs=((77, 3),))}, "test": [("01", 1)], "train": [("01", 1)]},
            "each dive once",
        ),
        ({"dives": {}}, "holds a dict, not a dictionary of dives. Give the folder of the published"),
        ({"train": []}, "train_split.pkl: holds a list, not a list of dives"),
        (
            {"train": [("01", 9)]},
            r"entry 0: found \('01', 9\), expected an annotated dive; give files of one",
        ),
        ({"train": [["01", 1]]}, r"entry 0: found \['01', 1\], expected a dive such as"),
        ({"train": [("01", ("x",))]}, "entry 0: found .* expected a dive such as"),
        (
            {"train": [("01", 1)]},
            "test_split.pkl: 1 problem.* expected each dive once, but it is in train already",
        ),
        (
            {"coarse": {("01", 1): {"judge_scores": ["x"]}}},
            "column judge_scores: found .'x'., expected 1 to 11 num",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changed: dict, cause: str):
    with pytest.raises(DataError, match=f"(?s){cause}"):
        read_fine_diving(write_fine_diving(tmp_path / "f", **changed))


def test_a_label_without_name_is_named(tmp_path: Path):
    dives = {("01", k): dive(runs=((77, 3),)) for k in (1, 2)}
    with pytest.raises(DataError, match="sub-action 77 of clip 01_2 has no name in the table of sub-actions"):
        read_fine_diving(write_fine_diving(tmp_path / "f", dives))
    folder = write_fine_diving(tmp_path / "f")
    put_pickle(folder / "Sub_action_Types_Table.pkl", {"1": "Forward"})
    with pytest.raises(DataError, match="Sub_action_Types_Table.pkl: is no table of numbers and names"):
        read_fine_diving(folder)


def test_a_wrong_folder_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere: there is no such folder. Give the folder of the published"):
        read_fine_diving(tmp_path / "nowhere")
    with pytest.raises(DataError, match="the folder holds no fine-grained_annotation_aqa.pkl"):
        read_fine_diving(tmp_path)


def test_options_fit(tmp_path: Path):
    folder = write_fine_diving(tmp_path / "f")
    with pytest.raises(ConfigError, match="leave out steps_from|Leave out steps_from"):
        import_("fine_diving", folder, steps_from=folder)
    with pytest.raises(ConfigError, match="rate_hz: is -1. Give frames per second above 0"):
        import_("fine_diving", folder, rate_hz=-1)
    clips, poses, report = import_("fine_diving", folder, rate_hz=50)
    assert poses is None
    assert clips["end_s"].to_pylist() == [60 / 50] * 3
    assert report_lines(report)[:2] == [
        "3 dives, steps per dive: 3 in 3",
        "frames per dive: 60.000 on average, 3 below 96",
    ]


def test_poses_alone_do_not_erase_what_is_known_of_a_dive(tmp_path: Path):
    folder = write_fine_diving(tmp_path / "f")
    clips, _, _ = import_("fine_diving", folder)
    store = tmp_path / "store"
    assert put(store, "fine_diving", clips, None)["new_clips"] == 3
    (tmp_path / "poses" / "01").mkdir(parents=True)
    for index in (1, 7):
        np.savez(tmp_path / "poses" / "01" / f"pred_comp_{index}.npz", pred=np.ones((96, 16, 2), np.float32))
    bare, poses, _ = import_("finediving-pose", tmp_path / "poses", rate_hz=25.0)
    report = put(store, "finediving-pose", bare, poses)
    assert (report["new_clips"], report["changed_clips"], report["new_poses"]) == (1, 0, 2)
    from pipelines.store import open_store

    rows = {row["clip_id"]: row for row in open_store(store).clips.read().to_pylist()}
    assert rows["01_1"]["score"] == 60.0
    assert rows["01_7"]["score"] is None


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("name", PICKLES)
def test_hostile_pickles_are_refused_in_every_place(tmp_path: Path, name: str, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for target in ("fine-grained_annotation_aqa.pkl", "test_split.pkl", "Sub_action_Types_Table.pkl"):
        folder = write_fine_diving(tmp_path / "f")
        (folder / target).write_bytes((HOSTILE / name).read_bytes())
        with pytest.raises((SecurityError, DataError), match=target):
            read_fine_diving(folder)
    assert not list(tmp_path.rglob("PWNED*"))


@pytest.mark.data
@needs_data
def test_the_published_annotations_read_as_promised():
    start = time.perf_counter()
    clips, report = read_fine_diving(DATA)
    assert time.perf_counter() - start < 20
    rows = clips.to_pylist()
    assert [clips["split"].to_pylist().count(split) for split in ("train", "test")] == [2251, 749]
    assert clips["split"].to_pylist() == ["train"] * 2251 + ["test"] * 749
    assert len({row["action_type"] for row in rows}) == 52
    assert report["steps"] == {"3": 2205, "4": 537, "5": 258}
    assert report["frames"] == {"mean": pytest.approx(104.085, abs=5e-4), "below_96": 489}
    wrong = {
        size: (panel["dives"], len(panel["not_by_the_rules"])) for size, panel in report["judges"].items()
    }
    assert wrong == {"3": (1024, 1024 - 1011), "5": (607, 607 - 599), "7": (1369, 1369 - 1270)}
    assert len(report["few_training_dives"]) == 23
    few = sum(row["split"] == "test" and row["action_type"] in report["few_training_dives"] for row in rows)
    assert few == 31
    assert {len(row["transitions_s"]) + 1 == len(row["procedures"]) for row in rows} == {True}
    assert sum(len(set(row["procedures"])) < len(row["procedures"]) for row in rows) == 253
    check_subjects(clips)  # every dive is a person of its own, so none crosses the splits


@pytest.mark.data
@needs_data
def test_the_published_table_agrees_with_another_reading():
    import pyarrow.parquet as pq

    clips, _ = read_fine_diving(DATA)
    rows = {row["clip_id"]: row for row in clips.to_pylist()}
    others = pq.read_table(DATA / "annotations.parquet").to_pylist()
    assert len(rows) == len(others) == 3000
    for other in others:
        row = rows[f"{other['competition']}_{other['index']}"]
        assert (row["action_type"], row["score"]) == (other["action_type"], other["dive_score"])
        assert (row["difficulty"], row["split"]) == (other["difficulty"], other["split"])
        assert row["judge_scores"] == other["judge_scores"]
        assert round(row["end_s"] * 25) == other["end_frame"] - other["start_frame"] + 1
        firsts = [round(time * 25) for time in row["transitions_s"]]
        values = other["frames_labels"]
        assert [k for k in range(1, len(values)) if values[k] != values[k - 1]] == firsts
