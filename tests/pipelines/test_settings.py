from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from aqa_models.hp_mcore.config import PRESETS
from pipelines.config import Config, PretrainConfig
from pipelines.errors import ConfigError
from pipelines.settings import describe, flag_of, flatten, kind_name, load_config, resolve, write_template


@pytest.fixture
def toml(tmp_path: Path):
    """Writes a TOML file and returns its path."""

    def write(text: str) -> Path:
        file = tmp_path / "run.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def test_no_source_gives_the_defaults():
    assert load_config() == Config()


def test_strength_flag_over_environment_over_file_over_default(toml):
    file = toml("[pretrain]\nepochs = 2\nbatch_size = 4\nseed = 6\n")
    environment = {"AQA_PRETRAIN__EPOCHS": "3", "AQA_PRETRAIN__BATCH_SIZE": "5"}
    config, origins = resolve(file, environment, {"pretrain.epochs": "7"})
    assert (config.pretrain.epochs, config.pretrain.batch_size, config.pretrain.seed) == (7, 5, 6)
    assert config.pretrain.num_workers == PretrainConfig().num_workers
    assert origins["pretrain.epochs"] == "flag --epochs"
    assert origins["pretrain.batch_size"] == "environment variable AQA_PRETRAIN__BATCH_SIZE"
    assert origins["pretrain.seed"] == f"{file}, line 4"
    assert origins["pretrain.num_workers"] == "default"


def test_text_becomes_every_type():
    config = load_config(
        flags={
            "pretrain.model.encoder_units": "64",
            "pretrain.model.paces": "0.5,1",
            "pretrain.model.reconstruction": "sum",
            "pretrain.use_gpu": "yes",
            "pretrain.optimizer.learning_rate": "1",
            "extract.weights": "a/b.pth",
        }
    )
    assert config.pretrain.model.encoder_units == 64
    assert config.pretrain.model.paces == (0.5, 1.0)
    assert config.pretrain.model.reconstruction == "sum"
    assert config.pretrain.use_gpu is True
    assert config.pretrain.optimizer.learning_rate == 1.0
    assert config.extract.weights == Path("a/b.pth")


def test_other_variables_are_left_alone():
    assert (
        load_config(environment={"AQA_TEST_DATA": "x", "PRETRAIN__EPOCHS": "1", "PATH": "/bin"}) == Config()
    )


UNKNOWN = [
    (
        {"flags": {"pretrain.epoch": "3"}},
        r"pretrain\.epoch \(flag --epoch\): unknown.* is pretrain\.epochs",
    ),
    (
        {"environment": {"AQA_PRETRAIN__MODEL__ENCODR_UNITS": "3"}},
        r"\(environment variable AQA_PRETRAIN__MODEL__ENCODR_UNITS\).* is pretrain\.model\.encoder_units",
    ),
    ({"flags": {"tracking.clips_per_call": "1"}}, r"nearest is extract\.clips_per_call"),
    ({"flags": {"zzz.qqq": "3"}}, r"zzz\.qqq \(flag --qqq\): unknown setting\. See `aqa config template`"),
]


@pytest.mark.parametrize(("sources", "match"), UNKNOWN)
def test_unknown_setting_names_the_nearest(sources, match):
    with pytest.raises(ConfigError, match=match):
        load_config(**sources)


WRONG = [
    ("pretrain.epochs", "0", r"0 should be greater than or equal to 1 \(integer >= 1\)"),
    ("pretrain.epochs", "many", r'"many" should be a valid integer'),
    ("pretrain.epochs", "2.5", r"2\.5 should be a valid integer"),
    ("pretrain.use_gpu", "maybe", r'"maybe" should be a valid boolean \(true \| false\)'),
    ("pretrain.model.reconstruction", "max", r"should be 'mean' or 'sum'"),
    ("pretrain.model.paces", "0.5,fast", r'"fast" should be a valid number \(numbers separated by commas\)'),
    ("pretrain.model.paces", "0.5,nan", r"not a finite number"),
    ("pretrain.optimizer.learning_rate", "inf", r"inf is not a finite number"),
    ("pretrain.optimizer.learning_rate", "nan", r"nan is not a finite number"),
    ("expert.validation_share", "1", r"1 should be less than 1 \(number > 0 and < 1\)"),
    ("extract.sampling", "fps", r'"fps" is not one of: .*all, fps:10'),
]


@pytest.mark.parametrize(("path", "text", "match"), WRONG)
def test_wrong_value_says_value_expectation_and_source(path, text, match):
    with pytest.raises(ConfigError, match=match) as caught:
        load_config(flags={path: text})
    assert caught.value.where == f"{path} (flag {flag_of(path)})"


@pytest.mark.parametrize(
    "line", ["epochs = true", 'epochs = "3"', "epochs = 3.0", "epochs = [3]", "epochs = {}"]
)
def test_toml_types_are_not_bent(toml, line):
    with pytest.raises(ConfigError, match=r"pretrain\.epochs \(.*run\.toml, line 2\): .*valid integer"):
        load_config(toml(f"[pretrain]\n{line}\n"))


def test_all_problems_at_once(toml):
    file = toml('[pretrain]\nepochs = 0\nepoch = 5\n[pretrain.model]\nencoder_units = "x"\n')
    with pytest.raises(ConfigError, match="4 problems") as caught:
        load_config(file, {"AQA_EVALUATE__BOOTSTRAP": "5"})
    text = str(caught.value)
    assert f"pretrain.epochs ({file}, line 2)" in text
    assert f"pretrain.epoch ({file}, line 3)" in text
    assert f"pretrain.model.encoder_units ({file}, line 5)" in text
    assert "evaluate.bootstrap (environment variable AQA_EVALUATE__BOOTSTRAP): 5 should be" in text


def test_section_that_is_a_number(toml):
    with pytest.raises(ConfigError, match=r"pretrain \(.*line 1\): unknown setting"):
        load_config(toml("pretrain = 3\n"))


def test_toml_syntax_error_names_the_line(toml):
    with pytest.raises(ConfigError, match=r"run\.toml: not valid TOML: .*line 2"):
        load_config(toml("[pretrain]\nepochs = = 3\n"))


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "bytes.toml")


def test_template_parses_back_to_the_defaults(toml):
    file = toml(write_template())
    config, origins = resolve(file)
    assert config == Config()
    from_file = {path for path, origin in origins.items() if origin.startswith(str(file))}
    no_default = {setting.path for setting in describe() if setting.default is None}
    assert {"extract.weights", "extract.detector_weights"} <= no_default
    comments = set(origins) - no_default - from_file  # what presets decide
    assert {"hp_mcore.model.antisymmetric", "hp_mcore.epochs", "hp_mcore.by_difficulty"} <= comments
    assert all(path.startswith(("hp_mcore.", "pretrain.", "expert.")) for path in comments)
    assert not no_default & from_file


def test_a_preset_chosen_in_the_template_counts(toml):
    file = toml(write_template().replace('preset = "best"', 'preset = "legacy"'))
    assert resolve(file)[0].hp_mcore == load_config(flags={"hp_mcore.preset": "legacy"}).hp_mcore


def test_template_holds_every_setting_with_its_meaning():
    template = " ".join(re.sub(r"(?m)^# ", "", write_template()).split())
    for setting in describe():
        assert " ".join(setting.meaning.split()) in template
        assert setting.path.rpartition(".")[2] in template


def test_flatten_gives_scalars_for_every_setting():
    flat = flatten(Config())
    assert list(flat) == [setting.path for setting in describe()]
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())
    assert flat["pretrain.model.paces"] == "0.6,0.7,0.8,0.9,1.0"
    assert flat["extract.weights"] == ""


def test_flattened_text_loads_again():
    config = load_config(flags={"expert.model.lstm_units": "7", "pretrain.model.paces": "0.5,1.0"})
    again = {path: str(value) for path, value in flatten(config).items() if value != ""}
    assert load_config(flags=again) == config


def test_describe_one_section():
    paths = [setting.path for setting in describe("evaluate")]
    assert paths == ["bootstrap", "seed", "pool_people"]


@pytest.mark.parametrize("setting", describe(), ids=lambda s: s.path)
def test_every_setting_is_described(setting):
    assert setting.meaning
    assert kind_name(setting)


@pytest.mark.parametrize(
    ("path", "flag"),
    [
        ("pretrain.model.encoder_units", "--model.encoder-units"),
        ("evaluate.seed", "--seed"),
        ("tracking.uri", "--tracking.uri"),
    ],
)
def test_flag_of(path, flag):
    assert flag_of(path) == flag


def test_without_a_preset_the_best_one_is_meant():
    config, origins = resolve()
    assert config.hp_mcore.preset == "best"
    assert config.hp_mcore.model == PRESETS["best"]
    assert origins["hp_mcore.model.antisymmetric"] == "preset best"
    assert origins["hp_mcore.batch_size"] == "default"


@pytest.mark.parametrize("name", ["best", "legacy", "paper"])
def test_a_preset_gives_the_model_and_the_training(name, toml):
    for sources in ({"flags": {"hp_mcore.preset": name}}, {"environment": {"AQA_HP_MCORE__PRESET": name}}):
        found = load_config(**sources).hp_mcore
        assert found.model == PRESETS[name]
        assert (found.epochs, found.optimizer.schedule) == (
            (Config().hp_mcore.epochs, "warmup_cosine") if name == "best" else (201, "legacy_cosine")
        )
        assert found.by_difficulty == (name == "best")
        assert found.optimizer.learning_rate == 5e-4
    assert load_config(toml(f'[hp_mcore]\npreset = "{name}"\n')).hp_mcore == found
    assert load_config(flags={"hp_mcore.preset": "legacy"}).hp_mcore.predicted_share == 0.0


def test_whatever_is_given_beats_the_preset(toml):
    file = toml('[hp_mcore]\npreset = "legacy"\nbatch_size = 3\n[hp_mcore.model]\nslices = "disjoint"\n')
    environment = {"AQA_HP_MCORE__BY_DIFFICULTY": "true"}
    config, origins = resolve(file, environment, {"hp_mcore.epochs": "7"})
    found = config.hp_mcore
    assert (found.epochs, found.batch_size, found.by_difficulty, found.model.slices) == (
        7,
        3,
        True,
        "disjoint",
    )
    assert (found.exemplar_transitions, found.model.hierarchy) == ("predicted", "layers4")
    told = {
        "epochs": "flag --epochs",
        "batch_size": f"{file}, line 3",
        "by_difficulty": "environment variable AQA_HP_MCORE__BY_DIFFICULTY",
        "model.slices": f"{file}, line 5",
        "model.decoding": "preset legacy",
        "exemplar_transitions": "preset legacy",
        "num_exemplars": "default",
        "preset": f"{file}, line 2",
    }
    assert {path: origins[f"hp_mcore.{path}"] for path in told} == told


@pytest.mark.parametrize("name", ["best", "legacy", "paper"])
def test_one_flag_of_the_model_leaves_the_rest_of_the_preset(name):
    given = {"hp_mcore.preset": name, "hp_mcore.model.decoder_layers": "7"}
    found = load_config(flags=given).hp_mcore.model
    assert found == replace(PRESETS[name], decoder_layers=7)
    only = load_config(flags={"hp_mcore.model.dropout": "0.25"}).hp_mcore.model
    assert only == replace(PRESETS["best"], dropout=0.25)


def test_an_unknown_preset_is_refused(toml):
    with pytest.raises(
        ConfigError, match=r"hp_mcore.preset \(flag --preset\): \"bset\" should be 'best', 'leg"
    ):
        load_config(flags={"hp_mcore.preset": "bset"})
    for value in ('["legacy"]', "3", "{}"):
        with pytest.raises(ConfigError, match=r"hp_mcore.preset \(.*line 2\): .* should be 'best', 'legacy'"):
            load_config(toml(f"[hp_mcore]\npreset = {value}\n"))


def test_settings_that_contradict_each_other_are_named_with_their_sources():
    with pytest.raises(
        ConfigError,
        match=r"^hp_mcore.model \(flag --model.num-procedures\): num_procedures must be 2 to 6, got 9",
    ):
        load_config(flags={"hp_mcore.model.num_procedures": "9"})
    given = {"hp_mcore.preset": "legacy", "hp_mcore.model.num_procedures": "4"}
    with pytest.raises(
        ConfigError, match=r"model \(preset legacy\): decoding = halves knows 3 procedures, not 4"
    ):
        load_config(flags=given)
    dark = {f"hp_mcore.model.use_{name}": "false" for name in ("dynamic", "static", "pose")}
    with pytest.raises(
        ConfigError, match=r"--model.use-dynamic, flag --model.use-static, flag --model.use-pose\).* all off"
    ):
        load_config(flags=dark)
