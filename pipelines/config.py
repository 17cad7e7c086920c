"""The typed, frozen configuration tree: one schema for flags, TOML, environment, Tune and MLflow.

Order of strength: command line > environment (AQA_SECTION__KEY) > TOML file > default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig


class Section(BaseModel):
    """Base of every configuration section: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ExtractConfig(Section):
    """`aqa extract`: video -> poses in the store."""

    sampling: Annotated[str, Field(pattern=r"^(all|fps:\d+(\.\d+)?|uniform:\d+)$")] = "all"
    """Frames taken of each clip: all, fps:10 (nearest time stamps), or uniform:96."""
    pose_config: str = "aqa-rendered"
    """Name of a top-down config in the MMPose zoo, or aqa-rendered for the network in the package."""
    weights: Path | None = None
    """Weights file (.safetensors or .pth, tensors only); required unless pose_config is aqa-rendered."""
    frames_per_batch: Annotated[int, Field(ge=1)] = 64
    """Frames per forward pass, across clips."""
    clips_per_unit: Annotated[int, Field(ge=1)] = 8
    """Clips per Parquet file and commit."""
    decode_workers: Annotated[int, Field(ge=0)] = 0
    """Decode processes; 0 = from the cores there are."""
    pose_workers: Annotated[int, Field(ge=0)] = 0
    """Pose actors; 0 = from the GPUs or cores there are."""
    decode_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Wall-clock limit for one clip."""
    decode_memory_mb: Annotated[int, Field(ge=256)] = 3000
    """Address-space limit of one decode process."""
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Above this share of rejected clips the run ends with exit code 3 (all rows are kept)."""


class OptimizerConfig(Section):
    """Adam with a stepwise decay."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor applied 20 times over the training (paper: decay rate 0.9; see docs/papers.md)."""
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    """Largest gradient norm."""


class TrainSection(Section):
    """What pretraining and the expert share."""

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)]
    optimizer: OptimizerConfig = OptimizerConfig()
    sequence: SequenceConfig = SequenceConfig()
    seed: int = 0
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Ray Train workers; 0 = in this process."""
    use_gpu: bool = False
    """One GPU per worker."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 5
    """Epochs between checkpoints."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the training subjects that choose the epoch, when no split column says val."""


class PretrainConfig(TrainSection):
    """`aqa train pretrain`: the non-expert learns pace and inpainting from healthy motion."""

    epochs: Annotated[int, Field(ge=1)] = 300
    batch_size: Annotated[int, Field(ge=2)] = 55
    model: NonExpertConfig = NonExpertConfig()
    crop_frames: Annotated[int, Field(ge=0)] = 0
    """Longest window drawn of a recording in each epoch, in frames at rate_hz; 0 = whole recordings."""


class ExpertTrainConfig(TrainSection):
    """`aqa train expert`: scores motion on top of the pretrained encoder."""

    epochs: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=2)] = 25
    model: ExpertConfig = ExpertConfig()
    action_type: str = ""
    """Train on this action type only, e.g. Es5; empty = all."""
    encoder_units: Annotated[int, Field(ge=1)] = 1000
    """Size of the encoder when none is given; a pretrained encoder brings its own."""
    encoder_layers: Annotated[int, Field(ge=1)] = 2


class EvaluateConfig(Section):
    """`aqa evaluate`."""

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of subjects for the 95 % interval."""
    seed: int = 0


class TrackingConfig(Section):
    """MLflow."""

    uri: str = ""
    """Tracking URI; empty = MLFLOW_TRACKING_URI, else mlflow.db beside the run."""
    experiment: str = "aqa"


class Config(Section):
    """The whole tree, as a TOML file holds it."""

    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = PretrainConfig()
    expert: ExpertTrainConfig = ExpertTrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()
