"""The choice of the athlete, in clips known by hand and in seeded scenes with truth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.schema import PEOPLE
from pipelines.stages.people import find_cuts, people_rows

sys.path.insert(0, str(Path(__file__).parent))
from made_boxes import HEIGHT, WIDTH, detections_row, make_scene


def box(x: float, y: float = 200.0, width: float = 80.0, height: float = 200.0, score: float = 0.75) -> tuple:
    return (x, y, x + width, y + height, score)


def three_people(count: int = 50) -> list[list[tuple]]:
    """A small mover at the left, a large one at the right, one at the centre who trembles."""
    return [
        [
            box(100 + 4 * step, height=100, width=40),
            box(900, 100, 200, 500),
            box(WIDTH / 2 - 40 + 6 * (step % 2), HEIGHT / 2 - 100),
        ]
        for step in range(count)
    ]


@pytest.mark.parametrize(("rule", "left"), [("most_motion", 100), ("largest", 900), ("nearest_centre", 600)])
def test_each_rule_chooses_its_person(rule, left):
    (row,) = people_rows(detections_row(three_people()), rule, 1)
    assert row["box"][0] == left
    assert (row["person"], row["status"], row["num_frames"], row["missing_share"]) == (0, "ok", 50, 0.0)
    assert row["mean_confidence"] == 0.75


def test_tracks_are_numbered_left_to_right_and_chosen_by_number():
    rows = people_rows(detections_row(three_people()), "largest", 3)
    assert [row["person"] for row in rows] == [0, 1, 2]
    assert [row["track_id"] for row in rows] == [2, 1, 0]
    (row,) = people_rows(detections_row(three_people()), "track:0", 2)
    assert (row["person"], row["track_id"], row["box"][0]) == (0, 0, 100)


def test_an_unknown_track_names_those_there_are():
    (row,) = people_rows(detections_row(three_people()), "track:7", 1)
    assert (row["status"], row["error_code"]) == ("rejected", "no_person")
    assert row["error_message"] == "there is no track 7; tracks of this clip: 0, 1, 2"


def test_no_more_rows_than_people():
    assert len(people_rows(detections_row(three_people()), "largest", 9)) == 3
    assert len(people_rows(detections_row(three_people()), "largest", 2)) == 2


def test_equal_people_are_ranked_by_track_number():
    frames = [[box(700), box(100)] for _ in range(30)]
    for rule in ("most_motion", "largest"):
        assert [row["track_id"] for row in people_rows(detections_row(frames), rule, 2)] == [0, 1]


def test_gaps_are_filled_linearly_in_time():
    frames = [[] if 10 <= step < 15 else [box(100 + 8 * step, score=0.5)] for step in range(40)]
    (row,) = people_rows(detections_row(frames), "largest", 1)
    boxes = np.asarray(row["box"]).reshape(-1, 4)
    np.testing.assert_allclose(boxes[:, 0], 100 + 8.0 * np.arange(40), atol=1e-3)
    assert np.isnan(row["box_score"]).tolist() == [10 <= step < 15 for step in range(40)]
    assert row["missing_share"] == pytest.approx(5 / 40)
    assert row["mean_confidence"] == pytest.approx(0.5)
    assert row["id_switches"] == 0


def test_a_person_who_comes_late_misses_the_frames_before():
    frames = [[box(100)] if step >= 30 else [] for step in range(40)]
    (row,) = people_rows(detections_row(frames), "largest", 1)
    assert row["frame_index"].tolist() == list(range(30, 40))
    assert row["missing_share"] == pytest.approx(0.75)


def test_a_following_camera_does_not_make_the_spectators_move():
    # The diver stays in the middle, the spectators sweep past: 12 px per frame of pan.
    frames = [[box(600, 300), box(400 - 12 * step), box(1100 - 12 * step)] for step in range(40)]
    camera = np.tile(np.float32([1, 0, -12, 0]), 40)
    (row,) = people_rows(detections_row(frames, camera=camera), "most_motion", 1)
    assert row["box"][0] == 600
    (row,) = people_rows(detections_row(frames), "most_motion", 1)
    assert row["box"][0] != 600  # the test would fail without the camera's motion


def test_arms_that_spread_are_motion():
    frames = []
    for step in range(50):
        reach = 60 * (1 + np.sin(step / 4))
        frames.append([box(100), box(600 - reach, width=80 + 2 * reach)])
    assert people_rows(detections_row(frames), "most_motion", 1)[0]["track_id"] == 1


def test_a_brief_track_ranks_last():
    frames = [[box(100)] + ([box(700, 0, 300, 700)] if 20 <= step < 25 else []) for step in range(50)]
    rows = people_rows(detections_row(frames), "largest", 2)
    assert [row["num_frames"] for row in rows] == [50, 5]


def test_a_hidden_athlete_counts_as_a_possible_exchange():
    walker = [box(100 + 10 * step) for step in range(60)]
    frames = [[box(380, width=120)] + ([] if 24 <= step < 36 else [walker[step]]) for step in range(60)]
    (row,) = people_rows(detections_row(frames), "most_motion", 1)
    assert (row["track_id"], row["id_switches"]) == (0, 1)


def test_cuts_stand_alone_flashes_and_pans_do_not():
    change = np.full(40, 4.0)
    change[0] = np.nan
    change[10] = 60  # a cut
    change[20:22] = 60  # a flash: there and back
    change[30:38] = 40  # a fast pan
    assert find_cuts(change).tolist() == [10]
    assert find_cuts(np.array([])).tolist() == []
    assert find_cuts(np.array([np.nan, 50.0])).tolist() == [1]


def test_after_a_cut_the_rule_chooses_anew():
    wide = [[box(100), box(500, 100, 150, 400)] for _ in range(25)]
    close = [[box(200, 50, 260, 640), box(900)] for _ in range(15)]
    change = np.full(40, 3.0)
    change[25] = 80
    row, second = people_rows(detections_row(wide + close, picture_change=change), "largest", 2)
    boxes = np.asarray(row["box"]).reshape(-1, 4)
    assert boxes[[24, 25], 0].tolist() == [500, 200]
    assert row["frame_index"].tolist() == list(range(40))
    assert (row["id_switches"], row["track_id"]) == (1, 1)
    assert np.asarray(second["box"]).reshape(-1, 4)[[24, 25], 0].tolist() == [100, 900]


def test_nobody_is_a_rejected_row():
    (row,) = people_rows(detections_row([[], []]), "most_motion", 1)
    assert (row["status"], row["error_code"], row["person"]) == ("rejected", "no_person", 0)
    assert row["error_message"] == "the detector found nobody in 2 frames"
    (row,) = people_rows(detections_row([[box(1, score=0.2)], []]), "most_motion", 1)
    assert row["error_message"] == "1 unsure boxes in 2 frames, none of which could be followed"


def test_a_rejected_clip_stays_rejected():
    columns = {"status": "rejected", "error_code": "empty", "error_message": "zero bytes"}
    (row,) = people_rows(detections_row([]) | columns, "most_motion", 3)
    assert (row["status"], row["error_code"], row["error_message"]) == ("rejected", "empty", "zero bytes")


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="unknown rule 'tallest'; known: most_motion, largest"):
        people_rows(detections_row(three_people()), "tallest", 1)


def test_rows_fit_the_table():
    import pyarrow as pa

    rows = people_rows(detections_row(three_people()), "largest", 2) + people_rows(
        detections_row([[]]), "largest", 1
    )
    table = pa.Table.from_pylist(rows, schema=PEOPLE)
    assert table.column("status").to_pylist() == ["ok", "ok", "rejected"]


def test_every_second_frame_and_lists_instead_of_arrays_give_the_same_person():
    frames = three_people()[::2]
    row = detections_row(frames, 12.5, frame_index=list(range(0, 50, 2)))
    row = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}
    (found,) = people_rows(row, "most_motion", 1)
    assert found["frame_index"].tolist() == list(range(0, 50, 2))
    assert found["box"][0] == 100


def test_the_athlete_of_seeded_scenes_is_found(capsys):
    right = {True: 0, False: 0}
    for seed in range(30):
        scene = make_scene(seed)
        blind = np.full_like(scene.row["camera"], np.nan)
        for known, row in ((True, scene.row), (False, scene.row | {"camera": blind})):
            found = people_rows(row, "most_motion", 1)[0]
            persons = scene.persons_of(found["frame_index"], found["box"])
            right[known] += persons.count(0) > 0.9 * len(persons)
    with capsys.disabled():
        print(f"\nmost_motion: {right[True]} of 30 scenes, {right[False]} without the camera's motion")
    assert right[True] >= 28
    assert right[False] < right[True]
