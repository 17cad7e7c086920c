"""Tracks of boxes known by hand, and of seeded scenes with truth."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.stages.tracking import overlap, track_shot

sys.path.insert(0, str(Path(__file__).parent))
import made_boxes


def tracks_of(frames: list[list[tuple]], fps: float = 25.0, camera: np.ndarray | None = None):
    """Tracks of lists of (x1, y1, x2, y2, score) per frame."""
    row = made_boxes.detections_row(frames, fps)
    return track_shot(
        np.asarray(row["frame_detections"]),
        np.asarray(row["boxes"], np.float32).reshape(-1, 4),
        np.asarray(row["box_scores"], np.float32),
        np.asarray(row["time_s"]),
        np.asarray(row["camera"]).reshape(-1, 4) if camera is None else camera,
    )


def box(x: float, y: float = 200.0, width: float = 80.0, height: float = 200.0, score: float = 0.9) -> tuple:
    return (x, y, x + width, y + height, score)


def test_overlap_of_boxes_known_by_hand():
    first = np.array([[0, 0, 2, 2.0]])
    second = np.array([[1, 0, 3, 2], [0, 0, 2, 2], [4, 0, 6, 2.0]])
    iou, giou = overlap(first, second)
    np.testing.assert_allclose(iou, [[1 / 3, 1, 0]])
    np.testing.assert_allclose(giou, [[1 / 3, 1, -1 / 3]])


@pytest.mark.slow  # importing torchvision
def test_generalised_iou_equals_torchvision():
    from torch import from_numpy
    from torchvision.ops import generalized_box_iou

    low = np.random.default_rng(0).uniform(0, 100, (2, 20, 2))
    boxes = np.concatenate([low, low + np.random.default_rng(1).uniform(1, 80, (2, 20, 2))], axis=-1)
    expected = generalized_box_iou(from_numpy(boxes[0]), from_numpy(boxes[1])).numpy()
    np.testing.assert_allclose(overlap(*boxes)[1], expected, atol=1e-9)


def test_two_people_who_cross_keep_their_tracks():
    frames = [[box(100 + 12 * step), box(700 - 12 * step)] for step in range(50)]
    tracks = tracks_of(frames)
    assert len(tracks) == 2
    assert tracks[0].boxes[-1][0] == 100 + 12 * 49
    assert tracks[1].boxes[-1][0] == 700 - 12 * 49


def test_a_person_hidden_for_half_a_second_goes_on_and_is_doubtful():
    walker = [box(100 + 10 * step) for step in range(60)]
    frames = [[box(380, width=120)] + ([] if 24 <= step < 36 else [walker[step]]) for step in range(60)]
    tracks = tracks_of(frames)
    assert [len(track.frames) for track in tracks] == [48, 60]
    assert [track.boxes[-1][0] for track in tracks] == [690, 380]
    assert [track.doubtful for track in tracks] == [[36], [36]]


def test_a_gap_without_another_person_is_not_doubtful():
    frames = [[] if 20 <= step < 30 else [box(100 + 5 * step)] for step in range(50)]
    tracks = tracks_of(frames)
    assert [len(track.frames) for track in tracks] == [40]
    assert tracks[0].doubtful == []


def test_a_track_ends_after_a_second_and_the_next_person_there_is_another():
    frames = [[] if 20 <= step < 46 else [box(100)] for step in range(80)]
    assert [track.frames[0] for track in tracks_of(frames)] == [0, 46]
    frames = [[] if 20 <= step < 44 else [box(100)] for step in range(80)]
    assert [track.frames[0] for track in tracks_of(frames)] == [0]


def test_a_diver_who_leaves_his_last_box_within_a_frame_is_followed():
    # 10 m of free fall at 5 frames per second, tucked to a box of 0.9 m = 60 px
    fall = [200 + 0.5 * 26 * step**2 for step in range(8)]
    frames = [[box(100, y, 60, 60), box(600)] for y in [*([200] * 12), *fall]]
    assert fall[-1] - fall[-2] > 2 * 60
    tracks = tracks_of(frames, fps=5)
    assert [len(track.frames) for track in tracks] == [20, 20]


def test_the_cameras_motion_is_no_motion_of_people():
    pan = np.tile(np.float32([1, 0, -150, 0]), (40, 1))
    frames = [[box(5000 - 150 * step), box(5150 - 150 * step)] for step in range(40)]
    frames[20:23] = [[], [], []]
    follows = tracks_of(frames, camera=pan)
    assert [len(track.frames) for track in follows] == [37, 37]
    first = [track for track in tracks_of(frames) if track.frames[0] == 0 and len(track.frames) == 37]
    assert len(first) < 2  # without it, neighbours are taken for each other


def test_unsure_boxes_continue_a_track_but_begin_none():
    frames = [[box(100, score=0.9 if step < 10 else 0.15), box(600, score=0.25)] for step in range(40)]
    tracks = tracks_of(frames)
    assert [len(track.frames) for track in tracks] == [40]


def test_a_second_box_on_the_same_person_begins_no_track():
    frames = [[box(100), box(104, 206, score=0.6)] for _ in range(40)]
    assert len(tracks_of(frames)) == 1


def test_false_alarms_of_one_or_two_frames_are_dropped():
    frames = [[box(100)] + ([box(700)] if step in (10, 11) else []) for step in range(40)]
    assert len(tracks_of(frames)) == 1


def test_one_frame_and_none():
    assert [track.frames for track in tracks_of([[box(600), box(100)]])] == [[0], [0]]
    assert tracks_of([[box(600), box(100)]])[0].boxes[0][0] == 100  # left to right
    assert tracks_of([[]]) == []
    assert tracks_of([]) == []


def test_the_same_boxes_give_the_same_tracks():
    scene = made_boxes.make_scene(3).row
    both = [
        [(track.frames, track.doubtful) for track in track_shot(
            np.asarray(scene["frame_detections"]), np.asarray(scene["boxes"]).reshape(-1, 4),
            np.asarray(scene["box_scores"]), scene["time_s"], np.asarray(scene["camera"]).reshape(-1, 4))]
        for _ in range(2)
    ]  # fmt: skip
    assert both[0] == both[1]


@pytest.mark.parametrize("fps", [25.0, 10.0])
def test_exchanges_in_seeded_scenes_are_rare(fps, capsys):
    exchanges = boxes = whole = people = 0
    for seed in range(30):
        scene = made_boxes.make_scene(seed, fps=fps, count=int(4.8 * fps))
        row = scene.row
        tracks = track_shot(
            np.asarray(row["frame_detections"]),
            np.asarray(row["boxes"], np.float32).reshape(-1, 4),
            np.asarray(row["box_scores"], np.float32),
            row["time_s"],
            np.asarray(row["camera"]).reshape(-1, 4),
        )
        persons = [scene.persons_of(track.frames, track.boxes) for track in tracks]
        real = [[person for person in track if person >= 0] for track in persons]
        exchanges += sum(one != two for track in real for one, two in itertools.pairwise(track))
        for person in range(scene.persons.max() + 1):
            count = int((scene.persons == person).sum())
            if count >= 10:
                people += 1
                whole += max((track.count(person) for track in real), default=0) >= 0.9 * count
        boxes += int((scene.persons >= 0).sum())
    with capsys.disabled():
        print(f"\n{fps:.0f} fps: {exchanges} exchanges in {boxes} boxes; {whole} of {people} people whole")
    assert exchanges <= 6
    assert whole >= 0.95 * people


@pytest.mark.slow
def test_half_an_hour_of_four_people_takes_seconds():
    frames = [
        [box(200 + 250 * who + 20 * np.sin(step / 9 + who)) for who in range(4)] for step in range(54000)
    ]
    started = time.perf_counter()
    tracks = tracks_of(frames, fps=30)
    assert [len(track.frames) for track in tracks] == [54000] * 4
    assert time.perf_counter() - started < 120
