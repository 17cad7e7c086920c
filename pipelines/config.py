"""The typed, frozen configuration tree: one schema for flags, TOML, environment, Tune and MLflow.

Here is what can be set; `settings.py` fills it. A setting is named by its dotted path in the tree, e.g.
`pretrain.model.encoder_units`, everywhere: in TOML as a table ([pretrain.model]), in the environment as
AQA_PRETRAIN__MODEL__ENCODER_UNITS, on the command line without the section that the verb already names
(`aqa train pretrain --model.encoder-units 64`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from aqa_models.hp_mcore.config import PRESETS, HpMcoreConfig
from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig


class Section(BaseModel):
    """Base of every configuration section: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ExtractConfig(Section):
    """`aqa extract`: video -> poses or appearance features in the store."""

    kind: Literal["pose", "i3d", "c3d_fc6", "static", "frames"] = "pose"
    """What to extract: poses, features of an appearance network, or JPEG frames for fine-tuning."""
    sampling: Annotated[str, Field(pattern=r"^(all|fps:\d+(\.\d+)?|uniform:\d+)$")] = "all"
    """Frames taken of each clip: all, fps:10 (nearest time stamps), or uniform:96."""
    pose_config: str = "aqa-rendered"
    """Config of the MMPose zoo, top-down or one-stage, or aqa-rendered for the network in the package."""
    weights: Path | None = None
    """Weights file (.safetensors or .pth, tensors only); required unless pose_config is aqa-rendered."""
    random_weights: bool = False
    """Let an appearance network run without a weights file; the key and its spec say so."""
    static_model: str = "regnety_002"
    """timm network of kind static."""
    detector_config: str = ""
    """Config of the MMDetection zoo that finds people; empty = box of the clips table, or whole frame."""
    detector_weights: Path | None = None
    """Its weights file, tensors only."""
    detector_every: Annotated[int, Field(ge=1)] = 1
    """Detect in every n-th sampled frame; boxes in between are interpolated."""
    athlete: Annotated[str, Field(pattern=r"^(most_motion|largest|nearest_centre|track:\d+)$")] = (
        "most_motion"
    )
    """Who is the athlete: most_motion, largest, nearest_centre, or track:3."""
    people: Annotated[int, Field(ge=1)] = 1
    """Most people per clip, one row each, the athlete first."""
    flip_test: bool = False
    """Average each pose with that of the mirrored crop: twice the work, a little more accurate."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the networks; auto = bf16 where the processor or GPU multiplies it natively."""
    compile: bool = False
    """torch.compile the networks (minutes at the start; for long runs on a GPU)."""
    smoothing: Literal["none", "repair", "smooth"] = "none"
    """repair = replace outliers and unsure joints in time; smooth = also filter (docs/decisions.md)."""
    frames_per_batch: Annotated[int, Field(ge=1)] = 64
    """Frames per forward pass, across clips."""
    clips_per_call: Annotated[int, Field(ge=1)] = 4
    """Clips (or parts of long clips) given to a network at a time; its batches run across them."""
    auto: bool = False
    """Measure about 20 clips first and size the pools from that."""
    decode_workers: Annotated[int, Field(ge=0)] = 0
    """Decode processes; 0 = from the cores there are."""
    network_workers: Annotated[int, Field(ge=0)] = 0
    """Network actors; 0 = from the GPUs or cores there are."""
    referee_share: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of the clips whose every frame PyAV checks; 1 = all of them."""
    decode_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest wait for the next frames of a clip, seconds."""
    decode_memory_mb: Annotated[int, Field(ge=256)] = 3000
    """Address-space limit of one decode process."""
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Above this share of rejected clips the run ends with exit code 3 (all rows are kept)."""


class OptimizerConfig(Section):
    """Adam with a schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Step size at the start (paper: 3e-4)."""
    schedule: Literal["steps", "constant", "legacy_cosine", "warmup_cosine"] = "steps"
    """Steps = `decay` 20 times; legacy_cosine = HP-MCoRe's, zero at epochs 20, 60, 100 and so on."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor applied 20 times over the training (paper: decay rate 0.9; see docs/papers.md)."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the epochs in which warmup_cosine rises to the full step size."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    """Largest gradient norm."""


class TrainSection(Section):
    """What all trainings share."""

    epochs: Annotated[int, Field(ge=1)]
    """Passes over the training clips."""
    batch_size: Annotated[int, Field(ge=2)]
    """Clips per step, over all workers."""
    optimizer: OptimizerConfig = OptimizerConfig()
    seed: int = 0
    """Of weights, order and every random draw; recorded with the run."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Ray Train workers; 0 = in this process."""
    use_gpu: bool = False
    """One GPU per worker."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 5
    """Epochs between checkpoints."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the training subjects that choose the epoch, when no split column says val."""
    poses: str = ""
    """Key of the pose table to read; empty = the only one in the store."""


class TwoStageSection(TrainSection):
    """What pretraining and the expert share."""

    sequence: SequenceConfig = SequenceConfig()


class PretrainConfig(TwoStageSection):
    """`aqa train pretrain`: the non-expert learns pace and another pretext from healthy motion."""

    epochs: Annotated[int, Field(ge=1)] = 300
    """Passes over the training clips (paper: 300)."""
    batch_size: Annotated[int, Field(ge=2)] = 55
    """Clips per step, over all workers (paper: 55)."""
    model: NonExpertConfig = NonExpertConfig()
    groups: tuple[str, ...] = ()
    """Learn from these groups only, e.g. Expert,NotExpert (the healthy subjects of KIMORE); empty = all."""
    crop_frames: Annotated[int, Field(ge=0)] = 0
    """Longest window drawn of a recording in each epoch, in frames at rate_hz; 0 = whole recordings."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the networks; on a processor bf16 pays off above 256 units (docs/papers.md)."""
    compare_guard: bool = False
    """Also validate the pace with guard low_pass and none: val_pace_accuracy_guarded and _unguarded."""


class ExpertTrainConfig(TwoStageSection):
    """`aqa train expert`: scores motion on top of the pretrained encoder."""

    epochs: Annotated[int, Field(ge=1)] = 1000
    """Passes over the training clips (paper: 1000)."""
    batch_size: Annotated[int, Field(ge=2)] = 25
    """Clips per step, over all workers (paper: 25)."""
    model: ExpertConfig = ExpertConfig()
    action_types: tuple[str, ...] = ()
    """Train on these action types only, e.g. Es1,Es5; empty = all."""
    encoder_units: Annotated[int, Field(ge=1)] = 1000
    """Size of the encoder when none is given; a pretrained encoder brings its own."""
    encoder_layers: Annotated[int, Field(ge=1)] = 2
    crop_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Shortest share of a recording shown in training, drawn anew each epoch; 1 = always all of it."""
    feature_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the encoder's features hidden from the expert, drawn anew for each clip and epoch."""


class HpMcoreTrainConfig(TrainSection):
    """`aqa train hp-mcore`: the score of a dive from comparisons with other dives."""

    preset: Literal["best", "legacy", "paper"] = "best"
    """Where values not given come from: ours, the released code, or the paper's figures (docs/papers.md)."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """Passes over the training dives (legacy: 201)."""
    batch_size: Annotated[int, Field(ge=2)] = 8
    """Pairs per step, over all workers."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=5e-4, schedule="warmup_cosine", weight_decay=0.02
    )
    model: HpMcoreConfig = PRESETS["best"]
    encoders: Literal["frozen", "finetune"] = "frozen"
    """Frozen = features of the store; finetune = the visual encoders learn too, from frames of the store."""
    exemplars: Literal["number", "difficulty", "rotation", "any"] = "number"
    """Whom a dive is compared with: same dive number, same difficulty, same rotation group, or anyone."""
    num_exemplars: Annotated[int, Field(ge=1)] = 10
    """Comparisons averaged for a score, at most."""
    by_difficulty: bool = True
    """Compare scores per degree of difficulty, and multiply by the query's; legacy compares scores."""
    exemplar_transitions: Literal["given", "predicted"] = "given"
    """Annotated transitions of exemplars are known; legacy predicts them too outside of training."""
    predicted_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of training dives cut at predicted transitions in the last epoch; rises from 0 in the first."""
    vary_poses: bool = True
    """Mirror, turn, stretch and shake poses in training on stored features; legacy does not."""
    dynamic_rate: Annotated[float, Field(gt=0)] = 0.1
    """Step size of the dynamic encoder (I3D) against the rest, when it learns; legacy 1."""
    static_rate: Annotated[float, Field(gt=0)] = 0.1
    """Step size of the static encoder against the rest, when it learns."""
    dynamic_weights: Path | None = None
    """Weights that I3D starts from when it learns (Kinetics; tensors only); every worker must reach it."""
    static_weights: Path | None = None
    """Weights that the static encoder starts from when it learns (ImageNet, of timm; tensors only)."""
    random_weights: bool = False
    """Let visual encoders without a weights file learn from random weights."""
    transform_poses: bool = True
    """Poses are scaled, flipped and cropped with the frames; legacy leaves them in video pixels."""
    decode_workers: Annotated[int, Field(ge=1)] = 2
    """Processes that decode frames for each Ray Train worker."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the networks."""
    checkpoint_gradients: bool = False
    """Recompute the visual encoders' activations in the backward pass: less memory, more time."""
    dynamic: str = ""
    """Key of the i3d feature table; empty = the only one in the store."""
    static: str = ""
    """Key of the static feature table; empty = the only one in the store."""
    frames: str = ""
    """Key of the frames table, read to fine-tune; empty = the only one in the store."""


class EvaluateConfig(Section):
    """`aqa evaluate`."""

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of subjects for the 95 % interval."""
    seed: int = 0
    """Of the resamples."""


class PoseTrainConfig(Section):
    """`aqa pose train`: fine-tunes a pose network on manual labels."""

    steps: Annotated[int, Field(ge=1)] = 300
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 12
    """Views per step, over all workers."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """AdamW step size after 50 steps of warm-up; falls along a cosine."""
    render_share: Annotated[float, Field(ge=0, le=1)] = 0.33
    """Share of the views that show rendered divers; the others show labelled frames."""
    seed: int = 0
    """Of renders, views and new layers; recorded with the run."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Ray Train workers; 0 = in this process."""
    use_gpu: bool = False
    """One GPU per worker."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    """Steps between checkpoints."""


class TrackingConfig(Section):
    """MLflow."""

    uri: str = ""
    """Tracking URI; empty = MLFLOW_TRACKING_URI, else mlflow.db beside the run."""
    experiment: str = "aqa"
    """Name of the MLflow experiment the run belongs to."""
    parent: Path | None = None
    """Folder of the run whose child this one is in MLflow (a sweep, a workflow, a cross-validation)."""


class Config(Section):
    """The whole tree, as a TOML file holds it."""

    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = PretrainConfig()
    expert: ExpertTrainConfig = ExpertTrainConfig()
    hp_mcore: HpMcoreTrainConfig = HpMcoreTrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    pose_train: PoseTrainConfig = PoseTrainConfig()
    tracking: TrackingConfig = TrackingConfig()


# What a preset of a section says beyond the preset of its model: dotted path -> value.
TRAIN_PRESETS: dict[str, dict[str, dict[str, object]]] = {
    "hp_mcore": {
        "best": {
            "optimizer.learning_rate": 5e-4,
            "optimizer.schedule": "warmup_cosine",
            "optimizer.weight_decay": 0.02,
        },
        "legacy": {
            "epochs": 201,
            "optimizer.learning_rate": 5e-4,
            "optimizer.schedule": "legacy_cosine",
            "by_difficulty": False,
            "vary_poses": False,
            "exemplar_transitions": "predicted",
            "predicted_share": 0.0,
            "dynamic_rate": 1.0,
            "transform_poses": False,
        },
        "paper": {
            "epochs": 201,
            "optimizer.learning_rate": 5e-4,
            "optimizer.schedule": "legacy_cosine",
            "by_difficulty": False,
            "vary_poses": False,
            "exemplar_transitions": "predicted",
            "dynamic_rate": 1.0,
        },
    }
}
