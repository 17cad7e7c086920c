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
    """Uniform sampling rate of time_policy fixed_rate, so speed survives."""
    max_frames: int = 743
    """T: longer recordings lose their start, with truncate_back their end (paper: 743)."""
    time_policy: Literal["fixed_rate", "stride_k", "truncate_front", "truncate_back", "stretch"] = (
        "fixed_rate"
    )
    """Frames from a clock at rate_hz, every stride-th frame, all frames, or max_frames of every recording."""
    stride: int = 2
    """Every how many frames time_policy stride_k keeps one."""
    centre: Literal["first_frame", "every_frame"] = "first_frame"
    """Where the root is the origin: in the first frame (keeps walking and squatting) or in each."""
    scaling: Literal["recording", "axis", "torso"] = "recording"
    """One number per recording, minimum to maximum of each axis, or three torso lengths, beyond which cut."""

    def __post_init__(self) -> None:
        for name in ("rate_hz", "max_frames", "stride"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")


@dataclass(frozen=True, kw_only=True)
class NonExpertConfig:
    """Encoder, pace head, inpainting decoder, discriminator (paper section 3.1)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

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
    """Skeleton-only expert: BiLSTM over the encoder's states, then BN-ReLU-FC (paper section 3.2)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    lstm_units: int = 100
    """Units per direction."""
    pooling: Literal["last", "mean", "max"] = "max"
    """What of the BiLSTM is scored: last forward and first backward state, or mean or maximum over time."""
    finetune_encoder: bool = False
    """False: the pretrained encoder stays frozen; True: trained at 0.1 of the learning rate."""
