"""What Metaflow exports for Argo Workflows: a template that Argo could run, with our graph and no secret.

No Argo takes part. The rules are those by which Argo's controller refuses a WorkflowTemplate: names that
nothing defines, parameters that nobody gives, tasks that wait for each other.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.secret import secret_in
from pipelines.workflow_folder import NEEDS

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/aqa:0.1.0-cpu"
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret-key",
    "RAY_AUTH_TOKEN": "planted-ray-token-" + "ab" * 23,
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
}
KINDS = ("container", "dag", "steps", "resource", "script", "suspend", "http")
# Metaflow only makes records of the package `kubernetes`; where it is not installed, these are as good.
RECORDS = """
class Record:
    def __init__(self, **fields):
        self.fields = fields

    def to_dict(self):
        return {name: plain(value) for name, value in self.fields.items()}


def plain(value):
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.to_dict() if isinstance(value, Record) else value


def __getattr__(name):
    if name.startswith("V1"):
        return Record
    raise AttributeError(name)
"""


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


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Any]:
    """The template, as the command of docs/workflow.md prints it, with secrets in the environment."""
    folder = tmp_path_factory.mktemp("argo")
    if importlib.util.find_spec("kubernetes") is None:
        (folder / "kubernetes").mkdir()
        for name in ("__init__", "config"):
            (folder / "kubernetes" / f"{name}.py").touch()
        (folder / "kubernetes" / "client.py").write_text(RECORDS)
    with ThreadingHTTPServer(("127.0.0.1", 0), _ObjectStore) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | SECRETS
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")]),
            "METAFLOW_HOME": str(folder / "home"),
            "METAFLOW_DATASTORE_SYSROOT_S3": "s3://bucket/metaflow",
            "METAFLOW_KUBERNETES_CONTAINER_IMAGE": IMAGE,
            "METAFLOW_KUBERNETES_CPU": "3",
            "METAFLOW_KUBERNETES_MEMORY": "6000",
            "METAFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [sys.executable, "-m", "pipelines.workflow", "--quiet", "--no-pylint", "--datastore", "s3"]
        command += ["argo-workflows", "create", "--only-json"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mistakes(found: dict[str, Any]) -> list[str]:
    """Why Argo would refuse the template, or we."""
    wrong = []
    if (found.get("apiVersion"), found.get("kind")) != ("argoproj.io/v1alpha1", "WorkflowTemplate"):
        wrong.append("no WorkflowTemplate")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", found["metadata"]["name"]):
        wrong.append("the name is no DNS name")
    if kind := secret_in(json.dumps(found), SECRETS.values()):
        wrong.append(f"it holds {kind}")
    spec = found["spec"]
    templates = {template["name"]: template for template in spec["templates"]}
    counts = Counter(template["name"] for template in spec["templates"])
    wrong += [f"{name} is there {count} times" for name, count in counts.items() if count > 1]
    wrong += [f"{key} names no template" for key in ("entrypoint", "onExit") if spec[key] not in templates]
    told = {parameter["name"] for parameter in spec["arguments"]["parameters"]}
    for name in re.findall(r"\{\{workflow\.parameters\.([\w-]+)\}\}", json.dumps(found)):
        wrong += [] if name in told else [f"parameter {name} is not declared"]
    for template in templates.values():
        wrong += _mistakes_of(template, templates)
    return wrong


def _mistakes_of(template: dict[str, Any], templates: dict[str, dict]) -> list[str]:
    name = template["name"]
    wrong = [] if sum(kind in template for kind in KINDS) == 1 else [f"{name} does not do one thing"]
    declared = _names(template.get("inputs"))
    for used in re.findall(r"\{\{inputs\.parameters\.([\w-]+)\}\}", json.dumps(template)):
        wrong += [] if used in declared else [f"{name} uses input {used}, which it does not declare"]
    for step in (step for group in template.get("steps", []) for step in group):
        wrong += [] if step["template"] in templates else [f"{name}: no template {step['template']}"]
    if "container" in template:
        wrong += _mistakes_of_container(name, template)
    if "dag" in template:
        wrong += _mistakes_of_dag(template["dag"]["tasks"], templates)
    return wrong


def _mistakes_of_container(name: str, template: dict[str, Any]) -> list[str]:
    container = template["container"]
    wrong = [] if container.get("image") == IMAGE else [f"{name}: image {container.get('image')!r}"]
    command = container.get("command")
    if not command or not all(isinstance(word, str) and word for word in command):
        wrong.append(f"{name} has no command")
    for variable in container["env"]:
        if (variable.get("value") is None) == (variable.get("valueFrom") is None):
            wrong.append(f"{name}: variable {variable.get('name')} has no value, or two")
    volumes = {volume["name"] for volume in template.get("volumes") or []}
    mounts = [mount["name"] for mount in container.get("volumeMounts") or []]
    return wrong + [f"{name}: no volume {mount}" for mount in mounts if mount not in volumes]


def _mistakes_of_dag(tasks: list[dict[str, Any]], templates: dict[str, dict]) -> list[str]:
    named = {task["name"]: task for task in tasks}
    wrong = [] if len(named) == len(tasks) else ["two tasks have one name"]
    needs = {name: re.findall(r"([\w-]+)\.Succeeded", task["depends"]) for name, task in named.items()}
    missing = [(name, need) for name in needs for need in needs[name] if need not in named]
    wrong += [f"{name} waits for {need}, which is no task" for name, need in missing]
    started: set[str] = set()
    while ready := {name for name in needs if name not in started and started.issuperset(needs[name])}:
        started |= ready
    if len(started) < len(named) and not missing:
        wrong.append("tasks wait for each other")
    for name, task in named.items():
        template = templates.get(task["template"])
        if template is None:
            wrong.append(f"{name}: no template {task['template']}")
            continue
        given = {parameter["name"] for parameter in task["arguments"]["parameters"]}
        wrong += [f"{name} is not given {left}" for left in sorted(_names(template["inputs"]) - given)]
        for source, output in re.findall(
            r"\{\{tasks\.([\w-]+)\.outputs\.parameters\.([\w-]+)\}\}", json.dumps(task["arguments"])
        ):
            if source not in needs[name] or output not in _names(templates[source]["outputs"]):
                wrong.append(f"{name} uses {output} of {source}, which it cannot know")
    return wrong


def _names(section: dict[str, Any] | None) -> set[str]:
    return {parameter["name"] for parameter in (section or {}).get("parameters", [])}


def test_argo_could_run_it(exported) -> None:
    assert mistakes(exported) == []


def test_argo_gets_the_same_graph(exported) -> None:
    templates = _templates(exported)
    tasks = {task["name"]: task for task in templates[exported["spec"]["entrypoint"]]["dag"]["tasks"]}
    names = {step: step for step in NEEDS} | {"import": "import-clips"}
    assert set(tasks) == {"start", "end", *names.values()}
    for step, needs in NEEDS.items():
        wanted = {f"{names[need]}.Succeeded" for need in needs} or {"start.Succeeded"}
        assert set(tasks[names[step]]["depends"].split(" && ")) == wanted
        template = templates[tasks[names[step]]["template"]]
        assert template["retryStrategy"]["limit"] == 2
        asked = template["container"]["resources"]["requests"]
        assert (asked["cpu"], asked["memory"]) == ("3", "6000M")
        assert f" step {names[step].replace('-', '_')} " in template["container"]["command"][-1]
    assert {"folder", "manifest", "config", "from", "until"} <= _names(exported["spec"]["arguments"])


def _templates(found: dict[str, Any]) -> dict[str, dict]:
    return {template["name"]: template for template in found["spec"]["templates"]}


def _task(found: dict[str, Any], name: str) -> dict[str, Any]:
    tasks = _templates(found)[found["spec"]["entrypoint"]]["dag"]["tasks"]
    return next(task for task in tasks if task["name"] == name)


def _container(found: dict[str, Any], name: str) -> dict[str, Any]:
    return _templates(found)[name]["container"]


PLANTED: dict[str, Callable[[dict], Any]] = {
    "no WorkflowTemplate": lambda found: found.update(kind="WorkflowTemplates"),
    "the name is no DNS name": lambda found: found["metadata"].update(name="Aqa_Workflow"),
    "entrypoint names no template": lambda found: found["spec"].update(entrypoint="Aqa"),
    "onExit names no template": lambda found: found["spec"].update(onExit="hook"),
    "plan is there 2 times": lambda found: found["spec"]["templates"].append(_templates(found)["plan"]),
    "parameter folders is not declared": lambda found: _container(found, "plan")["command"].append(
        "{{workflow.parameters.folders}}"
    ),
    "plan: no template plans": lambda found: _task(found, "plan").update(template="plans"),
    "plan waits for imports, which is no task": lambda found: _task(found, "plan").update(
        depends="imports.Succeeded && import-clips.Succeeded"
    ),
    "tasks wait for each other": lambda found: _task(found, "plan").update(
        depends="import-clips.Succeeded && report.Succeeded"
    ),
    "plan is not given input-paths": lambda found: _task(found, "plan")["arguments"].update(parameters=[]),
    "report uses task-id of evaluate, which it cannot know": lambda found: _task(found, "report").update(
        depends="expert.Succeeded"
    ),
    "plan uses input input-paths, which it does not declare": lambda found: _templates(found)["plan"][
        "inputs"
    ].update(parameters=[]),
    "plan: image None": lambda found: _container(found, "plan").pop("image"),
    "plan has no command": lambda found: _container(found, "plan").update(command=[]),
    "plan: variable X has no value, or two": lambda found: _container(found, "plan")["env"].append(
        {"name": "X"}
    ),
    "plan: no volume data": lambda found: _container(found, "plan")["volumeMounts"].append({"name": "data"}),
    "plan does not do one thing": lambda found: _templates(found)["plan"].update(suspend={}),
    "it holds the value of a secret environment variable": lambda found: _container(found, "plan")[
        "env"
    ].append({"name": "X", "value": SECRETS["MLFLOW_TRACKING_PASSWORD"]}),
    "it holds an AWS key": lambda found: _container(found, "plan")["env"].append(
        {"name": "X", "value": "AKIA" + "A1" * 8}
    ),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_seen(exported, mistake) -> None:
    found = copy.deepcopy(exported)
    PLANTED[mistake](found)
    assert mistakes(found) == [mistake]
