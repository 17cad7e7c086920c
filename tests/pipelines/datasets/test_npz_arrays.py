"""The guarded npz reader."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.datasets import npz_arrays
from pipelines.datasets.npz_arrays import NpzArrays
from pipelines.errors import AqaError, DataError, SecurityError

REUSED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def npy(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in members.items():
            zipped.writestr(name.replace("__", "/") + ".npy", data)
    return path


def test_arrays_come_back_as_they_were(tmp_path: Path):
    arrays = {
        "f": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 25, 3), np.float32),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        with NpzArrays(tmp_path / "a.npz") as opened:
            assert opened.names == tuple(arrays)
            for name, array in arrays.items():
                assert opened.header(name).shape == array.shape
                assert opened.header(name).dtype == array.dtype
                np.testing.assert_array_equal(opened.read(name), array)
                assert opened.read(name).flags.c_contiguous


class _Call:
    def __reduce__(self):
        return os.system, ("touch PWNED",)


@pytest.mark.parametrize(
    ("members", "kind", "message"),
    [
        (
            {"a": npy(np.array([_Call()], object))},
            SecurityError,
            "array 'a' holds Python objects, that is a pickle",
        ),
        ({"a": npy(np.array(["x"]))}, DataError, "array 'a' is no array of numbers"),
        ({"a": npy(np.zeros(2, [("x", "f4")]))}, DataError, "array 'a' is no array of numbers"),
        ({"a": npy(np.zeros(2, complex))}, DataError, "array 'a' is no array of numbers"),
        ({"a": npy(np.zeros(4))[:-8]}, DataError, "the header of 'a' claims 32 bytes, the file holds 24"),
        ({"a": npy(np.zeros(4)).replace(b"(4,)", b"(-4,)")}, DataError, "'a'"),
        ({"a": npy(np.zeros(4)).replace(b"(4,), }   ", b"(10**12,), }")}, DataError, "'a' is no NumPy array"),
        ({"a": b"no array"}, DataError, "'a' is no NumPy array"),
        ({"a": pickle.dumps([1], 4)}, DataError, "'a' is no NumPy array"),
        ({"..__..__a": npy(np.zeros(4))}, SecurityError, "the name '../../a.npy' points outside of the file"),
        ({"__etc": npy(np.zeros(4))}, SecurityError, "the name '/etc.npy' points outside"),
        ({"a": npy(np.zeros(2_000_000))}, SecurityError, "'a.npy' expands from .* to 16,000,128 bytes"),
    ],
)
def test_hostile_arrays_are_refused(tmp_path: Path, members: dict, kind: type, message: str):
    with pytest.raises(kind, match=message), NpzArrays(archive(tmp_path / "a.npz", **members)) as opened:
        opened.read("a")


def test_hostile_archives_are_refused(tmp_path: Path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("archive/data.pkl", b"x")
    with pytest.raises(
        SecurityError, match=r"holds a pickle \('archive/data.pkl'\); pickle files are not read"
    ):
        NpzArrays(path)
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a.npy", npy(np.zeros(1)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            zipped.writestr("a.npy", npy(np.zeros(2)))
    with pytest.raises(DataError, match=r"two arrays are named 'a\.npy'"):
        NpzArrays(path)
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("readme.txt", b"x")
    with pytest.raises(DataError, match=r"'readme\.txt' is no array"):
        NpzArrays(path)
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match="this is no npz file"):
        NpzArrays(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"this is one array\. Save named arrays with np\.savez"):
        NpzArrays(tmp_path / "one.npy")
    zipfile.ZipFile(path, "w").close()
    with pytest.raises(DataError, match="the file holds 0 arrays"):
        NpzArrays(path)


def test_many_small_bombs_and_a_long_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    zeros = npy(np.zeros(100_000))  # 800 kB each: below the size that is looked at alone
    path = archive(tmp_path / "a.npz", **{f"a{index}": zeros for index in range(20)})
    with pytest.raises(SecurityError, match=r"the file expands from .* to 16,002,560 bytes"):
        NpzArrays(path)
    monkeypatch.setattr(npz_arrays, "MAX_DIRECTORY_BYTES", 500)
    with pytest.raises(SecurityError, match=r"the list of arrays takes .* bytes"):
        NpzArrays(path)


def test_a_directory_that_lies_about_the_size(tmp_path: Path):
    """The member expands further than the zip directory says: no more than promised is read."""
    path = archive(tmp_path / "a.npz", a=npy(np.random.default_rng(0).random(10_000)))
    data = path.read_bytes()
    size = (80_128).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (8_128).to_bytes(4, "little")))
    with (
        NpzArrays(path) as opened,
        pytest.raises(DataError, match="claims 80,000 bytes, the file holds 8,000"),
    ):
        opened.read("a")


@REUSED
@given(data=st.data())
def test_damaged_files_raise_only_our_errors(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "a.npz"
    stored = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    stored(path, a=np.ones((3, 2, 2), np.float32), b=np.zeros((1, 2), np.uint8))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    path.write_bytes(content)
    with contextlib.suppress(AqaError), NpzArrays(path) as opened:
        for name in opened.names:
            opened.read(name)


@REUSED
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_our_errors(tmp_path: Path, content: bytes):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(AqaError):
        NpzArrays(tmp_path / "a.npz")
