from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from filmed_dives import POSES_TOO, STATIC, film_tables, learning
from made_dives import SMALL, assert_same_run, metrics, settings
from safetensors.torch import load_file, save_file

from aqa_models.hp_mcore.config import PRESETS
from aqa_models.hp_mcore.model import HpMcore
from pipelines import loop
from pipelines.config import TRAIN_PRESETS, Config, EvaluateConfig, HpMcoreTrainConfig
from pipelines.errors import ConfigError, DataError
from pipelines.hp_mcore.dives import NUM_FRAMES, Dives, dive_table
from pipelines.hp_mcore.evaluate import evaluate_tables
from pipelines.hp_mcore.fit import fit, wanted_streams
from pipelines.hp_mcore.phase import HpMcorePhase, parts_of
from pipelines.hp_mcore.weights import check_weights
from pipelines.settings import load_config
from pipelines.stages.appearance_network import build

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def films():
    return film_tables(train=2)


@pytest.fixture(scope="module")
def filmed_run(films, tmp_path_factory) -> Path:
    """A finished run of two epochs that learned the static encoder from pictures."""
    run_dir = tmp_path_factory.mktemp("filmed") / "run"
    fit(*films, learning(), run_dir, {})
    return run_dir


def bundle(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model" / "model.safetensors")


def phase_of(films, config: HpMcoreTrainConfig) -> HpMcorePhase:
    clips, streams = films
    return HpMcorePhase(Dives(dive_table(clips, streams, NUM_FRAMES)), config, CPU)


@pytest.mark.slow
def test_encoders_learn_and_travel_with_the_model(films, filmed_run):
    torch.manual_seed(learning().seed)
    start = HpMcore(STATIC, encoders=True).state_dict()
    learned = bundle(filmed_run)
    assert learned.keys() == start.keys()
    moved = {name.split(".")[0] for name, tensor in learned.items() if not torch.equal(tensor, start[name])}
    assert moved == {"static_encoder", "fusion", "regression"}
    config = json.loads((filmed_run / "model" / "config.json").read_text())
    assert config["static_weights.sha256"] == "random"


@pytest.mark.slow
def test_test_dives_are_scored_from_their_pictures(films, filmed_run):
    clips, streams = films
    result = evaluate_tables(filmed_run, clips, streams, EvaluateConfig(bootstrap=100))
    assert result["n"] == 3
    assert np.isfinite(result["mae"]["value"])
    assert not result["stored"]
    # The question is answered from the record as long as the pictures are the same.
    assert evaluate_tables(filmed_run, clips, streams, EvaluateConfig(bootstrap=100))["stored"]
    others = streams["frames"].to_pylist()
    others[2]["jpeg"], others[3]["jpeg"] = others[3]["jpeg"], others[2]["jpeg"]
    others[3]["jpeg"] = others[3]["jpeg"][::-1]
    frames = streams["frames"].from_pylist(others, schema=streams["frames"].schema)
    assert not evaluate_tables(filmed_run, clips, {"frames": frames}, EvaluateConfig(bootstrap=100))["stored"]


class Stop(Exception):
    pass


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(films, filmed_run, tmp_path, monkeypatch):
    real = loop.train_epoch

    def stopping(training, *arguments):
        if training.epoch == 1:
            raise Stop
        return real(training, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", stopping)
        with pytest.raises(Stop):
            fit(*films, learning(checkpoint_every=1), tmp_path / "run", {})
    assert len(metrics(tmp_path / "run")) == 1
    assert fit(*films, learning(checkpoint_every=1), tmp_path / "run", {})["resumed"]
    assert_same_run(filmed_run, tmp_path / "run")


@pytest.mark.slow
def test_other_pictures_are_another_run(films, filmed_run):
    clips, streams = films
    rows = streams["frames"].to_pylist()
    rows[0]["jpeg"][5] = rows[0]["jpeg"][6]
    frames = streams["frames"].from_pylist(rows, schema=streams["frames"].schema)
    with pytest.raises(ConfigError, match=r"data\.sha256"):
        fit(clips, {"frames": frames}, learning(), filmed_run, {})


def test_every_parameter_is_in_one_part_and_gets_its_rate(films):
    config = learning(static_rate=0.2, dynamic_rate=0.5, model=replace(STATIC, use_dynamic=True))
    phase = phase_of(films, config)
    assert phase.rates == {"model": 1.0, "dynamic": 0.5, "static": 0.2}
    inside = [id(p) for part in phase.parts.values() for p in part.parameters()]
    assert len(inside) == len(set(inside))
    assert set(inside) == {id(p) for p in phase.model.parameters()}
    training = loop.Training(phase, config, Path())
    training.set_learning_rate()
    rate = {id(p): group["lr"] for group in training.optimizer.param_groups for p in group["params"]}
    assert phase.model.dynamic_encoder is not None
    assert phase.model.static_encoder is not None
    expected = {"dynamic_encoder": 5e-4, "static_encoder": 2e-4}
    for name, parameter in phase.model.named_parameters():
        assert rate[id(parameter)] == pytest.approx(expected.get(name.split(".")[0], 1e-3)), name
    assert list(parts_of(HpMcore(SMALL, encoders=False))) == ["model"]


def test_presets_say_the_published_rates():
    legacy = load_config(flags={"hp_mcore.preset": "legacy"}).hp_mcore
    assert (legacy.dynamic_rate, legacy.static_rate, legacy.transform_poses) == (1.0, 0.1, False)
    best = Config().hp_mcore
    assert (best.dynamic_rate, best.static_rate, best.transform_poses) == (0.1, 0.1, True)
    assert set(TRAIN_PRESETS["hp_mcore"]) == set(PRESETS)


def gradients_of(films, config: HpMcoreTrainConfig) -> dict[str, list[torch.Tensor]]:
    phase = phase_of(films, config)
    phase.begin_epoch(0, [[0, 3]])
    return phase.gradients([0, 3], 2, 0)[0]


@pytest.mark.parametrize(
    "model",
    [
        replace(STATIC, static_network="rny002_gsm"),
        pytest.param(replace(STATIC, use_dynamic=True, use_static=False), marks=pytest.mark.slow),
    ],
    ids=["static", "dynamic"],
)
@pytest.mark.slow
def test_checkpointed_gradients_are_the_same(films, model):
    plain, saving = (gradients_of(films, learning(model, checkpoint_gradients=c)) for c in (False, True))
    assert plain.keys() == saving.keys()
    encoder = "static" if model.use_static else "dynamic"
    assert max(float(gradient.abs().max()) for gradient in plain[encoder]) > 0
    for part in plain:
        for one, other in zip(plain[part], saving[part], strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_bf16_and_fp32_agree_roughly(films):
    kinds: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    first, second = (gradients_of(films, learning(precision=kind)) for kind in kinds)
    flat = [torch.cat([g.flatten() for g in found["model"]]) for found in (first, second)]
    assert all(gradient.dtype == torch.float32 for gradient in second["static"])
    assert torch.cosine_similarity(*flat, dim=0) > 0.8
    assert not torch.equal(*flat)


def test_steps_take_what_was_announced(films):
    """A worker gets the frames of its own pairs, in its own order, queries before exemplars."""
    asked = []
    clips, streams = films
    dives = Dives(dive_table(clips, streams, NUM_FRAMES))
    assert dives.pictures is not None

    def showing(shots):
        asked.append(list(shots))
        return dives.pictures.shown(shots)  # type: ignore[union-attr]

    phase = HpMcorePhase(dives, learning(), CPU, showing)
    phase.begin_epoch(1, [[4, 0], [2]])
    (shots,) = asked
    rows = [phase.train_rows[row] for row in (4, 0, 2)]
    assert [shots[k].row for k in (0, 1, 4)] == rows
    for k, pair in ((0, 2), (1, 3), (4, 5)):
        query, exemplar = (dives.facts[shots[place].row] for place in (k, pair))
        assert query.action_type == exemplar.action_type
        assert query.clip_id != exemplar.clip_id
        assert shots[k].place != shots[pair].place
    phase.gradients([4, 0], 3, 1)
    phase.gradients([2], 3, 1)
    assert next(phase._shown, None) is None


def test_frames_take_the_place_of_stored_features():
    everything = learning(PRESETS["best"], frames="k", poses="p")
    assert wanted_streams(everything) == {"keypoints": "p", "frames": "k"}
    assert wanted_streams(settings(PRESETS["best"])).keys() == {"keypoints", "dynamic", "static"}
    assert wanted_streams(learning(replace(POSES_TOO, use_static=False))) == {"keypoints": ""}


def static_file(path: Path, seed: int = 5) -> Path:
    torch.manual_seed(seed)
    save_file(build("static", "regnety_002").state_dict(), path)
    return path


@pytest.mark.slow
def test_encoders_start_from_the_file_that_is_named(films, tmp_path):
    file = static_file(tmp_path / "imagenet.safetensors")
    config = learning(random_weights=False, static_weights=file, epochs=1)
    phase = phase_of(films, config)
    assert phase.model.static_encoder is not None
    given = load_file(file)
    for name, tensor in phase.model.static_encoder.network.state_dict().items():
        torch.testing.assert_close(tensor, given[name], rtol=0, atol=0)
    fit(*films, config, tmp_path / "run", {})
    moved = file.rename(tmp_path / "elsewhere.safetensors")
    assert fit(*films, config.model_copy(update={"static_weights": moved}), tmp_path / "run", {})["resumed"]
    other = static_file(tmp_path / "other.safetensors", seed=6)
    with pytest.raises(ConfigError, match=r"static_weights\.sha256"):
        fit(*films, config.model_copy(update={"static_weights": other}), tmp_path / "run", {})


def test_no_weights_are_refused():
    with pytest.raises(ConfigError) as refused:
        check_weights(learning(PRESETS["best"], random_weights=False))
    assert str(refused.value) == (
        "hp_mcore.dynamic_weights: the dynamic and the static encoder has no weights to start from, and none "
        "are shipped. Give --dynamic-weights FILE and --static-weights FILE, or --random-weights to train "
        "from nothing."
    )
    with pytest.raises(ConfigError, match="^hp_mcore.static_weights: the static encoder has no weights"):
        check_weights(learning(random_weights=False))


def test_fitting_checks_weights_before_anything_else(films, tmp_path):
    with pytest.raises(ConfigError, match="^hp_mcore.static_weights: the static encoder has no weights"):
        fit(*films, learning(random_weights=False), tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


def test_wrong_weights_are_named(tmp_path):
    file = static_file(tmp_path / "regnet.safetensors")
    expected = f"^{file}: these tensors are no weights for kind static: .* missing .*conv1.weight"
    with pytest.raises(ConfigError, match=expected):
        check_weights(learning(replace(STATIC, static_network="resnet18"), static_weights=file))
    with pytest.raises(ConfigError, match=f"^{file}: these tensors are no weights for kind i3d"):
        check_weights(learning(replace(STATIC, use_dynamic=True), dynamic_weights=file))
    with pytest.raises(
        ConfigError, match=r"^hp_mcore.static_weights: .*none.pth does not exist. Give the path"
    ):
        check_weights(learning(static_weights=tmp_path / "none.pth"))


def test_weights_that_nothing_would_read_are_refused(tmp_path):
    file = static_file(tmp_path / "regnet.safetensors")
    for config in (settings(static_weights=file), learning(STATIC, dynamic_weights=file)):
        name = "static" if config.static_weights else "dynamic"
        expected = (
            f"^hp_mcore.{name}_weights: no {name} encoder learns, so nothing would read .*. Leave it out"
        )
        with pytest.raises(ConfigError, match=expected):
            check_weights(config)
    blind = replace(POSES_TOO, use_static=False)
    with pytest.raises(
        ConfigError, match=r"^hp_mcore.encoders: is finetune, but the model has no visual stream"
    ):
        check_weights(learning(blind))
    assert check_weights(settings()) == {}


@pytest.mark.slow
def test_the_whole_model_learns_from_frames_and_poses(tmp_path):
    """I3D, RegNet with shifts and poses together, in bf16, activations computed twice."""
    model = replace(POSES_TOO, use_dynamic=True, static_network="rny002_gsm", transitions="predicted")
    clips, streams = film_tables(train=2, poses=True)
    config = learning(model, precision="bf16", checkpoint_gradients=True)
    fit(clips, streams, config, tmp_path / "run", {})
    torch.manual_seed(config.seed)
    start = HpMcore(model, encoders=True).state_dict()
    moved = {k.split(".")[0] for k, v in bundle(tmp_path / "run").items() if not torch.equal(v, start[k])}
    assert {"dynamic_encoder", "static_encoder", "skeletal_encoder", "segmentation", "regression"} <= moved
    assert evaluate_tables(tmp_path / "run", clips, streams, EvaluateConfig(bootstrap=100))["n"] == 3


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_ray_workers_train_what_one_process_trains(films, filmed_run, tmp_path, local_ray):
    """Frames come from Ray Data: bit for bit with one trainer, and with two up to the order of sums."""
    fit(*films, learning(num_workers=1), tmp_path / "one", {})
    assert_same_run(filmed_run, tmp_path / "one")
    fit(*films, learning(num_workers=2), tmp_path / "two", {})
    for one, two in zip(metrics(filmed_run), metrics(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)
    clips, streams = films
    rows = streams["frames"].to_pylist()
    rows[1]["jpeg"][7] = b"no picture"
    broken = streams["frames"].from_pylist(rows, schema=streams["frames"].schema)
    with pytest.raises(DataError, match="^clip 107b_1: its picture 7 is no readable JPEG. Check the store"):
        fit(clips, {"frames": broken}, learning(num_workers=2), tmp_path / "broken", {})
