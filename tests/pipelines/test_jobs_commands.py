from __future__ import annotations

import json

import pytest

from pipelines import cli
from pipelines.errors import ConfigError
from pipelines.jobs_commands import check_command, places_of, variables_of

EXPERT = ["train", "expert", "--store", "s", "--name", "x"]


@pytest.fixture
def aqa(capsys, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "AQA_ALLOW_INSECURE_RAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (["extract", "clips.csv", "--store", "s"], {}),
        (["data", "init", "clips"], {}),
        (EXPERT, {}),
        ([*EXPERT, "--use-gpu"], {"GPU": 1.0}),
        ([*EXPERT, "--num-workers", "4"], {"CPU": 4.0}),
        ([*EXPERT, "--num-workers=4", "--use-gpu", "--json"], {"CPU": 4.0, "GPU": 4.0}),
    ],
)
def test_what_a_command_needs(command, needs):
    assert check_command(command) == needs


def test_needs_of_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[expert]\nnum_workers = 3\n")
    assert check_command([*EXPERT, "--config", str(file)]) == {"CPU": 3.0}
    assert check_command([*EXPERT, "--config", "only-on-the-cluster.toml"]) == {}


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ([], "no command is given. Write it behind --"),
        (["--json"], "no command is given"),
        (["jobs", "list"], "`aqa jobs` is no job. Run it here"),
        (
            ["extrat", "--store", "s"],
            r'`aqa extrat --store s`: Unknown command "extrat"\. Did you mean "extract"\? See `aqa --help`',
        ),
        (["extract", "--stor", "s"], "`aqa extract --stor s`: .*Unknown option"),
        ([*EXPERT, "--epochs", "many"], "epochs"),
        (["extract", "--help"], "`aqa extract --help` does nothing"),
        (["train"], "`aqa train` does nothing"),
    ],
)
def test_wrong_commands_are_refused_here(command, cause):
    with pytest.raises(ConfigError, match=cause):
        check_command(command)


def test_places_that_every_node_must_reach(tmp_path):
    folder = str(tmp_path)
    assert places_of(["extract", "/data/clips.csv", "--store", "store"], folder) == [folder]
    assert places_of(["extract", "--store", f"{folder}/store"], folder) == [folder]
    elsewhere = ["train", "expert", "--store=/other/store", "--runs", "/runs"]
    assert places_of(elsewhere, folder) == [folder, "/", "/other"]
    (tmp_path / "there").mkdir()
    assert places_of(["extract", "--store", str(tmp_path / "there")], "/work") == [
        "/work",
        str(tmp_path / "there"),
    ]


def test_settings_of_this_environment_go_with_the_job():
    environment = {
        "AQA_EXTRACT__SAMPLING": "fps:10",
        "AQA_TEST_DATA": "/data",
        "AQA_ALLOW_INSECURE_RAY": "1",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_PASSWORD": "x",
        "HOME": "/root",
    }
    assert variables_of(environment) == {
        "AQA_EXTRACT__SAMPLING": "fps:10",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }


def test_exit_codes_and_texts(aqa):
    code, _, err = aqa("jobs", "list", "--address", "http://192.0.2.1:8265")
    assert code == 8
    assert "this Ray cluster is reachable from other machines and no token protects it" in err
    code, _, err = aqa("jobs", "list")
    assert code == 5
    assert err.startswith("error: http://127.0.0.1:1: no Ray dashboard answers there (connection refused).")
    code, _, err = aqa("jobs", "list", "--address", "http://anna:" + "hunter22@host")
    assert code == 8
    assert "the address holds a password" in err
    assert "hunter22" not in err
    code, _, err = aqa("jobs", "submit", "--", "extract", "--stor", "s")
    assert code == 2
    assert "aqa extract --help" in err


def test_options_behind_the_dashes_belong_to_the_job(aqa):
    """--json before `--` is ours, behind it the job's."""
    code, out, err = aqa("jobs", "submit", "--", "extract", "clips.csv", "--store", "s", "--json")
    assert (code, out) == (5, "")
    assert "no Ray dashboard answers" in err
    code, out, _ = aqa("--json", "jobs", "submit", "--", "extract", "clips.csv", "--store", "s")
    assert json.loads(out)["error"]["exit_code"] == code == 5
