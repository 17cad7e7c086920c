"""Planted faults: only the named joint, only in the named procedure, at the stated price."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipelines.rendered.body import JOINTS
from pipelines.rendered.planted import COST, LIMBS, Fault, draw_fault, planted_dive


@pytest.mark.parametrize(
    ("procedure", "angle", "moved"),
    [
        (0, "left_elbow", {"left_wrist"}),
        (1, "right_knee", {"right_ankle"}),
        (2, "left_hip_flex", {"left_knee", "left_ankle"}),
        (2, "right_shoulder_flex", {"right_elbow", "right_wrist"}),
    ],
)
def test_a_fault_moves_its_limb_in_its_procedure_alone(procedure, angle, moved):
    limb = next(limb for limb, angles in LIMBS.items() if angle in angles)
    clean = planted_dive(3, "one", "105B", (), film=False)
    wrong = planted_dive(3, "one", "105B", (Fault(procedure, limb, angle, 1.0),), film=False)
    away = np.linalg.norm(wrong.joints - clean.joints, axis=-1)
    assert {JOINTS[joint] for joint in np.flatnonzero(away.max(axis=0) > 1e-3)} == moved
    times = np.arange(len(away)) / 25
    begins = (0.0, *clean.transitions_s, times[-1] + 1)
    frames = times[away.max(axis=1) > 1e-3]
    assert frames.min() >= begins[procedure] - 0.04
    assert frames.max() < begins[procedure + 1] + 0.04
    assert away.max() > 8  # px: it can be seen
    assert clean.execution - wrong.execution == pytest.approx(COST)
    assert clean.score == pytest.approx(30 * clean.number.difficulty)


def test_the_film_shows_the_joints_that_are_told():
    told = planted_dive(4, "two", "103B", (), film=False)
    filmed = planted_dive(4, "two", "103B", (), film=True)
    assert filmed.film is not None
    np.testing.assert_array_equal(filmed.joints, told.joints)
    assert len(filmed.film.frames) == len(told.joints)


def test_every_limb_and_procedure_is_drawn_alike():
    random = np.random.default_rng(0)
    drawn = [draw_fault(random, 0.5) for _ in range(600)]
    limbs, procedures = Counter(one.limb for one in drawn), Counter(one.procedure for one in drawn)
    assert min(limbs.values()) > 110
    assert min(procedures.values()) > 160
    assert all(0.5 <= one.size <= 1 and one.angle in LIMBS[one.limb] for one in drawn)
