"""Sizes and choices of HP-MCoRe; no torch here, so reading a configuration stays quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class HpMcoreConfig:
    """Every switch of the model; the defaults behave as the released code (preset `legacy`)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    num_procedures: int = 3
    """P: most procedures (ordered sub-actions) of a performance, 2 to 6; legacy: take-off, flight, entry."""
    steps_per_procedure: int = 10
    """Steps each procedure is resampled to (legacy 10; TSA and MCoRe 5)."""
    static_network: Literal[
        "rny002_gsm", "rny002", "resnet18_gsm", "resnet18", "resnet34_gsm", "resnet50_gsm"
    ] = "rny002_gsm"
    """Static visual encoder, per frame; _gsm = with gated temporal shift."""
    dynamic_logits: bool = True
    """I3D keeps its 400-class layer, which nothing uses, as in the released code."""
    use_dynamic: bool = True
    """Dynamic stream (I3D); without it the fused stream is made of the static features, or of the poses."""
    use_static: bool = True
    """Static stream in the regression; a segmentation that reads the static features still has them."""
    standardise: bool = False
    """Stored features are brought to mean 0 and deviation 1 by the training set's statistics."""
    use_pose: bool = True
    """Hierarchical skeletal encoder and its part in the fusion; without it no other pose switch counts."""
    pose_stream: bool = False
    """Pose features join the fused stream themselves, not only as a bias of its attention (preset best)."""
    pose_angles: bool = False
    """Joint angles and distances are a stream of the regression of their own (our addition)."""
    pose_stride: int = 1
    """The skeletal encoder sees every n-th frame; its features are interpolated in between."""
    pose_normalise: bool = False
    """Keypoints centred on the pelvis and scaled by the body; legacy feeds pixels."""
    hierarchy: Literal["layers4", "levels3"] = "layers4"
    """Adjacency of the skeletal encoder: four layers as in the code, three levels as in the paper."""
    layer_joints: Literal["legacy", "fixed"] = "legacy"
    """Joints averaged per layer in its attention: legacy is off by one joint."""
    segmentation_input: Literal["static", "dynamic", "all"] = "static"
    """Features that the procedure segmentation reads; all = those of every stream in use, poses too."""
    transitions: Literal["predicted", "fixed"] = "predicted"
    """fixed = equal parts, no segmentation at all (ablation)."""
    decoding: Literal["halves", "ordered"] = "halves"
    """Argmax in fixed halves (legacy, three procedures only), or the jointly best increasing frames."""
    slices: Literal["overlapping", "disjoint"] = "overlapping"
    """Whether neighbouring procedures share frames, as in the released code."""
    decoder_layers: int = 4
    """Cross-attention layers of the regression."""
    combination: Literal["average", "learned", "validated"] = "average"
    """Of the streams: average, (fused + lambda static) / (1 + lambda), or as validation likes best."""
    antisymmetric: bool = False
    """Half the difference of both directions, so that swapping query and exemplar negates every delta."""
    action_numbers: int = 60
    """Classes of the action-number head."""
    score_scale: float = 1.0
    """Points in one unit of the regression heads and of the score loss; 1 = raw scores (legacy)."""
    stream_weight: float = 0.0
    """Of the score loss of each stream alone, beside that of all together."""
    segmentation_weight: float = 1.0
    """Of the transition loss."""
    contrastive_weight: float = 10.0
    """Of the stage-wise contrastive loss of each stream; 0 = without."""
    number_weight: float = 0.0
    """Of the action-number loss (legacy computes it and leaves it out)."""
    splash_weight: float = 0.0
    """Of the auxiliary splash regression; counts only performances whose splash is given."""
    stream_dropout: float = 0.0
    """Share of the resampled features left out before their projections."""
    dropout: float = 0.5
    """In the segmentation."""

    def __post_init__(self) -> None:
        """Raises ValueError for sizes out of range and for switches that contradict each other."""
        if not 2 <= self.num_procedures <= 6:
            raise ValueError(f"num_procedures must be 2 to 6, got {self.num_procedures}")
        if self.steps_per_procedure < 2:
            raise ValueError(f"steps_per_procedure must be at least 2, got {self.steps_per_procedure}")
        if self.pose_stride < 1:
            raise ValueError(f"pose_stride must be at least 1, got {self.pose_stride}")
        if self.score_scale <= 0:
            raise ValueError(f"score_scale must be above 0 points, got {self.score_scale}")
        if not (self.use_dynamic or self.use_static or self.use_pose):
            raise ValueError(
                "use_dynamic, use_static and use_pose are all off: nothing is left to score from"
            )
        if self.transitions == "fixed":
            return
        if self.decoding == "halves" and self.num_procedures != 3:
            raise ValueError(
                f"decoding = halves knows 3 procedures, not {self.num_procedures}; use decoding = ordered"
            )
        if self.segmentation_input == "dynamic" and not self.use_dynamic:
            raise ValueError("segmentation_input = dynamic needs use_dynamic; use static or all")

    @property
    def adds_poses(self) -> bool:
        """Whether pose features join the fused stream themselves."""
        alone = not (self.use_dynamic or self.use_static)
        return self.use_pose and (self.pose_stream or alone)

    @property
    def compares_angles(self) -> bool:
        """Whether joint angles are a stream of the regression."""
        return self.use_pose and self.pose_angles

    @property
    def static_width(self) -> int:
        """D of the static features: the width of the network's last layer before its classifier."""
        return {"rny002": 368, "resnet18": 512, "resnet34": 512, "resnet50": 2048}[
            self.static_network.removesuffix("_gsm")
        ]

    @property
    def reads_static(self) -> bool:
        """Whether static features are needed at all."""
        segments = self.transitions == "predicted" and self.segmentation_input == "static"
        return self.use_static or segments


PRESETS: Mapping[str, HpMcoreConfig] = MappingProxyType(
    {
        "legacy": HpMcoreConfig(),
        "paper": HpMcoreConfig(
            static_network="resnet18",
            dynamic_logits=False,
            hierarchy="levels3",
            layer_joints="fixed",
            segmentation_input="dynamic",
            decoding="ordered",
            slices="disjoint",
            combination="learned",
            splash_weight=1.0,
        ),
        "best": replace(
            HpMcoreConfig(),
            steps_per_procedure=5,
            decoder_layers=2,
            dynamic_logits=False,
            pose_stream=True,
            pose_angles=True,
            pose_stride=2,
            pose_normalise=True,
            layer_joints="fixed",
            segmentation_input="all",
            decoding="ordered",
            slices="disjoint",
            combination="validated",
            stream_weight=1.0,
            antisymmetric=True,
            standardise=True,
            stream_dropout=0.3,
            score_scale=3.0,
            contrastive_weight=1.0,
            number_weight=0.1,
            splash_weight=1.0,
        ),
    }
)
