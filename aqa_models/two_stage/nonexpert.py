"""The non-expert: encoder, pace head, inpainting decoder and discriminator (paper section 3.1, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.encoders import TcnEncoder
from aqa_models.two_stage.pretext import PretextBatch
from aqa_models.two_stage.recurrent import Recurrent


class Encoder(nn.Module):
    """E: bidirectional GRU; one representation per frame (docs/papers.md, A3 and A4)."""

    def __init__(self, num_features: int, units: int, layers: int):
        super().__init__()
        self.width = 2 * units
        self.gru = Recurrent(nn.GRU, num_features, units, layers, bidirectional=True)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B, T) -> states (B, T, 2W), final states (layers, B, 2W): forward, backward."""
        return self.gru(x, valid)


def build_encoder(num_features: int, config: NonExpertConfig) -> Encoder | TcnEncoder:
    """An encoder of the configuration's kind with fresh weights; `width` is that of its states."""
    kind = Encoder if config.encoder_kind == "gru" else TcnEncoder
    return kind(num_features, config.encoder_units, config.encoder_layers)


class PaceHead(nn.Module):
    """D1: two hidden layers over the encoder's last states, (B, 2W) -> (B, N) logits."""

    def __init__(self, width: int, units: int, num_paces: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, num_paces),
        )

    def forward(self, last: Tensor) -> Tensor:
        """(B, 2W) last forward and first backward state of the top layer -> (B, N) logits."""
        return self.layers(last)


class Decoder(nn.Module):
    """D2: GRU that reads the masked frames, starts in the encoder's states, and writes all joints."""

    def __init__(self, num_features: int, encoder_width: int, units: int, layers: int):
        super().__init__()
        # A5: the paper does not say how 2 x 1000 encoder units become 1000 decoder units.
        self.bridge = nn.ModuleList(nn.Linear(encoder_width, units) for _ in range(layers))
        self.gru = Recurrent(nn.GRU, num_features, units, layers, bidirectional=False)
        self.out = nn.Linear(units, num_features)

    def forward(self, masked: Tensor, valid: Tensor, final: Tensor) -> Tensor:
        """(B, T, F), (B, T), (layers, B, 2W) -> inpainted sequence (B, T, F)."""
        h0 = torch.stack([torch.tanh(link(state)) for link, state in zip(self.bridge, final, strict=True)])
        states, _ = self.gru(masked, valid, h0)
        return self.out(states)


class Discriminator(nn.Module):
    """Tells inpainted from true sequences: GRU, last state, one logit."""

    def __init__(self, num_features: int, units: int):
        super().__init__()
        self.gru = Recurrent(nn.GRU, num_features, units, 1, bidirectional=False)
        self.out = nn.Linear(units, 1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, F), (B, T) -> (B,) logit of being true."""
        _, final = self.gru(x, valid)
        return self.out(final[-1]).squeeze(-1)


@dataclass(frozen=True)
class PretextAnswer:
    """The non-expert's answers: pace logits (B, N), inpainted (B, T, F), real and fake logits (B,)."""

    pace: Tensor
    inpainted: Tensor
    real: Tensor
    fake: Tensor


class NonExpert(nn.Module):
    """All parts of stage 1. `parts` names the groups of parameters that get different gradients."""

    parts = ("encoder", "pace_head", "decoder", "discriminator")

    def __init__(self, num_features: int, config: NonExpertConfig):
        super().__init__()
        if config.encoder_layers != config.decoder_layers:
            raise ValueError(
                f"decoder_layers ({config.decoder_layers}) must equal encoder_layers "
                f"({config.encoder_layers}): each decoder layer starts in the state of its encoder layer"
            )
        width = 2 * config.encoder_units
        self.encoder = build_encoder(num_features, config)
        self.pace_head = PaceHead(width, config.pace_units, len(config.paces))
        self.decoder = Decoder(num_features, width, config.decoder_units, config.decoder_layers)
        self.discriminator = Discriminator(num_features, config.discriminator_units)

    def forward(self, batch: PretextBatch) -> PretextAnswer:
        """The encoder reads the slowed, unmasked sequence (A6); the decoder reads the masked one."""
        _, final = self.encoder(batch.slowed, batch.valid)
        inpainted = self.decoder(batch.masked, batch.valid, final)
        return PretextAnswer(
            pace=self.pace_head(final[-1]),
            inpainted=inpainted,
            real=self.discriminator(batch.slowed, batch.valid),
            fake=self.discriminator(inpainted, batch.valid),
        )
