"""Angles of bodies whose bends are known, laid over each other procedure by procedure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from filmed_bodies import pose_of

from pipelines.scoring.alignment import Alignment, aligned
from pipelines.scoring.curves import joint_angles, steady_angles
from pipelines.scoring.dive_explanation import exemplar_bounds, explain, named_part
from pipelines.scoring.explanation import Difference, Reference, limb_of, strongest
from pipelines.scoring.verdict import Exemplar, Part, Verdict

PARTS = (Part("Take-off", 0.0, 1.0, 0.5), Part("Flight", 1.0, 2.0, -4.0), Part("Entry", 2.0, 3.0, -1.0))
VERDICT = Verdict(60.0, 64.5, "mean of two dives", PARTS, "101b", (Exemplar("a", "a.mp4", 70.0, 60.0),))
TIME_S = np.arange(75) / 25


def test_procedures_are_stretched_to_each_other():
    both = Alignment(np.array([0.0, 1.0, 3.0]), np.array([10.0, 14.0, 15.0]))
    assert both.to_other(np.array([0.5, 1.0, 2.0, 3.0])) == pytest.approx([12.0, 14.0, 14.5, 15.0])
    assert both.part_of(np.array([-1, 0.5, 1.0, 5.0])).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="2 procedures do not fit 1"):
        Alignment(np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0]))
    for own, other in (([0.0, 1.0, 0.5], [0.0, 1.0, 2.0]), ([0.0, 1.0, 2.0], [0.0, 1.0, 1.0])):
        with pytest.raises(ValueError, match="do not rise"):
            Alignment(np.array(own), np.array(other))
    empty = Alignment(np.array([0.0, 0.0, 2.0]), np.array([10.0, 14.0, 15.0]))  # as a poor model may find
    assert empty.to_other(np.array([0.5, 1.0, 2.0])) == pytest.approx([14.25, 14.5, 15.0])
    assert empty.part_of(np.array([0.0, 1.0])).tolist() == [1, 1]


def test_nothing_is_made_up_where_a_joint_was_not_seen():
    time_s = np.arange(10) / 10
    values = np.where((time_s > 0.15) & (time_s < 0.85), np.nan, 10 * time_s)
    found = aligned(values, time_s, np.array([0.05, 0.5, 0.9]))
    assert found == pytest.approx([0.5, np.nan, 9.0], nan_ok=True)
    assert np.isnan(aligned(np.full(10, np.nan), time_s, time_s)).all()


def test_a_bone_that_points_at_the_camera_shows_no_angle():
    lifted = np.linspace(0, np.pi / 2, 11)  # forwards: at the camera in front, across for one at the side
    angles = {"right_shoulder_flex": lifted}
    side, front = (pose_of(angles, np.arange(11) / 10, view) for view in ("side", "front"))
    seen = joint_angles(side["keypoints"], side["confidence"], "mpii16")["right shoulder"]
    assert seen == pytest.approx(np.degrees(lifted), abs=4)
    hidden = joint_angles(front["keypoints"], front["confidence"], "mpii16")["right elbow"]
    assert np.flatnonzero(np.isnan(hidden)).tolist() == [9, 10]  # cos 81 degrees = 0.16, cos 72 = 0.31


def test_angles_in_space_are_those_of_the_body():
    u, v = np.array([[[1.0, 0, 0], [0, 0, 0], [0, 2.0, 0]]]), np.eye(3)
    turned = u @ v
    body = np.zeros((1, 15, 3))
    from aqa_models.skeletons import skeleton

    names = skeleton("c15")
    for joint, place in zip(("left_hip", "left_knee", "left_ankle"), turned[0], strict=True):
        body[:, names.index(joint)] = place
    assert joint_angles(body, np.ones((1, 15)), "c15")["left knee"] == pytest.approx([90])


def test_a_joint_that_jumps_away_for_one_frame_is_not_believed():
    pose = pose_of({}, TIME_S)
    pose["keypoints"][30, 5] += 80  # left ankle
    assert joint_angles(pose["keypoints"], pose["confidence"], "mpii16")["left knee"][30] < 150
    assert steady_angles(pose)["left knee"] == pytest.approx(np.full(75, 180), abs=0.5)


def test_the_strongest_span_is_found():
    away = np.array([0, 0, 10, -20, -40, -30, 0, np.nan, 0.0])
    found = strongest("Entry", "left knee", np.arange(9) / 10, away, np.zeros(9), fewest=3)
    assert found is not None
    assert (found.start_s, found.degrees) == (pytest.approx(0.3), pytest.approx(-30))
    assert found.end_s == pytest.approx(0.6)
    assert found.strength == pytest.approx(100 / 8 / 8)
    assert strongest("Entry", "left knee", np.arange(3) / 10, np.full(3, np.nan), np.zeros(3), 3) is None


@pytest.mark.parametrize(
    ("joint", "degrees", "words"),
    [
        ("left knee", -24.0, "left knee 24 degrees bent more than in the exemplars at 1.70 to 2.00 s"),
        ("left knee", 24.0, "left knee 24 degrees straighter than"),
        ("right shoulder", -24.0, "right shoulder 24 degrees closer to the trunk than"),
        ("right shoulder", 24.0, "right shoulder 24 degrees further from the trunk than"),
    ],
)
def test_differences_in_words(joint, degrees, words):
    told = Difference("Entry", joint, 1.7, 2.0, degrees, 6.0, 2.0).words("in the exemplars")
    assert told.startswith(words)
    assert told.endswith("(usual there: 6)")
    assert [limb_of(one) for one in ("left hip", "right elbow")] == ["left leg", "right arm"]


def reference(name: str, score: float, knees_deg: float, lasts: float) -> Reference:
    """Stands, its procedures `lasts` times as long, both knees a little bent."""
    time_s = np.arange(round(75 * lasts)) / 25
    bent = np.full(len(time_s), np.radians(knees_deg))
    pose: dict[str, Any] = pose_of({"left_knee": bent, "right_knee": bent}, time_s)
    alignment = Alignment(np.arange(4.0), lasts * np.arange(4.0))
    return Reference(name, score, "", None, None, pose, alignment)


def test_the_bent_knee_is_named_in_the_procedure_that_lost_most():
    references = [reference("a", 70, 4, 1.0), reference("b", 80, 6, 2.0), reference("c", 50, 8, 0.5)]
    bent = np.where((TIME_S >= 1.4) & (TIME_S < 1.8), np.radians(56), 0.0)
    found = explain(VERDICT, pose_of({"left_knee": bent}, TIME_S), references)
    assert found.facts["procedure"] == "Flight"
    assert (found.facts["limb"], found.facts["exemplar"]) == ("left leg", "b")
    top = found.differences[0]
    assert (top.part, top.joint) == ("Flight", "left knee")
    assert top.degrees == pytest.approx(-50, abs=2)
    assert (top.start_s, top.end_s) == (pytest.approx(1.4, abs=0.05), pytest.approx(1.8, abs=0.05))
    assert "Flight (1.00 to 2.00 s) lost most against the exemplars: -4.00 points" in found.sentences[0]
    assert found.sentences[1].startswith("left knee 50 degrees bent more than in the exemplars at 1.40 to")
    assert found.document()["meaning"].endswith("they do not prove what caused them.")
    curve = next(one for one in found.curves if one.joint == "right knee")
    assert curve.reference == pytest.approx(np.full(75, 174), abs=1)  # of b, the best judged
    assert curve.low[0] < 174 < curve.high[0]


def test_the_named_procedure_is_where_points_and_angles_agree():
    def differs(part: str, strength: float) -> Difference:
        return Difference(part, "left knee", 0, 1, -20, 5, strength)

    # Lost against the best: 0, 4.5, 1.5 points; times strength 0, 0.9, 3.
    assert named_part(PARTS, [differs("Entry", 2.0), differs("Flight", 0.2)]).name == "Entry"
    assert named_part(PARTS, [differs("Entry", 0.2), differs("Flight", 0.2)]).name == "Flight"
    assert named_part(PARTS, []).name == "Flight"
    bent = np.where((TIME_S >= 2.2) & (TIME_S < 2.9), np.radians(70), 0.0)
    references = [reference("a", 70, 4, 1.0), reference("b", 80, 6, 2.0)]
    found = explain(VERDICT, pose_of({"right_knee": bent}, TIME_S), references)
    assert (found.facts["lost_most"], found.facts["procedure"]) == ("Flight", "Entry")
    assert found.sentences[1] == (
        "Entry stands out (-1.00 points): the body differs more from the exemplars there"
    )
    assert found.sentences[2].startswith("right knee")


def test_without_poses_of_exemplars_the_procedure_alone_is_told():
    gained = tuple(Part(part.name, part.start_s, part.end_s, abs(part.delta)) for part in PARTS)
    verdict = Verdict(60.0, 54.5, "mean", gained, "101b")
    found = explain(verdict, pose_of({}, TIME_S), [])
    assert found.sentences == (
        "Take-off (0.00 to 1.00 s) gained least against the exemplars: +0.50 points; no procedure lost any",
    )
    assert "joint angles are not compared" in found.missing[0]


def test_an_annotated_dive_of_more_steps_has_the_procedures_of_the_model():
    clip = {"clip_id": "a", "transitions_s": [0.5, 1.0, 1.5, 2.0], "start_s": None}
    assert exemplar_bounds(clip, TIME_S, 3) == pytest.approx([0, 0.5, 2.0, 3.0], abs=0.05)
