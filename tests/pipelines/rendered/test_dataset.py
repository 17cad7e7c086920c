"""The rendered data set: files, determinism, splits, and joints that lie on the body."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.rendered import dives, exercises
from pipelines.rendered.body import Camera, Shape, pose_body
from pipelines.rendered.dataset import render_dataset
from pipelines.rendered.draw import Figure, Look
from pipelines.rendered.film import _Scene, film_dive, film_exercise
from pipelines.schema import CLIPS


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    table = render_dataset(folder, exercises=8, subjects=8, dives=4, seed=5)
    with table.open(encoding="utf-8") as file:
        clips = list(csv.DictReader(file))
    truth = {row["clip_id"]: row for row in pq.read_table(folder / "truth.parquet").to_pylist()}
    return folder, clips, truth


def test_clips_table_has_the_columns_of_the_schema(rendered):
    _, clips, truth = rendered
    assert len(clips) == 12
    assert set(clips[0]) <= set(CLIPS.names)
    assert {clip["clip_id"] for clip in clips} == set(truth)
    for clip in clips:
        assert clip["dataset"] == "rendered"
        if clip["difficulty"]:
            judges = json.loads(clip["judge_scores"])
            number = dives.DiveNumber.parse(clip["action_type"])
            assert float(clip["score"]) == pytest.approx(
                sum(sorted(judges)[2:5]) * number.difficulty, abs=0.01
            )
            takeoff, entry = json.loads(clip["transitions_s"])
            assert 0.3 < takeoff < entry < truth[clip["clip_id"]]["num_frames"] / 25
        else:
            assert clip["action_type"] in exercises.EXERCISES
            assert 0 <= float(clip["score"]) <= 50
            assert clip["group"] in ("control", "impaired")


def test_videos_decode_with_the_promised_frames(rendered):
    folder, clips, truth = rendered
    for clip in clips:
        with av.open(str(folder / clip["uri"])) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.average_rate == 25
            sizes = [(frame.width, frame.height) for frame in container.decode(stream)]
        row = truth[clip["clip_id"]]
        assert sizes == [(256, 256)] * row["num_frames"]
        assert len(row["joints"]) == row["num_frames"] * 16 * 2
        assert (2 if clip["difficulty"] else 4) <= len(sizes) / 25 <= (3.2 if clip["difficulty"] else 8)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    def digests(folder, seed):
        render_dataset(folder, exercises=1, subjects=4, dives=1, seed=seed)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.*"))]

    first, again = digests(tmp_path / "a", 9), digests(tmp_path / "b", 9)
    assert first == again
    assert set(digests(tmp_path / "c", 10)).isdisjoint(first)


def test_subjects_stay_in_one_split_and_every_split_spans_the_severities(rendered):
    _, clips, truth = rendered
    splits, severities = defaultdict(set), defaultdict(list)
    for clip in clips:
        splits[clip["subject_id"]].add(clip["split"])
        if not clip["difficulty"]:
            severities[clip["split"]].append(truth[clip["clip_id"]]["severity"])
    assert all(len(found) == 1 for found in splits.values())
    assert set(severities) == {"train", "val", "test"}
    for found in severities.values():
        assert min(found) < 0.35
        assert max(found) > 0.4


def test_length_does_not_depend_on_the_severity_and_names_are_in_random_order(rendered):
    look = Look.sample(np.random.default_rng(0), swimwear=False)
    films = []
    for severity in (0.0, 0.9):
        subject = exercises.Subject.sample(np.random.default_rng(0), "S", severity)
        films.append(film_exercise(np.random.default_rng(1), "Es1", subject, look))
    assert len(films[0].frames) == len(films[1].frames)
    _, clips, truth = rendered
    ordered = [truth[clip["clip_id"]]["severity"] for clip in clips if not clip["difficulty"]]
    assert ordered != sorted(ordered)
    assert ordered != sorted(ordered, reverse=True)


def test_too_few_subjects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="subjects must be at least 4"):
        render_dataset(tmp_path, exercises=3, subjects=3, dives=0)


def test_true_joints_lie_on_the_drawn_body():
    random = np.random.default_rng(4)
    subject = exercises.Subject.sample(random, "S", 0.3)
    motion = exercises.perform(random, "Es5", subject, np.arange(0, 4, 0.2))
    posed = pose_body(motion, subject.shape)
    count = len(motion.root)
    place, aim = np.tile([0.0, 1.0, 4.0], (count, 1)), np.tile([0.0, 0.9, 0.0], (count, 1))
    camera = Camera.looking(place, aim, np.full(count, 400.0), (256, 256))
    figure = Figure(posed, camera, Look.sample(random, swimwear=False))
    pixels = np.round(camera.project(posed.joints)[0]).astype(int)
    empty = (7, 250, 3)
    for time in range(count):
        frame = np.full((256, 256, 3), empty, np.uint8)
        figure.draw(frame, time)
        drawn = (frame != empty).any(axis=-1)
        inside = [drawn[y, x] for x, y in pixels[time][:9]]  # head top lies on the outline
        assert all(inside)
        assert 0.02 < drawn.mean() < 0.4


def test_dive_ends_in_the_water_under_a_splash():
    random = np.random.default_rng(2)
    faults = dict.fromkeys(dives.FAULT_COST, 0.2)
    look = Look.sample(random, swimwear=True)
    film, dive = film_dive(random, dives.DiveNumber.parse("105B"), faults, Shape(), look)
    last = int(dive.entry_s * 25)
    assert len(film.frames) - last >= 5
    head = film.joints[:, 9]
    assert head[last + 4, 1] > film.joints[last + 4, 0, 1]  # upside down
    white = (film.frames.min(axis=-1) > 215).mean(axis=(1, 2))
    assert white[last + 5] > white[last - 3] + 0.005


def test_background_moves_with_the_camera():
    aim = np.stack([np.linspace(0, 0.5, 5), np.zeros(5), np.zeros(5)], axis=-1)
    camera = Camera.looking(np.tile([0.0, 0, 5], (5, 1)), aim, np.full(5, 400.0), (256, 256))
    scene = _Scene(np.random.default_rng(0), camera, "clutter")
    first, last = scene.view(0).astype(int), scene.view(4).astype(int)
    shift = round(400 * np.sin(np.arctan(0.1)))  # px the camera panned to the right
    assert np.abs(first[:, shift:] - last[:, :-shift]).mean() < 0.3 * np.abs(first - last).mean()
