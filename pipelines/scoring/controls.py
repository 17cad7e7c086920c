"""The control group that a patient's movement is held against: healthy people of the training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.motion import Motion, load_motions, subject_of
from pipelines.scoring.inpainting import Pretrained
from pipelines.scoring.training import Training

FEWEST = 4
MOST = 60
CONTROL = "control"
BEST_SHARE = 1 / 3


@dataclass(frozen=True)
class Controls:
    """Clips of the control group, of one action type.

    Attributes:
        motions: at most MOST of them, the same ones each time; empty = there are too few.
        words: who they are.
    """

    motions: tuple[Motion, ...]
    words: str


def controls_of(
    description: dict[str, Any],
    training: Training,
    pretrained: Pretrained | None,
    action_type: str,
    without: str = "",
) -> Controls:
    """Whom the movement is held against.

    Training clips of people of the group `control`; without such a group those whose motion the pretraining
    learned from; else the third with the best scores.

    Args:
        description: of the expert.
        training: what it learned from.
        pretrained: network of phase 1, if known.
        action_type: what was performed.
        without: name of the clip that is explained: nobody is held against himself.
    """
    if not training.available or "poses" not in training.keys:
        return Controls((), f"the store of the training ({training.place}) is not there")
    clips = training.clips()
    names = ["clip_id", "dataset", "subject_id", "group", "split", "action_type", "score"]
    rows = [row for row in clips.select(names).to_pylist()
            if row["action_type"] == action_type and row["split"] != "test" and row["clip_id"] != without
            and subject_of(row) in description["subjects"]]  # fmt: skip
    chosen, words = _healthy(rows, pretrained)
    if len(chosen) < FEWEST:
        cause = f"only {len(chosen)} training clips of {action_type} are of healthy people ({words})"
        return Controls((), f"{cause}; {FEWEST} are the fewest to be held against")
    order = sorted(chosen, key=lambda name: hashlib.sha256(name.encode()).digest())[:MOST]
    clips = clips.filter(pc.is_in(clips["clip_id"], pa.array(order, pa.string())))
    return Controls(tuple(load_motions(clips, training.table("poses", set(order)))), words)


def _healthy(rows: list[dict[str, Any]], pretrained: Pretrained | None) -> tuple[list[str], str]:
    """Names of the clips, and who the people are."""
    marked = [row["clip_id"] for row in rows if row["group"] == CONTROL]
    if marked:
        return marked, "training people of the group control"
    if pretrained is not None:
        known = set(pretrained.description["subjects"])
        learned = [row["clip_id"] for row in rows if subject_of(row) in known]
        if learned and len(learned) < len(rows):
            return learned, "people of the pretraining"
    scored = sorted((row for row in rows if row["score"] is not None), key=lambda row: -row["score"])
    best = scored[: max(1, round(len(scored) * BEST_SHARE))] if scored else []
    return [row["clip_id"] for row in best], "the third of the training clips with the best scores"
