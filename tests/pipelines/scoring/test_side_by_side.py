"""A dive beside its exemplar: which frame stands beside which, read back from the pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from filmed_bodies import pose_of

from pipelines.scoring.alignment import Alignment
from pipelines.scoring.drawing import RIBBON_HEIGHT, Drawer
from pipelines.scoring.explanation import Reference
from pipelines.scoring.overlay import write_video
from pipelines.scoring.side_by_side import TITLE_HEIGHT, ExemplarFrames, paired_frames
from pipelines.scoring.verdict import Part, Verdict

PARTS = (Part("Flight", 0.0, 1.0, 1.5), Part("Entry", 1.0, 2.0, -2.0))
VERDICT = Verdict(9.5, 10.0, "mean of two dives", PARTS, "101b")
TIME_S = np.arange(50) / 25


def write_grey(path: Path, count: int) -> None:
    """A video of 120 x 90 px whose frame k has the grey level 40 + 4 k."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 120, 90, "yuv420p"
        for k in range(count):
            picture = np.full((90, 120, 3), 40 + 4 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def exemplar(tmp_path) -> Reference:
    """Flies for 0.4 s where the dive takes 1 s, and enters for 0.6 s."""
    write_grey(tmp_path / "exemplar.mp4", 25)
    pose = pose_of({}, np.arange(25) / 25)
    alignment = Alignment(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.4, 1.0]))
    return Reference("known", 80.0, str(tmp_path / "exemplar.mp4"), None, None, pose, alignment)


def test_each_is_as_far_in_the_same_procedure(exemplar, tmp_path):
    drawer, shown = Drawer(pose_of({}, TIME_S), VERDICT), ExemplarFrames(exemplar)
    assert shown.filmed
    own = [(t, np.full((300, 400, 3), 200, np.uint8)) for t in (0.5, 1.0, 1.6)]
    path = tmp_path / "side.mp4"
    pictures = list(write_video(path, paired_frames(iter(own), drawer, shown)))
    for (_, picture), frame in zip(pictures, (5, 10, 19), strict=True):  # 0.2, 0.4 and 0.76 s of the exemplar
        assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
        body = picture[TITLE_HEIGHT:-RIBBON_HEIGHT]
        assert body[150, 5].mean() == pytest.approx(200, abs=3)  # left, this dive
        assert body[150, 415].mean() == pytest.approx(40 + 4 * frame, abs=3)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [frame.time for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264"
    assert times == pytest.approx([0, 0.5, 1.1], abs=1e-3)


def test_where_the_video_is_gone_its_skeleton_is_drawn(exemplar, tmp_path):
    for uri in (str(tmp_path / "gone.mp4"), str(tmp_path / "text.mp4")):
        (tmp_path / "text.mp4").write_text("no video")
        shown = ExemplarFrames(replace(exemplar, uri=uri))
        assert not shown.filmed
        picture = shown.at(0.2)
        assert picture.shape == (360, 480, 3)  # 400 x 300 px, as large as fits
        knee = exemplar.pose["keypoints"][5, 4] * 1.2
        x, y = knee.round().astype(int)
        assert picture[y - 3 : y + 4, x - 3 : x + 4].max() > 150
        assert picture[2, 2].max() < 40
