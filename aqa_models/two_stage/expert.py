"""The expert: turns the encoder's states, and features of the video, into a score (paper section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aqa_models.two_stage.appearance import AppearanceStream
from aqa_models.two_stage.config import ExpertConfig
from aqa_models.two_stage.norm import BatchNorm
from aqa_models.two_stage.recurrent import Recurrent


def pool(states: Tensor, valid: Tensor, final: Tensor, pooling: str) -> Tensor:
    """States of all frames -> one vector per clip.

    Args:
        states: (B, T, W), anything on padding.
        valid: (B, T) bool.
        final: (B, W) last state, as the network defines it.
        pooling: last, mean, max, or mean_max.

    Returns:
        (B, W), of mean_max (B, 2 W).
    """
    if pooling == "last":
        return final
    shown = valid[..., None]
    mean = states.masked_fill(~shown, 0.0).sum(dim=1) / shown.sum(dim=1)
    highest = states.masked_fill(~shown, -torch.inf).amax(dim=1)
    return {"mean": mean, "max": highest, "mean_max": torch.cat([mean, highest], dim=1)}[pooling]


class PoseStream(nn.Module):
    """v_p: the encoder's states, read by a BiLSTM or as they are, pooled over time.

    Attributes:
        width: of v_p; 200 in the paper.
    """

    def __init__(self, state_width: int, config: ExpertConfig):
        super().__init__()
        self.pooling = config.pooling
        self.lstm, width = None, state_width
        if config.head == "lstm":
            self.lstm = Recurrent(nn.LSTM, state_width, config.lstm_units, 1, bidirectional=True)
            width = 2 * config.lstm_units
        self.width = (2 if config.pooling == "mean_max" else 1) * width

    def forward(self, states: Tensor, valid: Tensor, final: Tensor) -> Tensor:
        """(B, T, D), (B, T), (B, D) last states of the encoder -> (B, width)."""
        if self.lstm is not None:
            states, last = self.lstm(states, valid)
            final = last[-1]
        return pool(states, valid, final, self.pooling)


class Output(nn.Module):
    """One or more numbers for each clip, of an output of its action type if there are such.

    Args:
        width: of what is read.
        num_outputs: N: 1 score, or one logit per class.
        num_actions: A.
        actions: alike = one linear layer; outputs = one for each action type; embedding = one layer that
            reads v * (1 + e_a) and adds b_a. e and b start at zero: all are alike until data say otherwise.
    """

    def __init__(self, width: int, num_outputs: int, num_actions: int, actions: str):
        super().__init__()
        self.actions, self.num_outputs = actions, num_outputs
        self.linear = nn.Linear(width, num_outputs * (num_actions if actions == "outputs" else 1))
        if actions == "embedding":
            self.scale = nn.Embedding(num_actions, width)
            self.shift = nn.Embedding(num_actions, num_outputs)
            nn.init.zeros_(self.scale.weight)
            nn.init.zeros_(self.shift.weight)

    def forward(self, vector: Tensor, action: Tensor) -> Tensor:
        """(B, width), (B,) int64 index of the action type -> (B, N)."""
        if self.actions == "embedding":
            return self.linear(vector * (1 + self.scale(action))) + self.shift(action)
        out = self.linear(vector)
        if self.actions == "alike":
            return out
        every = out.unflatten(1, (-1, self.num_outputs))
        return every[torch.arange(len(out), device=out.device), action]


class ExpertHead(nn.Module):
    """Streams, concatenated; BN-ReLU before the last layer unless the head is linear.

    Args:
        state_width: D of the encoder's states.
        config: which streams and outputs.
        num_outputs: N.
        num_actions: A.
        feature_channels: of the video's features, if the configuration has an appearance stream.
    """

    def __init__(
        self,
        state_width: int,
        config: ExpertConfig,
        num_outputs: int = 1,
        num_actions: int = 1,
        feature_channels: int = 0,
    ):
        super().__init__()
        self.pose = PoseStream(state_width, config)
        width = self.pose.width
        self.appearance = None
        if config.appearance != "none":
            self.appearance = AppearanceStream(feature_channels, config)
            width += self.appearance.width
        self.norm = BatchNorm(width) if config.head == "lstm" else None
        self.out = Output(width, num_outputs, num_actions, config.actions)

    def forward(
        self,
        states: Tensor,
        valid: Tensor,
        final: Tensor,
        action: Tensor,
        video: tuple[Tensor, Tensor] | None = None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Answers for a batch.

        Args:
            states: (B, T, D) of the encoder.
            valid: (B, T) bool.
            final: (B, D) last states of the encoder.
            action: (B,) int64 index of the action type.
            video: features (B, S, D') and their (B, S) bool, True on the first S_b; needed by an
                appearance stream.
            counts: (B,) bool, clips that the statistics of training are taken of; None = all.

        Returns:
            (B, N) standardised scores, or logits.

        Raises:
            ValueError: the appearance stream gets no features, or too few segments.
        """
        vector = self.pose(states, valid, final)
        if self.appearance is not None:
            if video is None:
                raise ValueError("this expert has an appearance stream and needs features of the video")
            vector = torch.cat([vector, self.appearance(*video, counts)], dim=1)
        if self.norm is not None:
            vector = torch.relu(self.norm(vector, counts))
        return self.out(vector, action)


class Expert(nn.Module):
    """Encoder and head. Scores are standardised; their means and deviations are kept outside.

    Args:
        encoder: (B, T, F), (B, T) -> states (B, T, D), final (layers, B, D).
        state_width: D.
        config, sizes: see `ExpertHead`.
    """

    def __init__(self, encoder: nn.Module, state_width: int, config: ExpertConfig, **sizes: int):
        super().__init__()
        self.encoder, self.state_width = encoder, state_width
        self.head = ExpertHead(state_width, config, **sizes)
        if not config.finetune_encoder:
            self.encoder.requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        valid: Tensor,
        action: Tensor,
        video: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """(B, T, F), (B, T), (B,), features of the video -> (B, N)."""
        states, final = self.encoder(x, valid)
        return self.head(states, valid, final[-1], action, video)
