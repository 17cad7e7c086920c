"""HP-MCoRe on one video: the comparison with dives whose score is known."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aqa_models.exemplars import choose_exemplars
from pipelines.config import HpMcoreTrainConfig
from pipelines.errors import ConfigError, DataError
from pipelines.hp_mcore.dives import NUM_FRAMES, Dive, Dives, dive_table
from pipelines.hp_mcore.fit import FAMILIES, wanted_streams
from pipelines.hp_mcore.score import Prediction, attempt_of, points_per_unit, score_dives
from pipelines.scorer import read_tables
from pipelines.scoring.alignment import Alignment
from pipelines.scoring.dive_explanation import bounds, exemplar_bounds
from pipelines.scoring.dive_explanation import explain as explain_dive
from pipelines.scoring.explanation import Explanation, Reference
from pipelines.scoring.extraction import Recording, shaped
from pipelines.scoring.training import Training
from pipelines.scoring.verdict import Exemplar, Part, Verdict


def trained_with(description: dict[str, Any]) -> HpMcoreTrainConfig:
    """The settings of the training."""
    return HpMcoreTrainConfig.model_validate(description["config"])


def families_of(description: dict[str, Any]) -> list[str]:
    """Families of the tables that the model reads."""
    return [FAMILIES[stream] for stream in wanted_streams(trained_with(description))]


class Bank:
    """The dives a video can be compared with: those of the training, without their arrays.

    Args:
        description: of the model.
        training: what it learned from.
        kept: folder of the weights; in a bundle the dives lie beside them.

    Raises:
        ConfigError: neither the store of the training is there, nor dives in a bundle.
    """

    def __init__(self, description: dict[str, Any], training: Training, kept: Path | None = None):
        self._tables = read_tables(kept / "bank") if kept and (kept / "bank").is_dir() else {}
        if not (training.available or self._tables):
            cause = "holds the dives that this model compares with, and is not there"
            raise ConfigError(training.place, cause, "give the store of the training: --store PATH")
        self.config, self.training = trained_with(description), training
        names = pa.array(sorted(description["train_clips"]), pa.string())
        clips = self._tables["clips"] if self._tables else training.clips()
        self.clips = clips.filter(pc.and_(pc.is_in(clips["clip_id"], names), pc.is_valid(clips["score"])))
        self.rows = {row["clip_id"]: row for row in self.clips.to_pylist()}
        self.guests: dict[str, Recording] = {}

    def table(self, family: str, names: set[str]) -> pa.Table:
        """Rows of some dives."""
        rows = self._tables[family] if self._tables else self.training.table(family, names)
        rows = rows.filter(pc.is_in(rows["clip_id"], pa.array(sorted(names), pa.string())))
        guests = [self.guests[name].rows[family] for name in sorted(names & self.guests.keys())]
        return pa.concat_tables([rows, *(one.select(rows.schema.names) for one in guests)])

    def invite(self, recording: Recording, row: pa.Table) -> None:
        """Adds a dive that is not of the training; `auto` never draws it.

        Args:
            recording: named like the row.
            row: its row of CLIPS, scored.
        """
        name = row["clip_id"][0].as_py()
        self.clips = pa.concat_tables([self.clips.filter(pc.not_equal(self.clips["clip_id"], name)), row])
        self.rows[name] = row.to_pylist()[0]
        self.guests[name] = recording

    def has(self, family: str) -> bool:
        """Whether there are such rows of the dives at all."""
        return family in (self._tables or self.training.keys)

    def complete(self, clip: dict[str, Any], exemplar: str) -> dict[str, Any]:
        """A clip with the dive number and difficulty that can be known from its exemplars.

        Args:
            clip: row of CLIPS of the video.
            exemplar: auto, or the name of a dive of the training, or of an invited one.

        Raises:
            ConfigError: there is no such exemplar, the dive number is needed to find some, or the
                difficulty is needed and not known.
        """
        number = clip["action_type"]
        if exemplar != "auto":
            if exemplar not in self.rows:
                some = ", ".join(sorted(self.rows)[:5])
                cause = f"{exemplar!r} is no scored dive of the training"
                raise ConfigError("--exemplar", cause, f"give auto, or one of {len(self.rows)}: {some}, ...")
            number = number or self.rows[exemplar]["action_type"]
        if not number and self.config.exemplars != "any":
            known = sorted({row["action_type"] for row in self.rows.values() if row["action_type"]})
            remedy = f"give the dive number, for example one of the training: {', '.join(known[:20])}"
            raise ConfigError("--action-type", "is needed to find dives of the same kind", remedy)
        difficulty = clip["difficulty"]
        if difficulty is None and self.config.by_difficulty:
            same = {row["difficulty"] for row in self.rows.values() if row["action_type"] == number} - {None}
            if len(same) != 1:
                told = "several" if same else "none"
                cause = f"is needed, and the training holds {told} of dive number {number or 'unknown'}"
                raise ConfigError("--difficulty", cause, "give the degree of difficulty, for example 3.2")
            difficulty = same.pop()
        return clip | {"action_type": number or None, "difficulty": difficulty}

    def chosen(self, clip: dict[str, Any], exemplar: str) -> set[str]:
        """Names of the exemplars, as `aqa evaluate` draws them; or the one that was named."""
        if exemplar != "auto":
            return {exemplar}
        others = [attempt_of(_dive(row)) for name, row in self.rows.items() if name not in self.guests]
        try:
            choice = choose_exemplars(
                [attempt_of(_dive(clip))],
                others,
                self.config.exemplars,
                self.config.num_exemplars,
                self.config.seed,
            )
        except ValueError as error:
            raise DataError(self.training.place, str(error), "name the store of the training") from error
        return set(choice[clip["clip_id"]].clip_ids)


def score(
    recording: Recording, tensors: dict[str, Any], description: dict[str, Any], bank: Bank, exemplar: str
) -> Verdict:
    """Scores a dive as `aqa evaluate` does.

    Args:
        recording: its clip was completed by `Bank.complete`.
        tensors: weights of an hp_mcore bundle.
        description: its config.json.
        bank: whom it is compared with.
        exemplar: auto, or the name of one.
    """
    import torch

    from aqa_models.hp_mcore.model import HpMcore

    clip = recording.clip.to_pylist()[0]
    names = bank.chosen(clip, exemplar) - {clip["clip_id"]}
    config = bank.config
    query = pa.Table.from_pylist([clip], schema=bank.clips.schema)
    others = bank.clips.filter(pc.is_in(bank.clips["clip_id"], pa.array(sorted(names), pa.string())))
    streams = {}
    for stream in wanted_streams(config):
        family = FAMILIES[stream]
        known = bank.table(family, names)
        streams[stream] = pa.concat_tables([recording.rows[family].select(known.schema.names), known])
    dives = Dives(dive_table(pa.concat_tables([query, others]), streams, NUM_FRAMES))
    if len(dives) < 2:
        remedy = "choose another one, or give the store of the training"
        raise DataError(f"exemplar {', '.join(sorted(names))}", "is not extracted there", remedy)
    model = HpMcore(config.model, encoders=config.encoders == "finetune")
    model.load_state_dict(tensors)
    pool = list(range(1, len(dives)))
    found = score_dives(model, dives, [0], pool, config, torch.device("cpu"))[0]
    return _verdict(found, dives, recording, bank)


def explain(recording: Recording, verdict: Verdict, bank: Bank) -> Explanation:
    """Which procedure lost points against the exemplars, and what the body did otherwise there."""
    pose, names = recording.pose(), {one.clip_id for one in verdict.exemplars}
    rows = bank.table("poses", names).to_pylist() if bank.has("poses") else []
    own = bounds(verdict.parts)
    found = []
    for row in rows:
        if row["status"] != "ok" or row["person"]:
            continue
        clip, other = bank.rows[row["clip_id"]], shaped(row)
        theirs = exemplar_bounds(clip, other["time_s"], bank.config.model.num_procedures)
        if len(theirs) == len(own):
            found.append(
                Reference(
                    row["clip_id"], clip["score"], clip["uri"], clip["start_s"], clip["end_s"], other,
                    Alignment(own, theirs),
                )
            )  # fmt: skip
    return explain_dive(verdict, pose, sorted(found, key=lambda one: one.clip_id))


def _verdict(found: Prediction, dives: Dives, recording: Recording, bank: Bank) -> Verdict:
    parts = _parts(found, dives, recording)
    query = dives.facts[0]
    exemplars = tuple(
        Exemplar(
            dives.facts[row].clip_id, bank.rows[dives.facts[row].clip_id]["uri"], _points(dives, row), vote
        )
        for row, vote in zip(found.exemplars, found.votes, strict=True)
    )
    meaning = f"mean score of {len(exemplars)} dives it was compared with"
    if bank.config.by_difficulty:
        meaning += f", at the difficulty of this one ({points_per_unit(query, bank.config):g})"
    return Verdict(
        score=found.score,
        base=found.score - sum(part.delta for part in parts),
        base_meaning=meaning,
        parts=parts,
        action_type=query.action_type,
        exemplars=exemplars,
        rule=found.rule,
        low=None if np.isnan(found.low) else found.low,
        high=None if np.isnan(found.high) else found.high,
    )


def _points(dives: Dives, row: int) -> float:
    score = dives.facts[row].score
    assert score is not None
    return score


def _parts(found: Prediction, dives: Dives, recording: Recording) -> tuple[Part, ...]:
    """The procedures that were found, with the times at which they begin and end."""
    time_s = np.asarray(next(iter(recording.rows.values()))["time_s"][0].as_py(), np.float64)
    used = [0, *(slot + 1 for slot, start in enumerate(found.transitions) if start >= 0)]
    starts = [0, *(start for start in found.transitions if start >= 0)]
    step = float(np.median(np.diff(time_s)))
    times = [float(time_s[min(start, len(time_s) - 1)]) for start in starts] + [float(time_s[-1]) + step]
    names = _names(dives, len(used))
    return tuple(
        Part(name, begin, end, found.contributions[slot])
        for name, slot, (begin, end) in zip(names, used, pairwise(times), strict=True)
    )


def _names(dives: Dives, count: int) -> list[str]:
    """What the exemplars call their procedures, where one has as many."""
    for fact in dives.facts[1:]:
        if len(fact.procedures) == count:
            return list(fact.procedures)
    return [f"procedure {number + 1}" for number in range(count)]


def _dive(row: dict[str, Any]) -> Dive:
    """The facts of a row of CLIPS that the choice of exemplars looks at."""
    return Dive(
        clip_id=row["clip_id"],
        subject="",
        subject_id="",
        action_type=row["action_type"] or "",
        split="",
        score=row["score"],
        difficulty=row["difficulty"],
        judge_scores=(),
        splash=float("nan"),
        transitions=(),
        procedures=(),
    )
