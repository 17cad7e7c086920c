from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from aqa_models.angles_expert.expert import fit_expert, fold_subjects
from aqa_models.angles_expert.performance import Performance
from aqa_models.angles_expert.state import expert_of, state_of
from aqa_models.body_angles import CHANNELS
from aqa_models.metrics import mae, spearman_rho


def performances(people: int = 24, span: float = 50.0) -> list[Performance]:
    """Two exercises: the further a person bends a knee or raises an arm, the better."""
    generator = np.random.default_rng(5)
    found = []
    for person in range(people):
        skill = generator.uniform(0.2, 1)
        for exercise, moved in (("squat", "left_knee"), ("raise", "right_arm_frontal")):
            frames = int(generator.integers(60, 90))
            channels = 0.02 * generator.standard_normal((frames, 49))
            shape = 1 - np.cos(np.arange(frames) / 6)
            channels[:, CHANNELS.index(moved)] += skill * shape
            channels[:, CHANNELS.index("trunk_forward")] += 0.3 * skill * shape
            score = span * (skill + 0.03 * generator.standard_normal())
            found.append(Performance(channels.astype(np.float32), exercise, f"p{person}", score))
    return found


@pytest.fixture(scope="module")
def known():
    return performances()


@pytest.fixture(scope="module")
def expert(known):
    train = [p for p in known if int(p.subject[1:]) < 18]
    return fit_expert(train, rate_hz=10.0, network_seeds=1, epochs=5, seed=0)


def unseen(known):
    return [p for p in known if int(p.subject[1:]) >= 18]


def test_it_scores_people_it_has_not_seen(expert, known):
    asked = unseen(known)
    true = np.array([performance.score for performance in asked])
    without = [Performance(p.channels, p.exercise, p.subject) for p in asked]
    median = np.array([expert.median[expert.exercises.index(p.exercise)] for p in asked])
    for predicted in (expert.predict(without), expert.predict_pooled(without)):
        assert spearman_rho(predicted, true) > 0.7
        assert mae(predicted, true) < 0.7 * mae(median, true)
    assert set(expert.members) == {"posture", "extremes", "coordination", "trees", "network"}
    assert expert.weights.sum() == pytest.approx(1)


def test_single_scores_do_not_depend_on_who_else_is_asked_and_pooled_ones_on_the_person_only(expert, known):
    asked = unseen(known)
    single, pooled = expert.predict(asked), expert.predict_pooled(asked)
    np.testing.assert_allclose(expert.predict(asked[:1]), single[:1])
    np.testing.assert_allclose(expert.predict_pooled(asked[:2]), pooled[:2])
    np.testing.assert_allclose(expert.predict_pooled(asked[:1]), single[:1])  # nothing to pool


def test_a_bundle_brings_back_the_same_scores(expert, known):
    tensors, told = state_of(expert)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    again = expert_of(tensors, json.loads(json.dumps(told, sort_keys=True)))  # as bundles are written
    asked = unseen(known)
    np.testing.assert_array_equal(again.predict(asked), expert.predict(asked))
    np.testing.assert_array_equal(again.predict_pooled(asked), expert.predict_pooled(asked))


def test_repetitions_are_read_if_asked_for_and_then_needed(known):
    train = [replace(p, repetitions=((0, 30), (30, 60))) for p in known if int(p.subject[1:]) < 8]
    expert = fit_expert(train, 10.0, 0, 5, 0, repetitions=True)
    assert set(expert.members) == {"posture", "extremes", "coordination", "repetitions", "trees"}
    tensors, told = state_of(expert)
    again = expert_of(tensors, json.loads(json.dumps(told, sort_keys=True)))
    np.testing.assert_array_equal(again.predict(train), expert.predict(train))
    with pytest.raises(ValueError, match="no repetitions of p0 in squat are marked"):
        expert.predict(known[:1])
    with pytest.raises(ValueError, match="no repetitions of p0 in raise are marked"):
        fit_expert([train[0], *known[1:16]], 10.0, 0, 5, 0, repetitions=True)


def test_another_span_of_scores_changes_only_the_unit():
    small, large = performances(8, span=1.0), performances(8, span=64.0)
    answers = [fit_expert(known, 10.0, 0, 5, 0).predict(known) for known in (small, large)]
    np.testing.assert_allclose(answers[1], 64 * answers[0])


def test_one_exercise_alone_and_equal_scores_are_no_problem():
    one = [p for p in performances(4) if p.exercise == "squat"]
    assert np.isfinite(fit_expert(one, 10.0, 0, 5, 0).predict(one)).all()
    equal = [Performance(p.channels, p.exercise, p.subject, 7.0) for p in one]
    np.testing.assert_allclose(fit_expert(equal, 10.0, 0, 5, 0).predict(equal), 7.0, atol=1e-6)


def test_what_it_cannot_learn_from_or_score_is_refused(expert, known):
    with pytest.raises(ValueError, match="at least 3 subjects"):
        fit_expert(known[:4], 10.0, 0, 5, 0)
    with pytest.raises(ValueError, match="scored performances"):
        fit_expert([*known[:8], Performance(known[0].channels, "squat", "p0")], 10.0, 0, 5, 0)
    with pytest.raises(ValueError, match="unknown exercise 'jump'; known: raise, squat"):
        expert.predict([Performance(known[0].channels, "jump", "p0")])


def test_folds_keep_people_together_and_spread_the_scores():
    subjects = [f"s{k // 3}" for k in range(90)]
    target = np.repeat(np.arange(30.0), 3)
    folds = fold_subjects(subjects, target, 5, seed=1)
    assert len({(s, f) for s, f in zip(subjects, folds, strict=True)}) == 30
    means = [target[folds == fold].mean() for fold in range(5)]
    assert np.ptp(means) < 4
    assert set(fold_subjects(["a", "b", "c"], np.zeros(3), 6, 0)) == {0, 1, 2}
