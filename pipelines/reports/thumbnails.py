"""Small pictures of a clip: frames of its video with the skeleton, or the drawn skeleton alone."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from aqa_models.skeletons import skeleton
from pipelines.cards.example_frames import LATEST_S, draw
from pipelines.errors import ClipError
from pipelines.store import Store

SHOWN = 3  # moments of a clip, side by side
_HEIGHT, _WIDTH = 240, 150
_COLUMNS = [
    *("clip_id", "person", "status", "unit", "skeleton"),
    *("num_joints", "num_coordinates", "time_s", "keypoints"),
]


def thumbnails(store: Store, key: str, clips: list[dict[str, Any]]) -> dict[str, tuple[bytes, str]]:
    """A strip of moments for each clip.

    Args:
        store: the feature store.
        key: of its pose table.
        clips: rows of CLIPS.

    Returns:
        clip_id -> JPEG or PNG picture, and what it shows; clips without poses are left out.
    """
    from pipelines.stages.decode import DecodeGuard

    rows = store.poses(key).read(columns=_COLUMNS, clip_ids={clip["clip_id"] for clip in clips}).to_pylist()
    poses = {row["clip_id"]: row for row in rows if row["status"] == "ok" and row["person"] == 0}
    found = {}
    with DecodeGuard(timeout_s=60.0, memory_mb=3000) as guard:
        for clip in clips:
            pose = poses.get(clip["clip_id"])
            if pose is None or not pose["time_s"]:
                continue
            made = _filmed(guard, clip, pose) if pose["unit"] == "px" else None
            found[clip["clip_id"]] = made or (_drawn(pose), "the skeleton, without the video")
    return found


def _filmed(guard: Any, clip: dict[str, Any], pose: dict[str, Any]) -> tuple[bytes, str] | None:
    """Frames with skeletons; None if the video is not there any more."""
    from pipelines.stages.decode import DecodeRequest

    points, pictures = _points(pose), []
    for moment in _moments(len(points)):
        time_s = pose["time_s"][moment]
        if time_s > LATEST_S:
            return None
        request = DecodeRequest(
            uri=clip["uri"],
            start_s=max(0.0, time_s - 1e-3),
            end_s=time_s + 1e-3,
            sampling="uniform:1",
            people=None,
            box=None,
            picture=None,
            frames_per_part=1,
            referee=False,
        )
        try:
            frame = next(part.frames[0] for part in list(guard.decode(request)))
        except ClipError:
            return None
        pictures.append(draw(frame, points[moment], pose["skeleton"]))
    return _strip(pictures), "frames of the video with the skeleton that was found"


def _strip(pictures: list[bytes]) -> bytes:
    """JPEG pictures of one height, side by side."""
    from PIL import Image

    parts = [Image.open(io.BytesIO(data)) for data in pictures]
    gap = 6
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    whole = Image.new("RGB", (width, parts[0].height), "white")
    left = 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width + gap
    out = io.BytesIO()
    whole.thumbnail((900, _HEIGHT))
    whole.save(out, "JPEG", quality=80)
    return out.getvalue()


def _drawn(pose: dict[str, Any]) -> bytes:
    """Skeletons on white, all at one scale; of 3-D joints x and y."""
    from PIL import Image, ImageDraw

    points = _points(pose)[:, :, :2].astype(np.float64)
    if pose["unit"] == "m":  # y points up there
        points[..., 1] *= -1
    shown = points[_moments(len(points))]
    image = Image.new("RGB", (_WIDTH * len(shown), _HEIGHT), "white")
    finite = shown[np.isfinite(shown).all(axis=2)]
    if not len(finite):
        return _png(image)
    pen, bones = ImageDraw.Draw(image), skeleton(pose["skeleton"]).bones
    size = max(float(np.ptp(finite[:, 0])), float(np.ptp(finite[:, 1])), 1e-6)
    scale = 0.85 * min(_HEIGHT, _WIDTH) / size
    middle = (finite.max(axis=0) + finite.min(axis=0)) / 2
    for place, joints in enumerate(shown):
        spots = (joints - middle) * scale + (_WIDTH * (place + 0.5), _HEIGHT / 2)
        whole = np.isfinite(spots).all(axis=1)
        for a, b in bones:
            if whole[a] and whole[b]:
                pen.line([tuple(spots[a]), tuple(spots[b])], fill=(0, 114, 178), width=3)
        for spot in spots[whole]:
            pen.ellipse([spot[0] - 3, spot[1] - 3, spot[0] + 3, spot[1] + 3], fill=(213, 94, 0))
    return _png(image)


def _png(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _moments(frames: int) -> list[int]:
    return [int((k + 0.5) / SHOWN * frames) for k in range(SHOWN)]


def _points(pose: dict[str, Any]) -> np.ndarray:
    """(T, J, C) keypoints."""
    shape = -1, pose["num_joints"], pose["num_coordinates"]
    return np.asarray(pose["keypoints"], np.float32).reshape(shape)
