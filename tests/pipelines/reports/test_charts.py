from __future__ import annotations

import numpy as np
import pytest

from pipelines.reports import charts

TRUE = np.array([10.0, 20.0, 30.0, 40.0, 50.0])


def test_limits_of_agreement_of_a_hand_known_case() -> None:
    # Errors 1, -1, 1, -1, 0: mean 0, sample deviation 1.
    found = charts.limits_of_agreement(TRUE + np.array([1, -1, 1, -1, 0]), TRUE)
    assert found == pytest.approx((0.0, -1.96, 1.96))


def test_pictures_are_svg_and_always_the_same() -> None:
    kinds = ["a", "b", "a", "b", "a"]
    made = [
        lambda: charts.scatter(TRUE + 1, TRUE, kinds),
        lambda: charts.residuals(TRUE + 1, TRUE, kinds),
        lambda: charts.bland_altman(TRUE + 1, TRUE),
        lambda: charts.calibration(TRUE + 1, TRUE, 2),
        lambda: charts.ribbons([("dive", [30, 60], [31, 59])], 96, "frame"),
    ]
    for make in made:
        first = make()
        assert first.startswith(b"<?xml")
        assert b"<script" not in first
    assert made[-1]() == first


def test_names_with_dollars_are_no_formulas() -> None:
    bad = ["$\\frac{", "$x$", "a", "b", "$"]
    assert charts.scatter(TRUE, TRUE, bad)
    assert charts.ribbons([("$\\frac{", [30, 60], [])], 96, "frame")
    assert charts.bars({"$\\bad{": 0.5}, "share")


def test_one_constant_value_can_be_drawn() -> None:
    same = np.full(3, 5.0)
    assert charts.scatter(same, same, ["a"] * 3)
    assert charts.residuals(same, same, ["a"] * 3)
    assert charts.calibration(same, same, 2)
