from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import errors, run_commands
from pipelines.call import Call
from pipelines.errors import ConfigError
from pipelines.store import open_store
from pipelines.workflow_folder import NEEDS, Workflow, before, open_workflow


def described(folder: Path, **given: Any) -> Workflow:
    texts = dict.fromkeys(("manifest", "store", "config", "address", "first", "last", "run"), "")
    return run_commands.describe(folder, **{**texts, "rendered": False, **given})


CHOICES = [
    ("", "", set(NEEDS)),
    ("", "extract", {"import", "plan", "extract"}),
    ("", "expert", {"import", "plan", "extract", "pretrain", "expert"}),
    ("expert", "", {"expert", "evaluate", "report"}),
    ("hp-mcore", "evaluate", {"hp-mcore", "evaluate"}),
    ("extract", "extract", {"extract"}),
]


@pytest.mark.parametrize(("first", "last", "expected"), CHOICES)
def test_from_and_until_choose_steps(tmp_path: Path, first: str, last: str, expected: set[str]) -> None:
    assert described(tmp_path, first=first, last=last).steps == expected


def test_everything_comes_before_the_report() -> None:
    assert before("report") == set(NEEDS) - {"report"}


def test_a_folder_without_a_workflow_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no workflow. Start one with `aqa run`"):
        open_workflow(tmp_path)
    (tmp_path / "workflow.json").write_text('{"run": "x"}')
    with pytest.raises(errors.CorruptError, match="is not a workflow of this version"):
        open_workflow(tmp_path)
    (tmp_path / "workflow.json").write_text("{")
    with pytest.raises(errors.CorruptError, match="is not readable as JSON"):
        open_workflow(tmp_path)


def test_the_record_brings_back_the_workflow_but_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "postgresql://me:hunter2-hunter2@db/mlflow"
    monkeypatch.setenv("AQA_TRACKING__URI", uri)
    flow = described(tmp_path, rendered=True, last="plan", run="r1")
    flow.save()
    assert "hunter2" not in (tmp_path / "workflow.json").read_text()
    assert open_workflow(tmp_path) == flow
    assert open_workflow(tmp_path).config.tracking.uri == uri
    monkeypatch.delenv("AQA_TRACKING__URI")
    assert open_workflow(tmp_path).config.tracking.uri == "postgresql://***@db/mlflow"


def test_input_that_cannot_be_read_is_refused_before_the_workflow_starts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_commands, "_run", lambda *_: pytest.fail("the workflow has started"))
    (tmp_path / "wrong.csv").write_text("uri,split\na.mp4,maybe\n")
    for given, kind, text in [
        ({"manifest": Path("none.csv")}, errors.DataError, r"none\.csv: the file does not exist"),
        ({"manifest": Path("wrong.csv")}, errors.DataError, "maybe"),
        ({}, errors.StorageError, "there is no store here"),
    ]:
        with pytest.raises(kind, match=text):
            run_commands.run(**given, folder=Path("flow"), call=Call())
    open_store(tmp_path / "flow" / "store", create=True)
    with pytest.raises(errors.DataError, match="the store holds no clips. Give a clips table"):
        run_commands.run(folder=Path("flow"), call=Call())
    assert not (tmp_path / "flow" / ".metaflow").exists()
