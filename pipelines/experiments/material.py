"""What the rows of a table are trained and judged on: clips, poses, features, and who tests when."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from pipelines.config import ExperimentConfig
from pipelines.data import import_
from pipelines.datasets.nw_ucla import PUBLISHED_SPLIT, by_view
from pipelines.datasets.subject_splits import Parts, groups_of, k_folds, leave_one_out, read_all_splits
from pipelines.errors import ConfigError

HEALTHY = ("Expert", "NotExpert", "control", "healthy")
"""Groups without patients: KIMORE's controls, drawn ones, healthy infants."""
CONTROLS = "controls"


VideoTables = tuple[pa.Table, pa.Table, pa.Table]


@dataclass(frozen=True)
class Material:
    """One data set, ready for the rows.

    Attributes:
        name: of its folder.
        title: in the table.
        clips, poses, features: tables; features only where rows see the video.
        splits: who trains and who tests, by subject; empty = the clips say it themselves, in one split.
        parts: action types that each get a model of their own; ("",) = one model of all.
        task: score, or classes = the groups of the clips.
        pooled: judge all splits together, because each tests few people.
        settings: that this data set needs: dotted path -> text.
        healthy: tables to pretrain on, the same for all splits; None = the training people of each split.
        well: groups of those training people to pretrain on; empty = all.
    """

    name: str
    title: str
    clips: pa.Table
    poses: pa.Table
    features: pa.Table | None
    splits: list[Parts]
    parts: tuple[str, ...]
    task: Literal["score", "classes"] = "score"
    pooled: bool = False
    settings: tuple[tuple[str, str], ...] = ()
    healthy: tuple[pa.Table, pa.Table] | None = None
    well: tuple[str, ...] = HEALTHY

    def split_clips(self, number: int) -> pa.Table:
        """The clips of the people of a split, with the column split filled."""
        if not self.splits:
            return self.clips
        parts = self.splits[number]
        column = pa.array(
            [parts.get(name or "") for name in self.clips["subject_id"].to_pylist()], pa.string()
        )
        index = self.clips.schema.get_field_index("split")
        clips = self.clips.set_column(index, self.clips.schema.field(index), column)
        return clips.filter(column.is_valid())

    def of_part(self, clips: pa.Table, part: str) -> tuple[pa.Table, pa.Table, pa.Table | None]:
        """Clips of one action type (empty = of all), and the poses and features of these clips alone."""
        if part:
            clips = clips.filter(
                pa.array([kind == part for kind in clips["action_type"].to_pylist()], pa.bool_())
            )
        ids = set(clips["clip_id"].to_pylist())
        return (
            clips,
            _of_clips(self.poses, ids),
            None if self.features is None else _of_clips(self.features, ids),
        )

    def sizes(self) -> tuple[float, float]:
        """People that train and test, means over the splits."""
        if not self.splits:
            return 1.0, 1.0
        counts = [[list(parts.values()).count(part) for part in ("train", "test")] for parts in self.splits]
        train, test = (sum(column) / len(counts) for column in zip(*counts, strict=True))
        return train, test

    def identity(self) -> dict[str, str]:
        """What decides the results: sha256 of all rows, and of each split."""
        found = {f"data.{self.name}": self._digest()}
        for number, parts in enumerate(self.splits):
            told = hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()
            found[f"data.{self.name}.split-{number}"] = told
        return found

    def _digest(self) -> str:
        tables = [self.clips, self.poses, self.features, *(self.healthy or ())]
        found = hashlib.sha256(repr((self.parts, self.settings)).encode())
        for table in tables:
            if table is not None:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, table.schema) as stream:
                    stream.write_table(table)
                found.update(sink.getvalue())
        return found.hexdigest()


def _of_clips(table: pa.Table, ids: set[str]) -> pa.Table:
    return table.filter(pa.array([clip_id in ids for clip_id in table["clip_id"].to_pylist()], pa.bool_()))


def kimore(data: Path, config: ExperimentConfig) -> Material:
    """KIMORE's skeletons, pretrained on healthy motion of other data sets, or on its own controls.

    Raises:
        ConfigError: a folder is absent, or KIMORE has none of the exercises asked for.
        DataError, SecurityError: as the adapters.
    """
    folder = _folder(data, "kimore")
    clips, poses, _ = import_("kimore", folder)
    assert poses is not None
    name = config.splits or "published"
    splits = (
        read_all_splits(folder / "subject_splits.csv")
        if name == "published"
        else made_splits(clips, name, config.seed)
    )
    return Material(
        name="kimore",
        title=f"KIMORE, skeletons, {_said(name, _first(splits, config))}",
        clips=clips,
        poses=poses,
        features=None,
        splits=_first(splits, config),
        parts=chosen_parts(clips, config),
        pooled=name == "leave_one_out",
        healthy=None if config.pretrain_on == (CONTROLS,) else _healthy(data, config.pretrain_on),
    )


def recognition(data: Path, settings: dict[str, str]) -> Material:
    """NW-UCLA's ten actions, cameras 1 and 2 to pretrain and to learn from, camera 3 to test.

    The published protocol has every person on both sides, which the rest of the package refuses. So here the
    unit that may not cross is a person as one camera sees him, and the class, elsewhere the group of
    a person, is the action. `action_type` is emptied: it would tell the answer, because inputs are
    standardised by it.

    Args:
        data: folder of data sets.
        settings: of its pretraining and expert, dotted path -> text.

    Raises:
        ConfigError: there is no folder nw_ucla.
        DataError, SecurityError: as the adapter.
    """
    clips, poses, _ = import_("nw_ucla", _folder(data, "nw_ucla"))
    assert poses is not None
    clips = by_view(clips)
    rows = clips.to_pylist()
    seen = [f"{row['subject_id']} {row['group']}" for row in rows]
    columns = {
        "subject_id": seen,
        "group": [row["action_type"] for row in rows],
        "action_type": [None] * len(rows),
        "dataset": ["nw_ucla by camera"] * len(rows),
    }
    for name, values in columns.items():
        index = clips.schema.get_field_index(name)
        clips = clips.set_column(index, clips.schema.field(index), pa.array(values, pa.string()))
    told = (("expert.model.task", "classes"), *settings.items())
    title = "NW-UCLA, recognition of ten actions, cameras 1 and 2 against camera 3"
    return Material("nw_ucla", title, clips, poses, None, [], ("",), "classes", True, told, well=())


def infants(data: Path, config: ExperimentConfig) -> Material | None:
    """Four classes of risk, in folds by infant; None if the folder is not there."""
    if not (data / "infants").is_dir():
        return None
    clips, poses, _ = import_("infants", data / "infants")
    assert poses is not None
    rated = pa.array([group is not None for group in clips["group"].to_pylist()], pa.bool_())
    return class_material("infants", "Infants, 2-D poses", clips.filter(rated), poses, config)


def class_material(
    name: str, title: str, clips: pa.Table, poses: pa.Table, config: ExperimentConfig
) -> Material:
    """Groups of people as classes, in folds that each hold every group; 2-D poses; pretrained on healthy."""
    splits = made_splits(clips, config.splits or "folds:5", config.seed)
    settings = (
        ("expert.model.task", "classes"),
        ("expert.sequence.skeleton", "c15"),
        ("pretrain.sequence.skeleton", "c15"),
    )
    said = _said(config.splits or "folds:5", _first(splits, config))
    first = _first(splits, config)
    return Material(name, f"{title}, {said}", clips, poses, None, first, ("",), "classes", True, settings)


def video_material(
    name: str, title: str, tables: VideoTables, splits: list[Parts], config: ExperimentConfig, *, pooled: bool
) -> Material:
    """Scored exercises with poses and features of the video.

    There are too few healthy people among drawn ones: all training people are pretrained on, scores unread.
    """
    clips, poses, features = tables
    settings = (("expert.sequence.skeleton", "c15"), ("pretrain.sequence.skeleton", "c15"))
    parts, first = chosen_parts(clips, config), _first(splits, config)
    return Material(name, title, clips, poses, features, first, parts, "score", pooled, settings, None, ())


def of_store(store: Path, published: Path, config: ExperimentConfig) -> Material:
    """Scored video of a user's store: KIMORE's published splits if they are its people's, else folds.

    Args:
        store: with one table of poses and one of C3D features.
        published: file of splits; used if it names a person of the store and no others are asked for.
        config: settings.

    Raises:
        ConfigError, DataError, CorruptError: as `pipelines.store.snapshot_of`; or splits that do not fit.
    """
    clips, poses, features = read_store(store)
    scored = pa.array([score is not None for score in clips["score"].to_pylist()], pa.bool_())
    clips = clips.filter(scored)
    known = read_all_splits(published) if published.is_file() else []
    here = set(groups_of(clips))
    if config.splits in ("", "published") and known and here & set(known[0]):
        name, splits = "published", known
    else:
        name = config.splits or "folds:5"
        splits = made_splits(clips, name, config.seed)
    title = f"Scored video of {store}, {_said(name, _first(splits, config))}"
    tables = clips, poses, features
    return video_material("video", title, tables, splits, config, pooled=name == "leave_one_out")


def read_store(store: Path) -> VideoTables:
    """Clips, poses and C3D features of a store that holds one table of each; the column split is emptied.

    Raises:
        ConfigError, DataError: as `pipelines.store.snapshot_of`.
    """
    from pipelines.store import snapshot_of

    family = "features/c3d_fc6"
    clips, tables, _ = snapshot_of(store, {"poses": "", family: ""})
    index = clips.schema.get_field_index("split")
    empty = pa.nulls(len(clips), pa.string())
    return clips.set_column(index, clips.schema.field(index), empty), tables["poses"], tables[family]


def chosen_parts(clips: pa.Table, config: ExperimentConfig) -> tuple[str, ...]:
    """The exercises asked for, or all there are.

    Raises:
        ConfigError: one that is not there.
    """
    there = sorted({name for name in clips["action_type"].to_pylist() if name})
    if absent := [name for name in config.exercises if name not in there]:
        remedy = f"choose of {', '.join(there)}"
        raise ConfigError("experiment.exercises", f"there is no exercise {absent[0]}", remedy)
    return tuple(name for name in there if not config.exercises or name in config.exercises)


def _folder(data: Path, name: str) -> Path:
    if not (data / name).is_dir():
        remedy = f"give --data a folder that holds {name}, or choose other sets with --pretrain-on"
        raise ConfigError(data, f"has no folder {name}", remedy)
    return data / name


def _healthy(data: Path, names: tuple[str, ...]) -> tuple[pa.Table, pa.Table]:
    """All motion of some data sets; without NW-UCLA's third camera, which tests the recognition."""
    if not names or CONTROLS in names:
        raise ConfigError(
            "experiment.pretrain_on",
            f"is {','.join(names) or 'empty'}",
            f"name folders of DATA, or {CONTROLS} alone",
        )
    clips, poses = [], []
    for name in names:
        rows, found, _ = import_(name, _folder(data, name))
        if name == "nw_ucla":
            kept = [PUBLISHED_SPLIT.get(group or "") == "train" for group in rows["group"].to_pylist()]
            rows = rows.filter(pa.array(kept, pa.bool_()))
        clips.append(rows)
        if found is not None:
            poses.append(_of_clips(found, set(rows["clip_id"].to_pylist())))
    if len(poses) < len(clips):
        raise ConfigError(
            "experiment.pretrain_on", "names a data set without poses", "give recordings of joints"
        )
    return pa.concat_tables(clips), pa.concat_tables(poses)


def made_splits(clips: pa.Table, name: str, seed: int) -> list[Parts]:
    """Splits by name, folds:5 or leave_one_out, of the people of some clips.

    Raises:
        ConfigError: published ones, or more folds than people.
    """
    groups = groups_of(clips)
    if name == "leave_one_out":
        return leave_one_out(groups)
    if not name.startswith("folds:"):
        raise ConfigError(
            "experiment.splits", f"{name} are there of KIMORE alone", "give folds:5 or leave_one_out"
        )
    return k_folds(groups, int(name.partition(":")[2]), seed)


def _first(splits: list[Parts], config: ExperimentConfig) -> list[Parts]:
    count = config.max_splits or (1 if config.quick else len(splits))
    return splits[:count]


def _said(name: str, splits: list[Parts]) -> str:
    if name == "leave_one_out":
        return "leave one subject out"
    kind = "published split" if name == "published" else "fold"
    return f"{len(splits)} {kind}{'s' * (len(splits) != 1)} by subject"
