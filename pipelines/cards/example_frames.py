"""Frames of some clips with the skeleton that was found in them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from aqa_models.skeletons import skeleton
from pipelines.cards.page import picture
from pipelines.errors import ClipError

HEIGHT_PX = 240
LATEST_S = 120.0  # a frame far inside a long video takes long to reach
_FACTS = ["clip_id", "person", "status", "unit"]
_COLUMNS = [*_FACTS, "skeleton", "num_joints", "num_coordinates", "time_s", "keypoints"]
_LINE, _JOINT = (64, 224, 96), (255, 96, 64)


def example_frames(store: Path, key: str, count: int = 4) -> list[str]:
    """Pictures (HTML) of the middle frames of some clips; a clip that cannot be read now is left out.

    Args:
        store: the feature store.
        key: of its pose table.
        count: of clips, at most; spread over the table.
    """
    from pipelines.stages.decode import DecodeGuard
    from pipelines.store import open_store

    opened = open_store(store)
    clips = {row["clip_id"]: row for row in opened.clips.read().select(["clip_id", "uri"]).to_pylist()}
    ids = sorted(row["clip_id"] for row in _shown(opened.poses(key).read(columns=_FACTS)))
    spread = ids[:: max(1, len(ids) // count)][:count]
    found = []
    with DecodeGuard(timeout_s=60.0, memory_mb=3000) as guard:
        for row in _shown(opened.poses(key).read(columns=_COLUMNS, clip_ids=set(spread))):
            middle = len(row["time_s"]) // 2
            if row["time_s"][middle] > LATEST_S or row["clip_id"] not in clips:
                continue
            try:
                frame = _frame(guard, clips[row["clip_id"]]["uri"], row["time_s"][middle])
            except ClipError:  # moved or deleted since it was extracted
                continue
            points = np.asarray(row["keypoints"], np.float32)
            points = points.reshape(-1, row["num_joints"], row["num_coordinates"])[middle]
            data = draw(frame, points, row["skeleton"])
            found.append(picture(data, f"{row['clip_id']}, {row['time_s'][middle]:.2f} s"))
    return found


def draw(frame: np.ndarray, points: np.ndarray, name: str) -> bytes:
    """A JPEG picture of a frame with its skeleton.

    Args:
        frame: (height, width, 3) uint8, RGB.
        points: (J, 2) joints in px of the frame; those that are not finite are left out.
        name: of the skeleton, see aqa_models.skeletons.
    """
    from PIL import Image, ImageDraw

    scale = HEIGHT_PX / frame.shape[0]
    image = Image.fromarray(frame).resize((round(frame.shape[1] * scale), HEIGHT_PX))
    pen = ImageDraw.Draw(image)
    places = [
        tuple(float(v) * scale for v in point) if np.isfinite(point).all() else None for point in points
    ]
    for one, other in skeleton(name).bones:
        if places[one] is not None and places[other] is not None:
            pen.line([places[one], places[other]], fill=_LINE, width=2)
    for place in places:
        if place is not None:
            pen.ellipse([place[0] - 2, place[1] - 2, place[0] + 2, place[1] + 2], fill=_JOINT)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def _shown(rows: Any) -> list[dict[str, Any]]:
    """Rows of athletes whose joints lie in the picture."""
    return [r for r in rows.to_pylist() if r["status"] == "ok" and r["person"] == 0 and r["unit"] == "px"]


def _frame(guard: Any, uri: str, time_s: float) -> np.ndarray:
    """The frame (height, width, 3) at a time stamp."""
    from pipelines.stages.decode import DecodeRequest

    request = DecodeRequest(
        uri=uri,
        start_s=max(0.0, time_s - 1e-3),
        end_s=time_s + 1e-3,
        sampling="uniform:1",
        people=None,
        box=None,
        picture=None,
        frames_per_part=1,
        referee=False,
    )
    return next(part.frames[0] for part in list(guard.decode(request)))
