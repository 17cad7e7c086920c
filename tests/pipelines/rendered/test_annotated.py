"""One annotated dive: its steps, its faults, and the frames in which it leaves and meets the water."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.rendered import annotated, dives
from pipelines.rendered.annotated import AnnotatedDive, choreography, faults_for, film_annotated
from pipelines.rendered.body import pose_body
from pipelines.rendered.dives import FAULT_COST, DiveNumber

PLAIN = AnnotatedDive(
    "Final_10m", 3, "107b", 81.0, 3.0, (9.0, 9.0, 9.0), ("Forward", "3.5 Soms.Pike", "Entry"), (20, 58), 80,
    "train",
)  # fmt: skip
TWISTING = replace(
    PLAIN,
    action_type="5253b",
    procedures=("Back", "1.5 Twists", "1.5 Soms.Pike", "Entry"),
    transitions=(10, 30, 50),
)
FIVE_STEPS = replace(
    PLAIN,
    action_type="5154b",
    procedures=("Forward", "2.5 Soms.Pike", "2 Twists", "2.5 Soms.Pike", "Entry"),
    transitions=(10, 22, 34, 50),
)
ARMSTAND = replace(PLAIN, action_type="626c", procedures=("Arm.Back", "3 Soms.Tuck", "Entry"))
REAR = replace(PLAIN, competition="Men3m_final", action_type="205b", transitions=(1, 30), num_frames=63)


def performed(dive: AnnotatedDive, monkeypatch):
    """The dive, its own times and the body in space, as given to the camera."""
    seen = {}

    def shoot(random, performance, times, shape, look):
        seen.update(dive=performance, times=times, posed=pose_body(performance.motion, shape))
        raise StopIteration

    monkeypatch.setattr(annotated, "shoot_dive", shoot)
    with pytest.raises(StopIteration):
        film_annotated(dive, 0)
    return seen["dive"], seen["times"], seen["posed"]


@pytest.mark.parametrize("dive", [PLAIN, TWISTING, FIVE_STEPS, ARMSTAND, REAR], ids=lambda d: d.action_type)
def test_leaves_the_platform_and_meets_the_water_in_the_annotated_frames(dive, monkeypatch):
    dive = replace(dive, score=30 * dive.difficulty)  # without faults the hands point down
    dive_in_space, _, posed = performed(dive, monkeypatch)
    ends = [posed.hands, posed.feet, posed.heels]
    lowest = np.min([part[..., 1].min(axis=1) for part in ends], axis=0)[::3]  # first exposure of each frame
    height = dive_in_space.height
    takeoff, entry = dive.transitions[0], dive.transitions[-1]
    # the pelvis's path is that of the flight from the very frame of the take-off on
    rise = dive_in_space.motion.root[::3, 2]
    assert np.all(rise[: takeoff + 1] == rise[0])
    assert np.all(np.diff(rise[takeoff : entry + 1]) > 0)
    assert abs(lowest[takeoff] - height) < 0.35
    assert lowest[min(takeoff + 4, entry)] != pytest.approx(lowest[takeoff], abs=0.02)
    wet = int(np.flatnonzero(lowest < 0)[0])
    assert abs(wet - entry) <= 1


def test_inner_transitions_part_twists_from_somersaults():
    twisting = choreography(DiveNumber.parse("5253B"), TWISTING)
    assert twisting.twist == (0.0, 0.5)
    assert twisting.position == "B"
    share = np.linspace(0, 1, 1001)
    tight = twisting.tightness(dict.fromkeys(FAULT_COST, 0.0), share)
    assert tight[share < 0.5].max() == 0
    assert tight[(share > 0.66) & (share < 0.78)].min() == 1
    assert tight[share > 0.90].max() == 0
    five = choreography(DiveNumber.parse("5154B"), FIVE_STEPS)
    assert five.twist == pytest.approx((0.3, 0.6))
    tight = five.tightness(dict.fromkeys(FAULT_COST, 0.0), share)
    assert tight[(share > 0.3) & (share < 0.6)].max() == pytest.approx(0, abs=1e-9)
    assert tight[(share > 0.12) & (share < 0.22)].min() == 1
    assert tight[(share > 0.74) & (share < 0.83)].min() == 1


def test_free_dives_fold_as_the_steps_say_and_impossible_steps_are_ignored():
    free = replace(
        TWISTING, action_type="6243d", procedures=("Arm.Back", "1.5 Twists", "2 Soms.Pike", "Entry")
    )
    assert choreography(DiveNumber.parse("6243D"), free).position == "B"
    tuck = replace(free, procedures=("Arm.Back", "1.5 Twists", "2 Soms.Tuck", "Entry"))
    assert choreography(DiveNumber.parse("6243D"), tuck).position == "C"
    twice = replace(
        FIVE_STEPS,
        action_type="401b",
        procedures=("Inward", "0.5 Som.Pike", "Entry", "0.5 Som.Pike", "Entry"),
    )
    (fold,) = choreography(DiveNumber.parse("401B"), twice).folds
    assert fold.late > 0
    missing = choreography(DiveNumber.parse("5154B"), replace(PLAIN, action_type="5154b"))
    assert missing.twist == (0.05, 0.40)


@pytest.mark.parametrize("execution", [0.5, 2.0, 6.5, 9.5, 10.0])
def test_faults_make_the_execution(execution):
    mixtures = []
    for seed in range(20):
        faults = faults_for(np.random.default_rng(seed), execution)
        assert set(faults) == set(FAULT_COST)
        assert all(0 <= value <= 1 for value in faults.values())
        assert dives.execution(faults) == pytest.approx(execution, abs=1e-6)
        mixtures.append(list(faults.values()))
    spread = np.std(mixtures, axis=0)
    assert (spread > 0.05).all() == (0.5 < execution < 9.5)


def test_an_execution_below_all_faults_gets_them_all():
    assert faults_for(np.random.default_rng(0), 0.0) == pytest.approx(dict.fromkeys(FAULT_COST, 1.0))


def test_execution_is_the_mean_counted_award():
    assert PLAIN.execution == pytest.approx(9.0)
    pair = replace(PLAIN, judge_scores=(7.0, 8.0, 7.5, 8.0, 8.5), score=0.6 * 39 * 3.0)
    assert pair.execution == pytest.approx(7.8)
    assert replace(PLAIN, score=0.0).execution == 0


def body_angles(dive: AnnotatedDive, name: str, size: float, monkeypatch) -> dict[str, float]:
    faults = dict.fromkeys(FAULT_COST, 0.0) | {name: size}
    monkeypatch.setattr(annotated, "faults_for", lambda random, execution: faults)
    found, _, posed = performed(dive, monkeypatch)
    knee, flex = found.motion["left_knee"], found.motion["right_hip_flex"] - found.motion["left_hip_flex"]
    entry = 3 * dive.transitions[-1]
    middle = 3 * (sum(dive.transitions) // 2)
    return {
        "late_opening": float(found.motion["left_hip_flex"][entry - 15]),
        "bent_knees": float(knee[entry - 9]),
        "loose": float(knee[middle]),
        "rotation": float(np.arccos(np.clip(abs(posed.pelvis[entry, 1, 1]), 0, 1))),
        "legs_apart": float(flex[entry - 9]),
        "splash": found.splash,
    }


@pytest.mark.parametrize("fault", [*FAULT_COST])
def test_every_fault_is_seen_the_more_the_larger_it_is(fault, monkeypatch):
    for dive in (PLAIN, replace(PLAIN, action_type="107c", procedures=("Forward", "3.5 Soms.Tuck", "Entry"))):
        seen = [body_angles(dive, fault, size, monkeypatch)[fault] for size in (0.0, 0.25, 0.5, 0.75, 1.0)]
        steps = np.diff(seen)
        assert (steps >= -1e-9).all()
        assert seen[-1] - seen[0] > 0.5
        assert seen[2] > seen[0] + 0.1


def test_bent_knees_loosen_a_tuck_in_which_they_could_not_be_seen(monkeypatch):
    tuck = replace(PLAIN, action_type="107c", procedures=("Forward", "3.5 Soms.Tuck", "Entry"))
    clean, bent = (body_angles(tuck, "bent_knees", size, monkeypatch)["loose"] for size in (0.0, 1.0))
    assert clean - bent > 0.5


def test_the_clip_id_alone_decides_the_dive_and_the_seed_changes_it():
    short = replace(PLAIN, transitions=(2, 8), num_frames=12)
    first, again = film_annotated(short, 0), film_annotated(short, 0)
    assert np.array_equal(first.film.frames, again.film.frames)
    assert first.faults == again.faults
    assert first.film.frames.shape == (12, 256, 256, 3)
    for other in (film_annotated(short, 1), film_annotated(replace(short, index=4), 0)):
        assert not np.array_equal(first.film.frames, other.film.frames)


def test_the_splash_grows_with_the_faults():
    sizes = []
    for execution in (9.5, 6.0, 2.0):
        dive = replace(PLAIN, score=3 * PLAIN.difficulty * execution, transitions=(2, 12), num_frames=25)
        sizes.append(film_annotated(dive, 0).splash)
    assert 0 < sizes[0] < sizes[1] < sizes[2] < 1
