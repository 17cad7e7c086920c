"""The files that start a cluster: valid for their readers, of the locked Ray, closed to strangers.

KubeRay's own schemas hold those of pods and are too large to keep, so kuberay_1.7.0.json says the same of its
fields; the first lines there tell from what it was written.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path

import kubernetes_validate as kubernetes
import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

ROOT = Path(__file__).parent.parent.parent
CLUSTER = ROOT / "cluster"
LAUNCHER = sorted((CLUSTER / "launcher").glob("*.yaml"))
DOCKERFILES = sorted((CLUSTER / "docker").glob("*.Dockerfile"))
KUBERNETES = sorted((CLUSTER / "k8s").glob("*.yaml"))
SBATCH = CLUSTER / "slurm" / "aqa.sbatch"
RAY = next(
    p["version"] for p in tomllib.loads((ROOT / "uv.lock").read_text())["package"] if p["name"] == "ray"
)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def _name(path: Path) -> str:
    return path.relative_to(CLUSTER).as_posix()


@cache
def _read(path: Path) -> list[dict]:
    return list(yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader))


def _documents(path: Path) -> list[dict]:
    return copy.deepcopy(_read(path))


def test_the_files_are_there():
    assert [path.stem for path in LAUNCHER] == ["aws", "gcp", "on-premise"]
    assert [path.stem for path in DOCKERFILES] == ["cpu", "gpu"]
    assert {"raycluster", "rayjob", "raycronjob", "shared", "podmonitor"} == {p.stem for p in KUBERNETES}


@pytest.mark.parametrize(
    "path", [*LAUNCHER, *KUBERNETES, CLUSTER / "docker" / "compose.yaml", *DOCKERFILES], ids=_name
)
def test_images_name_the_locked_ray(path):
    text = path.read_text(encoding="utf-8")
    images = re.findall(r"registry\.example/aqa:(\S+)", text)
    assert set(images) <= {f"{VERSION}-ray{RAY}-cpu", f"{VERSION}-ray{RAY}-gpu"}
    assert set(re.findall(r'rayVersion: "?([\d.]+)"?', text)) <= {RAY}
    assert images or path.stem in ("shared", "podmonitor")


# The cluster launcher.


def _launcher_errors(config: dict) -> list[str]:
    schema = json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    return [error.message for error in Draft7Validator(schema).iter_errors(config)]


@pytest.mark.parametrize("path", LAUNCHER, ids=_name)
def test_launcher_schema(path):
    (config,) = _documents(path)
    assert _launcher_errors(config) == []
    assert _launcher_errors(config | {"max_worker": 3})  # the schema notices
    kinds = config.get("available_node_types", {})
    if path.stem == "on-premise":
        assert config["max_workers"] == len(config["provider"]["worker_ips"])
    else:
        assert config["head_node_type"] in kinds
        assert config["max_workers"] == sum(kind["max_workers"] for kind in kinds.values())
        assert kinds[config["head_node_type"]]["resources"] == {"CPU": 0}
        assert kinds["gpu"]["resources"]["GPU"] == 1


@pytest.mark.parametrize("path", LAUNCHER, ids=_name)
def test_launched_clusters_ask_for_a_token_and_hide_the_dashboard(path):
    (config,) = _documents(path)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--volume /shared:/shared" in config["docker"]["run_options"]


def test_start_commands_are_options_of_this_ray():
    # Read, not imported: the import takes ten seconds.
    options = set(re.findall(r'"(--[a-z-]+)"', files("ray.scripts").joinpath("scripts.py").read_text()))
    assert "--head" in options
    used = set()
    for path in [*LAUNCHER, CLUSTER / "docker" / "compose.yaml"]:
        for command in re.findall(r"ray start((?:\s+--[^\n]*)+)", path.read_text(encoding="utf-8")):
            used |= set(re.findall(r"--[a-z-]+", command))
    for path in KUBERNETES:
        for document in _documents(path):
            for group in _groups(document):
                used |= {f"--{name}" for name in group["rayStartParams"]}
    assert {"--port", "--dashboard-host", "--num-cpus", "--object-spilling-directory"} <= used
    assert used <= options


def test_aws_instances_are_valid_requests():
    model = pytest.importorskip("botocore.loaders").Loader().load_service_model("ec2", "service-2")
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    shape = ServiceModel(model).operation_model("RunInstances").input_shape
    (config,) = _documents(CLUSTER / "launcher" / "aws.yaml")
    for kind in config["available_node_types"].values():
        request = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, shape).has_errors()
        assert set(request) <= set(shape.members)
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    wrong = {"InstanceType": 3, "MinCount": 1, "MaxCount": 1}
    assert ParamValidator().validate(wrong, shape).has_errors()


# KubeRay.

SCHEMA = Path(__file__).with_name("kuberay_1.7.0.json")
SCHEMA_SHA256 = "338d9541210565b29c6703ffe523acbfbd0628e0dc4ae1bd0e9a9da88a1399d1"
KINDS = ("RayCluster", "RayJob", "RayCronJob")


def _kuberay_errors(document: dict) -> list[str]:
    """Place and keyword of what KubeRay would refuse, e.g. `spec.suspend type`."""
    return [
        f"{'.'.join(map(str, error.absolute_path))} {error.validator}"
        for error in _kuberay().iter_errors(document)
    ]


@cache
def _kuberay() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_bytes()))


def _cluster(document: dict) -> dict:
    spec = document.get("spec", {})
    spec = spec.get("jobTemplate", spec)
    return spec.get("rayClusterSpec", spec)


def _groups(document: dict) -> list[dict]:
    cluster = _cluster(document)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]] if "headGroupSpec" in cluster else []


def test_the_schema_of_kuberay_is_the_one_that_was_compared_with_its_source():
    content = SCHEMA.read_bytes()
    assert hashlib.sha256(content).hexdigest() == SCHEMA_SHA256
    Draft202012Validator.check_schema(json.loads(content))


@pytest.mark.parametrize("kind", KINDS)
def test_kuberay_accepts(kind):
    (document,) = _documents(CLUSTER / "k8s" / f"{kind.lower()}.yaml")
    assert document["kind"] == kind
    assert _kuberay_errors(document) == []
    cluster = _cluster(document)
    assert cluster["authOptions"] == {"mode": "token"}
    assert len(cluster["workerGroupSpecs"]) == 2
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


# (place below spec, value or None to take it away, place and keyword of the error)
MISTAKES = {
    "RayCluster": [
        ("enableInTreeAutoscalin", True, " additionalProperties"),
        ("headGroupSpec.rayStartParam", {}, "headGroupSpec additionalProperties"),
        ("workerGroupSpecs.1.minReplica", 0, "workerGroupSpecs.1 additionalProperties"),
        ("enableInTreeAutoscaling", "true", "enableInTreeAutoscaling type"),
        ("rayVersion", 2.6, "rayVersion type"),
        ("workerGroupSpecs.0.minReplicas", -1, "workerGroupSpecs.0.minReplicas minimum"),
        ("workerGroupSpecs.1.rayStartParams.num-cpus", 8, "workerGroupSpecs.1.rayStartParams.num-cpus type"),
        ("workerGroupSpecs.0.resources", {"CPU": 8}, "workerGroupSpecs.0.resources.CPU type"),
        ("headGroupSpec.resources", {"CPU": "0"}, "headGroupSpec not"),
        ("authOptions.mode", "tokens", "authOptions.mode enum"),
        ("autoscalerOptions.version", "2", "autoscalerOptions.version enum"),
        ("autoscalerOptions.upscalingMode", "Slow", "autoscalerOptions.upscalingMode enum"),
        ("upgradeStrategy", {"type": "Rolling"}, "upgradeStrategy.type enum"),
        ("headGroupSpec", None, " required"),
        ("workerGroupSpecs.0.template", None, "workerGroupSpecs.0 required"),
        ("rayVersion", None, " required"),
    ],
    "RayJob": [
        ("backofLimit", 1, " additionalProperties"),
        ("rayClusterSpec.authOption", {}, "rayClusterSpec additionalProperties"),
        ("ttlSecondsAfterFinished", "600", "ttlSecondsAfterFinished type"),
        ("backoffLimit", 1.5, "backoffLimit type"),
        ("activeDeadlineSeconds", 0, "activeDeadlineSeconds minimum"),
        ("metadata", {"team": 3}, "metadata.team type"),
        ("submissionMode", "Interactive", "submissionMode enum"),
        ("submissionMode", "InteractiveMode", "backoffLimit maximum"),
        ("shutdownAfterJobFinishes", False, "shutdownAfterJobFinishes const"),
        ("rayClusterSpec", None, " anyOf"),
        (
            "rayClusterSpec.authOptions.enableK8sTokenAuth",
            True,
            "rayClusterSpec.authOptions.enableK8sTokenAuth const",
        ),
        ("deletionStrategy", {"onSuccess": {"policy": "DeleteCluster"}}, "deletionStrategy oneOf"),
        (
            "deletionStrategy",
            {"onSuccess": {"policy": "Delete"}, "onFailure": {}},
            "deletionStrategy.onSuccess.policy enum",
        ),
    ],
    "RayCronJob": [
        ("timezone", "Europe/Paris", " additionalProperties"),
        ("timeZone", "", "timeZone minLength"),
        ("schedule", "daily", "schedule pattern"),
        ("jobTemplate.submissionMode", "K8s", "jobTemplate.submissionMode enum"),
        ("jobTemplate.rayClusterSpec.suspended", True, "jobTemplate.rayClusterSpec additionalProperties"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "place", "value", "error"), [(kind, *mistake) for kind in KINDS for mistake in MISTAKES[kind]]
)
def test_kuberay_refuses(kind, place, value, error):
    (document,) = _documents(CLUSTER / "k8s" / f"{kind.lower()}.yaml")
    *parents, last = place.split(".")
    at = document["spec"]
    for name in parents:
        at = at[int(name)] if name.isdigit() else at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    assert _kuberay_errors(document) == [f"spec.{error}" if error[0] != " " else f"spec{error}"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"apiVersion": "ray.io/v1alpha1"}, "apiVersion const"),
        ({"kind": "RayClusters"}, "kind enum"),
        ({"spec": None}, "spec type"),
        ({"status": {}}, " additionalProperties"),
        ({"metadata": {"name": "Aqa_1"}}, "metadata.name pattern"),
    ],
)
def test_kuberay_refuses_outside_of_spec(change, error):
    (document,) = _documents(CLUSTER / "k8s" / "raycluster.yaml")
    assert error in _kuberay_errors(document | change)


def test_all_three_describe_the_same_cluster():
    clusters = [
        _cluster(_documents(CLUSTER / "k8s" / f"{kind}.yaml")[0])
        for kind in ("raycluster", "rayjob", "raycronjob")
    ]
    assert clusters[0] == clusters[1] == clusters[2]


def test_pods_are_closed_and_share_one_storage():
    (document,) = _documents(CLUSTER / "k8s" / "raycluster.yaml")
    claim, policy = _documents(CLUSTER / "k8s" / "shared.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    for group in _groups(document):
        pod = group["template"]["spec"]
        assert labels.items() <= group["template"]["metadata"]["labels"].items()
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shared": "/shared", "spill": "/spill", "memory": "/dev/shm"}
        assert group["rayStartParams"]["object-spilling-directory"] == mounts["spill"]


def test_kubernetes_schemas():
    version = kubernetes.latest_version()
    for path in KUBERNETES:
        for document in _documents(path):
            if not document["apiVersion"].split("/")[0].endswith((".io", ".com")):
                kubernetes.validate(document, version, strict=True)
            for group in _groups(document):
                pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
                kubernetes.validate(pod, version, strict=True)
                pod["spec"]["containers"][0]["imag"] = "planted"
                with pytest.raises(kubernetes.ValidationError, match="imag"):
                    kubernetes.validate(pod, version, strict=True)


# Images.


def _instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def _unclean(instructions: list[tuple[str, str]]) -> list[str]:
    """What hadolint and common sense object to."""
    found, user = [], "root"
    for name, rest in instructions:
        user = rest if name == "USER" else "root" if name == "FROM" else user
        found += [
            message
            for message, wrong in {
                "image without a version": name == "FROM" and not re.search(r":(?!latest)\S|\$", rest),
                "ADD": name == "ADD",
                "sudo": name == "RUN" and "sudo " in rest,
                "lists of apt are left": "apt-get install" in rest
                and "rm -rf /var/lib/apt/lists" not in rest,
                "apt asks": "apt-get install" in rest and "--yes" not in rest,
                "apt recommends": "apt-get install" in rest and "--no-install-recommends" not in rest,
                "pip keeps its cache": re.search(r"(?<!uv )pip install", rest)
                and "--no-cache-dir" not in rest,
                "pip without a version": re.search(r"(?<!uv )pip install(?!.*==)", rest),
                "everything is copied": name == "COPY" and rest.split()[0] in (".", "./"),
                "relative folder": name == "WORKDIR" and not rest.startswith("/"),
                "a secret": name in ("ENV", "ARG") and re.search(r"(TOKEN|PASSWORD|SECRET|KEY)\s*=", rest),
            }.items()
            if wrong
        ]
    return found + ([] if re.fullmatch(r"[1-9]\d*:\d+", user) else [f"runs as {user}"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=_name)
def test_dockerfiles_are_clean_and_locked(path):
    instructions = _instructions(path)
    assert _unclean(instructions) == []
    text = path.read_text(encoding="utf-8")
    assert re.search(r"uv (sync|export) --locked --no-dev", text)
    assert "RAY_AUTH_MODE=token" in text
    ignored = path.with_name(path.name + ".dockerignore").read_text(encoding="utf-8").split("\n", 1)[1]
    allowed = {line[1:].split("/")[0] for line in ignored.split() if line.startswith("!")}
    copied = {
        part
        for name, rest in instructions
        if name == "COPY" and "--from" not in rest
        for part in rest.split()[:-1]
    }
    assert ignored.startswith("*\n")
    assert copied == allowed
    assert all((ROOT / part).exists() for part in copied)
    (python,) = re.findall(r"^ARG PYTHON=(3\.\d+)", text, re.M)
    assert python in ("3.11", "3.12")


def test_the_rules_of_dockerfiles_notice():
    bad = [
        ("FROM", "python"),
        ("ADD", "x y"),
        ("RUN", "apt-get update && apt-get install wget"),
        ("RUN", "pip install ray"),
        ("COPY", ". ."),
        ("WORKDIR", "app"),
        ("ENV", "RAY_AUTH_TOKEN=x"),
    ]
    assert len(_unclean(bad)) == 11


def test_cpu_image_takes_the_locked_torch():
    """The line of sed that makes torch.txt, over a line that uv writes."""
    text = (CLUSTER / "docker" / "cpu.Dockerfile").read_text(encoding="utf-8")
    (script,) = re.findall(r"sed -nE '([^']+)'", text)
    exported = "torch==2.15.0 ; sys_platform == 'linux'\ntorchvision==0.29.2\ntorch-other==1.0\nray==2.60.0\n"
    done = subprocess.run(["sed", "-nE", script], input=exported, capture_output=True, text=True, check=True)
    assert done.stdout == "torch==2.15.0+cpu\ntorchvision==0.29.2+cpu\n"


def test_compose_starts_two_closed_nodes():
    (compose,) = _documents(CLUSTER / "docker" / "compose.yaml")
    head, worker = compose["services"]["head"], compose["services"]["worker"]
    for node in (head, worker):
        assert node["secrets"] == ["ray_token"]
        assert node["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert node["cap_drop"] == ["ALL"]
        assert node["restart"] == "on-failure"
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.endswith(".yaml"):
                assert (CLUSTER / "docker" / source).is_file()
    (scrape,) = _documents(CLUSTER / "docker" / "prometheus.yaml")[0]["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["head:8080", "worker:8080"]}]
    assert all("--metrics-export-port 8080" in node["command"] for node in (head, worker))


# Slurm.


def test_sbatch_is_clean_shell():
    subprocess.run(["bash", "-n", SBATCH], check=True)
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, SBATCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


SRUN = """#!/usr/bin/env bash
# Stands for srun: one node. Checks what Ray would be given, then runs the command as symmetric-run does.
echo "srun $*" >>"$LOG"
[[ $RAY_AUTH_MODE == token && $(stat -c %a "$RAY_AUTH_TOKEN_PATH") == 600 ]] || exit 97
echo "token $(wc -c <"$RAY_AUTH_TOKEN_PATH")" >>"$LOG"
[[ ${BROKEN:-} ]] && exit 0  # symmetric-run returns 0 when Ray does not start
while [[ $1 != -- ]]; do shift; done
shift
"$@"
"""


@pytest.fixture
def slurm(tmp_path):
    """Runs aqa.sbatch beside stand-ins of srun, scontrol and aqa: (exit code, what they saw, stderr)."""
    programs = {
        "srun": SRUN,
        "scontrol": "#!/bin/sh\necho node1\nsleep 0.1\necho node2\n",
        "aqa": '#!/bin/sh\necho "aqa $RAY_ADDRESS $*" >>"$LOG"\nexit ${AQA_CODE:-0}\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
        log = tmp_path / "log"
        done = subprocess.run(
            ["bash", SBATCH, *arguments],
            env={
                "PATH": f"{tmp_path}:/usr/bin:/bin",
                "HOME": str(tmp_path),
                "LOG": str(log),
                "SLURM_JOB_ID": "12345",
                "SLURM_JOB_NODELIST": "node[1-2]",
                "SLURM_JOB_NUM_NODES": "2",
                "SLURM_CPUS_ON_NODE": "16",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert not list(tmp_path.glob(".ray/*-12345"))  # no token stays behind
        return done.returncode, log.read_text() if log.exists() else "", done.stderr

    return run


def test_sbatch_runs_the_command_with_a_token_of_its_own(slurm):
    code, log, stderr = slurm("extract", "my clips.csv", "--store", "s")
    assert code == 0, stderr
    srun, token, aqa = log.splitlines()
    assert "ray symmetric-run --address node1:22345 --min-nodes 2 --num-cpus 16 --num-gpus 0" in srun
    assert token == "token 64"
    assert aqa == "aqa auto extract my clips.csv --store s"


def test_sbatch_keeps_exit_codes(slurm):
    assert slurm("extract", AQA_CODE="3")[0] == 3
    code, _, stderr = slurm("extract", BROKEN="1")
    assert code == 5
    assert "Ray did not start on all nodes" in stderr
    code, _, stderr = slurm()
    assert code == 2
    assert stderr.startswith("usage: sbatch aqa.sbatch")


def test_sbatch_uses_what_symmetric_run_offers():
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    assert {p.name for p in symmetric_run.params} >= {"address", "min_nodes"}
    line = re.search(r"ray symmetric-run (.*?)\n\s+-- ", SBATCH.read_text().replace("\\\n", " \n"), re.S)
    arguments = re.findall(r'--[a-z-]+|"[^"]*"', line.group(1))
    values = [a.replace('"$SLURM_JOB_NUM_NODES"', "2") for a in arguments]
    left = curate_and_validate_ray_start_args(values)
    assert "--num-cpus" in left
    assert "--min-nodes" not in left
