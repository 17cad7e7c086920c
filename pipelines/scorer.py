"""Scores clips with any kind of model and without a store, as `aqa evaluate` does with one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.checkpoint import bundle_kind, load_bundle
from pipelines.errors import ConfigError, DataError
from pipelines.motion import Motion, load_motions
from pipelines.schema import CLIPS, FEATURES, POSES, empty_row

# What a model reads of a row of a table, and of a clip; everything else may be left out of a request.
CLIP_COLUMNS = ("clip_id", "action_type", "difficulty")
COLUMNS = {
    "poses": (
        *("skeleton", "num_frames", "num_joints", "num_coordinates", "width_px", "height_px"),
        *("frame_index", "time_s", "keypoints"),
    ),
    "features": (
        *("num_frames", "num_segments", "num_channels", "width_px", "height_px"),
        *("frame_index", "time_s", "features"),
    ),
}

_INSTEAD = "score with `aqa evaluate`, or train with --encoders frozen"


def families_of(description: dict[str, Any]) -> dict[str, str]:
    """Families of the tables a model reads, with the name of its stream: poses, features/i3d and so on.

    Raises:
        ConfigError: it reads frames; those are not kept with a model.
    """
    if description["kind"] == "hp_mcore":
        from pipelines.config import HpMcoreTrainConfig
        from pipelines.hp_mcore.fit import FAMILIES, wanted_streams

        streams = wanted_streams(HpMcoreTrainConfig.model_validate(description["config"]))
        if "frames" in streams:
            raise ConfigError(
                "bundle",
                "the model reads frames, which are too large to be kept with it",
                "use `aqa evaluate`",
            )
        return {FAMILIES[stream]: stream for stream in streams}
    families = {"poses": "keypoints"}
    if kind := description.get("feature_kind"):
        families[f"features/{kind}"] = "video"
    return families


def schema_of(family: str) -> pa.Schema:
    """Schema of the tables of a family."""
    return POSES if family == "poses" else FEATURES


class Scorer:
    """A trained model, ready to score.

    Args:
        folder: a run folder, its model folder, or the data of a bundle, which also holds the exemplar bank.

    Raises:
        ConfigError, CorruptError: see `load_bundle`.
    """

    def __init__(self, folder: Path):
        self.kind = bundle_kind(folder)
        self.tensors, self.description = load_bundle(folder, self.kind)
        self.families = families_of(self.description)
        self.bank = read_tables(folder / "bank") if self.kind == "hp_mcore" else {}

    def score_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Scores of clips given as one flat row each, see `flat_row`."""
        clips, found = [], {family: [] for family in self.families}
        for number, row in enumerate(rows):
            name = str(row.get("clip_id") or f"row {number}")
            told = {column: _plain(row.get(column)) for column in CLIP_COLUMNS if column != "clip_id"}
            clips.append(empty_row(CLIPS, clip_id=name, uri=name, **told))
            for family, of_family in found.items():
                columns = COLUMNS[family.partition("/")[0]]
                values = {column: _plain(row.get(f"{family}.{column}")) for column in columns}
                fixed = {"clip_id": name, "person": 0, "status": "ok", "attempts": 1}
                of_family.append(empty_row(schema_of(family), **fixed, **values))
        try:
            tables = {f: pa.Table.from_pylist(part, schema=schema_of(f)) for f, part in found.items()}
            return self.score(pa.Table.from_pylist(clips, schema=CLIPS), tables)
        except pa.ArrowInvalid as error:
            raise DataError("request", str(error), "give the columns of the signature") from error

    def score(self, clips: pa.Table, tables: dict[str, pa.Table]) -> list[dict[str, Any]]:
        """Scores of clips given as tables.

        Args:
            clips: rows of CLIPS.
            tables: family -> rows of POSES or FEATURES.

        Returns:
            In the order of the clips: clip_id and `score` in points, or `group` of a model of classes.

        Raises:
            DataError: a clip lacks what the model reads, or is of an action type it does not know.
        """
        if self.kind == "hp_mcore":
            found = self._score_dives(clips, tables)
        else:
            feature = next((table for f, table in tables.items() if f != "poses"), None)
            found = self._score_motions(load_motions(clips, tables["poses"], feature))
        names = clips["clip_id"].to_pylist()
        if missing := [name for name in names if name not in found]:
            raise DataError(f"clip {missing[0]}", f"lacks {', '.join(self.families)}", "extract them first")
        return [{"clip_id": name, **found[name]} for name in names]

    def _score_motions(self, motions: list[Motion]) -> dict[str, dict[str, Any]]:
        from pipelines.evaluate import answers, predict

        classes, targets = self.description.get("classes"), self.description["targets"]
        for motion in motions:
            if not classes and motion.action_type not in targets:
                raise DataError(
                    f"clip {motion.clip_id}",
                    f"has action type {motion.action_type!r}, the model knows {', '.join(sorted(targets))}",
                    "use a model that was trained on it",
                )
        if classes:
            told = answers(motions, self.tensors, self.description).argmax(axis=1)
            groups = [list(classes)[index] for index in told]
            return {m.clip_id: {"group": group} for m, group in zip(motions, groups, strict=True)}
        if self.kind == "angles":
            from aqa_models.angles_expert.state import expert_of
            from pipelines.angles_expert.performances import make_performances

            expert = expert_of(self.tensors, self.description["expert"])
            scores = expert.predict(make_performances(motions, self.description["rate_hz"]))
        else:
            scores = predict(motions, self.tensors, self.description)
        return {m.clip_id: {"score": float(score)} for m, score in zip(motions, scores, strict=True)}

    def _score_dives(self, clips: pa.Table, tables: dict[str, pa.Table]) -> dict[str, dict[str, Any]]:
        import torch

        from aqa_models.hp_mcore.model import HpMcore
        from pipelines.config import HpMcoreTrainConfig
        from pipelines.hp_mcore.dives import NUM_FRAMES, Dives, dive_table
        from pipelines.hp_mcore.score import score_dives

        names = clips["clip_id"].to_pylist()
        pool_clips = without(self.bank["clips"], names)  # nobody is compared with himself
        streams = {
            stream: pa.concat_tables([tables[family], without(self.bank[family], names)])
            for family, stream in self.families.items()
        }
        dives = Dives(dive_table(pa.concat_tables([clips, pool_clips]), streams, NUM_FRAMES))
        asked = set(names)
        queries = [row for row, fact in enumerate(dives.facts) if fact.clip_id in asked]
        pool = [row for row, fact in enumerate(dives.facts) if fact.clip_id not in asked]
        trained = HpMcoreTrainConfig.model_validate(self.description["config"])
        model = HpMcore(trained.model, encoders=False)
        model.load_state_dict(self.tensors)
        found = score_dives(model, dives, queries, pool, trained, torch.device("cpu"))
        return {dives.facts[p.row].clip_id: {"score": p.score} for p in found}


def flat_schema(families: Iterable[str], example: dict[str, Any]) -> pa.Schema:
    """Columns of `flat_row`; those that are None in the example may be left out."""
    fields = [(column, CLIPS.field(column).type) for column in CLIP_COLUMNS]
    for family in families:
        known = schema_of(family)
        names = COLUMNS[family.partition("/")[0]]
        fields += [(f"{family}.{column}", known.field(column).type) for column in names]
    return pa.schema([pa.field(name, kind, nullable=example[name] is None) for name, kind in fields])


def flat_row(clip: dict[str, Any], cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A clip and its rows of some families as one row: clip_id, action_type, poses.keypoints and so on."""
    row = {column: clip[column] for column in CLIP_COLUMNS}
    for family, cell in cells.items():
        row |= {f"{family}.{column}": cell[column] for column in COLUMNS[family.partition("/")[0]]}
    return row


def without(table: pa.Table, names: list[str]) -> pa.Table:
    """Rows of other clips."""
    import pyarrow.compute as pc

    return table.filter(pc.invert(pc.is_in(table["clip_id"], pa.array(names, pa.string()))))


def write_tables(folder: Path, tables: dict[str, pa.Table]) -> None:
    """One Parquet file per table; `features/i3d` becomes features.i3d.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name.replace('/', '.')}.parquet", compression="zstd")


def read_tables(folder: Path) -> dict[str, pa.Table]:
    """What `write_tables` wrote."""
    return {path.stem.replace(".", "/"): pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}


def _plain(value: Any) -> Any:
    """A value of a data frame: arrays as lists, a missing number as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return None if isinstance(value, float) and value != value else value
