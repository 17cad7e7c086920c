"""C3D against torch's own layers in the order of the public file whose names are numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aqa_models import c3d


class Numbered(nn.Module):
    """The whole network as two sequences: torch itself then numbers the tensors as ucf101-caffe.pth does."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        for channels, out, last in [
            (3, 64, nn.MaxPool3d((1, 2, 2))),
            (64, 128, nn.MaxPool3d(2)),
            (128, 256, None),
            (256, 256, nn.MaxPool3d(2)),
            (256, 512, None),
            (512, 512, nn.MaxPool3d(2)),
            (512, 512, None),
            (512, 512, nn.MaxPool3d(2, padding=(0, 1, 1))),
        ]:
            layers += [nn.Conv3d(channels, out, 3, padding=1), nn.ReLU()] + ([last] if last else [])
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(8192, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096, device="meta"),  # beyond fc6: only the names and sizes matter
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 101, device="meta"),
        )


def test_equals_torchs_layers_with_the_weights_of_the_numbered_file():
    torch.manual_seed(0)
    reference = Numbered()
    with torch.device("meta"):
        network = c3d.C3D()
    network.load_state_dict(c3d.from_public_names(reference.state_dict()), strict=True, assign=True)
    clips = torch.randn(1, 3, 16, 112, 112) * 50
    with torch.inference_mode():
        expected = reference.classifier[:2](reference.features(clips).flatten(1))
        found = network(clips)
    assert found.shape == (1, 4096)
    assert expected.std() > 0
    assert torch.all(found >= 0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_parameters_are_those_of_the_public_network():
    convolutions = [
        (3, 64),
        (64, 128),
        (128, 256),
        (256, 256),
        (256, 512),
        (512, 512),
        (512, 512),
        (512, 512),
    ]
    count = sum(a * b * 27 + b for a, b in convolutions) + 8192 * 4096 + 4096
    assert count == 61_214_464
    with torch.device("meta"):
        network, whole = c3d.C3D(), Numbered()
    assert sum(p.numel() for p in network.parameters()) == count
    assert (
        sum(p.numel() for p in whole.parameters()) == 78_409_573
    )  # with fc7 and 101 classes: the known 78.41 M
    assert count + 4096 * 4096 + 4096 + 4096 * 487 + 487 == 79_991_015  # Sports-1M


def test_names_of_the_other_public_files_are_ours_and_fc7_and_fc8_are_left_out():
    with torch.device("meta"):
        tensors = c3d.C3D().state_dict()
    head = {f"{fc}.{leaf}": torch.ones(1) for fc in ("fc7", "fc8") for leaf in ("weight", "bias")}
    read = c3d.from_public_names(tensors | head | {"strange.weight": torch.ones(1)})
    assert set(read) == {*tensors, "strange.weight"}


@pytest.mark.parametrize("shape", [(1, 3, 15, 112, 112), (1, 3, 16, 128, 171), (3, 16, 112, 112)])
def test_another_shape_is_refused(shape):
    with torch.device("meta"), pytest.raises(ValueError, match=r"\(B, 3, 16, 112, 112\), got"):
        c3d.C3D()(torch.empty(shape))
