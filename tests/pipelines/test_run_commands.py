from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import errors, run_commands
from pipelines.errors import ConfigError, DataError
from pipelines.result import Result
from pipelines.workflow_folder import Workflow, open_workflow


def described(folder: Path, **given: Any) -> Workflow:
    texts = dict.fromkeys(("manifest", "store", "config", "address", "first", "last", "run"), "")
    return run_commands.describe(folder, **{**texts, "rendered": False, **given})


WRONG = [
    ({"first": "exprt"}, "--from: there is no step 'exprt'. The steps are import, plan, extract"),
    ({"last": "train"}, "--until: there is no step 'train'"),
    ({"first": "expert", "last": "pretrain"}, "--until: pretrain does not come after expert"),
    ({"rendered": True, "manifest": "clips.csv"}, "--rendered: contradicts the clips table clips.csv"),
    ({"config": "nowhere.toml"}, "nowhere.toml: the configuration file cannot be read"),
]


@pytest.mark.parametrize(("given", "text"), WRONG)
def test_wrong_calls_are_refused_with_a_remedy(tmp_path: Path, given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        described(tmp_path, **given)
    assert str(caught.value).startswith(text)
    assert not list(tmp_path.iterdir())


def test_a_step_outside_is_skipped_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    described(tmp_path, last="expert").save()
    result, _ = run_commands.do_step("hp-mcore", tmp_path)
    assert result == {"skipped": "outside of --from and --until"}
    described(tmp_path, first="expert").save()
    with pytest.raises(
        ConfigError, match=r"step hp-mcore: was not done in .*Leave out --from, or say --from hp-mcore"
    ):
        run_commands.do_step("hp-mcore", tmp_path)


def test_a_step_as_a_job_leaves_its_result_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster is stood in for by this process; cluster/jobs.py has its own tests."""
    from pipelines import jobs_commands

    described(tmp_path, last="import", address="http://head:8265", run="r7").save()
    sent = []

    def submit(*command: str, address: str, folder: Path, call: Any) -> Result:
        sent.append((command, address, folder))
        open_workflow(tmp_path).save_result("import", {"clips": 5})
        return Result({"job": "j"}, exit_code=0)

    monkeypatch.setattr(jobs_commands, "submit", submit)
    assert run_commands.do_step("import", tmp_path)[0] == {"clips": 5}
    command = ("run-step", "import", "--folder", str(tmp_path), "--run", "r7")
    assert sent == [(command, "http://head:8265", tmp_path)]
    assert jobs_commands.check_command(command) == {}


def test_the_error_of_a_job_is_that_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import jobs_commands

    flow = described(tmp_path, last="import", address="http://head:8265")
    flow.save()
    monkeypatch.setattr(jobs_commands, "submit", lambda *_, **__: Result({"job": "j-1"}, exit_code=137))
    with pytest.raises(errors.ClusterError, match="j-1: ended with exit code 137"):
        run_commands.do_step("import", tmp_path)
    flow.save_error("import", {"kind": "DataError", "where": "row 3", "cause": "bad", "remedy": "mend it"})
    with pytest.raises(DataError, match="row 3: bad. Mend it"):
        run_commands.do_step("import", tmp_path)
