"""Subject splits from a csv."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.datasets.subject_splits import read_splits, with_splits
from pipelines.errors import ConfigError, DataError
from pipelines.schema import CLIPS, empty_row

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
