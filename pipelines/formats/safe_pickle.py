"""Pickles of plain values and numeric arrays, read without running anything in them.

Annotations of FineDiving and MTL-AQA and the data of PYSKL are pickles, and loading a pickle can run any
program. Here a child process with limits on memory and time builds the values from an allow-list
(`pickle_child`); only null, numbers, text, bytes, lists, tuples, dictionaries and numeric arrays come back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import DataError, SecurityError, StorageError

MAX_BYTES = 512 * 2**20
TIMEOUT_S = 120
_CHILD = Path(__file__).with_name("pickle_child.py")
_REMEDY = "ask its author for the data as npz, CSV, JSON or Parquet"


def read_pickle(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """The values of a pickle; NumPy scalars become Python numbers, arrays are copies.

    Raises:
        DataError: no such file, no pickle, or cut off.
        SecurityError: it asks for anything but plain values and numeric arrays, holds bytes behind its end,
            or expands beyond limits.
        StorageError: the file system refused.
    """
    data = _bytes_of(path, max_bytes)
    try:
        child = subprocess.run(
            [sys.executable, "-I", str(_CHILD)],
            input=data,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            cwd="/",
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SecurityError(path, f"reading did not end within {TIMEOUT_S} s", _REMEDY) from None
    reason = child.stderr.decode("utf-8", "replace").strip()[-300:]
    if child.returncode == 3:
        raise DataError(path, f"this is no whole pickle ({reason})", "copy or download it again")
    if child.returncode == 4:
        raise SecurityError(path, f"the pickle is refused: {reason}", _REMEDY)
    if child.returncode != 0:
        cause = f"the pickle is refused: its reader ended with status {child.returncode} ({reason})"
        raise SecurityError(path, cause, _REMEDY)
    size = int.from_bytes(child.stdout[:8], "little")
    arrays = memoryview(child.stdout)[8 + size :]
    return _decode(json.loads(child.stdout[8 : 8 + size]), arrays)


def _bytes_of(path: Path, max_bytes: int) -> bytes:
    try:
        if not path.exists():
            raise DataError(path, "the file does not exist", "check the path")
        if not path.is_file():
            raise DataError(path, "this is a folder, device or pipe, not a file", "give a regular file")
        if (size := path.stat().st_size) > max_bytes:
            cause = f"the file has {size:,} bytes; at most {max_bytes:,} are read from a pickle"
            raise SecurityError(path, cause, "split it, or check that it is the file you meant")
        return path.read_bytes()
    except OSError as error:
        cause = f"cannot be read: {error.strerror}"
        raise StorageError(path, cause, "check permissions and the disk") from None


def _decode(value: Any, arrays: memoryview) -> Any:
    if not isinstance(value, list):
        return value
    kind, *parts = value
    if kind == "b":
        return bytes(arrays[parts[0] : parts[0] + parts[1]])
    if kind == "a":
        offset, size, dtype, shape = parts
        return np.frombuffer(arrays[offset : offset + size], dtype).reshape(shape).copy()
    items = [_decode(item, arrays) for item in parts]
    if kind == "d":
        return dict(zip(items[::2], items[1::2], strict=True))
    return tuple(items) if kind == "t" else items
