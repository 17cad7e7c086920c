"""The verb `data`: init, validate, import, stats, and how reports read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data import clip_warnings, import_, init, report_lines, stats, validate
from pipelines.datasets import KINDS
from pipelines.datasets.manifest import read_manifest
from pipelines.errors import ConfigError, DataError, StorageError
from pipelines.schema import CLIPS, POSES, empty_row

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("AQA_TEST_DATA", ".")) / "kimore"
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
SEVEN = "B_ID8_Es4, E_ID8_Es2, NE_ID11_Es3, NE_ID11_Es5, NE_ID24_Es2, P_ID7_Es5, S_ID5_Es3"


def clips(*rows: dict) -> pa.Table:
    filled = [
        empty_row(CLIPS, **{"clip_id": f"c{index}", "uri": "u", **row}) for index, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(filled, schema=CLIPS)


def test_init_writes_a_template_that_becomes_a_manifest(tmp_path: Path):
    files = init(tmp_path / "new")
    assert [path.name for path in files] == ["clips.csv", "README.md"]
    with pytest.raises(DataError, match="there are no clips below the header"):
        validate(files[0])
    lines = files[0].read_text().splitlines()
    for name in CLIPS.names:
        assert any(line.startswith(f"# {name}: ") for line in lines), name
    example = next(line for line in lines if line.startswith("# videos/"))
    files[0].write_text("\n".join([*lines, example.removeprefix("# ")]) + "\n")
    clip = read_manifest(files[0]).to_pylist()[0]
    assert (clip["clip_id"], clip["score"], clip["split"]) == ("dive_01", 86.4, "train")


def test_init_never_overwrites(tmp_path: Path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README\.md: the file exists and is never overwritten"):
        init(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert not (tmp_path / "clips.csv").exists()
    with pytest.raises(StorageError, match="cannot be written: Not a directory"):
        init(tmp_path / "README.md" / "below")


def test_validate_counts_and_names_absent_videos(tmp_path: Path):
    (tmp_path / "a.mp4").touch()
    path = tmp_path / "clips.csv"
    path.write_text("uri,score\na.mp4,1\nb.mp4,2\ns3://x/c.mp4,\n")
    report = validate(path)
    assert report["missing_files"] == {
        "count": 1,
        "first": [{"where": "line 3", "uri": str(tmp_path / "b.mp4")}],
    }
    assert (report["stats"]["clips"], report["stats"]["labelled"]) == (3, 2)
    text = report_lines(report)
    assert "video files that do not exist: 1 (extraction will reject them)" in text
    assert f"  line 3: {tmp_path}/b.mp4" in text
    json.dumps(report, allow_nan=False)


def test_doubtful_clips_are_warned_about():
    table = clips(
        {"split": "train", "action_type": "A", "score": 5.0},
        {"split": "test", "action_type": "A", "score": 5.0},
        {"uri": "v", "action_type": "B", "score": 1.0},
        {"uri": "v", "action_type": "C"},
    )
    assert clip_warnings(table) == [
        "videos with clips in more than one split: 1, the first u",
        "all 2 scores of action type A are 5; no rank order exists",
        "action type B has a single labelled clip, so nothing to compare it with",
    ]


def test_stats_with_known_answers():
    table = clips(
        {"split": "train", "action_type": "A", "score": 1.0, "subject_id": "s", "end_s": 2.0},
        {"split": "train", "action_type": "A", "score": 4.0, "subject_id": "s", "start_s": 1.0, "end_s": 2.5},
        {"split": "test", "action_type": "B", "group": "g", "subject_id": "t"},
    )
    rows = [
        empty_row(POSES, clip_id="c0", person=0, attempts=1, status="ok", num_frames=10),
        empty_row(POSES, clip_id="c1", person=0, attempts=1, status="rejected", error_code="corrupt"),
    ]
    assert stats(table, pa.Table.from_pylist(rows, schema=POSES)) == {
        "clips": 3, "labelled": 2, "unlabelled": 1, "subjects": 2,
        "clips_per_subject": {"min": 1, "median": 1.5, "max": 2},
        "split": {"test": 1, "train": 2},
        "group": {"(none)": 2, "g": 1},
        "action_type": {
            "A": {"clips": 2, "score": {"min": 1.0, "median": 2.5, "max": 4.0}},
            "B": {"clips": 1, "score": None},
        },
        "score": {"min": 1.0, "median": 2.5, "max": 4.0},
        "span_s": {"min": 1.5, "median": 1.75, "max": 2.0},
        "status": {"ok": 1, "rejected": 1},
        "error_code": {"corrupt": 1},
        "frames": {"min": 10, "median": 10, "max": 10},
    }  # fmt: skip
    text = report_lines(stats(table))
    assert text[0] == "3 clips, 2 labelled, 1 not, 2 subjects"
    assert "action type A: 2 clips, score 1 to 4, median 2.5" in text
    assert "action type B: 1 clips, no scores" in text


def arrays(folder: Path) -> None:
    np.savez(folder / "my_positions.npz", a=np.ones((4, 17, 2)), b=np.ones((2, 17, 2)))
    (folder / "my_samples.csv").write_text("clip_id,score,subject_id\na,1,s1\nb,2,s2\n")
    (folder / "subject_splits.csv").write_text("repeat,subject,part\n0,s1,train\n0,s2,test\n")


def test_import_of_own_keypoints_with_splits(tmp_path: Path):
    arrays(tmp_path)
    options = {"skeleton": "coco17", "unit": "px", "rate_hz": 30.0}
    table, poses, report = import_("keypoints", tmp_path, split_index=0, **options)
    assert poses is not None
    assert table["split"].to_pylist() == ["train", "test"]
    assert report["stats"]["frames"] == {"min": 2, "median": 3, "max": 4}
    named = tmp_path / "my_samples.csv"
    again = import_("keypoints", tmp_path / "my_positions.npz", samples=named, **options)
    assert again[0]["split"].null_count == 2
    json.dumps(report, allow_nan=False)


def test_import_of_a_manifest_has_no_poses(tmp_path: Path):
    (tmp_path / "clips.csv").write_text("uri,action_type,score\na.mp4,A,1\n")
    table, poses, report = import_("manifest", tmp_path / "clips.csv")
    assert (len(table), poses) == (1, None)
    assert report["warnings"] == ["action type A has a single labelled clip, so nothing to compare it with"]


def test_options_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"kimroe: unknown kind of data\. Did you mean 'kimore'"):
        import_("kimroe", tmp_path)
    with pytest.raises(
        ConfigError, match=r"unknown kind of data\. Choose one of: manifest, kimore, fine_diving"
    ):
        import_("xyz", tmp_path)
    with pytest.raises(ConfigError, match="this kind of data says itself what it holds"):
        import_("kimore", tmp_path, skeleton="coco17")
    with pytest.raises(ConfigError, match=r"0 files match \*positions\*\.npz, expected one"):
        import_("keypoints", tmp_path, skeleton="coco17", unit="px", rate_hz=30.0)
    arrays(tmp_path)
    with pytest.raises(ConfigError, match="unknown skeleton ''"):
        import_("keypoints", tmp_path)
    with pytest.raises(ConfigError, match="no split number is chosen"):
        import_("keypoints", tmp_path, splits=tmp_path / "x", skeleton="coco17", unit="px", rate_hz=30.0)


def test_every_kind_is_told_apart():
    source = (ROOT / "pipelines" / "datasets" / "adapters.py").read_text()
    told = re.findall(r'kind == "(\w+)"', source)
    assert {*told, "mtl_aqa"} == set(KINDS)  # the last of the two kinds of dives needs no comparison
    assert len(told) == len(KINDS) - 1


def test_the_page_describes_every_column_and_kind():
    page = (ROOT / "docs" / "data.md").read_text()
    for table in (CLIPS, POSES):
        for field in table:
            meaning = field.metadata[b"meaning"].decode()
            row = f"| `{field.name}` | {field.type} | {meaning} |".replace("element", "item")
            assert row in page.replace("element", "item"), f"docs/data.md lacks: {row}"
    for kind in KINDS:
        assert f"`{kind}`" in page


def test_the_module_is_light():
    """The command line imports it, so no table or array library may come with it."""
    heavy = "[name for name in ('pyarrow', 'numpy', 'torch', 'ray') if name in sys.modules]"
    code = f"import sys, pipelines.data; print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.data
@needs_data
def test_the_complete_kimore_reads_as_promised():
    table, _, report = import_("kimore", DATA, split_index=3)
    text = report_lines(report)
    assert text[0] == "383 recordings of 78 subjects, 286,060 frames"
    assert text[1] == "378 labelled pairs"
    assert f"7 missing: {SEVEN}" in text
    assert "tracking state of joints: tracked 93.95%, inferred 6.05%, untracked 0.00%" in text
    assert "warning: in no split: E_ID17" in text
    parts = dict(zip(table["subject_id"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert [list(parts.values()).count(part) for part in ("train", "test", None)] == [54, 23, 1]
    json.dumps(report, allow_nan=False)


@pytest.mark.data
@needs_data
def test_the_official_folders_are_told_from_arrays():
    table, poses, report = import_("kimore", DATA / "official_layout_sample")
    assert poses is not None
    assert (len(table), len(poses), report["kind"]) == (26, 26, "kimore")
