"""Sizes and choices of the two-stage model; no torch here, so reading a configuration stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """How keypoints become model input (two_stage/sequence.py)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    skeleton: str = "c20"
    """Canonical skeleton the input is mapped to: c20 (3-D) or c15 (2-D and 3-D)."""
    rate_hz: float = 10.0
    """Uniform sampling rate; recordings are never stretched to one length, so speed survives."""
    max_frames: int = 743
    """T: longer recordings lose their start (paper: 743)."""
    inputs: Literal["xyz", "angles", "both"] = "xyz"
    """Joint positions (paper), the 49 angles and positions of body_angles.py, or both side by side."""


@dataclass(frozen=True, kw_only=True)
class NonExpertConfig:
    """Encoder, pace head, inpainting decoder, discriminator (paper section 3.1)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    encoder_kind: Literal["gru", "tcn"] = "gru"
    """The paper's bidirectional GRU, or a temporal convolution network of the same width (encoders.py)."""
    encoder_units: int = 1000
    """Units per direction of the bidirectional GRU (paper: 1000)."""
    encoder_layers: int = 2
    """Layers of the encoder (paper: 2)."""
    decoder_units: int = 1000
    """Units of the inpainting decoder, a GRU (paper: 1000)."""
    decoder_layers: int = 2
    """Layers of the inpainting decoder (paper: 2)."""
    pace_units: int = 1000
    """Units of the pace head's hidden layer (paper: 1000)."""
    discriminator_units: int = 200
    """Units of the discriminator, a GRU (paper: 200)."""
    paces: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0)
    """Classes of the pace task: share of the frames that is stretched back to full length."""
    pace_weight: float = 0.2
    """beta in L_enc = L_rec + beta * L_pace."""
    adversarial_weight: float = 0.01
    """alpha in L_inpaint = L_rec + alpha * L_adv; reaches the decoder only."""
    reconstruction: Literal["mean", "sum"] = "mean"
    """mean over valid frames, joints and coordinates, or the paper's literal sum."""


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """What stands on the encoder (paper section 3.2). The defaults are the paper's skeleton-only form."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    task: Literal["score", "classes"] = "score"
    """Regression of the score, or classification of the clip's group (the infants' risk levels)."""
    head: Literal["lstm", "linear"] = "lstm"
    """BiLSTM and BN-ReLU-FC (the expert), or a linear layer on the pooled states (non-expert only)."""
    lstm_units: int = 100
    """Units per direction."""
    pooling: Literal["last", "mean", "max", "mean_max"] = "max"
    """What of the states is scored: last forward and first backward, mean, maximum over time, or both."""
    appearance: Literal["none", "modules", "pooled"] = "none"
    """Second stream over features of the video: none, two temporal modules, or the features' mean."""
    branch_channels: int = 64
    """Channels of each of the three branches of a temporal module."""
    actions: Literal["alike", "outputs", "embedding"] = "alike"
    """One output for all action types, one for each, or one whose inputs an embedding of each scales."""
    finetune_encoder: bool = False
    """False: the encoder stays as it is; True: it learns too, at encoder_rate of the learning rate."""
