"""Arrays out of MATLAB 7.3 files that a user hands in, read in a child with limits on memory and time."""

from __future__ import annotations

import json
import math
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.datasets.source_file import check_source
from pipelines.errors import DataError

MAX_BYTES = 64 * 2**20
TIMEOUT_S = 30  # without a byte of an answer
_CHILD = Path(__file__).with_name("mat_child.py")
_REMEDY = "copy or download it again"


def read_mats(paths: list[Path], name: str) -> Iterator[np.ndarray | str]:
    """The array `name` of each file, float64, or what is wrong with the file.

    A file that crashes the reader, or keeps it busy for half a minute, costs only itself.

    Raises:
        SecurityError: a pickle, or a file of more than 64 MiB.
    """
    child: subprocess.Popen[bytes] | None = None
    try:
        for path in paths:
            try:
                check_source(path, MAX_BYTES)
            except DataError as error:
                yield error.cause
                continue
            child = child or _start(name)
            answer = _ask(child, path)
            if answer is None:
                _stop(child)
                child = None
                yield "the reader of MATLAB 7.3 files crashed on it, or did not end"
            else:
                yield answer
    finally:
        if child is not None:
            _stop(child)


def _start(name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OMP_NUM_THREADS": "1"}  # "::" = no plugins
    return subprocess.Popen(
        [sys.executable, "-I", str(_CHILD), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


def _ask(child: subprocess.Popen[bytes], path: Path) -> np.ndarray | str | None:
    """The child's answer about one file; None if it died or hangs."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(str(path.absolute())).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        return None
    buffer = bytearray()
    with selectors.DefaultSelector() as waiting:
        waiting.register(child.stdout, selectors.EVENT_READ)
        while b"\n" not in buffer or len(buffer) < _length(buffer):
            if not waiting.select(TIMEOUT_S):
                return None
            part = os.read(child.stdout.fileno(), 2**16)
            if not part:
                return None
            buffer += part
    head, _, numbers = bytes(buffer).partition(b"\n")
    answer = json.loads(head)
    if "error" in answer:
        return answer["error"]
    return np.frombuffer(numbers, "<f8").reshape(answer["shape"]).copy()


def _length(buffer: bytearray) -> int:
    """Bytes of the whole answer, from its first line."""
    end = buffer.index(b"\n")
    return end + 1 + 8 * math.prod(json.loads(buffer[:end]).get("shape", (0,)))
