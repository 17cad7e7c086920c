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
    heading: Literal["camera", "body"] = "camera"
    """Keep the camera's axes, or turn each recording about the vertical: hips and shoulders along x."""
    scaling: Literal["recording", "axis", "torso"] = "recording"
    """One number per recording, minimum to maximum of each axis, or three torso lengths, beyond which cut."""
    inputs: Literal["xyz", "angles", "both"] = "xyz"
    """Joint positions (paper), the 49 angles and positions of body_angles.py, or both side by side."""

    def __post_init__(self) -> None:
        for name in ("rate_hz", "max_frames", "stride"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")
        if self.inputs != "xyz" and self.scaling == "axis":
            raise ValueError(f"inputs {self.inputs} need one scale for all axes, not scaling axis")
        if self.inputs != "xyz" and self.time_policy != "fixed_rate":
            raise ValueError(f"inputs {self.inputs} need time_policy fixed_rate, not {self.time_policy}")


@dataclass(frozen=True, kw_only=True)
class NonExpertConfig:
    """Encoder, pace head, inpainting decoder, discriminator (paper section 3.1), and pretexts of table 2."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    pretext: Literal["inpaint", "recon", "motion_pred", "order", "none"] = "inpaint"
    """Fill in a limb, the whole body, or the second half of the frames; sort segments; or pace alone."""
    pace: bool = True
    """Slow the motion down and ask by how much, beside the pretext."""
    encoder_kind: Literal["gru", "tcn", "transformer", "state_space"] = "gru"
    """The paper's bidirectional GRU, or another network of the same width (encoders.py)."""
    encoder_units: int = 1000
    """Units of the bidirectional GRU, counted as encoder_units_mode says (paper: 1000)."""
    encoder_units_mode: Literal["per_direction", "total"] = "per_direction"
    """Encoder_units are those of each direction, or of both together."""
    encoder_layers: int = 2
    """Layers of the encoder (paper: 2)."""
    encoder_projection: bool = False
    """Map each state to as many numbers as a frame has: the other reading of the representation's size."""
    encoder_sees_masked: bool = False
    """The encoder reads the masked sequence, as the decoder does, instead of the whole one."""
    pad_literal: bool = False
    """Let the zeros before a sequence, up to max_frames, flow through all networks of the pretraining."""
    decoder_units: int = 1000
    """Units of the inpainting decoder, a GRU (paper: 1000)."""
    decoder_layers: int = 2
    """Layers of the inpainting decoder (paper: 2)."""
    decoder_bridge: Literal["linear", "sum", "forward"] = "linear"
    """How both directions of the encoder start the decoder: learned map and tanh, their sum, or the first."""
    pace_head: Literal["mlp", "gru"] = "mlp"
    """Two hidden layers over the last states, or a GRU of two layers over the states of all frames."""
    pace_units: int = 1000
    """Units of the pace head's hidden layers (paper: 1000); of the order head's too."""
    discriminator_units: int = 200
    """Units of the discriminator, a GRU (paper: 200)."""
    paces: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0)
    """Classes of the pace task: share of the frames that is stretched back to full length."""
    pace_guard: Literal["none", "shift", "low_pass"] = "shift"
    """Hides traces of the interpolation: shift = interpolate pace 1 too; low_pass = shift, and one band."""
    mask_root_of_limb: bool = True
    """Mask shoulder or hip with the limb."""
    mask_value: Literal["zero", "learned"] = "zero"
    """What a masked coordinate is replaced by (paper: zero)."""
    order_segments: int = 25
    """Segments to sort of pretext order (paper: 25); a shorter sequence has one for each frame."""
    pace_weight: float = 0.2
    """beta in L_enc = L_rec + beta * L_pace."""
    adversarial_weight: float = 0.01
    """alpha in L_inpaint = L_rec + alpha * L_adv; reaches the decoder only."""
    generator_loss: Literal["saturating", "non_saturating"] = "saturating"
    """The decoder minimises log(1 - D(inpainted)) as in the paper, or -log D(inpainted)."""
    reconstruction: Literal["mean", "sum"] = "mean"
    """mean over valid frames, joints and coordinates, or the paper's literal sum."""

    @property
    def units_per_direction(self) -> int:
        """Units of one direction of the encoder."""
        return self.encoder_units if self.encoder_units_mode == "per_direction" else self.encoder_units // 2

    @property
    def reconstructs(self) -> bool:
        """Whether there are a decoder and a discriminator."""
        return self.pretext in ("inpaint", "recon", "motion_pred")

    def __post_init__(self) -> None:
        if self.pretext == "none" and not self.pace:
            raise ValueError("pretext none without pace leaves nothing to learn; switch pace on")
        if self.encoder_units_mode == "total" and self.encoder_units % 2:
            raise ValueError(
                f"encoder_units ({self.encoder_units}) in total cannot be halved; give an even number"
            )
        if self.reconstructs and self.encoder_layers != self.decoder_layers:
            raise ValueError(
                f"decoder_layers ({self.decoder_layers}) must equal encoder_layers "
                f"({self.encoder_layers}): each decoder layer starts in the state of its encoder layer"
            )
        if self.encoder_sees_masked and self.pretext not in ("inpaint", "motion_pred"):
            raise ValueError(
                f"encoder_sees_masked needs a pretext that masks a part (inpaint, motion_pred), "
                f"not {self.pretext}"
            )
        if self.encoder_kind != "gru" and (self.encoder_projection or self.pad_literal):
            kind = self.encoder_kind
            raise ValueError(f"encoder_kind {kind} has neither encoder_projection nor pad_literal")
        if self.encoder_kind == "transformer" and self.units_per_direction % 2:
            raise ValueError(
                f"encoder_kind transformer needs an even encoder_units, not {self.units_per_direction}"
            )
        if self.reconstructs and self.decoder_bridge != "linear":
            self._check_bridge()

    def _check_bridge(self) -> None:
        if self.encoder_projection or self.decoder_units != self.units_per_direction:
            raise ValueError(
                f"decoder_bridge {self.decoder_bridge} copies states: decoder_units ({self.decoder_units}) "
                f"must equal the encoder's units per direction ({self.units_per_direction}), without "
                "encoder_projection"
            )


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
