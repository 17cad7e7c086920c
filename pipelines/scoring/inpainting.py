"""How well a network that learned healthy motion fills in each limb: one that moves otherwise fits less."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.checkpoint import load_bundle
from pipelines.motion import Motion, make_sequences

LIMBS = {"left arm": "LA", "right arm": "RA", "left leg": "LL", "right leg": "RL"}


@dataclass(frozen=True)
class Pretrained:
    """The network of phase 1 that an expert started from.

    Attributes:
        folder: its run.
        tensors: weights.
        description: its config.json.
    """

    folder: Path
    tensors: dict[str, Any]
    description: dict[str, Any]


def find_pretrained(model: Path) -> tuple[Pretrained | None, str]:
    """The pretraining of an expert's run, or why there is none: it is known by the hash of its weights.

    Args:
        model: run folder of the expert, or the folder `model` in it; runs beside it are looked at.

    Returns:
        The network and "", or None and the reason.
    """
    run = model if (model / "summary.json").is_file() else model.parent
    if not (run / "summary.json").is_file():
        return None, "a bundle does not hold the pretraining, so no limb was filled in by its network"
    wanted = json.loads((run / "summary.json").read_text())["identity"].get("pretrained.sha256")
    if not wanted:
        return None, "the expert was not pretrained, so there is no network that learned healthy motion"
    for path in sorted(run.absolute().parent.glob("*/model/config.json")):
        described = json.loads(path.read_text())
        if described.get("kind") == "nonexpert" and described.get("sha256") == wanted:
            if described["model"]["pretext"] != "inpaint" or described["sequence"]["inputs"] != "xyz":
                return None, f"{path.parent.parent} learned no filling in of joint positions"
            return Pretrained(path.parent.parent, *load_bundle(path.parent.parent, "nonexpert")), ""
    return None, f"the pretraining of {run} is not beside it, so no limb was filled in by its network"


def limb_errors(motions: list[Motion], pretrained: Pretrained) -> np.ndarray:
    """(N, 4) error of each limb of `LIMBS` when all of it is hidden: root mean square, in trunk lengths.

    Raises:
        DataError: a motion cannot be prepared for the network.
    """
    import torch

    from aqa_models.two_stage.config import NonExpertConfig, SequenceConfig
    from aqa_models.two_stage.inputs import input_limbs
    from aqa_models.two_stage.nonexpert import NonExpert
    from aqa_models.two_stage.pretext import PretextBatch
    from aqa_models.two_stage.sequence import pad_front

    told = pretrained.description
    sequence, config = SequenceConfig(**told["sequence"]), NonExpertConfig(**told["model"])
    limbs = input_limbs(sequence, told["num_coordinates"], config.mask_root_of_limb)
    model = NonExpert(limbs.shape[1], config)
    model.load_state_dict(pretrained.tensors)
    model.eval()
    found = np.full((len(motions), len(LIMBS)), np.nan)
    for row, (motion, one) in enumerate(zip(motions, make_sequences(motions, sequence), strict=True)):
        x, valid = pad_front([torch.from_numpy(one.x)] * len(LIMBS))
        seen = torch.from_numpy(np.repeat(one.observed, x.shape[2] // len(one.observed)))
        seen = seen.expand(len(LIMBS), -1)
        hidden = valid[..., None] & limbs[:, None]
        nothing = torch.zeros(len(LIMBS), dtype=torch.long)
        batch = PretextBatch(
            x, valid, nothing, seen, torch.arange(len(LIMBS)), hidden, hidden, nothing[:, None]
        )
        with torch.no_grad():
            inpainted = model(batch).inpainted
        gone = hidden & seen[:, None]
        square = (inpainted - x).square().masked_fill(~gone, 0).sum(dim=(1, 2)) / gone.sum(dim=(1, 2)).clamp(
            min=1
        )
        error = square.sqrt().double().numpy() * one.scale / trunk_length(motion)
        found[row] = np.where(gone.any(dim=(1, 2)).numpy(), error, np.nan)
    return found


def trunk_length(motion: Motion) -> float:
    """Median distance from pelvis to the middle of the shoulders, in the unit of the keypoints."""
    from aqa_models.skeletons import map_keypoints, skeleton

    body = skeleton("c15")
    mapped = map_keypoints(motion.keypoints.astype(np.float64), motion.skeleton, "c15")
    ends = mapped[:, body.index("pelvis")] - mapped[:, body.index("shoulder_center")]
    length = np.linalg.norm(ends, axis=-1)
    return float(np.nanmedian(length)) if np.isfinite(length).any() else float("nan")
