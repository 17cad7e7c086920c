"""The overlay and the page: what is in the files, read back by other means."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest

from aqa_models.skeletons import skeleton
from pipelines.errors import StorageError
from pipelines.scoring.curves import curves_png, joint_angles, timeline_png
from pipelines.scoring.drawing import GAIN, HEAD_HEIGHT, LEFT, LOSS, RIBBON_HEIGHT, RIGHT, UNSURE, Drawer
from pipelines.scoring.explanation import Curve, Difference, Explanation
from pipelines.scoring.extraction import Recording
from pipelines.scoring.interval import Interval
from pipelines.scoring.overlay import write_video
from pipelines.scoring.page import write_page
from pipelines.scoring.verdict import Part, Verdict
from pipelines.scoring.video_scorer import Scored

PARTS = (Part("Take-off", 0.0, 0.4, 1.5), Part("Entry", 0.4, 1.0, -2.0))
VERDICT = Verdict(score=9.5, base=10.0, base_meaning="mean of two dives", parts=PARTS, action_type="101b")
DIFFERENCE = Difference("Entry", "left knee", 0.5, 0.7, -24.0, 6.0, 2.0)
LEVEL = np.linspace(90, 180, 11)
CURVES = (
    Curve("left knee", np.arange(11) / 10, LEVEL - 40, LEVEL, LEVEL - 10, LEVEL + 10),
    Curve("right knee", np.arange(11) / 10, np.full(11, np.nan), LEVEL, LEVEL - 10, LEVEL + 10),
)
RANGE = {"degrees": 20.0, "control_median": 40.0, "percentile": 0.0}
EXPLAINED = Explanation(
    ("Entry lost most", DIFFERENCE.words("in the exemplars")),
    {
        "procedure": "Entry",
        "ranges": {"right hip": RANGE},
        "inpainting": {"left arm": {"error": 0.3, "control_median": 0.1, "percentile": 100.0}},
    },
    (DIFFERENCE,),
    CURVES,
    "exemplar known, judged 10",
    ("nothing of the hands",),
)


@pytest.fixture
def pose() -> dict:
    """A figure in a picture of 100 x 200 px whose right arm goes from hanging to level."""
    names = skeleton("coco17").joints
    place = {
        "hip": (0, 0),
        "knee": (0, 30),
        "ankle": (0, 60),
        "shoulder": (0, -40),
        "elbow": (0, -20),
        "wrist": (0, 0),
    }
    body = np.zeros((11, 17, 2), np.float32) + np.float32([50, 40])
    for side, x in (("left", 60), ("right", 40)):
        for joint, (dx, dy) in place.items():
            body[:, names.index(f"{side}_{joint}")] = (x + dx, 100 + dy)
    raised = np.linspace(0, np.pi / 2, 11)
    arm = np.stack([-np.sin(raised), np.cos(raised)], axis=1)
    body[:, names.index("right_elbow")] = (40, 60) + 20 * arm
    body[:, names.index("right_wrist")] = (40, 60) + 40 * arm
    return {
        "keypoints": body, "confidence": np.full((11, 17), 0.9, np.float32), "skeleton": "coco17",
        "time_s": np.arange(11) / 10, "width_px": 100, "height_px": 200,
    }  # fmt: skip


def test_joint_angles_of_a_rising_arm(pose):
    found = joint_angles(pose["keypoints"], pose["confidence"], "coco17")
    assert found["right shoulder"] == pytest.approx(np.linspace(0, 90, 11), abs=1e-3)
    assert found["right elbow"] == pytest.approx(np.full(11, 180), abs=1e-3)
    assert found["left knee"] == pytest.approx(np.full(11, 180), abs=1e-3)
    pose["confidence"][3, skeleton("coco17").index("left_knee")] = 0.1
    unsure = joint_angles(pose["keypoints"], pose["confidence"], "coco17")["left knee"]
    assert np.flatnonzero(np.isnan(unsure)).tolist() == [3]


def test_the_skeleton_lies_where_the_joints_are(pose):
    drawer = Drawer(pose, VERDICT)
    frame = drawer.draw(np.zeros((400, 200, 3), np.uint8), 0.5)  # twice the size of the video
    assert frame.shape == (400 + HEAD_HEIGHT + RIBBON_HEIGHT, 200, 3)
    assert tuple(frame[HEAD_HEIGHT + 2 * 130, 2 * 60]) == LEFT  # left knee
    assert tuple(frame[HEAD_HEIGHT + 2 * 130, 2 * 40]) == RIGHT
    pose["confidence"][:, skeleton("coco17").index("left_knee")] = 0.1
    frame = drawer.draw(np.zeros((400, 200, 3), np.uint8), 0.5)
    assert frame[HEAD_HEIGHT + 2 * 115, 2 * 60] == pytest.approx(UNSURE, abs=20)  # thin, so blended
    between, _ = drawer.at(0.25)
    assert between == pytest.approx((pose["keypoints"][2] + pose["keypoints"][3]) / 2)


def test_the_ribbon_tells_gain_from_loss_and_the_part_of_now(pose):
    drawer = Drawer(pose, VERDICT)
    ribbon = drawer.draw(np.zeros((400, 408, 3), np.uint8), 0.2)[HEAD_HEIGHT + 400 + 10]
    first, second = ribbon[12].astype(int), ribbon[395].astype(int)
    assert first[1] > first[0]  # green: adds points
    assert second[0] > second[1]  # orange: takes some away
    later = drawer.draw(np.zeros((400, 408, 3), np.uint8), 0.7)[HEAD_HEIGHT + 400 + 10]
    assert later[12].sum() < first.sum()
    assert later[395].sum() > second.sum()


def test_an_overlay_keeps_frames_and_times(pose, tmp_path):
    times = [2.0, 2.04, 2.08, 2.2, 2.24]  # begins later, and has a gap
    drawer = Drawer(pose, VERDICT)
    frames = [(t, drawer.draw(np.full((100, 60, 3), 40 * k, np.uint8), t - 2)) for k, t in enumerate(times)]
    path = tmp_path / "out.mp4"
    handed_on = list(write_video(path, iter(frames)))
    assert [t for t, _ in handed_on] == times
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264"
    assert [t for t, _ in shown] == pytest.approx([t - 2 for t in times], abs=1e-3)
    for k, (_, picture) in enumerate(shown):
        assert picture[HEAD_HEIGHT + 2, 2].mean() == pytest.approx(40 * k, abs=12)
    assert [path] == list(tmp_path.iterdir())
    with pytest.raises(StorageError, match="the video cannot be written"):
        list(write_video(tmp_path / "no folder" / "out.mp4", iter(frames)))


def colours(png: bytes) -> set[tuple[int, ...]]:
    """RGB of a picture, in steps of 16."""
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    red, green, blue = (picture[::2, ::2].reshape(-1, 3) // 16).astype(int).T
    return {
        (code // 256, code // 16 % 16, code % 16) for code in set((256 * red + 16 * green + blue).tolist())
    }


def test_the_timeline_shows_points_and_limbs_and_the_curves_what_they_are_held_against():
    def near(rgb: tuple[int, int, int]) -> tuple[int, ...]:
        return tuple(value // 16 for value in rgb)

    shown = colours(timeline_png(VERDICT, CURVES))
    assert {near(GAIN), near(LOSS)} <= shown
    drawn = colours(curves_png(CURVES, VERDICT, (DIFFERENCE,)))
    assert {near(LEFT), near((222, 222, 222))} <= drawn  # the left side, and the band of the references
    assert near(RIGHT) not in drawn  # never seen
    assert curves_png((), VERDICT, ()) == b""


class Page(HTMLParser):
    """What a browser would load, and the texts for people who do not see the pictures."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.links, self.alts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.tags.append(tag)
        self.links += [told[name] for name in ("src", "href", "srcset", "action") if name in told]
        if tag == "img":
            self.alts.append(told.get("alt", ""))


def test_a_page_needs_nothing_else_and_tells_the_numbers(pose, tmp_path):
    told = {
        "video": "/clips/<b>mine.mp4", "score": 9.5, "unit": "points", "action_type": "101b",
        "interval": {"low": 8.0, "high": 11.0, "level": 0.9, "source": "errors of 20 test clips"},
        "base": {"points": 10.0, "meaning": "mean of two dives"},
        "parts": [{"name": p.name, "start_s": p.start_s, "end_s": p.end_s, "delta": p.delta} for p in PARTS],
        "exemplars": [{"clip_id": "known", "score": 10.0, "vote": 9.5}], "exemplar_rule": "number",
        "warnings": [{"code": "gap", "text": "a gap of 0.3 s"}],
        "distances": {"view": {"value": 0.04, "limit": 0.09, "nearest": "known"}},
        "provenance": {"model": "runs/x", "model_kind": "hp_mcore", "model_sha256": "ab",
                       "video_sha256": "cd", "decoder": "decord",
                       "extraction": {"poses": {"sampling": "all"}}},
        "limits": "not a judge and not a medical device.",
    }  # fmt: skip
    told["explanation"] = EXPLAINED.document()
    found = Scored(Recording(pa.table({}), {}), pose, VERDICT, EXPLAINED, Interval(None, 0, 0, ""), [], [])
    path = tmp_path / "page.html"
    stills = [(0.2, np.zeros((40, 30, 3), np.uint8)), (0.7, np.zeros((40, 30, 3), np.uint8))]
    write_page(path, told, found, stills, stills[:1], "aqa score x.mp4 --model 'a b'")
    text = path.read_text()
    page = Page(text)
    assert page.links
    assert all(link.startswith("data:image/") for link in page.links)
    assert not re.search(r"https?://|url\(|@import", re.sub(r"data:image/[^\"]+", "", text))
    assert not {"script", "link", "iframe", "object", "b"} & set(page.tags)
    assert len(page.alts) == 6
    assert all(len(alt) > 30 for alt in page.alts)
    assert "right shoulder 0 to 90" in page.alts[-1]
    assert "most the left knee in Entry" in page.alts[1]
    assert "right exemplar known, judged 10" in page.alts[2]
    for words in ("8.0 to 11.0", "+1.50", "-2.00", "10.00", "a gap of 0.3 s", "not a medical device",
                  "aqa score x.mp4 --model &#39;a b&#39;", "&lt;b&gt;mine", "@media print",
                  "left knee 24 degrees bent more", "Not said: nothing of the hands.", "associated with",
                  "<td>left arm</td>", "<td>right hip</td>"):  # fmt: skip
        assert words in text
    for link in page.links:
        kind, _, data = link.partition(";base64,")
        import base64

        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None, kind
    with pytest.raises(StorageError, match="the page cannot be written"):
        write_page(tmp_path / "no folder" / "p.html", told, found, stills, [], "")
