from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config import Config
from pipelines.errors import ConfigError
from pipelines.sweep.space import Range, read_space


def read(tmp_path: Path, text: str, sections: tuple[str, ...] = ("expert", "pretrain")):
    file = tmp_path / "space.toml"
    file.write_text(text)
    return read_space(file, sections, Config())


def test_a_space_is_paths_and_ranges_in_the_order_of_the_paths(tmp_path):
    found = read(
        tmp_path,
        """
        expert.loss = {choice = ["squared", "huber"]}
        [expert.optimizer]
        learning_rate = {log_uniform = [1e-4, 1e-2]}
        [pretrain]
        batch_size = {uniform = [8, 64]}
        """,
    )
    assert found == (
        Range("expert.loss", "choice", ("squared", "huber")),
        Range("expert.optimizer.learning_rate", "log_uniform", (1e-4, 1e-2)),
        Range("pretrain.batch_size", "uniform", (8, 64), whole=True),
    )


WRONG = [
    ("[expert.optimizer]\nlearning_rat = {uniform = [0.1, 1]}", "nearest is expert.optimizer.learning_rate"),
    ("[hp_mcore]\nbatch_size = {uniform = [2, 4]}", "unknown setting"),
    ("[expert]\nbatch_size = {uniform = [1, 32]}", "line 2.*1 should be greater than or equal to 2"),
    ("[expert]\nbatch_size = {uniform = [2.5, 32]}", "two finite whole numbers"),
    ("[expert]\nfeature_dropout = {uniform = [0.0, 1.0]}", "should be less than 1"),
    ("[expert]\nfeature_dropout = {uniform = [0.5, 0.1]}", "give the smaller end first"),
    ("[expert]\nfeature_dropout = {uniform = [0.1, inf]}", "two finite numbers"),
    ("[expert]\nfeature_dropout = {log_uniform = [0.0, 0.5]}", "both ends must be above 0"),
    ("[expert]\nfeature_dropout = {uniform = [true, false]}", "two finite numbers"),
    ('[expert]\nloss = {uniform = ["huber", "squared"]}', "uniform is for numbers; give choice"),
    ('[expert]\nloss = {choice = ["huber", "cubed"]}', "cubed"),
    ('[expert]\nloss = {choice = ["huber", "huber"]}', "repeats a value"),
    ('[expert]\nloss = {choice = ["huber"]}', "at least two values"),
    ("[expert]\nfeature_dropout = 0.5", "is a value, not a range; fixed values belong into --config"),
    ("[expert]\nfeature_dropout = {uniform = [0, 0.5], choice = [1]}", "exactly one of"),
    ("[expert]\nseed = {choice = [1, 2]}", "line 2.*validation people"),
    ("[expert]\nmembers = {choice = [1, 2]}", "who validates"),
    ("[expert.model]\ntask = {choice = ['score', 'classes']}", "changes what is learned"),
    ("[expert", "not valid TOML"),
    ("", "holds no range"),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_what_cannot_be_searched_is_refused_with_its_line(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, text)


def test_all_problems_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*expert\.seed.*line 2.*expert\.epocks.*line 3"):
        read(tmp_path, "[expert]\nseed = {choice = [1, 2]}\nepocks = {uniform = [1, 2]}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: the search space cannot be read"):
        read_space(tmp_path / "nowhere.toml", ("expert",), Config())
