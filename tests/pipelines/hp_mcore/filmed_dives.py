"""Filmed dives: small noisy pictures in which something bright moves, and settings that learn from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from made_dives import FRAMES, RATE_HZ, SMALL, changed, make_tables, settings

from aqa_models.hp_mcore.config import HpMcoreConfig
from pipelines.config import HpMcoreTrainConfig
from pipelines.schema import FEATURES, empty_row

WIDTH, HEIGHT = 40, 24  # px of a picture; the model sees 24 x 24
VIDEO = (455, 256)  # px of the video

# No I3D, which takes seconds a dive, and no gated shifts.
STATIC: HpMcoreConfig = replace(SMALL, static_network="rny002", standardise=False)
POSES_TOO = replace(STATIC, use_pose=True, pose_stream=True, pose_normalise=True)


def learning(model: HpMcoreConfig = STATIC, **changes: Any) -> HpMcoreTrainConfig:
    """Settings that fine-tune encoders from random weights."""
    return settings(model, **{"encoders": "finetune", "random_weights": True, **changes})


def stored(images: np.ndarray, kind: str = ".jpg") -> list[bytes]:
    """(T, h, w, 3) uint8 RGB -> JPEG pictures of the best quality, or lossless ones (.png)."""
    return [cv2.imencode(kind, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
            for image in images]  # fmt: skip


def frames_row(clip_id: str, pictures: list[bytes]) -> dict[str, Any]:
    """A row of FEATURES of kind frames."""
    return empty_row(
        FEATURES,
        clip_id=clip_id,
        person=0,
        status="ok",
        attempts=1,
        width_px=VIDEO[0],
        height_px=VIDEO[1],
        num_frames=len(pictures),
        frame_index=list(range(len(pictures))),
        time_s=np.arange(len(pictures)) / RATE_HZ,
        jpeg=pictures,
    )


def film_tables(train: int = 2, test: int = 1, poses: bool = False) -> tuple[pa.Table, dict[str, pa.Table]]:
    """CLIPS and the stream frames, with `poses` keypoints too; the dives of `make_tables`."""
    clips, streams = make_tables(train, val=1, test=test, streams=["keypoints"])
    streams["keypoints"] = changed(
        streams["keypoints"], lambda row: {"width_px": VIDEO[0], "height_px": VIDEO[1]}
    )
    rows = [
        frames_row(name, stored(_film(np.random.default_rng([3, k]))))
        for k, name in enumerate(clips["clip_id"].to_pylist())
    ]
    frames = pa.Table.from_pylist(rows, schema=FEATURES)
    return clips, ({"keypoints": streams["keypoints"]} if poses else {}) | {"frames": frames}


def _film(draw: np.random.Generator) -> np.ndarray:
    images = draw.integers(0, 60, size=(FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    x, y = draw.integers(5, WIDTH - 15), draw.integers(5, HEIGHT - 15)
    for t, image in enumerate(images):
        image[y + t // 16 : y + t // 16 + 8, x : x + 8] = draw.integers(150, 255, size=3)
    return images
