"""HP-MCoRe: what is said of one performance alone (`encode`), and of two of them (`compare`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from aqa_models.hp_mcore.angles import NUM_ANGLES, joint_angles
from aqa_models.hp_mcore.config import HpMcoreConfig
from aqa_models.hp_mcore.dynamic import DynamicEncoder
from aqa_models.hp_mcore.fusion import DYNAMIC_WIDTH, POSE_WIDTH, WIDTH, Fusion
from aqa_models.hp_mcore.performance import Performances
from aqa_models.hp_mcore.procedure import (
    WINDOW,
    WINDOW_STRIDE,
    ProcedureSegmentation,
    check_transitions,
    decode_halves,
    decode_ordered,
    equal_parts,
    every_frame,
    frames_of_windows,
    resample,
)
from aqa_models.hp_mcore.regression import Comparison, StageRegression, Steps
from aqa_models.hp_mcore.skeletal import SkeletalEncoder
from aqa_models.hp_mcore.static import StaticEncoder

SPLASH_HIDDEN = 64


@dataclass(frozen=True)
class Encoded:
    """Everything that depends on one performance alone, of B performances; cheap to keep for exemplars.

    Attributes:
        transitions: (B, P - 1) long: those that the procedures were cut at; -1 = slot not used.
        present: (B, P) bool.
        fused: (B, P, S, 256) steps of the fused stream, F_fu.
        static: (B, P, S, 256) steps of the static stream; None without it.
        angles: (B, P, S, A) joint angles; None without that stream.
        logits: (B, T, P - 1) of the transitions; None without segmentation.
        number_logits: (B, classes) of the dive number; None without poses.
        splash: (B,) predicted splash score; None without that loss.
    """

    transitions: Tensor
    present: Tensor
    fused: Tensor
    static: Tensor | None = None
    angles: Tensor | None = None
    logits: Tensor | None = None
    number_logits: Tensor | None = None
    splash: Tensor | None = None

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, rows: Tensor | slice) -> Encoded:
        """Some of the performances in the order of `rows`, which may name one several times."""
        return replace(self, **{name: value[rows] for name, value in self._given().items()})

    def steps(self) -> Steps:
        """What the regression reads, by stream."""
        return {name: value for name, value in self._given().items() if name in ("fused", "static", "angles")}

    def to(self, device: torch.device) -> Encoded:
        """The same on another device."""
        return replace(self, **{name: value.to(device) for name, value in self._given().items()})

    def detach(self) -> Encoded:
        """The same without its gradient."""
        return replace(self, **{name: value.detach() for name, value in self._given().items()})

    @staticmethod
    def concatenate(parts: Sequence[Encoded]) -> Encoded:
        """All performances of `parts`, which one configuration has encoded, one after the other."""
        given = [part._given() for part in parts]
        return Encoded(**{name: torch.cat([one[name] for one in given]) for name in given[0]})

    def _given(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class _Features:
    """Per frame (B, T, D), except for the dynamic ones: per window (B, N, 1024)."""

    dynamic: Tensor | None
    static: Tensor | None
    pose: Tensor | None
    angles: Tensor | None
    number_logits: Tensor | None

    def frames(self) -> int:
        """T; with dynamic features alone, the frames that their windows cover."""
        for per_frame in (self.static, self.pose):
            if per_frame is not None:
                return per_frame.shape[1]
        assert self.dynamic is not None
        return (self.dynamic.shape[1] - 1) * WINDOW_STRIDE + WINDOW


class FeatureScale(nn.Module):
    """Stored features of mean 0 and deviation 1 in every channel, by the statistics of the training set."""

    def __init__(self, width: int):
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def set(self, mean: Tensor, deviation: Tensor) -> None:
        """Takes statistics (D,); a channel that never changes is left at its size."""
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return (features - self.mean) / self.deviation


class HpMcore(nn.Module):
    """Hierarchical pose-guided multi-stage contrastive regression (paper figure 2).

    Args:
        config: every switch.
        encoders: holds the visual encoders and reads `Performances.frames`; otherwise it reads the stored
            features `dynamic` and `static`.
        checkpoint: the visual encoders compute their activations again in the backward pass.
    """

    def __init__(self, config: HpMcoreConfig, encoders: bool, checkpoint: bool = False):
        super().__init__()
        self.config = config
        self.dynamic_encoder = self.static_encoder = self.skeletal_encoder = None
        if encoders and config.use_dynamic:
            self.dynamic_encoder = DynamicEncoder(config.dynamic_logits, checkpoint)
        if encoders and config.reads_static:
            self.static_encoder = StaticEncoder(config.static_network, checkpoint=checkpoint)
        if config.use_pose:
            self.skeletal_encoder = SkeletalEncoder(config)
        self.angle_norm = nn.BatchNorm1d(NUM_ANGLES, affine=False) if config.compares_angles else None
        self.segmentation = None
        if config.transitions == "predicted":
            widths = _segmentation_widths(config)
            self.segmentation = ProcedureSegmentation(widths, config.num_procedures, config.dropout)
        self.fusion = Fusion(config)
        self.regression = StageRegression(config)
        self.splash_head = None
        if config.splash_weight > 0:
            self.splash_head = nn.Sequential(
                nn.Linear(WIDTH, SPLASH_HIDDEN), nn.ReLU(), nn.Linear(SPLASH_HIDDEN, 1)
            )
        self.scales = nn.ModuleDict()
        if config.standardise and not encoders:
            widths = {"dynamic": DYNAMIC_WIDTH, "static": config.static_width}
            used = {"dynamic": config.use_dynamic, "static": config.reads_static}
            self.scales.update({name: FeatureScale(widths[name]) for name, needed in used.items() if needed})
        self._freeze_unused()

    def encode(self, performances: Performances, transitions: Tensor | None = None) -> Encoded:
        """Encodes every performance alone.

        Args:
            performances: a batch; what the configuration reads must be there. Without `present` every slot
                is used, or with `transitions` those that are not -1.
            transitions: (B, P - 1) to cut at, for example the annotated ones in training; None = the model's
                own. Rows whose last value is -1 are cut at the model's own too. With `transitions = fixed`
                in the configuration they are ignored.

        Raises:
            ValueError: features that are needed and not there or have another width; transitions that do
                not rise.
        """
        features = self._features(performances)
        present = self._present(performances, transitions, features)
        logits = self._segment(features)
        cuts = self._cuts(logits, present, transitions, features.frames())
        fused, static, angles = self._steps(features, cuts, present)
        splash = None
        if self.splash_head is not None:
            splash = self.splash_head(fused[:, -1].mean(dim=1)).squeeze(-1)
        return Encoded(cuts, present, fused, static, angles, logits, features.number_logits, splash)

    def compare(self, query: Encoded, exemplar: Encoded) -> Comparison:
        """Score of each query minus score of its exemplar, row by row.

        To compare one query with E exemplars: `compare(query[torch.zeros(E, dtype=torch.long)], exemplars)`.
        """
        present = query.present & exemplar.present
        return self.regression(query.steps(), exemplar.steps(), present)

    def compare_both_ways(self, query: Encoded, exemplar: Encoded) -> tuple[Comparison, Comparison]:
        """Query against exemplar, and exemplar against query, in one pass (training)."""
        if self.config.antisymmetric:
            there = self.compare(query, exemplar)
            return there, there.negated()
        both = self.compare(Encoded.concatenate([query, exemplar]), Encoded.concatenate([exemplar, query]))
        return both[slice(len(query))], both[slice(len(query), None)]

    def _freeze_unused(self) -> None:
        """What no loss reaches asks for no gradient, so that distributed training need not look for it."""
        if self.dynamic_encoder is not None and self.dynamic_encoder.logits is not None:
            self.dynamic_encoder.logits.requires_grad_(False)
        if self.skeletal_encoder is not None and self.config.number_weight == 0:
            self.skeletal_encoder.number.requires_grad_(False)

    def _features(self, performances: Performances) -> _Features:
        config, dynamic, static, pose = self.config, None, None, None
        angles = number_logits = None
        if config.use_dynamic:
            dynamic = self._visual(self.dynamic_encoder, performances, "dynamic", DYNAMIC_WIDTH)
        if config.reads_static:
            static = self._visual(self.static_encoder, performances, "static", config.static_width)
        if self.skeletal_encoder is not None:
            keypoints = _needed(performances, "keypoints")
            pose, number_logits = self.skeletal_encoder(keypoints[:, :: config.pose_stride])
            pose = every_frame(pose, config.pose_stride, keypoints.shape[1])
            if self.angle_norm is not None:
                angles = self.angle_norm(joint_angles(keypoints).transpose(1, 2)).transpose(1, 2)
        if static is not None and pose is not None and static.shape[1] != pose.shape[1]:
            raise ValueError(
                f"static features of {static.shape[1]} frames, but keypoints of {pose.shape[1]}: both must "
                "be of the same frames"
            )
        return _Features(dynamic, static, pose, angles, number_logits)

    def _visual(self, encoder: nn.Module | None, performances: Performances, name: str, width: int) -> Tensor:
        """Features (B, T or N, D) of an encoder, or stored ones."""
        if encoder is not None:
            return encoder(_needed(performances, "frames"))
        stored = _needed(performances, name)
        if stored.ndim != 3 or stored.shape[2] != width:
            raise ValueError(
                f"{name} features must be (B, frames or windows, {width}) for this configuration, got "
                f"{tuple(stored.shape)}: they come from another network"
            )
        return self.scales[name](stored) if name in self.scales else stored

    def _present(self, performances: Performances, transitions: Tensor | None, features: _Features) -> Tensor:
        if performances.present is not None:
            return performances.present
        known = performances.transitions if performances.transitions is not None else transitions
        some = next(x for x in (features.dynamic, features.static, features.pose) if x is not None)
        every = torch.ones(len(some), self.config.num_procedures, dtype=torch.bool, device=some.device)
        if known is not None:
            every[:, 1:-1] = (known[:, :-1] >= 0) | (known[:, -1:] < 0)
        return every

    def _segment(self, features: _Features) -> Tensor | None:
        if self.segmentation is None:
            return None
        wanted = self.config.segmentation_input
        read = []
        if features.dynamic is not None and wanted in ("dynamic", "all"):
            read.append(frames_of_windows(features.dynamic, features.frames()))
        if features.static is not None and wanted in ("static", "all"):
            read.append(features.static)
        if features.pose is not None and wanted == "all":
            read.append(features.pose)
        return self.segmentation(*read)

    @torch.no_grad()
    def _cuts(self, logits: Tensor | None, present: Tensor, given: Tensor | None, frames: int) -> Tensor:
        if logits is None:
            return equal_parts(present, frames)
        own = given is None or bool((given[:, -1] < 0).any())
        if own:
            halves = self.config.decoding == "halves"
            predicted = decode_halves(logits) if halves else decode_ordered(logits, present)
            predicted = predicted.where(present[:, 1:], -1)
            given = predicted if given is None else torch.where(given[:, -1:] < 0, predicted, given)
        assert given is not None
        check_transitions(given, present, frames)
        return given

    def _steps(
        self, features: _Features, cuts: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Resamples what the streams read to steps per procedure, and fuses it: fused, static, angles."""
        config = self.config

        def cut(sequence: Tensor | None, stride: int = 1, window: int = 1) -> Tensor | None:
            if sequence is None:
                return None
            return resample(
                sequence, cuts, present, config.steps_per_procedure, config.slices, stride, window
            )

        fused, static = self.fusion(
            cut(features.dynamic, WINDOW_STRIDE, WINDOW),
            cut(features.static) if config.use_static else None,
            cut(features.pose),
        )
        return fused, static, cut(features.angles)


def _segmentation_widths(config: HpMcoreConfig) -> list[int]:
    """D of what the segmentation reads: dynamic, static and pose features in this order."""
    every = config.segmentation_input == "all"
    reads = [
        (DYNAMIC_WIDTH, config.segmentation_input == "dynamic" or (every and config.use_dynamic)),
        (config.static_width, config.segmentation_input == "static" or (every and config.use_static)),
        (POSE_WIDTH, every and config.use_pose),
    ]
    return [width for width, read in reads if read]


def _needed(performances: Performances, name: str) -> Tensor:
    value = getattr(performances, name)
    if value is None:
        raise ValueError(
            f"the configuration reads Performances.{name}, which this batch does not have; give it, or "
            "switch the stream that needs it off"
        )
    return value
