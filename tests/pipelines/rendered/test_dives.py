"""Dive numbers, scores and the physics of flight."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.rendered import dives
from pipelines.rendered.body import Shape
from pipelines.rendered.dives import DiveNumber


@pytest.mark.parametrize(
    ("text", "group", "direction", "somersaults", "twists", "position", "head_first"),
    [
        ("107B", 1, 1, 7, 0, "B", True),
        ("202A", 2, 2, 2, 0, "A", False),
        ("407c", 4, 4, 7, 0, "C", True),
        ("113B", 1, 1, 3, 0, "B", True),
        ("5253B", 5, 2, 5, 3, "B", True),
        ("5231D", 5, 2, 3, 1, "D", True),
        ("612B", 6, 1, 2, 0, "B", True),
        ("611A", 6, 1, 1, 0, "A", False),
        ("6243D", 6, 2, 4, 3, "D", True),
    ],
)
def test_dive_numbers_parse(text, group, direction, somersaults, twists, position, head_first):
    number = DiveNumber.parse(text)
    assert (number.group, number.direction, number.half_somersaults) == (group, direction, somersaults)
    assert (number.half_twists, number.position, number.head_first) == (twists, position, head_first)
    assert str(number) == text.upper()
    assert number.flying == (text == "113B")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("107", "expected three or four digits and a letter"),
        ("707B", "expected three or four digits"),
        ("107E", "letter A-D"),
        ("127B", "the second 0 or 1"),
        ("1071B", "group 1 has three digits"),
        ("525B", "twisting dives have four digits"),
        ("5553B", "direction 5 does not exist in group 5"),
        ("644B", "direction 4 does not exist in group 6"),
        ("100B", "half-somersaults is 1-9"),
        ("5250B", "half-twists is 1-9"),
        ("107D", "free position D is for twisting dives only"),
        ("111B", "at least one somersault"),
    ],
)
def test_impossible_dive_numbers_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        DiveNumber.parse(text)


def test_programme_is_valid_and_harder_dives_are_worth_more():
    values = {text: DiveNumber.parse(text).difficulty for text in dives.PROGRAMME}
    assert values["101B"] < values["103B"] < values["105B"] < values["107B"]
    assert values["107C"] < values["107B"] < values["5253B"]
    assert all(1.0 < value < 5.0 for value in values.values())


@pytest.mark.data
@pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
def test_real_dive_numbers_parse_and_difficulty_is_near_the_listed_one():
    import pyarrow.parquet as pq

    table = pq.read_table(Path(os.environ["AQA_TEST_DATA"]) / "finediving" / "annotations.parquet")
    numbers = [DiveNumber.parse(text) for text in table["action_type"].to_pylist()]
    assert len(numbers) == 3000
    differences = np.array([n.difficulty for n in numbers]) - table["difficulty"].to_numpy()
    assert np.abs(differences).mean() == pytest.approx(0.15, abs=0.01)


def test_score_is_the_sum_of_the_middle_three_times_difficulty():
    assert dives.score([9.0, 8.5, 8.0, 8.0, 7.5, 7.0, 4.0], 3.0) == pytest.approx((8.0 + 8.0 + 7.5) * 3.0)
    with pytest.raises(ValueError, match="expected seven judges, got 5"):
        dives.score([8.0] * 5, 3.0)


def test_execution_falls_by_the_cost_of_each_fault_and_judges_award_halves():
    none = dict.fromkeys(dives.FAULT_COST, 0.0)
    assert dives.execution(none) == 10
    assert dives.execution(none | {"rotation": 0.5, "splash": 1.0}) == pytest.approx(10 - 1.5 - 1.5)
    assert dives.execution(dict.fromkeys(dives.FAULT_COST, 1.0)) == pytest.approx(0.5)
    awards = np.array([dives.judge(np.random.default_rng(seed), 7.0) for seed in range(200)])
    assert awards.shape == (200, 7)
    assert (awards * 2 == np.round(awards * 2)).all()
    assert awards.mean() == pytest.approx(7.0, abs=0.05)


def performed(text: str, faults: dict[str, float] | None = None, height: float = 10.0) -> dives.Dive:
    none = dict.fromkeys(dives.FAULT_COST, 0.0)
    times = np.arange(0, 3.2, 0.002)
    number = DiveNumber.parse(text)
    return dives.perform(np.random.default_rng(1), number, none | (faults or {}), Shape(), times, height, 0.5)


@pytest.mark.parametrize("text", ["101B", "407C", "5253B", "612B"])
def test_flight_is_ballistic(text):
    dive = performed(text)
    times = np.arange(0, 3.2, 0.002)
    flight = (times > dive.takeoff_s + 0.01) & (times < dive.entry_s - 0.01)
    acceleration = np.diff(dive.motion.root[flight, 1], 2) / 0.002**2
    assert acceleration == pytest.approx(np.full(len(acceleration), -9.81), rel=1e-3)
    forward = np.diff(dive.motion.root[flight, 2])
    assert forward == pytest.approx(np.full(len(forward), forward[0]))


@pytest.mark.parametrize(
    ("text", "turns"),
    [("101B", 0.5), ("107B", 3.5), ("205C", -2.5), ("305C", -2.5), ("405B", 2.5), ("612B", 1.0)],
)
def test_rotation_completes_the_somersaults(text, turns):
    dive = performed(text)
    # angle of the spine in the plane of flight, unwrapped, positive towards the body's front
    up = dive.motion.turn[:, :, 1]
    angle = np.unwrap(np.arctan2(up[:, 2], up[:, 1]))
    facing = dive.motion.turn[0, 2, 2]
    facing = -facing if text.startswith("6") else facing
    assert (angle[-1] - angle[0]) * np.sign(facing) / (2 * np.pi) == pytest.approx(turns, abs=1e-6)


def test_tucked_bodies_turn_faster_and_over_rotation_turns_further():
    dive = performed("107C")
    times = np.arange(0, 3.2, 0.002)
    up = dive.motion.turn[:, :, 1]
    speed = np.gradient(np.unwrap(np.arctan2(up[:, 2], up[:, 1])), times)
    middle = (dive.takeoff_s + dive.entry_s) / 2
    assert speed[np.searchsorted(times, middle)] > 3 * speed[np.searchsorted(times, dive.takeoff_s + 0.01)]
    botched = performed("107C", {"rotation": 1.0})
    cosine = float(dive.motion.turn[-1, :, 1] @ botched.motion.turn[-1, :, 1])
    assert np.arccos(np.clip(cosine, -1, 1)) == pytest.approx(0.6, abs=1e-6)


def test_faults_show_in_the_motion():
    late, clean = performed("107C", {"late_opening": 1.0}), performed("107C")
    times = np.arange(0, 3.2, 0.002)
    before_entry = np.searchsorted(times, clean.entry_s - 0.15)
    assert late.motion["left_knee"][before_entry] > clean.motion["left_knee"][before_entry] + 0.5
    bent = performed("101A", {"bent_knees": 1.0})
    assert bent.motion["left_knee"][before_entry - 200] > 0.8
    apart = performed("101A", {"legs_apart": 1.0})
    assert apart.motion["left_hip_abduct"][before_entry - 200] > 0.2
    assert performed("101A", {"splash": 1.0}).splash > performed("101A").splash
