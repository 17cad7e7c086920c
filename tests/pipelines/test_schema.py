from __future__ import annotations

import io

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema


@pytest.mark.parametrize("name", schema.TABLES)
def test_every_column_says_what_it_means(name):
    for field in schema.TABLES[name]:
        assert field.metadata[b"meaning"], field.name


@pytest.mark.parametrize("name", schema.TABLES)
def test_only_plain_arrow_types(name):
    for field in schema.TABLES[name]:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        assert pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind), field


def test_a_manifest_needs_a_uri_and_an_id():
    assert [field.name for field in schema.CLIPS if not field.nullable] == ["clip_id", "uri"]


def test_empty_row_is_null_elsewhere():
    row = schema.empty_row(schema.CLIPS, clip_id="a", uri="a.mp4", score=3.5)
    table = pa.Table.from_pylist([row], schema=schema.CLIPS)
    assert table["score"].to_pylist() == [3.5]
    assert table["difficulty"].null_count == 1
    table.validate(full=True)


def test_empty_row_refuses_unknown_columns():
    with pytest.raises(ValueError, match=r"not columns of this table: \['sore'\]"):
        schema.empty_row(schema.CLIPS, clip_id="a", uri="a.mp4", sore=1)


def test_other_readers_see_the_same_poses(tmp_path):
    """polars and DuckDB read what pyarrow writes, NaN and empty lists included."""
    row = schema.empty_row(
        schema.POSES,
        clip_id="a",
        person=0,
        status="ok",
        attempts=1,
        num_frames=2,
        num_joints=1,
        num_coordinates=2,
        keypoints=[1.0, 2.0, float("nan"), 4.0],
        box=[],
    )
    table = pa.Table.from_pylist([row], schema=schema.POSES)
    file = tmp_path / "poses.parquet"
    pq.write_table(table, file)
    again = pq.read_schema(file)
    assert again.names == schema.POSES.names
    assert [field.metadata[b"meaning"] for field in again] == [f.metadata[b"meaning"] for f in schema.POSES]
    expected = ["1.0", "2.0", "nan", "4.0"]
    from_polars = polars.read_parquet(io.BytesIO(file.read_bytes()))["keypoints"].to_list()[0]
    [(from_duckdb,)] = duckdb.sql(f"select keypoints from '{file}'").fetchall()
    assert [str(v) for v in from_polars] == expected
    assert [str(v) for v in from_duckdb] == expected
