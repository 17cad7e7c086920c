from __future__ import annotations

import ast
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import errors, run_commands, run_step, steps
from pipelines.errors import ConfigError, DataError
from pipelines.result import Result
from pipelines.schema import CLIPS, empty_row
from pipelines.store import open_store
from pipelines.workflow_folder import NEEDS, Workflow, before, open_workflow

ROOT = Path(__file__).parents[2]
SMALL = """
[pretrain]
epochs = 2
batch_size = 8
[pretrain.sequence]
skeleton = "c15"
[pretrain.model]
encoder_units = 8
decoder_units = 8
pace_units = 8
discriminator_units = 4
[expert]
epochs = 2
batch_size = 8
[expert.sequence]
skeleton = "c15"
[expert.model]
lstm_units = 8
[evaluate]
bootstrap = 100
[run]
models = "two_stage"
"""


def described(folder: Path, **given: Any) -> Workflow:
    texts = dict.fromkeys(("manifest", "store", "config", "address", "first", "last", "run"), "")
    return run_commands.describe(folder, **{**texts, "rendered": False, **given})


@pytest.fixture
def waving_folder(tmp_path: Path, waving_tables: tuple[pa.Table, pa.Table]) -> Path:
    """A workflow's folder whose store holds imported poses, and small settings."""
    clips, poses = waving_tables
    store = open_store(tmp_path / "flow" / "store", create=True)
    store.put_clips(clips)
    table = store.create_poses({"stage": "import"})
    with table.writer() as writer:
        writer.commit([table.write_file(poses)])
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path / "flow"


# Which steps are done


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


def test_a_step_outside_is_skipped_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    described(tmp_path, last="expert").save()
    result, _ = run_commands.do_step("hp-mcore", tmp_path)
    assert result == {"skipped": "outside of --from and --until"}
    described(tmp_path, first="expert").save()
    with pytest.raises(
        ConfigError, match=r"step hp-mcore: was not done in .*Leave out --from, or say --from hp-mcore"
    ):
        run_commands.do_step("hp-mcore", tmp_path)


WRONG = [
    ({"first": "exprt"}, "--from: there is no step 'exprt'. The steps are import, plan, extract"),
    ({"last": "train"}, "--until: there is no step 'train'"),
    ({"first": "expert", "last": "pretrain"}, "--until: pretrain does not come after expert"),
    ({"rendered": True, "manifest": "clips.csv"}, "--rendered: contradicts the clips table clips.csv"),
    ({"config": "nowhere.toml"}, "nowhere.toml: the configuration file cannot be read"),
]


@pytest.mark.parametrize(("given", "text"), WRONG)
def test_wrong_calls_are_refused_with_a_remedy(tmp_path: Path, given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        described(tmp_path, **given)
    assert str(caught.value).startswith(text)
    assert not list(tmp_path.iterdir())


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


# What is extracted


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
    from pipelines.schema import POSES

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


# What happens to errors


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


# Steps as jobs


def test_a_step_as_a_job_leaves_its_result_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster is stood in for by this process; cluster/jobs.py has its own tests."""
    from pipelines import jobs_commands

    described(tmp_path, last="import", address="http://head:8265", run="r7").save()
    sent = []

    def submit(*command: str, address: str, folder: Path, call: Any) -> Result:
        sent.append((command, address, folder))
        open_workflow(tmp_path).save_result("import", {"clips": 5})
        return Result({"job": "j"}, exit_code=0)

    monkeypatch.setattr(jobs_commands, "submit", submit)
    assert run_commands.do_step("import", tmp_path)[0] == {"clips": 5}
    command = ("run-step", "import", "--folder", str(tmp_path), "--run", "r7")
    assert sent == [(command, "http://head:8265", tmp_path)]
    assert jobs_commands.check_command(command) == {}


def test_the_error_of_a_job_is_that_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import jobs_commands

    flow = described(tmp_path, last="import", address="http://head:8265")
    flow.save()
    monkeypatch.setattr(jobs_commands, "submit", lambda *_, **__: Result({"job": "j-1"}, exit_code=137))
    with pytest.raises(errors.ClusterError, match="j-1: ended with exit code 137"):
        run_commands.do_step("import", tmp_path)
    flow.save_error("import", {"kind": "DataError", "where": "row 3", "cause": "bad", "remedy": "mend it"})
    with pytest.raises(DataError, match="row 3: bad. Mend it"):
        run_commands.do_step("import", tmp_path)


# The whole, through Metaflow


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
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_argo_gets_the_same_graph(tmp_path: Path) -> None:
    """Metaflow writes the template; it needs the Kubernetes package, and a store to put the code in."""
    pytest.importorskip("kubernetes", reason="the export needs `pip install kubernetes`")
    with ThreadingHTTPServer(("127.0.0.1", 0), _ObjectStore) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "METAFLOW_HOME": str(tmp_path / "home"),
            "METAFLOW_DATASTORE_SYSROOT_S3": "s3://bucket/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [sys.executable, "-m", "pipelines.workflow", "--quiet", "--no-pylint", "--datastore", "s3"]
        command += ["argo-workflows", "create", "--only-json"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    _check_template(json.loads(done.stdout))


def _check_template(found: dict[str, Any]) -> None:
    """The parts that Argo requires of a WorkflowTemplate, and our graph in them."""
    assert (found["apiVersion"], found["kind"]) == ("argoproj.io/v1alpha1", "WorkflowTemplate")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", found["metadata"]["name"])
    templates = {template["name"]: template for template in found["spec"]["templates"]}
    tasks = {task["name"]: task for task in templates[found["spec"]["entrypoint"]]["dag"]["tasks"]}
    names = {step: step for step in NEEDS} | {"import": "import-clips"}
    for step, needs in NEEDS.items():
        wanted = {f"{names[need]}.Succeeded" for need in needs} or {"start.Succeeded"}
        assert set(tasks[names[step]]["depends"].split(" && ")) == wanted
        template = templates[tasks[names[step]]["template"]]
        assert template["container"]["image"]
        assert template["retryStrategy"]["limit"] == 2
    told = {parameter["name"] for parameter in found["spec"]["arguments"]["parameters"]}
    assert {"folder", "manifest", "config", "from", "until"} <= told


class _ObjectStore(BaseHTTPRequestHandler):
    """As much of S3 as taking a file and forgetting it."""

    protocol_version = "HTTP/1.1"

    def _answer(self, code: int) -> None:
        self.send_response(code)
        self.send_header("ETag", '"none"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200)

    def do_GET(self) -> None:
        self._answer(404)

    do_HEAD = do_GET

    def log_message(self, *words: Any) -> None:
        """Says nothing."""
