from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from aqa_models.skeletons import skeleton
from pipelines.schema import CLIPS, POSES, empty_row

_COLUMNS = """clip_id person skeleton unit num_frames num_joints num_coordinates frame_index time_s keypoints
    confidence box width_px height_px"""
COMPARED = _COLUMNS.split()


def make_row(
    clip_id: str,
    body: str = "coco17",
    *,
    person: int = 0,
    frames: int = 5,
    first: int = 0,
    step: int = 1,
    size: int = 2,
    gaps: bool = True,
    box: bool = True,
    seed: int = 0,
) -> dict:
    """A row of POSES with awkward numbers: thirds, tiny, huge, negative; some joints not available."""
    random = np.random.default_rng(seed + 100 * person + len(clip_id))
    joints = len(skeleton(body).joints)
    keypoints = random.uniform(-20, 2000 if size == 2 else 3, (frames, joints, size)).astype(np.float32)
    keypoints[0, 0] = np.float32(1) / 3
    keypoints[0, 1] = 1e-7
    confidence = random.uniform(0.01, 1, (frames, joints)).astype(np.float32)
    if gaps:
        keypoints[1, 2], confidence[1, 2] = np.nan, 0
        keypoints[-1, -1], confidence[-1, -1] = np.nan, 0
    index = np.arange(first, first + frames * step, step, dtype=np.int32)
    boxes = np.sort(random.uniform(0, 900, (frames, 2, 2)), axis=1).astype(np.float32).reshape(-1)
    flat = size == 2
    return empty_row(
        POSES, clip_id=clip_id, person=person, status="ok", attempts=1, uri=f"/videos/{clip_id}.mp4",
        skeleton=body, unit="px" if flat else "m", num_frames=frames, num_joints=joints,
        num_coordinates=size, frame_index=index, time_s=index / 29.97 + 0.1, keypoints=keypoints.ravel(),
        confidence=confidence.ravel(), box=boxes if flat and box else None,
        width_px=1920 if flat else None, height_px=1080 if flat else None,
    )  # fmt: skip


def make_rejected(clip_id: str) -> dict:
    return empty_row(
        POSES, clip_id=clip_id, person=0, status="rejected", attempts=2, error_code="corrupt",
        error_message="packets are damaged", uri=f"/videos/{clip_id}.mp4",
    )  # fmt: skip


@pytest.fixture
def poses() -> Callable[..., pa.Table]:
    """Rows -> a table of poses."""
    return lambda *rows: pa.Table.from_pylist(list(rows), schema=POSES)


@pytest.fixture
def clips() -> Callable[..., pa.Table]:
    """Names -> a table of clips with every fact filled."""

    def table(*names: str) -> pa.Table:
        rows = [
            empty_row(
                CLIPS, clip_id=name, uri=f"/videos/{name}.mp4", dataset="dives", action_type=f"40{number}c",
                score=80.55 + number, difficulty=3.4, subject_id=f"S{number}", group="control",
                split=("train", "test", "val")[number % 3],
            )
            for number, name in enumerate(names)
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, schema=CLIPS)

    return table


@pytest.fixture
def row() -> Callable[..., dict]:
    return make_row


@pytest.fixture
def rejected() -> Callable[..., dict]:
    return make_rejected


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """Both tables hold the same poses; `without` names columns that the format cannot hold."""

    def compare(before: pa.Table, after: pa.Table, *, without: tuple[str, ...] = (), atol: float = 0) -> None:
        one, two = (
            sorted(table.to_pylist(), key=lambda row: (row["clip_id"], row["person"]))
            for table in (before, after)
        )
        assert [row["clip_id"] for row in one] == [row["clip_id"] for row in two]
        for left, right in zip(one, two, strict=True):
            for name in COMPARED:
                if name in without:
                    continue
                if isinstance(left[name], list):
                    kind = np.float64 if name == "time_s" else np.float32
                    a, b = np.array(left[name], kind), np.array(right[name], kind)
                    np.testing.assert_allclose(b, a, rtol=0, atol=atol, err_msg=name, equal_nan=True)
                else:
                    assert left[name] == right[name], name

    return compare
