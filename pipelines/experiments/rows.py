"""The rows of the two-stage paper's tables: what each one trains, and what the paper says of it.

Nekoui & Cheng, BMVC 2021, tables 1 to 3. A row is a preset of the expert on a pretext of the non-expert;
its other settings come from the size. Rows of floors learn next to nothing, and any model must beat them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipelines.errors import ConfigError

EXERCISES = ("Es1", "Es2", "Es3", "Es4", "Es5")
TREES = "floor_trees"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: of its folder, and on the command line.
        title: in the table.
        kind: expert (two-stage), angles (the angles expert) or floor.
        expert: settings below `expert`.
        pretext: key of PRETEXTS; None = an encoder of random weights, or no encoder at all.
        paper: its figures in the paper's order of columns, shares of 1; empty = the paper has no such row.
        video: whether it needs appearance features.
        rival: the row that differs in nothing but a random start, so that the difference is the pretraining.
    """

    name: str
    title: str
    kind: Literal["expert", "angles", "floor"] = "expert"
    expert: dict[str, str] = field(default_factory=dict)
    pretext: str | None = None
    paper: tuple[float, ...] = ()
    video: bool = False
    rival: str | None = None


PRETEXTS: dict[str, dict[str, str]] = {
    "inpaint_pace": {},
    "inpaint": {"model.pace": "false"},
    "pace": {"model.pretext": "none"},
    "recon": {"model.pretext": "recon", "model.pace": "false"},
    "recon_pace": {"model.pretext": "recon"},
    "motion": {"model.pretext": "motion_pred", "model.pace": "false"},
    "motion_pace": {"model.pretext": "motion_pred"},
    "order": {"model.pretext": "order", "model.pace": "false"},
}
"""Settings below `pretrain` of each pretext."""

_SKELETON = {"preset": "skeleton_only"}
_RANDOM = {**_SKELETON, "encoder_start": "random"}

FLOORS = (
    Row("floor_median", "floor: median of the training scores", "floor"),
    Row(TREES, "floor: trees on plain statistics", "floor"),
    Row("floor_group", "floor: patient or control", "floor"),
    Row("floor_setup", "floor: camera set-up alone", "floor"),
)

TABLE1 = (
    Row("nonexpert_U", "Only Non-expert (U)", expert={"preset": "nonexpert_U"}, pretext="inpaint_pace",
        paper=(0.6076, 0.5698, 0.3775, 0.5961, 0.5452)),
    Row("nonexpert_S", "Only Non-expert (S)", expert={"preset": "nonexpert_S"},
        paper=(0.6392, 0.6085, 0.5444, 0.5682, 0.5785)),
    Row("nonexpert_US", "Only Non-expert (U+S)", expert={"preset": "nonexpert_US"}, pretext="inpaint_pace",
        rival="nonexpert_S", paper=(0.6653, 0.6009, 0.6105, 0.5971, 0.6111)),
    Row("skeleton_only", "Ours, skeleton only", expert=_SKELETON, pretext="inpaint_pace",
        rival="random_encoder"),
    Row("random_encoder", "Only Expert, skeleton only (random encoder)", expert=_RANDOM),
    Row("skeleton_wo_inpaint", "W/o inpainting, skeleton only", expert=_SKELETON, pretext="pace",
        rival="random_encoder"),
    Row("skeleton_wo_pace", "W/o pace, skeleton only", expert=_SKELETON, pretext="inpaint",
        rival="random_encoder"),
    Row("angles", "Angles expert (not in the paper)", "angles"),
    *FLOORS,
    Row("full", "Ours", expert={"preset": "full"}, pretext="inpaint_pace", video=True,
        rival="only_expert", paper=(0.7559, 0.7287, 0.6996, 0.7467, 0.7231)),
    Row("only_expert", "Only Expert", expert={"preset": "only_expert"}, video=True,
        paper=(0.6842, 0.6643, 0.6781, 0.6697, 0.6311)),
    Row("c3d_as_expert", "C3D as expert", expert={"preset": "c3d_as_expert"}, pretext="inpaint_pace",
        video=True, paper=(0.7019, 0.6942, 0.6711, 0.6459, 0.6638)),
    Row("wo_inpaint", "W/o inpainting", expert={"preset": "full"}, pretext="pace", video=True,
        rival="only_expert", paper=(0.7113, 0.6819, 0.6760, 0.7120, 0.6682)),
    Row("wo_pace", "W/o pace", expert={"preset": "full"}, pretext="inpaint", video=True,
        rival="only_expert", paper=(0.7334, 0.7094, 0.7084, 0.7128, 0.6907)),
)  # fmt: skip

TABLE2 = (
    Row("recon", "skeleton reconstruction", expert=_SKELETON, pretext="recon",
        rival="random_encoder", paper=(0.6917, 0.6753, 0.7002, 0.6539, 0.6373, 0.8254)),
    Row("recon_pace", "skeleton reconstruction + pace", expert=_SKELETON, pretext="recon_pace",
        rival="random_encoder", paper=(0.6853, 0.6912, 0.6953, 0.6814, 0.6433, 0.8271)),
    Row("motion", "motion prediction", expert=_SKELETON, pretext="motion",
        rival="random_encoder", paper=(0.7053, 0.7092, 0.6817, 0.7043, 0.6854, 0.8431)),
    Row("motion_pace", "motion prediction + pace", expert=_SKELETON, pretext="motion_pace",
        rival="random_encoder", paper=(0.7218, 0.6992, 0.7035, 0.7118, 0.7046, 0.8415)),
    Row("order", "order recovery", expert=_SKELETON, pretext="order",
        rival="random_encoder", paper=(0.6567, 0.6729, 0.6638, 0.6783, 0.6052, 0.8392)),
    Row("inpaint_pace", "ours: inpainting + pace", expert=_SKELETON, pretext="inpaint_pace",
        rival="random_encoder", paper=(0.7559, 0.7287, 0.6996, 0.7467, 0.7231, 0.8402)),
    Row("inpaint", "inpainting without pace", expert=_SKELETON, pretext="inpaint", rival="random_encoder"),
    Row("pace", "pace alone", expert=_SKELETON, pretext="pace", rival="random_encoder"),
    Row("random_encoder", "floor: random encoder", expert=_RANDOM),
    *FLOORS,
)  # fmt: skip

TABLE3 = (
    Row("only_expert", "Only Expert, skeleton only (random encoder)", expert=_RANDOM),
    Row("nonexpert_U", "Only Non-expert (U)", expert={"preset": "nonexpert_U"}, pretext="inpaint_pace",
        paper=(0.69,)),
    Row("nonexpert_S", "Only Non-expert (S)", expert={"preset": "nonexpert_S"}, paper=(0.80,)),
    Row("nonexpert_US", "Only Non-expert (U+S)", expert={"preset": "nonexpert_US"}, pretext="inpaint_pace",
        paper=(0.86,)),
    Row("skeleton_only", "Ours, skeleton only", expert=_SKELETON, pretext="inpaint_pace"),
    Row("floor_majority", "floor: the most frequent class", "floor"),
)  # fmt: skip

TABLES = {"table1": TABLE1, "table2": TABLE2, "table3": TABLE3}

QUOTED: dict[str, dict[str, tuple[float, ...]]] = {
    "table1": {
        "C3D": (0.66, 0.64, 0.63, 0.59, 0.60),
        "I3D": (0.45, 0.56, 0.57, 0.64, 0.58),
        "EAGLE-Eye": (0.7085, 0.6734, 0.6462, 0.6523, 0.6242),
        "VI-Net": (0.79, 0.69, 0.57, 0.59, 0.70),
    },
    "table2": {},
    "table3": {"EAGLE-Eye (video)": (0.83,), "Only Expert (video)": (0.80,), "Ours (video)": (0.89,)},
}
"""Rows of the paper that are not run here: other models, or infants' videos that are not published."""

_REDUCED = {
    "pretrain.model.encoder_units": "48",
    "pretrain.model.decoder_units": "48",
    "pretrain.model.pace_units": "48",
    "pretrain.model.discriminator_units": "16",
    "pretrain.epochs": "20",
    "pretrain.optimizer.learning_rate": "2e-3",
    "expert.encoder_units": "48",
    "expert.model.lstm_units": "32",
    "expert.model.branch_channels": "16",
    "expert.epochs": "30",
    "expert.optimizer.learning_rate": "2e-3",
    "angles.network_seeds": "0",
}
_QUICK = {
    **{name: "12" for name in _REDUCED if name.endswith("_units")},
    "pretrain.epochs": "1",
    "expert.epochs": "4",
    "expert.model.branch_channels": "4",
    "angles.network_seeds": "0",
}
_SEEN = {"rate_hz": "15", "inputs": "both", "scaling": "torso", "heading": "body"}
_RECOGNITION_INPUTS = {
    **{f"{part}.sequence.{name}": text for part in ("pretrain", "expert") for name, text in _SEEN.items()},
    "expert.mirror": "true",
}
_RECOGNITION_SIZES = {
    **{name: "64" for name in _REDUCED if name.endswith("_units")},
    "pretrain.model.discriminator_units": "16",
    "pretrain.model.encoder_kind": "tcn",
    "pretrain.epochs": "8",
    "pretrain.batch_size": "64",
    "pretrain.optimizer.learning_rate": "3e-3",
    "pretrain.crop_frames": "24",
    "expert.encoder_kind": "tcn",
    "expert.epochs": "25",
    "expert.batch_size": "64",
    "expert.optimizer.learning_rate": "6e-3",
    "expert.optimizer.schedule": "warmup_cosine",
    "expert.feature_dropout": "0.3",
    "expert.crop_share": "0.8",
}
# Chosen without camera 3, by learning from camera 1 and judging camera 2: docs/experiments.md.
_RATES = {"table1": "5", "table2": "10", "table3": "10"}


def size_settings(table: str, size: str) -> dict[str, str]:
    """Settings that all rows of a table share: dotted path -> text; size is quick, reduced or full."""
    rate = {f"{part}.sequence.rate_hz": _RATES[table] for part in ("pretrain", "expert")}
    rarely = {"pretrain.checkpoint_every": "5", "expert.checkpoint_every": "1000"}
    if size == "full":  # epochs take minutes
        return {f"{part}.checkpoint_every": "1" for part in ("pretrain", "expert")}
    windows = {"pretrain.crop_frames": str(8 * int(_RATES[table]))}
    return {**rate, **rarely, **windows, **(_QUICK if size == "quick" else _REDUCED)}


def recognition_settings(size: str) -> dict[str, str]:
    """What the recognition of table 2 has of its own, stronger than `size_settings`; size as there."""
    if size == "reduced":
        return {**_RECOGNITION_INPUTS, **_RECOGNITION_SIZES}
    return _RECOGNITION_INPUTS


def chosen_rows(table: str, names: tuple[str, ...]) -> tuple[Row, ...]:
    """Rows by name, in the order of the table; of a table of scores the trees, to compare with, always.

    Raises:
        ConfigError: a name that the table does not have.
    """
    rows = TABLES[table]
    known = [row.name for row in rows]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            "experiment.rows", f"{table} has no row {unknown[0]}", f"choose of {', '.join(known)}"
        )
    return tuple(row for row in rows if not names or row.name in names or row.name == TREES)
