from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from pipelines import errors, run_commands, run_step, steps
from pipelines.errors import DataError
from pipelines.workflow_folder import Workflow


def described(folder: Path, **given: Any) -> Workflow:
    texts = dict.fromkeys(("manifest", "store", "config", "address", "first", "last", "run"), "")
    return run_commands.describe(folder, **{**texts, "rendered": False, **given})


RETRIED = [
    (errors.ConfigError("x", "y", "z"), False),
    (errors.DataError("x", "y", "z"), False),
    (errors.StorageError("x", "y", "z"), False),
    (errors.ClusterError("x", "y", "z"), True),
    (errors.WriterError("x", "y", "z"), True),
    (errors.CorruptError("x", "y", "z"), False),
    (errors.SecurityError("x", "y", "z"), False),
    (ValueError("bug"), False),
    (OSError(errno.ESTALE, "stale"), True),
    (OSError(errno.EIO, "io"), True),
    (OSError(errno.ENOSPC, "full"), False),
    (FileNotFoundError(errno.ENOENT, "none"), False),
]


@pytest.mark.parametrize(("error", "expected"), RETRIED)
def test_only_what_may_pass_is_retried(error: Exception, expected: bool) -> None:
    assert run_step.may_pass(error) is expected


def test_a_failed_step_leaves_its_error_and_a_good_one_removes_it(
    waving_folder: Path, empty_database: bytes
) -> None:
    (waving_folder.parent / "mlflow.db").write_bytes(empty_database)
    flow = described(waving_folder, last="plan")
    flow.save()
    run_step.open_parent(flow)
    with pytest.raises(DataError):
        run_step.run_step("plan", waving_folder)
    found = run_step.failure(waving_folder)
    assert found is not None
    assert (found["kind"], found["where"]) == ("DataError", "clips table")
    with pytest.raises(DataError, match="which hp_mcore learns from"):
        run_commands._result(1, waving_folder)
    assert [line["event"] for line in flow.history()] == ["begin", "fail"]
    described(waving_folder, last="plan", config=str(waving_folder.parent / "small.toml")).save()
    assert run_step.run_step("plan", waving_folder) == {"extractions": []}
    assert run_step.failure(waving_folder) is None
    assert "Nothing to extract" in (waving_folder / "steps" / "plan" / "card.html").read_text()
    with pytest.raises(errors.ClusterError, match="a step ended without an error of its own"):
        run_commands._result(1, waving_folder)


def test_a_bug_is_kept_as_one(tmp_path: Path, empty_database: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "flow"
    flow = described(folder, last="import")
    flow.save()
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    run_step.open_parent(flow)
    monkeypatch.setitem(steps.ACTIONS, "import", lambda flow, say: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_step.run_step("import", folder)
    with pytest.raises(errors.AqaError) as caught:
        run_commands._result(1, folder)
    assert (type(caught.value), caught.value.exit_code) == (errors.AqaError, 1)
    assert "ZeroDivisionError: division by zero" in caught.value.cause
