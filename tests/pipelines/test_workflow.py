from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines import steps
from pipelines.workflow_folder import NEEDS, before

ROOT = Path(__file__).parents[2]


def test_the_flow_has_the_steps_and_their_order() -> None:
    """The graph as written in the flow: self.next(...) of each step."""
    tree = ast.parse((ROOT / "pipelines" / "workflow.py").read_text())
    flow = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "AqaWorkflow")
    edges = set()
    for method in flow.body:
        for call in ast.walk(method):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "self.next":
                edges |= {(method.name, ast.unparse(arg).removeprefix("self.")) for arg in call.args}
    names = {step: step.replace("-", "_") for step in NEEDS} | {"import": "import_clips"}
    expected = {(names[need], names[step]) for step, needs in NEEDS.items() for need in needs}
    assert edges == expected | {("start", "import_clips"), ("report", "end")}
    done = re.findall(r'self\._do\("([\w-]+)"\)', ast.unparse(flow).replace("'", '"'))
    assert done == list(NEEDS) == list(steps.ACTIONS)


def _start(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "--json", "run", "--folder", str(folder)]
    command += ["--config", str(folder.parent / "small.toml"), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder.parent / "home")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # A file, because nobody reads while the test waits.
    log = (folder.parent / "log.txt").open("a")
    pipes |= {"stderr": log}
    return subprocess.Popen(command, cwd=folder.parent, env=environment, start_new_session=True, **pipes)


def _history(folder: Path, event: str) -> list[str]:
    path = folder / "steps" / "history.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [row["step"] for row in map(json.loads, lines) if row["event"] == event]


def _metrics(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "runs" / "expert" / "metrics.json").read_text())
    return {name: found[name] for name in ("n", "spearman", "mae", "rmse", "median_floor", "evaluations")}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_in_each_step_no_finished_step_is_repeated(waving_folder: Path) -> None:
    """SIGKILL of the whole process group in every step in turn; the same command each time."""
    for step in sorted(NEEDS, key=lambda step: len(before(step))):  # hp-mcore runs beside pretrain
        process = _start(waving_folder)
        while step not in _history(waving_folder, "begin") and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, (waving_folder.parent / "log.txt").read_text()[-3000:]
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = _start(waving_folder)
    out, _ = process.communicate()
    assert process.returncode == 0, (waving_folder.parent / "log.txt").read_text()[-3000:]
    ended = _history(waving_folder, "end")
    assert sorted(ended) == sorted([*NEEDS, "end"])
    assert len(_history(waving_folder, "begin")) > len(NEEDS)
    assert json.loads(out)["metrics"]["expert"]["n"] == 8
    assert not (waving_folder.parent / "home").exists()
    _same_as_undisturbed(waving_folder)


def _same_as_undisturbed(folder: Path) -> None:
    import shutil

    other = folder.parent / "other"
    shutil.copytree(folder / "store", other / "store")
    process = _start(other)
    process.communicate()
    assert process.returncode == 0
    assert _metrics(other) == _metrics(folder)
    _check_tracking(other)
    again = _start(other)
    again.communicate()
    assert again.returncode == 0
    assert _metrics(other)["evaluations"] == 1


def _check_tracking(folder: Path) -> None:
    """One parent, one child per step that ran; MLflow has what the journals say."""
    from pipelines.tracking import client

    server = client(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = server.get_experiment_by_name("aqa")
    assert experiment is not None
    runs = {run.info.run_name: run for run in server.search_runs([experiment.experiment_id])}
    parent = runs["other"]
    children = [
        r.info.run_name
        for r in server.search_runs([experiment.experiment_id])
        if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert sorted(children) == sorted(set(NEEDS) - {"hp-mcore"})
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bad_input_is_not_retried_and_keeps_its_exit_code(waving_folder: Path) -> None:
    process = _start(waving_folder, "--models", "hp_mcore")
    out, _ = process.communicate()
    log = (waving_folder.parent / "log.txt").read_text()
    assert process.returncode == 3, log[-3000:]
    assert json.loads(out)["error"]["type"] == "DataError"
    assert _history(waving_folder, "begin") == ["import", "plan"]
    assert "This failed task will not be retried." in log


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_metaflow_users_find_their_commands(tmp_path: Path) -> None:
    def flow(*words: str) -> str:
        command = [sys.executable, "-m", "pipelines.workflow", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "=> pretrain, hp_mcore" in flow("show")
    assert "--until" in flow("run", "--help")
    made = [path.name for path in tmp_path.rglob("*")]
    assert made in ([], [".metaflow"])  # Metaflow makes this folder unless one above has it; it stays empty
