"""Parquet that a user hands in, read in a child process with limits on memory and time.

Two reasons, both seen: damaged metadata can abort the process that reads it (an exception of the C++ library
that reaches nobody), and a few kilobytes of dictionary-encoded pages can expand to terabytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from pipelines.datasets.source_file import check_source
from pipelines.errors import DataError, SecurityError

MAX_BYTES = 2**30
MAX_EXPANDED_BYTES = 256 * 2**20
TIMEOUT_S = 120
_CHILD = Path(__file__).with_name("parquet_child.py")
_REMEDY = "write it again with the columns of the clips table, or give CSV"


def read_parquet(path: Path, max_rows: int) -> pa.Table:
    """All columns of a Parquet file.

    Raises:
        DataError: damaged, or more than `max_rows` rows.
        SecurityError: the columns expand beyond the limits, or reading does not end.
    """
    check_source(path, MAX_BYTES)
    command = [
        sys.executable,
        "-I",
        str(_CHILD),
        str(path.absolute()),
        str(max_rows),
        str(MAX_EXPANDED_BYTES),
    ]
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SecurityError(path, f"reading did not end within {TIMEOUT_S} s", _REMEDY) from None
    reason = child.stderr.decode("utf-8", "replace").strip()[-300:]
    if child.returncode == 4:
        raise SecurityError(path, reason, _REMEDY)
    if child.returncode == 3:
        raise DataError(path, reason, _REMEDY)
    if child.returncode != 0:
        cause = f"the Parquet reader crashed on this file (exit status {child.returncode}: {reason})"
        raise DataError(path, cause, _REMEDY)
    return pa.ipc.open_stream(pa.py_buffer(child.stdout)).read_all()
