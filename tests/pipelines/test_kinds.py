"""What decides the key of a table, and what is made of the networks' rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError
from pipelines.kinds import find_people_work, find_work_of, give_boxes
from pipelines.schema import CLIPS, PEOPLE, POSE_PARTS, empty_row
from pipelines.store import spec_key


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": "fps:10"},
        {"flip_test": True},
        {"smoothing": "repair"},
        {"precision": "bf16"},
        {"kind": "frames"},
    ],
)
def test_what_changes_the_rows_changes_the_key(change: dict):
    usual = find_work_of(ExtractConfig())
    other = find_work_of(ExtractConfig(**change))
    assert spec_key(usual.spec) != spec_key(other.spec)


@pytest.mark.parametrize("change", [{"frames_per_batch": 1}, {"decode_workers": 3}, {"referee_share": 1.0}])
def test_what_leaves_the_rows_alone_leaves_the_key(change: dict):
    usual = find_work_of(ExtractConfig())
    assert spec_key(usual.spec) == spec_key(find_work_of(ExtractConfig(**change)).spec)


def test_boxes_of_a_detector_change_the_key():
    usual, boxed = (find_work_of(ExtractConfig(), people_key=key) for key in ("", "0123456789ab"))
    assert boxed.spec["boxes"] == "people/0123456789ab"
    assert spec_key(usual.spec) != spec_key(boxed.spec)


def test_appearance_kinds_say_how_they_sample():
    assert find_work_of(ExtractConfig(kind="frames")).decode.sampling == "uniform:96"
    with pytest.raises(ConfigError, match=r"extract.sampling: kind frames reads uniform:96, not fps:10"):
        find_work_of(ExtractConfig(kind="frames", sampling="fps:10"))


def test_a_detector_gives_boxes_to_poses_only():
    assert find_people_work(ExtractConfig()) is None
    with pytest.raises(ConfigError, match="kind frames shows whole frames. Leave it out, or use --kind pose"):
        find_people_work(ExtractConfig(kind="frames", detector_config="rtmdet_tiny_8xb32-300e_coco"))


def test_poses_are_finished_with_their_quality():
    """A joint on a parabola has a constant second difference: 2 px per frame squared."""
    times = np.arange(10) / 10
    points = np.stack([np.arange(10.0) ** 2, np.zeros(10)], axis=-1)[:, None]
    row = empty_row(
        POSE_PARTS, clip_id="c", person=0, status="ok", attempts=1, num_frames=10, num_joints=1,
        num_coordinates=2, time_s=times, keypoints=points.astype(np.float32).ravel(),
        confidence=np.full(10, 0.75, np.float32), part=0, last=True,
    )  # fmt: skip
    work = find_work_of(ExtractConfig())
    finished = work.finish(pa.Table.from_pylist([row], schema=POSE_PARTS)).to_pylist()[0]
    assert finished["jitter_px"] == pytest.approx(2.0)
    assert finished["mean_confidence"] == pytest.approx(0.75)
    assert finished["keypoints"] == pytest.approx(points.ravel())


def test_repair_takes_a_jump_out():
    times = np.arange(20) / 20
    points = np.zeros((20, 3, 2), np.float32)
    points[:, 1], points[:, 2] = (100, 0), (0, 100)
    points[10, 0] = 90  # joint 0 stands still but for one frame
    confidence = np.full((20, 3), 0.9, np.float32)
    confidence[10, 0] = 0.1
    row = empty_row(
        POSE_PARTS, clip_id="c", person=0, status="ok", attempts=1, num_frames=20, num_joints=3,
        num_coordinates=2, time_s=times, keypoints=points.ravel(), confidence=confidence.ravel(), part=0,
        last=True,
    )  # fmt: skip
    rows = pa.Table.from_pylist([row], schema=POSE_PARTS)
    found = find_work_of(ExtractConfig(smoothing="repair")).finish(rows).to_pylist()[0]
    assert np.reshape(found["keypoints"], (20, 3, 2))[10, 0] == pytest.approx([0, 0])
    assert find_work_of(ExtractConfig()).finish(rows).to_pylist()[0]["keypoints"][60] == 90


def test_people_become_boxes_of_the_plan(tmp_path: Path):
    clips = pa.Table.from_pylist(
        [empty_row(CLIPS, clip_id=name, uri=f"{name}.mp4") for name in ("duo", "empty", "solo")], schema=CLIPS
    ).append_column("clip_digest", pa.array(["d1", "d2", "d3"]))

    def person(name: str, rank: int, box: list[float]) -> dict:
        values = {"num_frames": 1, "frame_index": [rank], "box": box, "track_id": 7 + rank}
        return empty_row(PEOPLE, clip_id=name, person=rank, status="ok", attempts=1, **values)

    people = pa.Table.from_pylist(
        [
            person("solo", 0, [1, 2, 3, 4]),
            person("duo", 1, [5, 6, 7, 8]),
            empty_row(
                PEOPLE, clip_id="empty", person=0, status="rejected", error_code="no_person", attempts=1
            ),
            person("duo", 0, [9, 9, 9, 9]),
            person("elsewhere", 0, [0, 0, 1, 1]),
        ],
        schema=PEOPLE,
    )
    boxed = give_boxes(clips, find_work_of(ExtractConfig(), people_key="0123456789ab"), people)
    assert boxed.clips.column("clip_id").to_pylist() == ["duo", "solo"]
    assert boxed.clips.column("people").to_pylist() == [
        [
            {"person": 0, "frame_index": [0], "box": [9, 9, 9, 9]},
            {"person": 1, "frame_index": [1], "box": [5, 6, 7, 8]},
        ],
        [{"person": 0, "frame_index": [0], "box": [1, 2, 3, 4]}],
    ]
    assert boxed.several == {"duo": 2}
    row = boxed.nobody.to_pylist()[0]
    assert (row["clip_id"], row["error_code"], row["clip_digest"]) == ("empty", "no_person", "d2")
    pose = empty_row(
        POSE_PARTS, clip_id="duo", person=1, status="ok", attempts=1, num_frames=1, num_joints=1,
        num_coordinates=2, time_s=[0.0], keypoints=[0.0, 0.0], confidence=[0.5], part=0, last=True,
    )  # fmt: skip
    finished = boxed.work.finish(pa.Table.from_pylist([pose], schema=POSE_PARTS)).to_pylist()[0]
    assert (finished["track_id"], finished["jitter_px"]) == (8, None)  # one frame has no second difference
