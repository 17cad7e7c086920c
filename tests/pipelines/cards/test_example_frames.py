from __future__ import annotations

import io
import re
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
from PIL import Image

from aqa_models.skeletons import skeleton
from pipelines.cards.example_frames import HEIGHT_PX, draw, example_frames
from pipelines.schema import CLIPS, POSES, empty_row
from pipelines.store import open_store

JOINTS = len(skeleton("mpii16").joints)


def test_bones_are_drawn_where_the_joints_are() -> None:
    """One bone from (10, 60) to (110, 60) in a picture that is enlarged twice; no other joint is known."""
    one, other = skeleton("mpii16").bones[0]
    points = np.full((JOINTS, 2), np.nan)
    points[one], points[other] = (10, 60), (110, 60)
    drawn = np.asarray(Image.open(io.BytesIO(draw(np.zeros((120, 160, 3), np.uint8), points, "mpii16"))))
    assert drawn.shape == (HEIGHT_PX, 320, 3)
    lit = drawn.max(axis=2) > 80
    assert lit[120, 20:220].mean() > 0.95
    assert not lit[:110].any()
    assert not lit[130:].any()
    assert not lit[:, 230:].any()


def test_examples_come_from_videos_that_are_still_there(tmp_path: Path) -> None:
    """Of three clips one has a video, the video of the second is gone, and the third was rejected."""
    video = tmp_path / "v.mp4"
    _film(video)
    times = [0.0, 0.2, 0.4]
    pose = {"skeleton": "mpii16", "unit": "px", "num_frames": 3, "num_joints": JOINTS, "num_coordinates": 2}
    pose |= {
        "time_s": times,
        "keypoints": np.full(3 * JOINTS * 2, 30.0, np.float32),
        "attempts": 1,
        "person": 0,
    }
    store = open_store(tmp_path / "store", create=True)
    uris = {"good": str(video), "gone": str(tmp_path / "gone.mp4"), "bad": str(video)}
    store.put_clips(
        pa.Table.from_pylist([empty_row(CLIPS, clip_id=i, uri=u) for i, u in uris.items()], CLIPS)
    )
    rows = [empty_row(POSES, clip_id=name, status="ok", **pose) for name in ("good", "gone")]
    rows.append(empty_row(POSES, clip_id="bad", status="rejected", person=0, attempts=1))
    table = store.create_poses({"kind": "poses"})
    with table.writer() as writer:
        writer.commit([table.write_file(pa.Table.from_pylist(rows, POSES))])
    found = example_frames(store.path, store.pose_keys()[0])
    assert len(found) == 1
    assert re.search(r"<figcaption>good, 0\.20 s</figcaption>", found[0])


def _film(path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for shade in (0, 80, 160, 240):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
