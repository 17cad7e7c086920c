"""Parquet read in a child process."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.datasets import parquet_table
from pipelines.datasets.parquet_table import read_parquet
from pipelines.errors import AqaError, DataError, SecurityError

TABLE = pa.table({"uri": ["a", "b"], "score": [1.5, None], "judge_scores": [[1.0, 2.0], None]})


def test_a_table_comes_back_as_it_was(tmp_path: Path):
    pq.write_table(TABLE, tmp_path / "a.parquet")
    assert read_parquet(tmp_path / "a.parquet", 10).equals(TABLE)


def test_rows_beyond_the_limit_and_damage_are_named(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path)
    with pytest.raises(DataError, match=r"a\.parquet: there are 2 rows; at most 1 are read"):
        read_parquet(path, 1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="this is no readable Parquet file"):
        read_parquet(path, 10)


@pytest.mark.parametrize("rows", [1_000, 100_000])
def test_a_bomb_is_refused(tmp_path: Path, rows: int):
    """One string of 1 MB, written once and repeated by the dictionary: 1 GB and 100 GB when read."""
    path = tmp_path / "bomb.parquet"
    values = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 1_000_000]))
    pq.write_table(
        pa.table({"uri": values.cast(pa.dictionary(pa.int32(), pa.string()))}), path, store_schema=False
    )
    assert path.stat().st_size < 200_000
    with pytest.raises(
        SecurityError, match=r"the columns expand (to more than 268,435,456 bytes|beyond the mem)"
    ):
        read_parquet(path, 1_000_000)


def test_a_crash_of_the_reader_is_an_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pq.write_table(TABLE, tmp_path / "a.parquet")
    child = tmp_path / "child.py"
    child.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(parquet_table, "_CHILD", child)
    with pytest.raises(DataError, match=r"the Parquet reader crashed on this file \(exit status -6"):
        read_parquet(tmp_path / "a.parquet", 10)


def test_a_reader_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pq.write_table(TABLE, tmp_path / "a.parquet")
    child = tmp_path / "child.py"
    child.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(parquet_table, "_CHILD", child)
    monkeypatch.setattr(parquet_table, "TIMEOUT_S", 0.5)
    with pytest.raises(SecurityError, match=r"reading did not end within 0\.5 s"):
        read_parquet(tmp_path / "a.parquet", 10)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_files_raise_only_our_errors(tmp_path: Path, seed: int):
    path, random_ = tmp_path / "a.parquet", random.Random(seed)
    pq.write_table(TABLE, path)
    content = bytearray(path.read_bytes())
    for _ in range(1 + seed // 2):
        content[random_.randrange(4, len(content) - 8)] ^= random_.randrange(1, 256)
    path.write_bytes(content)
    with contextlib.suppress(AqaError):
        read_parquet(path, 10)
