"""The first look at any file a user hands in: it exists, is a regular file, is small enough, is no pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipelines.errors import DataError, SecurityError, StorageError

_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill"})
_PICKLE_REMEDY = "save the arrays with np.savez and the table as CSV or Parquet"


def check_source(path: Path, max_bytes: int) -> int:
    """Size in bytes of a file that may be opened.

    Raises:
        DataError: the file does not exist, is no regular file, or is empty.
        SecurityError: the file is a pickle, or larger than `max_bytes`.
        StorageError: the file system refused to look at it.
    """
    try:
        if not path.exists():
            raise DataError(path, "the file does not exist", "check the path")
        if not path.is_file():
            raise DataError(path, "this is a folder, device or pipe, not a file", "give a regular file")
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(2)
    except OSError as error:
        raise StorageError(
            path, f"cannot be read: {error.strerror}", "check permissions and the disk"
        ) from None
    if size == 0:
        raise DataError(path, "the file has zero bytes", "copy or download it again")
    if path.suffix.lower() in _PICKLE_SUFFIXES or (start[0] == 0x80 and len(start) == 2 and start[1] <= 5):
        raise SecurityError(
            path, "pickle files are not read; loading one can run any program", _PICKLE_REMEDY
        )
    if size > max_bytes:
        raise SecurityError(
            path,
            f"the file has {size:,} bytes; at most {max_bytes:,} are read from a file of this kind",
            "split it, or check that it is the file you meant",
        )
    return size


def read_source(path: Path, max_bytes: int) -> bytes:
    """The bytes of a checked file; raises as `check_source`."""
    check_source(path, max_bytes)
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(
            path, f"cannot be read: {error.strerror}", "check permissions and the disk"
        ) from None


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
