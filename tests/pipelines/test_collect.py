"""Parts of clips come in any order and leave as whole rows, each clip in one commit."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import collect
from pipelines.schema import FEATURE_PARTS, POSE_PARTS, POSES, empty_row
from pipelines.table import Table


def part(name: str, number: int, frames: range, last: bool, person: int = 0, **values: object) -> pa.Table:
    """One row: joint 0 lies at (frame, person), joint 1 at (-frame, person)."""
    points = np.array([[[k, person], [-k, person]] for k in frames], np.float32)
    row = {
        "clip_id": name, "person": person, "status": "ok", "attempts": 1, "num_frames": len(frames),
        "num_joints": 2, "num_coordinates": 2, "frame_index": list(frames),
        "time_s": [k / 10 for k in frames],
        "keypoints": points.ravel(), "confidence": np.ones(2 * len(frames), np.float32),
        "box": np.zeros(4 * len(frames), np.float32), "part": number, "last": last, **values,
    }  # fmt: skip
    return pa.Table.from_pylist([empty_row(POSE_PARTS, **row)], schema=POSE_PARTS)


def rejected(name: str, number: int, person: int = 0) -> pa.Table:
    row = empty_row(
        POSE_PARTS, clip_id=name, person=person, status="rejected", error_code="corrupt", attempts=1,
        part=number, last=True,
    )  # fmt: skip
    return pa.Table.from_pylist([row], schema=POSE_PARTS)


def collected(folder: Path, parts: list[pa.Table], people: dict[str, int] | None = None) -> list[dict]:
    table = Table(folder / "table", POSES)
    with table.writer() as writer:
        collector = collect.Collector(table, writer, lambda rows: rows.select(POSES.names), people)
        for rows in parts:
            collector.add(rows)
        collector.commit()
    return table.read().to_pylist()


LONG = [
    part("long", 0, range(3), False),
    part("long", 1, range(3, 6), False),
    part("long", 2, range(6, 7), True),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_parts_in_any_order_make_one_row(tmp_path: Path, order: tuple[int, ...]):
    rows = collected(
        tmp_path, [LONG[order[0]], part("short", 0, range(2), True), LONG[order[1]], LONG[order[2]]]
    )
    found = {row["clip_id"]: row for row in rows}
    assert sorted(found) == ["long", "short"]
    assert found["long"]["num_frames"] == 7
    assert found["long"]["frame_index"] == list(range(7))
    keypoints = np.reshape(found["long"]["keypoints"], (7, 2, 2))
    np.testing.assert_array_equal(keypoints[:, :, 0], [[k, -k] for k in range(7)])
    assert found["long"]["time_s"] == pytest.approx([k / 10 for k in range(7)])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_an_error_in_the_middle_rejects_the_whole_clip_once(tmp_path: Path, order: tuple[int, ...]):
    parts = [LONG[0], LONG[1], rejected("long", 2)]
    rows = collected(tmp_path, [parts[k] for k in order])
    assert [(row["clip_id"], row["status"], row["error_code"]) for row in rows] == [
        ("long", "rejected", "corrupt")
    ]


def test_people_of_a_clip_come_together(tmp_path: Path):
    parts = [
        part("duo", 0, range(2), False, person=1),
        part("duo", 0, range(4), True, person=0),
        part("duo", 1, range(2, 4), True, person=1),
    ]
    rows = collected(tmp_path, parts, people={"duo": 2})
    assert [(row["person"], row["num_frames"]) for row in rows] == [(0, 4), (1, 4)]
    assert {row["keypoints"][1] for row in rows} == {0.0, 1.0}


def test_an_error_of_one_person_rejects_the_clip_whatever_comes_later(tmp_path: Path):
    parts = [rejected("duo", 0), part("duo", 0, range(2), True, person=1)]
    rows = collected(tmp_path, parts, people={"duo": 2})
    assert [(row["person"], row["status"]) for row in rows] == [(0, "rejected")]


def test_segments_of_parts_are_put_one_behind_the_other():
    def features(number: int, frames: int, starts: list[int]) -> pa.Table:
        row = empty_row(
            FEATURE_PARTS, clip_id="c", person=0, status="ok", attempts=1, num_frames=frames,
            num_segments=len(starts), num_channels=1, segment_start=starts,
            features=[float(s) for s in starts],
            part=number, last=number == 1,
        )  # fmt: skip
        return pa.Table.from_pylist([row], schema=FEATURE_PARTS)

    joined = collect.join_people([features(0, 32, [0, 16]), features(1, 16, [32])], 1)
    assert joined is not None
    assert joined.column("segment_start").to_pylist() == [[0, 16, 32]]
    assert joined.column("num_segments").to_pylist() == [3]
    assert joined.column("features").to_pylist() == [[0.0, 16.0, 32.0]]


def test_much_that_waits_is_committed_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clips = [part(str(number), 0, range(3), True) for number in range(7)]
    row_bytes = clips[0].select(POSES.names).nbytes
    monkeypatch.setattr(collect, "MAX_BYTES", 2.5 * row_bytes)  # passed by three rows
    table, visible = Table(tmp_path / "table", POSES), []
    with table.writer() as writer:
        collector = collect.Collector(table, writer, lambda rows: rows.select(POSES.names))
        for rows in clips:
            collector.add(rows)
            visible.append(table.read().num_rows)
    assert visible == [0, 0, 3, 3, 3, 6, 6]
