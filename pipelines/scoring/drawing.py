"""One frame with what was found in it: skeleton, confidence, parts of the score, times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from aqa_models.skeletons import skeleton
from pipelines.scoring.verdict import Part, Verdict
from pipelines.stages.quality import SEEN

# RGB; told apart by people who do not tell red from green (Okabe and Ito 2008).
LEFT, RIGHT, MIDDLE, UNSURE = (230, 159, 0), (86, 180, 233), (240, 240, 240), (120, 120, 120)
GAIN, LOSS = (0, 158, 115), (213, 94, 0)
BOARD, INK, DIM = (24, 24, 28), (245, 245, 245), (150, 150, 155)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
RIBBON_HEIGHT, HEAD_HEIGHT = 62, 34


@dataclass(frozen=True)
class Drawer:
    """Draws frames of one scored video.

    Attributes:
        pose: as `Recording.pose` gives it.
        verdict: the score and its parts.
    """

    pose: dict[str, Any]
    verdict: Verdict

    def draw(self, frame: np.ndarray, time_s: float) -> np.ndarray:
        """A frame with skeleton, below a line with the score and above the ribbon of the parts.

        Args:
            frame: (h, w, 3) uint8 RGB, the whole upright frame, scaled.
            time_s: its time in the file.

        Returns:
            (h + HEAD_HEIGHT + RIBBON_HEIGHT, w, 3) uint8 RGB.
        """
        picture = frame.copy()
        keypoints, confidence = self.at(time_s)
        scale = np.array(frame.shape[1::-1]) / (self.pose["width_px"], self.pose["height_px"])
        draw_skeleton(picture, keypoints * scale, confidence, skeleton(self.pose["skeleton"]))
        width = picture.shape[1]
        return np.concatenate([self._head(width, time_s, confidence), picture, self.ribbon(width, time_s)])

    def at(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (J, 2) px and confidence (J,) at a time, linear between sampled frames."""
        times = self.pose["time_s"]
        after = int(np.clip(np.searchsorted(times, time_s), 1, max(1, len(times) - 1)))
        before, after = after - 1, min(after, len(times) - 1)
        span = times[after] - times[before]
        share = float(np.clip((time_s - times[before]) / span, 0, 1)) if span > 0 else 0.0
        mixed = (
            (1 - share) * self.pose[name][before] + share * self.pose[name][after]
            for name in ("keypoints", "confidence")
        )
        keypoints, confidence = mixed
        return keypoints, confidence

    def _head(self, width: int, time_s: float, confidence: np.ndarray) -> np.ndarray:
        strip = np.full((HEAD_HEIGHT, width, 3), BOARD, np.uint8)
        action = f"  {self.verdict.action_type}" if self.verdict.action_type else ""
        write_text(strip, f"{self.verdict.score:.1f} points{action}", 8, 23, INK, 0.6)
        told = f"{time_s:6.2f} s  confidence {confidence.mean():.2f}"
        room = cv2.getTextSize(told, _FONT, 0.45, 1)[0][0]
        write_text(strip, told, max(8, width - room - 8), 22, DIM, 0.45)
        return strip

    def ribbon(self, width: int, time_s: float) -> np.ndarray:
        """Parts along the time: wider lasts longer, green adds points, orange takes points away."""
        strip = np.full((RIBBON_HEIGHT, width, 3), BOARD, np.uint8)
        parts = self.verdict.parts
        first, last = parts[0].start_s, parts[-1].end_s

        def column(at: float) -> int:
            return 8 + round((width - 16) * (at - first) / max(last - first, 1e-9))

        for part in parts:
            left, right = column(part.start_s), column(part.end_s)
            now = part.start_s <= time_s < part.end_s
            colour = tuple(
                round(tone * (1.0 if now else 0.55)) for tone in (GAIN if part.delta >= 0 else LOSS)
            )
            cv2.rectangle(strip, (left + 1, 8), (right - 1, 30), colour, -1)
            _fit_text(strip, f"{part.delta:+.1f}", left, right, 25, INK)
            _fit_text(strip, _plain(part.name), left, right, 45, INK if now else DIM)
        cursor = column(min(max(time_s, first), last))
        cv2.line(strip, (cursor, 4), (cursor, 34), INK, 2, cv2.LINE_AA)
        write_text(strip, f"{first:.2f} s", 8, 59, DIM, 0.35)
        write_text(strip, f"{last:.2f} s", max(8, width - 56), 59, DIM, 0.35)
        return strip


def draw_skeleton(picture: np.ndarray, joints: np.ndarray, confidence: np.ndarray, body: Any) -> None:
    """Bones in the colour of their side, joints as discs; grey and thin where it is not sure."""
    thick = max(2, round(min(picture.shape[:2]) / 200))
    whole = np.asarray(np.isfinite(joints).all(axis=1))
    for a, b in body.bones:
        if whole[a] and whole[b]:
            sure = min(confidence[a], confidence[b]) >= SEEN
            colour = _side(body.joints[b]) if sure else UNSURE
            ends = (_point(joints[a]), _point(joints[b]))
            cv2.line(picture, *ends, colour, thick if sure else 1, cv2.LINE_AA)
    for joint, name in enumerate(body.joints):
        if whole[joint]:
            sure = confidence[joint] >= SEEN
            colour = _side(name) if sure else UNSURE
            cv2.circle(picture, _point(joints[joint]), thick + 1, colour, -1 if sure else 1, cv2.LINE_AA)


def _side(name: str) -> tuple[int, int, int]:
    return LEFT if name.startswith("left") else RIGHT if name.startswith("right") else MIDDLE


def _point(xy: np.ndarray) -> tuple[int, int]:
    x, y = np.clip(xy, -10_000, 10_000).round().astype(int)
    return int(x), int(y)


def _plain(text: str) -> str:
    """OpenCV's font knows ASCII only."""
    return text.encode("ascii", "replace").decode()


def write_text(
    strip: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int], size: float
) -> None:
    cv2.putText(strip, _plain(text), (x, y), _FONT, size, colour, 1, cv2.LINE_AA)


def _fit_text(
    strip: np.ndarray, text: str, left: int, right: int, y: int, colour: tuple[int, int, int]
) -> None:
    """Text in the middle of a span, shortened until it fits; nothing where not even three signs do.

    A number is never shortened: it would be another number.
    """
    whole = text
    while len(text) > 2 and cv2.getTextSize(text, _FONT, 0.4, 1)[0][0] > right - left - 4:
        text = f"{text.rstrip('.')[:-1]}."
    if text != whole and whole[0] in "+-":
        return
    size = cv2.getTextSize(text, _FONT, 0.4, 1)[0][0]
    if size <= right - left - 4:
        write_text(strip, text, left + (right - left - size) // 2, y, colour, 0.4)


def legend(parts: tuple[Part, ...]) -> str:
    """What a picture with these parts shows, for people who do not see it."""
    told = ", ".join(f"{p.name} {p.start_s:.2f} to {p.end_s:.2f} s {p.delta:+.1f} points" for p in parts)
    return f"The athlete with the skeleton that was found; below, a ribbon of the parts: {told}"
