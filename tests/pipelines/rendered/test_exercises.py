"""Exercises: symptoms show in the motion, the score falls with severity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.rendered import exercises
from pipelines.rendered.body import Shape, pose_body

TIMES = np.arange(0, 12, 0.04)
HEALTHY = exercises.Subject("S", "control", 0.0, dict.fromkeys(exercises.SYMPTOMS, 0.0), "left", Shape())


def moved(exercise: str, **symptoms: float):
    subject = replace(HEALTHY, symptoms=HEALTHY.symptoms | symptoms)
    return exercises.perform(np.random.default_rng(3), exercise, subject, TIMES)


def test_a_weak_side_lifts_its_arm_less():
    weak, healthy = moved("Es1", range=1.0), moved("Es1")
    assert weak["left_shoulder_flex"].max() < 0.5 * healthy["left_shoulder_flex"].max()
    assert weak["right_shoulder_flex"].max() > 0.8 * healthy["right_shoulder_flex"].max()


def test_slowness_means_fewer_repetitions():
    def repetitions(motion):
        up = motion["right_shoulder_flex"] > 1.5
        return int((np.diff(up.astype(int)) == 1).sum())

    assert repetitions(moved("Es1")) >= 5
    assert repetitions(moved("Es1", slow=1.0)) <= 4


def test_tremor_adds_fast_shaking():
    def fast_energy(motion):
        signal = motion["right_elbow"] - motion["right_elbow"].mean()
        spectrum = np.abs(np.fft.rfft(signal)) ** 2
        frequency = np.fft.rfftfreq(len(TIMES), 0.04)
        return spectrum[(frequency > 3) & (frequency < 6)].sum()

    assert fast_energy(moved("Es2", tremor=1.0)) > 50 * fast_energy(moved("Es2"))


def test_compensation_bends_the_trunk_and_range_limits_the_squat():
    assert np.ptp(moved("Es1", compensation=1.0)["spine_side"]) > np.ptp(moved("Es1")["spine_side"]) + 0.2
    assert moved("Es5", range=1.0)["left_knee"].max() < 0.6 * moved("Es5")["left_knee"].max()


@pytest.mark.parametrize("exercise", exercises.EXERCISES)
def test_the_lower_foot_stays_on_the_ground(exercise):
    motion = moved(exercise, range=0.5, compensation=0.5)
    ankles = pose_body(motion, Shape()).joints[:, [0, 5], 1]
    assert ankles.min(axis=1) == pytest.approx(np.full(len(TIMES), 0.06))


def test_score_falls_with_severity_and_stays_in_range():
    random = np.random.default_rng(0)
    severities = np.linspace(0, 1, 60)
    scores = [exercises.clinical_score(random, severity) for severity in severities]
    assert np.corrcoef(severities, scores)[0, 1] < -0.99
    assert min(scores) >= 0
    assert max(scores) <= 50


def test_symptoms_of_a_subject_have_its_severity_as_mean():
    for seed in range(20):
        subject = exercises.Subject.sample(np.random.default_rng(seed), "S01", 0.5)
        assert np.mean(list(subject.symptoms.values())) == pytest.approx(0.5, abs=0.05)
        assert subject.group == "impaired"
    assert exercises.Subject.sample(np.random.default_rng(0), "S01", 0.05).group == "control"
