from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from filmed_dives import film_tables, frames_row, stored
from made_dives import changed, make_tables

from aqa_models.hp_mcore.performance import Performances
from aqa_models.skeletons import skeleton
from pipelines.errors import DataError
from pipelines.hp_mcore import frames
from pipelines.hp_mcore.dives import Dives, dive_table
from pipelines.hp_mcore.frames import EXEMPLAR, QUERY, FrameStage, Pictures, Shot, filmed, normalised
from pipelines.schema import FEATURES

T = 4


def dotted_dive() -> tuple[Pictures, np.ndarray, list[tuple[int, int, int]]]:
    """A dive of 400 x 224 px, filmed at 200 x 112, with a dot of its own colour at each joint."""
    draw = np.random.default_rng(0)
    # Two pixels of the video are one of the picture: joint (2 x + 0.5, 2 y + 0.5) is in its middle.
    cells = draw.permutation([(x, y) for x in range(60, 141, 10) for y in range(10, 101, 10)])[:16]
    keypoints = np.tile(2.0 * cells + 0.5, (T, 1, 1)).astype(np.float32)
    levels = (60, 150, 240)
    colours = [c for c in itertools.product(levels, levels, levels) if sum(c) >= 360][:16]
    image = np.zeros((112, 200, 3), np.uint8)
    for (x, y), colour in zip(cells, colours, strict=True):
        image[y - 3 : y + 4, x - 3 : x + 4] = colour
    clips, streams = make_tables(1, 0, 0, ["keypoints"])
    clips = clips.slice(0, 1)
    sizes = {"width_px": 400, "height_px": 224}
    cut = {"num_frames": T, "frame_index": list(range(T)), "time_s": np.arange(T) / 25}
    clips = changed(clips, lambda row: {"transitions_s": []})
    poses = changed(
        streams["keypoints"].slice(0, 1), lambda r: {**sizes, **cut, "keypoints": keypoints.ravel()}
    )
    row = {**frames_row(clips["clip_id"][0].as_py(), stored(np.stack([image] * T), ".png")), **sizes}
    table = dive_table(clips, {"keypoints": poses, "frames": pa.Table.from_pylist([row], schema=FEATURES)}, T)
    return Pictures(table), Dives(table).stream("keypoints", [0]), colours


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("place", [0.5, 0.31, 0.66])
def test_the_dot_of_each_joint_is_where_its_keypoint_says(flip, place):
    pictures, keypoints, colours = dotted_dive()
    shot = Shot(0, flip, place)
    (shown,) = pictures.shown([shot])
    moved = pictures.moved(keypoints, [shot])
    assert shown.shape == (T, 112, 112, 3)
    order = skeleton("mpii16").flip_order
    inside = 0
    for joint, (x, y) in enumerate(moved[0, 0]):
        if not (3 < x < 108 and 3 < y < 108):
            continue
        inside += 1
        # In a mirror the dot of the left wrist is at what looks like a right wrist.
        colour = colours[order[joint] if flip else joint]
        np.testing.assert_allclose(shown[0, round(y), round(x)], colour)
        rows, columns = np.nonzero(np.abs(shown[0].astype(int) - colour).max(axis=2) == 0)
        assert columns.mean() == pytest.approx(x, abs=1e-3)
        assert rows.mean() == pytest.approx(y, abs=1e-3)
    assert inside >= 10


def test_by_hand():
    """The middle of the first pixel of a 400 px wide video is a quarter pixel left of that of the picture."""
    pictures, keypoints, _ = dotted_dive()
    keypoints = np.zeros_like(keypoints)
    moved = pictures.moved(keypoints, [Shot(0)])
    np.testing.assert_allclose(moved, np.broadcast_to([-0.25 - 44, -0.25], moved.shape))
    mirrored = pictures.moved(keypoints, [Shot(0, flip=True, place=0.0)])
    np.testing.assert_allclose(mirrored, np.broadcast_to([199.25, -0.25], moved.shape))
    assert not keypoints.any()


def test_the_middle_is_that_of_the_stored_features():
    """Columns 44 to 155 of 200; from 0 to 88 in training."""
    assert Shot(0).left(200, 112) == 44
    lefts = [frames.training_shot(0, 0, row, QUERY).left(200, 112) for row in range(2000)]
    assert (min(lefts), max(lefts)) == (0, 88)
    assert np.mean(lefts) == pytest.approx(44, abs=2)


def test_a_view_is_a_function_of_seed_epoch_dive_and_role():
    first = frames.training_shot(3, 5, 7, QUERY)
    assert first == frames.training_shot(3, 5, 7, QUERY)
    others = [(4, 5, 7, QUERY), (3, 6, 7, QUERY), (3, 5, 8, QUERY), (3, 5, 7, EXEMPLAR)]
    assert all(frames.training_shot(*other).place != first.place for other in others)
    flips = [frames.training_shot(0, epoch, 1, QUERY).flip for epoch in range(400)]
    assert np.mean(flips) == pytest.approx(0.5, abs=0.08)


def test_colours_are_rgb_with_imagenet_statistics():
    image = np.zeros((T, 112, 200, 3), np.uint8)
    image[:] = (255, 0, 0)
    clips, _ = make_tables(1, 0, 0, [])
    clips = changed(clips.slice(0, 1), lambda row: {"transitions_s": []})
    rows = pa.Table.from_pylist([frames_row(clips["clip_id"][0].as_py(), stored(image))], schema=FEATURES)
    pictures = Pictures(dive_table(clips, {"frames": rows}, T))
    batch = filmed(Performances(), pictures, [Shot(0)], pictures.shown([Shot(0)]), transform_poses=True)
    found = normalised(batch).frames
    assert found is not None
    assert found.shape == (1, T, 3, 112, 112)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    torch.testing.assert_close(found[0, 0, :, 50, 50], torch.tensor(expected), atol=0.03, rtol=0)


def test_legacy_leaves_the_poses_alone():
    clips, streams = film_tables(train=1, test=0, poses=True)
    dives = Dives(dive_table(clips, streams, 96))
    assert dives.pictures is not None
    batch = Performances(keypoints=torch.from_numpy(dives.stream("keypoints", [1])))
    shot = Shot(1, flip=True, place=0.9)
    for transform in (False, True):
        shown = filmed(batch, dives.pictures, [shot], dives.pictures.shown([shot]), transform)
        assert shown.keypoints is not None
        assert torch.equal(shown.keypoints, batch.keypoints) is not transform  # type: ignore[arg-type]


def test_decoding_takes_one_dive_at_a_time(monkeypatch):
    clips, streams = film_tables(train=1, test=0)
    pictures = Dives(dive_table(clips, streams, 96)).pictures
    assert pictures is not None
    done = []
    real = pictures._decode
    monkeypatch.setattr(pictures, "_decode", lambda row, place: done.append(row) or real(row, place))
    showing = pictures.shown([Shot(2), Shot(0), Shot(1)])
    assert not done
    next(showing)
    assert done == [2] * 96
    next(showing)
    assert done == [2] * 96 + [0] * 96


def test_workers_of_ray_data_decode_the_same():
    """The stage itself, without Ray: rows in, pixels out, a damaged dive is a row and not an exception."""
    clips, streams = film_tables(train=1, test=0)
    rows = streams["frames"].to_pylist()
    rows[1]["jpeg"][40] = b"no picture"
    streams["frames"] = pa.Table.from_pylist(rows, schema=FEATURES)
    pictures = Dives(dive_table(clips, streams, 96)).pictures
    assert pictures is not None
    plan = pa.table({"row": [2, 1, 0], "flip": [True, False, False], "place": [0.9, 0.5, 0.1]})
    good, damaged, last = FrameStage("not read here").process(pictures, plan)
    (expected,) = pictures.shown([Shot(2, True, 0.9)])
    assert good["pixels"][0].as_py() == expected.tobytes()
    assert last["row"].to_pylist() == [0]
    assert damaged["pixels"].null_count == 1
    assert damaged["error"][0].as_py() == "its picture 40 is no readable JPEG"


@pytest.mark.parametrize(
    ("picture", "cause"),
    [
        (b"no picture", "its picture 3 is no readable JPEG"),
        (b"", "its picture 3 is no readable JPEG"),
        (stored(np.zeros((1, 20, 30, 3), np.uint8))[0], "its picture 3 is 30 x 20 px, others are not"),
    ],
)
def test_a_damaged_picture_is_named(picture, cause):
    clips, streams = film_tables(train=1, test=0)
    rows = streams["frames"].to_pylist()
    rows[1]["jpeg"][3] = picture
    pictures = Dives(dive_table(clips, {"frames": pa.Table.from_pylist(rows, schema=FEATURES)}, 96)).pictures
    assert pictures is not None
    with pytest.raises(DataError, match=f"^clip 107b_1: {cause}. Check the store with `aqa store verify`"):
        list(pictures.shown([Shot(0), Shot(1)]))


def test_poses_of_another_video_are_refused():
    clips, streams = film_tables(train=1, test=0, poses=True)
    other = changed(streams["keypoints"], lambda row: {"width_px": 640})
    expected = r"^clip 107b_0: has poses of 640 x 256 px, but frames of a video of 455 x 256 px. Extract both"
    with pytest.raises(DataError, match=expected):
        dive_table(clips, {**streams, "keypoints": other}, 96)
    unknown = changed(streams["keypoints"], lambda row: {"width_px": None, "height_px": None})
    assert len(dive_table(clips, {**streams, "keypoints": unknown}, 96)) == len(clips)


def test_too_few_pictures_are_refused():
    clips, streams = film_tables(train=1, test=0)
    rows = streams["frames"].to_pylist()
    fewer = [{**row, "jpeg": row["jpeg"][:90]} for row in rows]
    with pytest.raises(DataError, match="^clip 107b_0: has 90 pictures instead of 96"):
        dive_table(clips, {"frames": pa.Table.from_pylist(fewer, schema=FEATURES)}, 96)
