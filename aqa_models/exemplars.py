"""Exemplars: the training performances a query is compared with, and the vote of their scores.

CoRe (Yu et al., ICCV 2021) predicts how much better or worse a query is than exemplars of the same kind and
takes the mean over ten of them. Who is an exemplar depends on the query, the training set and a seed alone:
not on the order of either, nor on how many processes do the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

Rule = Literal["number", "difficulty", "rotation", "any"]

FALLBACK: dict[Rule, tuple[Rule, ...]] = {
    "number": ("number", "rotation", "any"),
    "difficulty": ("difficulty", "any"),
    "rotation": ("rotation", "any"),
    "any": ("any",),
}
"""What is tried, in this order, until there is a candidate."""


@dataclass(frozen=True)
class Attempt:
    """A performance as far as the choice looks at it.

    Attributes:
        clip_id: unique name.
        number: dive number, `407c`; empty if not known.
        difficulty: degree of difficulty; None if not known.
    """

    clip_id: str
    number: str
    difficulty: float | None = None


@dataclass(frozen=True)
class Choice:
    """The exemplars of one query.

    Attributes:
        clip_ids: names of the exemplars, each once.
        rule: the rule they fulfil: the one asked for, or the first fallback that found any.
    """

    clip_ids: tuple[str, ...]
    rule: Rule


@dataclass(frozen=True)
class Vote:
    """A score with the interval that its votes span; both ends nan for a single vote."""

    score: float
    low: float
    high: float


def rotation_group(number: str) -> str:
    """First digit of a dive number, 1 to 6: forward, back, reverse, inward, twisting, armstand."""
    return number[:1]


def candidates(query: Attempt, train: Iterable[Attempt], rule: Rule) -> list[str]:
    """Names of the training performances that fulfil `rule`, in order, the query itself excluded.

    What is not known of the query fits nothing but the rule any.
    """
    wanted = _trait(query, rule)
    if wanted is None:
        return []
    names = {other.clip_id for other in train if _trait(other, rule) == wanted}
    return sorted(names - {query.clip_id})


def choose_exemplars(
    queries: Iterable[Attempt], train: Sequence[Attempt], rule: Rule, count: int, seed: int | str
) -> dict[str, Choice]:
    """Draws exemplars without repetition; all of them where there are fewer than `count`.

    Args:
        queries: whom to find exemplars for.
        train: whom to draw from.
        rule: what exemplar and query have in common.
        count: exemplars per query, 1 or more.
        seed: of the draw.

    Returns:
        A choice for each query by its name; names in the order drawn.

    Raises:
        ValueError: count below 1, or a query for which nobody is left in `train`.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    groups: dict[Rule, dict] = {tried: _groups(train, tried) for tried in FALLBACK[rule]}
    return {query.clip_id: _choose(query, groups, count, seed) for query in queries}


def draw_exemplars(train: Sequence[Attempt], rule: Rule, seed: int, epoch: int) -> dict[str, Choice]:
    """One exemplar of each training performance for one epoch, drawn uniformly from the others."""
    return choose_exemplars(train, train, rule, 1, f"{seed}/{epoch}")


def vote(
    exemplar_scores: np.ndarray,
    deltas: np.ndarray,
    level: float = 0.95,
    interval: Literal["percentile", "normal"] = "percentile",
) -> Vote:
    """Mean of (exemplar's score + predicted difference), and the interval that holds `level` of such votes.

    The interval says how far single exemplars disagree, not how far the model may be off for all of them.

    Args:
        exemplar_scores: (E,) judged scores.
        deltas: (E,) predicted score of the query less that of each exemplar, same points.
        level: share of the votes inside, above 0 and below 1.
        interval: percentile = of the votes themselves; normal = mean +- z x standard deviation.

    Raises:
        ValueError: no votes, another shape, or values that are not finite.
    """
    scores, deltas = np.asarray(exemplar_scores, np.float64), np.asarray(deltas, np.float64)
    if scores.ndim != 1 or scores.shape != deltas.shape or not len(scores):
        raise ValueError(f"need two non-empty vectors of one length, got {scores.shape}, {deltas.shape}")
    votes = scores + deltas
    if not np.isfinite(votes).all():
        raise ValueError("votes must be finite")
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    mean = float(votes.mean())
    if len(votes) == 1:
        return Vote(mean, float("nan"), float("nan"))
    if interval == "normal":
        reach = float(norm.ppf(0.5 + level / 2) * votes.std(ddof=1))
        return Vote(mean, mean - reach, mean + reach)
    low, high = np.quantile(votes, [0.5 - level / 2, 0.5 + level / 2])
    return Vote(mean, float(low), float(high))


def _trait(attempt: Attempt, rule: Rule) -> Hashable | None:
    """What attempts must share under `rule`; None if it is not known."""
    if rule == "number":
        return attempt.number or None
    if rule == "rotation":
        return rotation_group(attempt.number) or None
    if rule == "difficulty":
        return None if attempt.difficulty is None else round(attempt.difficulty, 3)
    return rule


def _groups(train: Iterable[Attempt], rule: Rule) -> dict[Hashable, list[str]]:
    """Names by trait, sorted: the draw may not depend on the order of the rows."""
    groups: dict[Hashable, list[str]] = {}
    for attempt in train:
        if (trait := _trait(attempt, rule)) is not None:
            groups.setdefault(trait, []).append(attempt.clip_id)
    return {trait: sorted(set(names)) for trait, names in groups.items()}


def _choose(query: Attempt, groups: dict[Rule, dict], count: int, seed: int | str) -> Choice:
    for rule, of_trait in groups.items():
        names = [name for name in of_trait.get(_trait(query, rule), ()) if name != query.clip_id]
        if names:
            # Seeded by the query's name: the same draw in every process, whatever was drawn before.
            digest = hashlib.sha256(f"{seed}/{query.clip_id}".encode()).digest()
            order = np.random.default_rng(list(digest)).permutation(len(names))
            return Choice(tuple(names[k] for k in order[:count]), rule)
    raise ValueError(f"clip {query.clip_id} has no exemplar: the training set holds nobody else")
