from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import run_commands, steps
from pipelines.errors import DataError
from pipelines.schema import CLIPS, POSES, empty_row
from pipelines.store import open_store
from pipelines.workflow_folder import Workflow


def described(folder: Path, **given: Any) -> Workflow:
    texts = dict.fromkeys(("manifest", "store", "config", "address", "first", "last", "run"), "")
    return run_commands.describe(folder, **{**texts, "rendered": False, **given})


@pytest.fixture
def mixed_store(tmp_path: Path) -> Path:
    """Two exercises, one of them imported as keypoints, and a dive."""
    store = open_store(tmp_path / "store", create=True)
    rows = [
        {"clip_id": "squat", "subject_id": "a", "score": 1.0},
        {"clip_id": "known", "subject_id": "b", "score": 2.0},
        {"clip_id": "dive", "subject_id": "c", "score": 3.0, "transitions_s": [0.5, 1.0]},
    ]
    clips = [empty_row(CLIPS, uri=row["clip_id"], split="train", **row) for row in rows]
    store.put_clips(pa.Table.from_pylist(clips, CLIPS))
    table = store.create_poses({"stage": "import"})
    row = empty_row(POSES, clip_id="known", person=0, status="ok", attempts=1)
    with table.writer() as writer:
        writer.commit([table.write_file(pa.Table.from_pylist([row], POSES))])
    return tmp_path / "store"


def wanted(store: Path, **environment: str) -> dict[str, tuple[str, str, list[str]]]:
    from pipelines.settings import load_config

    config = load_config(environment=environment)
    found = steps.extractions(config, open_store(store))
    return {e.reader: (e.config.kind, e.config.sampling, e.clips["clip_id"].to_pylist()) for e in found}


def test_dives_and_exercises_are_extracted_for_their_models(mixed_store: Path) -> None:
    assert wanted(mixed_store) == {
        "two_stage": ("pose", "all", ["squat"]),
        "hp_mcore.keypoints": ("pose", "uniform:96", ["dive"]),
        "hp_mcore.dynamic": ("i3d", "uniform:96", ["dive"]),
        "hp_mcore.static": ("static", "uniform:96", ["dive"]),
    }
    two_stage = {"AQA_RUN__MODELS": "two_stage", "AQA_EXTRACT__SAMPLING": "fps:5"}
    assert wanted(mixed_store, **two_stage) == {"two_stage": ("pose", "fps:5", ["squat"])}
    no_static = {"AQA_RUN__MODELS": "hp_mcore", "AQA_HP_MCORE__ENCODERS": "finetune"}
    assert set(wanted(mixed_store, **no_static)) == {"hp_mcore.keypoints", "hp_mcore.frames"}


def test_a_model_without_clips_to_learn_from_is_refused_by_the_plan(waving_folder: Path) -> None:
    flow = described(waving_folder)
    with pytest.raises(DataError) as caught:
        steps.plan(flow, print)
    assert str(caught.value) == (
        "clips table: holds no scored training clip with transitions_s, which hp_mcore learns from. "
        "Add some, or set run.models to two_stage."
    )


def test_imported_poses_are_found_without_an_extraction(waving_folder: Path) -> None:
    flow = described(waving_folder, config=str(waving_folder.parent / "small.toml"))
    flow.save_result("plan", steps.plan(flow, print))
    assert flow.result("plan") == {"extractions": []}
    flow.save_result("extract", steps.extract(flow, print))
    read = steps._reading(flow, "expert", {"poses": "two_stage"})
    assert [read.expert.poses] == open_store(flow.store).pose_keys()
    assert read.tracking.parent == waving_folder
    named = flow.config.expert.model_copy(update={"poses": "mine"})
    flow = described(waving_folder)
    config = flow.config.model_copy(update={"expert": named})
    assert steps._reading(_with(flow, config), "expert", {"poses": "two_stage"}).expert.poses == "mine"


def _with(flow: Workflow, config: Any) -> Workflow:
    from dataclasses import replace

    return replace(flow, config=config)


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "store", create=True)
    with pytest.raises(DataError, match="the store holds no clips. Give a clips table, or import a data set"):
        steps.import_clips(described(tmp_path), print)


def test_seconds_of_a_step_count_its_interruptions() -> None:
    events = [("plan", "begin", 10), ("plan", "begin", 40), ("plan", "end", 41.5), ("extract", "begin", 50)]
    history = [{"step": step, "event": event, "time_s": at} for step, event, at in events]
    assert steps.seconds(history) == {"plan": 31.5}
