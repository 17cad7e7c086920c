from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pipelines import cli

HEAVY = ("torch", "ray", "mlflow", "pyarrow", "matplotlib", "scipy", "deltalake")


def test_help_lists_the_tables_and_the_settings_and_loads_nothing_heavy():
    probe = (
        "import sys\nfrom pipelines import cli\n"
        "cli.main(['experiment', '--help'])\ncli.main(['experiment', 'table2', '--help'])\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    for word in ("table1", "table2", "table3", "--splits", "--pretrain-on", "--full-size", "--cores"):
        assert word in shown
    assert shown.rstrip().endswith("LOADED")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--quick", "--full-size"], "contradicts full_size"),
        (["--rows", "nonsense"], "table1 has no row nonsense"),
        (["--change", "expert.epoch=3"], "unknown setting; the nearest is expert.epochs"),
        (["--splits", "halves"], "is not one of"),
        (["--data", "nowhere"], "has no folder kimore"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(data, tmp_path, capsys, monkeypatch, arguments, cause):
    monkeypatch.chdir(tmp_path)
    given = arguments if "--data" in arguments else [*arguments, "--data", str(data)]
    assert cli.main(["experiment", "table1", "--json", *given]) == 2
    assert cause in json.loads(capsys.readouterr().out)["error"]["cause"]
    assert not (tmp_path / "runs").exists()
