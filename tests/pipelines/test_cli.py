from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.errors import AqaError, ClipError, DataError
from pipelines.exits import as_aqa_error
from pipelines.flags import dotted
from pipelines.result import Result, to_json, to_text
from pipelines.settings import describe, flag_of, load_config

HEAVY = (
    "torch",
    "ray",
    "mlflow",
    "cv2",
    "pyarrow",
    "pandas",
    "av",
    "mmengine",
    "decord",
    "deltalake",
    "scipy",
)
HELP = [
    ["--help"],
    ["--version"],
    [],
    ["train", "--help"],
    ["train", "pretrain", "--help"],
    ["train", "hp-mcore", "--help"],
    ["extract", "--help"],
]
WRONG = [["trian"], ["train", "pretrian"], ["extract", "--stor", "x"], ["train", "pretrain", "--epoch", "3"]]


@pytest.fixture
def aqa(capsys):
    """Runs one command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize("arguments", HELP + WRONG, ids=" ".join)
def test_help_and_wrong_usage_load_nothing_heavy(arguments):
    code = (
        "import sys; from pipelines.cli import main; rc = main(sys.argv[1:]);"
        f"print([n for n in {HEAVY} if n in sys.modules], rc, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    expected = 2 if arguments in WRONG else 0
    assert done.stderr.splitlines()[-1] == f"[] {expected}"


def test_help_answers_quickly():
    """0.7 s of processor time at most, median of three; wall time on a busy machine says nothing."""
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "pipelines", "--help"], capture_output=True, check=True)
        after = os.times()
        seconds.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert sorted(seconds)[1] <= 0.7


USAGE = [
    (
        ["trian"],
        r'^error: command line: Unknown command "trian"\. Did you mean "train"\? See `aqa --help`\.$',
    ),
    (["train", "pretrian"], r'Did you mean "pretrain"\?'),
    (
        ["train", "pretrain", "--store", "s", "--name", "n", "--epoch", "3"],
        r"--epoch\. Did you mean --epochs\?",
    ),
    (["train", "pretrain", "--name", "n"], r"requires an argument.*See `aqa train pretrain --help`"),
    (
        ["train", "pretrain", "--store", "s", "--name", "n", "--epochs", "x", "--batch-size", "1"],
        r'2 problems\n  pretrain\.epochs \(flag --epochs\): "x" should(.|\n)*--batch-size\): 1 should',
    ),
    (["config", "show", "--config", "none.toml"], r"none\.toml: the configuration file cannot be read"),
]


@pytest.mark.parametrize(
    ("arguments", "match"), USAGE, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_wrong_usage_names_the_nearest_and_ends_with_2(aqa, arguments, match):
    code, out, err = aqa(*arguments)
    assert (code, out) == (2, "")
    assert re.search(match, err), err
    assert err.startswith("error: ")


def test_wrong_usage_as_json(aqa):
    code, out, err = aqa("trian", "--json")
    error = json.loads(out)["error"]
    assert set(error) == {"type", "where", "cause", "remedy", "exit_code"}
    assert (error["type"], error["exit_code"], code) == ("ConfigError", 2, 2)
    assert "trian" in err


@pytest.mark.parametrize(
    ("verb", "section"), [("pretrain", "pretrain"), ("expert", "expert"), ("hp-mcore", "hp_mcore")]
)
def test_help_lists_every_setting_with_meaning(verb, section, aqa, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    code, out, _ = aqa("train", verb, "--help")
    assert code == 0
    for setting in describe():
        if setting.path.partition(".")[0] in (section, "tracking"):
            assert flag_of(setting.path) + " " in out
            assert setting.meaning.split("\n")[0][:40] in out


def test_flags_reach_the_settings(monkeypatch, aqa):
    """The verb receives exactly what `load_config` makes of the same dotted paths."""
    seen = {}
    monkeypatch.setattr(cli.Call, "config", lambda self, given=None: seen.update(dotted(given)) or 1 / 0)
    code, _, _ = aqa(
        "train", "pretrain", "--store", "s", "--name", "n", "--epochs", "3", "--model.encoder-units", "64",
        "--use-gpu", "--model.paces", "0.5,1", "--model.pace-weight", "0.5", "--tracking.experiment", "e",
    )  # fmt: skip
    assert code == 1
    config = load_config(flags=seen)
    assert (config.pretrain.epochs, config.pretrain.model.encoder_units) == (3, 64)
    assert (config.pretrain.use_gpu, config.pretrain.model.paces) == (True, (0.5, 1.0))
    assert (config.pretrain.model.pace_weight, config.tracking.experiment) == (0.5, "e")


def test_config_show_says_where_each_value_comes_from(aqa, tmp_path, monkeypatch):
    file = tmp_path / "run.toml"
    file.write_text("[pretrain]\nepochs = 2\n")
    monkeypatch.setenv("AQA_EVALUATE__SEED", "9")
    code, out, _ = aqa("--config", str(file), "config", "show", "--json")
    rows = {row["setting"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["pretrain.epochs"] == {
        "setting": "pretrain.epochs",
        "value": 2,
        "origin": f"{file}, line 2",
    }
    assert rows["evaluate.seed"]["origin"] == "environment variable AQA_EVALUATE__SEED"
    assert rows["expert.seed"]["origin"] == "default"


def test_template_can_be_used_as_it_is(aqa, tmp_path):
    code, out, _ = aqa("config", "template")
    file = tmp_path / "run.toml"
    file.write_text(out)
    assert code == 0
    assert aqa("config", "show", "--config", str(file))[0] == 0


def test_doctor_reports_and_never_prints_a_token(aqa, monkeypatch):
    secret = "0123456789abcdef" * 4
    monkeypatch.setenv("RAY_AUTH_TOKEN", secret)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:1")
    monkeypatch.setattr("pipelines.doctor._answers", lambda address: ("ok", ""))  # 192.0.2.1 would take 2 s
    code, out, err = aqa("doctor", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert {"python", "cores", "torch", "ray", "decord", "pyav", "ray address", "mlflow store"} <= set(rows)
    assert rows["ray token"]["value"].startswith("token from RAY_AUTH_TOKEN")
    assert secret not in out + err


def test_doctor_warns_of_an_open_cluster(monkeypatch, tmp_path):
    from pipelines import doctor

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:1")
    monkeypatch.setattr(doctor, "_answers", lambda address: ("ok", ""))
    row = next(row for row in doctor._ray() if row["name"] == "ray token")
    assert row["status"] == "warn"
    assert "RAY_AUTH_TOKEN_PATH" in row["remedy"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_full_or_read_only_disk_names_path_and_free_bytes(number, tmp_path):
    error = as_aqa_error(OSError(number, os.strerror(number), str(tmp_path / "none" / "a.parquet")))
    assert error is not None
    assert error.exit_code == 4
    assert re.search(r"a\.parquet: .*; [\d,]+ bytes are free there\. Make room", str(error))


def test_file_too_large_reaches_the_user_as_storage_error(tmp_path):
    """A real refusal of the file system: RLIMIT_FSIZE, as a full disk would do it."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1));"
        "from pipelines.cli import main; sys.exit(main(['data', 'init', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], capture_output=True, text=True)
    assert done.returncode == 4
    assert str(tmp_path / "d") in done.stderr


def test_cluster_errors_get_their_exit_codes():
    from cluster.connect import ClusterUnavailable, InsecureCluster

    assert as_aqa_error(ClusterUnavailable("h:1", "x", "y")).exit_code == 5
    assert as_aqa_error(InsecureCluster("h:1", "x", "y")).exit_code == 8
    assert str(as_aqa_error(InsecureCluster("h:1", "x", "y"))) == "h:1: x. Y."


def test_errors_without_a_meaning_are_bugs():
    assert as_aqa_error(KeyError("a")) is None
    assert as_aqa_error(OSError("no number")) is None


@pytest.mark.parametrize("error", [DataError("a", "b", "c"), ClipError("empty", "v.mp4", "0 bytes")])
def test_our_errors_pass_through(error: AqaError):
    assert as_aqa_error(error) is error


def _raise(error: BaseException):
    def verb(*_: object, **__: object) -> None:
        raise error

    return verb


def test_bug_is_one_line_and_a_traceback_only_when_asked(aqa, monkeypatch):
    monkeypatch.setattr("pipelines.settings.write_template", _raise(ZeroDivisionError("oops")))
    code, out, err = aqa("config", "template")
    assert (code, out) == (1, "")
    assert err == "bug: ZeroDivisionError: oops; run again with --verbose and report the traceback\n"
    code, out, err = aqa("config", "template", "--verbose", "--json")
    assert "Traceback" in err
    assert json.loads(out)["error"]["exit_code"] == 1


def test_interrupted_says_how_to_go_on(aqa, monkeypatch):
    monkeypatch.setattr("pipelines.settings.write_template", _raise(KeyboardInterrupt()))
    code, _, err = aqa("config", "template")
    assert code == 130
    assert err == "aqa: interrupted; the same command resumes where it stopped\n"


def test_a_verbs_prints_stay_off_stdout(aqa, monkeypatch):
    monkeypatch.setattr("pipelines.settings.write_template", lambda: print("noise") or "result")
    assert aqa("config", "template") == (0, "result\n", "noise\n")


def test_reader_that_has_seen_enough():
    """`aqa config template | head -1` ends quietly."""
    command = [sys.executable, "-m", "pipelines", "config", "template"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, b"")


def test_real_interrupt_of_a_process(tmp_path):
    code = (
        "import pipelines.settings as c, time, sys; from pipelines.cli import main;"
        "c.write_template = lambda: (print('ready', file=sys.stderr, flush=True), time.sleep(30));"
        "sys.exit(main(['config', 'template']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert "the same command resumes" in process.stderr.read()
    assert process.returncode == 130


def test_result_as_json_is_strict():
    document = {"a": float("nan"), "b": Path("x"), "c": (1, 2.5), "d": None, "e": float("inf"), "f": True}
    assert json.loads(to_json(document)) == {
        "a": None,
        "b": "x",
        "c": [1, 2.5],
        "d": None,
        "e": None,
        "f": True,
    }


def test_result_as_text():
    assert to_text([{"a": 1, "b": "xx"}, {"a": 22, "c": None}]) == "a   b   c\n1   xx\n22"
    assert (
        to_text({"n": 3, "of": {"x": 0.12345, "name": [1, 2]}}) == "n   3\nof\n  x     0.1235\n  name  1, 2"
    )
    assert to_text("plain") == "plain"
    assert Result({"a": 1}, text="better").as_text() == "better"
