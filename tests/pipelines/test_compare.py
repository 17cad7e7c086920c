"""Rows differ where a person would say so."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from pipelines.compare import differing


@pytest.mark.parametrize(
    ("kind", "left", "right", "differs"),
    [
        (pa.string(), ["a", None, "b", None], ["a", None, "c", "d"], [0, 0, 1, 1]),
        (pa.float64(), [1.0, math.nan, None, math.nan], [1.0, math.nan, math.nan, 2.0], [0, 0, 1, 1]),
        (pa.int32(), [1, 2], [1, 3], [0, 1]),
        (pa.list_(pa.float64()), [[1, 2], [1, 2], [], None], [[1, 2], [1, 3], None, None], [0, 1, 1, 0]),
        (pa.list_(pa.float32()), [[math.nan], [1], [1], []], [[math.nan], [1, 2], [None], []], [0, 1, 1, 0]),
        (pa.list_(pa.binary()), [[b"x"], [b"x"]], [[b"x"], [b"y"]], [0, 1]),
        (pa.string(), [], [], []),
    ],
)
def test_known_differences(kind, left, right, differs):
    tables = [pa.table({"a": pa.array(values, kind)}) for values in (left, right)]
    assert differing(*tables).tolist() == [bool(value) for value in differs]


def test_slices_and_chunks_compare_as_what_they_show():
    column = pa.chunked_array([pa.array([[0.0], [1.0, 2.0]]), pa.array([[3.0], None])])
    table = pa.table({"a": column, "b": pa.array(["w", "x", "y", "z"])})
    assert differing(table.slice(1), table.slice(1).combine_chunks()).tolist() == [False, False, False]
    assert differing(table.slice(0, 3), table.slice(1)).tolist() == [True, True, True]
