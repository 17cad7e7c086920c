from __future__ import annotations

import csv
import json
import tomllib

from pipelines.config import Config
from pipelines.settings import load_config
from pipelines.sweep.best import best_of, ranking, write_best, write_table


def test_the_best_finished_trial_wins_and_ties_go_to_the_earlier(begun, trained):
    sweep = begun()
    trained(sweep, 0, [0.5] * 9)
    trained(sweep, 1, [0.3] * 9)
    trained(sweep, 2, [0.01])  # stopped, though its one epoch was good
    trained(sweep, 3, [0.3] * 9)
    trials = sweep.trials()
    assert [trial.number for trial in ranking(sweep, trials)] == [1, 3, 0, 2, 4, 5]
    assert best_of(sweep, trials).number == 1  # type: ignore[union-attr]
    assert best_of(sweep, trials[4:]) is None


def test_best_toml_is_a_configuration_with_every_setting(begun, trained):
    sweep = begun()
    trained(sweep, 0, [0.5] * 9)
    write_best(sweep, sweep.trial(0))
    file = sweep.folder / "best.toml"
    read = load_config(file)
    assert read.expert == sweep.config_of(sweep.trial(0)).expert
    assert read.expert.epochs == 9
    assert read.expert.optimizer.learning_rate == sweep.trial(0).params["expert.optimizer.learning_rate"]
    assert read.model_copy(update={"expert": Config().expert}) == Config()
    assert tomllib.loads(file.read_text()).keys() == {"expert"}
    first, second = file.read_text().splitlines()[:2]
    assert first == "# Trial 0 of the sweep s: val_loss 0.5"
    assert second == f"# aqa train expert --store /store --name best --config {file}"


def test_best_toml_is_stronger_than_any_preset_it_names(begun, trained):
    """A preset decides only what the file leaves out, and the file leaves nothing out."""
    sweep = begun()
    trained(sweep, 0, [0.5] * 9)
    write_best(sweep, sweep.trial(0))
    file = sweep.folder / "best.toml"
    file.write_text(file.read_text().replace('preset = "skeleton_only"', 'preset = "best"'))
    wanted = sweep.config_of(sweep.trial(0)).expert
    assert load_config(file).expert == wanted.model_copy(update={"preset": "best"})


def test_the_table_has_a_row_per_started_trial(begun, trained):
    sweep = begun()
    trained(sweep, 0, [0.5] * 9)
    sweep.start(1)
    (sweep.trial_folder(1) / "failed.json").write_text(json.dumps({"where": "x", "cause": "y"}))
    write_table(sweep, sweep.trials())
    with (sweep.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["status"], row["val_loss"]) for row in rows] == [
        ("0", "finished", "0.5"),
        ("1", "failed", ""),
    ]
    assert float(rows[0]["expert.optimizer.learning_rate"]) > 0
