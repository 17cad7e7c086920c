"""`aqa data check` and `aqa data split`: audits with known answers, and the real sets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli, data_check
from pipelines.datasets.subject_splits import read_all_splits
from pipelines.errors import ConfigError

DATA = Path(os.environ.get("AQA_TEST_DATA", "."))
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")


def small_kimore(folder: Path) -> Path:
    """Two subjects; B_ID1 lacks Es2, E_ID1 lacks the score of Es2, and one joint is not a number."""
    folder.mkdir()
    xyz = np.ones((4, 25, 3), np.float32)
    broken = xyz.copy()
    broken[1, 2] = np.nan
    np.savez(folder / "positions.npz", B_ID1_Es1=xyz, E_ID1_Es1=broken, E_ID1_Es2=xyz)
    lines = ["sample,subject,group,exercise,TS", "B_ID1_Es1,B_ID1,BackPain,1,20"]
    lines += ["E_ID1_Es1,E_ID1,Expert,1,40", "E_ID1_Es2,E_ID1,Expert,2,nan"]
    (folder / "samples.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_an_audit_counts_hashes_and_names_what_is_missing(tmp_path: Path):
    found = data_check.check("kimore", small_kimore(tmp_path / "k"))
    counts = found["counts"]
    assert (counts["recordings"], counts["subjects"], counts["frames"], counts["labelled"]) == (3, 2, 12, 2)
    assert counts["masked_joints"] == 1
    assert counts["subjects_by_group"] == {"BackPain": 1, "Expert": 1}
    assert found["missing_cells"] == ["B_ID1 Es2"]
    assert found["missing_scores"] == ["E_ID1_Es2"]
    assert found["as_known"] is False
    assert found["known"]["recordings"] == {"found": 3, "known": 383, "same": False}
    assert [Path(item["file"]).name for item in found["files"]] == ["positions.npz"]
    text = data_check.check_lines(found)
    assert "recordings: 3  KNOWN: 383" in text
    assert "missing cells are 1: B_ID1 Es2" in text
    assert text[-1].startswith("other than the published set: recordings, usable, subjects")


def test_subjects_whose_scores_are_no_thirds_are_flagged(tmp_path: Path):
    """Thirds rounded to 6 decimals, as published, are not flagged."""
    folder = small_kimore(tmp_path / "k")
    assert data_check.check("kimore", folder)["known"]["subjects_rated_otherwise"]["found"] == 0
    table = (folder / "samples.csv").read_text()
    (folder / "samples.csv").write_text(
        table.replace(",1,20", ",1,28.210081").replace(",1,40", ",1,40.666667")
    )
    found = data_check.check("kimore", folder)
    assert found["subjects_rated_otherwise"] == ["B_ID1"]
    assert found["known"]["subjects_rated_otherwise"] == {"found": 1, "known": 5, "same": False}
    text = data_check.check_lines(found)
    assert "scores that are no multiples of 1/3, another way of rating: B_ID1" in text
    assert "subjects rated otherwise: 1  KNOWN: 5" in text
    (tmp_path / "clips.csv").write_text("uri,score\na.mp4,1.23\n")
    assert "subjects_rated_otherwise" not in data_check.check("manifest", tmp_path / "clips.csv")["counts"]


def test_the_hash_is_of_the_keypoints_and_not_of_their_file(tmp_path: Path):
    first = data_check.check("kimore", small_kimore(tmp_path / "a"))
    folder = small_kimore(tmp_path / "b")
    with np.load(folder / "positions.npz", allow_pickle=False) as file:
        arrays = dict(file)
    np.savez_compressed(folder / "positions.npz", **dict(reversed(arrays.items())))
    second = data_check.check("kimore", folder)
    assert first["content_sha256"] == second["content_sha256"]
    assert first["files_sha256"] != second["files_sha256"]
    arrays["E_ID1_Es2"][0, 0, 0] += 1
    np.savez(folder / "positions.npz", **arrays)
    assert data_check.check("kimore", folder)["content_sha256"] != second["content_sha256"]


def test_clips_without_keypoints_are_counted_too(tmp_path: Path):
    (tmp_path / "clips.csv").write_text("uri,score\na.mp4,1\nb.mp4,\n")
    found = data_check.check("manifest", tmp_path / "clips.csv")
    assert (found["counts"]["recordings"], found["missing_scores"]) == (2, ["b"])
    text = data_check.check_lines(found)
    assert text[-1] == "no figures of a published copy are known for this kind of data"
    with pytest.raises(ConfigError, match="kimroe: unknown kind of data. Did you mean 'kimore'"):
        data_check.check("kimroe", tmp_path)


def test_the_commands(tmp_path: Path, capsys):
    folder = small_kimore(tmp_path / "k")
    assert cli.main(["data", "check", "kimore", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["recordings"] == 3
    store, out = str(tmp_path / "store"), str(tmp_path / "two.csv")
    assert cli.main(["data", "import", "kimore", str(folder), "--store", store]) == 0
    assert cli.main(["data", "split", store, "--folds", "2", "--out", out]) == 0
    splits = read_all_splits(Path(out))
    assert [sorted(parts) for parts in splits] == [["B_ID1", "E_ID1"]] * 2
    capsys.readouterr()
    arguments = ["data", "split", store, "--published", out, "--out", str(tmp_path / "again.csv"), "--json"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["splits"] == 2
    assert (tmp_path / "again.csv").read_text() == Path(out).read_text()
    given = ["--splits", out, "--split-index", "1"]
    assert cli.main(["data", "import", "kimore", str(folder), "--store", store, *given]) == 0
    capsys.readouterr()
    assert cli.main(["data", "split", store, "--folds", "2", "--leave-one-out", "--out", out]) == 2
    assert "there is not exactly one way to split" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.data
@needs_data
@pytest.mark.parametrize("kind", ["kimore", "utkinect", "nw_ucla"])
def test_the_real_sets_are_the_published_ones(kind: str):
    found = data_check.check(kind, DATA / kind)
    assert [name for name, item in found["known"].items() if not item["same"]] == []
    assert len(found["known"]) >= 7
    if kind == "kimore":
        assert found["subjects_rated_otherwise"] == ["B_ID3", "B_ID4", "P_ID10", "S_ID5", "S_ID6"]
    assert found["content_sha256"] == data_check.KNOWN_CONTENT[kind]


@pytest.mark.slow
@pytest.mark.data
@needs_data
def test_published_splits_folds_and_leave_one_out_of_kimore(tmp_path: Path, capsys):
    store, source = str(tmp_path / "store"), str(DATA / "kimore")
    assert cli.main(["data", "import", "kimore", source, "--store", store]) == 0
    published = str(DATA / "kimore" / "subject_splits.csv")
    for arguments, splits in (
        (["--published", published], 10),
        (["--folds", "5"], 5),
        (["--leave-one-out"], 77),
    ):
        out = tmp_path / f"{splits}.csv"
        capsys.readouterr()
        assert cli.main(["data", "split", store, *arguments, "--out", str(out), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["splits"], document["subjects"], document["warnings"]) == (splits, 77, [])
        assert len(read_all_splits(out)) == splits
    assert read_all_splits(tmp_path / "10.csv") == read_all_splits(Path(published))
