"""What can be extracted: for each kind its table, what its key means, and the stages that make its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.config import ExtractConfig
from pipelines.schema import POSES
from pipelines.stages import decode, pose
from pipelines.stages.base import BLOCK_BYTES
from pipelines.stages.crops import DecodeStage

if TYPE_CHECKING:
    from pipelines.stages.base import Stage


@dataclass(frozen=True)
class Work:
    """One pass over the clips.

    Args:
        family: folder of its tables: poses, people or features/<kind>.
        schema: of the table.
        spec: everything that decides the content of the rows; its hash is the table's key.
        decode: the first stage.
        network: the second stage, without knowing of a GPU yet.
        finish: makes rows of the table from the joined rows of the network.
    """

    family: str
    schema: pa.Schema
    spec: dict
    decode: DecodeStage
    network: Stage
    finish: Callable[[pa.Table], pa.Table]

    def on_gpu(self, use_gpu: bool) -> Stage:
        """The network stage for workers with or without a GPU."""
        return replace(self.network, use_gpu=use_gpu)  # type: ignore[type-var]


def find_work_of(config: ExtractConfig) -> Work:
    """What the settings ask for."""
    return pose_work(config)


def pose_work(config: ExtractConfig) -> Work:
    """Poses of whole frames or of the boxes in the clips table."""
    model = pose.find_pose_model(config.pose_config, config.weights)
    precision = pose.resolve_precision(config.precision)
    spec = {
        "kind": "poses",
        **_decoding(config),
        "network": model.name,
        "weights_sha256": model.weights_sha256,
        "input_size": [model.width, model.height],
        "padding": model.padding,
        "skeleton": model.skeleton,
        "precision": precision,
        "flip_test": config.flip_test,
        "pose_version": pose.VERSION,
    }
    stage = _decode_stage(config, decode.Crop(model.width, model.height, model.padding))
    network = pose.PoseStage(
        model,
        config.frames_per_batch,
        use_gpu=False,
        precision=precision,
        flip_test=config.flip_test,
        compile=config.compile,
    )
    return Work("poses", POSES, spec, stage, network, finish_poses)


def finish_poses(rows: pa.Table) -> pa.Table:
    """Rows of the poses table."""
    return rows.select(POSES.names)


def _decode_stage(config: ExtractConfig, picture: decode.Crop | decode.Resize) -> DecodeStage:
    return DecodeStage(
        sampling=config.sampling,
        picture=picture,
        frames_per_part=max(1, BLOCK_BYTES // (picture.width * picture.height * 3)),
        referee_share=config.referee_share,
        timeout_s=config.decode_timeout_s,
        memory_mb=config.decode_memory_mb,
    )


def _decoding(config: ExtractConfig) -> dict:
    return {
        "decoder": "decord, read in order, with PyAV as referee and fallback",
        "decode_version": decode.VERSION,
        "sampling": config.sampling,
    }
