from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.sweep.asha import is_rung, is_worse


def test_rungs_grow_by_the_reduction():
    assert [epoch for epoch in range(1, 101) if is_rung(epoch, 4, 3)] == [4, 12, 36]


def test_a_trial_goes_on_if_it_is_among_the_best_third():
    others = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]  # the best third ends at 3
    assert [is_worse(value, others, 3, "min") for value in (0.5, 3.0, 3.1, 9.0)] == [False, False, True, True]
    assert not is_worse(5.0, others, 3, "max")
    assert is_worse(4.9, others, 3, "max")
    assert not is_worse(1e9, [], 3, "min")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_rule_is_that_of_ray_tune(mode):
    """Trials one after the other: Ray's scheduler and ours stop the same ones at the same epochs."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

    scheduler = AsyncHyperBandScheduler("epoch", "value", mode, max_t=27, grace_period=2, reduction_factor=3)
    curves = np.random.default_rng(3).normal(size=(40, 26)).cumsum(axis=1)
    seen: list[list[float]] = []
    stops = []
    for number, curve in enumerate(curves.tolist()):
        trial = SimpleNamespace(trial_id=str(number))
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        for epoch, value in enumerate(curve, start=1):
            result = {"epoch": epoch, "value": value}
            theirs = scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP  # type: ignore[arg-type]
            others = [other[epoch - 1] for other in seen if len(other) >= epoch]
            ours = is_rung(epoch, 2, 3) and is_worse(value, others, 3, mode)
            assert ours == theirs, (number, epoch)
            if ours:
                break
        stops.append(epoch)
        seen.append(curve[:epoch])
    assert {2, 6, 26} <= set(stops)
