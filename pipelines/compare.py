"""Which rows of two tables differ; columns are compared whole, NaN equals NaN."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def differing(left: pa.Table, right: pa.Table) -> np.ndarray:
    """(N,) True where row n of `left` differs from row n of `right`. Both have the same schema."""
    differs = np.zeros(left.num_rows, bool)
    for name in left.column_names:
        # Gathering makes arrays without an offset, whatever slices they came from.
        rows = pa.array(np.arange(left.num_rows))
        differs |= _differing_values(_gather(left[name], rows), _gather(right[name], rows))
    return differs


def _gather(column: pa.ChunkedArray, rows: pa.Array) -> pa.Array:
    taken = column.combine_chunks().take(rows)
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken


def _differing_values(left: pa.Array, right: pa.Array) -> np.ndarray:
    there = _numpy(left.is_valid())
    differs = there != _numpy(right.is_valid())
    if pa.types.is_list(left.type):
        return differs | _differing_lists(left, right)
    unequal = _numpy(pc.fill_null(pc.not_equal(left, right), False))
    if pa.types.is_floating(left.type):
        unequal &= ~_numpy(pc.and_(_is_nan(left), _is_nan(right)))
    return differs | unequal


def _differing_lists(left: pa.Array, right: pa.Array) -> np.ndarray:
    """Lists differ in length or in an element; null lists are left to the caller."""
    lengths, others = (_numpy(pc.fill_null(pc.list_value_length(side), 0)) for side in (left, right))
    differs = lengths != others
    compared = np.flatnonzero(~differs & (lengths > 0))
    if len(compared):
        elements = [side.take(pa.array(compared)).flatten() for side in (left, right)]
        starts = np.concatenate([[0], np.cumsum(lengths[compared][:-1], dtype=np.int64)])
        differs[compared] = np.logical_or.reduceat(_differing_values(elements[0], elements[1]), starts)
    return differs


def _is_nan(values: pa.Array) -> pa.Array:
    return pc.fill_null(pc.is_nan(values), False)


def _numpy(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)
