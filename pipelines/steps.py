"""The steps of a workflow: each calls a verb, which goes on where it stopped, and returns a small result."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import Config, ExtractConfig, TrackingConfig
from pipelines.errors import ConfigError, DataError
from pipelines.store import Store, open_store
from pipelines.workflow_folder import Workflow

if TYPE_CHECKING:
    import pyarrow as pa

EXERCISES, SUBJECTS, DIVES, SEED = 40, 20, 16, 0  # what is rendered
Say = Callable[[str], None]
_KINDS = {"keypoints": "pose", "dynamic": "i3d", "static": "static", "frames": "frames"}  # by stream


@dataclass(frozen=True)
class Extraction:
    """Something that must be extracted.

    Args:
        reader: `two_stage`, or `hp_mcore.STREAM`.
        config: how.
        clips: of what, rows of CLIPS.
    """

    reader: str
    config: ExtractConfig
    clips: pa.Table


def import_clips(flow: Workflow, say: Say) -> dict[str, Any]:
    """Render athletes or read the clips table, and bring its rows to the store."""
    from pipelines.datasets.manifest import read_manifest

    manifest = flow.manifest
    if flow.rendered:
        from pipelines.rendered.dataset import render_dataset

        say("the athletes are drawn by the program; their numbers say nothing about real people")
        manifest = flow.folder / "data" / "clips.csv"  # written last
        if not manifest.is_file():
            render_dataset(manifest.parent, exercises=EXERCISES, subjects=SUBJECTS, dives=DIVES, seed=SEED)
    if manifest is not None:
        rows = read_manifest(manifest)  # before a store is made for them
        open_store(flow.store, create=True).put_clips(rows)
    clips = read_clips(flow.store)
    splits, kinds = (Counter(value or "none" for value in clips[name].to_pylist()) for name in _COUNTED)
    return {
        "manifest": str(manifest) if manifest else None,
        "clips": clips.num_rows,
        "subjects": len(set(clips["subject_id"].to_pylist()) - {None}),
        "scored": clips.num_rows - clips["score"].null_count,
        "splits": dict(splits.most_common()),
        "action_types": dict(kinds.most_common(20)),
    }


_COUNTED = ("split", "action_type")


def read_clips(path: Path) -> pa.Table:
    """The clips of a store.

    Raises:
        StorageError, DataError: there is no store, or no clip in it.
    """
    clips = open_store(path).clips.read()
    if not clips.num_rows:
        raise DataError(path, "the store holds no clips", "give a clips table, or import a data set")
    return clips


def plan(flow: Workflow, say: Say) -> dict[str, Any]:
    """Say what is to be extracted, and refuse now what a later step would refuse after hours."""
    from pipelines.kinds import find_people_work, find_work_of
    from pipelines.plan import find_work
    from pipelines.splits import check_subjects
    from pipelines.store import spec_key

    store = open_store(flow.store)
    clips = store.clips.read()
    check_subjects(clips)
    _check_models(flow.config, clips)
    rows = []
    for wanted in extractions(flow.config, store):
        people = find_people_work(wanted.config)
        work = find_work_of(wanted.config, people_key=spec_key(people.spec) if people else "")
        table = store.table(work.family, spec_key(work.spec))
        found = find_work(wanted.clips, table, progress=say) if people is None else None
        todo = found.todo.num_rows if found else wanted.clips.num_rows  # with a detector boxes decide as well
        row = {"for": wanted.reader, "table": f"{work.family}/{spec_key(work.spec)}"}
        rows.append({**row, "clips": wanted.clips.num_rows, "to_do": todo})
        say(f"{wanted.reader}: {todo} of {wanted.clips.num_rows} clips to extract")
    return {"extractions": rows}


def extract(flow: Workflow, say: Say) -> dict[str, Any]:
    """Extract what the models read; clips that are done are skipped."""
    from cluster.connect import connect
    from pipelines import extract as verb

    wanted = extractions(flow.config, open_store(flow.store))
    rows = []
    to_do = any(row["to_do"] for row in flow.result("plan")["extractions"])
    with connect() if to_do else contextlib.nullcontext():  # one Ray for all of them
        for each in wanted:
            found = verb.extract(each.clips, flow.store, each.config, progress=say)
            say(f"{each.reader}: {found['ok']} clips ok, {found['rejected']} rejected")
            rows.append({"for": each.reader, **{name: found[name] for name in _TOLD if name in found}})
    return {"extractions": rows}


_TOLD = (
    "table",
    "version",
    "clips",
    "computed",
    "already_done",
    "ok",
    "rejected",
    "by_code",
    "frames",
    "seconds",
)


def pretrain(flow: Workflow, say: Say) -> dict[str, Any]:
    """`aqa train pretrain` on what was extracted."""
    if not _trains(flow, "two_stage"):
        return skipped("two_stage")
    from pipelines import train

    config = _reading(flow, "pretrain", {"poses": "two_stage"})
    return train.pretrain(flow.store, "pretrain", config, runs=flow.folder / "runs")


def expert(flow: Workflow, say: Say) -> dict[str, Any]:
    """`aqa train expert` on the pretrained encoder."""
    if not _trains(flow, "two_stage"):
        return skipped("two_stage")
    from pipelines import train

    config = _reading(flow, "expert", {"poses": "two_stage"})
    start = None if config.expert.encoder_start == "random" else flow.run_dir("pretrain")
    return train.expert(flow.store, "expert", start, config, runs=flow.folder / "runs")


def hp_mcore(flow: Workflow, say: Say) -> dict[str, Any]:
    """`aqa train hp-mcore` on what was extracted."""
    if not _trains(flow, "hp_mcore"):
        return skipped("hp_mcore")
    from pipelines import train

    settings = {"poses": "keypoints", "dynamic": "dynamic", "static": "static", "frames": "frames"}
    config = _reading(flow, "hp_mcore", {name: f"hp_mcore.{stream}" for name, stream in settings.items()})
    return train.hp_mcore(flow.store, "hp-mcore", config, runs=flow.folder / "runs")


def evaluate(flow: Workflow, say: Say) -> dict[str, Any]:
    """`aqa evaluate` of every model, on people and dives that no training has seen."""
    from pipelines.evaluate import evaluate as verb
    from pipelines.evaluate import metrics_lines

    found = {}
    for step in ("expert", "hp-mcore"):
        if not flow.result(step).get("skipped"):
            metrics = verb(flow.run_dir(step), flow.store, flow.config)
            found[step] = {**metrics, "lines": metrics_lines(metrics)}
    return found


def report(flow: Workflow, say: Say) -> dict[str, Any]:
    """The results in one place; the page itself is this step's card."""
    return {
        "folder": str(flow.folder),
        "report": str(flow.folder / "report.html"),
        "extract": flow.result("extract")["extractions"],
        "metrics": flow.result("evaluate"),
        "seconds": seconds([line for line in flow.history() if line["run"] == flow.run]),
    }


ACTIONS: dict[str, Callable[[Workflow, Say], dict[str, Any]]] = {
    "import": import_clips,
    "plan": plan,
    "extract": extract,
    "pretrain": pretrain,
    "expert": expert,
    "hp-mcore": hp_mcore,
    "evaluate": evaluate,
    "report": report,
}


def skipped(model: str) -> dict[str, Any]:
    """Result of a step of a model that is not wanted."""
    return {"skipped": f"run.models leaves {model} out"}


def extractions(config: Config, store: Store) -> list[Extraction]:
    """What the models of a workflow read and the store must get.

    Clips with annotated transitions are for hp_mcore, all others for two_stage; clips that came as keypoints
    need no extraction.
    """
    import pyarrow.compute as pc

    from pipelines.extract import clips_to_decode
    from pipelines.hp_mcore.fit import wanted_streams

    clips = clips_to_decode(store)
    phased = has_transitions(clips)
    found = []
    if config.run.models != "hp_mcore":
        poses = config.extract.model_copy(update={"kind": "pose"})
        found.append(Extraction("two_stage", poses, clips.filter(pc.invert(phased))))
    if config.run.models != "two_stage":
        weights = {"i3d": config.run.i3d_weights, "static": config.run.static_weights}
        for stream in wanted_streams(config.hp_mcore):
            kind = _KINDS[stream]
            change: dict[str, Any] = {"kind": kind, "sampling": config.run.dive_sampling}
            if kind in weights:
                random = config.run.random_weights and weights[kind] is None
                change |= {"weights": weights[kind], "random_weights": random}
            if kind != "pose":
                change |= {"detector_config": "", "detector_weights": None}
            made = config.extract.model_copy(update=change)
            found.append(Extraction(f"hp_mcore.{stream}", made, clips.filter(phased)))
    return [each for each in found if each.clips.num_rows]


def has_transitions(clips: pa.Table) -> pa.ChunkedArray:
    """Whether the ordered sub-actions of each clip are annotated."""
    import pyarrow.compute as pc

    return pc.fill_null(pc.greater(pc.list_value_length(clips["transitions_s"]), 0), False)


def seconds(history: list[dict[str, Any]]) -> dict[str, float]:
    """Step -> seconds from its first beginning to its last end, interruptions included."""
    found: dict[str, float] = {}
    begun: dict[str, float] = {}
    for line in history:
        if line["event"] == "begin":
            begun.setdefault(line["step"], line["time_s"])
        elif line["event"] == "end":
            found[line["step"]] = round(line["time_s"] - begun[line["step"]], 1)
    return found


def tracking_of(flow: Workflow) -> TrackingConfig:
    """Runs of the steps are children of the workflow's."""
    return flow.config.tracking.model_copy(update={"parent": flow.folder})


def _trains(flow: Workflow, model: str) -> bool:
    return flow.config.run.models in ("both", model)


def _check_models(config: Config, clips: pa.Table) -> None:
    """Every model that is wanted needs clips to learn from."""
    import pyarrow.compute as pc

    learning = clips.filter(pc.and_(pc.is_valid(clips["score"]), _not_test(clips)))
    phased = pc.sum(has_transitions(learning)).as_py() or 0
    for model, count, kind in (
        ("two_stage", learning.num_rows - phased, "without"),
        ("hp_mcore", phased, "with"),
    ):
        if config.run.models in ("both", model) and not count:
            other = "hp_mcore" if model == "two_stage" else "two_stage"
            raise DataError(
                "clips table",
                f"holds no scored training clip {kind} transitions_s, which {model} learns from",
                f"add some, or set run.models to {other}",
            )


def _not_test(clips: pa.Table) -> Any:
    import pyarrow.compute as pc

    return pc.fill_null(pc.not_equal(clips["split"], "test"), True)


def _reading(flow: Workflow, section: str, readers: dict[str, str]) -> Config:
    """The settings of a training, reading the tables this workflow has filled."""
    tables = {row["for"]: row["table"].rpartition("/")[2] for row in flow.result("extract")["extractions"]}
    if "two_stage" in readers.values() and "two_stage" not in tables:
        tables["two_stage"] = _imported(flow.store)
    given = getattr(flow.config, section)
    chosen = {name: tables[reader] for name, reader in readers.items() if reader in tables}
    chosen = {name: key for name, key in chosen.items() if not getattr(given, name)}
    changed = {section: given.model_copy(update=chosen), "tracking": tracking_of(flow)}
    return flow.config.model_copy(update=changed)


def _imported(path: Path) -> str:
    """Key of the poses that were imported, when nothing had to be extracted."""
    store = open_store(path)
    keys = [key for key in store.pose_keys() if store.spec(key).get("stage") == "import"]
    if len(keys) != 1:
        raise ConfigError(
            path,
            f"holds {len(keys)} imported pose tables",
            "name one in pretrain.poses and expert.poses" if keys else "give clips to extract",
        )
    return keys[0]
