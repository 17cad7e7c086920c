from __future__ import annotations

import pytest

from cluster import package
from cluster.connect import ClusterUnavailable
from cluster.jobs import Jobs, command_of, exit_code_of, name_of
from cluster.secret import SecretFound

COMMAND = ["extract", "my clips.csv", "--store", "store"]


@pytest.fixture
def built(tmp_path):
    for part in package.PACKAGES:
        (tmp_path / part).mkdir()
        (tmp_path / part / "__init__.py").touch()
    return package.build(tmp_path, tmp_path)


@pytest.fixture
def jobs(dashboard):
    return Jobs(dashboard.address)


def _submit(jobs, built, command=COMMAND, **changes):
    return jobs.submit(command, built, **{"folder": "/shared/work", "variables": {}} | changes)


def test_submit(jobs, built, dashboard):
    sent = _submit(jobs, built, variables={"AQA_EXTRACT__SAMPLING": "fps:10"})
    assert sent.new
    job = dashboard.jobs[sent.name]
    assert job["entrypoint"] == (
        "cd /shared/work && exec python -P -m pipelines extract 'my clips.csv' --store store"
    )
    assert job["runtime_env"]["env_vars"]["AQA_EXTRACT__SAMPLING"] == "fps:10"
    assert job["metadata"] == {"program": "aqa", "package": built.digest[:12]}
    (sent_package,) = dashboard.packages.values()
    assert sent_package == built.path.read_bytes()


def test_the_same_job_runs_once(jobs, built, dashboard):
    first = _submit(jobs, built)
    assert _submit(jobs, built) == (first.name, False)  # it runs
    dashboard.end(first.name, "SUCCEEDED", 0)
    assert _submit(jobs, built) == (first.name, False)  # it has succeeded
    assert len(dashboard.jobs) == 1
    second = _submit(jobs, built, again=True)
    assert second.new
    assert (first.name[:-2], first.name[-2:], second.name[-2:]) == (second.name[:-2], "-1", "-2")
    dashboard.end(second.name, "FAILED", 4)
    third = _submit(jobs, built)  # a failure is tried again
    assert (third.name[-2:], third.new) == ("-3", True)
    assert _submit(jobs, built, again=True) == (third.name, False)
    assert len(dashboard.jobs) == 3


def test_a_lost_answer_does_not_start_it_twice(jobs, built, dashboard, monkeypatch):
    """The list does not show the job yet when it is sent again."""
    first = _submit(jobs, built)
    monkeypatch.setattr(jobs, "_all", list)
    assert _submit(jobs, built) == (first.name, False)
    assert len(dashboard.jobs) == 1


def test_names_say_what_is_done(built):
    name = name_of(COMMAND, built, "/shared", {})
    assert name == name_of(list(COMMAND), built, "/shared", {})
    assert name.startswith("aqa-extract-")
    others = {
        name_of([*COMMAND, "--retry-rejected"], built, "/shared", {}),
        name_of(COMMAND, built, "/other", {}),
        name_of(COMMAND, built, "/shared", {"AQA_EXTRACT__SAMPLING": "fps:10"}),
        name_of(COMMAND, package.Package(built.path, "0" * 64, 3, 100), "/shared", {}),
    }
    assert len(others | {name}) == 5
    assert name_of(["train", "expert", "--name", "x"], built, "/", {}).startswith("aqa-train-expert-")
    assert name_of(["evaluate", "../x;y"], built, "/", {}).startswith("aqa-evaluate-")


def test_planted_secrets_reach_neither_package_nor_job(jobs, built, dashboard, monkeypatch):
    environment = {
        "AWS_SECRET_ACCESS_KEY": "planted-aws-0123456789",
        "MLFLOW_TRACKING_PASSWORD": "planted-mlflow",
        "WANDB_API_KEY": "planted-wandb-key",
        "DB_PASSWD": "planted-database",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    jobs = Jobs(dashboard.address)
    uri = "https://anna:" + "planted-uri@mlflow.example"
    with pytest.raises(SecretFound, match="^environment variable MLFLOW_TRACKING_URI: a URI with a password"):
        _submit(jobs, built, variables={"MLFLOW_TRACKING_URI": uri})
    with pytest.raises(SecretFound, match="^environment variable AQA_TRACKING__URI: the value of a secret"):
        _submit(jobs, built, variables={"AQA_TRACKING__URI": "http://x/?k=planted-wandb-key"})
    with pytest.raises(SecretFound, match="^the command: the value of a secret environment variable"):
        _submit(jobs, built, [*COMMAND, "--weights", "planted-database"])
    with pytest.raises(SecretFound, match="^the command: a value named as a secret"):
        _submit(jobs, built, [*COMMAND, "--token", "planted-argument"])
    assert not dashboard.jobs
    _submit(jobs, built)
    assert len(dashboard.jobs) == 1
    sent = b"".join(dashboard.bodies)
    assert b"my clips.csv" in sent
    assert b"planted" not in sent


def test_secrets_in_a_log_are_hidden(dashboard, built, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "planted-wandb-key")
    dashboard.log = "wandb planted-wandb-key\nat https://a:" + "planted-uri@b/\nlast line without an end"
    jobs = Jobs(dashboard.address)
    sent = _submit(jobs, built)
    dashboard.end(sent.name, "SUCCEEDED", 0)
    lines: list[str] = []
    assert jobs.follow(sent.name, lines.append) == 0
    assert lines == ["wandb ***", "at https://a:***@b/", "last line without an end"]


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("SUCCEEDED", None, 0),
        ("FAILED", 3, 3),
        ("FAILED", 8, 8),
        ("FAILED", 130, 130),
        ("FAILED", -9, 137),
        ("FAILED", None, None),
        ("STOPPED", None, 130),
        ("RUNNING", None, None),
    ],
)
def test_exit_codes(status, code, expected):
    assert exit_code_of(status, code) == expected


@pytest.mark.parametrize(("status", "code", "expected"), [("FAILED", 3, 3), ("STOPPED", None, 130)])
def test_follow_returns_the_exit_code(jobs, built, dashboard, status, code, expected):
    sent = _submit(jobs, built)
    dashboard.end(sent.name, status, code)
    lines: list[str] = []
    assert jobs.follow(sent.name, lines.append) == expected
    assert lines == ["line 1", "line 2"]


def test_a_job_that_never_ran_is_an_error_of_the_cluster(jobs, built, dashboard):
    sent = _submit(jobs, built)
    dashboard.end(sent.name, "FAILED", None)
    dashboard.jobs[sent.name]["message"] = "runtime_env setup failed:\n no disk"
    with pytest.raises(ClusterUnavailable, match="ended without an exit code: runtime_env setup failed: no"):
        jobs.follow(sent.name, lambda line: None)


def test_stop_status_list_logs(jobs, built, dashboard):
    first = _submit(jobs, built)
    second = _submit(jobs, built, ["data", "init", "x"])
    dashboard.jobs["other"] = dashboard.jobs[first.name] | {"submission_id": "other", "metadata": {}}
    assert jobs.stop(first.name)["status"] == "STOPPED"
    assert jobs.status(first.name) == {
        "job": first.name,
        "status": "STOPPED",
        "exit_code": 130,
        "seconds": 3.5,
        "command": "aqa extract 'my clips.csv' --store store",
    }
    rows = jobs.list()
    assert [row["job"] for row in rows] == [second.name, first.name]  # newest first, ours only
    assert rows[0]["exit_code"] is None
    assert jobs.logs(second.name) == "line 1\nline 2\n"


@pytest.mark.parametrize("verb", ["status", "stop", "logs"])
def test_no_such_job(jobs, dashboard, verb):
    with pytest.raises(ClusterUnavailable, match=f"^none-1: no such job on {dashboard.address}. `aqa jobs"):
        getattr(jobs, verb)("none-1")


def test_a_dashboard_that_fails(jobs, built, dashboard, monkeypatch):
    monkeypatch.setattr(dashboard, "answer", lambda *_: (500, "KeyError at https://a:" + "planted@b/"))
    with pytest.raises(ClusterUnavailable, match="the dashboard failed: .*500.*KeyError") as caught:
        jobs.list()
    assert "planted" not in str(caught.value)


def test_the_address_given_wins_over_the_environment(dashboard, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    assert Jobs(dashboard.address).list() == []


def test_commands_are_shown_as_they_were_given():
    assert command_of("cd /x && exec python -P -m pipelines extract 'a b' --store s") == (
        "aqa extract 'a b' --store s"
    )
    assert command_of("sleep 5") == "sleep 5"
