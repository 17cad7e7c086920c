"""Which values a trial gets: drawn at random, or by TPE from the trials before it (Optuna).

A proposal depends on the seed, the number of the trial and the trials it may know, and on nothing else: so a
sweep that was killed proposes the same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.sweep.space import Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

TPE_STARTS_AFTER = 5  # random trials; Optuna's own 10 would make most sweeps on one machine random


class Told(NamedTuple):
    """What a proposal may know of an earlier trial."""

    params: dict[str, Any]
    value: float | None
    """Objective; None if the trial failed."""
    stopped_after: int = 0
    """Epochs after which it was stopped early; 0 = it was not."""


def propose(
    space: Sequence[Range], searcher: str, mode: str, seed: int, number: int, known: Sequence[Told]
) -> dict[str, Any]:
    """Values of one trial.

    Args:
        space: what may vary.
        searcher: tpe or random.
        mode: min or max, of the objective.
        seed: of the sweep.
        number: of the trial, from 0.
        known: earlier trials, in their order.

    Returns:
        Dotted path -> value.
    """
    import optuna
    from optuna.samplers import RandomSampler, TPESampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    sampler = (
        TPESampler(seed=drawn_seed, n_startup_trials=TPE_STARTS_AFTER)
        if searcher == "tpe"
        else RandomSampler(seed=drawn_seed)
    )
    direction = "minimize" if mode == "min" else "maximize"
    study = optuna.create_study(sampler=sampler, direction=direction)
    study.add_trials([as_optuna(space, told) for told in known])
    asked = study.ask({ranged.path: distribution(ranged) for ranged in space})
    return {ranged.path: _value(ranged, asked.params[ranged.path]) for ranged in space}


def distribution(ranged: Range) -> BaseDistribution:
    """Optuna's word for a range; of choices it sees the positions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if ranged.kind == "choice":
        return CategoricalDistribution(range(len(ranged.values)))
    low, high = ranged.values
    return (IntDistribution if ranged.whole else FloatDistribution)(low, high, log=ranged.log)


def as_optuna(space: Sequence[Range], told: Told) -> FrozenTrial:
    """An ended trial as Optuna keeps it."""
    from optuna.trial import TrialState, create_trial

    params = {
        ranged.path: ranged.values.index(told.params[ranged.path])
        if ranged.kind == "choice"
        else told.params[ranged.path]
        for ranged in space
    }
    distributions = {ranged.path: distribution(ranged) for ranged in space}
    if told.value is None:
        return create_trial(state=TrialState.FAIL, params=params, distributions=distributions)
    if told.stopped_after:
        return create_trial(
            state=TrialState.PRUNED,
            params=params,
            distributions=distributions,
            intermediate_values={told.stopped_after: told.value},
        )
    return create_trial(value=told.value, params=params, distributions=distributions)


def _value(ranged: Range, drawn: Any) -> Any:
    """The value of the setting; of numbers four digits, which a person can read and type."""
    if ranged.kind == "choice":
        return ranged.values[drawn]
    if ranged.whole:
        return int(drawn)
    low, high = ranged.values
    return min(max(float(f"{drawn:.4g}"), float(low)), float(high))
