"""Scores of dives by comparison with exemplars; a dive is encoded once, however often it is compared."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aqa_models.exemplars import Attempt, Choice, Rule, choose_exemplars, vote
from aqa_models.hp_mcore.model import Encoded, HpMcore
from aqa_models.metrics import average_iou, procedure_iou, temporal_iou
from pipelines.config import HpMcoreTrainConfig
from pipelines.errors import DataError
from pipelines.hp_mcore.dives import NUM_FRAMES, Dive, Dives, slots
from pipelines.hp_mcore.frames import Shot, filmed, normalised

ENCODED_AT_A_TIME, PAIRS_AT_A_TIME = 16, 64
FILMED_AT_A_TIME = 4  # of dives that are encoded from their frames


@dataclass(frozen=True)
class Prediction:
    """One scored dive.

    Attributes:
        row: of the query.
        score: mean of the votes, in points.
        low, high: interval of the votes; NaN with fewer than two.
        contributions: (P,) mean points that each procedure adds to the exemplars' scores; 0 in unused slots.
        transitions: (P - 1,) predicted first frames; -1 = slot not used.
        exemplars: rows compared with.
        votes: (E,) score that each of them gives.
        rule: what exemplars and query have in common: the rule asked for, or a fallback.
        streams: score that each stream of the regression gives alone.
    """

    row: int
    score: float
    low: float
    high: float
    contributions: tuple[float, ...]
    transitions: tuple[int, ...]
    exemplars: tuple[int, ...]
    votes: tuple[float, ...]
    rule: Rule
    streams: dict[str, float]


@torch.no_grad()
def score_dives(
    model: HpMcore,
    dives: Dives,
    queries: list[int],
    pool: list[int],
    config: HpMcoreTrainConfig,
    device: torch.device,
) -> list[Prediction]:
    """Scores queries by comparison with exemplars from a pool.

    Args:
        model: put into evaluation mode.
        dives: all performances.
        queries: rows to score; their own scores and transitions are not looked at.
        pool: scored rows to choose exemplars from; a query is never its own exemplar.
        config: rule and number of exemplars, transitions of exemplars, precision, seed.
        device: where the model is.

    Returns:
        In the order of the queries.

    Raises:
        DataError: a query for which the pool holds nobody else.
    """
    model.eval()
    choices = choose(dives, queries, pool, config)
    row_of = {dives.facts[row].clip_id: row for row in pool}
    compared = [[row_of[name] for name in choices[dives.facts[query].clip_id].clip_ids] for query in queries]
    used = sorted({row for rows in compared for row in rows})
    place = {row: position for position, row in enumerate(used)}
    given = config.exemplar_transitions == "given"
    bank = _encode(model, dives, used, [dives.facts[row] for row in used], given, config, device)
    found = []
    for begin in range(0, len(queries), ENCODED_AT_A_TIME):
        rows = queries[begin : begin + ENCODED_AT_A_TIME]
        against = compared[begin : begin + ENCODED_AT_A_TIME]
        # How many procedures there will be is announced with the dive number; exemplars tell it.
        models = [_usual([dives.facts[row] for row in others]) for others in against]
        encoded = _encode(model, dives, rows, models, False, config, device)
        pairs = [(i, place[row]) for i, others in enumerate(against) for row in others]
        deltas, contributions, alone = _compare(model, encoded, bank, pairs, config, device)
        first = 0
        for i, (query, others) in enumerate(zip(rows, against, strict=True)):
            own = slice(first, first := first + len(others))
            points = points_per_unit(dives.facts[query], config)
            scores = points * np.array([target_of(dives.facts[row], config) for row in others])
            votes = points * deltas[own]
            result = vote(scores, votes)
            found.append(
                Prediction(
                    row=query,
                    score=result.score,
                    low=result.low,
                    high=result.high,
                    contributions=tuple((points * contributions[own].mean(axis=0)).tolist()),
                    transitions=tuple(encoded.transitions[i].tolist()),
                    exemplars=tuple(others),
                    votes=tuple((scores + votes).tolist()),
                    rule=choices[dives.facts[query].clip_id].rule,
                    streams={n: float((scores + points * d[own]).mean()) for n, d in alone.items()},
                )
            )
    return found


def choose(
    dives: Dives, queries: list[int], pool: list[int], config: HpMcoreTrainConfig
) -> dict[str, Choice]:
    """Exemplars of each query by its clip_id, the same whatever else is scored."""
    train = [attempt_of(dives.facts[row]) for row in pool]
    asked = [attempt_of(dives.facts[row]) for row in queries]
    try:
        return choose_exemplars(asked, train, config.exemplars, config.num_exemplars, config.seed)
    except ValueError as error:
        raise DataError("clips table", str(error), "add scored training clips") from error


def target_of(fact: Dive, config: HpMcoreTrainConfig) -> float:
    """What the model compares: the score, or with `by_difficulty` the score per degree of difficulty."""
    assert fact.score is not None
    return fact.score / points_per_unit(fact, config)


def points_per_unit(fact: Dive, config: HpMcoreTrainConfig) -> float:
    """Points of this dive in one unit of the target.

    Raises:
        DataError: the difficulty is needed and not known.
    """
    if not config.by_difficulty:
        return 1.0
    if not fact.difficulty or fact.difficulty <= 0:
        raise DataError(
            f"clip {fact.clip_id}",
            f"has difficulty {fact.difficulty}, but the model compares scores per degree of difficulty",
            "fill the column difficulty, or train with --no-by-difficulty",
        )
    return fact.difficulty


def attempt_of(fact: Dive) -> Attempt:
    """A dive as far as the choice of exemplars looks at it."""
    return Attempt(fact.clip_id, fact.action_type, fact.difficulty)


def autocast(config: HpMcoreTrainConfig, device: torch.device) -> AbstractContextManager:
    """The arithmetic of the networks."""
    return nullcontext() if config.precision == "fp32" else torch.autocast(device.type, torch.bfloat16)


def _usual(exemplars: list[Dive]) -> Dive:
    """One of those that have the most common number of procedures."""
    usual = Counter(len(exemplar.transitions) for exemplar in exemplars).most_common(1)[0][0]
    return next(exemplar for exemplar in exemplars if len(exemplar.transitions) == usual)


def _encode(
    model: HpMcore,
    dives: Dives,
    rows: list[int],
    like: list[Dive],
    given_transitions: bool,
    config: HpMcoreTrainConfig,
    device: torch.device,
) -> Encoded:
    """Encodes dives whose procedures are as many as those of `like`."""
    parts, pictures = [], dives.pictures
    size = ENCODED_AT_A_TIME if pictures is None else FILMED_AT_A_TIME
    for begin in range(0, len(rows), size):
        some = slice(begin, begin + size)
        batch = dives.batch(rows[some], config.model.num_procedures, {}, like[some])
        if pictures is not None:
            shots = [Shot(row) for row in rows[some]]
            batch = filmed(batch, pictures, shots, pictures.shown(shots), config.transform_poses)
        batch = normalised(batch.to(device))
        with autocast(config, device):
            parts.append(model.encode(batch, batch.transitions if given_transitions else None))
    return Encoded.concatenate(parts)


def _compare(
    model: HpMcore,
    queries: Encoded,
    bank: Encoded,
    pairs: list[tuple[int, int]],
    config: HpMcoreTrainConfig,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Of pairs (query, exemplar): differences (N,), contributions (N, P), differences by stream (N,)."""
    deltas, contributions, streams = [], [], []
    for begin in range(0, len(pairs), PAIRS_AT_A_TIME):
        q, e = torch.tensor(pairs[begin : begin + PAIRS_AT_A_TIME], device=device).T
        with autocast(config, device):
            comparison = model.compare(queries[q], bank[e])
        deltas.append(_numbers(comparison.delta))
        contributions.append(_numbers(comparison.contributions))
        streams.append({name: _numbers(stream.sum(dim=1)) for name, stream in comparison.streams.items()})
    alone = {name: np.concatenate([part[name] for part in streams]) for name in streams[0]}
    return np.concatenate(deltas), np.concatenate(contributions), alone


def _numbers(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def segmentation_metrics(dives: Dives, found: list[Prediction], num_procedures: int) -> dict[str, float]:
    """How well the predicted transitions cut out the procedures.

    A query is cut once, whoever it is compared with, so counting pairs or averaging over the exemplars first
    (the two published ways) gives the same.

    Returns:
        aiou_50 and aiou_75: share of the dives whose flight, from the first to the last transition, overlaps
        by so much (as published); aiou_50_all and aiou_75_all: of the mean overlap over all procedures, of
        the dives for which as many procedures were announced as annotated; transition_error: mean distance
        of a transition in sampled frames.
    """
    true = slots([dives.facts[prediction.row] for prediction in found], num_procedures)[0].numpy()
    predicted = np.array([prediction.transitions for prediction in found])
    flight = temporal_iou(_flight(predicted), _flight(true))
    same = ((predicted >= 0) == (true >= 0)).all(axis=1)
    metrics = {f"aiou_{name}": average_iou(flight, share) for name, share in _SHARES.items()}
    if same.any():
        every = procedure_iou(predicted[same], true[same], NUM_FRAMES)
        metrics |= {f"aiou_{name}_all": average_iou(every, share) for name, share in _SHARES.items()}
    both = (predicted >= 0) & (true >= 0)
    return metrics | {"transition_error": float(np.abs(predicted - true)[both].mean())}


_SHARES = {"50": 0.5, "75": 0.75}


def _flight(cuts: np.ndarray) -> np.ndarray:
    """(N, 2) first and last transition; of a performance of two procedures, the start and the only one."""
    first = np.where(cuts >= 0, cuts, NUM_FRAMES).min(axis=1)
    last = cuts[:, -1]
    return np.stack([np.where(first < last, first, 0), last], axis=1)
