"""The decode stage: rows of the plan in, one table per part out."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.schema import CLIPS, empty_row
from pipelines.stages.crops import DECODED, DecodeStage, in_share
from pipelines.stages.decode import DecodeGuard
from pipelines.stages.media_file import open_regular, sha256_of
from pipelines.stages.pictures import Crop, Resize

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from decode_calls import read  # noqa: E402
from make_videos import read_number, write_video  # noqa: E402

PEOPLE = pa.list_(
    pa.struct(
        [
            ("person", pa.int32()),
            ("frame_index", pa.list_(pa.int32())),
            ("box", pa.list_(pa.float32())),
        ]
    )
)


def stage(**changes: Any) -> DecodeStage:
    """A stage for small crops, everything proven, with changes."""
    settings: dict = {"sampling": "all", "picture": Crop(64, 48, 1.0), "frames_per_part": 8}
    settings |= {"referee_share": 1.0, "timeout_s": 60.0, "memory_mb": 3000}
    return DecodeStage(**(settings | changes))


def plan(*clips: dict, people: list | None = None) -> pa.Table:
    """Rows as the driver plans them."""
    rows = [empty_row(CLIPS, **clip) | {"clip_digest": "d"} for clip in clips]
    table = pa.Table.from_pylist(rows, schema=CLIPS.append(pa.field("clip_digest", pa.string())))
    return table if people is None else table.append_column("people", pa.array(people, PEOPLE))


def run(guard: DecodeGuard, stage: DecodeStage, rows: pa.Table) -> list[dict]:
    """All rows that come out."""
    tables = list(stage.process(guard, rows))
    assert all(table.schema.equals(DECODED) and table.num_rows == 1 for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def pictures(row: dict, height: int = 48, width: int = 64) -> np.ndarray:
    """(T, height, width, 3) of a row."""
    return np.frombuffer(row["frames"], np.uint8).reshape(len(row["frame_index"]), height, width, 3)


def test_a_clip_comes_in_parts_and_a_bad_one_as_a_rejected_row(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=20)
    rows = run(
        guard,
        stage(),
        plan({"clip_id": "good", "uri": str(path)}, {"clip_id": "bad", "uri": str(tmp_path / "no.mp4")}),
    )
    assert [(r["clip_id"], r["part"], r["last"]) for r in rows] == [
        ("good", 0, False),
        ("good", 1, False),
        ("good", 2, True),
        ("bad", 0, True),
    ]
    assert [read_number(p) for row in rows[:3] for p in pictures(row)] == list(range(20))
    with open_regular(str(path))[0] as file:
        digest = sha256_of(file, lambda: None)
    for row in rows[:3]:
        assert (row["status"], row["attempts"], row["person"], row["decoder"]) == ("ok", 1, 0, "decord")
        assert (row["source_sha256"], row["source_bytes"]) == (digest, path.stat().st_size)
        assert row["source_mtime_ns"] == path.stat().st_mtime_ns
        assert row["box"] == [0, 0, 128, 96] * len(row["frame_index"])
    bad = rows[3]
    assert (bad["status"], bad["error_code"], bad["frames"]) == ("rejected", "missing", None)


def test_a_fault_halfway_ends_the_clip_with_a_rejected_row(tmp_path):
    path = write_video(tmp_path / "abort_twice.mp4", count=40)
    with DecodeGuard(timeout_s=60, memory_mb=3000, child_module="decode_child_double") as guard:
        rows = run(guard, stage(), plan({"clip_id": "a", "uri": str(path)}))
    assert [(r["part"], r["last"], r["status"], r["attempts"]) for r in rows] == [
        (0, False, "ok", 1),
        (1, False, "ok", 1),
        (2, True, "rejected", 2),
    ]


def test_people_come_before_the_box_and_the_box_before_the_whole_frame(guard, tmp_path):
    path = str(write_video(tmp_path / "a.mp4", count=4))
    box = dict(zip(("box_x1_px", "box_y1_px", "box_x2_px", "box_y2_px"), (8.0, 8.0, 72.0, 56.0), strict=True))
    clips = [{"clip_id": name, "uri": path} | box for name in "ab"]
    two = [
        {"person": 0, "frame_index": [0, 2], "box": [0, 0, 64, 48, 20, 10, 84, 58]},
        {"person": 1, "frame_index": [1], "box": [30, 30, 90, 90]},
    ]
    rows = run(guard, stage(), plan(*clips, people=[two, None]))
    assert [(row["clip_id"], row["person"]) for row in rows] == [("a", 0), ("a", 1), ("b", 0)]
    assert rows[0]["box"] == [0, 0, 64, 48, 10, 5, 74, 53] + [20, 10, 84, 58] * 2
    assert rows[1]["box"] == [30, 30, 90, 90] * 4
    assert rows[2]["box"] == [8, 8, 72, 56] * 4
    alone = read(guard, path, box=(8.0, 8.0, 72.0, 56.0), picture=Crop(64, 48, 1.0))
    np.testing.assert_array_equal(pictures(rows[2]), alone.frames)
    scaled = run(guard, stage(picture=Resize(32, 24)), plan(*clips, people=[two, None]))
    assert [(row["person"], row["box"]) for row in scaled] == [(0, [0, 0, 128, 96] * 4)] * 2


def test_the_share_decides_who_is_refereed(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=3)
    names = [f"clip{k}" for k in range(8)]
    rows = run(guard, stage(referee_share=0.5), plan(*({"clip_id": n, "uri": str(path)} for n in names)))
    proven = {row["clip_id"] for row in rows if row["decoder_note"] == ""}
    assert proven == {name for name in names if in_share(name, 0.5)}
    assert 0 < len(proven) < len(names)
    assert {row["decoder_note"] for row in rows} == {"", "not refereed"}


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_a_share_is_about_as_large_as_it_says_and_always_the_same(share):
    names = [f"clip {k}" for k in range(20_000)]
    chosen = {name for name in names if in_share(name, share)}
    assert abs(len(chosen) / len(names) - share) < 4 * (share * (1 - share) / len(names)) ** 0.5
    assert chosen <= {name for name in names if in_share(name, share + 0.1)}
    assert all(in_share(name, 1.0) for name in names)
    assert not any(in_share(name, 0.0) for name in names)


def test_the_stage_can_be_sent_to_workers():
    assert pickle.loads(pickle.dumps(stage())) == stage()  # what Ray does with our own object
