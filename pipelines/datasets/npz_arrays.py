"""Numeric arrays out of an npz file, read without trusting it.

The zip directory and every array header are checked before a byte is expanded: names, duplicates, sizes,
compression ratio, and that shape x item size is what the member holds. Pickled objects are refused.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from pipelines.datasets.problems import shorten
from pipelines.datasets.source_file import check_source
from pipelines.errors import DataError, SecurityError

MAX_BYTES = 8 * 2**30
MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_ARRAY_BYTES = 2**30
MAX_RATIO = 200
_FREE_BYTES = 2**20  # small arrays of one value compress further than any ratio limit; they do no harm
_REMEDY = "write the file again with np.savez_compressed from numeric arrays"
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error, OSError,
    ValueError, OverflowError, LookupError,
)  # fmt: skip


@dataclass(frozen=True)
class ArrayHeader:
    """What an array promises before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class NpzArrays:
    """An open npz file.

    Args:
        path: the file.

    Attributes:
        names: the arrays, in the order of the file.

    Raises:
        DataError: no zip file, or no arrays.
        SecurityError: pickles, names that leave the file, duplicates, or sizes that would fill the memory.
    """

    def __init__(self, path: Path):
        self.path = path
        self._bytes = check_source(path, MAX_BYTES)
        self._check_directory_size()
        try:
            self._zip = zipfile.ZipFile(path)
        except _ZIP_ERRORS as error:
            if path.suffix.lower() == ".npy":
                raise DataError(path, "this is one array", "save named arrays with np.savez") from None
            raise DataError(path, f"this is no npz file ({error})", _REMEDY) from None
        try:
            self._check_directory()
        except BaseException:
            self._zip.close()
            raise
        self.names = tuple(name.removesuffix(".npy") for name in self._zip.namelist())

    def __enter__(self) -> NpzArrays:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def header(self, name: str) -> ArrayHeader:
        """Shape and type of one array, checked against the size of its member."""
        with self._open(name) as stream:
            return self._header(name, stream)

    def read(self, name: str) -> np.ndarray:
        """One array, in row-major order.

        Raises:
            DataError: damaged, or the header claims another size than the member has.
            SecurityError: an array of Python objects (a pickle).
        """
        with self._open(name) as stream:
            head = self._header(name, stream)
        try:
            with self._open(name) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
        except _ZIP_ERRORS as error:
            raise DataError(self.path, f"array {shorten(name)} cannot be read ({error})", _REMEDY) from None
        if array.shape != head.shape:
            raise DataError(self.path, f"array {shorten(name)} changed its shape", _REMEDY)
        return np.ascontiguousarray(array)

    def _open(self, name: str):
        try:
            return self._zip.open(f"{name}.npy")
        except _ZIP_ERRORS as error:
            raise DataError(self.path, f"array {shorten(name)} cannot be read ({error})", _REMEDY) from None

    def _header(self, name: str, stream) -> ArrayHeader:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        try:
            version = np.lib.format.read_magic(stream)
            if version not in read:
                raise ValueError(f"header version {version}")
            shape, _, dtype = read[version](stream)
            start = stream.tell()
        except (*_ZIP_ERRORS, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            cause = f"{shorten(name)} is no NumPy array ({str(error)[:200]})"
            raise DataError(self.path, cause, _REMEDY) from None
        if dtype.hasobject:
            cause = f"array {shorten(name)} holds Python objects, that is a pickle; pickle files are not read"
            raise SecurityError(self.path, cause, _REMEDY)
        if dtype.kind not in "fiub" or dtype.shape or any(size < 0 for size in shape):
            raise DataError(self.path, f"array {shorten(name)} is no array of numbers ({dtype})", _REMEDY)
        claimed, held = math.prod(shape) * dtype.itemsize, self._zip.getinfo(f"{name}.npy").file_size - start
        if claimed != held:
            cause = f"the header of {shorten(name)} claims {claimed:,} bytes, the file holds {held:,}"
            raise DataError(self.path, cause, _REMEDY)
        return ArrayHeader(tuple(shape), dtype)

    def _check_directory_size(self) -> None:
        """Bound the directory of the zip before zipfile makes an object of every entry."""
        with self.path.open("rb") as stream:
            stream.seek(max(self._bytes - 2**16 - 100, 0))
            tail = stream.read()
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or len(tail) < end + 22:
            return  # no zip file: zipfile says so
        size = int.from_bytes(tail[end + 12 : end + 16], "little")
        if size == 0xFFFFFFFF and tail[max(end - 76, 0) :].startswith(b"PK\x06\x06"):  # zip64
            size = int.from_bytes(tail[end - 36 : end - 28], "little")
        if size > MAX_DIRECTORY_BYTES:
            raise SecurityError(self.path, f"the list of arrays takes {size:,} bytes", "split the file")

    def _check_directory(self) -> None:
        members = self._zip.infolist()
        names = [member.filename for member in members]
        if not members or len(members) > MAX_MEMBERS:
            raise DataError(self.path, f"the file holds {len(members)} arrays", _REMEDY)
        for member in members:
            name = member.filename
            if name.lower().endswith((".pkl", ".pickle")):
                cause = f"the file holds a pickle ({shorten(name)}); pickle files are not read"
                raise SecurityError(self.path, cause, _REMEDY)
            if ".." in name or name.startswith("/") or "\\" in name:
                raise SecurityError(
                    self.path, f"the name {shorten(name)} points outside of the file", _REMEDY
                )
            if not name.endswith(".npy") or name == ".npy":
                raise DataError(self.path, f"{shorten(name)} is no array", _REMEDY)
            if member.flag_bits & 1:
                raise DataError(self.path, f"{shorten(name)} is protected by a password", _REMEDY)
            self._check_expansion(shorten(name), member.file_size, member.compress_size)
        if len(set(names)) != len(names):
            double = Counter(names).most_common(1)[0][0]
            raise DataError(self.path, f"two arrays are named {shorten(double)}", _REMEDY)
        self._check_expansion("the file", sum(member.file_size for member in members), self._bytes, MAX_BYTES)

    def _check_expansion(self, name: str, size: int, packed: int, limit: int = MAX_ARRAY_BYTES) -> None:
        if size > limit or (size > _FREE_BYTES and size > MAX_RATIO * packed):
            cause = f"{name} expands from {packed:,} to {size:,} bytes (compression bomb?)"
            raise SecurityError(self.path, cause, "store plain arrays of at most 1 GiB with np.savez")
