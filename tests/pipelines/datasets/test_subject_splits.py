"""Subject splits from a csv."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.datasets.subject_splits import (
    check_published,
    groups_of,
    k_folds,
    leave_one_out,
    read_all_splits,
    read_splits,
    with_splits,
    write_splits,
)
from pipelines.errors import ConfigError, DataError, StorageError
from pipelines.schema import CLIPS, empty_row
from pipelines.splits import check_subjects

DATA = Path(os.environ.get("AQA_TEST_DATA", ".")) / "kimore"
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
GROUPS = {f"e{k}": "expert" for k in range(7)} | {f"p{k:02d}": "patient" for k in range(11)}

SPLITS = "repeat,subject,group,part\n0,s1,A,train\n0,s2,A,test\n1,s1,A,test\n1,s2,A,train\n"


def clips(**values: object) -> pa.Table:
    rows = [empty_row(CLIPS, clip_id=f"c{k}", uri="u", subject_id=f"s{k}", **values) for k in (1, 2, 3)]
    return pa.Table.from_pylist(rows, schema=CLIPS)


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "splits.csv").write_text(text)
    return tmp_path / "splits.csv"


def test_the_chosen_repeat_fills_the_column(tmp_path: Path):
    path = write(tmp_path, SPLITS)
    assert read_splits(path, 0) == {"s1": "train", "s2": "test"}
    table, warnings = with_splits(clips(), read_splits(path, 1))
    assert table["split"].to_pylist() == ["test", "train", None]
    assert warnings == ["in no split: s3"]
    assert table.schema.equals(CLIPS, check_metadata=True)


def test_faults_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"there is no split number 7\. Choose one of: 0, 1"):
        read_splits(write(tmp_path, SPLITS), 7)
    with pytest.raises(DataError, match=r"line 6, column subject: found 's1', .*but line 2 says train; keep"):
        read_splits(write(tmp_path, SPLITS + "0,s1,A,test\n"), 0)
    with pytest.raises(DataError, match="line 6, column part: found 'dev', expected train, val or test"):
        read_splits(write(tmp_path, SPLITS + "0,s3,A,dev\n"), 0)
    with pytest.raises(DataError, match="the column 'repeat' is absent"):
        read_splits(write(tmp_path, "subject,part\ns1,train\n"), 0)
    with pytest.raises(ConfigError, match="the clips have splits already"):
        with_splits(clips(split="train"), {"s1": "train"})


def test_every_subject_tests_once_and_groups_are_spread_over_the_folds():
    folds = k_folds(GROUPS, 5, seed=0)
    tests = Counter(name for parts in folds for name, part in parts.items() if part == "test")
    assert tests == dict.fromkeys(GROUPS, 1)
    assert all(set(parts) == set(GROUPS) for parts in folds)
    for group in ("expert", "patient", ""):
        tested = [
            sum(part == "test" and GROUPS[subject].startswith(group) for subject, part in parts.items())
            for parts in folds
        ]
        assert max(tested) - min(tested) == 1, (group, tested)
    assert folds == k_folds(dict(reversed(GROUPS.items())), 5, seed=0)
    assert folds != k_folds(GROUPS, 5, seed=1)


def test_leave_one_out_tests_each_alone():
    splits = leave_one_out(GROUPS)
    assert [[s for s, part in parts.items() if part == "test"] for parts in splits] == [
        [s] for s in sorted(GROUPS)
    ]


def test_impossible_folds_are_refused():
    for folds in (1, 19):
        with pytest.raises(ConfigError, match=f"{folds} folds of 18 subjects. Choose 2 to 18"):
            k_folds(GROUPS, folds, seed=0)
    with pytest.raises(ConfigError, match="leave-one-out: 1 subjects"):
        leave_one_out({"a": ""})


def test_what_is_written_is_read_again(tmp_path: Path):
    folds = k_folds(GROUPS, 3, seed=2)
    write_splits(tmp_path / "three.csv", folds, GROUPS)
    assert read_all_splits(tmp_path / "three.csv") == folds
    assert read_splits(tmp_path / "three.csv", 2) == folds[2]
    assert "\n0,e0,expert," in (tmp_path / "three.csv").read_text()
    with pytest.raises(ConfigError, match="the file exists, and splits are never overwritten"):
        write_splits(tmp_path / "three.csv", folds, GROUPS)
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        write_splits(tmp_path / "absent" / "three.csv", folds, GROUPS)


def test_whole_files_are_checked(tmp_path: Path):
    with pytest.raises(DataError, match="the repeats are numbered 1"):
        read_all_splits(write(tmp_path, "repeat,subject,part\n1,a,train\n1,b,test\n"))
    with pytest.raises(DataError, match="split number 1 has no subject in test"):
        read_all_splits(write(tmp_path, "repeat,subject,part\n0,a,train\n0,b,test\n1,a,train\n1,b,val\n"))


def test_published_splits_are_compared_with_the_subjects():
    splits = [{"a": "train", "b": "test", "z": "test"}]
    assert check_published(Path("f"), splits, {"a": "", "b": "", "c": ""}) == [
        "in the file, but without a scored clip here: z",
        "split number 0 leaves out: c",
    ]
    with pytest.raises(DataError, match="split number 0 trains or tests nobody of the 1 subjects here"):
        check_published(Path("f"), splits, {"a": ""})


def rows(*given: dict) -> pa.Table:
    filled = [empty_row(CLIPS, clip_id=str(k), uri="u", **row) for k, row in enumerate(given)]
    return pa.Table.from_pylist(filled, schema=CLIPS)


def test_subjects_without_scores_are_in_no_split_unless_nobody_has_one():
    scored, unscored = {"subject_id": "a", "group": "g", "score": 1.0}, {"subject_id": "b"}
    assert groups_of(rows(scored, unscored, {})) == {"a": "g"}
    assert groups_of(rows(unscored)) == {"b": ""}
    with pytest.raises(DataError, match="no clip names its subject"):
        groups_of(rows({}))
    with pytest.raises(DataError, match="subject a: is in the groups 'g' and 'h'"):
        groups_of(rows(scored, scored | {"group": "h"}))
    with pytest.raises(DataError, match="subject a: is in the data sets '' and 'kimore'"):
        groups_of(rows(scored, scored | {"dataset": "kimore"}))


@pytest.mark.data
@needs_data
def test_the_ten_published_splits_never_share_a_subject():
    splits = read_all_splits(DATA / "subject_splits.csv")
    assert len(splits) == 10
    for number, parts in enumerate(splits):
        assert Counter(parts.values()) == {"train": 54, "test": 23}, number
        people = rows(*({"subject_id": name} for name in parts for _ in range(5)))
        check_subjects(with_splits(people, parts)[0])
    assert len({subject for parts in splits for subject in parts}) == 77
