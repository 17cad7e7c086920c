"""Jobs on a real Ray head with a dashboard and a token, through the command line."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.cluster import ray_node

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

# Values that no scanner knows by their looks; only the names of their variables tell.
PLANTED = {
    name: f"planted {i} for {name.lower()}/+"
    for i, name in enumerate(
        [
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
            "WANDB_API_KEY",
            "HF_TOKEN",
            "GITHUB_TOKEN",
            "DATABASE_PASSWORD",
            "AZURE_CLIENT_SECRET",
            "GOOGLE_CREDENTIALS",
            "SSH_PRIVATE_KEY",
            "SLACK_API_TOKEN",
        ]
    )
}


@pytest.fixture(scope="module")
def head():
    """(address of the dashboard, folder of Ray's session)."""
    folder = Path(tempfile.mkdtemp(prefix="aqa-", dir="/tmp"))  # Ray's sockets need a short path
    dashboard, agent, client = ray_node.free_ports(3)
    options = ["--head", "--port=0", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    options += [f"--dashboard-agent-listen-port={agent}", "--num-cpus=2", f"--temp-dir={folder}"]
    with ray_node.node(*options, "--object-store-memory=100000000"):
        address = f"http://127.0.0.1:{dashboard}"
        ray_node.wait_for_dashboard(address)
        yield address, folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def aqa(head, tmp_path):
    """Runs `aqa jobs ...`: (exit code, document, stderr)."""

    def run(*arguments: str, **changes: str) -> tuple[int, object, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "--json", "jobs", *arguments],
            env=ray_node.environment(
                RAY_API_SERVER_ADDRESS=head[0], HOME=str(tmp_path), **(PLANTED | changes)
            ),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        return done.returncode, json.loads(done.stdout or "null"), done.stderr

    return run


def test_a_job_runs_once_with_its_real_exit_code(aqa, tmp_path):
    started = time.monotonic()
    code, found, stderr = aqa("submit", "--dry-run", "--", "data", "init", "clips")
    assert code == 0, stderr
    assert time.monotonic() - started < 60
    assert found["cluster"]["seconds"] < 30  # a look takes under 15 s on a machine without other work
    assert (found["cluster"]["nodes"], found["cluster"]["CPU"]) == (1, 2)
    assert not (tmp_path / "clips").exists()

    code, first, stderr = aqa("submit", "--", "data", "init", "clips")
    assert (code, first["status"], first["exit_code"]) == (0, "SUCCEEDED", 0)
    assert "written  clips/clips.csv" in stderr
    assert (tmp_path / "clips" / "clips.csv").exists()  # relative paths begin in the folder of the call
    (tmp_path / "clips" / "clips.csv").unlink()
    code, again, stderr = aqa("submit", "--", "data", "init", "clips")
    assert (code, again["job"]) == (0, first["job"])
    assert "sent before; not run twice" in stderr
    assert not (tmp_path / "clips" / "clips.csv").exists()

    code, failed, stderr = aqa("submit", "--", "train", "expert", "--store", "none", "--name", "x")
    assert (code, failed["status"], failed["exit_code"]) == (4, "FAILED", 4)
    assert "error: none: there is no store here." in stderr
    code, resumed, _ = aqa("submit", "--", "train", "expert", "--store", "none", "--name", "x")
    assert (code, resumed["job"]) == (4, failed["job"][:-1] + "2")
    code, rows, _ = aqa("list")
    assert [row["job"] for row in rows] == [resumed["job"], failed["job"], first["job"]]
    code, log, _ = aqa("logs", failed["job"])
    assert (code, "there is no store here" in log["log"]) == (0, True)


def test_stop_and_start_again(aqa):
    demo = ("submit", "--no-wait", "--", "demo", "--folder", "demo")
    code, first, stderr = aqa(*demo)
    assert (code, first["new"]) == (0, True), stderr
    assert aqa(*demo)[1]["job"] == first["job"]  # it runs: not twice
    code, stopped, _ = aqa("stop", first["job"])
    assert (code, stopped["status"], stopped["exit_code"]) == (0, "STOPPED", 130)
    assert aqa("logs", "--follow", first["job"])[0] == 130
    second = aqa(*demo)[1]
    assert (second["new"], second["job"]) == (True, first["job"][:-1] + "2")
    assert aqa("stop", second["job"])[0] == 0


def test_what_the_cluster_lacks_is_said_before_anything_runs(aqa, tmp_path):
    before = len(aqa("list")[1])
    train = ("train", "expert", "--store", "s", "--name", "x", "--num-workers", "3")
    code, told, _ = aqa("submit", "--", *train)
    assert (code, told["error"]["cause"]) == (5, "the job asks for 3 CPU, the cluster has 2 at most")
    code, told, _ = aqa("submit", "--folder", str(tmp_path / "nowhere"), "--", "data", "init", "x")
    assert code == 5
    assert "nowhere cannot be written (no such file or directory)" in told["error"]["cause"]
    assert len(aqa("list")[1]) == before
    assert not list(tmp_path.glob(".aqa-*"))  # the probe cleans up


def test_tokens(aqa):
    code, told, _ = aqa("list", RAY_AUTH_TOKEN="ef" * 32)
    assert (code, told["error"]["cause"]) == (5, "the cluster refused the token")
    code, told, _ = aqa("list", RAY_AUTH_TOKEN="")
    assert (code, told["error"]["cause"]) == (5, "the cluster asks for a token and there is none here")


def test_no_planted_secret_reaches_the_cluster(aqa, head):
    code, _, stderr = aqa("submit", "--", "data", "init", "quiet")
    assert code == 0, stderr
    code, told, _ = aqa("submit", "--", "data", "init", PLANTED["HF_TOKEN"])
    assert (code, told["error"]["type"]) == (8, "SecurityError")
    uri = "https://anna:" + "planted-password@mlflow.example"
    code, told, _ = aqa("submit", "--", "data", "init", "x", MLFLOW_TRACKING_URI=uri)
    assert (code, told["error"]["where"]) == (8, "environment variable MLFLOW_TRACKING_URI")

    forbidden = [value.encode() for value in [*PLANTED.values(), "planted-password", ray_node.TOKEN]]
    forbidden += [quote(value, safe="").encode() for value in PLANTED.values()]
    forbidden += [base64.b64encode(value.encode()) for value in PLANTED.values()]
    texts = [json.dumps(aqa("list")).encode(), stderr.encode(), json.dumps(told).encode()]
    files = [path for path in head[1].rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name == "jobs_commands.py" for path in files)  # the package is unpacked there
    assert any(path.name.startswith("job-driver-aqa-data-init") for path in files)
    texts += [path.read_bytes() for path in files]
    assert not [secret for secret in forbidden if any(secret in text for text in texts)]


def test_extraction_as_a_job(aqa, tmp_path):
    from pipelines.rendered.dataset import render_dataset

    render_dataset(tmp_path / "videos", exercises=4, subjects=4, dives=0, seed=5)
    code, job, stderr = aqa("submit", "--", "extract", "videos/clips.csv", "--store", "store")
    assert (code, job["status"]) == (0, "SUCCEEDED"), stderr
    assert "4/4 clips" in stderr
    from pipelines import store

    opened = store.open_store(tmp_path / "store")
    (key,) = opened.pose_keys()
    assert opened.poses(key).read().column("status").to_pylist() == ["ok"] * 4
