"""The non-expert: encoder, pace head, inpainting decoder and discriminator (paper section 3.1, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.encoders import StateSpaceEncoder, TcnEncoder, TransformerEncoder
from aqa_models.two_stage.pretext import PretextBatch
from aqa_models.two_stage.recurrent import Recurrent


class Encoder(nn.Module):
    """E: bidirectional GRU; one representation per frame (docs/papers.md, A3 and A4).

    Args:
        num_features: F.
        units: W, per direction.
        layers: number of stacked layers.
        projection: map every state to F numbers.
        pad_literal: see `Recurrent`.

    Attributes:
        width: R, numbers per state: 2W, or F with the projection.
    """

    def __init__(
        self,
        num_features: int,
        units: int,
        layers: int,
        projection: bool = False,
        pad_literal: bool = False,
    ):
        super().__init__()
        self.units, self.layers = units, layers
        self.width = num_features if projection else 2 * units
        self.gru = Recurrent(nn.GRU, num_features, units, layers, bidirectional=True, pad_literal=pad_literal)
        self.projection = nn.Linear(2 * units, num_features) if projection else nn.Identity()

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B, T) -> states (B, T, R), final states (layers, B, R): forward, backward."""
        states, final = self.gru(x, valid)
        return self.projection(states), self.projection(final)


class Mlp(nn.Sequential):
    """Two hidden layers over the encoder's last states, (B, R) -> (B, N) logits."""

    def __init__(self, width: int, units: int, num_classes: int):
        super().__init__(
            nn.Linear(width, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, num_classes),
        )


class PaceHead(nn.Module):
    """D1, two layers, over the last states of the top layer, or a GRU on the states of all frames."""

    def __init__(self, width: int, config: NonExpertConfig):
        super().__init__()
        if config.pace_head == "mlp":
            self.layers: nn.Module = Mlp(width, config.pace_units, len(config.paces))
        else:
            self.gru = Recurrent(nn.GRU, width, config.pace_units, 2, False, config.pad_literal)
            self.out = nn.Linear(config.pace_units, len(config.paces))
        self.reads_states = config.pace_head == "gru"

    def forward(self, states: Tensor, valid: Tensor, last: Tensor) -> Tensor:
        """(B, T, R) states, (B, T), (B, R) last forward and first backward state -> (B, N) logits."""
        if not self.reads_states:
            return self.layers(last)
        _, final = self.gru(states, valid)
        return self.out(final[-1])


class Decoder(nn.Module):
    """D2: GRU that reads the masked frames, starts in the encoder's states, and writes all joints."""

    def __init__(self, num_features: int, encoder_width: int, config: NonExpertConfig):
        super().__init__()
        units, layers = config.decoder_units, config.decoder_layers
        # A5: the paper does not say how 2 x 1000 encoder units become 1000 decoder units.
        self.bridge_kind = config.decoder_bridge
        links = layers if config.decoder_bridge == "linear" else 0
        self.bridge = nn.ModuleList(nn.Linear(encoder_width, units) for _ in range(links))
        self.gru = Recurrent(nn.GRU, num_features, units, layers, False, config.pad_literal)
        self.out = nn.Linear(units, num_features)
        learned = config.mask_value == "learned"
        self.mask_value = nn.Parameter(torch.zeros(num_features)) if learned else None

    def mask(self, batch: PretextBatch) -> Tensor:
        """(B, T, F) S' with the mask's value where coordinates are hidden."""
        if self.mask_value is None:
            return batch.slowed.masked_fill(batch.hidden, 0.0)
        return torch.where(batch.hidden, self.mask_value, batch.slowed)

    def forward(self, masked: Tensor, valid: Tensor, final: Tensor) -> Tensor:
        """(B, T, F), (B, T), (layers, B, R) -> inpainted sequence (B, T, F)."""
        states, _ = self.gru(masked, valid, self._start(final))
        return self.out(states)

    def _start(self, final: Tensor) -> Tensor:
        """(layers, B, R) -> (layers, B, W)."""
        if self.bridge_kind == "linear":
            return torch.stack([torch.tanh(link(s)) for link, s in zip(self.bridge, final, strict=True)])
        forward, backward = final.chunk(2, dim=-1)
        return forward + backward if self.bridge_kind == "sum" else forward


class Discriminator(nn.Module):
    """Tells inpainted from true sequences: GRU, last state, one logit."""

    def __init__(self, num_features: int, units: int, pad_literal: bool = False):
        super().__init__()
        self.gru = Recurrent(nn.GRU, num_features, units, 1, False, pad_literal)
        self.out = nn.Linear(units, 1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, F), (B, T) -> (B,) logit of being true."""
        _, final = self.gru(x, valid)
        return self.out(final[-1]).squeeze(-1)


@dataclass(frozen=True)
class PretextAnswer:
    """The non-expert's answers, None where nothing was asked.

    Attributes:
        pace: (B, N) logits.
        inpainted: (B, T, F).
        real: (B,) logits of the true sequences.
        fake: (B,) logits of the inpainted ones.
        order: (B, N, N) logits: for each place of the shuffled sequence, which segment it holds.
    """

    pace: Tensor | None = None
    inpainted: Tensor | None = None
    real: Tensor | None = None
    fake: Tensor | None = None
    order: Tensor | None = None


class NonExpert(nn.Module):
    """All parts of stage 1 that the configuration asks for.

    Attributes:
        parts: names of the groups of parameters that get different gradients: encoder, and of pace_head,
            decoder, discriminator, order_head those there are.
    """

    def __init__(self, num_features: int, config: NonExpertConfig):
        super().__init__()
        self.config = config
        self.encoder = build_encoder(num_features, config)
        self.parts = ["encoder"]
        if config.pace:
            self.pace_head = PaceHead(self.encoder.width, config)
            self.parts.append("pace_head")
        if config.reconstructs:
            self.decoder = Decoder(num_features, self.encoder.width, config)
            self.discriminator = Discriminator(num_features, config.discriminator_units, config.pad_literal)
            self.parts += ["decoder", "discriminator"]
        if config.pretext == "order":
            self.order_head = Mlp(self.encoder.width, config.pace_units, config.order_segments**2)
            self.parts.append("order_head")

    def forward(self, batch: PretextBatch) -> PretextAnswer:
        """The encoder reads the slowed, unmasked sequence (A6); the decoder reads the masked one."""
        config, valid = self.config, batch.valid
        masked = self.decoder.mask(batch) if config.reconstructs else batch.slowed
        # Shown the second half, the encoder could hand it to the decoder, and nothing would be predicted.
        hides = config.encoder_sees_masked or config.pretext == "motion_pred"
        states, final = self.encoder(masked if hides else batch.slowed, valid)
        inpainted = self.decoder(masked, valid, final) if config.reconstructs else None
        order = None
        if config.pretext == "order":
            order = self.order_head(final[-1]).unflatten(1, (config.order_segments, -1))
        return PretextAnswer(
            pace=self.pace_head(states, valid, final[-1]) if config.pace else None,
            inpainted=inpainted,
            real=None if inpainted is None else self.discriminator(batch.slowed, valid),
            fake=None if inpainted is None else self.discriminator(inpainted, valid),
            order=order,
        )


def build_encoder(num_features: int, config: NonExpertConfig) -> nn.Module:
    """An encoder of the configuration's kind with fresh weights; `width` is that of its states."""
    others = {"tcn": TcnEncoder, "transformer": TransformerEncoder, "state_space": StateSpaceEncoder}
    if config.encoder_kind != "gru":
        return others[config.encoder_kind](num_features, config.units_per_direction, config.encoder_layers)
    return Encoder(
        num_features,
        config.units_per_direction,
        config.encoder_layers,
        config.encoder_projection,
        config.pad_literal,
    )
