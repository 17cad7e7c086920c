from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import DataError, SecurityError
from pipelines.formats import json_text
from pipelines.formats.json_text import dumps, entry, numbers, read_json, short

WRONG = {
    "nan": (b'{"a": NaN}', "NaN is no number in JSON"),
    "infinity": (b"[-Infinity]", "-Infinity is no number in JSON"),
    "twice": (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "huge integer": (b"9" * 6000, "this is no JSON that can be read"),
    "bytes": (b'"\xff\xfe"', "this is no JSON that can be read"),
    "two values": (b"{} {}", "Extra data"),
    "cut": (b'{"a": [1, 2', "this is no JSON that can be read"),
    "words": (b"hello", "this is no JSON that can be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_texts_are_named(tmp_path: Path, name: str) -> None:
    data, reason = WRONG[name]
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        read_json(tmp_path / "a.json")
    assert "a.json" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_large_values_are_refused_before_they_are_built(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.json").write_bytes(b"[" + b"{}," * 1000 + b"{}]")
    monkeypatch.setattr(json_text, "MAX_EXPANDED_BYTES", 2**17)
    with pytest.raises(SecurityError, match=r"could take \d{3},\d{3} bytes of memory"):
        read_json(tmp_path / "a.json")
    with pytest.raises(SecurityError, match=r"at most 10 are read"):
        read_json(tmp_path / "a.json", 10)


SHAPES = {
    "numbers": b"[" + b",".join(b"%.4f" % (n / 7) for n in range(20_000)) + b"]",
    "digits": b"[" + b"300," * 20_000 + b"3]",
    "lists": b"[" + b"[]," * 20_000 + b"[]]",
    "lists of one": b"[" + b"[1]," * 20_000 + b"[]]",
    "objects": b"[" + b"{}," * 20_000 + b"{}]",
    "objects of one": b"[" + b'{"a":1},' * 20_000 + b"{}]",
    "keys": b"{" + b",".join(b'"%d":1' % n for n in range(20_000)) + b"}",
    "texts": b"[" + b",".join(b'"%d"' % n for n in range(20_000)) + b"]",
    "wide texts": b"[" + b",".join('"\U0001f600%d"'.encode() % n for n in range(20_000)) + b"]",
    "one text": b'"' + b"a" * 100_000 + b'"',
    "one wide text": b'"' + b"a" * 100_000 + "\U0001f600".encode() + b'"',
    "escapes": b'"' + b"\\u0100" * 20_000 + b'"',
    "keys in lists": b"[" + b",".join(b'[{"x%d":[]}]' % n for n in range(20_000)) + b"]",
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_bound_on_memory_holds(tmp_path: Path, name: str) -> None:
    """Peak of what Python allocates while it reads, against the bound computed from the text."""
    (tmp_path / "a.json").write_bytes(SHAPES[name])
    tracemalloc.start()
    read_json(tmp_path / "a.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - len(SHAPES[name]) <= json_text.expanded_bytes(SHAPES[name])


def test_text_with_a_mark_at_its_start_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, "\\u00e9"]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, "é"]}


def test_numbers_have_a_shape(tmp_path: Path) -> None:
    assert numbers(tmp_path, "x", [[1, 2.5]], (-1, 2)).tolist() == [[1, 2.5]]
    for value in (
        [[1], [1, 2]],
        [["1", "2"]],
        None,
        3,
        [[None, 1]],
        [[[1, 2]]],
        [[1, 2, 3]],
        {"a": 1},
        [[10**400, 1]],
    ):
        with pytest.raises(DataError, match="x is no list of n x 2 numbers"):
            numbers(tmp_path, "x", value, (-1, 2))


def test_entries_have_a_type(tmp_path: Path) -> None:
    assert entry(tmp_path, "it", {"a": 1}, "a", int) == 1
    for holder in ({}, {"a": "1"}, {"a": True}, [1], None):
        with pytest.raises(DataError, match="it has no 'a' of the expected type"):
            entry(tmp_path, "it", holder, "a", int)


def test_numbers_are_written_short_and_never_as_nan() -> None:
    assert json.dumps(short(np.array([0.1, 1 / 3], np.float32))) == "[0.1, 0.33333334]"
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps([float("nan")])
