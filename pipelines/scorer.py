"""Scores clips with any kind of model and without a store, as `aqa evaluate` does with one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.checkpoint import bundle_kind, load_bundle
from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError, DataError, SecurityError
from pipelines.motion import Motion, load_motions
from pipelines.schema import CLIPS, FEATURES, POSES, empty_row

if TYPE_CHECKING:
    from pipelines.scoring.video_scorer import VideoScorer

# What a model reads of a row of a table, and of a clip; everything else may be left out of a request.
CLIP_COLUMNS = ("clip_id", "action_type", "difficulty", "transitions_s", "procedures")
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

VIDEO_FOLDER = "AQA_VIDEO_FOLDER"
"""Variable that names the folder below which rows may name videos; else the working directory."""


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
        self.folder, self.kind = folder, bundle_kind(folder)
        self.tensors, self.description = load_bundle(folder, self.kind)
        self.families = families_of(self.description)
        self.bank = read_tables(folder / "bank") if self.kind == "hp_mcore" else {}
        self._of_videos: VideoScorer | None = None

    def score_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Scores of clips given as one flat row each, see `flat_row`; a row may name a `video` instead.

        Returns:
            In the order of the rows: clip_id and score, or clip_id and group; of a video as `_score_video`.

        Raises:
            DataError: see `score`.
            SecurityError: a video lies outside of the folder that videos are read from.
        """
        videos = {number for number, row in enumerate(rows) if _plain(row.get("video"))}
        told = iter(self._score_flat([row for number, row in enumerate(rows) if number not in videos]))
        return [self._score_video(row) if number in videos else next(told) for number, row in enumerate(rows)]

    def _score_video(self, row: dict[str, Any]) -> dict[str, Any]:
        """clip_id, score, and the interval from low to high; or why there is none, in `refused`."""
        from pipelines.scoring.refusal import Refused
        from pipelines.scoring.request import Request
        from pipelines.scoring.video_scorer import VideoScorer

        if self._of_videos is None:
            self._of_videos = VideoScorer(self.folder, ExtractConfig())
        video = _allowed(Path(row["video"]))
        action_type, difficulty = _plain(row.get("action_type")), _plain(row.get("difficulty"))
        empty = {"clip_id": video.stem, "score": None, "low": None, "high": None, "refused": None}
        try:
            found = self._of_videos.score(video, Request(action_type or "", difficulty))
        except Refused as error:
            return empty | {"refused": f"{error.code}: {error.cause}. {error.remedy}"}
        score, reach = found.verdict.score, found.interval.reach
        span = {} if reach is None else {"low": score - reach, "high": score + reach}
        return empty | {"score": score} | span

    def _score_flat(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not rows:
            return []
        clips, found = [], {family: [] for family in self.families}
        for number, row in enumerate(rows):
            name = str(row.get("clip_id") or f"row {number}")
            told = {column: _plain(row.get(column)) for column in CLIP_COLUMNS if column != "clip_id"}
            clips.append(empty_row(CLIPS, clip_id=name, uri=name, **told))
            for family, of_family in found.items():
                columns = COLUMNS[family.partition("/")[0]]
                values = {column: _plain(row.get(f"{family}.{column}")) for column in columns}
                if not any(value is not None for value in values.values()):
                    cause = f"has neither a video nor columns of {family}"
                    raise DataError(f"clip {name}", cause, "give `video`, or the columns of the signature")
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
            marked = self.description.get("repetitions", False)
            scores = expert.predict(make_performances(motions, self.description["rate_hz"], marked))
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
    """Columns of `flat_row`, and `video`; all may be left out, since a row needs the ones or the other.

    Integers that are missing in the example are floating-point numbers, as a data frame holds them then.
    """
    fields = [(column, CLIPS.field(column).type) for column in CLIP_COLUMNS]
    for family in families:
        known = schema_of(family)
        names = COLUMNS[family.partition("/")[0]]
        fields += [(f"{family}.{column}", known.field(column).type) for column in names]
    missing = {name for name, kind in fields if example[name] is None and pa.types.is_integer(kind)}
    told = [(name, pa.float64() if name in missing else kind) for name, kind in fields]
    return pa.schema([("video", pa.string()), *told])


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


def _allowed(video: Path) -> Path:
    """Who may ask for a score must not learn about other files of the machine."""
    folder = Path(os.environ.get(VIDEO_FOLDER) or ".").resolve()
    if not video.resolve().is_relative_to(folder):
        cause = f"lies outside of {folder}, the folder that videos are read from"
        raise SecurityError(video, cause, f"copy it there, or set {VIDEO_FOLDER} where the model is loaded")
    return video


def _plain(value: Any) -> Any:
    """A value of a data frame: arrays as lists, a missing number as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return None if isinstance(value, float) and value != value else value
