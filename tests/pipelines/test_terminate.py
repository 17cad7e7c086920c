"""SIGTERM ends a command within two seconds, whatever it is doing, and the same command goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.store import open_store
from pipelines.terminate import GRACE_S
from tests.pipelines.test_tune import SPACE, fill

SMALL = """
[pretrain]
epochs = 60
batch_size = 8
[pretrain.sequence]
skeleton = "c15"
[pretrain.model]
encoder_units = 6
decoder_units = 6
pace_units = 6
discriminator_units = 4
[expert]
epochs = 30
batch_size = 8
encoder_units = 6
[expert.sequence]
skeleton = "c15"
[expert.model]
lstm_units = 4
[tune]
trials = 3
searcher = "random"
scheduler = "none"
[extract]
clips_per_call = 1
"""
PLAY = """
import sys, time
import pipelines.settings as settings
from pipelines.cli import main
def wait():
    try:
        print("ready", file=sys.stderr, flush=True)
        time.sleep(30)
    finally:
        time.sleep(float(sys.argv[1]))
settings.write_template = wait
sys.exit(main(["config", "template"]))
"""


@pytest.mark.parametrize("cleaning_s", [0, 30])
def test_a_command_is_interrupted_and_a_long_farewell_cut(cleaning_s):
    command = [sys.executable, "-c", PLAY, str(cleaning_s)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == "aqa: terminated; the same command resumes where it stopped\n"
        process.wait()
        seconds = time.monotonic() - started
    assert process.returncode == 143
    assert seconds < 5 if cleaning_s == 0 else GRACE_S - 0.1 < seconds < 10


class Command:
    """A command in a session of its own, so that what it leaves behind can be found."""

    def __init__(self, folder: Path, *arguments: str):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "--config", "small.toml", *arguments],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end_when(self, sign: Callable[[], object], by: signal.Signals = signal.SIGTERM) -> float:
        """A signal as soon as there is a sign; seconds until the process had ended."""
        deadline = time.monotonic() + 240
        while not sign():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = time.monotonic()
        self.process.send_signal(by)
        code = self.process.wait(60)
        seconds = time.monotonic() - started
        assert code == {signal.SIGTERM: 143, signal.SIGINT: 130}[by], self.process.communicate()[0]
        return seconds

    def left(self) -> list[str]:
        """Command lines of processes of the session that still live."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.getsid(int(entry.name)) == self.process.pid:
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found += [title] if state != "Z" else []
            except OSError:
                continue
        return found


def trained(folder: Path, run: str) -> int:
    path = folder / "runs" / run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", ["train", "train in Ray", "tune", "extract"])
def test_each_long_command_ends_soon_and_goes_on(verb, tmp_path, waving_tables, record_property):
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "space.toml").write_text(SPACE)
    fill(tmp_path / "waves", *waving_tables)
    base = ("train", "pretrain", "--store", "waves", "--name", "base")
    if verb == "extract":
        from pipelines.rendered.dataset import render_dataset

        render_dataset(tmp_path / "videos", exercises=8, subjects=4, dives=0, seed=5)
        arguments = ("extract", "videos/clips.csv", "--store", "store")
        sign = lambda: rows_of(tmp_path / "store")  # noqa: E731
    elif verb == "tune":
        arguments = ("tune", "two-stage", "--store", "waves", "--name", "s", "--space", "space.toml")
        sign = lambda: trained(tmp_path, "s/trials/trial-000") >= 3  # noqa: E731
    else:
        arguments = base if verb == "train" else (*base, "--num-workers", "2")
        sign = lambda: trained(tmp_path, "base") >= 12  # noqa: E731
    first = Command(tmp_path, *arguments)
    seconds = first.end_when(sign)
    record_property("seconds_to_exit", seconds)
    print(f"{verb}: {seconds:.2f} s from SIGTERM to exit")
    assert seconds < 2.0
    deadline = time.monotonic() + 20
    while first.left():
        assert time.monotonic() < deadline, first.left()
        time.sleep(0.2)

    again = Command(tmp_path, *arguments)
    output = again.process.communicate(timeout=400)[0]
    assert again.process.returncode == 0, output
    if verb == "extract":
        assert rows_of(tmp_path / "store") == 8
        return
    with closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        runs = database.execute("select name, status from runs order by name").fetchall()
    if verb == "tune":
        with (tmp_path / "runs" / "s" / "trials.csv").open() as file:
            assert [row["status"] for row in csv.DictReader(file)] == ["finished"] * 3
        assert runs == [(name, "FINISHED") for name in ("s", "trial-000", "trial-001", "trial-002")]
    else:
        assert "going on after epoch" in output
        rows = (tmp_path / "runs" / "base" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["epoch"] for row in rows] == list(range(60))
        assert runs == [("base", "FINISHED")]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_an_interrupted_training_in_ray_has_not_succeeded(tmp_path, waving_tables):
    """Ray's own handler of Ctrl-C would end the process with 0."""
    (tmp_path / "small.toml").write_text(SMALL)
    fill(tmp_path / "waves", *waving_tables)
    train = ("train", "pretrain", "--store", "waves", "--name", "base", "--num-workers", "2")
    # A shell starts what it puts in the background with Ctrl-C ignored, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Command(tmp_path, *train).end_when(lambda: trained(tmp_path, "base") >= 3, signal.SIGINT)
    assert not (tmp_path / "runs" / "base" / "summary.json").exists()


def rows_of(store: Path) -> int:
    if not (store / "store.json").exists():
        return 0
    opened = open_store(store)
    return sum(opened.poses(key).read(columns=["clip_id"]).num_rows for key in opened.pose_keys())
