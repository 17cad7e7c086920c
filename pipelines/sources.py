"""Source files and picture folders of clips: are they there, how large, how old, with which content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from pipelines.errors import ClipError
from pipelines.stages.picture_folder import look_into

# Threads hide the latency of network file systems; on a local disk one would do.
THREADS = 8
_FILES_PER_TASK = 2000


def look(uris: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Size and modification time of local files and folders of pictures; each is looked at once.

    Args:
        uris: (N,) strings; addresses such as s3://... and nulls count as not there.

    Returns:
        (N,) int64 bytes, -1 where there is no such file, and (N,) int64 nanoseconds.
    """
    names, of_name = _distinct(uris)
    slices = [names.slice(start, _FILES_PER_TASK) for start in range(0, len(names), _FILES_PER_TASK)]
    with ThreadPoolExecutor(THREADS) as pool:
        facts = np.concatenate([np.full((1, 2), (-1, 0), np.int64), *pool.map(_stat_all, slices)])
    return facts[of_name + 1, 0], facts[of_name + 1, 1]


def digests(uris: pa.Array, progress: Callable[[str], None] = lambda line: None) -> list[str | None]:
    """sha256 of local files' bytes; None for one that cannot be read. Each file is read once."""
    names, of_name = _distinct(uris)
    found: list[str | None] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for digest in pool.map(_sha256, names.to_pylist()):
            found.append(digest)
            if len(found) % 100 == 0 or len(found) == len(names):
                progress(f"compared the content of {len(found)}/{len(names)} source files")
    return [found[index] if index >= 0 else None for index in of_name]


def _distinct(uris: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The different uris, and for each given one its position among them (-1 for null)."""
    encoded = uris.dictionary_encode()
    return encoded.dictionary, encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _stat_all(uris: pa.Array) -> np.ndarray:
    facts = np.empty((len(uris), 2), np.int64)
    for index, uri in enumerate(uris.to_pylist()):
        facts[index] = _stat(uri)
    return facts


def _stat(uri: str) -> tuple[int, int]:
    if "://" in uri:
        return -1, 0
    try:
        found = os.stat(uri)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return -1, 0
    if stat.S_ISDIR(found.st_mode):
        try:
            folder = look_into(uri)
        except ClipError:
            return -1, 0
        return folder.size, folder.mtime_ns
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, 0)


def _sha256(uri: str) -> str | None:
    """None where the file or folder went away, is no regular one or refuses to be read."""
    if _stat(uri)[0] < 0:
        return None
    try:
        if os.path.isdir(uri):
            return look_into(uri).digest()
        with open(uri, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ClipError):
        return None
