from __future__ import annotations

import math

import pytest

from pipelines.sweep.search import TPE_STARTS_AFTER, Told, propose
from pipelines.sweep.space import Range

SPACE = (
    Range("a.units", "uniform", (8, 16), whole=True),
    Range("b.rate", "log_uniform", (1e-4, 1e-1)),
    Range("c.kind", "choice", ("x", "y", "z")),
)


def test_proposals_stay_in_their_ranges_and_fill_them():
    drawn = [propose(SPACE, "random", "min", 0, number, ()) for number in range(200)]
    units, rates, kinds = (sorted(d[r.path] for d in drawn) for r in SPACE)
    assert set(units) == set(range(8, 17))
    assert all(isinstance(unit, int) for unit in units)
    assert 1e-4 <= rates[0] < 2e-4
    assert 5e-2 < rates[-1] <= 1e-1
    assert abs(math.log10(rates[100]) + 2.5) < 0.3  # the middle of a logarithmic range
    assert set(kinds) == {"x", "y", "z"}


@pytest.mark.parametrize("searcher", ["tpe", "random"])
def test_a_proposal_depends_on_seed_number_and_known_trials_alone(searcher):
    known = [Told(propose(SPACE, "random", "min", 1, n, ()), float(n)) for n in range(6)]
    first = propose(SPACE, searcher, "min", 0, 7, known)
    assert propose(SPACE, searcher, "min", 0, 7, known) == first
    assert propose(SPACE, searcher, "min", 0, 8, known) != first
    assert propose(SPACE, searcher, "min", 1, 7, known) != first


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_tpe_finds_the_minimum_sooner_than_chance(mode, sign):
    """Objective: distance of the logarithm of the rate from that of 0.01, in decades."""

    def search(searcher: str, seed: int) -> float:
        known: list[Told] = []
        for number in range(25):
            params = propose(SPACE[1:2], searcher, mode, seed, number, known)
            known.append(Told(params, sign * abs(math.log10(params["b.rate"]) + 2)))
        late = [abs(told.value or 0.0) for told in known[15:]]
        return sum(late) / len(late)

    tpe = [search("tpe", seed) for seed in range(3)]
    chance = [search("random", seed) for seed in range(3)]
    assert sum(tpe) < 0.75 * sum(chance)


def test_stopped_and_failed_trials_are_told_too():
    known = [Told(propose(SPACE, "random", "min", 1, n, ()), 1.0, stopped_after=2) for n in range(4)]
    known += [Told(propose(SPACE, "random", "min", 1, 9, ()), None)]
    known += [Told(propose(SPACE, "random", "min", 1, 10 + n, ()), 0.5) for n in range(TPE_STARTS_AFTER)]
    drawn = propose(SPACE, "tpe", "min", 0, 0, known)
    assert drawn.keys() == {"a.units", "b.rate", "c.kind"}
    assert drawn != propose(SPACE, "random", "min", 0, 0, ())
