from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines import fit
from pipelines.checkpoint import load_bundle
from pipelines.config import ExpertTrainConfig, PretrainConfig
from pipelines.errors import ConfigError
from pipelines.motion import load_motions
from pipelines.pretrain_phase import PretrainPhase
from pipelines.settings import load_config

SEQUENCE = SequenceConfig(skeleton="c15")
SIZES = NonExpertConfig(encoder_units=8, decoder_units=8, pace_units=8, discriminator_units=4)


def phase_of(tables, model: NonExpertConfig = SIZES, **settings) -> PretrainPhase:
    motions = load_motions(*tables)
    config = PretrainConfig(batch_size=7, sequence=SEQUENCE, model=model, **settings)
    train, val = ([m for m in motions if m.split == split] for split in ("train", "val"))
    return PretrainPhase(train, val, config, torch.device("cpu"))


COMMON = {"loss", "reconstruction", "adversarial"}
PACE = {"pace", "pace_accuracy"}
LIMB = {"limb_error", "limb_error_of_zero", "limb_error_of_mean_pose", "limb_error_of_mirror"}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, COMMON | PACE | LIMB),
        ({"pace": False}, COMMON | LIMB),
        ({"pretext": "recon"}, COMMON | PACE),
        ({"pretext": "motion_pred", "pace": False}, COMMON),
        ({"pretext": "order"}, PACE | {"loss", "order", "order_accuracy"}),
        ({"pretext": "order", "pace": False}, {"loss", "order", "order_accuracy"}),
        ({"pretext": "none"}, PACE | {"loss"}),
        ({"generator_loss": "non_saturating", "pad_literal": True}, COMMON | PACE | LIMB | {"generator"}),
    ],
)
def test_every_pretext_has_its_numbers(waving_tables, settings, names):
    phase = phase_of(waving_tables, replace(SIZES, **settings))
    found = phase.validate()
    assert set(found) == names
    assert all(np.isfinite(value) for value in found.values())
    gradients, sums = phase.gradients([0, 3, 5], 3, epoch=0)
    assert set(gradients) == set(phase.parts)
    assert set(sums) == names - LIMB - {"pace_accuracy", "order_accuracy"}
    assert phase.describe()["model"] == vars(replace(SIZES, **settings))


def test_literal_batches_are_as_long_as_the_paper_says(waving_tables):
    phase = phase_of(waving_tables)
    literal = replace(SIZES, pad_literal=True)
    assert phase._batch(phase.train, [0, 1], [0, 0], literal).slowed.shape == (2, 743, 45)
    assert phase._batch(phase.train, [0, 1], [0, 0], SIZES).slowed.shape[1] < 40


def test_gradients_of_shares_add_up(waving_tables):
    phase = phase_of(waving_tables, replace(SIZES, pretext="order"))
    whole, sums = phase.gradients([0, 3, 5, 9], 4, epoch=2)
    shares = [phase.gradients(rows, 4, epoch=2) for rows in ([0, 5], [3, 9])]
    for part, grads in whole.items():
        for grad, first, second in zip(grads, shares[0][0][part], shares[1][0][part], strict=True):
            torch.testing.assert_close(grad, first + second, atol=1e-6, rtol=1e-4)
    for name, value in sums.items():
        torch.testing.assert_close(value, shares[0][1][name] + shares[1][1][name])


def test_limb_errors_by_hand(waving_tables):
    phase = phase_of(waving_tables)
    batch = phase._batch(phase.val, [0, 1, 2], [1], SIZES)
    answer = torch.where(batch.hidden, batch.slowed + 0.5, 99.0)  # visible coordinates do not count
    found = phase._limb_errors(batch, answer)
    assert found["limb_error"] == pytest.approx(3 * 0.25, rel=1e-5)
    zero = sum(float(x[h].square().mean()) for x, h in zip(batch.slowed, batch.hidden, strict=True))
    assert found["limb_error_of_zero"] == pytest.approx(zero, rel=1e-5)


def test_pace_accuracy_counts_what_the_head_says(waving_tables):
    phase = phase_of(waving_tables, compare_guard=True)
    paces = torch.cat([batch.pace for batch in phase._validation(SIZES)])
    with torch.no_grad():
        for parameter in phase.model.pace_head.parameters():
            parameter.zero_()
        phase.model.pace_head.layers[-1].bias[int(paces[0])] = 1.0  # always the same answer
    share = float((paces == paces[0]).float().mean())
    assert phase.pace_accuracy("low_pass") == phase.pace_accuracy("none", noise=0.5) == share
    found = phase.validate()
    assert found["pace_accuracy_guarded"] == found["pace_accuracy_unguarded"] == share


def test_guard_and_noise_reach_the_encoder(waving_tables, monkeypatch):
    phase = phase_of(waving_tables)
    read = []
    forward = phase.model.encoder.forward
    monkeypatch.setattr(phase.model.encoder, "forward", lambda x, valid: read.append(x) or forward(x, valid))
    phase.pace_accuracy("none")
    phase.pace_accuracy("low_pass")
    phase.pace_accuracy("none", noise=0.1)
    plain, guarded, noisy = read
    rough = [x[:, 1:].diff(dim=1).abs().mean() for x in read]
    assert rough[1] < rough[0] < rough[2]
    moved = (noisy - plain)[plain != 0]
    assert float(moved.std()) == pytest.approx(0.1, rel=0.1)
    assert guarded.shape == plain.shape


def test_half_precision_keeps_gradients_in_fp32(waving_tables):
    exact, rough = phase_of(waving_tables), phase_of(waving_tables, precision="bf16")
    wanted, _ = exact.gradients([0, 1], 2, epoch=0)
    found, _ = rough.gradients([0, 1], 2, epoch=0)
    for part, grads in found.items():
        assert all(grad.dtype == torch.float32 for grad in grads)
        first = torch.cat([grad.flatten() for grad in grads])
        second = torch.cat([grad.flatten() for grad in wanted[part]])
        assert not torch.equal(first, second)
        assert torch.cosine_similarity(first, second, dim=0) > 0.98


@pytest.mark.parametrize(
    "settings", [{"encoder_units_mode": "total"}, {"encoder_projection": True, "pretext": "order"}]
)
def test_an_expert_reads_any_encoder(waving_tables, tmp_path, settings):
    config = PretrainConfig(epochs=1, batch_size=7, sequence=SEQUENCE, model=replace(SIZES, **settings))
    if config.model.encoder_units_mode == "total":
        assert config.model.units_per_direction == 4
    fit.pretrain(*waving_tables, config, tmp_path / "first", {})
    second = ExpertTrainConfig(
        epochs=1, batch_size=7, sequence=SEQUENCE, model=ExpertConfig(lstm_units=6, finetune_encoder=False)
    )
    fit.train_expert(*waving_tables, second, tmp_path / "second", tmp_path / "first", {})
    given, told = load_bundle(tmp_path / "first", "nonexpert")
    kept, _ = load_bundle(tmp_path / "second", "expert")
    assert told["encoder_units"] == config.model.units_per_direction
    names = [name for name in given if name.startswith("encoder.")]
    assert names
    assert all(torch.equal(given[name], kept[f"experts.0.{name}"]) for name in names)


def test_contradicting_settings_are_a_configuration_error(tmp_path):
    path = tmp_path / "aqa.toml"
    path.write_text('[pretrain.model]\npretext = "none"\npace = false\n')
    with pytest.raises(ConfigError, match="pretext none without pace leaves nothing to learn; switch"):
        load_config(path)
