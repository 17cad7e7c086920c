"""The dynamic encoder starts from a public I3D file; refusals are in test_finetune.py."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from filmed_dives import STATIC, learning

from aqa_models.hp_mcore.model import HpMcore
from aqa_models.i3d import I3D
from pipelines.hp_mcore.weights import check_weights, load_weights


def test_a_kinetics_file_is_what_the_dynamic_encoder_starts_from(tmp_path):
    """The released file of 400 classes: its classifier is left out, all else arrives, by name."""
    torch.manual_seed(3)
    given = I3D().state_dict()
    classifier = {
        "conv3d_0c_1x1.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1),
        "conv3d_0c_1x1.conv3d.bias": torch.zeros(400),
    }
    file = tmp_path / "model_rgb.pth"
    torch.save(given | classifier, file)
    config = learning(replace(STATIC, use_dynamic=True, use_static=False), dynamic_weights=file)
    assert check_weights(config) == {"dynamic_weights.sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    torch.manual_seed(4)
    model = HpMcore(config.model, encoders=True)
    load_weights(model, config)
    assert model.dynamic_encoder is not None
    got = model.dynamic_encoder.network.state_dict()
    assert got.keys() == given.keys()
    assert all(torch.equal(got[name], given[name]) for name in given)
