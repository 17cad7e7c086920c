"""The dynamic encoder: which frames its windows hold, and that recomputing changes nothing but memory."""

from __future__ import annotations

import copy

import pytest
import torch

from aqa_models.hp_mcore.dynamic import DynamicEncoder, window_count
from aqa_models.i3d import I3D


def frames(count: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def encoder() -> DynamicEncoder:
    torch.manual_seed(0)
    return DynamicEncoder().eval()


@pytest.mark.parametrize(
    ("length", "windows"), [(16, 1), (25, 1), (26, 2), (95, 8), (96, 9), (103, 9), (106, 10)]
)
def test_windows_start_every_ten_frames(length, windows):
    assert window_count(length) == windows


def test_parameters_are_those_of_the_published_table():
    with torch.device("meta"):
        assert sum(p.numel() for p in DynamicEncoder().parameters()) == 12_287_264
        assert sum(p.numel() for p in DynamicEncoder(legacy_logits=True).parameters()) == 12_697_264


@torch.inference_mode()
def test_each_window_is_i3d_of_its_frames(encoder):
    clip = frames(36, batch=2)
    features = encoder(clip)
    assert features.shape == (2, 3, 1024)
    for performance in range(2):
        for window in range(3):
            alone = clip[performance, 10 * window : 10 * window + 16].transpose(0, 1)[None]
            torch.testing.assert_close(
                features[performance, window], encoder.network(alone)[0], atol=1e-5, rtol=1e-4
            )


@torch.inference_mode()
def test_frames_beyond_the_last_window_are_not_seen(encoder):
    clip = frames(20)
    changed = clip.clone()
    changed[:, 16:] = 0
    assert torch.equal(encoder(clip), encoder(changed))
    changed[:, 15] = 0
    assert not torch.equal(encoder(clip), encoder(changed))


def test_recomputing_gives_the_same_features_gradients_and_statistics():
    torch.manual_seed(0)
    plain = DynamicEncoder().train()
    again = copy.deepcopy(plain)
    again.checkpoint = True
    for model in (plain, again):
        features = model(frames(26, batch=2))
        features.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert a.grad is not None, name
        assert a.grad.abs().max() > 0, name
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), again.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert plain.network.conv3d_1a_7x7.batch3d.num_batches_tracked == 1


def test_the_unused_classifier_gets_no_gradient():
    model = DynamicEncoder(legacy_logits=True)
    model(frames(16)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == [
        "logits.weight",
        "logits.bias",
    ]


def test_takes_the_weights_of_i3d(encoder):
    source = I3D()
    target = DynamicEncoder()
    target.network.load_state_dict(source.state_dict(), strict=True)
    clip = frames(16)
    with torch.inference_mode():
        want = source.eval()(clip.transpose(1, 2))
        torch.testing.assert_close(target.eval()(clip)[:, 0], want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 15, 3, 32, 32), "at least 16 frames, got 15"),
        ((1, 3, 16, 32, 32), r"needs \(B, T, 3, h, w\), got \(1, 3, 16, 32, 32\)"),
        ((16, 3, 32, 32), r"needs \(B, T, 3, h, w\)"),
    ],
)
def test_other_shapes_are_refused(encoder, shape, message):
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(shape))
