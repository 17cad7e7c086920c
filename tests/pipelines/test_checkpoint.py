from __future__ import annotations

import json

import pytest
import torch

import pipelines.checkpoint as checkpoint_module
from pipelines.checkpoint import (
    Checkpoint,
    bundle_kind,
    load_bundle,
    load_newest,
    save_bundle,
    save_checkpoint,
)
from pipelines.errors import ConfigError, CorruptError

IDENTITY = {"phase": "pretrain", "model.encoder_units": 8, "sequence.skeleton": "c15"}


def checkpoint(epoch: int) -> Checkpoint:
    tensors = {name: {"w": torch.full((2, 3), float(epoch))} for name in ("model", "best", "optimizer")}
    return Checkpoint(tensors, {"epoch": epoch, "best_epoch": 0, "best_value": 0.5})


def test_the_newest_comes_back_and_two_are_kept(tmp_path):
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(epoch), IDENTITY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-000002", "epoch-000003"]
    found = load_newest(tmp_path, IDENTITY)
    assert found.state == {"epoch": 3, "best_epoch": 0, "best_value": 0.5}
    assert (found.tensors["optimizer"]["w"] == 3).all()


def test_nothing_yet_is_none(tmp_path):
    assert load_newest(tmp_path / "absent", IDENTITY) is None


@pytest.mark.parametrize(
    "file", ["model.safetensors", "best.safetensors", "optimizer.safetensors", "state.json", "COMPLETE"]
)
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_damage_is_found_and_the_one_before_is_taken(tmp_path, caplog, file, harm):
    for epoch in (1, 2):
        save_checkpoint(tmp_path, checkpoint(epoch), IDENTITY)
    path = tmp_path / "epoch-000002" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data if harm == "flip" else data[: len(data) // 2])
    assert load_newest(tmp_path, IDENTITY).state["epoch"] == 1
    assert "epoch-000002" in caplog.text
    if file != "COMPLETE":
        assert file in caplog.text


def test_all_damaged_is_an_error_naming_the_file(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1), IDENTITY)
    (tmp_path / "epoch-000001" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CorruptError, match=r"epoch-000001/model\.safetensors: does not match the sha256"):
        load_newest(tmp_path, IDENTITY)


@pytest.mark.parametrize("place", range(5))
def test_a_killed_write_leaves_the_older_one(tmp_path, monkeypatch, place):
    save_checkpoint(tmp_path, checkpoint(1), IDENTITY)
    real, calls = checkpoint_module.write_durably, []

    def dying(path, data):
        if len(calls) == place:
            raise KeyboardInterrupt
        calls.append(path)
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_durably", dying)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, checkpoint(2), IDENTITY)
    assert load_newest(tmp_path, IDENTITY).state["epoch"] == 1
    save_checkpoint(tmp_path, checkpoint(2), IDENTITY)
    assert load_newest(tmp_path, IDENTITY).state["epoch"] == 2
    assert not list(tmp_path.glob(".partial-*"))


def test_another_run_is_refused_with_the_difference(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1), IDENTITY)
    other = {**IDENTITY, "model.encoder_units": 16, "sequence.skeleton": "c20"}
    with pytest.raises(
        ConfigError,
        match=r"model.encoder_units: 8 there, 16 asked for; sequence.skeleton: c15 there, c20 asked for",
    ):
        load_newest(tmp_path, other)


def test_a_newer_format_is_refused(tmp_path):
    import hashlib

    path = save_checkpoint(tmp_path, checkpoint(1), IDENTITY)
    record = json.loads((path / "state.json").read_text()) | {"version": 99}
    (path / "state.json").write_text(json.dumps(record))
    (path / "COMPLETE").write_text(hashlib.sha256((path / "state.json").read_bytes()).hexdigest())
    with pytest.raises(ConfigError, match="has format version 99, this program knows 1"):
        load_newest(tmp_path, IDENTITY)


def test_bundle_round_trip_and_refusals(tmp_path):
    save_bundle(tmp_path / "model", {"w": torch.ones(3)}, {"kind": "expert"})
    tensors, description = load_bundle(tmp_path, "expert")
    assert (tensors["w"] == 1).all()
    assert description["kind"] == "expert"
    with pytest.raises(ConfigError, match="is a model of kind 'expert'. Give a model of kind 'nonexpert'"):
        load_bundle(tmp_path, "nonexpert")
    with pytest.raises(ConfigError, match="holds no trained model"):
        load_bundle(tmp_path / "nowhere", "expert")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptError, match="model.safetensors: does not match the sha256 in config.json"):
        load_bundle(tmp_path, "expert")
    (tmp_path / "model" / "config.json").write_text("[]")
    with pytest.raises(CorruptError, match="is not the description of a model"):
        load_bundle(tmp_path, "expert")


def test_the_kind_of_a_bundle_is_told_without_its_weights(tmp_path):
    save_bundle(tmp_path / "model", {"w": torch.ones(3)}, {"kind": "hp_mcore"})
    assert bundle_kind(tmp_path) == bundle_kind(tmp_path / "model") == "hp_mcore"
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    assert bundle_kind(tmp_path) == "hp_mcore"
    with pytest.raises(ConfigError, match="nowhere: holds no trained model. Give the folder of a finished"):
        bundle_kind(tmp_path / "nowhere")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({"version": 99, "kind": "hp_mcore"}))
    with pytest.raises(ConfigError, match="has version 99, this program knows 1. Use the newer program"):
        bundle_kind(tmp_path)
    config.write_text(json.dumps({"version": 1}))
    with pytest.raises(CorruptError, match="is not the description of a model"):
        bundle_kind(tmp_path)
