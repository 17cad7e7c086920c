from __future__ import annotations

import pytest
import torch

from aqa_models.two_stage.appearance import AppearanceStream, TemporalModule, pad_back
from aqa_models.two_stage.config import ExpertConfig


def stream(channels: int = 10, **options) -> AppearanceStream:
    torch.manual_seed(0)
    return AppearanceStream(
        channels, ExpertConfig(**{"appearance": "modules", "branch_channels": 4} | options)
    )


def test_shapes_of_the_specification():
    net = stream(4096, branch_channels=64)
    x, valid = torch.randn(2, 4096, 45), torch.ones(2, 45, dtype=torch.bool)
    x, valid = net.stages[0](x, valid)
    assert x.shape == (2, 192, 22)
    x, valid = net.stages[1](x, valid)
    assert x.shape == (2, 192, 11)
    assert valid.all()
    assert net.width == 192
    pointwise, depthwise = 4096 * 64 + 64, sum(64 * (size + 1) for size in (3, 5, 7))
    assert sum(p.numel() for p in net.stages[0].parameters()) == pointwise + depthwise + 3 * 128


def test_one_module_by_hand():
    """One channel, identity kernels: the maximum of each pair of steps, normalised, three times."""
    module = TemporalModule(1, 1).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.narrow.weight.fill_(1.0)
        for convolution, norm in zip(module.branches, module.norms, strict=True):
            convolution.weight[0, 0, convolution.kernel_size[0] // 2] = 1.0
            norm.weight.fill_(1.0)
        module.norms[1].bias.fill_(10.0)
    x, valid = module(torch.tensor([[[1.0, 3.0, -2.0, -1.0, 7.0]]]), torch.ones(1, 5, dtype=torch.bool))
    expected = torch.tensor([[[3.0, 0.0], [13.0, 9.0], [3.0, 0.0]]])
    torch.testing.assert_close(x, expected, atol=1e-3, rtol=1e-4)
    assert valid.tolist() == [[True, True]]


@pytest.mark.parametrize("appearance", ["modules", "pooled"])
def test_padding_changes_nothing(appearance):
    net = stream(appearance=appearance).eval()
    items = [torch.randn(n, 10) for n in (4, 11, 6)]
    together = net(*pad_back(items))
    alone = torch.cat([net(*pad_back([item])) for item in items])
    torch.testing.assert_close(together, alone)
    if appearance == "pooled":
        torch.testing.assert_close(alone[1], items[1].mean(dim=0))


def test_padding_does_not_enter_the_statistics_of_the_batch():
    items = [torch.randn(8, 10), torch.randn(4, 10)]
    features, valid = pad_back(items)
    wild = features.masked_fill(~valid[..., None], 1e6)
    torch.testing.assert_close(stream()(wild, valid), stream()(features, valid))


def test_clips_that_do_not_count_leave_no_trace_in_the_others():
    items = [torch.randn(n, 10) for n in (8, 4, 9)]
    counts = torch.tensor([True, False, True])
    net, alone = stream(), stream()
    found = net(*pad_back(items), counts)
    torch.testing.assert_close(found[counts], alone(*pad_back([items[0], items[2]])))
    for ours, theirs in zip(net.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_too_few_segments_are_refused():
    with pytest.raises(ValueError, match="at least 4 segments in every row"):
        stream()(*pad_back([torch.randn(8, 10), torch.randn(3, 10)]))
