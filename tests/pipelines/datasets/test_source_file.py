"""The first look at a file."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest

from pipelines.datasets.source_file import check_source, read_source, sha256_of
from pipelines.errors import DataError, SecurityError


def test_a_plain_file_is_read_and_hashed(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"uri\n")
    assert check_source(path, 10) == 4
    assert read_source(path, 10) == b"uri\n"
    assert sha256_of(path) == hashlib.sha256(b"uri\n").hexdigest()


def test_absent_empty_folder_and_pipe_are_named(tmp_path: Path):
    (tmp_path / "empty.csv").touch()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"absent\.csv: the file does not exist"):
        check_source(tmp_path / "absent.csv", 10)
    with pytest.raises(DataError, match=r"empty\.csv: the file has zero bytes"):
        check_source(tmp_path / "empty.csv", 10)
    with pytest.raises(DataError, match="a folder, device or pipe"):
        check_source(tmp_path, 10)
    with pytest.raises(DataError, match="a folder, device or pipe"):
        check_source(tmp_path / "pipe.csv", 10)


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path):
    path = tmp_path / "big.csv"
    path.write_bytes(b"x" * 2000)
    with pytest.raises(SecurityError, match=r"has 2,000 bytes; at most 1,999"):
        check_source(path, 1999)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_refused_by_content(tmp_path: Path, protocol: int):
    path = tmp_path / "a.csv"
    path.write_bytes(pickle.dumps({"a": 1}, protocol))
    with pytest.raises(SecurityError, match="pickle files are not read") as caught:
        read_source(path, 1000)
    assert caught.value.exit_code == 8


@pytest.mark.parametrize("suffix", [".pkl", ".PICKLE", ".pth", ".pt", ".joblib"])
def test_pickles_are_refused_by_suffix(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"cos\nsystem\n")
    with pytest.raises(SecurityError, match="pickle files are not read"):
        read_source(path, 1000)
