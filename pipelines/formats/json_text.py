"""JSON that a user hands in, read with bounds; and numbers written so that they read back the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.datasets.problems import shorten
from pipelines.datasets.source_file import read_source
from pipelines.errors import DataError, SecurityError

MAX_BYTES = 512 * 2**20
MAX_EXPANDED_BYTES = 2**32
# What values take in memory, at most, by the sign that shows them: an object, its pairs, a list, a text
# (two quotes), a number with its place in a list.
_COSTS = {b"{": 300, b":": 300, b"[": 110, b'"': 40, b",": 50}
_REMEDY = "write the file again with a JSON library"


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: no JSON, not UTF-8, NaN or infinite numbers, a key twice, nested too deeply.
        SecurityError: the file is larger than allowed or could expand beyond 4 GiB.
    """
    data = read_source(path, max_bytes)
    if (need := expanded_bytes(data)) > MAX_EXPANDED_BYTES:
        raise SecurityError(path, f"reading it could take {need:,} bytes of memory", "split the file")
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_no_number, object_pairs_hook=_unique)
    except RecursionError:
        raise DataError(path, "values are nested too deeply", _REMEDY) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(path, f"this is no JSON that can be read ({str(error)[:150]})", _REMEDY) from None


def expanded_bytes(data: bytes) -> int:
    """Upper bound on the memory that reading this text takes, from counts of its signs."""
    text = len(data) * (1 if data.isascii() else 4)  # one character beyond the plane makes all of them wide
    return 2 * text + 4096 + sum(cost * data.count(sign) for sign, cost in _COSTS.items())


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {shorten(double)} stands twice")
    return found


def dumps(value: Any) -> str:
    """JSON text; numbers that are not finite are an error of the caller."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def short(values: np.ndarray) -> list:
    """float32 numbers as the shortest decimals that read back the same, in nested lists."""
    return np.asarray(values, np.float32).astype(str).astype(np.float64).tolist()


def numbers(path: Path, where: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A list of numbers as an array of float64.

    Args:
        where: what the list is, for the error.
        shape: what it must be; -1 stands for any length.

    Raises:
        DataError: other lengths, or anything but numbers.
    """
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        array = np.empty(0, object)
    fits = array.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind not in "iuf":
        expected = " x ".join("n" if n < 0 else str(n) for n in shape)
        raise DataError(path, f"{where} is no list of {expected} numbers", _REMEDY)
    return array.astype(np.float64)


def entry(path: Path, where: str, holder: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    """A required entry of a JSON object; DataError if it is absent or of another type."""
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DataError(path, f"{where} has no {key!r} of the expected type", _REMEDY)
    return value
