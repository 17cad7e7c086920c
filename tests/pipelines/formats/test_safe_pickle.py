"""The loader of pickles: real files give the right content, hostile ones run nothing."""

from __future__ import annotations

import os
import pickle
import pickletools
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.errors import DataError, SecurityError, StorageError
from pipelines.formats import pickle_child, safe_pickle
from pipelines.formats.safe_pickle import read_pickle

DATA = Path(os.environ.get("AQA_TEST_DATA", "."))
HOSTILE = sorted((DATA / "malicious").glob("*.p[kt]*")) if "AQA_TEST_DATA" in os.environ else []

PLAIN = {
    ("01", 3): [1, -2.5, 2**40, 10**60, True, None, "Äpfel", b"\x00\xff", (), (1, (2,)), {"a": {}}],
    "arrays": {
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3),
        "big": np.arange(4, dtype=">i2"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.empty((0, 3)),
        "bool": np.array([True, False]),
        "complex": np.array([1 + 2j]),
        "scalar": np.array(3.5),
    },
    "numbers": (np.float64(1.5), np.int32(7), np.bool_(True)),
}


def write(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def assert_equal(found: object, wanted: object) -> None:
    if isinstance(wanted, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            assert_equal(found[key], value)
    elif isinstance(wanted, (list, tuple)):
        assert type(found) is type(wanted)
        assert len(found) == len(wanted)
        for one, two in zip(found, wanted, strict=True):
            assert_equal(one, two)
    elif isinstance(wanted, np.generic):
        assert type(found) is type(wanted.item())
        assert found == wanted
    else:
        assert type(found) is type(wanted)
        assert found == wanted


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    assert_equal(read_pickle(write(tmp_path / "a.pkl", PLAIN, protocol)), PLAIN)


def test_nan_and_shared_values_come_back(tmp_path: Path) -> None:
    shared = [1, np.arange(3)]
    found = read_pickle(write(tmp_path / "a.pkl", [shared, shared, float("nan"), float("inf")]))
    assert_equal(found[:2], [shared, shared])
    assert np.isnan(found[2])
    assert found[3] == float("inf")
    found[0][1][0] = 9  # arrays are writable and belong to one place
    assert found[1][1][0] == 0


def test_arrays_of_python_2_are_read(tmp_path: Path) -> None:
    """Text of protocol 2 as Python 2 wrote it: the numbers are a byte string of opcode U."""
    state = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x02\x07\xfftb."
    )
    (tmp_path / "a.pkl").write_bytes(state)
    assert_equal(read_pickle(tmp_path / "a.pkl"), np.array([7, 255], np.uint8))


class Runs:
    """Creates a file when an unsafe loader meets it."""

    def __init__(self, path: Path, how: str):
        self.path, self.how = path, how

    def __reduce__(self):
        if self.how == "open":
            return open, (str(self.path), "w")
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("how", ["open", "system"])
def test_calls_are_refused_and_do_not_run(tmp_path: Path, protocol: int, how: str) -> None:
    canary = tmp_path / "ran"
    path = write(tmp_path / "a.pkl", {"a": [1, Runs(canary, how)]}, protocol)
    with pytest.raises(SecurityError, match=r"a\.pkl: the pickle is refused: it asks for "):
        read_pickle(path)
    assert not canary.exists()
    with path.open("rb") as stream:
        pickle.Unpickler(stream).load()
    assert canary.exists(), "the payload does nothing, so the test shows nothing"


def ndarray_with(state: bytes) -> bytes:
    """A pickle that makes an array through the allowed globals and gives it this state."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R" + state + b"b."
    )


U1 = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x89\x88\x87R"
O8 = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R"
REFUSED = {
    "set": (pickle.dumps({1, 2}), "opcode EMPTY_SET"),
    "object array": (pickle.dumps(np.array([None, 1], object)), "only numbers are read"),
    "text array": (pickle.dumps(np.array(["a"])), "only numbers are read"),
    "record array": (pickle.dumps(np.zeros(2, [("a", "f4")])), "only numbers are read"),
    "date array": (pickle.dumps(np.zeros(2, "M8[s]")), "only numbers are read"),
    "object dtype": (ndarray_with(b"(K\x01K\x02\x85" + O8 + b"\x89]tb")[:-2] + b".", "only numbers are read"),
    "shape beyond bytes": (
        ndarray_with(b"(K\x01\x8a\x05\x00\x00\x00\x00\x40\x85" + U1 + b"\x89C\x02abt"),
        r"shape \(274877906944,\) holds 2 bytes",
    ),
    "negative shape": (ndarray_with(b"(K\x01J\xff\xff\xff\xff\x85" + U1 + b"\x89C\x01at"), "unknown state"),
    "state of a function": (b"\x80\x02cnumpy\ndtype\n}b.", "a function is given a state"),
    "attributes of a function": (b"\x80\x02cnumpy\ndtype\nN}X\x01\x00\x00\x00aK\x01s\x86b.", "given a state"),
    "called array": (b"\x80\x02cnumpy\nndarray\nK\x01\x85R.", "numpy.ndarray is called"),
    "function itself": (b"\x80\x02cnumpy\ndtype\n.", "values other than"),
    "array as key": (b"\x80\x02}cnumpy\nndarray\nK\x01s.", "key of a dictionary"),
    "array without numbers": (ndarray_with(b"")[:-2] + b".", "values other than"),
    "other codec": (
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        "codec 'rot13'",
    ),
    "bytes by number": (b"\x80\x02c__builtin__\nbytes\nK\x05\x85R.", "bytes are made in an unusual way"),
    "extension": (b"\x80\x02\x82\x01.", "opcode EXT1"),
    "instance": (b"(ios\nsystem\n.", "opcode INST"),
    "new object": (b"\x80\x02cnumpy\ndtype\n)\x81.", "opcode NEWOBJ"),
    "buffer outside": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", r"asks for numpy\.dtype\.__init__"),
    "bytes behind": (pickle.dumps([1]) + b"x", "1 bytes follow the end mark"),
    "memo": (b"\x80\x02Nr\xff\xff\xff\x07.", "memo index 134217727"),
    "itself": (b"\x80\x02]q\x00h\x00a.", "nested deeper than 32"),
    "control characters": (b"cos\x1b[31m\nsystem\n.", r"asks for os\?\[31m\.system"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_every_trick_is_refused_by_its_reason(tmp_path: Path, name: str) -> None:
    data, reason = REFUSED[name]
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(SecurityError, match=reason):
        read_pickle(tmp_path / "a.pkl")


def child_seconds() -> float:
    """Processor time of ended child processes: what a busy machine does not stretch."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bomb(levels: int, leaf: bytes = b"K\x01") -> bytes:
    """`levels` tuples, each of which holds the one below twice: 2 ** levels leaves."""
    return (
        b"\x80\x02"
        + leaf
        + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(levels))
        + b"."
    )


def test_shared_values_do_not_expand(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(bomb(28))
    started = child_seconds()
    with pytest.raises(SecurityError, match="shared values expand beyond bounds"):
        read_pickle(tmp_path / "a.pkl")
    assert child_seconds() - started < 2
    text = b"X" + (2**20).to_bytes(4, "little") + b"a" * 2**20
    (tmp_path / "b.pkl").write_bytes(bomb(20, text))
    with pytest.raises(SecurityError, match="shared values expand beyond bounds"):
        read_pickle(tmp_path / "b.pkl")


@pytest.mark.slow
def test_hashing_without_end_is_stopped(tmp_path: Path) -> None:
    """A nested tuple as a key: its hash visits 2**40 leaves; the processor time ends it."""
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}" + bomb(40)[2:-1] + b"K\x01s.")
    with pytest.raises(SecurityError, match="its reader ended with status -"):
        read_pickle(tmp_path / "a.pkl")


def test_damaged_and_absent_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pkl"
    for data in (b"", b"hello", pickle.dumps(PLAIN)[:-20], b"\x80\x02K\x01K\x02R.", b"\x80\x02h\x07."):
        path.write_bytes(data)
        with pytest.raises((DataError, SecurityError), match=r"no whole pickle|is refused"):
            read_pickle(path)
    with pytest.raises(DataError, match="the file does not exist"):
        read_pickle(tmp_path / "b.pkl")
    with pytest.raises(DataError, match="a folder, device or pipe"):
        read_pickle(tmp_path)
    with pytest.raises(SecurityError, match="at most 3 are read from a pickle"):
        read_pickle(write(path, [1, 2, 3]), max_bytes=3)
    monkeypatch.setattr(safe_pickle, "TIMEOUT_S", 0.001)
    with pytest.raises(SecurityError, match=r"did not end within 0\.001 s"):
        read_pickle(path)


def test_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.pkl", 1)

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StorageError, match="cannot be read: Permission denied"):
        read_pickle(path)


def test_damage_anywhere_gives_our_errors_or_plain_values() -> None:
    """Flipped bytes in a real pickle: the child's loader raises its own two errors or returns."""
    good = bytearray(pickle.dumps(PLAIN, 2))
    random = np.random.default_rng(0)
    names = {op.name for op, _, _ in pickletools.genops(bytes(good))}
    assert names <= pickle_child.OPCODES
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport pickle_child as c\n"
        "c.sys.addaudithook = lambda hook: 0\n"
        "import numpy\nout = []\n"
        "for line in sys.stdin:\n"
        "    try: c.load(bytes.fromhex(line)); out.append('ok')\n"
        "    except (c.Refused, c.Damaged, MemoryError) as e: out.append(type(e).__name__)\n"
        "print(*out)\n"
    )
    lines = []
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(random.integers(1, 4)):
            bad[random.integers(2, len(bad))] = random.integers(256)
        lines.append(bad.hex())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))

    child = subprocess.run(
        [sys.executable, "-c", code, str(Path(pickle_child.__file__).parent)],
        input="\n".join(lines), capture_output=True, text=True, preexec_fn=limit, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    found = child.stdout.split()
    assert len(found) == 3000
    assert {"ok", "Refused", "Damaged"} <= set(found)


@pytest.mark.data
@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.name)
def test_hostile_files_are_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    started = child_seconds()
    with pytest.raises((SecurityError, DataError), match=path.name) as caught:
        read_pickle(path)
    assert child_seconds() - started < 2
    if path.name[:2] not in ("13", "30"):  # cut off, and a zip file: damaged, not hostile, as pickles
        assert isinstance(caught.value, SecurityError)
    for folder in (tmp_path, path.parent, path.parent.parent, path.parent.parent.parent, Path("/")):
        assert not (folder / "PWNED").exists()


@pytest.mark.data
def test_there_are_hostile_pickles() -> None:
    assert len(HOSTILE) >= 18


@pytest.mark.data
def test_real_finediving_annotations_have_their_content(test_data: Path) -> None:
    """Compared with the table that was converted from the same files by another program."""
    folder = test_data / "finediving"
    table = pq.read_table(folder / "annotations.parquet").to_pylist()
    rows = {(row["competition"], row["index"]): row for row in table}
    aqa = read_pickle(folder / "fine-grained_annotation_aqa.pkl")
    fine = read_pickle(folder / "FineDiving_fine-grained_annotation.pkl")
    coarse = read_pickle(folder / "FineDiving_coarse_annotation.pkl")
    assert len(rows) == 3000
    assert set(rows) == set(aqa) == set(fine) == set(coarse)
    for key, row in rows.items():
        action, score, difficulty, steps, labels = aqa[key]
        assert (action, score, difficulty) == (row["action_type"], row["dive_score"], row["difficulty"])
        assert steps.dtype == labels.dtype == np.int64
        assert labels.tolist() == fine[key]["frames_labels"].tolist() == row["frames_labels"]
        assert fine[key]["dive_score"] == score
        same = ("judge_scores", "start_frame", "end_frame")
        assert [coarse[key][name] for name in same] == [row[name] for name in same]
    for name in ("train", "test"):
        keys = read_pickle(folder / f"{name}_split.pkl")
        assert set(keys) == {key for key, row in rows.items() if row["split"] == name}
        assert all(type(key) is tuple for key in keys)
    lines = (folder / "sub_action_types.csv").read_text().splitlines()
    names = read_pickle(folder / "Sub_action_Types_Table.pkl")
    assert len(names) == len(lines) - 1 == 42
    assert all(
        f"{number},{name}" in line for (number, name), line in zip(names.items(), lines[1:], strict=True)
    )


@pytest.mark.data
def test_real_mtl_annotations_have_their_content(test_data: Path) -> None:
    folder = test_data / "mtl_aqa"
    rows = {
        (row["video"], row["clip"]): row for row in pq.read_table(folder / "annotations.parquet").to_pylist()
    }
    found = read_pickle(folder / "final_annotations_dict_with_dive_number.pkl")
    assert len(found) == 1412
    for key, row in rows.items():
        assert found[key]["judge_scores"].tolist() == row["judge_scores"]
        assert all(found[key][name] == row[name] for name in found[key] if name != "judge_scores")
    for name in ("train", "test"):
        keys = read_pickle(folder / f"{name}_split_0.pkl")
        assert set(keys) == {key for key, row in rows.items() if row["split"] == name}
