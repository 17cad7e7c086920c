"""A head and two workers on networks of their own: nodes vanish, cables break, drivers die, tokens are wrong.

Each node is a network namespace on one bridge, so this needs root. The head works on nothing, each worker has
one processor: two workers of a job are on two nodes. A node that has gone is replaced, as an autoscaler does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
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
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not _namespaces_work(), reason="network namespaces need root"),
]

CLIPS = 12
WORKERS = (1, 2)
HEAD = "10.77.0.1"
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
        self.folder, self.running = folder, {}
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

    def start_head(self) -> None:
        options = ["--head", "--port=6379", f"--node-ip-address={HEAD}", "--dashboard-host=0.0.0.0"]
        options += [f"--temp-dir={self.folder}", "--num-cpus=0", "--object-store-memory=100000000"]
        self._start(0, *options)

    def start_worker(self, number: int) -> None:
        options = [f"--address={HEAD}:6379", f"--node-ip-address=10.77.0.1{number}", "--num-cpus=1"]
        self._start(number, *options, "--object-store-memory=100000000")

    def _start(self, number: int, *options: str) -> None:
        self.running[number] = self.exits.enter_context(ray_node.node(*options, prefix=self.inside(number)))

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
        """All processes of the node die at the same moment."""
        for pid in self.pids(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

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
        deadline = time.monotonic() + 300
        while True:
            done = subprocess.run(
                [*self.inside(0), sys.executable, "-c", COUNT, f"http://{HEAD}:8265", ray_node.TOKEN],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.stdout.strip() == str(alive):
                return
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(1)

    def started(self, *command: str, sign: str) -> str:
        """Submit a job, wait until its log shows `sign`, return the name of the job."""
        code, job, stderr = self.aqa("submit", "--no-wait", "--", *command)
        assert code == 0, stderr
        deadline = time.monotonic() + 300
        while not re.search(sign, log := self.aqa("logs", job["job"])[1]["log"]):
            status = self.aqa("status", job["job"])[1]["status"]
            assert status in ("PENDING", "RUNNING"), log
            assert time.monotonic() < deadline, log
            time.sleep(0.5)
        return job["job"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    from pipelines.rendered.dataset import render_dataset

    folder = Path(tempfile.mkdtemp(prefix="aqa-", dir="/tmp"))  # Ray's sockets need a short path
    (folder / "work").mkdir()
    render_dataset(folder / "work" / "videos", exercises=CLIPS, subjects=4, dives=0, seed=5)
    nodes = Nodes(folder)
    with nodes.exits:
        nodes.add_networks()
        nodes.start_head()
        nodes.wait_for(1)
        for number in WORKERS:
            nodes.start_worker(number)
            nodes.wait_for(1 + number)
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
    code, ended, stderr = nodes.aqa("logs", "--follow", job)
    assert (code, ended["status"]) == (0, "SUCCEEDED"), stderr
    assert_each_clip_once(nodes.folder / "work" / "lost")


def test_extraction_after_its_driver_was_killed(nodes):
    command = ("extract", "videos/clips.csv", "--store", "killed")
    job = nodes.started(*command, sign=r"[1-9]\d*/12 clips")
    (driver,) = nodes.pids(0, "python -P -m pipelines extract")
    os.kill(driver, signal.SIGKILL)
    code, ended, _ = nodes.aqa("logs", "--follow", job)
    assert (code, ended["status"]) == (137, "FAILED")
    code, again, stderr = nodes.aqa("submit", "--", *command)
    assert (code, again["job"]) == (0, job[:-1] + "2"), stderr
    assert int(re.search(r"already_done\s+(\d+)", stderr).group(1)) >= 1
    assert_each_clip_once(nodes.folder / "work" / "killed")


def test_extraction_with_the_network_gone_for_ten_seconds(nodes):
    command = ("extract", "videos/clips.csv", "--store", "cut")
    job = nodes.started(*command, sign=r"[1-9]\d*/12 clips")
    nodes.cut(nodes.working("ray::MapWorker"), 10)
    code, _, stderr = nodes.aqa("logs", "--follow", job)
    if code != 0:  # allowed to fail, not to lose or to double
        code, _, stderr = nodes.aqa("submit", "--", *command)
    assert code == 0, stderr
    assert_each_clip_once(nodes.folder / "work" / "cut")


def test_training_on_two_nodes_goes_on_without_one(nodes):
    train = ("train", "pretrain", "--store", "lost", "--name", "base", "--num-workers", "2")
    train += ("--epochs", "40", "--model.encoder-units", "16")
    code, job, stderr = nodes.aqa("submit", "--no-wait", "--", *train)
    assert code == 0, stderr
    metrics = nodes.folder / "work" / "runs" / "base" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert time.monotonic() < deadline, nodes.aqa("logs", job["job"])[1]["log"]
        time.sleep(0.2)
    trainers = [number for number in WORKERS if nodes.pids(number, "RayTrainWorker")]
    assert len(trainers) == 2
    nodes.power_off(trainers[0])
    nodes.start_worker(trainers[0])
    code, ended, stderr = nodes.aqa("logs", "--follow", job["job"])
    assert (code, ended["status"]) == (0, "SUCCEEDED"), stderr
    epochs = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert epochs == list(range(epochs[0], epochs[0] + 40))
