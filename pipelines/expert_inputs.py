"""Motions as the expert reads them, in training and outside: views of each clip, action types, videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aqa_models.two_stage.appearance import MIN_SEGMENTS, pad_back
from aqa_models.two_stage.config import SequenceConfig
from aqa_models.two_stage.inputs import mirrored, standardised
from aqa_models.two_stage.sequence import Sequence, pad_front
from pipelines.errors import DataError
from pipelines.motion import Motion


@dataclass(frozen=True)
class ExpertInputs:
    """Clips, ready for the encoder.

    Attributes:
        views: one or two lists of (n, F) tensors, a clip as it is and its mirror image.
        actions: (N,) int64 position of each clip's action type among those of the training.
        videos: (S, D) features of each clip; None without an appearance stream.
    """

    views: list[list[Tensor]]
    actions: Tensor
    videos: list[Tensor] | None

    def batch(
        self, rows: list[int], view: int
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """x (B, T, F), valid (B, T), actions (B,), padded videos of some clips."""
        x, valid = pad_front([self.views[view][row] for row in rows])
        return x, valid, self.actions[rows], self.video_batch(rows)

    def video_batch(self, rows: list[int]) -> tuple[Tensor, Tensor] | None:
        """Features (B, S, D) and their mask (B, S); None without an appearance stream."""
        return None if self.videos is None else pad_back([self.videos[row] for row in rows])


def read_inputs(
    motions: list[Motion], sequences: list[Sequence], description: dict[str, Any], device: torch.device
) -> ExpertInputs:
    """Tensors of some clips.

    Args:
        motions: the clips.
        sequences: of `make_sequences`, not standardised.
        description: of the model: sequence, scale, mirror, actions, and model.appearance.
        device: where the tensors shall be.

    Raises:
        DataError: the training had no clip of an action type; a clip has no video features and the model
            needs them, or they are too short for the appearance stream, or of another network.
    """
    config = SequenceConfig(**description["sequence"])
    views = (
        [sequences, [mirrored(item, config) for item in sequences]] if description["mirror"] else [sequences]
    )
    kinds = [motion.action_type for motion in motions]
    if scale := description["scale"]:
        views = [
            [standardised(item, kind, scale) for item, kind in zip(view, kinds, strict=True)]
            for view in views
        ]
    _check_actions(motions, description["actions"])
    return ExpertInputs(
        views=[[torch.from_numpy(item.x).to(device) for item in view] for view in views],
        actions=torch.tensor([description["actions"].index(kind) for kind in kinds], device=device),
        videos=_videos(motions, description, device),
    )


def _check_actions(motions: list[Motion], known: list[str]) -> None:
    for motion in motions:
        if motion.action_type not in known:
            raise DataError(
                f"clip {motion.clip_id}",
                f"has action type {motion.action_type!r}, but training had {known}",
                "give training clips of this action type, or leave it out",
            )


def _videos(motions: list[Motion], description: dict[str, Any], device: torch.device) -> list[Tensor] | None:
    if description["model"]["appearance"] == "none":
        return None
    channels = description["feature_channels"]
    fewest = MIN_SEGMENTS if description["model"]["appearance"] == "modules" else 1
    videos = []
    for motion in motions:
        video = motion.video
        if video is None:
            raise DataError(
                f"clip {motion.clip_id}",
                "has no features of the video, and this expert has an appearance stream",
                f"run `aqa extract --kind {description['feature_kind']}`, and train with --features KEY",
            )
        if video.shape[1] != channels:
            raise DataError(
                f"clip {motion.clip_id}",
                f"has features of {video.shape[1]} channels, the model was trained on {channels}",
                "give features of the same network as in training",
            )
        if len(video) < fewest:
            raise DataError(
                f"clip {motion.clip_id}",
                f"has {len(video)} segments of video features, the appearance stream needs {fewest}",
                "give a longer clip, take it out, or train with --model.appearance pooled",
            )
        videos.append(torch.from_numpy(video).to(device))
    return videos
