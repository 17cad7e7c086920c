"""Videos as people really send them: each gets a right answer, an answer with its doubt, or a clear refusal.

Made from one rendered clip, so that the poses and the score that ought to come out are known.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from rendered_expert import film, pictures

from pipelines.config import ExtractConfig
from pipelines.errors import REJECT_CODES
from pipelines.scoring.refusal import Refused
from pipelines.scoring.request import Request
from pipelines.scoring.video_scorer import Scored, VideoScorer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scorer(trained) -> Iterator[VideoScorer]:
    with VideoScorer(trained / "runs" / "expert" / "bundle", ExtractConfig()) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def clip(trained) -> tuple[Path, str]:
    """A rendered test clip and its action type."""
    row = pq.read_table(trained / "runs" / "expert" / "predictions.parquet").to_pylist()[0]
    return trained / "data" / "videos" / f"{row['clip_id']}.mp4", row["action_type"]


@pytest.fixture(scope="module")
def frames(clip) -> list[np.ndarray]:
    return pictures(clip[0])


@pytest.fixture(scope="module")
def plain(scorer, clip) -> Scored:
    """What is said of the clip itself."""
    return scorer.score(clip[0], Request(clip[1]))


@pytest.fixture(scope="module")
def rate(clip) -> float:
    with av.open(str(clip[0])) as container:
        return float(container.streams.video[0].average_rate or 0)


def doubts(scored: Scored) -> set[str]:
    return {one.code for one in scored.warnings}


def outcome(scorer: VideoScorer, path: Path, request: Request) -> set[str]:
    """Codes of the doubts, or of the refusal."""
    try:
        return doubts(scorer.score(path, request))
    except Refused as error:
        return {error.code}


def apart(scored: Scored, plain: Scored) -> float:
    """Median distance of the joints from those of the clip itself, px."""
    ours, theirs = scored.pose["keypoints"], plain.pose["keypoints"]
    count = min(len(ours), len(theirs))
    return float(np.median(np.linalg.norm(ours[:count] - theirs[:count], axis=-1)))


def test_a_turned_phone_video_is_scored_upright(scorer, clip, frames, plain, rate, tmp_path):
    turned = tmp_path / "turned.mp4"
    with av.open(str(turned), "w") as container:
        stream = container.add_stream("libx264", rate=round(rate), options={"crf": "18"})
        stream.set_display_rotation(90)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = frames[0].shape[:2]
        for frame in frames:
            coded = np.ascontiguousarray(np.rot90(frame, -1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coded, format="rgb24")))
        container.mux(stream.encode())
    found = scorer.score(turned, Request(clip[1]))
    assert found.pose["width_px"] == frames[0].shape[1]
    assert apart(found, plain) < 3
    assert found.verdict.score == pytest.approx(plain.verdict.score, abs=0.5)


def test_of_two_people_the_one_in_the_box_is_scored(scorer, clip, frames, plain, rate, tmp_path):
    other = frames[::-1]
    both = film(tmp_path / "two.mp4", [np.hstack(pair) for pair in zip(frames, other, strict=True)], rate)
    height, width = frames[0].shape[:2]
    boxed = scorer.score(both, Request(clip[1], box=(0, 0, width, height)))
    assert apart(boxed, plain) < 5
    assert boxed.verdict.score == pytest.approx(plain.verdict.score, abs=0.5)
    # Without a box and a detector nobody can count people, but the picture is not like the training's.
    told = outcome(scorer, both, Request(clip[1]))
    assert told & {"no_person", "far_view", "far_movement", "low_confidence", "unsure_joints"}


def test_an_athlete_of_thirty_pixels_is_doubted_or_refused(scorer, clip, frames, rate, tmp_path):
    import cv2

    tall = 30 / 0.7  # the athlete fills about seven tenths of the height
    scale = tall / frames[0].shape[0]
    small = [cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for frame in frames]
    canvas = np.full((360, 480, 3), 120, np.uint8)
    shown = []
    for frame in small:
        picture = canvas.copy()
        picture[150 : 150 + frame.shape[0], 200 : 200 + frame.shape[1]] = frame
        shown.append(picture)
    path = film(tmp_path / "far.mp4", shown, rate)
    y, x = small[0].shape[:2]
    for box in (None, (200, 150, 200 + x, 150 + y)):
        told = outcome(scorer, path, Request(clip[1], box=box))
        assert told & {"no_person", "small_person", "low_confidence"}


def test_black_seconds_are_doubted_or_named_in_the_refusal(scorer, clip, frames, plain, rate, tmp_path):
    black = [np.zeros_like(frames[0])] * round(5 * rate)
    late = film(tmp_path / "late.mp4", [*black, *frames], rate)
    with pytest.raises(Refused, match=r"; \d\d% of the pictures are of one colour") as error:
        scorer.score(late, Request(clip[1]))
    assert error.value.remedy.startswith("say which part shows the athlete: --start-s")
    part = scorer.score(late, Request(clip[1], start_s=5.0))
    assert "blank_frames" not in doubts(part)
    assert apart(part, plain) < 5
    assert part.verdict.score == pytest.approx(plain.verdict.score, abs=1)
    blink = film(tmp_path / "blink.mp4", [*black[: round(rate / 2)], *frames], rate)
    assert "blank_frames" in doubts(scorer.score(blink, Request(clip[1])))
    with pytest.raises(Refused, match="of one colour") as error:
        scorer.score(film(tmp_path / "black.mp4", black, rate), Request(clip[1]))
    assert error.value.code == "black"


def test_slow_motion_keeps_its_true_times_or_is_doubted(scorer, clip, frames, plain, rate, tmp_path):
    times = max(1, round(120 / rate))
    quick = [frame for frame in frames for _ in range(times)]
    true = scorer.score(film(tmp_path / "true.mp4", quick, rate * times), Request(clip[1]))
    assert "frame_rate" in doubts(true)
    assert true.verdict.score == pytest.approx(plain.verdict.score, abs=0.5)
    stretched = scorer.score(film(tmp_path / "slow.mp4", quick, rate), Request(clip[1]))
    assert "duration" in doubts(stretched)
    assert stretched.pose["time_s"][-1] > 3 * plain.pose["time_s"][-1]


def test_half_an_hour_is_refused_soon_and_a_part_of_it_is_scored(scorer, clip, frames, plain, tmp_path):
    step = round(len(frames) / (plain.pose["time_s"][-1] * 5))
    middle = frames[::step]
    still = np.full_like(frames[0], 90)

    def half_an_hour() -> Iterator[np.ndarray]:
        for number in range(30 * 60 * 5):
            inside = number - 15 * 60 * 5
            yield middle[inside] if 0 <= inside < len(middle) else still

    path = film(tmp_path / "long.mp4", half_an_hour(), 5)
    began, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match="lasts more than 120 s") as error:
        scorer.score(path, Request(clip[1]))
    assert (error.value.code, "--start-s" in error.value.remedy) == ("too_long", True)
    end = 900 + len(middle) / 5
    found = scorer.score(path, Request(clip[1], start_s=900.0, end_s=end))
    assert found.pose["time_s"][0] == pytest.approx(900, abs=0.2)
    assert found.verdict.score == pytest.approx(plain.verdict.score, abs=1)
    assert time.monotonic() - began < 120
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000  # KiB


@pytest.mark.data
@pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
def test_every_real_video_gets_doubts_or_a_reason(scorer):
    """A network of rendered people must not be sure of real ones; damaged files are refused with a reason."""
    folder = Path(os.environ["AQA_TEST_DATA"]) / "videos"
    videos = [p for p in sorted(folder.rglob("*")) if p.suffix in (".mp4", ".avi", ".mov", ".mkv", ".webm")]
    assert len(videos) > 80
    refusals = {*REJECT_CODES, "black", "too_long"}
    outcomes = {video: outcome(scorer, video, Request("Es1", end_s=0.6)) for video in videos}
    assert not [video for video, codes in outcomes.items() if not codes]
    assert 0 < sum(bool(codes & refusals) for codes in outcomes.values()) < len(videos)
