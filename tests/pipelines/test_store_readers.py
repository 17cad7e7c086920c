"""One small store, read by six programs: the tensors of poses and features are equal, bit by bit.

pyarrow, pandas, polars and DuckDB read the Parquet files that the snapshot names, as any outside program
would; Ray Data reads them as the pipeline does; deltalake reads the table with its log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.schema import CLIPS, FEATURES, POSES, empty_row
from pipelines.store import Table, open_store

SHAPES = {
    "keypoints": ("num_frames", "num_joints", "num_coordinates"),
    "confidence": ("num_frames", "num_joints"),
    "box": ("num_frames", 4),
    "frame_index": ("num_frames",),
    "time_s": ("num_frames",),
    "features": ("num_segments", "num_channels"),
    "segment_start": ("num_segments",),
}
KINDS = {"time_s": np.float64, "frame_index": np.int32, "segment_start": np.int32}
SCALARS = (
    "status",
    "error_code",
    "attempts",
    "width_px",
    "skeleton",
    "unit",
    "num_frames",
    "source_bytes",
    "source_mtime_ns",
)
# float32 that break where a reader goes through other numbers: smallest, largest, -0, thirds, NaN.
AWKWARD = np.array([1e-45, 3.4028235e38, -0.0, 1 / 3, 16777217, np.nan], np.float32)


def pose_rows(part: int) -> list[dict]:
    random = np.random.default_rng(part)
    rows = []
    for number in range(3):
        frames, joints, size = 2 + number, (17, 16, 25)[number], (2, 2, 3)[number]
        xyz = random.normal(size=(frames, joints, size)).astype(np.float32)
        xyz.ravel()[: len(AWKWARD)] = AWKWARD
        rows.append(
            empty_row(
                POSES, clip_id=f"clip {part}-{number} é", person=number % 2, status="ok", attempts=1,
                uri=f"s3://bucket/{number}.mp4", source_bytes=2**40 + number, source_mtime_ns=2**60 + 1,
                width_px=1920 if size == 2 else None, skeleton=("coco17", "mpii16", "kinect25")[number],
                unit="px" if size == 2 else "m", num_frames=frames, num_joints=joints,
                num_coordinates=size, frame_index=np.arange(frames) * 7, time_s=np.arange(frames) / 29.97,
                keypoints=xyz.ravel(), confidence=random.uniform(size=frames * joints).astype(np.float32),
                box=None if size == 3 else random.uniform(size=frames * 4).astype(np.float32),
            )
        )  # fmt: skip
    rows.append(
        empty_row(
            POSES, clip_id=f"bad {part}", person=0, status="rejected", error_code="corrupt", attempts=2,
            error_message="packets are damaged\n\"quoted\", 'twice'", uri="x.mp4",
        )
    )  # fmt: skip
    return rows


def feature_rows(part: int) -> list[dict]:
    random = np.random.default_rng(100 + part)
    rows = []
    for number, (segments, channels) in enumerate([(9, 1024), (1, 4096), (96, 8)]):
        values = random.normal(size=(segments, channels)).astype(np.float16).astype(np.float32)
        values[0, : len(AWKWARD)] = AWKWARD
        jpeg = [bytes(random.integers(0, 256, 50, dtype=np.uint8)) for _ in range(3)] if number == 2 else None
        rows.append(
            empty_row(
                FEATURES, clip_id=f"clip {part}-{number}", person=0, status="ok", attempts=1, num_frames=96,
                frame_index=np.arange(96), time_s=np.arange(96) / 25, num_segments=segments,
                num_channels=channels, segment_start=np.arange(segments) * 10, features=values.ravel(),
                jpeg=jpeg,
            )
        )  # fmt: skip
    rows.append(
        empty_row(
            FEATURES, clip_id=f"bad {part}", person=0, status="rejected", error_code="empty", attempts=1
        )
    )
    return rows


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """Poses and features in three files each, written in two transactions, and one orphan nobody may read."""
    store = open_store(tmp_path_factory.mktemp("golden") / "store", create=True)
    store.put_clips(pa.Table.from_pylist([empty_row(CLIPS, clip_id="a", uri="a.mp4")], schema=CLIPS))
    poses = store.create_poses({"stage": "golden"})
    features = Table(store.path / "features" / "i3d" / "0123456789ab", FEATURES)
    for table, make in ((poses, pose_rows), (features, feature_rows)):
        with table.writer() as writer:
            files = [table.write_file(pa.Table.from_pylist(make(n), schema=table.schema)) for n in range(4)]
            assert writer.commit(files[:2]) == 8
            assert writer.commit(files[2:3]) == 4
        assert len(table.file_names()) == 3
        assert len(table.orphans()) == 1
    return {"poses": poses, "features": features}


Row = dict[str, Any]


def _paths(table: Table) -> list[str]:
    return [str(table.path / name) for name in table.file_names()]


def by_pyarrow(table: Table) -> list[Row]:
    return pa.concat_tables([pq.read_table(path, partitioning=None) for path in _paths(table)]).to_pylist()


def by_pandas(table: Table) -> list[Row]:
    return _pandas_rows(table, dtype_backend="numpy_nullable")


def by_pandas_as_it_comes(table: Table) -> list[Row]:
    """Without a backend that knows null, pandas makes floats of integer columns with a null in them."""
    return [{**row, "source_mtime_ns": None} for row in _pandas_rows(table)]


def _pandas_rows(table: Table, **given: Any) -> list[Row]:
    import pandas as pd

    rows: list[Row] = []
    for path in _paths(table):
        frame = pd.read_parquet(path, partitioning=None, **given)
        rows += [{str(key): _null(value) for key, value in row.items()} for row in frame.to_dict("records")]
    return rows


def _null(value: Any) -> Any:
    """pandas writes NaN or NA for an absent number."""
    import pandas as pd

    return value if isinstance(value, (list, np.ndarray)) or not pd.isna(value) else None


def by_polars(table: Table) -> list[Row]:
    import polars as pl

    return pl.read_parquet(_paths(table)).to_dicts()


def by_duckdb(table: Table) -> list[Row]:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        relation = connection.read_parquet(_paths(table))
        return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def by_deltalake(table: Table) -> list[Row]:
    from deltalake import DeltaTable

    return pa.table(DeltaTable(table.path).to_pyarrow_table()).to_pylist()


def by_duckdb_over_arrow(table: Table) -> list[Row]:
    """SQL over the snapshot as Arrow: what a notebook does with `store.poses(key).read()`."""
    import duckdb

    rows = table.read()
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        relation = connection.sql("SELECT * FROM rows WHERE num_frames > 0 OR status = 'rejected'")
        return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def by_ray(table: Table) -> list[Row]:
    import ray

    dataset = ray.data.read_parquet(_paths(table), partitioning=None)
    return dataset.take_all()


READERS: dict[str, Callable[[Table], list[Row]]] = {
    "pyarrow": by_pyarrow,
    "pandas": by_pandas,
    "pandas as it comes": by_pandas_as_it_comes,
    "polars": by_polars,
    "duckdb": by_duckdb,
    "duckdb over arrow": by_duckdb_over_arrow,
    "deltalake": by_deltalake,
}


def wanted(name: str) -> dict[str, Row]:
    make = pose_rows if name == "poses" else feature_rows
    return {str(row["clip_id"]): row for part in range(3) for row in make(part)}


def tensor(row: Row, column: str) -> np.ndarray | None:
    """A list column as an array of the shape that the shape columns name."""
    if row[column] is None:
        return None
    shape = [row[size] if isinstance(size, str) else size for size in SHAPES[column]]
    return np.asarray(row[column], KINDS.get(column, np.float32)).reshape([int(n) for n in shape])


def check(name: str, rows: list[Row], scalars: tuple[str, ...] = SCALARS) -> None:
    expected = wanted(name)
    assert len(rows) == len(expected)
    found = {str(row["clip_id"]): row for row in rows}
    assert set(found) == set(expected)
    tensors = 0
    for clip_id, row in expected.items():
        for column in SHAPES:
            if column not in row:
                continue
            left, right = tensor(row, column), tensor(found[clip_id], column)
            assert (left is None) == (right is None), (clip_id, column)
            if left is not None and right is not None:
                assert left.dtype == right.dtype
                assert left.tobytes() == right.tobytes(), (clip_id, column)  # -0 and NaN included
                tensors += 1
        for column in scalars:
            assert column not in row or row[column] == found[clip_id][column], (clip_id, column)
        assert row.get("error_message") == found[clip_id].get("error_message")
        jpeg = found[clip_id].get("jpeg")
        assert row.get("jpeg") == (None if jpeg is None else list(jpeg))
    assert tensors == {"poses": 3 * (3 * 4 + 2), "features": 3 * 3 * 4}[name]


@pytest.mark.parametrize("name", ["poses", "features"])
@pytest.mark.parametrize("reader", READERS)
def test_every_program_reads_the_same_tensors(tables: dict[str, Table], reader: str, name: str) -> None:
    exact = SCALARS if reader != "pandas as it comes" else SCALARS[:-1]
    check(name, READERS[reader](tables[name]), exact)


@pytest.mark.ray
@pytest.mark.parametrize("name", ["poses", "features"])
def test_ray_data_reads_the_same_tensors(local_ray: None, tables: dict[str, Table], name: str) -> None:
    check(name, by_ray(tables[name]))


def test_the_store_itself_reads_the_same_tensors(tables: dict[str, Table]) -> None:
    for name, table in tables.items():
        check(name, table.read().to_pylist())


def test_a_changed_bit_is_noticed(tables: dict[str, Table]) -> None:
    rows = by_pyarrow(tables["poses"])
    values = next(row["keypoints"] for row in rows if row["keypoints"])
    assert isinstance(values, list)
    values[2] = 0.0  # was -0.0
    with pytest.raises(AssertionError, match="keypoints"):
        check("poses", rows)


def test_only_plain_types_are_in_the_files(tables: dict[str, Table]) -> None:
    """No extension types and no pickled objects: what a program of another language reads too."""
    for table in tables.values():
        for path in _paths(table):
            schema = pq.read_schema(path)
            assert not schema.metadata or not any(
                b"pandas" in key or b"ray" in key for key in schema.metadata
            )
            for field in schema:
                assert not isinstance(field.type, pa.BaseExtensionType)
                assert not any(b"ARROW:extension" in key for key in field.metadata or {})
