"""The commands of the pages, run one after another as a newcomer would, on drawn athletes, settings tiny.

What a page leaves to the reader (his files, weights, minutes) is filled in by `FILLED`; the rest is typed as
it stands. Commands that need more than this machine run in the tests that `ELSEWHERE` names.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_docs_commands import BLOCK, PAGES, PREFIX, commands

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("AQA_TEST_DATA", ""))

ELSEWHERE = {
    r"jobs ": "tests/cluster/test_jobs_on_ray.py",
    r"pose |extract .*--store store --weights FILE": "tests/pipelines/pose_labels/test_verbs.py",
    r"run |workflow": "tests/pipelines/test_workflow.py",
    r"serve ": "tests/pipelines/test_serve.py",
    r"data import keypoints ": "tests/pipelines/datasets/test_keypoints_npz.py",
    r"score dive.mp4": "tests/pipelines/test_score_dive.py",
    r"score runs/demo": "tests/pipelines/test_score_verb.py",
    r"tune hp-mcore": "tests/pipelines/test_tune.py",
    r"train angles": "tests/pipelines/angles_expert/test_fit.py",
    r"reproduce runs/es5 --out": "tests/pipelines/test_reproduce.py",
}
"""There the same verb runs with other arguments, on small data; the line itself is only parsed."""
NOT_AQA = {
    r"make ": "by hand and by the automation: it makes the environment first",
    r"python -m venv ": "by hand: it downloads an environment",
    r"export |AQA_\w+=": "settings of a shell; `run` below sets the one that the walk needs",
    r"curl .*/score": "here: test_the_curl_of_the_serving_page_gets_a_score",
    r"curl .*/invocations": "the same request without curl: tests/pipelines/test_served_video.py",
    r"python -m pipelines.workflow (show|run|resume|--datastore)": "tests/pipelines/test_workflow.py",
    r"python -m pipelines.workflow card view": "nowhere: it opens a browser",
    r"kubectl ": "nowhere: it needs a cluster of Kubernetes",
}
"""Other programs on the pages, and where such a line is executed."""
FILLED = {
    r"KIMORE_FOLDER --store store": f"{DATA / 'kimore' / 'official_layout_sample'} --store imported",
    r"utkinect FOLDER --store store": f"utkinect {DATA / 'utkinect'} --store imported",
    r"POSES.json --store store": "coco --store imported",
    r"(?<=score )FOLDER": "few",
    r"ANNOTATIONS --videos VIDEOS --store store": f"{DATA / 'finediving'} --videos twin --store imported",
    r"ANNOTATIONS": str(DATA / "finediving"),
    r"extract clips.csv --store store": "extract dives.csv --store dives",
    r"--weights FILE": "--random-weights",
    r"(?<=hp-mcore --store )store|(?<=runs/dives --store )store": "dives",
    r"(?<=--data )DATA": str(DATA),
    r"runs/es5-wide": "runs/winner",
    r"runs/es5-deep": "runs/mine",
    r"runs/es5": "runs/expert",
    r"--n 600": "--n 20",
    r"--trials 20": "--trials 2",
    r"--action-type Es5": "--action-type Es1",
    r"spearman>=0.5": "spearman>=-1",
    r"(?<=table[12] )--data(?!.*--recognition-only)": "--rows floor_median --data",
    r"(?<=table3 )--data": "--rows floor_majority --data",
    r"--recognition-only": "--recognition-only --rows random_encoder --change expert.epochs=1",
}
BEFORE = {
    "data import coco": ["store export store --kind coco --out coco"],
    "data import fine_diving": ["data render-twin ANNOTATIONS twin --n 20"],
    "evaluate runs/expert --compare runs/winner ": ["evaluate runs/winner --store store"],
}
"""What a page says in words, not as a command."""
SMALL = """
[pretrain]
epochs = 1
[pretrain.sequence]
skeleton = "c15"
[pretrain.model]
encoder_units = 8
decoder_units = 8
pace_units = 8
discriminator_units = 4
[expert]
epochs = 60
action_types = ["Es1"]
encoder_units = 16
[expert.optimizer]
learning_rate = 3e-3
[expert.sequence]
skeleton = "c15"
[expert.model]
lstm_units = 16
branch_channels = 4
[hp_mcore]
epochs = 1
[evaluate]
bootstrap = 100
[experiment]
max_splits = 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer has: videos with scores, and settings small enough for a test."""
    from pipelines.rendered.dataset import render_dataset

    folder = tmp_path_factory.mktemp("newcomer")
    clips = render_dataset(folder / "films", exercises=24, subjects=8, dives=12, seed=0)
    rows = list(csv.DictReader(clips.open()))
    for row in rows:
        row["uri"] = str(clips.parent / row["uri"])
    for name, some in (("clips.csv", rows), ("dives.csv", [row for row in rows if row["transitions_s"]])):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(some)
    (folder / "few").mkdir()
    tested = [row for row in rows if row["action_type"] == "Es1" and row["split"] == "test"]
    for name in ("squat.mp4", "new.mp4", "few/one.mp4"):
        shutil.copy(tested[0]["uri"], folder / name)
    (folder / "run.toml").write_text(SMALL)
    (folder / "space.toml").write_text("[expert.optimizer]\nlearning_rate = {log_uniform = [1e-4, 1e-2]}\n")
    return folder


def typed(line: str) -> list[str]:
    """The command with the reader's part filled in, and the small settings where it names none."""
    for pattern, text in FILLED.items():
        line = re.sub(pattern, text, line)
    tokens = shlex.split(line, comments=True)
    return tokens if "--config" in tokens else [*tokens, "--config", "run.toml"]


def run(place: Path, line: str) -> None:
    if line.startswith("data validate"):
        shutil.copy(place / "clips.csv", place / "my-clips" / "clips.csv")
    sampling = {"AQA_EXTRACT__SAMPLING": "uniform:96"} if "--store dives" in " ".join(typed(line)) else {}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *typed(line)],
        cwd=place,
        env=os.environ | sampling | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"aqa {shlex.join(typed(line))}\n{done.stderr[-3000:]}"


def story() -> list[tuple[str, str]]:
    found = [(page.name, line) for page in PAGES for line in commands(page)]
    return [(page, line) for page, line in found if not any(re.match(key, line) for key in ELSEWHERE)]


def other_lines() -> list[str]:
    """Lines of the pages' blocks that call another program than `aqa`."""
    lines = [line.strip() for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))
             for line in block.replace("\\\n", " ").splitlines()]  # fmt: skip
    programs = r"(make|export|python|pip|uv|curl|mlflow|kubectl|ray|docker|sbatch|ssh|helm|pytest|bash)\b"
    return [line for line in lines if re.match(programs, line) and not PREFIX.match(line)]


def test_every_line_of_another_program_is_accounted_for():
    lines = other_lines()
    assert len(lines) > 10
    assert [line for line in lines if not any(re.match(key, line) for key in NOT_AQA)] == []


def test_tests_that_run_commands_elsewhere_are_there():
    assert [name for name in ELSEWHERE.values() if not (ROOT / name).is_file()] == []
    assert len(story()) > 30


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not DATA.name, reason="AQA_TEST_DATA names no folder")
def test_a_newcomer_can_type_every_command(place: Path):
    done: set[str] = set()
    for _, line in story():
        said = line.partition("#")[0].strip()
        before = [one for key, lines in BEFORE.items() if line.startswith(key) for one in lines]
        for command in [*before, said]:
            if command not in done:
                run(place, command)
                done.add(command)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_the_curl_of_the_serving_page_gets_a_score(place: Path):
    """On the model that the walk before it made."""
    if not (place / "runs" / "expert" / "bundle").is_dir():
        pytest.skip("the walk before this test made no model")
    (line,) = [line for line in other_lines() if re.match(r"curl .*/score", line)]
    words = [sys.executable, "-m", "pipelines", "serve", "--model", "runs/expert/bundle", "--port", "0"]
    log = place / "serve.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            words, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=file, stderr=file
        )
    try:
        until = time.monotonic() + 600
        while " on http://" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        address = log.read_text().partition(" on ")[2].split()[0].removesuffix("/")
        typed_line = line.replace("http://127.0.0.1:8000", address).replace("Es5", "Es1")
        done = subprocess.run(
            shlex.split(typed_line), cwd=place, capture_output=True, text=True, timeout=300, check=True
        )
        (told,) = json.loads(done.stdout)["scored"]
        assert told["score"] == pytest.approx(told["base"]["points"] + sum(p["delta"] for p in told["parts"]))
    finally:
        server.terminate()
        server.wait(120)
