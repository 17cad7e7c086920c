"""The typed, frozen configuration tree: one schema for flags, TOML, environment, Tune and MLflow.

Here is what can be set; `settings.py` fills it. A setting is named by its dotted path in the tree, e.g.
`pretrain.model.encoder_units`, everywhere: in TOML as a table ([pretrain.model]), in the environment as
AQA_PRETRAIN__MODEL__ENCODER_UNITS, on the command line without the section that the verb already names
(`aqa train pretrain --model.encoder-units 64`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aqa_models.hp_mcore.config import PRESETS, HpMcoreConfig
from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig

ExpertPreset = Literal[
    "skeleton_only",
    "full",
    "c3d_as_expert",
    "only_expert",
    "nonexpert_U",
    "nonexpert_S",
    "nonexpert_US",
    "best",
]


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
    min_workers: Annotated[int, Field(ge=0)] = 0
    """When nodes are lost, go on with those workers there is room for, but no fewer than this; 0 = wait until
    there is room for all."""
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

    preset: Literal["paper", "best"] = "paper"
    """Where values not given come from: the paper, or what serves the expert's preset best."""
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
    preset: ExpertPreset = "skeleton_only"
    """Where values not given come from: a row of the paper's tables, or ours (docs/papers.md)."""
    encoder_start: Literal["any", "pretrained", "random"] = "any"
    """Which start the run must have: a pretrained encoder, random weights, or whatever is given."""
    encoder_kind: Literal["gru", "tcn", "transformer", "state_space"] = "gru"
    """The encoder when none is given; a pretrained one brings its own kind and size."""
    encoder_units: Annotated[int, Field(ge=1)] = 1000
    """Size of the encoder when none is given; a pretrained encoder brings its own."""
    encoder_layers: Annotated[int, Field(ge=1)] = 2
    encoder_rate: Annotated[float, Field(gt=0)] = 0.1
    """Step size of a pretrained encoder against the head, when it learns; one of random weights takes 1."""
    crop_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Shortest share of a recording shown in training, drawn anew each epoch; 1 = always all of it."""
    feature_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the encoder's features hidden from the expert, drawn anew for each clip and epoch."""
    input_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the input columns hidden from an encoder that learns, drawn likewise."""
    mirror: bool = False
    """Show the mirror image half of the time, and average the scores of both; not for one-sided exercises."""
    loss: Literal["squared", "huber"] = "squared"
    """Of the standardised score; huber grows linearly beyond half a deviation."""
    ranking_weight: Annotated[float, Field(ge=0)] = 0.0
    """Of a hinge loss on pairs of the same action type that the model puts in the wrong order."""
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share that a moving average of the weights, which scores, keeps in each epoch; 0 = no average."""
    members: Annotated[int, Field(ge=1)] = 1
    """Experts averaged; without val rows each is validated on, and does not learn from, other people."""
    features: str = ""
    """Key of the feature table for the appearance stream; empty = the only one in the store."""
    feature_kind: Literal["c3d_fc6", "i3d"] = "c3d_fc6"
    """Which features of the video the appearance stream reads (paper: c3d_fc6)."""


class AnglesTrainConfig(Section):
    """`aqa train angles`: scores from body-frame angles, by kernels, trees and a small network."""

    action_types: tuple[str, ...] = ()
    """Train on these action types only, e.g. Es1,Es5; empty = all, in one model."""
    rate_hz: Annotated[float, Field(ge=5)] = 25.0
    """Rate to which recordings are brought before angles are taken."""
    repetitions: bool = False
    """Read the repetitions marked in the clips table too; then clips to be scored must have them marked."""
    network_seeds: Annotated[int, Field(ge=0)] = 3
    """Small networks averaged and added to kernels and trees; 0 = none, in a fifth of the time."""
    epochs: Annotated[int, Field(ge=5)] = 40
    """Most passes of a network; cross-validation chooses a multiple of 5."""
    seed: int = 0
    """Of folds, weights and every random draw; recorded with the run."""
    num_workers: Annotated[int, Field(ge=0, le=1)] = 0
    """1 = in a Ray worker, 0 = in this process."""
    poses: str = ""
    """Key of the pose table to read; empty = the only one in the store."""

    @property
    def min_workers(self) -> int:
        """One worker is as few as there can be."""
        return 0

    @property
    def use_gpu(self) -> bool:
        """Never: it is too small to gain by one."""
        return False


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
    pool_people: bool = False
    """Angles only: report in rows of their own what all test recordings of a person say together."""


class ExperimentConfig(Section):
    """`aqa experiment`: the tables of the two-stage paper, row by row over subject splits."""

    splits: Annotated[str, Field(pattern=r"^(|published|folds:\d+|leave_one_out)$")] = ""
    """Published, folds:5 or leave_one_out; empty = the published ten of KIMORE, five folds of infants."""
    max_splits: Annotated[int, Field(ge=0)] = 0
    """Only the first splits; 0 = all."""
    rows: tuple[str, ...] = ()
    """Only these rows, by the names in docs/experiments.md; empty = all."""
    exercises: tuple[str, ...] = ()
    """Only these exercises, e.g. Es1,Es5; empty = all."""
    recognition_only: bool = False
    """Of table2 the recognition of NW-UCLA's actions alone, without KIMORE's scores."""
    pretrain_on: tuple[str, ...] = ("nw_ucla", "utkinect")
    """Folders of DATA with healthy motion, or controls = the healthy training people of each split."""
    quick: bool = False
    """A tiny network on one split: shows in minutes that every row runs."""
    full_size: bool = False
    """The paper's sizes and epochs instead of the reduced ones."""
    change: tuple[str, ...] = ()
    """Further settings of every row, e.g. pretrain.epochs=5,expert.epochs=20."""
    stand_ins: bool = True
    """Run rows whose data are not at hand on drawn athletes, marked as such; false = leave them out."""
    cores: Annotated[int, Field(ge=1)] = 1
    """1 = in this process; more = Ray tasks, one for each row and split, on that many local cores."""
    seed: int = 0
    """Of folds, weights and every random draw."""


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
    min_workers: Annotated[int, Field(ge=0)] = 0
    """When nodes are lost, go on with those workers there is room for, but no fewer than this; 0 = wait until
    there is room for all."""
    use_gpu: bool = False
    """One GPU per worker."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    """Steps between checkpoints."""


class TuneConfig(Section):
    """`aqa tune`: which values of some settings do best on the validation people."""

    trials: Annotated[int, Field(ge=1)] = 20
    """How many to try; a sweep may go on with more."""
    time_budget: Annotated[float, Field(ge=0)] = 0.0
    """Minutes after which trials are stopped where they are; the same command goes on. 0 = none."""
    searcher: Literal["tpe", "random"] = "tpe"
    """tpe = learn from earlier trials what to try (Optuna), after five random ones."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha = stop trials that are worse than the best of the others after as many epochs."""
    metric: Literal["val_loss", "val_mae", "val_spearman", "val_accuracy"] = "val_loss"
    """Of the validation people, at the epoch with the smallest val_loss; decides which trial is best."""
    first_rung: Annotated[int, Field(ge=0)] = 0
    """Epochs after which asha first stops a trial; 0 = such that reduction is applied twice."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """asha lets one in so many go on, and asks again after so many times the epochs."""
    max_concurrent: Annotated[int, Field(ge=0)] = 0
    """Most trials side by side; 0 = as many as the cores and GPUs can hold."""
    in_order: bool = True
    """Decide from trials so far back that they ended before: the same seed gives the same sweep."""
    seed: int = 0
    """Of the proposals; the seed of the training is its own setting."""


class RunConfig(Section):
    """`aqa run`: the verbs as one workflow."""

    models: Literal["both", "two_stage", "hp_mcore"] = "both"
    """What to train: two_stage on clips without transitions_s, hp_mcore on clips with them, or both."""
    dive_sampling: Annotated[str, Field(pattern=r"^(fps:\d+(\.\d+)?|uniform:\d+)$")] = "uniform:96"
    """Frames taken of clips for hp_mcore: uniform:96, or fps:10; all others are sampled as [extract] says."""
    i3d_weights: Path | None = None
    """Weights file of the i3d features that hp_mcore reads."""
    static_weights: Path | None = None
    """Weights file of the static features that hp_mcore reads."""
    random_weights: bool = False
    """Let these networks run without a weights file."""


class TrackingConfig(Section):
    """MLflow."""

    uri: str = ""
    """Tracking URI; empty = MLFLOW_TRACKING_URI, else mlflow.db beside the run."""
    experiment: str = "aqa"
    """Name of the MLflow experiment the run belongs to."""
    parent: Path | None = None
    """Folder of the run whose child this one is in MLflow (a sweep, a workflow, a cross-validation)."""
    registered_model: str = ""
    """Model whose next version an evaluated run becomes; empty = its kind: expert, angles, hp_mcore."""


class Config(Section):
    """The whole tree, as a TOML file holds it."""

    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = PretrainConfig()
    expert: ExpertTrainConfig = ExpertTrainConfig()
    angles: AnglesTrainConfig = AnglesTrainConfig()
    hp_mcore: HpMcoreTrainConfig = HpMcoreTrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    experiment: ExperimentConfig = ExperimentConfig()
    pose_train: PoseTrainConfig = PoseTrainConfig()
    tune: TuneConfig = TuneConfig()
    run: RunConfig = RunConfig()
    tracking: TrackingConfig = TrackingConfig()


def _hp_mcore(name: str, beyond: dict[str, Any]) -> dict[str, Any]:
    """A preset of the model, and what it says beyond."""
    model = {f"model.{field}": value for field, value in dataclasses.asdict(PRESETS[name]).items()}
    return {**model, "optimizer.learning_rate": 5e-4, **beyond}


_LEGACY: dict[str, Any] = {
    "epochs": 201,
    "optimizer.schedule": "legacy_cosine",
    "by_difficulty": False,
    "vary_poses": False,
    "exemplar_transitions": "predicted",
    "dynamic_rate": 1.0,
}
_LINEAR = {"model.head": "linear", "model.pooling": "mean"}
_ANGLES = {"sequence.inputs": "angles", "sequence.rate_hz": 2.5}

# What a preset of a section says: dotted path -> value.
TRAIN_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "hp_mcore": {
        "best": _hp_mcore("best", {"optimizer.schedule": "warmup_cosine", "optimizer.weight_decay": 0.02}),
        "legacy": _hp_mcore("legacy", {**_LEGACY, "predicted_share": 0.0, "transform_poses": False}),
        "paper": _hp_mcore("paper", _LEGACY),
    },
    "pretrain": {
        "paper": {},
        "best": {
            **_ANGLES,
            "epochs": 30,
            "batch_size": 32,
            "model.encoder_kind": "tcn",
            "model.encoder_units": 32,
            "model.decoder_units": 64,
            "model.pace_units": 64,
            "model.discriminator_units": 32,
            "optimizer.learning_rate": 2e-3,
        },
    },
    "expert": {
        "skeleton_only": {},
        "full": {"model.appearance": "modules"},
        "c3d_as_expert": {"model.appearance": "pooled"},
        "only_expert": {"model.appearance": "modules", "encoder_start": "random"},
        "nonexpert_U": {**_LINEAR, "encoder_start": "pretrained"},
        "nonexpert_S": {**_LINEAR, "encoder_start": "random", "model.finetune_encoder": True},
        "nonexpert_US": {**_LINEAR, "encoder_start": "pretrained", "model.finetune_encoder": True},
        "best": {
            **_ANGLES,
            "epochs": 20,
            "batch_size": 32,
            "model.head": "linear",
            "model.pooling": "mean_max",
            "model.actions": "embedding",
            "model.finetune_encoder": True,
            "encoder_kind": "tcn",
            "encoder_units": 32,
            "encoder_rate": 1.0,
            "feature_dropout": 0.3,
            "input_dropout": 0.1,
            "mirror": True,
            "loss": "huber",
            "ranking_weight": 1.0,
            "averaging": 0.5,
            "members": 5,
            "optimizer.learning_rate": 2e-3,
            "optimizer.schedule": "warmup_cosine",
            "optimizer.weight_decay": 0.01,
            "optimizer.clip_norm": 5.0,
        },
    },
}
