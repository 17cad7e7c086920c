"""A head and two workers on networks of their own: nodes vanish, cables break, drivers die, tokens are wrong.

Each node is a network namespace on one bridge, so this needs root. The head works on nothing, each worker has
one processor: two workers of a job are on two nodes. A node that has gone is replaced, as an autoscaler does.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import ray_node


def _namespaces_work() -> bool:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"aqa{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made


pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not _namespaces_work(), reason="network namespaces need root and `ip` (Debian: iproute2)"
    ),
]

CLIPS = 12
PATIENCE_S = 700  # Ray alone may wait 240 s for a lost node to come back, see ray_node.environment
WORKERS = (1, 2)
HEAD = "10.77.0.1"
EPOCHS = 100
SMALL = """
[pretrain]
epochs = 100
batch_size = 8
checkpoint_every = 4
[pretrain.sequence]
skeleton = "c15"
[pretrain.model]
encoder_units = 6
decoder_units = 6
pace_units = 6
discriminator_units = 4
[expert]
epochs = 200
batch_size = 8
checkpoint_every = 10
encoder_units = 6
[expert.sequence]
skeleton = "c15"
[expert.model]
lstm_units = 4
[tune]
scheduler = "none"
searcher = "random"
"""
SPACE = "[expert.optimizer]\nlearning_rate = {log_uniform = [1e-4, 1e-2]}\n"
SETTINGS = {
    "AQA_EXTRACT__DECODE_WORKERS": "1",
    "AQA_EXTRACT__NETWORK_WORKERS": "1",
    "AQA_EXTRACT__CLIPS_PER_CALL": "1",
}

COUNT = """
import json, sys, urllib.request
url, token = sys.argv[1:]
request = urllib.request.Request(url + "/nodes?view=summary", headers={"Authorization": "Bearer " + token})
nodes = json.load(urllib.request.urlopen(request, timeout=20))["data"]["summary"]
print(sum(node["raylet"].get("state") == "ALIVE" for node in nodes))
"""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Nodes:
    """The namespaces and the Ray nodes in them; node 0 is the head."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.wanted: set[int] = set()
        self.keepers: dict[int, threading.Thread] = {}
        self.exits = contextlib.ExitStack()

    def name(self, number: int) -> str:
        return f"aqa{os.getpid()}n{number}"

    def inside(self, number: int) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name(number))

    def add_networks(self) -> None:
        for number in (0, *WORKERS):
            _ip("netns", "add", self.name(number))
            self.exits.callback(_ip, "netns", "del", self.name(number))
            _ip("-n", self.name(number), "link", "set", "lo", "up")
        _ip("-n", self.name(0), "link", "add", "br0", "type", "bridge")
        _ip("-n", self.name(0), "addr", "add", f"{HEAD}/24", "dev", "br0")
        _ip("-n", self.name(0), "link", "set", "br0", "up")
        for number in WORKERS:
            there = ("link", "add", f"v{number}", "netns", self.name(0))
            _ip(*there, "type", "veth", "peer", "name", "eth0", "netns", self.name(number))
            _ip("-n", self.name(0), "link", "set", f"v{number}", "master", "br0", "up")
            _ip("-n", self.name(number), "addr", "add", f"10.77.0.1{number}/24", "dev", "eth0")
            _ip("-n", self.name(number), "link", "set", "eth0", "up")

    def start(self) -> None:
        """The networks, the head, and both workers."""
        self.add_networks()
        self.start_head()
        for number in WORKERS:
            self.start_worker(number)
            self.wait_for(1 + number)

    def start_head(self) -> None:
        """Starts the head, again if it ends itself: on a busy machine one of its processes may be late."""
        options = ["--head", "--port=6379", f"--node-ip-address={HEAD}", "--dashboard-host=0.0.0.0"]
        options += [f"--temp-dir={self.folder}", "--num-cpus=0", "--object-store-memory=100000000"]
        for _ in range(5):
            head = self.exits.enter_context(ray_node.node(*options, prefix=self.inside(0)))
            while head.poll() is None:
                if self.count().stdout.strip() == "1":
                    return
                time.sleep(1)
        raise AssertionError("the head ended itself five times")

    def start_worker(self, number: int) -> None:
        """Starts a node, again and again if it must be: on a busy machine some of its processes are late."""
        options = [f"--address={HEAD}:6379", f"--node-ip-address=10.77.0.1{number}", "--num-cpus=1"]
        options.append("--object-store-memory=100000000")
        self.wanted.add(number)
        self.keepers[number] = threading.Thread(target=self._keep, args=(number, options), daemon=True)
        self.keepers[number].start()
        self.exits.callback(self.keepers[number].join)
        self.exits.callback(self.wanted.discard, number)

    def _keep(self, number: int, options: list[str]) -> None:
        while number in self.wanted:
            with ray_node.node(*options, prefix=self.inside(number)) as started:
                while started.poll() is None and number in self.wanted:
                    time.sleep(0.2)

    def pids(self, number: int, word: str = "") -> list[int]:
        """Processes of a node whose command line holds `word`."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name(number)], capture_output=True, text=True, check=True
        )
        found = []
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found += [pid] if word in line else []
        return found

    def working(self, word: str) -> int:
        """A worker node that runs a process with `word` in its title."""
        return next(number for number in WORKERS if self.pids(number, word))

    def power_off(self, number: int) -> None:
        """All processes of the node die at the same moment, and it stays away."""
        self.wanted.discard(number)
        for pid in self.pids(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.keepers[number].join()

    def cut(self, number: int, seconds: float) -> None:
        _ip("-n", self.name(0), "link", "set", f"v{number}", "down")
        time.sleep(seconds)
        _ip("-n", self.name(0), "link", "set", f"v{number}", "up")

    def aqa(self, *arguments: str, **changes: str) -> tuple[int, dict, str]:
        done = subprocess.run(
            [*self.inside(0), sys.executable, "-m", "pipelines", "--json", "jobs", *arguments],
            env=ray_node.environment(RAY_API_SERVER_ADDRESS=f"http://{HEAD}:8265", **(SETTINGS | changes)),
            cwd=self.folder / "work",
            capture_output=True,
            text=True,
            timeout=900,
        )
        return done.returncode, json.loads(done.stdout or "null"), done.stderr

    def wait_for(self, alive: int) -> None:
        """Until the head knows that many living nodes; one after the other, or two would take one name."""
        deadline = time.monotonic() + PATIENCE_S
        while (done := self.count()).stdout.strip() != str(alive):
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(1)

    def count(self) -> subprocess.CompletedProcess[str]:
        """Asks the head how many nodes live."""
        return subprocess.run(
            [*self.inside(0), sys.executable, "-c", COUNT, f"http://{HEAD}:8265", ray_node.TOKEN],
            capture_output=True,
            text=True,
            check=False,
        )

    def submitted(self, *command: str) -> str:
        """Submit a job and return its name."""
        code, job, stderr = self.aqa("submit", "--no-wait", "--", *command)
        assert code == 0, stderr
        return job["job"]

    def started(self, *command: str, sign: str) -> str:
        """Submit a job, wait until its log shows `sign`, return its name."""
        job = self.submitted(*command)
        self.wait_until(job, lambda: re.search(sign, self.log(job)))
        return job

    def log(self, job: str) -> str:
        (file,) = (self.folder / "session_latest" / "logs").glob(f"job-driver-{job}.log")
        return file.read_text()

    def wait_until(self, job: str, sign: Callable[[], object]) -> None:
        """Until the job shows something; it must not end before."""
        deadline = time.monotonic() + PATIENCE_S
        while not sign():
            assert time.monotonic() < deadline, self.log(job)
            assert "\nerror: " not in self.log(job), self.log(job)
            time.sleep(0.2)

    def kill_driver(self, job: str, command: str) -> None:
        """SIGKILL to the process of a job, which then has failed with 137."""
        (driver,) = self.pids(0, f"python -P -m pipelines {command}")
        os.kill(driver, signal.SIGKILL)
        code, ended, _ = self.aqa("logs", "--follow", job)
        assert (code, ended["status"]) == (137, "FAILED")

    def succeeded(self, job: str) -> None:
        """Wait for the end of a job."""
        code, ended, stderr = self.aqa("logs", "--follow", job)
        assert (code, ended["status"]) == (0, "SUCCEEDED"), stderr


@pytest.fixture(scope="module")
def nodes(waving) -> Iterator[Nodes]:
    from pipelines.rendered.dataset import render_dataset
    from pipelines.store import open_store

    folder = Path(tempfile.mkdtemp(prefix="aqa-", dir="/tmp"))  # Ray's sockets need a short path
    (folder / "work").mkdir()
    render_dataset(folder / "work" / "videos", exercises=CLIPS, subjects=4, dives=0, seed=5)
    (folder / "work" / "small.toml").write_text(SMALL)
    (folder / "work" / "space.toml").write_text(SPACE)
    clips, poses = waving
    store = open_store(folder / "work" / "waves", create=True)
    store.put_clips(clips)
    table = store.create_poses({"made by": "test"})
    with table.writer() as writer:
        writer.commit([table.write_file(poses)])
    nodes = Nodes(folder)
    with nodes.exits:
        nodes.start()
        yield nodes
    shutil.rmtree(folder, ignore_errors=True)


def assert_each_clip_once(store: Path) -> None:
    from pipelines.store import open_store

    opened = open_store(store)
    (key,) = opened.pose_keys()
    rows = opened.poses(key).read().to_pylist()
    assert Counter(row["status"] for row in rows) == {"ok": CLIPS}
    assert len({row["clip_id"] for row in rows}) == CLIPS


def test_every_node_is_looked_at(nodes):
    code, found, stderr = nodes.aqa("submit", "--dry-run", "--", "data", "init", "x")
    assert code == 0, stderr
    assert (found["cluster"]["nodes"], found["cluster"]["CPU"]) == (3, 2)
    code, told, _ = nodes.aqa("submit", "--dry-run", "--", "data", "init", "x", RAY_AUTH_TOKEN="ef" * 32)
    assert (code, told["error"]["cause"]) == (5, "the cluster refused the token")
    code, told, _ = nodes.aqa("list", RAY_AUTH_TOKEN="", HOME="/nowhere")
    assert code == 8  # from outside, without a token


def test_a_node_with_a_wrong_token_is_refused(nodes):
    started = subprocess.run(
        [*nodes.inside(1), str(ray_node.BIN / "ray"), "start", f"--address={HEAD}:6379"],
        env=ray_node.environment(RAY_AUTH_TOKEN="ef" * 32),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert started.returncode != 0
    assert re.search(r"(?i)unauthenticated|authentication|token", started.stdout + started.stderr)


def test_extraction_goes_on_without_a_lost_node(nodes):
    job = nodes.started("extract", "videos/clips.csv", "--store", "lost", sign=r"[1-9]\d*/12 clips")
    victim = nodes.working("ray::MapWorker")
    nodes.power_off(victim)
    nodes.start_worker(victim)
    nodes.succeeded(job)
    assert_each_clip_once(nodes.folder / "work" / "lost")


def test_extraction_after_its_driver_was_killed(nodes):
    command = ("extract", "videos/clips.csv", "--store", "killed")
    job = nodes.started(*command, sign=r"[1-9]\d*/12 clips")
    nodes.kill_driver(job, "extract")
    code, again, stderr = nodes.aqa("submit", "--", *command)
    assert (code, again["job"]) == (0, job[:-1] + "2"), stderr
    assert_each_clip_once(nodes.folder / "work" / "killed")


def test_extraction_with_the_network_gone_for_ten_seconds(nodes):
    job = nodes.started("extract", "videos/clips.csv", "--store", "cut", sign=r"[1-9]\d*/12 clips")
    nodes.cut(nodes.working("ray::MapWorker"), 10)
    nodes.succeeded(job)
    assert_each_clip_once(nodes.folder / "work" / "cut")


def rows_of(run: Path) -> list[dict]:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def tracked(runs: Path) -> list[tuple[str, str]]:
    """Names and states of the runs in MLflow."""
    with contextlib.closing(sqlite3.connect(runs / "mlflow.db")) as database:
        return database.execute("select name, status from runs order by name").fetchall()


class Training:
    """`aqa train pretrain` with two workers on two nodes; its runs lie in a folder of their own."""

    def __init__(self, nodes: Nodes, name: str, *options: str):
        self.nodes, self.runs = nodes, nodes.folder / "work" / f"runs-{name}"
        given = ("--store", "waves", "--config", "small.toml", "--runs", f"runs-{name}", "--name", "base")
        self.command = ("train", "pretrain", *given, "--num-workers", "2", *options)

    def submit(self, epochs: int = EPOCHS // 4) -> str:
        """Start it, and wait until it has trained some epochs on both nodes."""
        job = self.nodes.submitted(*self.command)
        self.nodes.wait_until(job, lambda: len(rows_of(self.runs / "base")) >= epochs)
        assert self.places() == list(WORKERS)
        return job

    def places(self) -> list[int]:
        """Nodes that train."""
        return [number for number in WORKERS if self.nodes.pids(number, "RayTrainWorker")]

    def assert_undisturbed(self, undisturbed: list[dict]) -> None:
        assert rows_of(self.runs / "base") == undisturbed
        assert tracked(self.runs) == [("base", "FINISHED")]


@pytest.fixture(scope="module")
def undisturbed(nodes) -> list[dict]:
    """Metrics of a training that nothing happens to."""
    training = Training(nodes, "undisturbed")
    nodes.succeeded(nodes.submitted(*training.command))
    rows = rows_of(training.runs / "base")
    assert [row["epoch"] for row in rows] == list(range(EPOCHS))
    return rows


def test_training_goes_on_without_a_lost_node(nodes, undisturbed):
    training = Training(nodes, "lost")
    job = training.submit()
    nodes.power_off(WORKERS[0])
    nodes.start_worker(WORKERS[0])
    nodes.succeeded(job)
    training.assert_undisturbed(undisturbed)


def test_training_with_the_network_gone_for_ten_seconds(nodes, undisturbed):
    training = Training(nodes, "cut")
    job = training.submit()
    nodes.cut(WORKERS[0], 10)
    nodes.succeeded(job)
    training.assert_undisturbed(undisturbed)


def test_training_after_its_driver_was_killed(nodes, undisturbed):
    training = Training(nodes, "killed")
    nodes.kill_driver(training.submit(), "train")
    code, _, stderr = nodes.aqa("submit", "--", *training.command)
    assert code == 0, stderr
    assert "going on after epoch" in stderr
    training.assert_undisturbed(undisturbed)


def test_training_on_one_node_while_the_other_is_gone(nodes):
    training = Training(nodes, "elastic", "--min-workers", "1", "--epochs", "100000")
    job = training.submit()
    nodes.power_off(WORKERS[1])
    before = len(rows_of(training.runs / "base"))
    nodes.wait_until(job, lambda: training.places() == [WORKERS[0]])
    nodes.wait_until(job, lambda: len(rows_of(training.runs / "base")) > before + 20)
    assert nodes.aqa("stop", job)[1]["status"] == "STOPPED"
    epochs = [row["epoch"] for row in rows_of(training.runs / "base")]
    assert epochs == list(range(len(epochs)))
    nodes.start_worker(WORKERS[1])
    nodes.wait_for(3)


def test_a_sweep_loses_a_node_and_another_its_driver(nodes):
    """Both end with the same trials, each once."""
    found = []
    for name in ("lost", "killed"):
        runs = nodes.folder / "work" / f"runs-sweep-{name}"
        command = ("tune", "two-stage", "--store", "waves", "--config", "small.toml")
        command += ("--runs", runs.name, "--name", "s", "--space", "space.toml", "--trials", "4")
        job = nodes.submitted(*command)
        nodes.wait_until(job, lambda runs=runs: len(rows_of(runs / "s" / "trials" / "trial-001")) >= 5)
        if name == "lost":
            nodes.power_off(WORKERS[0])
            nodes.start_worker(WORKERS[0])
            nodes.succeeded(job)
        else:
            nodes.kill_driver(job, "tune")
            code, _, stderr = nodes.aqa("submit", "--", *command)
            assert code == 0, stderr
        with (runs / "s" / "trials.csv").open() as file:
            trials = list(csv.DictReader(file))
        assert len(trials) == 4
        found.append([{key: row[key] for key in row if key != "seconds"} for row in trials])
        names = ["s", *(f"trial-{number:03d}" for number in range(4))]
        assert tracked(runs) == [(name, "FINISHED") for name in names]
    assert found[0] == found[1]
